"""A teacher that `kdnas teacher train` wrote."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search_spaces import KdnasError
from trainables.model_files import load_student
from trainables.tasks.base import Data
from trainables.teachers.base import Known, named, width_of


@dataclass(frozen=True)
class FolderTeacher:
    """A teacher saved by `kdnas teacher train`: a folder with model.json and weights.safetensors.

    Args:
        path: the folder.
        classes: names of its classes in the order of its logits, where they differ from those in model.json.
        mapping: class of the teacher to class of the task, where the names differ.
    """

    path: Path
    classes: tuple[str | int, ...] = ()
    mapping: Mapping[str | int, str | int] = field(default_factory=dict)

    def read(self, data: Data) -> Known:
        """The network in the folder.

        Raises:
            KdnasError: the files are missing or altered, or it was trained on images of another shape.
        """
        model, meta = load_student(Path(self.path))
        if tuple(meta["shape"]) != data.shape:
            raise KdnasError(
                f"the teacher was trained on inputs {tuple(meta['shape'])}, the task's are {data.shape}",
                field="teachers.path",
                value=str(self.path),
                remedy="train a teacher on this task: `kdnas teacher train`",
            )
        name = str(self.path)
        return Known(
            name,
            model,
            width_of(model, data, "folder"),
            named(self, meta["classes"]),
            meta=meta,
            targets=meta.get("targets", "classes"),
            target_mean=tuple(meta.get("target_mean", ())),
            target_std=tuple(meta.get("target_std", ())),
        )
