"""Which candidates are best, when one number does not decide?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdnas_ray.objectives import objective


def rank_candidates(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Candidates best first; failed and rejected ones are left out.

    Complete candidates come before those stopped early, and those before others stopped earlier. Among
    equals the Pareto front decides (with one objective: its value), then validation accuracy, then size.

    Args:
        rows: lines of candidates.jsonl.
        objectives: names of the search's objectives.
    """
    ranked: list[dict[str, Any]] = []
    trained = [dict(row) for row in rows if row["state"] in ("complete", "pruned") and row["val_accuracy"] is not None]
    complete = [row for row in trained if row["state"] == "complete"]
    fronts = front_numbers(_values(complete, objectives))
    order = sorted(range(len(complete)), key=lambda i: (fronts[i], *_by_accuracy(complete[i])))
    ranked.extend(complete[i] for i in order)
    stopped = [row for row in trained if row["state"] == "pruned"]
    ranked.extend(sorted(stopped, key=lambda row: (-row["epochs"], *_by_accuracy(row))))
    return ranked


def pareto_front(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Complete candidates that no other complete candidate beats in every objective, most accurate first."""
    complete = [dict(row) for row in rows if row["state"] == "complete"]
    fronts = front_numbers(_values(complete, objectives))
    return sorted((row for row, front in zip(complete, fronts, strict=True) if front == 0), key=_by_accuracy)


def front_numbers(values: np.ndarray) -> list[int]:
    """Number of the Pareto front of each row, 0 for rows that none dominates.

    Source: fronts as in Deb 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, section III-A; found by
    binary search as in Zhang 2015, An Efficient Approach to Nondominated Sorting, algorithm ENS-BS.

    Args:
        values: `[candidates, objectives]`, all to be minimised.
    """
    if values.shape[1] == 1:
        return np.unique(values, return_inverse=True)[1].reshape(-1).tolist()
    fronts: list[np.ndarray] = []  # rows of each; all that dominate a row come before it in this order
    numbers = np.zeros(len(values), dtype=int)
    for row in np.lexsort(values.T[::-1]):
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            others = values[fronts[middle]]
            beaten = ((others <= values[row]).all(axis=1) & (others < values[row]).any(axis=1)).any()
            low, high = (middle + 1, high) if beaten else (low, middle)
        numbers[row] = low
        if low == len(fronts):
            fronts.append(np.array([], dtype=int))
        fronts[low] = np.append(fronts[low], row)
    return numbers.tolist()


def _values(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> np.ndarray:
    signs = [-1.0 if objective(name).maximise else 1.0 for name in objectives]
    table = [[sign * row[name] for sign, name in zip(signs, objectives, strict=True)] for row in rows]
    return np.array(table).reshape(len(rows), len(objectives))


def _by_accuracy(row: Mapping[str, Any]) -> tuple[float, int, str]:
    return -row["val_accuracy"], row["params"], row["id"]
