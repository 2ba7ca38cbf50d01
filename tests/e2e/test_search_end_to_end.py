"""What does one `kdnas search` leave behind, and can everything that reads a run folder read it?"""

import json

import mlflow
import numpy as np
import optuna
import pytest
import torch
from e2e.launch import SMALL, config_file, kdnas, lines
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sklearn.datasets import load_digits

from kdnas_ray.students import load_student
from trainables.tasks import DigitsTask

ODD_NAME = "again? #1 100% {x} [bold] ü"


@pytest.fixture(scope="module")
def run(finished):
    return finished[0]


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_search_prints_the_ranking_and_where_the_report_lies(finished):
    run, printed = finished
    assert "test without KD" in printed
    assert "times smaller" in printed
    assert "Report: run/report.html" in printed
    assert "ray" not in printed.lower().replace("kdnas_ray", "")
    assert (run / "report.html").stat().st_size > 1_000_000


def test_candidates_have_one_line_each_with_the_promised_keys(run, summary):
    rows = lines(run / "candidates.jsonl")
    assert len({row["id"] for row in rows}) == len(rows)
    trained = [row for row in rows if row["state"] != "rejected"]
    assert len(trained) == SMALL["budget"]["trials"] == summary["trials"]
    for row in rows:
        keys = ("id", "state", "architecture", "recipe", "seed", "epochs", "val_accuracy", "params", "flops", "curve")
        assert set(keys) <= set(row)
        assert row["state"] in ("complete", "pruned", "failed", "rejected")
        assert len(row["curve"]) == row["epochs"]
        if row["state"] == "rejected":
            assert "at most" in row["reason"]
        else:
            assert row["params"] <= summary["constraints"]["params"]


def test_stopped_candidates_stopped_at_a_rung(run, summary):
    rows = lines(run / "candidates.jsonl")
    assert {row["epochs"] for row in rows if row["state"] == "pruned"} <= set(summary["rungs"][:-1])
    assert {row["epochs"] for row in rows if row["state"] == "complete"} == {summary["rungs"][-1]}
    assert any(row["state"] == "pruned" for row in rows)


def test_study_tells_stopped_candidates_as_pruned_with_their_curve(run):
    study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(run / "study.journal"))))
    rows = {row["id"]: row for row in lines(run / "candidates.jsonl")}
    states = {"COMPLETE": "complete", "PRUNED": ("pruned", "rejected"), "FAIL": "failed"}
    for trial in study.trials:
        row = rows[f"c{trial.number:04d}"]
        assert row["state"] in states[trial.state.name]
        assert trial.intermediate_values == {int(p["epoch"]): p["val_accuracy"] for p in row["curve"]}


def test_summary_holds_what_machines_read(summary):
    assert summary["completed"] + summary["pruned"] + summary["failed"] == summary["trials"]
    assert summary["failed"] == 0
    assert summary["workers"] == 2
    assert 0 < summary["train_s"] < summary["workers"] * summary["wall_s"]
    assert summary["utilisation"] == pytest.approx(summary["train_s"] / (2 * summary["search_wall_s"]))
    assert {"accuracy", "params", "flops"} <= set(summary["teacher"])
    best = {"architecture", "recipe", "val_accuracy", "test_accuracy", "test_accuracy_without_kd", "params", "flops"}
    assert best <= set(summary["best"])
    assert {"torch", "ray", "optuna"} <= set(summary["versions"])
    assert summary["seed"] == 0
    assert "kendall_tau" in summary


def test_finalists_are_retrained_with_and_without_kd_for_every_seed(run, summary):
    rows = lines(run / "retrained.jsonl")
    assert len(rows) == 2 * 2 * 2
    for name in {row["id"] for row in rows}:
        own = [row for row in rows if row["id"] == name]
        assert sorted((row["repeat"], row["with_kd"]) for row in own) == [
            (0, False), (0, True), (1, False), (1, True)
        ]  # fmt: skip
    finalist = summary["finalists"][0]
    scores = [row["test_accuracy"] for row in rows if row["id"] == finalist["id"] and row["with_kd"]]
    assert finalist["test_accuracy"] == pytest.approx(np.mean(scores))
    assert finalist["test_accuracy_std"] == pytest.approx(np.std(scores, ddof=1))


def test_best_student_scores_on_the_test_split_what_the_summary_says(run, summary):
    student, about = load_student(run / "best")
    test = DigitsTask().load(0).test
    images = torch.from_numpy(test.images).float() / 255
    mean, std = (torch.tensor(about[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        right = (student((images - mean) / std).argmax(1).numpy() == test.labels).mean()
    rows = lines(run / "retrained.jsonl")
    first = next(r for r in rows if r["id"] == summary["best"]["id"] and r["with_kd"] and r["repeat"] == 0)
    assert right == pytest.approx(first["test_accuracy"])


def test_splits_share_no_sample():
    data = DigitsTask().load(0)
    parts = (data.train, data.validation, data.test)
    assert sum(map(len, parts)) == len(load_digits().target)


def test_mlflow_holds_a_nested_run_for_every_candidate(run):
    rows = {row["id"]: row for row in lines(run / "candidates.jsonl") if row["state"] != "rejected"}
    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("kdnas")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.data.tags["kdnas.candidate"]: r for r in runs if r.info.run_id != parent.info.run_id}
    assert set(children) == set(rows)
    for name, child in children.items():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["kdnas.state"] == rows[name]["state"]
        assert child.info.status == "FINISHED"
        history = client.get_metric_history(child.info.run_id, "val_accuracy")
        assert sorted((m.step, m.value) for m in history) == [
            (p["epoch"], p["val_accuracy"]) for p in rows[name]["curve"]
        ]
        assert {f.path for f in client.list_artifacts(child.info.run_id)} == {"architecture.json", "recipe.json"}
    assert parent.info.status == "FINISHED"
    assert "report.html" in {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert parent.data.metrics["trials"] == len(rows)


def test_nothing_of_ray_or_finished_checkpoints_is_left_in_the_run_folder(run):
    assert not (run / "ray").exists()
    assert not list((run / "trials").glob("*"))


@pytest.mark.slow
def test_a_second_search_on_the_same_teacher_trains_and_computes_nothing_again(finished):
    run, _ = finished
    cache = run.parent / "cache"
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    again = kdnas("search", "kdnas.yaml", "budget.trials=2", "retrain.top=0", "tracking.enabled=false",
                  "--out", ODD_NAME, cwd=run.parent)  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Training the teacher" not in again.stdout
    assert "read from the cache" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before
    first, second = (lines(folder / "candidates.jsonl") for folder in (run, run.parent / ODD_NAME))
    proposals = {row["id"]: (row["architecture"], row["recipe"]) for row in first}
    assert all(proposals[row["id"]] == (row["architecture"], row["recipe"]) for row in second)


@pytest.mark.slow
def test_report_retrain_and_compare_read_the_folder(finished):
    run, _ = finished
    (run / "report.html").unlink()
    assert kdnas("report", "run", cwd=run.parent).returncode == 0
    assert (run / "report.html").exists()
    compared = kdnas("compare", "run", "run", "--json", cwd=run.parent)
    assert compared.returncode == 0, compared.stderr
    assert len(json.loads(compared.stdout)["runs"]) == 2
    retrained = kdnas("retrain", "run", "--top", "2", cwd=run.parent)
    assert retrained.returncode == 0, retrained.stdout + retrained.stderr
    assert len(lines(run / "retrained.jsonl")) == 8  # they were all done already


@pytest.mark.slow
def test_calibrate_trains_a_sample_once_and_judges_every_rung_and_proxy(finished):
    run, _ = finished
    first = kdnas("calibrate", "run", "--sample", "4", cwd=run.parent)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Kendall tau" in first.stdout
    trained = lines(run / "calibration.jsonl")
    assert {row["epochs"] for row in trained} == {SMALL["retrain"]["epochs"]}
    again = kdnas("calibrate", "run", "--sample", "4", "--judges", "params,diswot_relation", "--json", cwd=run.parent)
    assert again.returncode == 0, again.stdout + again.stderr
    assert lines(run / "calibration.jsonl") == trained  # nothing was trained twice
    found = json.loads(again.stdout)
    assert found == json.loads((run / "calibration.json").read_text())
    names = [judge["name"] for judge in found["judges"]]
    assert names == ["rung_1", "rung_2", "rung_4", "params", "diswot_relation"]
    # The same training as a finalist's first one is not repeated either.
    finalists = [r for r in lines(run / "retrained.jsonl") if r["with_kd"] and r["repeat"] == 0]
    accuracies = {row["id"]: row["val_accuracy"] for row in (*finalists, *trained)}
    assert not {row["id"] for row in finalists} & {row["id"] for row in trained}
    rows = {row["id"]: row for row in lines(run / "candidates.jsonl")}
    for candidate in found["candidates"]:
        assert candidate["accuracy"] == accuracies[candidate["id"]]
        assert candidate["scores"]["rung_1"] == rows[candidate["id"]]["curve"][0]["val_accuracy"]
    # How many of them were stopped depends on which trial came first to a rung.
    assert found["stopped_early"] == sum(
        rows[candidate["id"]]["state"] == "pruned" for candidate in found["candidates"]
    )
    assert 'id="calibration"' in (run / "report.html").read_text()


@pytest.mark.slow
def test_search_whose_features_have_no_room_asks_one_shared_teacher_for_them(tmp_path):
    changes = {
        "budget": {"trials": 2},
        "retrain": {"top": 0},
        "recipes": {"name": "simple", "hints": [True], "taps": ["stage2"]},
        "bank": {"views": 2, "max_bytes": 60_000, "overflow": "online"},
    }
    done = kdnas("search", config_file(tmp_path, **changes), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [row for row in lines(tmp_path / "run" / "candidates.jsonl") if row["state"] != "rejected"]
    assert len(rows) == 2
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
