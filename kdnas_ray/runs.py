"""How is a run folder read and written?"""

import contextlib
import fcntl
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kdnas_ray.plain_yaml import load_yaml
from search_spaces.errors import KdnasError
from trainables.files import replace_text

CHUNK_BYTES = 64 * 1024


def require_run(run: Path) -> None:
    """Refuses a folder that no search made."""
    if not (run / "config.yaml").is_file():
        raise KdnasError(
            "not a run folder: it holds no config.yaml",
            field="RUN",
            value=str(run),
            remedy="give the folder that `kdnas search --out RUN` made",
        )


def read_config(run: Path) -> dict[str, Any]:
    """Resolved configuration of the run."""
    require_run(run)
    try:
        data = load_yaml((run / "config.yaml").read_text(encoding="utf8"))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise KdnasError("is not valid YAML", field="RUN/config.yaml", value=str(run)) from error
    if not isinstance(data, dict):
        raise KdnasError(
            "holds no configuration",
            field="RUN/config.yaml",
            value=str(run),
            remedy="it was cut or emptied; put the run's configuration back",
        )
    return data


def write_config(run: Path, resolved: Mapping[str, Any]) -> None:
    """Replace the run's configuration in one step."""
    replace_text(run / "config.yaml", yaml.safe_dump(dict(resolved), sort_keys=False))


def read_summary(run: Path) -> dict[str, Any]:
    """Content of summary.json; empty while there is none."""
    return _read_json(run / "summary.json")


def read_calibration(run: Path) -> dict[str, Any]:
    """Content of calibration.json; empty before `kdnas calibrate`."""
    return _read_json(run / "calibration.json")


def read_state(run: Path) -> dict[str, Any]:
    """Time spent and status, kept while a search runs; empty before its first event."""
    return _read_json(run / "state.json")


def read_teacher_facts(run: Path) -> dict[str, Any]:
    """Name, digest, costs and accuracies of the run's teacher; empty before it is known."""
    return _read_json(run / "teacher.json")


def read_tracking(run: Path) -> dict[str, Any]:
    """How far MLflow has been told of the run; empty before it was told anything."""
    return _read_json(run / "tracking.json")


def write_state(run: Path, state: dict[str, Any]) -> None:
    """Replace the state in one step."""
    replace_text(run / "state.json", json.dumps(state) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSON lines file; an incomplete last line (a crash while writing) is ignored."""
    return parse_jsonl(path.read_bytes()) if path.exists() else []


def parse_jsonl(lines: bytes) -> list[dict[str, Any]]:
    """Objects on the whole lines; a line that a crash cut is ignored."""
    rows = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one whole line, or raise and leave the file as it was; NaN and infinity become null.

    A last line that a crash cut is removed first. Any number of processes may append.
    """
    line = (json.dumps(_finite(row), allow_nan=False) + "\n").encode()
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = _end_of_whole_lines(file)
        file.truncate(end)
        file.seek(end)
        try:
            while line:  # a write to a disk that is nearly full may take a part only
                line = line[file.write(line) :]
        except OSError:
            file.truncate(end)
            raise


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Held while a process works on the run; a second process is refused."""
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise KdnasError(
                "another process works on this run",
                field="RUN",
                value=str(run),
                remedy="wait for it, or stop it",
            ) from error
        yield


def check_creatable(folder: Path, field: str) -> None:
    """Refuses a folder that cannot be made or written to, before any work is spent on what it is to hold."""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise KdnasError(
            f"cannot be created: {there} is a file", field=field, value=str(folder), remedy="choose another folder"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise KdnasError(
            f"cannot be written: no permission in {there}",
            field=field,
            value=str(folder),
            remedy="choose another folder, or change its permissions",
        )


def _end_of_whole_lines(file: io.FileIO) -> int:
    end = file.seek(0, os.SEEK_END)
    if end == 0 or os.pread(file.fileno(), 1, end - 1) == b"\n":
        return end
    begin = end
    while begin > 0:
        begin = max(0, begin - CHUNK_BYTES)
        found = os.pread(file.fileno(), end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
    return 0


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
