"""Do the examples of docs/extending.md run as they stand, and do what they say?"""

import re
from pathlib import Path

import optuna
import pytest
import ray
import torch

from search_spaces import sample, tap_shapes
from trainables.losses.base import Answer

EXTENDING = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", EXTENDING.read_text(encoding="utf8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def names(blocks) -> dict:
    """What the examples but the last define, all in one module."""
    found: dict = {"__name__": "extending"}
    for block in blocks[:-1]:
        exec(compile(block, str(EXTENDING), "exec"), found)
    return found


def test_loss_of_the_docs_is_zero_only_for_equal_logits(names):
    logits, other = torch.randn(4, 10), torch.randn(4, 10)
    loss, labels = names["huber_logits"], torch.zeros(4, dtype=torch.long)
    assert loss(Answer(logits, logits), Answer(logits, logits), labels, 3.0).item() == 0
    apart = (logits - other).abs()
    expected = torch.where(apart <= 1, apart**2 / 2, apart - 0.5).mean()
    torch.testing.assert_close(loss(Answer(logits, logits), Answer(other, other), labels, 3.0), expected)


def test_recipe_space_of_the_docs_suggests_a_hint_at_its_tap(names):
    import random

    recipe = sample(names["HintRecipes"](tap="stage1"), random.Random(0))
    assert [term.loss for term in recipe.terms] == ["kd", "hint"]
    assert recipe.terms[1].tap == "stage1"


def test_space_of_the_docs_builds_networks_with_the_taps_it_names(names):
    shapes = tap_shapes(names["network"], (3, 32, 32), names["space"].taps())
    assert shapes["stage2"][1:] == (16, 16)
    assert shapes["logits"] == (10,)


def test_task_of_the_docs_loads_standardised_values(names):
    data = names["Brightness"](samples=60).load(0)
    assert data.shape == (3, 8, 8)
    assert data.train.labels.mean() == pytest.approx(0, abs=1e-5)


def test_sampler_of_the_docs_climbs(names):
    study = optuna.create_study(direction="maximize", sampler=names["Climb"]().make(0, lambda _: [0.0]))
    for _ in range(40):
        trial = study.ask()
        study.tell(trial, -abs(trial.suggest_float("x", 0, 1) - 0.3))
    assert study.best_value > -0.05


def test_trainable_of_the_docs_runs_in_plain_ray_tune(blocks, capsys):
    ray.init(address="local", num_cpus=2, include_dashboard=False, ignore_reinit_error=True)
    try:
        exec(compile(blocks[-1], str(EXTENDING), "exec"), {"__name__": "extending"})
    finally:
        ray.shutdown()
    assert 0.1 < float(capsys.readouterr().out.splitlines()[-1]) <= 1
