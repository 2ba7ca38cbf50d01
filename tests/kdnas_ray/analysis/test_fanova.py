"""Specification of `kdnas_ray.analysis.fanova`: the variance of a known function is divided as it should be."""

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

from kdnas_ray.analysis.fanova import main_effects


def drawn(n: int, axes: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((n, axes))


def test_effects_when_a_function_adds_ranges_then_are_its_variances():
    x = drawn(3000)
    found = main_effects(x, 3 * x[:, 0] + x[:, 1], np.zeros(3, dtype=int))
    assert found == pytest.approx([0.9, 0.1, 0.0], abs=0.03)


def test_effects_when_a_function_adds_choices_then_each_choice_counts_alike():
    x = np.random.default_rng(0).choice(4, size=(3000, 2), p=[0.7, 0.1, 0.1, 0.1]).astype(float)
    gain, other = np.array([0.0, 5.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0, 3.0])
    found = main_effects(x, gain[x[:, 0].astype(int)] + other[x[:, 1].astype(int)], np.array([4, 4]))
    assert found == pytest.approx(np.array([gain.var(), other.var()]) / (gain.var() + other.var()), abs=0.03)


def test_effects_when_two_decisions_matter_only_together_then_neither_does_alone():
    x = drawn(3000, 2)
    found = main_effects(x, np.where((x[:, 0] > 0.5) == (x[:, 1] > 0.5), 1.0, 0.0), np.zeros(2, dtype=int))
    assert found.max() < 0.05


def test_effects_when_nothing_varies_then_are_not_known():
    assert np.isnan(main_effects(drawn(20), np.ones(20), np.zeros(3, dtype=int))).all()


def test_effects_when_asked_twice_then_are_the_same():
    x = drawn(50)
    first, second = (main_effects(x, x[:, 0], np.zeros(3, dtype=int), seed=3) for _ in range(2))
    assert np.array_equal(first, second)


def test_effects_when_compared_with_optunas_then_agree():
    ranges = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1), "c": CategoricalDistribution([0, 1, 2])}
    draw = np.random.default_rng(1)
    rows = [{"a": draw.random(), "b": draw.random(), "c": int(draw.integers(3))} for _ in range(150)]
    values = np.array([np.sin(3 * row["a"]) + row["b"] ** 2 + 0.4 * (row["c"] == 1) for row in rows])
    study = optuna.create_study()
    told = [
        optuna.create_trial(params=row, distributions=ranges, value=value)
        for row, value in zip(rows, values, strict=True)
    ]
    study.add_trials(told)
    theirs = FanovaImportanceEvaluator(seed=0).evaluate(study)
    table = np.array([list(row.values()) for row in rows])
    ours = main_effects(table, values, np.array([0, 0, 3]))
    ours /= ours.sum()
    assert ours == pytest.approx(np.array([theirs[name] for name in ranges]) / sum(theirs.values()), abs=0.06)
