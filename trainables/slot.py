"""How does a measurement have the machine to itself while trainings run on it?

Trainings hold a lock that any number may hold, one rung at a time; a measurement waits until none is held. A second
lock, the gate, is taken by whoever comes first to the other: while a measurement waits, no further rung begins.
"""

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from search_spaces import KdnasError, first_line

POLL_S = 0.2  # between two looks at a slot that is taken
WAITING = "Waiting until nothing else trains or measures on this machine"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(folder: Path | None = None, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Held by one process that measures: waits until no other measures, nor trains under `training`.

    Args:
        folder: of the locks; this machine's when None.
        waiting: called every 0.2 s while it waits (`told_once`); what it raises ends the waiting.

    Raises:
        KdnasError: the locks cannot be made.
    """
    try:
        folder = folder or _machine()
    except OSError as error:
        raise KdnasError(
            f"the locks of measurements cannot be made there ({first_line(error)})",
            field="TMPDIR",
            value=tempfile.gettempdir(),
            remedy="choose a folder that can be written",
        ) from error
    with _taken(folder / "gate", waiting), _taken(folder / "slot", waiting):
        yield


def told_once(say: Callable[[str], object]) -> Callable[[], None]:
    """What says at its first call that a measurement waits, and nothing after that."""
    words = iter([WAITING])

    def waiting() -> None:
        for text in words:
            say(text)

    return waiting


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
def _taken(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    # By asking again: in a search a signal's handler only leaves a note, and a call that blocks would then go on.
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(POLL_S)
        yield


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield
