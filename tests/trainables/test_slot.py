"""Specification of `trainables.slot`: trainings run side by side, a measurement runs alone and does not starve."""

import threading
import time
from collections.abc import Callable

from trainables import slot
from trainables.slot import exclusive, training


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
