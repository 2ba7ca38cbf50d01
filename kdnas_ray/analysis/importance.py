"""Which decisions matter for accuracy?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from kdnas_ray.runs import read_jsonl
from kdnas_ray.study import FILE, quiet_optuna, read_trials

ENOUGH = 20  # complete candidates from which their final accuracy is used
FEWEST = 4  # candidates below which nothing is said
MOST = 1000  # candidates that are looked at: more take long and change nothing that a reader would see
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


def importances(run: Path, rungs: Sequence[int]) -> Importances | None:
    """Importances of all decisions that every candidate takes; None where too few candidates are known.

    Final accuracy is used where enough candidates were trained in full, else accuracy at the first rung,
    which every candidate reached: complete ones alone are few and were selected. Of very many a sample is looked at,
    evenly in the order in which they ended. A study that cannot be read counts as one without candidates.

    Source: Hutter 2014, An Efficient Approach for Assessing Hyperparameter Importance (functional ANOVA).

    Args:
        run: the run folder; its study is only read.
        rungs: epochs of the rungs, ascending.
    """
    if not (run / FILE).exists() or not rungs:
        return None
    try:
        trials = read_trials(run, _sampled(run, rungs))
    except (ValueError, KeyError, TypeError, optuna.exceptions.OptunaError):  # corrupt, or of another Optuna
        return None
    epochs = rungs[-1] if sum(_accuracy(trial, rungs[-1]) is not None for trial in trials) >= ENOUGH else rungs[0]
    known = [(trial, value) for trial in trials if (value := _accuracy(trial, epochs)) is not None]
    if len(known) < FEWEST or len({value for _, value in known}) < 2:
        return None
    shares = _shares(known)
    return Importances(shares, epochs, len(known)) if shares else None


def _sampled(run: Path, rungs: Sequence[int]) -> set[int] | None:
    """Numbers of the candidates to look at; None for all, where they are not too many."""
    lengths = {row["id"]: len(row["curve"]) for row in read_jsonl(run / "candidates.jsonl")}
    whole = [name for name, length in lengths.items() if length >= rungs[-1]]
    there = whole if len(whole) >= ENOUGH else [name for name, length in lengths.items() if length >= rungs[0]]
    if len(there) <= MOST and len(lengths) <= MOST:
        return None
    places = np.linspace(0, len(there) - 1, min(MOST, len(there))).round().astype(int)
    return {int(there[place][1:]) for place in places if there[place][1:].isdigit()}


def _shares(known: Sequence[tuple[FrozenTrial, float]]) -> dict[str, float]:
    with quiet_optuna():
        study = optuna.create_study(direction="maximize")
        study.add_trials([_complete(trial.params, trial.distributions, value) for trial, value in known])
        # Named, not left to Optuna: its default changed from functional ANOVA to another measure in version 5.
        try:
            found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=SEED))
        except RuntimeError:  # no tree of the forest found any variance
            return {}
    return {name: float(share) for name, share in found.items()}


def _accuracy(trial: FrozenTrial, epochs: int) -> float | None:
    curve = trial.user_attrs.get("curve", ())
    value = curve[epochs - 1]["val_accuracy"] if len(curve) >= epochs else None
    return value if value is not None and math.isfinite(value) else None


def _complete(params: Mapping[str, Any], ranges: Mapping[str, BaseDistribution], value: float) -> FrozenTrial:
    return optuna.create_trial(params=dict(params), distributions=dict(ranges), value=value, state=TrialState.COMPLETE)
