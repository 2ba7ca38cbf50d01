"""What the tests of the house share: a run folder, candidates and curves made up by hand."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import optuna
import pytest
from optuna.samplers import RandomSampler
from sessions import Session

from kdnas_ray.config import read
from kdnas_ray.objectives import OBJECTIVES
from search_spaces import Architecture, decode
from search_spaces.notation import notation
from trainables.candidate import Candidate
from trainables.recipe import Recipe, Temperature, Term

# A shared machine pauses tests at will: how long one example takes says nothing.
hypothesis.settings.register_profile("kdnas", deadline=None)
hypothesis.settings.load_profile("kdnas")


@pytest.fixture(autouse=True)
def _quiet_optuna():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An empty run folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    """Makes candidate number `n`."""

    def make(number: int = 0, width: int = 8) -> Candidate:
        recipe = Recipe(0.7, Temperature("linear", 4.0, 1.0), (Term("kd"), Term("hint", 0.5, "stage2")))
        return Candidate(f"c{number:04d}", Architecture.of({"width": width}), recipe, 100 + number)

    return make


@pytest.fixture
def curve() -> Callable[..., list[dict[str, float]]]:
    """Makes a curve with these validation accuracies, one an epoch."""

    def make(*accuracies: float) -> list[dict[str, float]]:
        return [
            {"epoch": epoch, "train_loss": 2.0 / epoch, "val_loss": 3.0 / epoch, "val_accuracy": accuracy}
            for epoch, accuracy in enumerate(accuracies, start=1)
        ]

    return make


@pytest.fixture
def row(candidate, curve) -> Callable[..., dict[str, Any]]:
    """Makes a line of candidates.jsonl."""

    def make(number: int, state: str, accuracies: list[float], params: int = 1000, flops: int = 10**6) -> dict:
        return candidate(number).to_json() | {
            "state": state,
            "epochs": len(accuracies),
            "val_accuracy": accuracies[-1] if accuracies else None,
            "params": params,
            "flops": flops,
            "curve": curve(*accuracies),
            "reason": "NaN" if state == "failed" else None,
            "train_s": 1.0,
            "started_s": 0.0,
            "ended_s": 1.0,
        }

    return make


@pytest.fixture
def session(run: Path) -> Callable[..., Session]:
    """Opens a session; a second one on the same study is a resume."""
    studies: dict[tuple[str, ...], optuna.Study] = {}

    def open_(objectives: Sequence[str] = ("val_accuracy",), **options: Any) -> Session:
        key = tuple(objectives)
        if key not in studies:
            directions = ["maximize" if OBJECTIVES[name].maximise else "minimize" for name in objectives]
            studies[key] = optuna.create_study(sampler=RandomSampler(seed=0), directions=directions)
        return Session(run, studies[key], objectives, **options)

    return open_


@pytest.fixture
def result(curve) -> Callable[..., dict[str, Any]]:
    """What the trainable reports after a rung."""

    def make(*accuracies: float, train_s: float = 2.0) -> dict[str, Any]:
        return {
            "epoch": len(accuracies),
            "val_accuracy": accuracies[-1],
            "curve": curve(*accuracies),
            "train_s": train_s,
        }

    return make


OPTIONS = {
    "name": "resnet", "stages": 1, "stem_widths": [4, 8], "widths": [4, 8, 16], "depths": [1, 2], "kernels": [3],
    "blocks": ["basic", "separable"],
}  # fmt: skip
SPACE = read({"space": OPTIONS}).space


def table_accuracy(stem: int, width: int, depth: int, block: str) -> float:
    return 50 + stem + width + 3 * depth - 5 * (block == "separable")


@pytest.fixture(scope="module")
def table_file(tmp_path_factory):
    """A table of all architectures of a small space; `accuracy` in percent."""
    entries = {}
    for stem, width, depth, block in itertools.product((4, 8), (4, 8, 16), (1, 2), ("basic", "separable")):
        decisions = {"stem.width": stem, "stage1.depth": depth, "stage1.width": width, "stage1.kernel": 3}
        text = notation(SPACE, decode(SPACE, decisions | {"stage1.block": block}))
        score = table_accuracy(stem, width, depth, block)
        entries[text] = {"acc": score, "test": score - 1, "params": 100 * width * depth, "flops": 10 * width}
    path = tmp_path_factory.mktemp("table") / "table.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture(scope="module")
def table_config(table_file):
    """Makes the configuration of a search on that table."""

    def make(*overrides: str, **more):
        evaluator = {"name": "table", "path": str(table_file), "metric": "acc", "test": "test"}
        data = {"space": OPTIONS, "evaluator": evaluator, "tracking": {"enabled": False}, **more}
        return read(data, ["budget.trials=24", "resources.workers=2", *overrides])

    return make
