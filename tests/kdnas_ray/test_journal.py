"""Specification of `kdnas_ray.journal`: every event is on disk at once, and a second session knows of it."""

import pytest

from kdnas_ray.journal import ENDED, Journal, Progress, flat, unfinished
from kdnas_ray.runs import read_jsonl, read_state

COSTS = {"params": 1000, "flops": 50_000}


@pytest.fixture
def journal(run):
    def open_() -> Journal:
        return Journal(run, Progress(budget=10, rungs=(1, 3)))

    return open_


def events(run) -> list[tuple[str, str]]:
    return [(record["type"], record["id"]) for record in read_jsonl(run / "tracking.jsonl")]


def test_candidate_when_ended_then_its_line_holds_what_scripts_rely_on(journal, run, candidate, curve):
    kept = journal()
    kept.started(candidate(), COSTS)
    kept.ended(candidate(), "complete", curve(0.5, 0.6, 0.7), 4.0)
    (row,) = read_jsonl(run / "candidates.jsonl")
    assert row == candidate().to_json() | {
        "state": "complete",
        "epochs": 3,
        "val_accuracy": 0.7,
        "params": 1000,
        "flops": 50_000,
        "curve": curve(0.5, 0.6, 0.7),
        "reason": None,
        "train_s": 4.0,
        "started_s": row["started_s"],
        "ended_s": row["ended_s"],
    }
    assert 0 <= row["started_s"] <= row["ended_s"]


def test_events_when_they_happen_then_are_written_for_mlflow_in_order(journal, run, candidate, curve):
    kept = journal()
    kept.started(candidate(), COSTS)
    kept.rung(candidate(), curve(0.5))
    kept.ended(candidate(), "pruned", curve(0.5), 1.0)
    started, rung, ended = read_jsonl(run / "tracking.jsonl")
    assert (started["type"], rung["type"], ended["type"]) == ("candidate_started", "rung", "candidate_ended")
    assert started["metrics"] == COSTS
    assert started["params"]["width"] == 8
    assert started["params"]["alpha"] == 0.7
    assert started["params"]["temperature.schedule"] == "linear"
    assert started["params"]["terms.1.tap"] == "stage2"
    assert started["params"]["seed"] == 100
    assert rung["epoch"] == 1
    assert (ended["state"], ended["candidates"]) == ("pruned", 1)
    assert all(record["time_ms"] > 1.7e12 for record in (started, rung, ended))


def test_rung_when_reached_then_only_new_epochs_are_sent(journal, run, candidate, curve):
    kept = journal()
    kept.started(candidate(), COSTS)
    kept.rung(candidate(), curve(0.5))
    kept.rung(candidate(), curve(0.5))
    kept.rung(candidate(), curve(0.5, 0.6, 0.7))
    sent = [[p["epoch"] for p in r["curve"]] for r in read_jsonl(run / "tracking.jsonl") if r["type"] == "rung"]
    assert sent == [[1], [2, 3]]
    assert kept.progress.reached == {1: 1, 3: 1}


def test_candidate_when_it_goes_on_after_a_resume_then_is_not_announced_again(journal, run, candidate, curve):
    journal().started(candidate(), COSTS)
    again = journal()
    again.started(candidate(), COSTS, reported=1)
    assert again.progress.reached == {1: 1}
    again.rung(candidate(), curve(0.5, 0.6, 0.7))
    assert events(run) == [("candidate_started", "c0000"), ("rung", "c0000")]
    assert [point["epoch"] for point in read_jsonl(run / "tracking.jsonl")[1]["curve"]] == [2, 3]


def test_progress_when_candidates_end_then_counts_them_by_state(journal, candidate, curve):
    kept = journal()
    for number, (state, accuracies) in enumerate(
        [("complete", (0.5, 0.6, 0.7)), ("pruned", (0.3,)), ("failed", ()), ("complete", (0.5, 0.6, 0.8))]
    ):
        kept.started(candidate(number), COSTS)
        assert kept.progress.running == 1
        kept.ended(candidate(number), state, curve(*accuracies), 1.0, "NaN" if state == "failed" else None)
    kept.rejected(candidate(9), COSTS, "too large")
    progress = kept.progress
    assert progress.ended == {"complete": 2, "pruned": 1, "failed": 1, "rejected": 1}
    assert set(progress.ended) == set(ENDED)
    assert (progress.trained, progress.running) == (4, 0)
    assert progress.stopped == {1: 1}
    assert progress.best == (0.8, "c0003", 1000)


def test_best_when_accuracies_are_equal_then_is_the_smaller_one(journal, candidate, curve):
    kept = journal()
    for number, params in enumerate((1000, 500, 800)):
        kept.started(candidate(number), {"params": params, "flops": 1})
        kept.ended(candidate(number), "complete", curve(0.5, 0.6, 0.7), 1.0)
    assert kept.progress.best == (0.7, "c0001", 500)


def test_session_when_a_second_one_opens_then_knows_rows_counts_rungs_and_time(journal, run, candidate, curve):
    kept = journal()
    for number, accuracies in enumerate([(0.5, 0.6, 0.7), (0.3,)]):
        kept.started(candidate(number), COSTS)
        kept.rung(candidate(number), curve(*accuracies[:1]))
        if len(accuracies) == 3:
            kept.rung(candidate(number), curve(*accuracies))
        kept.ended(candidate(number), "complete" if len(accuracies) == 3 else "pruned", curve(*accuracies), 1.0)
    kept.rejected(candidate(2), COSTS, "too large")
    again = journal()
    assert list(again.rows) == ["c0000", "c0001", "c0002"]
    assert again.progress.ended == kept.progress.ended
    assert again.progress.reached == kept.progress.reached == {1: 2, 3: 1}
    assert again.progress.stopped == {1: 1}
    assert again.progress.best == kept.progress.best
    assert again.progress.ended_before == 2
    assert again.search_s() >= read_state(run)["search_wall_s"] > 0


def test_rejected_candidate_when_written_then_is_not_sent_to_mlflow(journal, run, candidate):
    journal().rejected(candidate(), COSTS, "params 1,000 (at most 500)")
    (row,) = read_jsonl(run / "candidates.jsonl")
    assert (row["state"], row["reason"], row["epochs"]) == ("rejected", "params 1,000 (at most 500)", 0)
    assert row["params"] == 1000
    assert events(run) == []


def test_checkpoint_when_its_candidate_ends_then_is_removed_and_others_stay(journal, run, candidate, curve):
    kept = journal()
    for number in (0, 1):
        (run / "trials" / f"c{number:04d}").mkdir(parents=True)
        kept.started(candidate(number), COSTS)
    kept.ended(candidate(0), "pruned", curve(0.5), 1.0)
    assert [path.name for path in (run / "trials").iterdir()] == ["c0001"]


def test_candidate_when_suspended_then_no_longer_runs_and_has_no_line(journal, run, candidate):
    kept = journal()
    kept.started(candidate(), COSTS)
    kept.suspended()
    assert kept.progress.running == 0
    assert not (run / "candidates.jsonl").exists()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": {"b": 1, "c": {"d": None}}}, {"a.b": 1, "a.c.d": None}),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a.0.b": 1, "a.1.b": 2}),
        ({"a": [1, 2], "b": (), "c": []}, {"a": "[1, 2]", "b": "[]", "c": "[]"}),
        ({}, {}),
    ],
)
def test_flat_when_data_is_nested_then_has_dotted_keys(data, expected):
    assert flat(data) == expected


def step(
    trial: str, iteration: int, pid: int = 1, seconds: float = 0.0, save_s: float = 0.0, train_s: float = 0.0
) -> dict:
    """What Ray Tune hands on of a step, as far as the journal reads it."""
    where = {"trial_id": trial, "training_iteration": iteration, "hostname": "here", "pid": pid}
    return where | {"time_this_iter_s": seconds, "save_s": save_s, "train_s": train_s}


def test_training_when_a_candidate_has_not_ended_then_is_counted_step_by_step(journal, candidate):
    kept = journal()
    kept.started(candidate(), COSTS)
    kept.stepped(candidate(), step("a", 1, seconds=2.0, train_s=1.5))
    kept.stepped(candidate(), step("a", 2, seconds=3.0, train_s=4.0))
    assert kept.work.training_s == 4.0


def test_unfinished_when_candidates_wait_then_names_the_best_of_them(journal, run, candidate, curve):
    kept = journal()
    assert unfinished(run, []) is None
    for number in range(4):
        kept.started(candidate(number), COSTS)
    kept.rung(candidate(1), curve(0.3, 0.5))
    kept.rung(candidate(2), curve(0.7))
    kept.rung(candidate(0), curve(0.9))
    kept.ended(candidate(0), "pruned", curve(0.9), 1.0)
    found = unfinished(run, ["c0000"])
    best = {"id": "c0002", "epoch": 1, "val_accuracy": 0.7}
    assert found == {"candidates": 3, "at_a_rung": 2, "best": best}


def test_steps_when_reported_then_are_counted_once_and_kept_for_the_next_session(journal, run, candidate, curve):
    kept = journal()
    kept.started(candidate(), COSTS)
    kept.stepped(candidate(), step("a", 1, seconds=2.0, save_s=0.5))
    kept.stepped(candidate(), step("a", 1, seconds=2.0, save_s=0.5))  # Tune tells the last once more where it stops
    kept.stepped(candidate(), step("a", 2, seconds=1.0))
    kept.stepped(candidate(), {})  # a worker that died reports nothing
    kept.ended(candidate(), "complete", curve(0.5), 2.5)
    again = journal()
    assert (again.work.steps_s, again.work.saving_s) == (3.0, 0.5)
    again.started(candidate(1), COSTS)
    again.stepped(candidate(1), step("b", 1, pid=2, seconds=1.0))
    assert again.work.steps_s == 4.0


def test_steps_when_a_candidate_is_handed_out_again_then_only_that_wait_is_a_workers_start(
    journal, candidate, monkeypatch
):
    now = [0.0]
    kept = journal()
    monkeypatch.setattr(kept, "search_s", lambda: now[0])
    kept.started(candidate(), COSTS)
    now[0] = 6.0
    kept.stepped(candidate(), step("a", 1, seconds=1.0))
    assert kept.work.starting_s == 5.0
    kept.suspended()
    now[0] = 100.0
    kept.started(candidate(), COSTS, reported=1)
    now[0] = 103.0
    kept.stepped(candidate(), step("b", 1, pid=2, seconds=1.0))
    assert kept.work.starting_s == 7.0


def test_checkpoint_when_a_worker_of_a_killed_session_wrote_it_late_then_is_swept_away(journal, run, candidate, curve):
    kept = journal()
    for number in (0, 1):
        kept.started(candidate(number), COSTS)
    kept.ended(candidate(0), "complete", curve(0.5), 1.0)
    for name in ("c0000", "c0001"):
        (run / "trials" / name).mkdir(parents=True)
        (run / "trials" / name / "rung.pt").touch()
    kept.sweep()
    assert [path.name for path in (run / "trials").iterdir()] == ["c0001"]
