"""How does a candidate learn classes that come in groups, taught by its own earlier self?

Every group is one ordinary training (`trainables.loop`) on the group's samples and the memory; from the second on its
teacher is the candidate's own network as it was before the group, frozen, asked once about exactly these samples.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from search_spaces.growth import put_back, set_aside
from trainables import bank as banks
from trainables.bank import Bank
from trainables.candidate import Candidate
from trainables.distill import Distill, InTraining, Shared, fresh_network
from trainables.loop import Normalise, Point, evaluate, start, train
from trainables.losses import LOSSES
from trainables.model_files import restore_training
from trainables.recipe import Recipe
from trainables.rehearsal import EXEMPLARS, align_weights
from trainables.stream import ACCURACY, Earlier, SeenClasses, accuracy_matrix, measures
from trainables.tasks.base import Split

FEATURES = "penultimate"  # the tap by which exemplars are chosen


class Course:
    """A candidate on its way through the groups of a stream; it can be saved and go on between two groups.

    The classifier has all outputs from the start, so that the size is known before training; those of classes that did
    not come yet take no part in loss, metric or distillation.

    Source: Li and Hoiem 2016, Learning without Forgetting, eqs. 1 and 3 (the earlier network's softened answers, over
    the earlier classes alone); Rebuffi 2017, iCaRL (memory); Zhao 2020 (weight alignment).

    Args:
        shared: what every trial reads; its bank holds the images and labels of all groups and no teacher.
        candidate: architecture, recipe and seed. Its recipe is followed from the second group on; the first is
            learned from the labels alone.
        total_epochs: of all groups together, shared equally.
    """

    def __init__(self, shared: Shared, candidate: Candidate, total_epochs: int) -> None:
        assert shared.stream is not None
        self.shared, self.candidate, self.stream = shared, candidate, shared.stream
        self.epochs = total_epochs // len(self.stream.groups)
        self.normalise = Normalise(shared.mean, shared.std)
        self.curve: list[Point] = []
        self.train_s = 0.0
        self.exemplars: list[np.ndarray] = []  # of each class, positions in the training data, best first
        self._begin()

    @property
    def epoch(self) -> int:
        """Epochs trained so far, over all groups."""
        return len(self.curve)

    @property
    def groups(self) -> int:
        """Groups learned so far."""
        return self.epoch // self.epochs

    def learn_group(self) -> None:
        """Learn the next group: train, align, choose what is remembered, score.

        Raises:
            DivergedError: the loss of an epoch is not finite.
        """
        begin, group, earlier = time.perf_counter(), self.groups, self.stream.seen(self.groups)
        shared, seen = self.shared, self.stream.seen(group + 1)
        recipe = self.candidate.recipe if group else self.candidate.recipe.without_teacher()
        bank = self._knowledge(self._samples(group), recipe, earlier, self.candidate.seed + group)
        self._grow(group)
        task, validation = SeenClasses(shared.task, self.stream, group + 1), self._validation(group)
        seed = self.candidate.seed + group
        training = start(self.model, recipe, bank, seed=seed, total_epochs=self.epochs, bfloat16=shared.bfloat16)
        points = train(training, bank, validation, task, self.normalise, self.epochs)
        if group and recipe.weight_alignment:
            align_weights(self.model.classifier, earlier, seen)  # type: ignore[arg-type]
        self._remember(group)
        self.curve += [{**point, "epoch": point["epoch"] + group * self.epochs} for point in points]
        row = self.accuracies(shared.validation)
        loss, accuracy = evaluate(self.model, validation, task, self.normalise)
        matrix = [*accuracy_matrix(self.curve), row]
        self.curve[-1] |= {"val_loss": loss, "val_accuracy": accuracy, **measures(matrix)}
        self.curve[-1] |= {ACCURACY.format(number): value for number, value in enumerate(row, start=1)}
        self.train_s += time.perf_counter() - begin

    def accuracies(self, split: Split) -> list[float]:
        """Metric on each group that came, among all classes that came."""
        task = SeenClasses(self.shared.task, self.stream, self.groups)
        parts = [self.stream.part(split, group) for group in range(self.groups)]
        return [evaluate(self.model, part, task, self.normalise)[1] for part in parts]

    def state(self) -> dict[str, Any]:
        """Everything needed to go on after the last group, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "curve": self.curve,
            "train_s": self.train_s,
            "exemplars": [torch.from_numpy(rows) for rows in self.exemplars],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `state()`."""
        self.curve, self.train_s = list(state["curve"]), state["train_s"]
        self.exemplars = [rows.numpy() for rows in state["exemplars"]]
        self._begin()
        for group in range(self.groups):
            self._grow(group)
        self.model.load_state_dict(state["model"])

    def _begin(self) -> None:
        self.model = fresh_network(self.shared, self.candidate, self.candidate.seed)
        self._later = set_aside(self.model) if self.candidate.recipe.grow else []

    def _grow(self, group: int) -> None:
        """Blocks that come with this group: spread evenly over all groups but the first, early rather than late."""
        later = len(self.stream.groups) - 1
        begin, end = (math.ceil(len(self._later) * max(number, 0) / later) for number in (group - 1, group))
        put_back(self._later[begin:end])

    def _samples(self, group: int) -> Split:
        """The group's training samples and the memory."""
        bank = self.shared.bank
        new = np.flatnonzero(self.stream.group_of(bank.labels) == group)
        rows = np.concatenate([new, *self.exemplars])
        return Split(bank.images[rows], bank.labels[rows])

    def _validation(self, group: int) -> Split:
        split = self.shared.validation
        rows = self.stream.group_of(split.labels) <= group
        return Split(split.images[rows], split.labels[rows])

    def _knowledge(self, samples: Split, recipe: Recipe, earlier: int, seed: int) -> Bank:
        """What the network as it is says of the samples, where the recipe asks for it."""
        shared = self.shared.bank
        views = {"augmentation": shared.augmentation, "views": min(shared.views, self.epochs), "seed": seed}
        if not recipe.terms:
            return banks.without_teacher(samples, **views)  # type: ignore[arg-type]
        teacher = Earlier(self._frozen(), earlier)
        taps = read_taps(recipe, teacher.taps)
        return banks.build(samples, [teacher], self.normalise, taps=taps, pool=self.stream.pool, **views)  # type: ignore[arg-type]

    def _remember(self, group: int) -> None:
        """The memory shared among all classes that came: earlier choices shortened, newer classes added."""
        bank, stream = self.shared.bank, self.stream
        each = stream.memory // stream.seen(group + 1)
        self.exemplars = [rows[:each] for rows in self.exemplars]
        if not each or group + 1 == len(stream.groups):
            return
        model, choose = self._frozen(), EXEMPLARS[self.candidate.recipe.exemplars]
        for label in range(stream.seen(group), stream.seen(group + 1)):
            rows = np.flatnonzero(bank.labels == label)
            samples = Split(bank.images[rows], bank.labels[rows])
            plain = banks.build(
                samples, [model], self.normalise, augmentation=bank.augmentation, views=1, seed=0, taps=(FEATURES,)
            )
            features = plain.taps[FEATURES]
            assert isinstance(features, np.ndarray)
            self.exemplars.append(rows[choose(features[0], each, self.candidate.seed + label)])

    def _frozen(self) -> nn.Module:
        return copy.deepcopy(self.model).cpu().eval()


class StreamTrial(Distill):
    """Trains a candidate group after group as a Ray Tune trial; a rung is the end of a group.

    The checkpoint is written after every group, so that an interrupted candidate goes on with the next one.
    """

    def _open(self, folder: Path | None = None) -> InTraining:
        course = Course(self.shared, self.candidate, self.shared.rungs[-1])
        restore_training(self._checkpoint(folder), course)
        return course

    def _train(self, until: int) -> Sequence[Point]:
        course = self.training
        assert isinstance(course, Course)
        while course.epoch < until:
            course.learn_group()
            if course.epoch < until:  # `step` keeps the last one
                self._keep()
                self._save_if_over()
        return course.curve


def learn_all(shared: Shared, candidate: Candidate, total_epochs: int, test: Split) -> tuple[Course, dict[str, Any]]:
    """The candidate after all groups, and its measures on the test split.

    These: `test_accuracy` (mean over the groups), `test_matrix` and those of `measures` with `test_` before them.

    Raises:
        DivergedError: the loss of an epoch is not finite.
    """
    course, matrix = Course(shared, candidate, total_epochs), []
    for _ in course.stream.groups:
        course.learn_group()
        matrix.append(course.accuracies(test))
    found = {f"test_{name}": value for name, value in measures(matrix).items()}
    return course, {"test_accuracy": float(np.mean(matrix[-1])), **found, "test_matrix": matrix}


def read_taps(recipe: Recipe, taps: Sequence[str]) -> tuple[str, ...]:
    """Taps of the teacher that the recipe's terms may read, from input to output."""
    features = [term for term in recipe.terms if LOSSES[term.loss].feature or LOSSES[term.loss].several]
    if any(LOSSES[term.loss].several or term.match != "name" for term in features):
        return tuple(tap for tap in taps if tap != "logits")
    return tuple(tap for tap in taps if any(term.tap == tap for term in features))
