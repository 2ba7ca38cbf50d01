"""Specification of `kdnas_ray.extrapolation`: the probability by hand, and who is stopped."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_ray.extrapolation import LEAST_ERROR, PRIOR_COUNT, PRIOR_SPREAD, chance

ACCURACY = st.integers(0, 100).map(lambda share: share / 100)
CURVES = st.lists(st.lists(ACCURACY, min_size=6, max_size=6), min_size=2, max_size=8)


def t3(value: float) -> float:
    """Distribution function of Student's t with 3 degrees of freedom, in closed form."""
    share = value / math.sqrt(3)
    return 0.5 + (share / (1 + share**2) + math.atan(share)) / math.pi


def test_chance_when_computed_by_hand_from_two_finished_candidates_then_agrees():
    # Of the smallest error after two epochs, one has a half left at the end, the other a quarter.
    first, second, mine = [0.6, 0.5, 0.7, 0.8], [0.1, 0.6, 0.8, 0.9], [0.3, 0.2]

    def log(error: float) -> float:
        return math.log(error + LEAST_ERROR)

    left = [log(0.2) - log(0.4), log(0.1) - log(0.4)]
    mean = sum(left) / 2
    squares = sum((value - mean) ** 2 for value in left) + PRIOR_COUNT * PRIOR_SPREAD**2
    spread = math.sqrt(squares / 3 * 1.5)
    by_hand = t3((log(0.15) - (log(0.7) + mean)) / spread)
    assert PRIOR_COUNT == 2  # 2 - 1 + 2 are the 3 degrees of freedom
    assert chance(mine, [first, second], 0.85) == pytest.approx(by_hand)


def test_chance_when_the_goal_is_what_is_expected_then_is_one_half():
    assert chance([0.5, 0.6], [[0.5, 0.6, 0.7]] * 4, 0.7) == pytest.approx(0.5)


@given(CURVES, st.lists(ACCURACY, min_size=1, max_size=6), ACCURACY, ACCURACY)
def test_chance_when_the_goal_is_higher_then_is_not_larger(finished, curve, goal, other):
    low, high = sorted((goal, other))
    assert 0 <= chance(curve, finished, high) <= chance(curve, finished, low) <= 1


@given(CURVES, st.lists(ACCURACY, min_size=5, max_size=5), st.integers(0, 4), ACCURACY)
def test_chance_when_the_curve_is_higher_somewhere_then_is_not_smaller(finished, curve, place, goal):
    better = [*curve[:place], min(1.0, curve[place] + 0.1), *curve[place + 1 :]]
    assert chance(better, finished, goal) >= chance(curve, finished, goal) - 1e-12


def test_chance_when_more_candidates_finished_alike_then_is_more_certain():
    alike = [[0.5, 0.6, 0.7], [0.5, 0.61, 0.7]]
    few, many = (chance([0.3, 0.4], alike * copies, 0.7) for copies in (1, 10))
    assert many < few < 0.5
