"""What is a stream of class groups, and how well does a network keep what it learned of the earlier ones?

Shapes: G groups, K classes in the order of the groups, N samples.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment import Augmentation
from trainables.tasks.base import Data, Split, Targets, Task

ACCURACY = "group{}_accuracy"  # of one group, counted from 1, in the last point of each group


@dataclass(frozen=True)
class Stream:
    """Groups of classes that come one after the other; labels are numbered in that order.

    Args:
        groups: how many classes each group has, in the order in which they come.
        memory: training samples of earlier groups that are kept in all; 0 for none.
        pool: feature maps that an earlier model teaches are averaged down to at most so many places a side; None: not.
    """

    groups: tuple[int, ...]
    memory: int = 0
    pool: int | None = None

    def seen(self, group: int) -> int:
        """Classes known after so many groups, 0 to G."""
        return sum(self.groups[:group])

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        """Group of each label, `[N]`, counted from 0."""
        return np.searchsorted(np.cumsum(self.groups), labels, side="right")

    def part(self, split: Split, group: int) -> Split:
        """The samples of one group, counted from 0."""
        rows = self.group_of(split.labels) == group
        return Split(split.images[rows], split.labels[rows])


@dataclass(frozen=True)
class SeenClasses:
    """A task of classes as far as the stream came: outputs of later classes take no part.

    Args:
        task: the whole one.
        stream: its groups.
        groups: how many of them came.
    """

    task: Task
    stream: Stream
    groups: int

    @property
    def targets(self) -> Targets:
        """Always classes."""
        return self.task.targets

    @property
    def metric_name(self) -> str:
        """The metric in a word or two, for people."""
        return self.task.metric_name

    @property
    def augmentation(self) -> Augmentation:
        """Of the whole task."""
        return self.task.augmentation

    def load(self, seed: int) -> Data:
        """The whole data."""
        return self.task.load(seed)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The task's loss over the classes seen, scalar; logits `[batch, K]`, labels `[batch]`."""
        return self.task.loss(logits[:, : self.stream.seen(self.groups)], labels)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Mean over the groups that are present of the task's metric, among all classes seen: each group counts alike.

        Source: Chaudhry 2018, Riemannian Walk for Incremental Learning, section 4 (average accuracy, single head).
        """
        known = logits[:, : self.stream.seen(self.groups)]
        group = torch.from_numpy(self.stream.group_of(labels.cpu().numpy())).to(labels.device)
        present = group.unique().tolist()
        return float(np.mean([self.task.metric(known[group == g], labels[group == g]) for g in present]))


class Earlier(nn.Module):
    """A network as it was before the newest group: the teacher that has no logits for newer classes.

    Args:
        model: answers with logits `[batch, K]`.
        seen: how many of them it has learned.
    """

    def __init__(self, model: nn.Module, seen: int) -> None:
        super().__init__()
        self.model, self.seen = model, seen
        self.taps: tuple[str, ...] = getattr(model, "taps", ())

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, seen]`."""
        return self.model(x)[:, : self.seen]

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `[batch, seen]` and the model's own activations."""
        logits, found = self.model.forward_taps(x, names)  # type: ignore[operator]
        return logits[:, : self.seen], found


def ordered(data: Data, groups: Sequence[Sequence[str]]) -> Data:
    """The data with classes and labels numbered in the order of the groups, which name each class once."""
    classes = tuple(name for group in groups for name in group)
    place = np.array([classes.index(name) for name in data.classes])

    def renamed(split: Split) -> Split:
        return Split(split.images, place[split.labels])

    return dataclasses.replace(
        data, train=renamed(data.train), validation=renamed(data.validation), test=renamed(data.test), classes=classes
    )


def measures(matrix: Sequence[Sequence[float]]) -> dict[str, float]:
    """How well the groups are known after the last row of the accuracy matrix; shares of 1.

    `incremental_accuracy` is the mean over the rows of the mean accuracy on the groups that had come (average
    incremental accuracy); from two rows on `old_accuracy` is the mean accuracy on all groups but the last, and
    `forgetting` how much of their best earlier accuracy has been lost, on average; with one row nothing is forgotten.

    Source: Rebuffi 2017, iCaRL, section 4.1; Chaudhry 2018, Riemannian Walk for Incremental Learning, section 4;
    Lopez-Paz 2017, Gradient Episodic Memory, eqs. 2 and 3 (whose backward transfer compares with the accuracy when the
    group had just been learned; forgetting compares with the best).

    Args:
        matrix: row i holds the accuracies on groups 1 to i after group i, `[G, G]` lower triangle.
    """
    found = {"incremental_accuracy": float(np.mean([np.mean(row) for row in matrix])), "forgetting": 0.0}
    if len(matrix) > 1:
        old = len(matrix) - 1
        best = [max(row[group] for row in matrix[:-1] if len(row) > group) for group in range(old)]
        found["old_accuracy"] = float(np.mean(matrix[-1][:old]))
        found["forgetting"] = float(np.mean(np.subtract(best, matrix[-1][:old])))
    return found


def accuracy_matrix(curve: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Accuracies on groups 1 to i after group i, a row for each group that ended on this curve."""
    rows = []
    for point in curve:
        row = [point[ACCURACY.format(group)] for group in range(1, len(point) + 1) if ACCURACY.format(group) in point]
        if row:
            rows.append(row)
    return rows
