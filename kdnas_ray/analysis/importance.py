"""Which decisions matter for accuracy?"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

ENOUGH = 20  # complete candidates from which their final accuracy is used


@dataclass(frozen=True)
class Importances:
    """Share of the variance of accuracy that each decision explains.

    Args:
        shares: decision to share, largest first; they sum to 1.
        epochs: the accuracy is the one after so many epochs.
        candidates: how many candidates it rests on.
    """

    shares: dict[str, float]
    epochs: int
    candidates: int


def importances(run: Path, rungs: Sequence[int]) -> Importances | None:
    """Importances of all decisions that every candidate takes; None where too few candidates are known.

    Final accuracy is used where enough candidates were trained in full, else accuracy at the first rung,
    which every candidate reached: complete ones alone are few and were selected.

    Source: Hutter 2014, An Efficient Approach for Assessing Hyperparameter Importance (functional ANOVA).

    Args:
        run: the run folder; its study is only read.
        rungs: epochs of the rungs, ascending.
    """
    if not (run / "study.db").exists() or not rungs:
        return None
    trials = _trials(run)
    epochs = rungs[-1] if sum(_accuracy(trial, rungs[-1]) is not None for trial in trials) >= ENOUGH else rungs[0]
    known = [(trial, value) for trial in trials if (value := _accuracy(trial, epochs)) is not None]
    if len(known) < 4 or len({value for _, value in known}) < 2:
        return None
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce the study in memory
    try:
        study = optuna.create_study(direction="maximize")
        study.add_trials([_complete(trial.params, trial.distributions, value) for trial, value in known])
        with warnings.catch_warnings(action="ignore"):
            shares = get_param_importances(study)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return Importances(dict(shares), epochs, len(known)) if sum(shares.values()) > 0 else None


def _trials(run: Path) -> list[FrozenTrial]:
    storage = f"sqlite:///{run / 'study.db'}"
    names = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=names[0], storage=storage).get_trials(deepcopy=False) if names else []


def _accuracy(trial: FrozenTrial, epochs: int) -> float | None:
    curve = trial.user_attrs.get("curve", ())
    return curve[epochs - 1]["val_accuracy"] if len(curve) >= epochs else None


def _complete(params: Mapping[str, Any], ranges: Mapping[str, BaseDistribution], value: float) -> FrozenTrial:
    return optuna.create_trial(params=dict(params), distributions=dict(ranges), value=value, state=TrialState.COMPLETE)
