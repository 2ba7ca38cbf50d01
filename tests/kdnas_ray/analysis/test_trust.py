"""Specification of `kdnas_ray.analysis.trust`, against scipy and by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdnas_ray.analysis.trust import agreement, top_k_regret

SCORES = [0.3, 0.1, 0.4, 0.1, 0.5, 0.9, 0.2, 0.6]
TRUTHS = [0.80, 0.70, 0.85, 0.75, 0.82, 0.90, 0.70, 0.95]


def test_agreement_when_compared_with_scipy_then_is_the_same():
    found = agreement(SCORES, TRUTHS)
    assert found["n"] == 8
    assert found["tau"]["value"] == pytest.approx(stats.kendalltau(SCORES, TRUTHS).statistic)
    assert found["spearman"]["value"] == pytest.approx(stats.spearmanr(SCORES, TRUTHS).statistic)


def test_agreement_intervals_when_compared_with_scipy_on_the_same_draws_then_are_the_same():
    draws = np.random.default_rng(3).integers(8, size=(1000, 8))
    scores, truths = np.array(SCORES), np.array(TRUTHS)
    found = agreement(SCORES, TRUTHS, seed=3)
    for name, function in (("tau", stats.kendalltau), ("spearman", stats.spearmanr)):
        values = [function(scores[draw], truths[draw]).statistic for draw in draws]
        assert [found[name]["low"], found[name]["high"]] == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_agreement_when_the_seed_is_the_same_then_so_are_the_intervals():
    assert agreement(SCORES, TRUTHS, seed=1) == agreement(SCORES, TRUTHS, seed=1)
    assert agreement(SCORES, TRUTHS, seed=1) != agreement(SCORES, TRUTHS, seed=2)


def test_agreement_when_the_judge_is_perfect_then_costs_nothing():
    found = agreement(TRUTHS, TRUTHS)
    assert found["tau"] == found["spearman"] == {"value": pytest.approx(1), "low": pytest.approx(1),
                                                 "high": pytest.approx(1)}  # fmt: skip
    assert found["regret_1"] == found["regret_3"] == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize("scores", [[0.1, 0.2, 0.3], []])
def test_agreement_when_there_are_fewer_than_four_then_says_nothing(scores):
    found = agreement(scores, scores)
    assert found.pop("n") == len(scores)
    assert all(set(figure.values()) == {None} for figure in found.values())


def test_agreement_when_all_scores_are_equal_then_has_no_tau_but_a_regret():
    found = agreement([1, 1, 1, 1], [0.5, 0.6, 0.7, 0.8])
    assert found["tau"]["value"] is found["spearman"]["value"] is None
    assert found["regret_1"]["value"] == pytest.approx(0.8 - 0.65)  # a guess gets the mean


def test_agreement_when_a_score_is_minus_infinity_then_is_the_lowest():
    low = agreement([-math.inf, 2, 3, 4], [0.1, 0.2, 0.4, 0.3])
    assert low == agreement([1, 2, 3, 4], [0.1, 0.2, 0.4, 0.3])


@pytest.mark.parametrize(
    ("scores", "k", "regret"),
    [
        ([1, 2, 3, 4], 1, 0.9 - 0.5),  # the judge's first is the worst but one
        ([1, 2, 3, 4], 3, 0.9 - 0.7),  # 0.5, 0.6 and 0.7
        ([4, 3, 2, 1], 1, 0.0),
        ([1, 3, 3, 2], 1, 0.9 - (0.7 + 0.6) / 2),  # two are first, one is chosen
        ([1, 2, 2, 2], 2, 0.9 - (0.7 + 0.7 + 0.6) / 3),  # 0.7 is in two of the three pairs
        ([1, 2, 3, 4], 9, 0.0),
    ],
)
def test_regret_when_computed_by_hand_then_agrees(scores, k, regret):
    assert top_k_regret(scores, [0.9, 0.7, 0.6, 0.5], k) == pytest.approx(regret)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=6), st.integers(1, 4))
def test_regret_when_all_orders_of_equal_scores_are_tried_then_is_their_mean(points, k):
    regrets = []
    for order in itertools.permutations(points):
        first = sorted(order, key=lambda point: -point[0])[:k]
        regrets.append(max(truth for _, truth in points) - max(truth for _, truth in first))
    scores, truths = zip(*points, strict=True)
    assert top_k_regret(scores, truths, k) == pytest.approx(np.mean(regrets))
