"""Specification of `kdnas submit`: a job on a head that runs elsewhere, with code and data that go along."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from cluster.conftest import free_port, ray_head
from PIL import Image

pytestmark = pytest.mark.slow

# A sampler of one's own, from a file that only this machine has.
OWN = """
from dataclasses import dataclass
import optuna

@dataclass(frozen=True)
class Own:
    def make(self, seed, excess, around):
        return optuna.samplers.RandomSampler(seed)
"""
SEARCH = {
    "task": {"name": "images", "path": "photos", "augmentation": {"shift": 1}},
    "sampler": "own_sampler:Own",
    "space": {"stages": 1, "stem_widths": [4], "widths": [4, 6, 8], "depths": [1]},
    "teachers": [{"widths": [4], "depths": [1], "epochs": 1}],
    "scheduler": {"max_epochs": 2, "grace_epochs": 1},
    "budget": {"trials": 2},
    "recipes": {"hints": [False]},
    "constraints": {},
    "retrain": {"top": 0},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    port = free_port()
    ports = [f"--dashboard-port={port}", *(f"--dashboard-agent-{kind}={free_port()}" for kind in PORTS)]
    with ray_head(tmp_path_factory.mktemp("head"), "--dashboard-host=127.0.0.1", *ports) as started:
        yield f"http://127.0.0.1:{port}", started.key


PORTS = ("listen-port", "grpc-port")


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for place, name in enumerate(("dark", "bright")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            pixels = draw.integers(0, 120, (8, 8, 3)) + 100 * place
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "own_sampler.py").write_text(OWN)
    (tmp_path / "kdnas.yaml").write_text(yaml.safe_dump(SEARCH))
    return tmp_path


def submitted(folder, head, *words, **changed):
    address, key = head
    command = [sys.executable, "-m", "kdnas_ray", "submit", "kdnas.yaml", "--address", address, *words]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **key, **changed}, capture_output=True, text=True, timeout=240
    )


def test_search_when_submitted_then_runs_there_with_what_went_along(head, folder):
    run = folder / "elsewhere" / "run"
    run.parent.mkdir()
    done = submitted(folder, head, "--out", str(run), "--with", "photos", "--with", "own_sampler.py", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Submitted as raysubmit_" in done.stdout
    rows = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
    assert sum(row["epochs"] > 0 for row in rows) == 2
    assert (run / "report.html").exists()


def test_job_that_fails_then_the_command_fails(head, folder):
    taken = folder / "taken"
    taken.mkdir()
    (taken / "something").touch()
    done = submitted(folder, head, "--out", str(taken), "--with", "photos", "--with", "own_sampler.py", "--wait")
    assert done.returncode == 1
    assert "ended as FAILED" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_token_then_nothing_is_sent(head, folder):
    wrong = folder / "wrong"
    wrong.write_text("00" * 32)
    words = ["--out", "/shared/run", "--with", "photos", "--with", "own_sampler.py"]
    done = submitted(folder, head, *words, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode == 2
    assert "does not know ours" in done.stderr
    assert "Traceback" not in done.stderr
