"""How much of the variance of a number does each decision explain on its own?"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor

TREES = 64
DEPTH = 64


def main_effects(decisions: np.ndarray, values: np.ndarray, choices: np.ndarray, seed: int = 0) -> np.ndarray:
    """Share of the explained variance that falls to each decision alone, `[decisions]`; NaN where nothing varies.

    A forest is fitted, and each tree's variance over the whole space divided: the mean over all other decisions is a
    step function of the one, which follows from the boxes of the leaves.

    Source: Hutter 2014, An Efficient Approach for Assessing Hyperparameter Importance, sections 3 and 4.1.

    Args:
        decisions: `[candidates, decisions]`; ranges scaled to 0 to 1, choices as their number from 0 on.
        values: `[candidates]`.
        choices: `[decisions]`, how many choices each has; 0 for a range.
        seed: of the forest.
    """
    # A choice takes as much of its axis as any other one.
    low = np.where(choices > 0, -0.5, 0.0)
    high = np.where(choices > 0, choices - 0.5, 1.0)
    decisions = np.column_stack(
        [
            _by_mean(column, values, count) if count else column
            for column, count in zip(decisions.T, choices, strict=True)
        ]
    )
    forest = RandomForestRegressor(n_estimators=TREES, max_depth=DEPTH, random_state=seed).fit(decisions, values)
    shares = [found for tree in forest.estimators_ if (found := _of_tree(tree.tree_, low, high)) is not None]
    return np.mean(shares, axis=0) if shares else np.full(decisions.shape[1], np.nan)


def _by_mean(column: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Choices numbered by the mean value of their candidates: then one cut separates the good from the bad.

    Source: Breiman 1984, Classification and Regression Trees, section 4.2.2 (categorical variables).
    """
    known = np.bincount(column.astype(int), minlength=count)
    means = np.bincount(column.astype(int), values, minlength=count) / np.maximum(known, 1)
    order = np.argsort(np.where(known > 0, means, values.mean()), kind="stable")
    return np.argsort(order)[column.astype(int)].astype(float)


def _of_tree(tree: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
    leaves = list(boxes(tree, low, high))
    lower, upper = (np.array([box[side] for box in leaves]) for side in (0, 1))
    predicted = np.array([box[2] for box in leaves])
    parts = (upper - lower) / (high - low)
    volume = parts.prod(axis=1)
    mean = (volume * predicted).sum()
    variance = (volume * (predicted - mean) ** 2).sum()
    if variance <= 0:
        return None
    shares = []
    for axis in range(len(low)):
        edges, places = np.unique(np.concatenate([lower[:, axis], upper[:, axis]]), return_inverse=True)
        begin, end = np.split(places.reshape(-1), 2)
        # What a leaf adds to the mean over the others holds from where its box begins to where it ends.
        added = (predicted - mean) * volume / parts[:, axis]
        steps = np.bincount(begin, added, len(edges)) - np.bincount(end, added, len(edges))
        marginal = np.cumsum(steps)[:-1]
        shares.append((np.diff(edges) / (high - low)[axis] * marginal**2).sum() / variance)
    return np.array(shares)


def boxes(tree: Any, low: np.ndarray, high: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Lower and upper corner of every leaf with what it predicts."""
    left, right, feature, threshold = tree.children_left, tree.children_right, tree.feature, tree.threshold
    waiting = [(0, low, high)]
    while waiting:
        node, lower, upper = waiting.pop()
        if left[node] < 0:
            yield lower, upper, float(tree.value[node, 0, 0])
            continue
        axis, at = feature[node], threshold[node]
        below, above = upper.copy(), lower.copy()
        below[axis] = above[axis] = at
        waiting += [(left[node], lower, below), (right[node], above, upper)]
