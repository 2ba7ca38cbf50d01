"""Specification of `kdnas_ray.analysis.effects`."""

import math

import numpy as np
import pytest
from scipy import stats

from kdnas_ray.analysis.effects import clear, mean_effect, paired_effect, rank_correlation


def test_mean_effect_when_three_values_then_interval_is_students_by_hand():
    # mean 2, deviation 1, t of 97.5 % with two degrees of freedom 4.302653
    effect = mean_effect([1.0, 2.0, 3.0, None])
    assert effect["n"] == 3
    assert effect["value"] == 2
    margin = 4.302653 / math.sqrt(3)
    assert (effect["low"], effect["high"]) == pytest.approx((2 - margin, 2 + margin), abs=1e-5)
    assert not clear(effect)
    assert clear(mean_effect([1.9, 2.0, 2.1]))
    assert clear(mean_effect([-1.9, -2.0, -2.1]))


@pytest.mark.parametrize(("values", "n"), [([], 0), ([None], 0), ([0.3], 1), ([0.3, 0.3, 0.3], 3)])
def test_mean_effect_when_nothing_varies_then_there_is_no_interval_and_nothing_is_clear(values, n):
    effect = mean_effect(values)
    assert (effect["low"], effect["high"], effect["n"]) == (None, None, n)
    assert effect["value"] == (pytest.approx(0.3) if n else None)
    assert not clear(effect)


def test_mean_effect_when_bounded_then_the_interval_ends_there():
    effect = mean_effect([-0.9, 0.9], most=1)
    assert (effect["low"], effect["high"]) == (-1, 1)


def test_paired_effect_takes_the_seeds_that_both_have():
    effect = paired_effect({1: 0.9, 2: 0.8, 3: 0.1, 5: None}, {1: 0.7, 2: 0.7, 4: 0.0, 5: 0.2})
    assert effect["n"] == 2
    assert effect["value"] == pytest.approx(0.15)


def test_mean_effect_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        effect = mean_effect((0.5 + rng.normal(size=3)).tolist())
        inside += effect["low"] <= 0.5 <= effect["high"]
    assert 0.92 < inside / 400 < 0.98


def test_rank_correlation_agrees_with_scipy_and_bonett_and_wright():
    first, second = [1.0, 2, 3, 4, 5, 6], [2.0, 1, 4, 3, 6, 5]
    effect = rank_correlation(first, second)
    rho = stats.spearmanr(first, second).statistic
    margin = 1.959964 * math.sqrt((1 + rho**2 / 2) / 3)
    assert effect["value"] == pytest.approx(rho)
    assert effect["low"] == pytest.approx(math.tanh(math.atanh(rho) - margin), abs=1e-6)
    assert effect["high"] == pytest.approx(math.tanh(math.atanh(rho) + margin), abs=1e-6)


def test_rank_correlation_when_too_few_or_constant_or_perfect_then_no_interval():
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])["value"] is None
    assert rank_correlation([1] * 6, [1, 2, 3, 4, 5, 6])["value"] is None
    perfect = rank_correlation([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])
    assert perfect["value"] == pytest.approx(-1)
    assert not clear(perfect)
