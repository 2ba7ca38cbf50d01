"""Specification of `kdnas_ray.spent`: the parts of a run's wall time, from its folder alone."""

import json
import time

import pytest
from typer.testing import CliRunner

from kdnas_ray.cli import app
from kdnas_ray.report import write_report
from kdnas_ray.runs import append_jsonl, read_state, write_config, write_state
from kdnas_ray.spent import Work, profile, spend, spending
from search_spaces import KdnasError


@pytest.fixture
def run(tmp_path):
    write_config(tmp_path, {})
    return tmp_path


def seconds(run) -> dict[str, float]:
    return {part.name: part.seconds for part in profile(run)}


def searched(run, workers: int, wall_s: float, work: Work, train_s: float) -> None:
    write_state(run, {**read_state(run), "workers": workers, "search_wall_s": wall_s, "work": work.to_json()})
    append_jsonl(run / "candidates.jsonl", {"id": "c0000", "state": "complete", "train_s": train_s, "curve": []})


def test_profile_when_nothing_happened_then_is_empty(run):
    assert profile(run) == []


def test_profile_when_it_is_no_run_folder_then_says_so(tmp_path):
    with pytest.raises(KdnasError):
        profile(tmp_path / "none")


def test_search_phase_is_divided_among_workers_and_adds_up_to_its_wall_time(run):
    work = Work(starting_s=4.0, steps_s=20.0, saving_s=1.0, sampling_s=0.5, writing_s=0.25)
    searched(run, workers=2, wall_s=16.0, work=work, train_s=17.0)
    found = seconds(run)
    assert found == {"starting": 2.0, "training": 8.5, "preparing": 1.0, "saving": 0.5, "idle": 4.0}
    assert sum(found.values()) == 16.0
    assert "drew proposals for 0.5 s" in profile(run)[-1].what


def test_search_that_ended_before_any_step_was_starting_its_workers(run):
    searched(run, workers=2, wall_s=20.0, work=Work(), train_s=0.0)
    assert seconds(run) == {"starting": 20.0, "training": 0.0, "preparing": 0.0, "saving": 0.0, "idle": 0.0}


def test_simulated_seconds_of_training_are_not_taken_for_real_ones(run):
    searched(run, workers=1, wall_s=3.0, work=Work(steps_s=1.0), train_s=5000.0)
    assert seconds(run)["training"] == 1.0
    assert seconds(run)["preparing"] == 0.0


def test_first_step_of_a_worker_waited_for_its_start_and_no_later_one():
    work = Work()
    work.stepped("a:1", seconds=2.0, saving=0.0, training=1.5, since_handed=7.0)
    work.stepped("a:1", seconds=2.0, saving=0.5, training=5000.0, since_handed=9.0)  # simulated
    work.stepped("b:1", seconds=1.0, saving=0.0, training=0.5, since_handed=4.0)
    assert (work.starting_s, work.steps_s, work.saving_s, work.training_s) == (8.0, 5.0, 0.5, 3.5)


def test_training_of_candidates_that_have_not_ended_is_training_all_the_same(run):
    searched(run, workers=1, wall_s=3.0, work=Work(steps_s=2.0, training_s=1.5), train_s=0.0)
    assert seconds(run)["training"] == 1.5


def test_command_says_whose_seconds_these_are(run):
    spend(run, "teacher", 3.0)
    said = []
    for state in (
        {"sessions": 1, "open": False},
        {"sessions": 3, "killed": 1, "open": False},
        {"sessions": 1, "open": True},
    ):
        write_state(run, {**read_state(run), **state})
        said.append(" ".join(CliRunner().invoke(app, ["profile", str(run)]).output.split()))
    assert "session" not in said[0]
    assert "Summed over 3 sessions of the run; 1 of them killed" in said[1]
    assert "runs, or was killed" in said[2]


def test_phases_add_up_over_sessions_and_come_in_the_order_in_which_they_happen(run):
    spend(run, "finalists", 3.0)
    spend(run, "teacher", 1.0)
    with spending(run, "teacher"):
        time.sleep(0.01)
    found = seconds(run)
    assert list(found) == ["teacher", "finalists"]
    assert 1.01 <= found["teacher"] < 1.5


def test_phase_that_fails_is_counted(run):
    with pytest.raises(ValueError, match="x"), spending(run, "bank"):
        raise ValueError("x")
    assert "bank" in seconds(run)


def test_work_of_an_earlier_session_is_gone_on_with(run):
    write_state(run, {"work": Work(steps_s=5.0).to_json()})
    assert Work.of(read_state(run)).steps_s == 5.0


def test_command_prints_each_part_with_its_share_and_as_json_for_scripts(run):
    spend(run, "teacher", 3.0)
    spend(run, "finalists", 1.0)
    printed = CliRunner().invoke(app, ["profile", str(run)]).output
    assert "75.0%" in printed
    rows = json.loads(CliRunner().invoke(app, ["profile", str(run), "--json"]).output)
    assert [(row["name"], row["seconds"]) for row in rows] == [("teacher", 3.0), ("finalists", 1.0)]


def test_report_shows_the_same_parts(run):
    assert "Where the time went" not in write_report(run).read_text()
    spend(run, "teacher", 3.0)
    spend(run, "finalists", 1.0)
    page = write_report(run).read_text()
    assert "Where the time went" in page
    assert "<td>75.00 %</td>" in page or "<td>75.00%</td>" in page
