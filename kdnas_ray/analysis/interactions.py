"""How much of the variance of accuracy falls to each decision and to each pair of them, and is it more than noise?

Every decision is cut into cells (its choices, or ten equal parts of its range), so that a tree's leaves are boxes of
whole cells and all means over the space are exact sums. Shapes: N candidates, D decisions, L leaves.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from sklearn.tree import DecisionTreeRegressor

from kdnas_ray.analysis.fanova import boxes
from kdnas_ray.analysis.importance import known_trials, place_of

CELLS = 10  # of a range
TREES = 64
RESAMPLES = 100  # of the bootstrap, and as many permutations
FEWER = 8  # trees of a forest that was resampled: a smaller forest varies more, which widens intervals and noise level
PAIRED = 6  # decisions, the most important ones, whose pairs are looked at
FEWEST = 12  # candidates below which a forest says nothing of so many decisions
MOST = 500  # candidates that are looked at, evenly over their order
LEVELS = (2.5, 97.5)
Pair = tuple[int, int]
Shares = tuple[np.ndarray, dict[Pair, float]]


def decision_shares(run: Path, rungs: Sequence[int], seed: int = 0) -> dict[str, Any] | None:
    """Share of the variance of accuracy of each decision and of pairs of them, with intervals and a noise level.

    Final accuracy is used where enough candidates were trained in full, else accuracy at the first rung. Intervals are
    percentiles of a bootstrap over candidates. The noise level is what the largest share reaches in 95 % of forests
    whose accuracies were shuffled: below it a share says nothing.

    Source: Hutter 2014, An Efficient Approach for Assessing Hyperparameter Importance, eqs. 3 to 8; Efron 1979,
    Bootstrap Methods; Altmann 2010, Permutation importance (the shuffled accuracies).

    Args:
        run: the run folder; its study is only read.
        rungs: epochs of the rungs, ascending.
        seed: of forests, resampling and shuffling.

    Returns:
        `epochs`, `candidates`, `noise` and `noise_of_pairs`, and the rows `decisions` and `pairs` (`name`, `value`,
        `low`, `high`), largest first; None where too few candidates are known, or all are alike.
    """
    known, epochs = known_trials(run, rungs)
    places = np.unique(np.linspace(0, max(len(known) - 1, 0), min(MOST, len(known))).round().astype(int))
    known = [known[place] for place in places]
    if len(known) < FEWEST or len({value for _, value in known}) < 2:
        return None
    ranges: dict[str, BaseDistribution] = {}
    for trial, _ in known:
        ranges |= trial.distributions
    names = [name for name, kind in ranges.items() if not kind.single() and all(name in t.params for t, _ in known)]
    if not names:
        return None
    cells = np.array([[_cell(ranges[name], trial.params[name]) for name in names] for trial, _ in known])
    sizes = np.array([_cells(ranges[name]) for name in names])
    values = np.array([value for _, value in known])
    return {"epochs": epochs, "candidates": len(known), **judged_shares(names, cells, sizes, values, seed)}


def judged_shares(
    names: Sequence[str], cells: np.ndarray, sizes: np.ndarray, values: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """The rows and noise levels of `decision_shares`.

    Args:
        names: of the D decisions.
        cells: `[N, D]` int, the cell of each value.
        sizes: `[D]`, how many cells there are.
        values: `[N]`.
        seed: of everything drawn.
    """
    alone, _ = shares(cells, sizes, values, (), seed)
    first = sorted(np.argsort(-alone, kind="stable")[:PAIRED].tolist())
    pairs = list(combinations(first, 2))
    alone, together = shares(cells, sizes, values, pairs, seed)
    rng = np.random.default_rng(seed)
    drawn: list[Shares] = []
    shuffled: list[Shares] = []
    for index in range(RESAMPLES):
        rows = rng.integers(len(values), size=len(values))
        drawn.append(shares(cells[rows], sizes, values[rows], pairs, seed + index, FEWER))
        shuffled.append(shares(cells, sizes, rng.permutation(values), pairs, seed + index, FEWER))

    def row(name: str, value: float, resampled: Sequence[float]) -> dict[str, Any]:
        low, high = np.percentile(resampled, LEVELS)
        return {"name": name, "value": value, "low": float(low), "high": float(high)}

    decisions = [row(name, float(alone[d]), [found[0][d] for found in drawn]) for d, name in enumerate(names)]
    both = [row(f"{names[a]} × {names[b]}", together[a, b], [found[1][a, b] for found in drawn]) for a, b in pairs]
    return {
        "noise": float(np.percentile([found[0].max() for found in shuffled], 95)),
        "noise_of_pairs": float(np.percentile([max(found[1].values()) for found in shuffled], 95)) if pairs else None,
        "decisions": sorted(decisions, key=lambda found: -found["value"]),
        "pairs": sorted(both, key=lambda found: -found["value"]),
    }


def shares(
    cells: np.ndarray, sizes: np.ndarray, values: np.ndarray, pairs: Sequence[Pair], seed: int, trees: int = TREES
) -> Shares:
    """Share of the variance over the whole space that each decision has alone, `[D]`, and each pair beyond its two.

    Mean over the trees of a forest, each fitted to a bootstrap sample; all zero where none found any variance.

    Args: as for `judged_shares`; `pairs` of positions of decisions, `trees` of the forest.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(trees):  # scikit-learn's own forest takes several times as long to begin as it takes to fit
        rows = rng.integers(len(values), size=len(values))
        tree = DecisionTreeRegressor(random_state=seed).fit(cells[rows], values[rows])
        if (one := _of_tree(tree.tree_, sizes, pairs)) is not None:
            found.append(one)
    if not found:
        return np.zeros(len(sizes)), dict.fromkeys(pairs, 0.0)
    alone = np.mean([one[0] for one in found], axis=0)
    return alone, {pair: float(np.mean([one[1][pair] for one in found])) for pair in pairs}


def _of_tree(tree: Any, sizes: np.ndarray, pairs: Sequence[Pair]) -> Shares | None:
    # A cell is as wide as 1 and lies around its number.
    corners = list(boxes(tree, np.full(len(sizes), -0.5), sizes - 0.5))
    low, high = (np.array([box[side] for box in corners]) + 0.5 for side in (0, 1))  # [L, D]
    predicted = np.array([box[2] for box in corners])
    parts = (high - low) / sizes  # [L, D]
    volume = parts.prod(axis=1)
    apart = predicted - volume @ predicted
    variance = float(volume @ apart**2)
    if variance <= 1e-15:
        return None
    inside = [  # [L, cells] of each decision
        (np.arange(size) >= low[:, d, None]) & (np.arange(size) < high[:, d, None]) for d, size in enumerate(sizes)
    ]
    weight = volume * apart
    # The mean over all other decisions, in each cell: a leaf adds its value times its part of the other axes.
    alone = np.array([np.mean(((weight / parts[:, d]) @ inside[d]) ** 2) for d in range(len(sizes))])
    both = {}
    for a, b in pairs:
        mean = (inside[a].T * (weight / (parts[:, a] * parts[:, b]))) @ inside[b]  # [cells of a, cells of b]
        both[a, b] = float((np.mean(mean**2) - alone[a] - alone[b]) / variance)
    return alone / variance, both


def _cells(kind: BaseDistribution) -> int:
    return len(kind.choices) if isinstance(kind, CategoricalDistribution) else CELLS


def _cell(kind: BaseDistribution, value: Any) -> int:
    if isinstance(kind, CategoricalDistribution):
        return int(kind.to_internal_repr(value))
    return min(int(place_of(kind, value) * CELLS), CELLS - 1)
