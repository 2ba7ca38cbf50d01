"""What did distillation bring, where the same architecture was trained with and without it, or a term of it?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kdnas_ray.analysis.effects import CONFIDENCE, LEAST_RANKED, mean_effect, paired_effect, rank_correlation
from kdnas_ray.objectives import SIZES

Row = Mapping[str, Any]


def term_pairs(rows: Sequence[Row], rung: int, identity: Callable[[Row], str]) -> list[dict[str, Any]]:
    """For each loss of the search: what architectures that were tried with and without it gained by it.

    Of each such architecture the mean accuracy of its candidates with the loss minus that of those without, after the
    first rung, which all reached. Their recipes differ in other settings too.

    Args:
        rows: lines of candidates.jsonl.
        rung: epochs of the first rung.
        identity: text that is the same for architectures whose results are the same.

    Returns:
        A row a loss that some architecture was tried with and without: `term`, `effect`.
    """
    reached = [row for row in rows if row["state"] in ("complete", "pruned") and len(row["curve"]) >= rung]
    groups: dict[str, list[Row]] = {}
    for row in reached:
        groups.setdefault(identity(row), []).append(row)
    losses = list(dict.fromkeys(loss for row in reached for loss in _losses(row)))
    found = []
    for loss in losses:
        gains = []
        for group in groups.values():
            scores: dict[bool, list[float]] = {True: [], False: []}
            for row in group:
                scores[loss in _losses(row)].append(row["curve"][rung - 1]["val_accuracy"])
            if scores[True] and scores[False]:
                gains.append(float(np.mean(scores[True]) - np.mean(scores[False])))
        if gains:
            found.append({"term": loss, "effect": mean_effect(gains)})
    return found


def gains(retrained: Sequence[Row], rows: Sequence[Row], identity: Callable[[Row], str]) -> list[dict[str, Any]]:
    """Gain of distillation of each candidate that was trained both ways from the same seeds, on validation.

    Args:
        retrained: trainings of one length: `id`, `seed`, `with_kd`, `val_accuracy`.
        rows: lines of candidates.jsonl.
        identity: see `term_pairs`.

    Returns:
        A row a candidate: `id`, its `architecture` (by `identity`), `gain` (an `Effect` over seeds), `without` (mean
        accuracy without the teacher), and its `traits`: sizes, and decisions of its architecture that are numbers.
    """
    known = {row["id"]: row for row in rows}
    found = []
    for name in dict.fromkeys(row["id"] for row in retrained if row["id"] in known):
        scores: dict[bool, dict[int, float | None]] = {True: {}, False: {}}
        for row in retrained:
            if row["id"] == name:
                scores[row["with_kd"]][row["seed"]] = row["val_accuracy"]
        gain = paired_effect(scores[True], scores[False])
        if gain["n"]:
            alone = [value for value in scores[False].values() if value is not None]
            facts = {"id": name, "architecture": identity(known[name]), "traits": _traits(known[name])}
            found.append({**facts, "gain": gain, "without": float(np.mean(alone))})
    return found


def by_architecture(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row an architecture of `gains`: mean `gain` of its candidates, a number, and its `traits`.

    Candidates of one architecture are not independent witnesses of what architectures gain.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault(row["architecture"], []).append(row)
    return [
        {"gain": float(np.mean([row["gain"]["value"] for row in group])), "traits": group[0]["traits"]}
        for group in groups.values()
    ]


def capacity_gap(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlation of each trait with the gain of distillation over architectures, the closest first.

    Intervals are widened for the number of traits (Bonferroni), so that together they hold with 95 %.

    Source: Cho and Hariharan 2019, On the Efficacy of Knowledge Distillation (the capacity gap); Dunn 1961, Multiple
    Comparisons Among Means.

    Args:
        found: of `gains`.

    Returns:
        A row a trait that varies: `trait`, `effect`; none below five architectures.
    """
    groups = by_architecture(found)
    if len(groups) < LEAST_RANKED:
        return []
    names = [name for name in groups[0]["traits"] if all(name in row["traits"] for row in groups)]
    varying = {name: values for name in names if len(set(values := [row["traits"][name] for row in groups])) > 1}
    gain = [row["gain"] for row in groups]
    level = 1 - (1 - CONFIDENCE) / max(len(varying), 1)
    rows = [{"trait": name, "effect": rank_correlation(values, gain, level)} for name, values in varying.items()]
    return sorted(rows, key=lambda row: -abs(row["effect"]["value"] or 0.0))


def _losses(row: Row) -> set[str]:
    return {term["loss"] for term in row["recipe"]["terms"]}


def _traits(row: Row) -> dict[str, float]:
    numbers = {
        name: float(value)
        for name, value in row["architecture"].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return {name: float(row[name]) for name in SIZES if row.get(name) is not None} | numbers
