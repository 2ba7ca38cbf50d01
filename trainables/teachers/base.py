"""What is a teacher, and what do all teachers that exist already have in common?"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import KdnasError, first_line
from search_spaces.registry import located
from trainables.files import whole_folder
from trainables.loop import Point
from trainables.model_files import load_student, save_student
from trainables.tasks.base import Data, Targets

Say = Callable[[str], None]


@dataclass(frozen=True)
class Teacher:
    """A trained model that answers for a task.

    Args:
        name: for people.
        model: answers with logits `[batch, classes]`, in evaluation mode.
        digest: hash of its weights; of a teacher that is no network of ours also of its answers.
        val_accuracy: on the validation split, 0 to 1.
        curve: of its training; empty when it was trained elsewhere.
        meta: what `load_student` needs to rebuild it; empty where it cannot be.
    """

    name: str
    model: nn.Module
    digest: str
    val_accuracy: float
    curve: list[Point] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """A teacher that exists already, as its settings read it.

    Args:
        name: for people.
        model: answers normalised images `[batch, C, H, W]` with logits `[batch, width]`, in evaluation mode.
        width: how many logits it answers with.
        classes: their names; empty where they are not known.
        content: what beside its weights decides what it says, for its digest.
        meta: what `load_student` needs to rebuild it; empty where it cannot be.
        targets: what it answers for; None where that is not known.
        target_mean: where targets are values: what its answers are free of; empty where they are in their own units.
        target_std: where targets are values: what its answers were divided by; empty as above.
    """

    name: str
    model: nn.Module
    width: int
    classes: tuple[str, ...] = ()
    content: tuple[Any, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    targets: Targets | None = None
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()


class KnownTeacher(Protocol):
    """Settings of a teacher that exists already: a frozen dataclass whose fields are the options in the YAML."""

    @property
    def classes(self) -> tuple[str | int, ...]:
        """Names of its classes in the order of its logits; empty for those that it knows itself."""

    @property
    def mapping(self) -> Mapping[str | int, str | int]:
        """Class of the teacher to class of the task, where the names differ."""

    def read(self, data: Data) -> Known:
        """The teacher itself.

        Raises:
            KdnasError: it cannot be read, or does not take the task's images.
        """


def width_of(model: nn.Module, data: Data, name: str) -> int:
    """How many logits a teacher answers with; it is asked about black images.

    Raises:
        KdnasError: it does not take the task's images, or answers with something else than `[batch, width]`.
    """
    model.eval()
    # The last batch of a split may hold a single image.
    return [_width(model, (batch, *data.shape), name) for batch in (2, 1)][-1]


def named(settings: KnownTeacher, own: Sequence[str] = ()) -> tuple[str, ...]:
    """The teacher's class names: those that the user gives, else its own."""
    return tuple(map(str, settings.classes or own))


def pixels(images: Tensor, mean: Sequence[float], std: Sequence[float], *, table: bool = False) -> Tensor:
    """The uint8 images `[batch, C, H, W]` that were normalised, exactly: rounding is far finer than a level.

    The numbers of a table come back as float32, but for rounding.
    """
    scale, shift = (images.new_tensor(value).view(1, -1, 1, 1) for value in (std, mean))
    found = 255 * (images * scale + shift)
    return found if table else found.round().clamp(0, 255).to(torch.uint8)


def is_table(data: Data) -> bool:
    """Whether the task's inputs are numbers of a table, not images of bytes."""
    return data.train.images.dtype != np.uint8


def check_images(data: Data, name: str) -> None:
    """Refuses a table for a teacher that knows images alone.

    Raises:
        KdnasError: names the teachers that read tables.
    """
    if is_table(data):
        raise KdnasError(
            "it answers for images, and the task's inputs are the numbers of a table",
            field="teachers.name",
            value=name,
            remedy="choose trained, folder, module, onnx or callable",
        )


def as_logits(answer: Any, batch: int, field: str, value: str) -> np.ndarray:
    """The answer of foreign code as float32 `[batch, width]`.

    Raises:
        KdnasError: it is something else.
    """
    try:
        found = np.asarray(answer.detach().cpu() if isinstance(answer, Tensor) else answer, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise _no_logits(f"a {type(answer).__name__} ({first_line(error)})", batch, field, value) from error
    if found.ndim != 2 or len(found) != batch:
        raise _no_logits(f"shape {found.shape}", batch, field, value)
    return found


def imported(path: str, field: str, remedy: str) -> Any:
    """What the import path `package.module:name` names; modules of the working folder are found too.

    Raises:
        KdnasError: it cannot be imported.
    """
    try:
        return located(path)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise not_importable(error, path, field, remedy) from error


def not_importable(error: BaseException, path: str, field: str, remedy: str) -> KdnasError:
    """The refusal of an import path."""
    problem = f"cannot be imported and called ({type(error).__name__}: {first_line(error)})"
    return KdnasError(problem, field=field, value=path, remedy=remedy)


def file_digest(path: Path, field: str, remedy: str) -> str:
    """SHA-256 of a file's content, hexadecimal.

    Raises:
        KdnasError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KdnasError(
            f"cannot be read ({first_line(error)})", field=field, value=str(path), remedy=remedy
        ) from error


def weights_digest(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that name the weights."""
    seen = hashlib.sha256()
    for name, value in model.state_dict().items():
        seen.update(name.encode())
        # As bytes: numpy has no bfloat16.
        seen.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()[:16]


def save_teacher(folder: Path, teacher: Teacher) -> None:
    """Write a teacher of one of our spaces to `folder`; `FolderTeacher(folder)` reads it."""
    facts = {
        "name": teacher.name,
        "digest": teacher.digest,
        "val_accuracy": teacher.val_accuracy,
        "curve": teacher.curve,
    }
    with whole_folder(folder) as draft:
        save_student(draft, teacher.model, teacher.meta)
        (draft / "teacher.json").write_text(json.dumps(facts) + "\n")


def read_teacher(folder: Path) -> Teacher:
    """Teacher that `save_teacher` wrote.

    Raises:
        KdnasError: the files are missing or altered.
    """
    model, meta = load_student(folder)
    try:
        facts = json.loads((folder / "teacher.json").read_text())
        if facts["digest"] != weights_digest(model):
            raise ValueError("its weights were altered")
        return Teacher(facts["name"], model, facts["digest"], facts["val_accuracy"], facts["curve"], meta)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KdnasError(
            f"no usable teacher here ({first_line(error)})",
            field="path",
            value=str(folder),
            remedy="delete the folder: the teacher is trained again",
        ) from error


def _width(model: nn.Module, shape: tuple[int, ...], name: str) -> int:
    try:
        with torch.no_grad():
            answer = model(torch.zeros(shape))
    except KdnasError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise KdnasError(
            f"the teacher does not take inputs of shape {shape} ({first_line(error)})",
            field="teachers",
            value=name,
            remedy="use a teacher for this task's images, or set task.size",
        ) from error
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != shape[0]:
        found = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise KdnasError(
            f"the teacher answers inputs of shape {shape} with {found}, not with logits [batch, classes]",
            field="teachers",
            value=name,
            remedy="use a teacher that returns logits, a row an image",
        )
    return answer.shape[1]


def _no_logits(found: str, batch: int, field: str, value: str) -> KdnasError:
    return KdnasError(
        f"it answers {batch} images with {found}, not with logits [{batch}, classes]",
        field=field,
        value=value,
        remedy="answer with a row of numbers for each image",
    )
