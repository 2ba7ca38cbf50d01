"""Specification of `trainables.slot`: trainings run side by side, a measurement runs alone and does not starve."""

import threading
import time
from collections.abc import Callable

import pytest

from search_spaces import KdnasError
from trainables import slot
from trainables.slot import WAITING, exclusive, told_once, training


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    return thread


def test_measurement_waits_for_all_that_train_and_who_comes_meanwhile_waits_for_it(tmp_path):
    order: list[str] = []

    def measures() -> None:
        with exclusive(tmp_path):
            order.append("measured")

    def trains() -> None:
        with training(tmp_path):
            order.append("trained later")

    with training(tmp_path), training(tmp_path):  # any number side by side
        threads = [started(measures), started(trains)]
        order.append("trained")
    for thread in threads:
        thread.join(timeout=10)
    assert order == ["trained", "measured", "trained later"]


def test_training_goes_on_where_no_lock_can_be_taken(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with training(tmp_path / "file"):
        pass
    assert "will be disturbed" in caplog.text


def test_slot_is_this_machines_and_of_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(slot.tempfile, "gettempdir", lambda: str(tmp_path))
    with exclusive(), exclusive(tmp_path / "another"):
        pass
    (folder,) = tmp_path.glob("kdnas-slot-*")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_measurement_that_waits_says_so_once_and_ends_when_it_is_interrupted(tmp_path):
    said: list[str] = []
    say = told_once(said.append)
    looks = iter(range(3))

    def waiting() -> None:
        say()
        if next(looks) == 2:  # the handler of a signal left a note
            raise KeyboardInterrupt

    with training(tmp_path), pytest.raises(KeyboardInterrupt), exclusive(tmp_path, waiting):
        pass
    assert said == [WAITING]
    with exclusive(tmp_path, waiting):  # nothing of it is left
        pass


def test_measurement_where_no_lock_can_be_made_is_refused_in_words(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(slot.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    with pytest.raises(KdnasError, match="locks of measurements"), exclusive():
        pass
