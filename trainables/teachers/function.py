"""A Python function as the teacher: a service, another framework, a rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces import KdnasError, first_line
from trainables.opaque import Opaque
from trainables.tasks.base import Data
from trainables.teachers.base import Known, as_logits, imported, is_table, named, pixels, width_of

FIELD = "teachers.function"
REMEDY = "name a function of the images as package.module:function, importable from here"


@dataclass(frozen=True)
class CallableTeacher:
    """A Python function that answers images with logits, named by import path; this runs the user's code.

    Args:
        function: `package.module:function`; called with uint8 images, a numpy array `[batch, C, H, W]` (of a table
            `[batch, columns, 1, 1]` float32), returns logits `[batch, classes]`.
        classes: names of its classes in the order of its logits; empty where they are the task's, in its order.
        mapping: class of the teacher to class of the task, where the names differ.
    """

    function: str
    classes: tuple[str | int, ...] = ()
    mapping: Mapping[str | int, str | int] = field(default_factory=dict)

    def read(self, data: Data) -> Known:
        """The function, asked as a module.

        Raises:
            KdnasError: it cannot be imported, or does not answer the task's images with logits.
        """
        function = imported(self.function, FIELD, REMEDY)
        if not callable(function):
            raise KdnasError(
                f"it is a {type(function).__name__}, not a function", field=FIELD, value=self.function, remedy=REMEDY
            )
        model = Function(function, self.function, data.mean, data.std, table=is_table(data))
        return Known(self.function, model, width_of(model, data, "callable"), named(self), (self.function,))


class Function(Opaque):
    """A function of uint8 images as a module of normalised ones."""

    def __init__(
        self,
        function: Callable[[np.ndarray], Any],
        path: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        table: bool = False,
    ) -> None:
        super().__init__()
        self._table = table
        self._function, self._path, self._mean, self._std = function, path, mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` for normalised images `[batch, C, H, W]`.

        Raises:
            KdnasError: the function raises, or answers with something else.
        """
        images = pixels(x, self._mean, self._std, table=self._table).cpu().numpy()
        try:
            answer = self._function(images)
        except (Exception, SystemExit) as error:  # a user's code may raise anything
            raise KdnasError(
                f"it raises {type(error).__name__} for images of shape {images.shape} ({first_line(error)})",
                field=FIELD,
                value=self._path,
                remedy=f"it gets {images.dtype} images, a numpy array [batch, C, H, W]; `--debug` shows where",
            ) from error
        return torch.from_numpy(as_logits(answer, len(images), FIELD, self._path)).to(x.device)
