"""Does a search use machines that come, outlive those that go, and lose nothing when the head itself goes?

Each machine is a network namespace with an address of its own; without the right to make those, the tests are skipped.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from e2e.launch import config_file, environment

from benchmarks.nodes import Cluster, Machine, Node, cluster, machines
from kdnas_ray.runs import read_jsonl
from trainables.model_files import save_state

pytestmark = pytest.mark.hosts

TRIALS = 6
SEARCH = {
    "teachers": [{"name": "trained", "stem": 4, "widths": [8, 8], "depths": [1, 1], "epochs": 1, "views": 1}],
    "scheduler": {"name": "asha", "max_epochs": 32, "grace_epochs": 8, "reduction_factor": 2},
    "sampler": "random",
    "constraints": {},
    "budget": {"trials": TRIALS},
    "resources": {"workers": None, "layout": "contiguous"},
    "retrain": {"top": 0},
    "tracking": {"enabled": False},
}
WORKER = "Trainable"  # part of the title of a process that trains
PATIENCE_S = 120.0


@pytest.fixture
def hosts() -> Iterator[list[Machine]]:
    with contextlib.ExitStack() as opened:
        try:
            made = opened.enter_context(machines(2))
        except PermissionError as error:
            pytest.skip(f"no network namespaces: {error}")
        yield made


@pytest.fixture
def ray_of(tmp_path) -> Iterator[Cluster]:
    folder = tmp_path / "ray"
    folder.mkdir()
    with cluster(folder) as made:
        yield made


@pytest.fixture
def started(ray_of, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `kdnas` on a head's machine, its output in the file `out`."""
    processes = []

    def start(head: Node, *words: str) -> subprocess.Popen[str]:
        with (tmp_path / "out").open("a") as file:
            processes.append(
                subprocess.Popen(
                    [*head.machine.within, sys.executable, "-m", "kdnas_ray", *words, "--address", head.address],
                    cwd=tmp_path,
                    env=environment(**ray_of.key),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait(30)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str], cwd: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert process.poll() is None, (cwd / "out").read_text()
        assert time.monotonic() < end, (cwd / "out").read_text()
        time.sleep(0.05)


def trained(run: Path) -> list[dict]:
    return [row for row in read_jsonl(run / "candidates.jsonl") if row["state"] != "rejected"]


def check_whole(rows: list[dict]) -> None:
    assert len(rows) == len({row["id"] for row in rows}) == TRIALS
    assert {row["state"] for row in rows} <= {"complete", "pruned"}


def checkpoints(run: Path) -> list[Path]:
    return list((run / "trials").glob("c*/rung.pt"))


def frozen_after_a_rung(node: Node, run: Path, process: subprocess.Popen[str], cwd: Path) -> None:
    """Wait until both that run, the node's among them, have a checkpoint, and stop the node's processes there."""

    def both() -> bool:
        if len(checkpoints(run)) < 2 or not node.named(WORKER):
            return False
        node.send(signal.SIGSTOP)
        if len(checkpoints(run)) == 2:
            return True
        node.send(signal.SIGCONT)
        return False

    wait_until(both, process, cwd)


def test_machine_that_joins_is_used_and_when_it_dies_its_candidate_goes_on_elsewhere(hosts, ray_of, started, tmp_path):
    run = tmp_path / "run"
    config_file(tmp_path, **SEARCH)
    head = ray_of.head(hosts[0], cpus=1)
    process = started(head, "search", "kdnas.yaml", "--out", "run")
    wait_until(lambda: len(checkpoints(run)) == 1, process, tmp_path)
    second = ray_of.worker(head, hosts[1], cpus=1)
    wait_until(lambda: bool(second.named(WORKER)), process, tmp_path)
    frozen_after_a_rung(second, run, process, tmp_path)
    for path in checkpoints(run):  # only who goes on from a checkpoint brings the mark to the end
        state = torch.load(path, weights_only=True)
        state["curve"][0]["marked"] = 1.0
        save_state(path, state)
    before = trained(run)
    second.kill()
    assert process.wait(PATIENCE_S) == 0, (tmp_path / "out").read_text()
    rows = trained(run)
    assert rows[: len(before)] == before
    check_whole(rows)
    assert len([row for row in rows if "marked" in row["curve"][0]]) == 1
    told = (tmp_path / "out").read_text()
    assert "Traceback" not in told
    assert "raylet" not in told


def test_head_that_dies_ends_the_search_and_resume_on_a_new_one_loses_nothing(hosts, ray_of, started, tmp_path):
    run = tmp_path / "run"
    config_file(tmp_path, **SEARCH)
    head = ray_of.head(hosts[0], cpus=1)
    worker = ray_of.worker(head, hosts[1], cpus=1)
    process = started(head, "search", "kdnas.yaml", "--out", "run")
    wait_until(lambda: len(trained(run)) >= 1 and len(checkpoints(run)) >= 1, process, tmp_path)
    head.kill()
    assert process.wait(PATIENCE_S) != 0  # Ray gives the head a minute to come back, then ends the process
    assert "Traceback" not in (tmp_path / "out").read_text()
    before = trained(run)
    worker.kill()
    again = ray_of.head(hosts[0], cpus=1)
    ray_of.worker(again, hosts[1], cpus=1)
    process = started(again, "resume", "run")
    assert process.wait(PATIENCE_S) == 0, (tmp_path / "out").read_text()
    rows = trained(run)
    assert rows[: len(before)] == before
    check_whole(rows)
