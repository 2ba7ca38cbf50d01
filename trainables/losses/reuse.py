"""How does a student take over its teacher's classifier?"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from search_spaces import KdnasError
from trainables.losses.base import Answer, Setting, check_shapes

Classifier = tuple[Tensor, Tensor]  # weight [classes, features], bias [classes]


class ReusedClassifier(nn.Module):
    """Squared error of the last feature, mapped to the teacher's, whose classifier becomes the student's; scalar.

    `mean((P s + p - t)^2)`; while it is trained the student answers with `W (P s + p) + b`, W and b the teacher's and
    fixed. As P is linear the two maps are one: afterwards the student's classifier is `W P`, `W p + b`, of its own size
    (the paper's projector has three convolutions and stays in the student).

    Source: Chen 2022, Knowledge Distillation with the Reused Teacher Classifier, eq. 2 (labels not used: alpha 1).
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._map: list[nn.Module] = []  # in a list: its parameters belong to the student, not to the loss

    def take_over(self, model: nn.Module, teacher: Classifier | None) -> None:
        """Let `model` answer through the teacher's classifier; `settle` makes it an ordinary network again.

        Args:
            model: the student; its `classifier` reads the tap `penultimate`.
            teacher: the teacher's classifier, None where it is not known.

        Raises:
            KdnasError: student or teacher has no such classifier.
        """
        head = getattr(model, "classifier", None)
        for whose, found in (("student", isinstance(head, nn.Linear)), ("teacher", teacher is not None)):
            if not found:
                raise KdnasError(
                    f"the {whose} has no linear classifier over its penultimate features",
                    field="recipe.terms.loss",
                    value="reused_classifier",
                    remedy="use networks of our spaces for student and teacher, or another loss",
                )
        assert isinstance(head, nn.Linear)
        assert teacher is not None
        weight, bias = (part.to(head.weight) for part in teacher)
        with torch.no_grad():
            parametrize.register_parametrization(head, "weight", _Through(weight, None), unsafe=True)
            parametrize.register_parametrization(head, "bias", _Through(weight, bias), unsafe=True)
        self._map = [head]

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: features `[batch, c]` of the student's and `[batch, C]` of the teacher's tap `penultimate`."""
        maps: Any = self._map[0].parametrizations
        mapped = F.linear(student.feature, maps.weight.original, maps.bias.original)
        check_shapes(mapped, teacher.feature)
        return F.mse_loss(mapped, teacher.feature.detach())


def settle(model: nn.Module) -> None:
    """Make a student that uses a teacher's classifier an ordinary network with the same answers."""
    head = getattr(model, "classifier", None)
    if head is not None and parametrize.is_parametrized(head):
        for name in ("weight", "bias"):
            parametrize.remove_parametrizations(head, name, leave_parametrized=True)


class _Through(nn.Module):
    """A classifier's weight `W P` or bias `W p + b`, as a function of P or p."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros(()) if bias is None else bias)

    def forward(self, inner: Tensor) -> Tensor:
        """The classifier's, from the inner map's."""
        return self.weight @ inner + self.bias

    def right_inverse(self, outer: Tensor) -> Tensor:
        """The shortest inner map that gives this classifier."""
        return torch.linalg.pinv(self.weight) @ (outer - self.bias)
