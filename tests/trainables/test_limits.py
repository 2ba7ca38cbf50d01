"""Specification of `trainables.limits`: processes that hang or are told to go, each a real one."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from trainables.checkpoints import Checkpoints
from trainables.limits import HUNG, TOLD, hung, left, notice, time_limit


def python(program: str, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, *words], **options)


@pytest.mark.parametrize(
    "hangs",
    ["while True: pass", "import ctypes; ctypes.PyDLL(None).pause()"],  # the second never lets Python have its lock
)
def test_process_that_hangs_is_ended_and_says_where_it_stood(tmp_path, hangs):
    program = f"""
import sys
from pathlib import Path
from trainables.limits import time_limit

def never_ends():
    {hangs}

with time_limit(0.2, Path(sys.argv[1]) / "c0001"):
    never_ends()
"""
    assert python(program, str(tmp_path)).wait(60) == 1
    assert "in never_ends" in hung(tmp_path / "c0001")


def test_work_within_its_time_leaves_nothing_behind_and_is_not_ended_later(tmp_path):
    with time_limit(0.2, tmp_path):
        pass
    time.sleep(0.3)
    assert hung(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_work_without_a_limit_writes_nothing(tmp_path):
    with time_limit(None, tmp_path / "c0001"):
        pass
    assert not (tmp_path / "c0001").exists()


def test_process_that_died_before_its_time_was_over_did_not_hang(tmp_path):
    (tmp_path / HUNG).write_text("")
    assert hung(tmp_path) is None


def test_process_that_is_told_to_go_saves_and_leaves_a_note_once(tmp_path):
    program = """
import sys, time
from pathlib import Path
from trainables.checkpoints import Checkpoints
from trainables.limits import leave, notice

with notice() as told:
    print("ready", flush=True)
    while not told():
        time.sleep(0.01)
    Path(sys.argv[1], "c0001").mkdir()
    leave(Checkpoints(sys.argv[1]), "c0001")
"""
    process = python(program, str(tmp_path), stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    checkpoints = Checkpoints(str(tmp_path))
    assert left(checkpoints, "c0001") is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == TOLD
    assert float(left(checkpoints, "c0001")) == pytest.approx(time.time(), abs=60)
    process.stdout.close()


def test_handler_is_put_back_and_other_threads_go_without():
    before = signal.getsignal(signal.SIGTERM)
    with notice() as told:
        assert signal.getsignal(signal.SIGTERM) is not before
        signal.raise_signal(signal.SIGTERM)
        assert told()
    assert signal.getsignal(signal.SIGTERM) is before

    seen = []

    def elsewhere():
        with notice() as told:
            seen.append(told())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]
