"""What ends a training from outside: a limit of time, or a machine that is taken away?

Either leaves a file in the candidate's folder, from which the search learns that it was no usual death.
"""

import contextlib
import faulthandler
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainables.checkpoints import Checkpoints

HUNG = "hung.txt"  # which thread trains, and when the time is over where every thread stood
HANGING = "hung"  # how the reason of a candidate begins whose training took too long
TRAINING = "training thread"
REMOTE_S = 10.0  # for a file to reach a URL
LEFT = "left"  # the worker was told to go, and saved what it had
STOPPING = ".stopping"  # beside the candidates' folders: the search ends soon, in the middle of a rung or not
TOLD = 128 + signal.SIGTERM  # exit status of a process that a SIGTERM ended


@contextlib.contextmanager
def time_limit(limit_s: float | None, checkpoints: Checkpoints, name: str) -> Iterator[None]:
    """Ends this process when what runs inside takes longer, even where it never comes back to Python.

    Args:
        limit_s: seconds; None for no limit.
        checkpoints: where the candidate's files lie. Where that is a URL, what never comes back to Python is ended
            ten seconds later, and nobody elsewhere learns why.
        name: of the candidate.
    """
    if limit_s is None:
        yield
        return
    folder = checkpoints.folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    within = threading.Lock()  # held while the work is neither done nor given up
    with (folder / HUNG).open("w") as file:
        # First in the file, for the dump puts it anywhere.
        own = f"{TRAINING} 0x{threading.get_ident():016x}\n"
        file.write(own)
        file.flush()

        def give_up() -> None:
            if within.acquire(blocking=False):
                faulthandler.dump_traceback(file)
                with contextlib.suppress(OSError):  # then it counts as any other death
                    checkpoints.publish(name, HUNG)
                os._exit(1)

        watch = threading.Timer(limit_s, give_up)
        watch.daemon = True
        faulthandler.dump_traceback_later(limit_s + REMOTE_S * checkpoints.remote, exit=True, file=file)
        if checkpoints.remote:
            watch.start()
        try:
            yield
        finally:
            within.acquire()  # never while it gives up: what it publishes must not come after what was done
            watch.cancel()
            faulthandler.cancel_dump_traceback_later()
    (folder / HUNG).unlink(missing_ok=True)


def hung(checkpoints: Checkpoints, name: str) -> str | None:
    """Where the process stood whose time was over, first the thread that trained; None where none was ended so."""
    try:
        text = checkpoints.fetch(name, HUNG).read_text(errors="replace")
    except OSError:
        return None
    own, _, stacks = text.partition("\n")
    # What stands before the first is about the watch itself.
    threads = re.split(r"^(?=Thread 0x)", stacks, flags=re.MULTILINE)[1:]
    number = own.removeprefix(f"{TRAINING} ")
    threads.sort(key=lambda thread: not thread.startswith(f"Thread {number} "))
    said = "\n\n".join(thread.strip() for thread in threads)
    return said.replace(f"Thread {number} ", f"Thread {number}, which trained ", 1) or stacks.strip() or None


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
