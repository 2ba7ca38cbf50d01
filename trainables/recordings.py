"""What recordings, labels and speakers does a Parquet file or a folder of WAV files hold?

Read with pyarrow itself: Hugging Face `datasets` would ask for a decoder of its own as soon as it sees audio.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow
import pyarrow.parquet

from search_spaces import KdnasError, first_line
from trainables.parquet import read_columns, rows_at_once
from trainables.sound import MOST_BYTES
from trainables.tasks.base import SPLIT_NAMES

READ_ROWS = 256
DEFAULT_SPEAKERS = "speaker"  # the column that may be absent


class Where(Protocol):
    """Where the recordings are: options of the task, see `SpeechTask`."""

    @property
    def path(self) -> Path:
        """The Parquet file or the folder."""

    @property
    def audio_column(self) -> str:
        """Column of the recordings in Parquet."""

    @property
    def label_column(self) -> str:
        """Column of the words in Parquet."""

    @property
    def speaker_column(self) -> str | None:
        """Column of the speakers in Parquet; None where nobody says who speaks."""

    @property
    def speaker_pattern(self) -> str | None:
        """Regular expression that finds the speaker in a file's name; None where it does not tell."""


class Record(NamedTuple):
    """One recording as it is stored, and what to call it."""

    name: str
    data: bytes | None


@dataclass(frozen=True)
class Source:
    """What is known of N recordings before any is decoded.

    Args:
        path: as it was configured.
        labels: `[N]` int64.
        classes: their names, in the order of the labels.
        speakers: of each recording; empty where they are not known.
        records: reads the recordings, in the order of the labels.
    """

    path: Path
    labels: np.ndarray
    classes: list[str]
    speakers: list[str]
    records: Callable[[], Iterator[Record]] = field(repr=False)

    def refuse(self, problem: str, remedy: str = "") -> KdnasError:
        """The error that says so about this data set."""
        return refusal(problem, "path", str(self.path), remedy)


def open_source(where: Where) -> Source:
    """Labels and speakers of all recordings, and how to read these.

    Raises:
        KdnasError: names the path, column, pattern or record that cannot be used.
    """
    root = Path(where.path).expanduser()
    if not os.path.exists(root):
        remedy = "give a Parquet file or a folder on this machine"
        raise refusal("does not exist", "path", str(where.path), remedy)
    if root.is_dir() and not any(root.glob("*.parquet")):
        return _folder(where, root)
    files = sorted(root.glob("*.parquet")) if root.is_dir() else [root]
    _check_no_splits(where, {file.stem.split("-")[0] for file in files})
    return _parquet(where, files)


def refusal(problem: str, option: str, value: object, remedy: str = "") -> KdnasError:
    """The error that says so about this option of the task."""
    return KdnasError(problem, field=f"task.{option}", value=value, remedy=remedy)


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, which has one group.

    Raises:
        KdnasError: it is no such pattern.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise refusal(f"not a regular expression ({error})", "speaker_pattern", pattern) from error
    if found.groups != 1:
        raise refusal(
            f"has {found.groups} groups",
            "speaker_pattern",
            pattern,
            "put the speaker, and nothing else, into parentheses, such as '^(.+)_nohash_'",
        )
    return found


def _check_no_splits(where: Where, names: set[str]) -> None:
    # Else the test recordings of a data set that comes in splits would be trained on.
    if len(names) > 1 and names <= set(SPLIT_NAMES):
        raise refusal(
            f"holds several splits ({', '.join(sorted(names))})",
            "path",
            str(where.path),
            "name one of them; it is split by speakers again",
        )


def _folder(where: Where, root: Path) -> Source:
    found = (file for file in root.glob("*/**/*") if file.suffix.lower() == ".wav" and file.is_file())
    inside = ((file, file.relative_to(root).parts) for file in found)
    files = sorted(file for file, parts in inside if parts[0][0] not in "._" and not file.name.startswith("."))
    if not files:
        remedy = "a folder has a subfolder a class, and in it files that end in .wav"
        raise refusal("holds neither Parquet files nor subfolders with recordings", "path", str(where.path), remedy)
    words = [file.relative_to(root).parts[0] for file in files]
    _check_no_splits(where, set(words))
    classes, labels = np.unique(np.array(words), return_inverse=True)

    def records() -> Iterator[Record]:
        for file in files:
            yield Record(str(file.relative_to(root)), _bytes(file))

    return Source(where.path, labels.astype(np.int64), classes.tolist(), _named_in(where, files, root), records)


def _bytes(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)  # what is longer is refused when it is decoded
    except OSError:
        return None


def _named_in(where: Where, files: Sequence[Path], root: Path) -> list[str]:
    """The speaker of each file; none where no pattern is given."""
    if where.speaker_pattern is None:
        return []
    pattern, names = compiled(where.speaker_pattern), []
    for file in files:
        match = pattern.search(file.name)
        if match is None or not match[1]:
            raise refusal(
                f"finds no speaker in the name {str(file.relative_to(root))!r}",
                "speaker_pattern",
                where.speaker_pattern,
                "mend it, or move what is no recording of a speaker elsewhere",
            )
        names.append(match[1])
    return names


def _parquet(where: Where, files: Sequence[Path]) -> Source:
    if where.speaker_pattern is not None:
        remedy = "a Parquet file has a column of speakers: task.speaker_column"
        raise refusal("is for folders of WAV files", "speaker_pattern", where.speaker_pattern, remedy)
    speaker = _check_columns(where, files)
    words: list[Any] = []
    people: list[Any] = []
    for file in files:
        columns = [where.label_column, *([speaker] if speaker else [])]
        table = _readable(where, partial(read_columns, file, columns, copies=4))
        words += table[where.label_column].to_pylist()
        people += table[speaker].to_pylist() if speaker else []
    if not words:
        raise refusal("holds no recordings", "path", str(where.path))
    labels, classes = _numbered(where, words, _declared(where, files[0]))
    for number, name in enumerate(people):
        if name is None or name == "":
            remedy = "give it one, or null to split without regard to speakers"
            raise refusal(f"record {number} has no speaker", "speaker_column", speaker, remedy)

    def records() -> Iterator[Record]:
        number = 0
        for file in files:
            for batch in _batches(where, file):
                for stored in batch:
                    yield _stored(stored, number)
                    number += 1

    return Source(where.path, labels, classes, [str(name) for name in people], records)


def _readable(where: Where, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        remedy = "it may be empty or cut short: fetch it again"
        raise refusal(f"not a readable Parquet file ({first_line(error)})", "path", str(where.path), remedy) from error


def _check_columns(where: Where, files: Sequence[Path]) -> str | None:
    """The column of the speakers, if the files have one."""
    speaker = where.speaker_column
    for file in files:
        schema = _readable(where, partial(pyarrow.parquet.read_schema, file))
        for option in ("audio_column", "label_column", "speaker_column"):
            column = getattr(where, option)
            if column is None or column in schema.names:
                continue
            if option == "speaker_column" and column == DEFAULT_SPEAKERS:
                speaker = None
                continue
            remedy = f"it has: {', '.join(schema.names)}"
            raise refusal(f"{file.name} has no such column", option, column, remedy)
        kind = schema.field(where.audio_column).type
        inner = kind.field("bytes").type if _has_bytes(kind) else kind
        if not (pyarrow.types.is_binary(inner) or pyarrow.types.is_large_binary(inner)):
            remedy = "a column of struct(bytes, path) or of binary is needed, each value a whole WAV file"
            raise refusal(f"holds {kind}, no recordings", "audio_column", where.audio_column, remedy)
    return speaker


def _has_bytes(kind: Any) -> bool:
    return pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _declared(where: Where, file: Path) -> list[str] | None:
    """Class names as Hugging Face `datasets` writes them into a file, if it did."""
    known = (pyarrow.parquet.read_schema(file).metadata or {}).get(b"huggingface")
    try:
        return json.loads(known)["info"]["features"][where.label_column]["names"] if known else None
    except (ValueError, KeyError, TypeError):
        return None


def _numbered(where: Where, words: Sequence[object], declared: list[str] | None) -> tuple[np.ndarray, list[str]]:
    """Labels `[N]` int64 and the names of the classes."""
    for number, value in enumerate(words):
        problem = None
        if not isinstance(value, (int, str)):
            problem = "no label" if value is None else f"a label of type {type(value).__name__}"
        elif declared and not (isinstance(value, int) and 0 <= value < len(declared)):
            problem = f"the label {value!r}, but there are {len(declared)} classes"
        if problem:
            remedy = "labels are whole numbers, words or booleans"
            raise refusal(f"record {number} has {problem}", "label_column", where.label_column, remedy)
    if declared:
        return np.array(words, dtype=np.int64), list(declared)
    found, labels = np.unique(np.asarray(words), return_inverse=True)
    return labels.astype(np.int64), [str(name) for name in found.tolist()]


def _batches(where: Where, file: Path) -> Iterator[list[Any]]:
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            step = rows_at_once(opened.metadata, READ_ROWS, [where.audio_column])
            for batch in opened.iter_batches(step, columns=[where.audio_column]):
                yield batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        said = f"column {where.audio_column!r} of {file.name} cannot be read ({first_line(error)})"
        raise refusal(said, "path", str(where.path), "the file may be damaged: fetch it again") from error


def _stored(value: Any, number: int) -> Record:
    stored = value if isinstance(value, dict) else {"bytes": value}
    path, data = stored.get("path"), stored.get("bytes")
    # A path may also be an address on the network: only what is a file here is opened.
    if data is None and path and Path(path).is_file():
        data = _bytes(Path(path))
    return Record(f"record {number}" + (f" ({path})" if path else ""), data)
