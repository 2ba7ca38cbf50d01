"""Specification of `kdnas_ray.doctor`: what a crash left apart is found, and mended from the run folder."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from kdnas_ray import search
from kdnas_ray.adapter import STATES
from kdnas_ray.doctor import examine, repair
from kdnas_ray.driver import resume
from kdnas_ray.live import Narrator
from kdnas_ray.runs import append_jsonl, lock, read_jsonl, read_tracking
from kdnas_ray.study import FILE, open_study, read_trials
from kdnas_ray.tracking import OUTBOX
from search_spaces import KdnasError, RunError
from trainables.checkpoints import Checkpoints
from trainables.lineup import lineup

pytestmark = pytest.mark.usefixtures("one_ray")


@pytest.fixture(scope="module")
def finished(table_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    tracked = {"tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}"}}
    search(table_config("budget.trials=6", "sampler=random", **tracked), folder / "run", Narrator())
    return folder


@pytest.fixture
def broken(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished run, and of its tracking store, to be broken."""
    for path in finished.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    told = (tmp_path / "run/tracking.json").read_text()
    for name in ("tracking.json", "tracking_runs.jsonl", "config.yaml"):
        path = tmp_path / "run" / name
        path.write_text(path.read_text().replace(read_tracking(finished / "run")["store"], store))
    assert told != (tmp_path / "run/tracking.json").read_text()
    return tmp_path / "run"


def mended(run: Path, *expected: str) -> None:
    """The doctor finds these, and nothing more once it has mended them."""
    found = [f"{finding.where}: {finding.what}" for finding in examine(run)]
    assert len(found) == len(expected)
    for words in expected:
        assert any(words in text for text in found), found
    _, left = repair(run)
    assert left == []
    assert examine(run) == []


def killed(run: Path) -> None:
    """As if the search's process had died before it could say that it ends."""
    path = run / OUTBOX
    path.write_text(
        "".join(
            line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["type"] != "search_ended"
        )
    )
    told = read_tracking(run)
    facts = next(iter(told["stores"].values())) | {"offset": path.stat().st_size}
    (run / "tracking.json").write_text(json.dumps({**told, "stores": {told["store"]: facts}}))


def in_mlflow(run: Path) -> dict[str, str]:
    client = MlflowClient(read_tracking(run)["store"])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`mlflow.parentRunId` != ''")
    assert len(runs) == len({found.data.tags["kdnas.candidate"] for found in runs})
    return {found.data.tags["kdnas.candidate"]: found.data.tags["kdnas.state"] for found in runs}


def trained(run: Path) -> dict[str, str]:
    rows = read_jsonl(run / "candidates.jsonl")
    return {row["id"]: row["state"] for row in rows if row["state"] != "rejected"}


def test_run_that_ended_well_agrees(broken):
    assert examine(broken) == []
    assert in_mlflow(broken) == trained(broken)


def test_candidate_that_ended_and_the_study_does_not_know_is_told(broken):
    name = next(iter(trained(broken)))
    lines = (broken / FILE).read_text().splitlines(keepends=True)
    told = [
        line for line in lines if json.loads(line)["op_code"] == 6 and json.loads(line).get("trial_id") == int(name[1:])
    ]
    (broken / FILE).write_text("".join(line for line in lines if line != told[-1]))
    mended(broken, "study: 1 candidate ended and the study does not know")
    assert read_trials(broken)[int(name[1:])].state is STATES[trained(broken)[name]]


def test_folders_in_which_workers_of_a_killed_search_lined_up_are_removed(broken):
    left = Path(lineup(Checkpoints(str(broken / "trials")), 2)["folder"])
    left.mkdir(parents=True)
    (left / "machine-1").touch()
    mended(broken, "checkpoints: a search that was killed left 1 folder(s) of its workers in trials/")
    assert not left.exists()


def test_candidate_that_was_being_proposed_is_closed_as_failed(broken):
    study = open_study(broken, RandomSampler(), ["val_accuracy"], [StudyDirection.MAXIMIZE])
    study.ask()
    mended(broken, "study: 1 candidate were being proposed when the process died")
    assert read_trials(broken)[-1].state is TrialState.FAIL


def test_study_that_lost_its_end_gets_its_trials_back_and_the_search_goes_on_without_a_number_twice(broken):
    lines = (broken / FILE).read_text().splitlines(keepends=True)
    created = [place for place, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    (broken / FILE).write_text("".join(lines[: created[2]]))
    before = trained(broken)
    with pytest.raises(RunError, match="doctor"):
        resume(broken, ["budget.trials=8"], Narrator())
    repair(broken)
    assert examine(broken) == []
    resume(broken, ["budget.trials=8"], Narrator())
    rows = read_jsonl(broken / "candidates.jsonl")
    assert len(rows) == len({row["id"] for row in rows})
    assert before.items() <= trained(broken).items()
    assert len(trained(broken)) == 8
    assert examine(broken) == []


def test_lines_that_were_lost_come_back_from_the_study(broken):
    path = broken / "candidates.jsonl"
    before = {row["id"]: row for row in read_jsonl(path)}
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1][:40] + "\n", *lines[2:]]))
    name = json.loads(lines[1])["id"]
    mended(broken, "1 line of candidates.jsonl cannot be read", "no line in candidates.jsonl")
    again = {row["id"]: row for row in read_jsonl(path)}[name]
    for key in ("state", "architecture", "recipe", "seed", "epochs", "val_accuracy", "curve", "params", "flops"):
        assert again[key] == before[name][key], key
    assert (broken / "candidates.jsonl.before-repair").exists()


def test_candidate_with_two_lines_keeps_the_first(broken):
    path = broken / "candidates.jsonl"
    first = read_jsonl(path)[0]
    append_jsonl(path, {**first, "val_accuracy": 0.0})
    mended(broken, "1 line of candidates.jsonl repeat a candidate")
    assert [row["val_accuracy"] for row in read_jsonl(path) if row["id"] == first["id"]] == [first["val_accuracy"]]


def test_search_that_was_killed_does_not_go_on_in_mlflow_for_ever(broken):
    killed(broken)
    client = MlflowClient(read_tracking(broken)["store"])
    parent = next(iter(read_tracking(broken)["stores"].values()))["parent"]
    client.update_run(parent, status="RUNNING")
    mended(broken, "MLflow: the search was killed")
    assert client.get_run(parent).info.status == "KILLED"


@pytest.mark.parametrize("lost", ["a candidate", "the search", "the whole store"])
def test_runs_that_mlflow_lost_are_sent_again_and_none_twice(broken, lost):
    store = read_tracking(broken)["store"]
    if lost == "the whole store":
        Path(store.removeprefix("sqlite:///")).unlink()
        mlflow.set_tracking_uri(None)
    else:
        client = MlflowClient(store)
        parent = next(iter(read_tracking(broken)["stores"].values()))["parent"]
        child = read_jsonl(broken / "tracking_runs.jsonl")[0]["run_id"]
        client.delete_run(child if lost == "a candidate" else parent)
    mended(broken, "MLflow: ")
    if lost != "the search":
        assert in_mlflow(broken) == trained(broken)


def test_records_that_were_not_sent_are(broken):
    told = read_tracking(broken)
    facts = next(iter(told["stores"].values()))
    (broken / "tracking.json").write_text(json.dumps({**told, "stores": {told["store"]: {**facts, "offset": 0}}}))
    mended(broken, "records have not been sent")
    assert in_mlflow(broken) == trained(broken)


def test_store_that_cannot_be_asked_is_said_and_left_alone(broken):
    path = Path(read_tracking(broken)["store"].removeprefix("sqlite:///"))
    path.write_bytes(b"no database" * 100)
    found, left = repair(broken)
    assert found == left
    assert "MLflow" in left[0].where
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(path).execute("select 1 from runs")


def test_damaged_checkpoint_of_an_open_candidate_and_that_of_one_that_ended_are_removed(broken):
    ended, begun = next(iter(trained(broken))), f"c{len(read_trials(broken)):04d}"
    for name in (ended, begun):
        (broken / "trials" / name).mkdir(parents=True)
        (broken / "trials" / name / "rung.pt").write_bytes(b"half")
    mended(
        broken, "checkpoints of 1 candidate that ended", "1 candidate will start again", "study: 1 candidate missing"
    )
    assert read_trials(broken)[-1].state is TrialState.FAIL  # its number is not given away again
    assert not (broken / "trials" / ended).exists()


def test_candidate_whose_end_was_written_in_the_run_folder_alone_is_told_to_mlflow_once(broken):
    path, name = broken / OUTBOX, next(iter(trained(broken)))
    ends = [
        line
        for line in path.read_text().splitlines(keepends=True)
        if '"candidate_ended"' in line and json.loads(line)["id"] == name
    ]
    path.write_text(path.read_text().replace(ends[0], ""))
    told = read_tracking(broken)
    facts = next(iter(told["stores"].values())) | {"offset": path.stat().st_size}
    (broken / "tracking.json").write_text(json.dumps({**told, "stores": {told["store"]: facts}}))
    mended(broken, "MLflow: 1 candidate ended and it was not told")
    assert (
        sum('"candidate_ended"' in line and json.loads(line)["id"] == name for line in path.read_text().splitlines())
        == 1
    )


def test_trial_that_waits_in_an_older_copy_of_the_study_is_told_by_doctor_and_by_resume(broken, tmp_path):
    lines = (broken / FILE).read_text().splitlines(keepends=True)
    name = list(trained(broken))[-1]
    number = int(name[1:])
    own = [line for line in lines if json.loads(line).get("trial_id") == number]
    (broken / FILE).write_text("".join(line for line in lines if line not in own))
    study = open_study(broken, RandomSampler(), ["val_accuracy"], [StudyDirection.MAXIMIZE])
    trial_id = study.trials[number]._trial_id
    (broken / FILE).write_text(
        (broken / FILE).read_text()
        + json.dumps({"op_code": 6, "worker_id": "w", "trial_id": trial_id, "state": 4, "values": None})
        + "\n"
    )
    assert read_trials(broken)[number].state is TrialState.WAITING
    mended(broken, "study: 1 candidate ended and the study does not know")
    assert read_trials(broken)[number].state is STATES[trained(broken)[name]]


def test_lost_line_of_a_proposal_that_was_told_again_is_no_second_candidate(broken):
    study = open_study(broken, RandomSampler(), ["val_accuracy"], [StudyDirection.MAXIMIZE])
    first = read_jsonl(broken / "candidates.jsonl")[0]
    trial = study.ask()
    again = {name: first[name] for name in ("architecture", "recipe", "seed")} | {"id": f"c{trial.number:04d}"}
    for name, value in {"candidate": again, "same_as": first["id"], "curve": first["curve"], "params": 1}.items():
        trial.set_user_attr(name, value)
    study.tell(trial, first["val_accuracy"])
    before = trained(broken)
    mended(broken, "run folder: 1 candidate that the study knows as ended")
    assert trained(broken) == before


def test_run_that_was_told_to_another_store_is_not_sent_to_this_one(broken, monkeypatch):
    config = broken / "config.yaml"
    config.write_text(config.read_text().replace(read_tracking(broken)["store"], "sqlite:////nowhere/other.db"))
    found, left = repair(broken)
    assert found == left
    assert "MLFLOW_TRACKING_URI" in found[0].what


def test_study_that_is_gone_is_made_again_and_the_search_goes_on(broken):
    (broken / FILE).unlink()
    with pytest.raises(RunError, match="doctor"):
        resume(broken, ["budget.trials=7"], Narrator())
    before = trained(broken)
    mended(broken, "study: there is no study.journal beside ")
    resume(broken, ["budget.trials=7"], Narrator())
    assert before.items() <= trained(broken).items()
    assert len(trained(broken)) == 7


def test_study_that_cannot_be_read_is_left_to_a_person(broken):
    lines = (broken / FILE).read_text().splitlines(keepends=True)
    (broken / FILE).write_text("".join([lines[0].replace("op_code", "code"), *lines[1:]]))
    (finding,) = examine(broken)
    assert (finding.where, finding.mend) == ("study", None)
    assert "put back a copy" in finding.remedy


def test_run_on_which_a_process_works_is_left_alone(broken, tmp_path):
    with lock(broken), pytest.raises(KdnasError, match="another process"):
        repair(broken)
    with pytest.raises(KdnasError, match="not a run folder"):
        examine(tmp_path)


def test_command_tells_by_its_exit_code_whether_all_agree(broken):
    def doctor(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "kdnas_ray", "doctor", str(broken), *words], capture_output=True, text=True
        )

    killed(broken)
    assert doctor("--json").returncode == 1
    told = json.loads(doctor("--json").stdout)
    assert [(fact["where"], fact["mended"]) for fact in told] == [("MLflow", False)]
    assert doctor("--repair").returncode == 0
    done = doctor()
    assert (done.returncode, done.stdout) == (0, "Run folder, study, checkpoints and MLflow agree.\n")
