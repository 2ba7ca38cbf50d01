"""A file of stored answers as the teacher, whatever gave them.

A sample is known by its content (`sample_ids`): the position in a split changes with the seed, and a position in the
source would bind the answers to one way of storing the data. Equal images have one id, and one answer.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from torch import Tensor

from search_spaces import KdnasError, first_line
from trainables.opaque import Opaque
from trainables.parquet import read_columns
from trainables.tasks.base import Data, Targets
from trainables.teachers.base import Known, check_images, file_digest, named, pixels

FIELD = "teachers.path"
KINDS = ("logits", "probabilities")
LEAST = 1e-7  # probability that stands for 0: its logarithm is finite
REMEDY = "it needs a column `sample` (ids as `kdnas teacher samples` writes them) and a column `logits` or " \
         "`probabilities` (lists of numbers)"  # fmt: skip


@dataclass(frozen=True)
class PredictionsTeacher:
    """A Parquet file of stored logits or probabilities: columns `sample`, and `logits` or `probabilities`.

    `sample` is the id of an image, as `kdnas teacher samples` and `sample_ids` give it; answers are needed for the
    training, the validation and the test split. A stored answer is never transformed, so there are no augmented views:
    it needs `bank.views: 1`.

    Args:
        path: the file; `probabilities` where targets are classes alone.
        classes: names of the classes in the order of the numbers; empty where they are the task's, in its order.
        mapping: class of the teacher to class of the task, where the names differ.
    """

    path: Path
    classes: tuple[str | int, ...] = ()
    mapping: Mapping[str | int, str | int] = field(default_factory=dict)

    answers_views: ClassVar[bool] = False

    def read(self, data: Data) -> Known:
        """The answers, looked up by a module.

        Raises:
            KdnasError: the file cannot be read, or lacks samples of the task.
        """
        check_images(data, "predictions")
        path = Path(self.path)
        content = file_digest(path, FIELD, REMEDY)
        ids, logits, kind = _read(path)
        model = Predictions(ids, logits, data.mean, data.std)
        _check_complete(model, path, data)
        # Probabilities were read as those of classes: they sum to 1.
        targets: Targets | None = "classes" if kind == "probabilities" else None
        return Known(str(path), model, model.width, named(self), (content,), targets=targets)


class Predictions(Opaque):
    """Stored answers as a module of normalised images.

    Args:
        ids: of the samples, `[N]` uint64, ascending.
        logits: their answers, `[N, classes]` float32.
        mean: of the training images, one a channel.
        std: their deviation.
    """

    def __init__(self, ids: np.ndarray, logits: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self._ids, self._logits, self._mean, self._std = ids, logits, mean, std
        self.width: int = logits.shape[1]

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have no answer."""
        known = self._place(ids)[1]
        return [name for name, there in zip(ids, known, strict=True) if not there]

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` for normalised images `[batch, C, H, W]`.

        Raises:
            KdnasError: there is no answer for one of them.
        """
        ids = sample_ids(pixels(x, self._mean, self._std).cpu().numpy())
        place, known = self._place(ids)
        if not known.all():
            raise KdnasError(
                f"there is no stored answer for sample {ids[int(np.argmin(known))]}",
                field="teachers",
                value="predictions",
                remedy="stored answers know the task's images only, no augmented views: bank.views=1",
            )
        return torch.from_numpy(self._logits[place]).to(x.device)

    def _place(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        wanted = np.array([int(name, 16) for name in ids], dtype=np.uint64)
        place = np.searchsorted(self._ids, wanted).clip(max=len(self._ids) - 1)
        return place, self._ids[place] == wanted


def sample_ids(images: np.ndarray) -> list[str]:
    """Id of each image: the first 16 hexadecimal digits of the SHA-256 of its bytes.

    Args:
        images: `[N, C, H, W]` uint8, as a task's splits hold them.
    """
    return [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:16] for image in images]


def write_predictions(path: Path | str, ids: Iterable[str], logits: Any) -> None:
    """Write stored answers for the teacher `predictions`.

    Args:
        path: the Parquet file.
        ids: of the samples, N.
        logits: `[N, classes]`.
    """
    rows = [row.tolist() for row in np.asarray(logits, dtype=np.float32)]
    columns = {"sample": list(ids), "logits": pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Ids `[N]` uint64, ascending, logits `[N, classes]` float32, and which of `KINDS` the file holds."""
    try:
        with path.open("rb") as file:
            known = pyarrow.parquet.read_schema(file).names
            kinds = [kind for kind in KINDS if kind in known]
            if "sample" not in known or len(kinds) != 1:
                raise ValueError(f"its columns are {', '.join(known)}")
            table = read_columns(file, ["sample", kinds[0]], copies=2)
        ids = np.array([int(name, 16) for name in table["sample"].to_pylist()], dtype=np.uint64)
        answers = _matrix(table[kinds[0]])
        logits = answers if kinds[0] == "logits" else _logarithms(answers)
    except (OSError, ValueError, TypeError, OverflowError, pyarrow.ArrowException) as error:
        raise KdnasError(
            f"no usable predictions ({first_line(error)})", field=FIELD, value=str(path), remedy=REMEDY
        ) from error
    order = np.argsort(ids, kind="stable")
    ids, logits = ids[order], logits[order]
    again = ids[1:] == ids[:-1]
    differing = again & (logits[1:] != logits[:-1]).any(axis=1)
    if differing.any():
        raise KdnasError(
            f"sample {int(ids[int(np.argmax(differing))]):016x} comes twice, with different answers",
            field=FIELD,
            value=str(path),
            remedy="give one answer a sample",
        )
    first = np.concatenate([[True], ~again])
    return ids[first], logits[first], kinds[0]


def _matrix(column: pyarrow.ChunkedArray) -> np.ndarray:
    """The lists of a column as float32 `[N, classes]`."""
    lists = column.combine_chunks()
    if len(lists) == 0 or lists.null_count:
        raise ValueError("rows without an answer" if len(lists) else "it holds no rows")
    lengths = pyarrow.compute.list_value_length(lists).unique().to_pylist()
    if len(lengths) != 1 or lengths[0] < 1:
        raise ValueError(f"answers of different lengths: {', '.join(map(str, sorted(lengths)[:5]))}")
    numbers = lists.flatten().cast(pyarrow.float32()).to_numpy(zero_copy_only=False)
    if len(numbers) != len(lists) * lengths[0] or not np.isfinite(numbers).all():
        raise ValueError("an answer holds something that is no finite number")
    return numbers.reshape(len(lists), lengths[0])


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    """Logits whose softmax are these probabilities."""
    if probabilities.min() < 0 or not np.allclose(probabilities.sum(axis=1), 1, atol=0.01):
        raise ValueError("probabilities that are negative or do not sum to 1")
    return np.log(np.maximum(probabilities, LEAST))


def _check_complete(model: Predictions, path: Path, data: Data) -> None:
    splits = {"training": data.train, "validation": data.validation, "test": data.test}
    missing = {name: model.missing(sample_ids(split.images)) for name, split in splits.items()}
    lacking = {name: ids for name, ids in missing.items() if ids}
    if lacking:
        counts = ", ".join(f"{len(ids):,} of {len(splits[name]):,} {name}" for name, ids in lacking.items())
        raise KdnasError(
            f"it has no answer for {counts} samples, the first of them {next(iter(lacking.values()))[0]}",
            field=FIELD,
            value=str(path),
            remedy="`kdnas teacher samples` with the same task and seed writes all images with their ids",
        )
