"""What is a distillation loss, and what does it see?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Answer:
    """What one model said about a batch: logits `[batch, classes]` and the feature a term asked for."""

    logits: Tensor
    feature: Tensor


@dataclass(frozen=True)
class Loss:
    """A registered loss: `function(student, teacher, labels, temperature) -> scalar` and what it needs.

    Args:
        function: the loss; its docstring is the entry's description.
        feature: it reads one tap of both models.
        projected: a projector maps the student's feature to the teacher's shape first.
        maps: it reads maps `[batch, C, h, w]` only.
        weight: usual weight beside KD, as published or as toolboxes ship it; a recipe's weight multiplies it.
    """

    function: Callable[[Answer, Answer, Tensor, float], Tensor]
    feature: bool = False
    projected: bool = False
    maps: bool = False
    weight: float = 1.0

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
