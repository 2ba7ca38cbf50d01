"""How does a measurement have the machine to itself while trainings run on it?

Trainings hold a lock that any number may hold, one rung at a time; a measurement waits until none is held. A second
lock, the gate, is taken by whoever comes first to the other: while a measurement waits, no further rung begins.
"""

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(folder: Path | None = None) -> Iterator[None]:
    """Held by one process that measures: waits until no other measures, nor trains under `training`.

    Args:
        folder: of the locks; this machine's when None.
    """
    folder = folder or _machine()
    with _locked(folder / "gate", fcntl.LOCK_EX), _locked(folder / "slot", fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def training(folder: Path | None = None) -> Iterator[None]:
    """Held by any number of processes that keep the machine busy; begins when nobody measures or waits to.

    Args:
        folder: of the locks; this machine's when None.
    """
    with contextlib.ExitStack() as held:
        try:
            folder = folder or _machine()
            with _locked(folder / "gate", fcntl.LOCK_SH):
                held.enter_context(_locked(folder / "slot", fcntl.LOCK_SH))
        except OSError as error:  # a full or read-only disk disturbs measurements, and must not end a training
            logger.warning("measurements on this machine will be disturbed: %s", error)
        yield


def _machine() -> Path:
    folder = Path(tempfile.gettempdir()) / f"kdnas-slot-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield
