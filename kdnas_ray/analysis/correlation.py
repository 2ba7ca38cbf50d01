"""How well does a cheap ranking agree with the one that counts?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two scores of the same items, -1 to 1; None where it is not defined.

    It is not defined for fewer than two items, or where all items have the same score.

    Source: Kendall 1945, The Treatment of Ties in Ranking Problems.
    """
    if len(first) < 2 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(kendalltau(first, second).statistic)


def rung_taus(
    rows: Sequence[Mapping[str, Any]], rungs: Sequence[int], retrained: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """How well accuracy at each rung predicts accuracy at the end, among candidates that got there.

    Candidates stopped early have no end to compare with, so these figures speak of the survivors only.

    Args:
        rows: lines of candidates.jsonl.
        rungs: epochs of the rungs, ascending.
        retrained: lines of retrained.jsonl.

    Returns:
        One row a rung: `epochs`, `tau_search` and `n_search` (against the end of the search),
        `tau_retrained` and `n_retrained` (against full retraining with KD, mean over seeds).
    """
    complete = {row["id"]: row for row in rows if row["state"] == "complete"}
    final = {name: row["val_accuracy"] for name, row in complete.items()}
    full = {
        name: float(np.mean([row["val_accuracy"] for row in retrained if row["id"] == name and row["with_kd"]]))
        for name in dict.fromkeys(row["id"] for row in retrained if row["with_kd"] and row["id"] in complete)
    }
    found = []
    for rung in rungs:
        at = {
            name: row["curve"][rung - 1]["val_accuracy"] for name, row in complete.items() if len(row["curve"]) >= rung
        }
        known = [name for name in at if name in full]
        found.append(
            {
                "epochs": rung,
                "tau_search": None
                if rung == rungs[-1]
                else kendall_tau(list(at.values()), [final[name] for name in at]),
                "n_search": len(at),
                "tau_retrained": kendall_tau([at[name] for name in known], [full[name] for name in known]),
                "n_retrained": len(known),
            }
        )
    return found
