"""How does a table of numbers (Parquet or CSV) become a task?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv

from search_spaces import KdnasError, first_line
from trainables.augment import Augmentation
from trainables.parquet import check_room, read_columns
from trainables.tasks.base import AnyTargets, Data, Outputs, Split, assemble, split, standardised
from trainables.tasks.targets import labels_of, numbers_of

CSV_COPIES = 8  # a comma in a file is a number in memory
TABLE_COPIES = 3  # as it is read, as float64, as float32


@dataclass(frozen=True)
class TableTask(AnyTargets):
    """Rows of numbers, in a Parquet or CSV file: every column but the target's is an input.

    A row is an image of one pixel with a channel a column, float32, so that everything that works on images works here;
    each column is standardised by the training split. The space for such data is `mlp`. Limits: words and dates are
    refused (encode them as numbers first), a missing input takes its column's mean, there is no augmentation, and what
    ends in pixels elsewhere (`cutout`, maps of several places) means nothing here.

    Source: Gorishniy 2021, Revisiting Deep Learning Models for Tabular Data (standardised columns, MLP and ResNet).

    Args:
        path: the Parquet or CSV file.
        target: column to be learned; for values also several, as a list. In CSV the labels of a row are words with
            `;` between them.
        targets: `classes` (one a row), `labels` (any number) or `values` (numbers).
        columns: inputs; empty for all but the target.
        test_path: where the test split is, if it is apart; `test` is then ignored.
        validation: share of the rows that candidates are compared on.
        test: share of the rows kept sealed for the finalists.
    """

    path: Path
    target: tuple[str, ...] = ("target",)
    targets: Outputs = "values"
    columns: tuple[str, ...] = ()
    test_path: Path | None = None
    validation: float = 0.2
    test: float = 0.2

    def __post_init__(self) -> None:
        if len(self.target) != 1 and self.targets != "values":
            raise KdnasError(
                f"{self.targets} lie in one column",
                field="task.target",
                value=list(self.target),
                remedy="name one, or set task.targets to values",
            )

    @property
    def augmentation(self) -> Augmentation:
        """None: a row has no neighbours to move among."""
        return Augmentation()

    def load(self, seed: int) -> Data:
        """The data, split by this seed.

        Raises:
            KdnasError: names the path, column or row that cannot be used.
        """
        table = _read(self.path, "task.path")
        columns = list(self.columns) or [name for name in table.column_names if name not in self.target]
        labels, classes = self._targets(table, "task.path")
        rows = self._inputs(table, columns, "task.path")
        test: float | Split = self.test
        if self.test_path is not None:
            other = _read(self.test_path, "task.test_path")
            theirs, names = self._targets(other, "task.test_path")
            test = Split(self._inputs(other, columns, "task.test_path"), self._matched(theirs, names, classes))
        parts = split(rows, labels, classes, validation=self.validation, test=test, seed=seed)
        means = np.nanmean(parts[0].images, axis=0)  # an input that is missing says nothing: it becomes the mean
        train, validation, held_out = (
            Split(np.where(np.isnan(part.images), means, part.images), part.labels) for part in parts
        )
        data = assemble(train, validation, held_out, classes)
        return standardised(data) if self.targets == "values" else data

    def _inputs(self, table: pyarrow.Table, columns: Sequence[str], field: str) -> np.ndarray:
        """Rows `[N, columns, 1, 1]` float32, NaN where an input is missing."""
        if not columns:
            raise KdnasError("no input is left", field="task.columns", value=[], remedy="the file has one column only")
        found = []
        for name in columns:
            kind = _column(table, name, "task.columns").type
            if not (
                pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
            ):
                raise KdnasError(
                    f"column {name!r} holds {kind}, not numbers",
                    field=field,
                    value=name,
                    remedy="encode it as numbers, or list the inputs in task.columns",
                )
            values = table[name].cast(pyarrow.float64() if kind != pyarrow.bool_() else pyarrow.int8())
            found.append(values.to_numpy().astype(np.float64))
            wrong = np.flatnonzero(np.isinf(found[-1]) | (np.abs(found[-1]) > np.finfo(np.float32).max))
            if len(wrong):
                raise KdnasError(f"row {wrong[0]} of column {name!r} is infinite", field=field, value=name)
            if np.isnan(found[-1]).all():
                raise KdnasError(f"column {name!r} is empty", field=field, value=name, remedy="leave it out")
        return np.stack(found, axis=1).astype(np.float32)[:, :, None, None]

    def _targets(self, table: pyarrow.Table, field: str) -> tuple[np.ndarray, list[str]]:
        """What is to be learned, `[N]` int64 or `[N, K]` float32, and the names of the outputs."""
        found = [_column(table, name, "task.target").to_pylist() for name in self.target]
        if not found[0]:
            raise KdnasError("holds no rows", field=field, value=str(self.path))
        try:
            if self.targets == "values":
                parts = [numbers_of(rows, name) for name, rows in zip(self.target, found, strict=True)]
                return np.concatenate([part for part, _ in parts], axis=1), [
                    name for _, names in parts for name in names
                ]
            if self.targets == "labels":
                rows = [row.split(";") if isinstance(row, str) else row for row in found[0]]
                rows = [[word.strip() for word in row if word.strip()] if _words(row) else row for row in rows]
                return labels_of([[] if row is None else row for row in rows], self.target[0])
            return _classes(found[0], self.target[0])
        except ValueError as error:
            raise KdnasError(
                str(error), field=field, value=str(self.path), remedy=f"see task.targets, here {self.targets}"
            ) from error

    def _matched(self, targets: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Targets of the test split in the order of the training data's outputs."""
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise KdnasError(
                f"holds what the training data lacks ({', '.join(unknown[:5])})",
                field="task.test_path",
                value=str(self.test_path),
                remedy=f"the training data has: {', '.join(classes[:20])}",
            )
        places = np.array([classes.index(name) for name in names], dtype=np.int64)
        if targets.ndim == 1:
            return places[targets]
        found = np.zeros((len(targets), len(classes)), dtype=np.float32)
        found[:, places] = targets
        return found


def _read(path: Path, field: str) -> pyarrow.Table:
    file = Path(path).expanduser()
    if not file.is_file():
        raise KdnasError("is no file", field=field, value=str(path), remedy="give a Parquet or CSV file")
    try:
        csv = file.suffix.lower() in (".csv", ".txt")
        if csv:
            check_room(CSV_COPIES * file.stat().st_size, "its rows")
        table = pyarrow.csv.read_csv(file) if csv else read_columns(file, copies=TABLE_COPIES)
        return table.rename_columns(table.column_names)  # raises where a name is no text
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise KdnasError(
            f"cannot be read ({first_line(error)})",
            field=field,
            value=str(path),
            remedy="a CSV file ends in .csv and begins with the names of the columns; anything else is read as Parquet",
        ) from error


def _column(table: pyarrow.Table, name: str, option: str) -> pyarrow.ChunkedArray:
    if name not in table.column_names:
        known = ", ".join(table.column_names[:20])
        raise KdnasError("the file has no such column", field=option, value=name, remedy=f"it has: {known}")
    return table[name]


def _classes(values: Sequence[Any], column: str) -> tuple[np.ndarray, list[str]]:
    for number, value in enumerate(values):
        if not isinstance(value, (int, str)):
            raise ValueError(f"row {number} has no class in column {column!r}: whole numbers, words or booleans")
    found, labels = np.unique(np.asarray(values), return_inverse=True)
    return labels.astype(np.int64), [str(name) for name in found.tolist()]


def _words(row: Any) -> bool:
    return isinstance(row, list) and all(isinstance(word, str) for word in row)
