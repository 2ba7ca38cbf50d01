"""Specification of `trainables.lineup`: the first result waits until all workers have begun."""

import threading
import time
from pathlib import Path

import pytest

from trainables import lineup as module
from trainables.checkpoints import Checkpoints
from trainables.lineup import LinedUp, clear_lineups, lineup, lineups


class Counts(LinedUp):
    def setup(self, config):
        self.steps = 0

    def step(self):
        self.steps += 1
        return {"steps": self.steps}


@pytest.fixture
def opened():
    made = []

    def opened(config):
        made.append(Counts(config))
        return made[-1]

    yield opened
    for trainable in made:
        trainable.stop()


def test_first_result_when_all_have_begun_then_comes_and_not_before(opened, tmp_path):
    line = lineup(Checkpoints(str(tmp_path)), 2)
    folder = Path(line["folder"])
    trainable = opened({"lineup": line})
    ended = []
    thread = threading.Thread(target=lambda: ended.append(trainable.train()))
    thread.start()
    deadline = time.monotonic() + 10
    while not folder.exists() or not list(folder.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    assert not ended
    (folder / "another-worker").touch()
    thread.join(10)
    assert ended[0]["steps"] == 1
    assert trainable.train()["steps"] == 2  # only the first waits


def test_first_result_when_a_worker_never_comes_then_the_patience_ends(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    assert opened({"lineup": lineup(Checkpoints(str(tmp_path)), 5)}).train()["steps"] == 1


def test_first_result_when_nobody_lines_up_then_comes_at_once(opened):
    assert opened({}).train()["steps"] == 1


def test_folders_that_a_killed_search_left_are_found_and_removed_and_nothing_else(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    left = Path(lineup(checkpoints, 2)["folder"])
    left.mkdir()
    (left / "machine-1").touch()
    (tmp_path / "c0001").mkdir()
    assert lineups(checkpoints) == [left]
    clear_lineups(checkpoints)
    assert list(tmp_path.iterdir()) == [tmp_path / "c0001"]


def test_workers_that_see_no_common_folder_do_not_line_up(tmp_path):
    assert lineup(Checkpoints((tmp_path / "bucket").as_uri()), 5)["workers"] == 0
