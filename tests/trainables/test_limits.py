"""Specification of `trainables.limits`: processes that hang or are told to go, each a real one."""

import os
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
import threading, time
from trainables.checkpoints import Checkpoints
from trainables.limits import time_limit

def never_ends():
    {hangs}

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
with time_limit(0.2, Checkpoints(sys.argv[1]), "c0001"):
    never_ends()
"""
    assert python(program, str(tmp_path)).wait(60) == 1
    first, *others = hung(Checkpoints(str(tmp_path)), "c0001").split("\n\n")
    assert "in never_ends" in first
    assert "which trained (most recent call first)" in first
    assert len(others) == 1


@pytest.mark.parametrize(
    ("hangs", "told"),
    [("while True: pass", True), ("import ctypes; ctypes.PyDLL(None).pause()", False)],
    ids=["in Python", "never lets Python have its lock"],
)
def test_process_that_hangs_where_checkpoints_lie_at_a_url_is_ended_and_others_learn_why(tmp_path, hangs, told):
    program = f"""
import sys
from trainables import limits
from trainables.checkpoints import Checkpoints

limits.REMOTE_S = 3.0

def never_ends():
    {hangs}

with limits.time_limit(0.2, Checkpoints(sys.argv[1]), "c0001"):
    never_ends()
"""
    where = (tmp_path / "bucket").as_uri()
    here, there = tmp_path / "here", tmp_path / "there"  # two machines
    here.mkdir(), there.mkdir()
    assert python(program, where, env=os.environ | {"TMPDIR": str(here)}).wait(60) == 1
    asks = "import sys; from trainables.limits import Checkpoints, hung; print(hung(Checkpoints(sys.argv[1]), 'c0001'))"
    asked = python(asks, where, env=os.environ | {"TMPDIR": str(there)}, stdout=subprocess.PIPE, text=True)
    said, _ = asked.communicate(timeout=60)
    assert ("in never_ends" in said) is told
    assert told or said == "None\n"


def test_work_within_its_time_where_checkpoints_lie_at_a_url_publishes_nothing_and_goes_on(tmp_path):
    checkpoints = Checkpoints((tmp_path / "bucket").as_uri())
    with time_limit(0.2, checkpoints, "c0001"):
        pass
    time.sleep(0.3)
    assert hung(checkpoints, "c0001") is None
    assert not (tmp_path / "bucket").exists()


def test_work_within_its_time_leaves_nothing_behind_and_is_not_ended_later(tmp_path):
    with time_limit(0.2, Checkpoints(str(tmp_path)), "c0001"):
        pass
    time.sleep(0.3)
    assert hung(Checkpoints(str(tmp_path)), "c0001") is None
    assert list((tmp_path / "c0001").iterdir()) == []


def test_work_without_a_limit_writes_nothing(tmp_path):
    with time_limit(None, Checkpoints(str(tmp_path)), "c0001"):
        pass
    assert not (tmp_path / "c0001").exists()


def test_process_that_died_before_its_time_was_over_did_not_hang(tmp_path):
    program = """
import os, sys
from trainables.checkpoints import Checkpoints
from trainables.limits import time_limit

with time_limit(60, Checkpoints(sys.argv[1]), "c0001"):
    os._exit(3)
"""
    assert python(program, str(tmp_path)).wait(60) == 3
    assert (tmp_path / "c0001" / HUNG).exists()
    assert hung(Checkpoints(str(tmp_path)), "c0001") is None


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
