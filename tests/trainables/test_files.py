"""Specification of `trainables.files.scratch_folder`: what killed processes left goes, what others use stays."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from trainables.files import HELD, scratch_folder

HOLDS = """
import sys, time
from trainables.files import scratch_folder
with scratch_folder("kdnas-test-") as folder:
    (folder / "content").mkdir()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_folder_is_gone_when_the_context_ends_also_by_an_error(place):
    def fails() -> None:
        with scratch_folder("kdnas-test-") as folder:
            (folder / "content").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list(place.iterdir()) == []


def test_folder_of_a_process_that_runs_stays_and_goes_with_the_next_use_once_it_was_killed(place):
    (place / "kdnas-test-other").mkdir()  # not made by us, or not held yet
    (place / "kdnas-test-link").symlink_to(place / "kdnas-test-other")
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True) as process:
        theirs = place / process.stdout.readline().strip()
        with scratch_folder("kdnas-test-") as own:
            assert (theirs / "content").is_dir()
            assert (own / HELD).exists()
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    assert theirs.exists()
    with scratch_folder("kdnas-other-"):
        assert theirs.exists()
    with scratch_folder("kdnas-test-"):
        assert not theirs.exists()
    assert sorted(path.name for path in place.iterdir()) == ["kdnas-test-link", "kdnas-test-other"]
