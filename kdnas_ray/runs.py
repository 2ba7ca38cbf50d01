"""How is a run folder read and written?"""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from search_spaces.errors import KdnasError


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
        data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KdnasError("is not valid YAML", field="RUN/config.yaml", value=str(run)) from error
    return data or {}


def read_summary(run: Path) -> dict[str, Any]:
    """Content of summary.json; empty while there is none."""
    return _read_json(run / "summary.json")


def read_state(run: Path) -> dict[str, Any]:
    """Time spent and status, kept while a search runs; empty before its first event."""
    return _read_json(run / "state.json")


def read_tracking(run: Path) -> dict[str, Any]:
    """How far MLflow has been told of the run; empty before it was told anything."""
    return _read_json(run / "tracking.json")


def write_state(run: Path, state: dict[str, Any]) -> None:
    """Replace the state in one step."""
    draft = run / ".state.json"
    draft.write_text(json.dumps(state) + "\n")
    draft.replace(run / "state.json")


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
    """Append one whole line in a single write; NaN and infinity become null."""
    line = json.dumps(_finite(row), allow_nan=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a crash cut the last line
            line = "\n" + line
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


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
