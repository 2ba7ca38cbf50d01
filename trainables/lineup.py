"""How do all workers of a search come to work, though the first ones are done before the last ones have started?

Ray Tune (2.60) gives the trial of a worker that is still starting to one that is done, ends the starting one and starts
another for the next trial: with candidates of two seconds and workers that take four to start, one of two never came to
work (NAS-Bench-201 from a table: 109 ms a candidate instead of 56).
"""

import contextlib
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from ray import tune

from trainables.checkpoints import Checkpoints

PREFIX = ".lineup-"
PATIENCE_S = 15.0
LOOK_S = 0.02


def lineup(checkpoints: Checkpoints, workers: int) -> dict[str, Any]:
    """What the configuration of each of the first `workers` trials holds under `lineup`.

    Args:
        checkpoints: beside which they line up; at a URL, which not all see as a folder, none do.
        workers: trials that begin together.
    """
    folder = checkpoints.folder(f"{PREFIX}{time.time_ns()}")
    return {"folder": str(folder.resolve()), "workers": 0 if checkpoints.remote else workers}


def lineups(checkpoints: Checkpoints) -> list[Path]:
    """Folders in which searches line up, or did when they were killed."""
    return sorted(checkpoints.folder("c").parent.glob(f"{PREFIX}*"))


def clear_lineups(checkpoints: Checkpoints) -> None:
    """Remove them, where no search runs."""
    for folder in lineups(checkpoints):
        shutil.rmtree(folder, ignore_errors=True)


class LinedUp(tune.Trainable):
    """A trial whose first result waits until all workers have begun, at most 15 seconds."""

    def train(self) -> dict[str, Any]:
        """One step, as Ray Tune asks for it; the wait counts as none of its time."""
        line = self.config.get("lineup")
        if line is not None and self.iteration == 0:
            folder = Path(line["folder"])
            with contextlib.suppress(OSError):  # a full disk: then the others wait in vain, once
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{socket.gethostname()}-{os.getpid()}").touch()
        result: dict[str, Any] = super().train()
        if line is not None and self.iteration == 1:
            end = time.monotonic() + PATIENCE_S
            while folder.exists() and len(list(folder.iterdir())) < line["workers"] and time.monotonic() < end:
                time.sleep(LOOK_S)
        return result
