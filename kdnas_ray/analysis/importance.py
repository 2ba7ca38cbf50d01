"""Which decisions matter for accuracy?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from kdnas_ray.analysis.fanova import main_effects
from kdnas_ray.runs import read_jsonl
from kdnas_ray.study import has_study, read_trials
from search_spaces.errors import KdnasError

ENOUGH = 20  # complete candidates from which their final accuracy is used
FEWEST = 4  # candidates below which nothing is said
MOST = 2000  # candidates that are looked at: more take long and change nothing that a reader would see
SEED = 0  # of the forest: the same run gives the same figures


@dataclass(frozen=True)
class Importances:
    """How much of the variance of accuracy each decision explains on its own.

    Args:
        shares: decision to share, largest first; normalised to sum to 1.
        epochs: the accuracy is the one after so many epochs.
        candidates: how many candidates it rests on.
    """

    shares: dict[str, float]
    epochs: int
    candidates: int


def importances(run: Path, rungs: Sequence[int], rows: Sequence[Mapping[str, Any]] | None = None) -> Importances | None:
    """Importances of all decisions that every candidate takes; None where too few candidates are known.

    Source: Hutter 2014, An Efficient Approach for Assessing Hyperparameter Importance (functional ANOVA).

    Args: see `known_trials`.
    """
    known, epochs = known_trials(run, rungs, rows)
    if len(known) < FEWEST or len({value for _, value in known}) < 2:
        return None
    shares = _shares(known)
    return Importances(shares, epochs, len(known)) if shares else None


def known_trials(
    run: Path, rungs: Sequence[int], rows: Sequence[Mapping[str, Any]] | None = None
) -> tuple[list[tuple[FrozenTrial, float]], int]:
    """Candidates as trials, each with its accuracy after so many epochs.

    Final accuracy is used where enough candidates were trained in full, else accuracy at the first rung,
    which every candidate reached: complete ones alone are few and were selected. Of very many a sample is looked at,
    evenly in the order in which they ended. A study that cannot be read counts as one without candidates.

    Args:
        run: the run folder; its study is only read.
        rungs: epochs of the rungs, ascending.
        rows: lines of candidates.jsonl, where they were read already.
    """
    if not has_study(run) or not rungs:
        return [], 0
    try:
        rows = read_jsonl(run / "candidates.jsonl") if rows is None else rows
        only = _sampled(rows, rungs)
        trials = [trial for trial in read_trials(run, only) if only is None or trial.number in only]
    except (ValueError, KeyError, TypeError, optuna.exceptions.OptunaError, KdnasError):  # corrupt, or away
        return [], 0
    # A proposal that was trained already is told the earlier result and rejected: it is no second witness.
    repeated = {row["id"] for row in rows if row.get("state") == "rejected"}
    trials = [trial for trial in trials if f"c{trial.number:04d}" not in repeated]
    epochs = rungs[-1] if sum(_accuracy(trial, rungs[-1]) is not None for trial in trials) >= ENOUGH else rungs[0]
    return [(trial, value) for trial in trials if (value := _accuracy(trial, epochs)) is not None], epochs


def _sampled(rows: Sequence[Mapping[str, Any]], rungs: Sequence[int]) -> set[int] | None:
    """Numbers of the candidates to look at; None for all, where they are not too many."""
    lengths = {row["id"]: len(row["curve"]) for row in rows}
    whole = [name for name, length in lengths.items() if length >= rungs[-1]]
    there = whole if len(whole) >= ENOUGH else [name for name, length in lengths.items() if length >= rungs[0]]
    if len(there) <= MOST and len(lengths) <= MOST:
        return None
    places = np.linspace(0, len(there) - 1, min(MOST, len(there))).round().astype(int)
    return {int(there[place][1:]) for place in places if there[place][1:].isdigit()}


def _shares(known: Sequence[tuple[FrozenTrial, float]]) -> dict[str, float]:
    ranges: dict[str, BaseDistribution] = {}
    for trial, _ in known:
        ranges = {**trial.distributions, **ranges}
    names = [name for name, kind in ranges.items() if not kind.single() and all(name in t.params for t, _ in known)]
    if not names:
        return {}
    columns = np.array([[place_of(ranges[name], trial.params[name]) for name in names] for trial, _ in known])
    choices = np.array([_choices(ranges[name]) for name in names])
    found = main_effects(columns, np.array([value for _, value in known]), choices, SEED)
    if not np.isfinite(found).all() or found.sum() <= 0:
        return {}
    order = np.argsort(-found, kind="stable")
    return {names[place]: float(found[place] / found.sum()) for place in order}


def _choices(kind: BaseDistribution) -> int:
    return len(kind.choices) if isinstance(kind, CategoricalDistribution) else 0


def place_of(kind: BaseDistribution, value: Any) -> float:
    """Where a value stands: the number of a choice, or 0 to 1 within a range, on the scale on which it is drawn."""
    if isinstance(kind, CategoricalDistribution):
        return kind.to_internal_repr(value)
    assert isinstance(kind, (IntDistribution, FloatDistribution))
    low, high = float(kind.low), float(kind.high)
    if kind.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _accuracy(trial: FrozenTrial, epochs: int) -> float | None:
    curve = trial.user_attrs.get("curve", ())
    value = curve[epochs - 1]["val_accuracy"] if len(curve) >= epochs else None
    return value if value is not None and math.isfinite(value) else None
