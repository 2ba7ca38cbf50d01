"""How large is an effect, and is it more than chance? The mean of a few differences with its interval."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from scipy.stats import norm, spearmanr
from scipy.stats import t as student_t

CONFIDENCE = 0.95
LEAST_RANKED = 5  # pairs below which a rank correlation says nothing


class Effect(TypedDict):
    """A number with its interval, as it is written to JSON.

    `value` is None where nothing was measured; `low` and `high` are None where there is no interval (a single
    measurement, or several that are all the same); `n` counts the measurements.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def mean_effect(values: Sequence[float | None], confidence: float = CONFIDENCE, most: float = float("inf")) -> Effect:
    """Mean of independent measurements with Student's interval; those that are None are left out.

    Source: Student 1908, The Probable Error of a Mean.

    Args:
        values: one a seed, or one an architecture.
        confidence: of the interval, 0 to 1.
        most: the mean can be no further from zero than this, so the interval ends there.
    """
    there = np.array([value for value in values if value is not None], dtype=float)
    if not len(there):
        return Effect(value=None, low=None, high=None, n=0)
    mean = float(there.mean())
    error = float(there.std(ddof=1) / np.sqrt(len(there))) if len(there) > 1 else 0.0
    if error <= 1e-12 * max(1.0, abs(mean)):
        return Effect(value=mean, low=None, high=None, n=len(there))
    margin = float(student_t.ppf((1 + confidence) / 2, len(there) - 1)) * error
    return Effect(value=mean, low=max(mean - margin, -most), high=min(mean + margin, most), n=len(there))


def paired_effect(
    first: Mapping[int, float | None],
    second: Mapping[int, float | None],
    confidence: float = CONFIDENCE,
    most: float = float("inf"),
) -> Effect:
    """`mean_effect` of first minus second over the keys (seeds) that both have."""
    both = [(first[key], second[key]) for key in sorted(first.keys() & second.keys())]
    return mean_effect([None if a is None or b is None else a - b for a, b in both], confidence, most)


def clear(effect: Effect) -> bool:
    """Whether the interval leaves out zero; never where there is no interval."""
    return effect["low"] is not None and effect["high"] is not None and (effect["low"] > 0 or effect["high"] < 0)


def rank_correlation(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Effect:
    """Spearman's rank correlation with its interval; undefined below five pairs, or where one side does not vary.

    Source: Bonett and Wright 2000, Sample size requirements for estimating Pearson, Kendall and Spearman correlations
    (standard error of Fisher's z of a rank correlation: sqrt((1 + rho² / 2) / (n - 3))).
    """
    n = len(first)
    if n < LEAST_RANKED or len(set(first)) < 2 or len(set(second)) < 2:
        return Effect(value=None, low=None, high=None, n=n)
    rho = float(spearmanr(first, second).statistic)
    if abs(rho) > 1 - 1e-9:  # Fisher's z is infinite
        return Effect(value=rho, low=None, high=None, n=n)
    margin = float(norm.ppf((1 + confidence) / 2)) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) - margin), np.tanh(np.arctanh(rho) + margin)
    return Effect(value=rho, low=float(low), high=float(high), n=n)
