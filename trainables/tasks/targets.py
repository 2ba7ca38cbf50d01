"""How do labels (any number a sample) and values (numbers) become arrays, as they lie in a column of a file?"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def labels_of(rows: Sequence[Any], column: str, declared: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """0 or 1 for every label of every sample, `[N, labels]` float32, and the names of the labels.

    Args:
        rows: a list of names or of whole numbers a sample, empty where it has no label.
        column: for messages.
        declared: names that whole numbers stand for, where the file says so; else the numbers are the names.

    Raises:
        ValueError: names the record that cannot be used.
    """
    for number, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or not all(isinstance(item, (int, str)) for item in row):
            raise ValueError(f"record {number} has no list of names or whole numbers in column {column!r}")
        if declared and not all(isinstance(item, int) and 0 <= item < len(declared) for item in row):
            raise ValueError(f"record {number} has a label in column {column!r} beyond the {len(declared)} declared")
    kinds = {type(item) for row in rows for item in row}
    if not kinds:
        raise ValueError(f"no record has a label in column {column!r}")
    if len(kinds) > 1:
        raise ValueError(f"labels in column {column!r} are names in some records, numbers in others")
    known = list(range(len(declared))) if declared else sorted({item for row in rows for item in row})
    place = {item: index for index, item in enumerate(known)}
    found = np.zeros((len(rows), len(known)), dtype=np.float32)
    for number, row in enumerate(rows):
        found[number, [place[item] for item in row]] = 1
    return found, list(declared) if declared else [str(item) for item in known]


def numbers_of(rows: Sequence[Any], column: str) -> tuple[np.ndarray, list[str]]:
    """The values `[N, values]` float32 and their names: the column's, numbered where it holds several.

    Args:
        rows: a number a sample, or a list of them, always equally long.
        column: for messages and names.

    Raises:
        ValueError: names the record that cannot be used.
    """
    width = len(rows[0]) if isinstance(rows[0], (list, tuple)) else None
    for number, row in enumerate(rows):
        items = row if isinstance(row, (list, tuple)) else [row]
        if not all(isinstance(item, (int, float)) and math.isfinite(item) for item in items):
            raise ValueError(f"record {number} has something else than finite numbers in column {column!r}")
        if (len(row) if isinstance(row, (list, tuple)) else None) != width or width == 0:
            raise ValueError(
                f"record {number} has {len(items)} numbers in column {column!r}, record 0 {width or 'one'}"
            )
    names = [column] if width is None else [f"{column}[{index}]" for index in range(width)]
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), -1), names
