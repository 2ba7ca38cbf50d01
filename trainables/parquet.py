"""How is a Parquet file read that may unpack to more than this machine holds?

A few kilobytes of one can stand for terabytes: pages are compressed, and a value that repeats is stored once. So what
is read is counted as it comes, in steps that are small where records are large.
"""

import os
from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

ROWS = 4096
STEP_BYTES = 2**28
ROW_BYTES = 64  # that a record takes as Python objects, whatever is in it


def most_bytes() -> int:
    """What data may take in memory: half of the machine's."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def check_room(needed: int, what: str) -> None:
    """Refuses what takes more than `most_bytes`.

    Args:
        needed: bytes.
        what: for the message, a plural.

    Raises:
        ValueError: says how much it is, and how much there may be.
    """
    if needed > (most := most_bytes()):
        raise ValueError(f"{what} unpack to more than {most / 1e9:.3g} GB, half of this machine's memory")


def held(part: Any, copies: int = 1) -> int:
    """Bytes that a part of a table, or of a column, takes; `copies` where it is held as Python objects too."""
    return part.nbytes * copies + ROW_BYTES * len(part)


def rows_at_once(file: pyarrow.parquet.FileMetaData, most: int, columns: Sequence[str] | None = None) -> int:
    """How many records to read at a time: `most`, or fewer where records are large.

    Raises:
        ValueError: one record takes more than there may be.
    """
    largest = 1.0
    for number in range(file.num_row_groups):
        group = file.row_group(number)
        chunks = [group.column(index) for index in range(group.num_columns)]
        wanted = [part for part in chunks if columns is None or part.path_in_schema.partition(".")[0] in columns]
        size = sum(max(part.total_uncompressed_size, 8 * part.num_values) for part in wanted)
        largest = max(largest, size / max(group.num_rows, 1))
    check_room(int(largest), "its records")
    return max(1, min(most, int(STEP_BYTES / largest)))


def read_columns(source: Any, columns: Sequence[str] | None = None, copies: int = 1) -> pyarrow.Table:
    """Columns of a Parquet file.

    Args:
        source: path, or an open file.
        columns: which; None for all.
        copies: how often the content will be in memory, with what is made of it.

    Raises:
        ValueError: they take more than half of the machine's memory; pyarrow raises its own errors.
    """
    wanted = None if columns is None else list(columns)
    with pyarrow.parquet.ParquetFile(source) as opened:
        batches, total = [], 0
        for batch in opened.iter_batches(rows_at_once(opened.metadata, ROWS, wanted), columns=wanted):
            total += held(batch, copies)
            check_room(total, "its columns")
            batches.append(batch)
        if batches:
            return pyarrow.Table.from_batches(batches)
        empty = opened.schema_arrow.empty_table()
        return empty if wanted is None else empty.select(wanted)
