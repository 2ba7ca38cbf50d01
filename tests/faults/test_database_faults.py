"""Do searches whose study and MLflow lie in PostgreSQL lose nothing, several at once and while the server restarts?"""

import json
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest
from e2e.launch import config_file, kdnas, kill_tree, lines, start_kdnas, wait_until
from postgres import PASSWORD, serving

from kdnas_ray.doctor import examine, repair

TRIALS = 6
SEARCH = {
    "scheduler": {"name": "asha", "max_epochs": 4, "grace_epochs": 1, "reduction_factor": 2},
    "budget": {"trials": TRIALS},
    "retrain": {"top": 0},
}
KINDS = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


@pytest.fixture
def databases(server, monkeypatch):
    """Configuration of study and MLflow in databases of this test's own."""
    monkeypatch.setenv("PGPASSFILE", server.passfile)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two searches, each with threads for all cores, wait for each other
    number = uuid.uuid4().hex[:8]
    names = f"study{number}", f"mlflow{number}"
    server.make(*names)
    return {
        "study": {"url": server.url(names[0]), "name": "digits"},
        "tracking": {"uri": server.url(names[1])},
    }, names


@pytest.fixture
def start(tmp_path):
    """Starts `kdnas` in the background; what still runs at the end of a test is ended."""
    begun: list[subprocess.Popen] = []

    def start_(*arguments) -> subprocess.Popen:
        begun.append(start_kdnas(*arguments, cwd=tmp_path))
        return begun[-1]

    yield start_
    for process in begun:
        if process.poll() is None:
            kill_tree(process)
        process.stdout.close()


def trained(run: Path) -> dict[str, dict]:
    rows = [row for row in lines(run / "candidates.jsonl") if row["state"] != "rejected"]
    assert len(rows) == len({row["id"] for row in rows})
    return {row["id"]: row for row in rows}


def check_whole(server, databases: tuple[str, str], *runs: Path, trials: int = TRIALS) -> None:
    """Every candidate ended once, and folders, study and MLflow agree."""
    study, mlflow = databases
    rows = [trained(run) for run in runs]
    assert [len(found) for found in rows] == [trials] * len(runs)
    for run in runs:
        assert repair(run)[1] == []  # what MLflow was not told before it went away is sent
        assert examine(run) == []
    known = {
        number: (state, json.loads(owner))
        for number, state, owner in server.rows(
            study, "SELECT number, state, value_json FROM trials JOIN trial_user_attributes a USING (trial_id) "
            "WHERE a.key = 'search'"
        )
    }  # fmt: skip
    assert "RUNNING" not in {state for state, _ in known.values()}
    for run, found in zip(runs, rows, strict=True):
        owner = json.loads((run / "study.json").read_text())["search"]
        for name, row in found.items():
            assert known[int(name[1:])] == (KINDS[row["state"]], owner)
    told = server.rows(mlflow, "SELECT value FROM tags WHERE key = 'kdnas.candidate'")
    assert sorted(name for (name,) in told) == sorted(name for found in rows for name in found)


def check_secret(*folders: Path) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.hosts
def test_two_searches_at_once_on_one_study_train_nothing_twice_and_keep_their_own_candidates(
    tmp_path, server, databases, start
):
    changes, names = databases
    config = config_file(tmp_path, **SEARCH | changes | {"resources": {"workers": 1}})
    both = {name: start("search", config, f"sampler={name}", "--out", name) for name in ("tpe", "random")}
    for process in both.values():
        printed, _ = process.communicate(timeout=500)
        assert process.returncode == 0, printed
        assert PASSWORD not in printed
    runs = [tmp_path / name for name in both]
    check_whole(server, names, *runs)
    same = [
        {json.dumps([row["architecture"], row["recipe"]], sort_keys=True) for row in trained(run).values()}
        for run in runs
    ]
    assert not same[0] & same[1]
    for run, other in zip(runs, reversed(runs), strict=True):
        ranked = set(json.loads((run / "summary.json").read_text())["ranking"])
        assert ranked
        assert ranked <= set(trained(run))
        assert not ranked & set(trained(other))
    assert len(server.rows(names[0], "SELECT 1 FROM studies")) == 1
    check_secret(tmp_path)


@pytest.mark.hosts
def test_search_goes_on_and_loses_nothing_when_its_server_is_restarted_in_the_middle(
    tmp_path, server, databases, start
):
    changes, names = databases
    process, run = (
        start("search", config_file(tmp_path, **SEARCH | changes), "--out", "run"),
        tmp_path / "run",
    )
    wait_until(lambda: len(lines(run / "candidates.jsonl")) >= 1, process)
    server.control("restart", "-m", "immediate")
    wait_until(lambda: len(lines(run / "candidates.jsonl")) >= 2, process)
    server.control("stop", "-m", "immediate")
    back = threading.Timer(6, lambda: server.control("start"))
    back.start()
    printed, _ = process.communicate(timeout=400)
    back.join()
    assert process.returncode == 0, printed
    assert "database answers again" in printed
    check_whole(server, names, run)


@pytest.mark.hosts
def test_search_whose_server_stays_away_ends_with_a_word_and_the_study_catches_up_on_resume(
    tmp_path, server, databases, start
):
    changes, names = databases
    changes["study"]["patience_s"] = 2
    process, run = (
        start("search", config_file(tmp_path, **SEARCH | changes), "--out", "run"),
        tmp_path / "run",
    )
    wait_until(lambda: len(lines(run / "candidates.jsonl")) >= 2, process)
    server.control("stop", "-m", "immediate")
    try:
        printed, _ = process.communicate(timeout=300)
    finally:
        server.control("start")
    assert process.returncode == 1, printed
    assert "has not answered" in printed
    assert "kdnas resume" in printed
    assert "Traceback" not in printed
    assert PASSWORD not in printed
    before = trained(run)
    done = kdnas("resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    after = trained(run)
    assert {name: after[name] for name in before} == before
    check_whole(server, names, run)
    check_secret(tmp_path)


@pytest.mark.hosts
def test_resume_of_one_search_leaves_what_another_one_trains_alone(tmp_path, server, databases, start):
    changes, names = databases
    config = config_file(tmp_path, **SEARCH | changes | {"resources": {"workers": 1}})
    first, run = start("search", config, "sampler=random", "--out", "first"), tmp_path / "first"
    wait_until(lambda: len(lines(run / "candidates.jsonl")) >= 2, first)
    first.send_signal(signal.SIGINT)
    assert first.wait(90) == 130
    first.stdout.close()
    second = start("search", config, "sampler=random", "--out", "second")
    wait_until(lambda: len(lines(tmp_path / "second" / "candidates.jsonl")) >= 1, second)
    doctored = kdnas("doctor", "first", "--repair", cwd=tmp_path)
    assert doctored.returncode == 0, doctored.stdout + doctored.stderr
    done = kdnas("resume", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    printed, _ = second.communicate(timeout=400)
    assert second.returncode == 0, printed
    check_whole(server, names, run, tmp_path / "second")


@pytest.mark.parametrize("wrong", ["host", "password"])
def test_search_with_a_wrong_host_or_password_is_refused_before_anything_is_trained(
    tmp_path, server, databases, monkeypatch, wrong
):
    changes, _ = databases
    url = changes["study"]["url"]
    if wrong == "host":
        url = url.replace(str(server.port), "1")
    else:
        monkeypatch.setenv("STUDY", url.replace("kdnas@", "kdnas:planted-wrong@"))
        url = "env:STUDY"
    begin = time.monotonic()
    done = kdnas("search", config_file(tmp_path, **SEARCH), f"study.url={url}", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "study.url" in done.stderr
    assert ("refused" if wrong == "host" else "password authentication failed") in done.stderr
    assert "Traceback" not in done.stderr
    assert "planted" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()
    assert time.monotonic() - begin < 60
