"""What is a distillation loss, and what does it see?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.tasks.base import Targets


@dataclass(frozen=True)
class Answer:
    """What one model said about a batch.

    Args:
        logits: `[batch, classes]`.
        feature: the one that a term asked for, `[batch, …]`.
        features: all maps, from input to output, for losses that read several.
        samples: position of each sample in the training data, `[batch]`, for losses that remember.
    """

    logits: Tensor
    feature: Tensor
    features: tuple[Tensor, ...] = ()
    samples: Tensor | None = None


@dataclass(frozen=True)
class Setting:
    """What a loss with weights of its own is made for.

    Args:
        student: shapes of the student's features without the batch, as many as the loss reads.
        teacher: of the teacher's.
        samples: size of the training data.
        classes: number of classes.
    """

    student: tuple[tuple[int, ...], ...]
    teacher: tuple[tuple[int, ...], ...]
    samples: int
    classes: int


@dataclass(frozen=True)
class Loss:
    """A registered loss: `function(student, teacher, labels, temperature) -> scalar` and what it needs.

    Args:
        function: the loss, or the module class that makes it from a `Setting`; its docstring describes the entry.
        feature: it reads one tap of both models.
        several: it reads all maps of both models (then `feature` is false).
        learned: it is a module class: its weights are trained beside the student's and dropped afterwards.
        by_sample: a mean over samples that do not meet: each may have a weight and a temperature of its own.
        projected: a projector maps the student's feature to the teacher's shape first.
        at: the only tap that it reads; None where a term names one.
        maps: it reads maps `[batch, C, h, w]` only.
        weight: usual weight beside KD, as published or as toolboxes ship it; a recipe's weight multiplies it.
        targets: kinds of targets that it is for; empty for its natural ones: classes alone where it reads logits
            (softmax), all where it reads features.
    """

    function: Callable[..., Any]
    feature: bool = False
    several: bool = False
    learned: bool = False
    by_sample: bool = False
    projected: bool = False
    maps: bool = False
    at: str | None = None
    weight: float = 1.0
    targets: tuple[Targets, ...] = ()

    def suits(self, targets: Targets) -> bool:
        """Whether it is for tasks with such targets."""
        return targets in self.targets if self.targets else targets == "classes" or self.reads != "logits"

    @property
    def reads(self) -> str:
        """What of the models it reads: logits, a feature, or all maps."""
        return "all maps" if self.several else "a feature" if self.feature else "logits"

    def __post_init__(self) -> None:
        # `kdnas list losses` describes an entry by its docstring: the function's, not this class's.
        object.__setattr__(self, "__doc__", self.function.__doc__)


def check_shapes(student: Tensor, teacher: Tensor) -> None:
    """Both must have one shape: PyTorch would stretch `[batch, 1]` to `[batch, classes]` without a word.

    Raises:
        ValueError: they have not.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")


def same_resolution(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps averaged down to the smaller height and width of the two.

    Raises:
        ValueError: one is no map `[batch, C, h, w]`.
    """
    if student.dim() != 4 or teacher.dim() != 4:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must be maps [N, C, h, w]")
    size = tuple(map(min, student.shape[2:], teacher.shape[2:]))
    return _shrink(student, size), _shrink(teacher, size)


class Projector(nn.Module):
    """Maps a student feature to a teacher feature's channels, and both to the smaller resolution.

    Args:
        student: shape of the student's feature without the batch, `(c, h, w)` or `(c,)`.
        teacher: shape of the teacher's, with as many dimensions.
    """

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        super().__init__()
        self.size = tuple(map(min, student[1:], teacher[1:]))
        self.linear = nn.Conv2d(student[0], teacher[0], 1) if self.size else nn.Linear(student[0], teacher[0])

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Projected student feature and teacher feature, of one shape."""
        if self.size:
            student, teacher = same_resolution(student, teacher)
        return self.linear(student), teacher


def _shrink(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if x.shape[2:] == torch.Size(size) else F.adaptive_avg_pool2d(x, (size[0], size[1]))
