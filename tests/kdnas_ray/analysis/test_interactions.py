"""Specification of `kdnas_ray.analysis.interactions`."""

import itertools

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator

from kdnas_ray.analysis import interactions
from kdnas_ray.analysis.interactions import _cell, decision_shares, judged_shares, shares


@pytest.fixture
def fewer(monkeypatch):
    monkeypatch.setattr(interactions, "RESAMPLES", 40)  # a second instead of three


@pytest.fixture
def grid():
    """Every point of a space of 3 x 2 x 2 cells, ten times."""
    return np.array(list(itertools.product(range(3), range(2), range(2))) * 10)


def test_shares_when_the_function_is_known_then_as_worked_out_by_hand(grid):
    # f = a + 4 b c, a in 0, 1, 2 and b, c in 0, 1. Var a = 2/3. The mean of 4 b c given b is 2 b, so
    # b and c have variance 1 each alone, and 4 b c has 16 (1/4 - 1/16) = 3: 1 is left to the pair. In all 11/3.
    values = grid[:, 0] + 4.0 * grid[:, 1] * grid[:, 2]
    alone, pairs = shares(grid, np.array([3, 2, 2]), values, [(0, 1), (1, 2)], seed=0)
    np.testing.assert_allclose(alone, [2 / 11, 3 / 11, 3 / 11], atol=1e-6)
    assert pairs[1, 2] == pytest.approx(3 / 11, abs=1e-6)
    assert pairs[0, 1] == pytest.approx(0, abs=1e-6)


def test_shares_when_nothing_varies_then_0(grid):
    alone, pairs = shares(grid, np.array([3, 2, 2]), np.full(len(grid), 0.5), [(0, 1)], seed=0)
    assert alone.tolist() == [0, 0, 0]
    assert pairs == {(0, 1): 0}


def test_shares_when_normalised_then_close_to_those_of_optuna():
    rng = np.random.default_rng(0)
    sizes = {"a": 4, "b": 2, "c": 3}
    cells = np.stack([rng.integers(size, size=100) for size in sizes.values()], axis=1)
    values = cells[:, 0] ** 2 + 3.0 * cells[:, 1] + rng.normal(size=100) * 0.1
    study = optuna.create_study()
    for row, value in zip(cells, values, strict=True):
        params = dict(zip(sizes, row.tolist(), strict=True))
        ranges = {name: IntDistribution(0, size - 1) for name, size in sizes.items()}
        study.add_trial(optuna.create_trial(params=params, distributions=ranges, value=float(value)))
    alone, _ = shares(cells, np.array(list(sizes.values())), values, (), seed=0)
    # The variance of a² over 0, 1, 2, 3 is 12.25, that of 3 b 2.25.
    np.testing.assert_allclose(alone / alone.sum(), [12.25 / 14.5, 2.25 / 14.5, 0], atol=0.01)
    # Optuna takes whole numbers for a range, whose ends are half as wide.
    theirs = optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    for name, share in zip(sizes, alone / alone.sum(), strict=True):
        assert share == pytest.approx(theirs[name], abs=0.06)


def test_judged_shares_when_one_decision_decides_then_it_alone_exceeds_the_noise(fewer):
    rng = np.random.default_rng(1)
    cells = rng.integers(4, size=(60, 5))
    values = cells[:, 2] + rng.normal(size=60) * 0.3
    found = judged_shares(list("abcde"), cells, np.full(5, 4), values)
    above = [row["name"] for row in found["decisions"] if row["low"] > found["noise"]]
    assert above == ["c"]
    for row in found["decisions"]:
        assert row["low"] <= row["high"]


def test_judged_shares_when_accuracy_is_noise_then_nothing_exceeds_it(fewer):
    rng = np.random.default_rng(2)
    cells, values = rng.integers(4, size=(40, 6)), rng.normal(size=40)
    found = judged_shares(list("abcdef"), cells, np.full(6, 4), values)
    assert [row["name"] for row in found["decisions"] if row["low"] > found["noise"]] == []
    assert [row["name"] for row in found["pairs"] if row["low"] > found["noise_of_pairs"]] == []


def test_cells_of_choices_and_ranges():
    assert _cell(CategoricalDistribution(("basic", "bottleneck")), "bottleneck") == 1
    assert [_cell(FloatDistribution(0, 1), value) for value in (0.0, 0.05, 0.1, 0.99, 1.0)] == [0, 0, 1, 9, 9]
    assert [_cell(FloatDistribution(0.01, 1, log=True), value) for value in (0.01, 0.1, 1.0)] == [0, 5, 9]


def test_decision_shares_when_there_is_no_study_or_a_broken_one_then_none(run):
    assert decision_shares(run, [3]) is None
    (run / "study.journal").write_text("what is this\n")
    assert decision_shares(run, [3]) is None
