"""What ends a training from outside: a limit of time, or a machine that is taken away?

Either leaves a file in the candidate's folder, from which the search learns that it was no usual death.
"""

import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainables.checkpoints import Checkpoints

HUNG = "hung.txt"  # where every thread stood; empty while the time is not over
LEFT = "left"  # the worker was told to go, and saved what it had
STOPPING = ".stopping"  # beside the candidates' folders: the search ends soon, in the middle of a rung or not
TOLD = 128 + signal.SIGTERM  # exit status of a process that a SIGTERM ended


@contextlib.contextmanager
def time_limit(limit_s: float | None, folder: Path) -> Iterator[None]:
    """Ends this process when what runs inside takes longer, even where it never comes back to Python.

    Args:
        limit_s: seconds; None for no limit.
        folder: of the candidate.
    """
    if limit_s is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / HUNG).open("w") as file:
        faulthandler.dump_traceback_later(limit_s, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    (folder / HUNG).unlink(missing_ok=True)


def hung(folder: Path) -> str | None:
    """Where the process stood whose time was over; None where none was ended for that."""
    try:
        return (folder / HUNG).read_text(errors="replace").strip() or None
    except OSError:
        return None


@contextlib.contextmanager
def notice() -> Iterator[Callable[[], bool]]:
    """Yields whether this process was told to go (SIGTERM, which a machine that is taken away sends) while inside."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        yield lambda: bool(told)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def stopping(checkpoints: Path) -> bool:
    """Whether the search ends soon: what is reached is better saved now than at the next rung."""
    return (checkpoints / STOPPING).exists()


def leave(checkpoints: Checkpoints, name: str) -> None:
    """End this process, which has saved what it had of the candidate."""
    with contextlib.suppress(OSError):  # then it counts as any other death
        (checkpoints.folder(name) / LEFT).write_text(str(time.time()))
        checkpoints.publish(name, LEFT)
    os._exit(TOLD)


def left(checkpoints: Checkpoints, name: str) -> str | None:
    """When a worker left this candidate because it was told to go, the last time; None where none did."""
    try:
        return checkpoints.fetch(name, LEFT).read_text()
    except OSError:
        return None
