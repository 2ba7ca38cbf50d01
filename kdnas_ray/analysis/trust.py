"""How far can a cheap judge be trusted, and what does following it cost?"""

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
from scipy.stats import rankdata

LEAST = 4  # candidates below which a figure says nothing
RESAMPLES = 1000
TOP = (1, 3)  # k of the regrets
LEVELS = (2.5, 97.5)  # percentiles that bound 95 %

Figure = dict[str, float | None]
"""`value`, and the bounds `low` and `high` of its 95 % interval; None where it is not defined."""


def agreement(scores: Sequence[float], truths: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Agreement of a judge with the truth: `n`, and the figures `tau`, `spearman`, `regret_1` and `regret_3`.

    Intervals are the percentiles of a bootstrap over the candidates. Below four candidates all figures are undefined.

    Source: Kendall 1945, The Treatment of Ties in Ranking Problems (tau-b); Efron 1979, Bootstrap Methods.

    Args:
        scores: the judge's of each candidate, more is better; infinite ones are allowed.
        truths: accuracy of each candidate after full training, 0 to 1.
        seed: of the resampling.
    """
    n = len(scores)
    names = ("tau", "spearman", *(f"regret_{k}" for k in TOP))
    if n < LEAST:
        return {"n": n, **{name: _figure(np.full(1, np.nan), np.full(1, np.nan)) for name in names}}
    ranks, true = rankdata(scores), np.asarray(truths, dtype=float)
    itself = np.arange(n)[None]
    draws = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    measures = (_taus, _rhos, *(lambda r, t, d, k=k: _regrets(r, t, d, k) for k in TOP))
    return {
        "n": n,
        **{
            name: _figure(measure(ranks, true, itself), measure(ranks, true, draws))
            for name, measure in zip(names, measures, strict=True)
        },
    }


def top_k_regret(scores: Sequence[float], truths: Sequence[float], k: int) -> float:
    """Accuracy lost by training the judge's first `k` only: the best of all minus the best among them, 0 to 1.

    Where equal scores leave open who is among the first, it is the mean over all ways to choose.

    Args:
        scores: the judge's of each candidate, more is better.
        truths: accuracy of each candidate after full training, 0 to 1.
        k: how many are trained.
    """
    edge = sorted(scores, reverse=True)[min(k, len(scores)) - 1]
    inside = [truth for score, truth in zip(scores, truths, strict=True) if score > edge]
    tied = sorted((truth for score, truth in zip(scores, truths, strict=True) if score == edge), reverse=True)
    places = min(k, len(scores)) - len(inside)
    best, sure = max(truths), max(inside, default=-np.inf)
    # Number i of the tied, best first, is the best of those chosen in comb(those after it, places - 1) ways.
    ways = [comb(len(tied) - 1 - index, places - 1) for index in range(len(tied))]
    lost = sum(way * (best - max(sure, truth)) for way, truth in zip(ways, tied, strict=True))
    return float(lost / comb(len(tied), places))


def _taus(ranks: np.ndarray, truths: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of every draw, `[draws]`; NaN where all drawn are equal."""
    times = np.zeros((len(draws), len(ranks)))  # how often each candidate was drawn
    np.add.at(times, (np.arange(len(draws))[:, None], draws), 1)
    first, second = (np.sign(np.subtract.outer(values, values)) for values in (ranks, truths))

    def total(pairs: np.ndarray) -> np.ndarray:
        return ((times @ pairs) * times).sum(1)

    return _ratio(total(first * second), np.sqrt(total(first**2) * total(second**2)))


def _rhos(ranks: np.ndarray, truths: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Spearman's rho of every draw, `[draws]`: the correlation of the ranks, equal values sharing their mean rank."""
    first, second = (rankdata(values[draws], axis=1) for values in (ranks, truths))
    first, second = (found - found.mean(1, keepdims=True) for found in (first, second))
    return _ratio((first * second).sum(1), np.sqrt((first**2).sum(1) * (second**2).sum(1)))


def _regrets(ranks: np.ndarray, truths: np.ndarray, draws: np.ndarray, k: int) -> np.ndarray:
    return np.array([top_k_regret(ranks[draw].tolist(), truths[draw].tolist(), k) for draw in draws])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan, dtype=float), where=below > 0)


def _figure(value: np.ndarray, resampled: np.ndarray) -> Figure:
    known = resampled[np.isfinite(resampled)]
    if not np.isfinite(value[0]) or not len(known):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(known, LEVELS)
    return {"value": float(value[0]), "low": float(low), "high": float(high)}
