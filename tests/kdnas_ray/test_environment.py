"""Specification of `kdnas_ray.environment`: what a run records of its surroundings, and where chatter goes."""

import logging
import os
import platform
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import pytest

from kdnas_ray.environment import cache_folder, git_commit, logs_to, ray_session, versions


def test_versions_when_recorded_then_name_python_and_the_libraries():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == metadata.version("torch")
    assert set(found) == {
        "python", "kdnas_ray", "torch", "ray", "optuna", "mlflow", "numpy", "scikit-learn", "datasets",
        "onnxruntime",
    }  # fmt: skip


def git(*words: str) -> str:
    options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
    return subprocess.run(["git", *options, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_commit_when_in_a_repository_then_is_its_head_and_says_whether_it_is_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")
    assert git_commit() == head
    (tmp_path / "a").write_text("2")
    assert git_commit() == f"{head}+changes"


def test_commit_when_outside_a_repository_or_without_git_then_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None


def test_cache_when_configured_then_comes_before_the_environment_and_that_before_the_home(monkeypatch):
    monkeypatch.setenv("KDNAS_CACHE", "/from/environment")
    assert cache_folder("/configured") == Path("/configured")
    assert cache_folder(None) == Path("/from/environment")
    monkeypatch.delenv("KDNAS_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder(None) == Path("/home/somebody/.cache/kdnas_ray")


def test_chatter_when_logged_to_a_file_then_stays_off_the_terminal_and_settings_come_back(tmp_path, capfd):
    logger = logging.getLogger("ray")
    loud = logging.StreamHandler(sys.stderr)
    before = (list(logger.handlers), logger.propagate)
    logger.addHandler(loud)
    try:
        with logs_to(tmp_path / "search.log"):
            logger.warning("a worker said something")
            logging.getLogger("ray.tune").warning("and its child too")
            warnings.warn("careful with this", UserWarning, stacklevel=1)
        assert logger.handlers == [*before[0], loud]
        assert logger.propagate == before[1]
    finally:
        logger.removeHandler(loud)
    text = (tmp_path / "search.log").read_text()
    for part in ("a worker said something", "and its child too", "careful with this"):
        assert part in text
    shown = capfd.readouterr()
    assert "said something" not in shown.out + shown.err
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", UserWarning, stacklevel=1)


def test_chatter_when_the_search_fails_then_settings_come_back_too(tmp_path):
    before = list(logging.getLogger("ray").handlers)
    with pytest.raises(RuntimeError), logs_to(tmp_path / "search.log"):
        raise RuntimeError
    assert logging.getLogger("ray").handlers == before


def test_ray_when_it_runs_already_then_is_used_and_left_running(monkeypatch):
    import ray

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a second Ray was started"))
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("somebody else's Ray was ended"))
    with ray_session(2, 1, 10**8):
        pass


@pytest.mark.parametrize(
    ("workers", "cpus_each", "cores"),
    [
        (3, 1, 3),
        (2, 0.5, 1),
        (2, 4, 8),
        (1, 0.25, 1),
        (None, 1, os.cpu_count()),
    ],
)
def test_ray_when_started_then_has_room_for_the_workers_and_is_ended(monkeypatch, workers, cpus_each, cores):
    import ray

    seen: list = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: seen.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append("ended"))
    with pytest.raises(RuntimeError, match="in the search"), ray_session(workers, cpus_each, 10**8):
        raise RuntimeError("in the search")
    assert (seen[0]["num_cpus"], seen[0]["object_store_memory"], seen[1]) == (cores, 10**8, "ended")


def test_worker_that_dies_is_told_of_in_the_log_and_not_on_the_terminal(tmp_path):
    program = """
import os, sys, time
from pathlib import Path
from kdnas_ray.environment import logs_to, ray_session

log = Path(sys.argv[1])
with logs_to(log), ray_session(1, 1, 2**27):
    import ray

    @ray.remote(max_restarts=0, max_task_retries=0)
    class Dies:
        def now(self):
            os._exit(1)

    try:
        ray.get(Dies.remote().now.remote())
    except ray.exceptions.RayActorError:
        end = time.monotonic() + 30
        while "raylet: " not in log.read_text() and time.monotonic() < end:
            time.sleep(0.1)
print("ended")
"""
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", program, log], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ended\n")
    assert "worker died" not in done.stderr
    assert "raylet: A worker died" in log.read_text()
