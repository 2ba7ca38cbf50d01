"""Specification of `trainables.lineup`: the first result waits until all workers have begun."""

import threading
import time

import pytest

from trainables import lineup as lineups
from trainables.lineup import LinedUp, lineup


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
    trainable = opened({"lineup": lineup(tmp_path / "line", 2)})
    ended = []
    thread = threading.Thread(target=lambda: ended.append(trainable.train()))
    thread.start()
    deadline = time.monotonic() + 10
    while not (tmp_path / "line").exists() or not list((tmp_path / "line").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    assert not ended
    (tmp_path / "line" / "another-worker").touch()
    thread.join(10)
    assert ended[0]["steps"] == 1
    assert trainable.train()["steps"] == 2  # only the first waits


def test_first_result_when_a_worker_never_comes_then_the_patience_ends(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(lineups, "PATIENCE_S", 0.1)
    assert opened({"lineup": lineup(tmp_path / "line", 5)}).train()["steps"] == 1


def test_first_result_when_nobody_lines_up_then_comes_at_once(opened):
    assert opened({}).train()["steps"] == 1
