"""Does a search go on after everything that can end it, without losing or repeating what was computed?"""

import json
import shutil
import signal
from pathlib import Path

import optuna
import psutil
import pytest
from e2e.launch import config_file, kdnas, kill_tree, lines, start_kdnas, wait_until
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

LONG = {
    "scheduler": {"name": "asha", "max_epochs": 18, "grace_epochs": 2, "reduction_factor": 3},
    "budget": {"trials": 14},
    "retrain": {"top": 0},
    "tracking": {"enabled": False},
}


def check_complete(folder: Path, before: list[dict], trials: int) -> None:
    rows = lines(folder / "run" / "candidates.jsonl")
    assert rows[: len(before)] == before
    assert len({row["id"] for row in rows}) == len(rows)
    trained = [row for row in rows if row["state"] != "rejected"]
    assert len(trained) == trials
    assert all(row["state"] in ("complete", "pruned") for row in trained)
    storage = JournalStorage(JournalFileBackend(str(folder / "run" / "study.journal")))
    study = optuna.load_study(study_name="kdnas", storage=storage)
    # A proposal that the kill cut short never became a candidate.
    proposed = [trial for trial in study.trials if "candidate" in trial.user_attrs]
    assert sorted(f"c{trial.number:04d}" for trial in proposed) == sorted(row["id"] for row in rows)
    assert not [trial for trial in study.trials if not trial.state.is_finished()]


@pytest.mark.slow
def test_resume_goes_on_when_the_driver_was_killed(tmp_path):
    process = start_kdnas("search", config_file(tmp_path, **LONG), "--out", "run", cwd=tmp_path)
    log = tmp_path / "run" / "candidates.jsonl"
    wait_until(lambda: len(lines(log)) >= 4 and any((tmp_path / "run" / "trials").glob("*/rung.pt")), process)
    kill_tree(process)
    before = lines(log)
    assert len(before) < 14
    resumed = kdnas("resume", "run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    check_complete(tmp_path, before, trials=14)


@pytest.mark.slow
def test_resume_goes_on_when_ctrl_c_ended_the_search(tmp_path):
    process = start_kdnas("search", config_file(tmp_path, **LONG), "--out", "run", cwd=tmp_path)
    log = tmp_path / "run" / "candidates.jsonl"
    wait_until(lambda: len(lines(log)) >= 2, process)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "kdnas resume run" in printed
    assert "Traceback" not in printed
    for name in ("summary.json", "report.html", "config.yaml", "study.journal"):
        assert (tmp_path / "run" / name).exists(), name
    before = lines(log)
    resumed = kdnas("resume", "run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    check_complete(tmp_path, before, trials=14)


@pytest.mark.slow
def test_resume_goes_on_with_the_retraining_when_ctrl_c_ended_it_and_puts_the_best_back(tmp_path):
    changes = {
        "scheduler": {"name": "full", "max_epochs": 2},
        "budget": {"trials": 3},
        "retrain": {"top": 2, "epochs": 8, "seeds": 2},
        "tracking": {"enabled": False},
    }
    process = start_kdnas("search", config_file(tmp_path, **changes), "--out", "run", cwd=tmp_path)
    log, best = tmp_path / "run" / "retrained.jsonl", tmp_path / "run" / "best"
    wait_until(lambda: len(lines(log)) >= 1, process)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    before = lines(log)
    assert len(before) < 8
    assert not best.exists()
    for _ in range(2):  # the second time there is nothing left to train, but the best student was deleted
        resumed = kdnas("resume", "run", cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert lines(log)[: len(before)] == before
        assert len(lines(log)) == 8
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert json.loads((best / "candidate.json").read_text())["id"] == summary["best"]["id"]
        shutil.rmtree(best)


@pytest.mark.slow
def test_search_goes_on_when_a_worker_dies(tmp_path):
    process = start_kdnas("search", config_file(tmp_path, **LONG), "--out", "run", cwd=tmp_path)

    def workers() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "Distill" in "".join(child.cmdline())
        ]

    found: list[psutil.Process] = []  # a worker has another name while it prepares itself

    def some() -> bool:
        found[:] = workers()
        return bool(found)

    wait_until(lambda: len(lines(tmp_path / "run" / "candidates.jsonl")) >= 1 and some(), process)
    found[0].kill()
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    check_complete(tmp_path, [], trials=14)


@pytest.mark.slow
def test_search_and_resume_end_with_the_same_asha_decisions_as_an_unbroken_search(tmp_path):
    """With one worker a search repeats exactly, so an interrupted and resumed one must end like an unbroken one."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    # Random proposals: TPE would see the same history but draw with another seed after the resume.
    # The layout is named, because measured in two runs it may differ, and with it the last bits of all sums.
    resources = {"workers": 1, "layout": "contiguous"}
    changes = {**LONG, "resources": resources, "sampler": "random", "budget": {"trials": 10}}
    for folder in (whole, broken):
        folder.mkdir()
    done = kdnas("search", config_file(whole, **changes), "--out", "run", cwd=whole)
    assert done.returncode == 0, done.stdout + done.stderr
    process = start_kdnas("search", config_file(broken, **changes), "--out", "run", cwd=broken)
    wait_until(lambda: len(lines(broken / "run" / "candidates.jsonl")) >= 4, process)
    kill_tree(process)
    known = len(lines(broken / "run" / "candidates.jsonl"))
    resumed = kdnas("resume", "run", cwd=broken)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    first, second = ({r["id"]: r for r in lines(f / "run" / "candidates.jsonl")} for f in (whole, broken))
    same = [name for name in list(first)[:known] if first[name]["recipe"] == second[name]["recipe"]]
    assert len(same) >= 4
    for name in same:
        assert [p["val_accuracy"] for p in first[name]["curve"]] == [p["val_accuracy"] for p in second[name]["curve"]]
        assert first[name]["state"] == second[name]["state"]
