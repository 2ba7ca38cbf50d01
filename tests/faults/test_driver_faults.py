"""Does a search lose nothing when its own process, Ray, the disk or a file fails?"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from e2e.launch import config_file, kdnas, kill_tree, lines, start_kdnas, wait_until

from kdnas_ray.doctor import examine, repair

SEARCH = {
    "scheduler": {"name": "asha", "max_epochs": 18, "grace_epochs": 2, "reduction_factor": 3},
    "budget": {"trials": 14},
    "retrain": {"top": 0},
}
KILLS = 10


def trained(run: Path) -> list[dict]:
    return [row for row in lines(run / "candidates.jsonl") if row["state"] != "rejected"]


def check_whole(run: Path, trials: int = 14) -> None:
    """Every candidate ended once, and folder, study and MLflow agree."""
    rows = trained(run)
    assert len(rows) == len({row["id"] for row in rows}) == trials
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert repair(run)[1] == []  # what MLflow was not told before the last kill is sent
    assert examine(run) == []


@pytest.mark.slow
def test_driver_that_is_killed_ten_times_at_any_moment_loses_and_repeats_nothing(tmp_path):
    moments, run = random.Random(7), tmp_path / "run"
    config_file(tmp_path, **SEARCH)
    before: list[dict] = []
    killed = 0
    while killed < KILLS:
        words = ("resume", "run") if (run / "config.yaml").exists() else ("search", "kdnas.yaml", "--out", "run")
        process = start_kdnas(*words, "budget.trials=14", cwd=tmp_path)
        try:
            printed, _ = process.communicate(timeout=moments.uniform(2, 16))
        except subprocess.TimeoutExpired:
            kill_tree(process)
            killed += 1
        else:
            assert process.returncode == 0, printed
            break
        path = run / "candidates.jsonl"
        now = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        assert now[: len(before)] == before
        before = now
    done = kdnas("resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(run / "candidates.jsonl")[: len(before)] == before
    check_whole(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_search_whose_ray_is_killed_loses_nothing_and_can_be_resumed(tmp_path, name):
    process, run = (
        start_kdnas("search", config_file(tmp_path, **SEARCH), "budget.trials=40", "--out", "run", cwd=tmp_path),
        tmp_path / "run",
    )
    wait_until(lambda: len(lines(run / "candidates.jsonl")) >= 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    next(child for child in children if child.name() == name).kill()
    try:
        printed, _ = process.communicate(timeout=150)
    finally:
        for child in children:
            if child.is_running():
                child.kill()
    assert "Traceback" not in printed
    before = trained(run)
    assert len(before) == 40 or process.returncode != 0  # workers may bring it to its end without their raylet
    done = kdnas("resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(run)[: len(before)] == before
    check_whole(run, trials=40)


@pytest.mark.slow
def test_search_that_is_ended_far_from_a_rung_keeps_the_epochs_that_were_trained(tmp_path):
    run, long = tmp_path / "run", {"scheduler": {"name": "full", "max_epochs": 400}, "budget": {"trials": 2}}
    process = start_kdnas("search", config_file(tmp_path, **SEARCH | long), "--out", "run", cwd=tmp_path)
    wait_until(lambda: (run / "study.journal").exists() and "candidate" in (run / "study.journal").read_text(), process)
    time.sleep(15)  # workers start, and train
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    printed, _ = process.communicate(timeout=90)
    assert process.returncode == 130, printed
    assert time.monotonic() - asked < 30
    assert trained(run) == []
    kept = [torch.load(path, weights_only=True) for path in (run / "trials").glob("*/rung.pt")]
    assert len(kept) == 2
    assert all(0 < len(state["curve"]) < 400 for state in kept)
    done = kdnas("resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    check_whole(run, trials=2)
    first = {json.dumps(state["curve"][0]) for state in kept}
    assert {json.dumps(row["curve"][0]) for row in trained(run)} == first


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(os.urandom(4096))


@pytest.mark.slow
def test_search_whose_disk_is_full_ends_with_a_word_and_goes_on_when_there_is_room(tmp_path, small_disk):
    config, run = config_file(tmp_path, **SEARCH | {"tracking": {"enabled": False}}), small_disk / "run"
    process = start_kdnas("search", config, "--out", run, cwd=tmp_path)
    wait_until(lambda: len(lines(run / "candidates.jsonl")) >= 3, process)
    ballast = small_disk / "ballast"
    fill(ballast)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert "No space left" in printed
    assert "Traceback" not in printed
    before = trained(run)
    ballast.unlink()
    done = kdnas("resume", run, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(run)[: len(before)] == before
    check_whole(run)


@pytest.mark.slow
def test_two_processes_never_work_on_one_run_and_the_clock_may_be_set_back(tmp_path):
    process, run = (
        start_kdnas("search", config_file(tmp_path, **SEARCH), "--out", "run", cwd=tmp_path),
        tmp_path / "run",
    )
    wait_until(lambda: len(lines(run / "candidates.jsonl")) >= 1, process)
    second = kdnas("resume", "run", cwd=tmp_path)
    assert second.returncode == 2
    assert "another process works on this run" in second.stderr
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert time.monotonic() - asked < 45
    for path in run.rglob("*"):  # as if all had been written tomorrow
        os.utime(path, (time.time() + 86400,) * 2)
    before = trained(run)
    done = kdnas("resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(run)[: len(before)] == before
    check_whole(run)


@pytest.mark.slow
def test_bank_of_which_a_byte_flipped_is_computed_again(tmp_path):
    config = config_file(tmp_path, **SEARCH | {"budget": {"trials": 1}, "scheduler": {"name": "full", "max_epochs": 2}})
    assert kdnas("search", config, "--out", "run", cwd=tmp_path).returncode == 0
    (bank,) = (tmp_path / "cache").rglob("bank.safetensors")
    good = bank.read_bytes()
    bank.write_bytes(good[:-7] + bytes([good[-7] ^ 1]) + good[-6:])
    shutil.rmtree(tmp_path / "run")
    done = kdnas("search", config, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bank.read_bytes() == good
