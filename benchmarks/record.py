"""How is a benchmark's outcome told? A Markdown table on the terminal, JSON in a file."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdnas_ray.environment import git_commit, versions

Row = Mapping[str, Any]


def tell(rows: Sequence[Row], out: Path | None, **facts: Any) -> None:
    """Print the rows (all with the same keys) as a table; write them with date, machine and versions to `out`."""
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(_cell(value) for value in row.values()) + " |", flush=True)
    if out is None:
        return
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": versions(),
        "git_commit": git_commit(),
    }
    out.write_text(json.dumps({"rows": list(rows), **facts, **about}, indent=2) + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
