"""How do these tests start `kdnas`, and what small search do they run?"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

SMALL: dict[str, Any] = {
    "teachers": [{"name": "trained", "stem": 8, "widths": [16, 32], "depths": [1, 1], "epochs": 6, "views": 2}],
    "bank": {"views": 2},
    "space": {"name": "resnet", "stages": 2, "stem_widths": [4, 8], "widths": [4, 8], "depths": [1]},
    "recipes": {"name": "simple", "taps": ["stage2"]},
    "scheduler": {"name": "asha", "max_epochs": 4, "grace_epochs": 1, "reduction_factor": 2},
    "constraints": {"params": {"of_teacher": 0.2}},
    "budget": {"trials": 8},
    "resources": {"workers": 2},
    "retrain": {"top": 2, "epochs": 4, "seeds": 2},
}


def config_file(folder: Path, **changes: Any) -> Path:
    """A YAML file with the small search and these changes."""
    path = folder / "kdnas.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "bank": {"views": 2, "cache": str(folder / "cache")}, **changes}))
    return path


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without a tracking server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**kept, **changes}


def kdnas(*arguments: str | Path, cwd: Path, timeout: float = 240, **env: str) -> subprocess.CompletedProcess:
    """`kdnas` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kdnas_ray", *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def start_kdnas(*arguments: str | Path, cwd: Path) -> subprocess.Popen:
    """`kdnas` in the background; its output is read by `communicate`."""
    return subprocess.Popen(
        [sys.executable, "-m", "kdnas_ray", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; every one must be whole."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(holds: Callable[[], bool], process, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def kill_tree(process) -> None:
    """`kill -9` of the driver; what Ray leaves running is ended too, as a reboot would."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(1)
    for child in children:
        if child.is_running():
            child.kill()
