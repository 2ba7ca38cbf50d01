"""Which decisions matter for accuracy?"""

import contextlib
import math
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

ENOUGH = 20  # complete candidates from which their final accuracy is used
FEWEST = 4  # candidates below which nothing is said
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
    which every candidate reached: complete ones alone are few and were selected. A study that cannot be
    read counts as one without candidates.

    Source: Hutter 2014, An Efficient Approach for Assessing Hyperparameter Importance (functional ANOVA).

    Args:
        run: the run folder; its study is only read.
        rungs: epochs of the rungs, ascending.
    """
    if not (run / "study.db").exists() or not rungs:
        return None
    try:
        trials = _trials(run / "study.db")
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError):  # corrupt, or of another Optuna
        return None
    epochs = rungs[-1] if sum(_accuracy(trial, rungs[-1]) is not None for trial in trials) >= ENOUGH else rungs[0]
    known = [(trial, value) for trial in trials if (value := _accuracy(trial, epochs)) is not None]
    if len(known) < FEWEST or len({value for _, value in known}) < 2:
        return None
    shares = _shares(known)
    return Importances(shares, epochs, len(known)) if shares else None


def _shares(known: Sequence[tuple[FrozenTrial, float]]) -> dict[str, float]:
    with _quiet():
        study = optuna.create_study(direction="maximize")
        study.add_trials([_complete(trial.params, trial.distributions, value) for trial, value in known])
        # Named, not left to Optuna: its default changed from functional ANOVA to another measure in version 5.
        try:
            found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=SEED))
        except RuntimeError:  # no tree of the forest found any variance
            return {}
    return {name: float(share) for name, share in found.items()}


def _trials(path: Path) -> list[FrozenTrial]:
    """All trials of the study, from a connection that cannot write: a search may be running on it."""
    address = f"file:{quote(str(path.resolve()))}?mode=ro"
    with _quiet():
        storage = RDBStorage("sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(address, uri=True)})
        try:
            names = optuna.get_all_study_names(storage)
            return optuna.load_study(study_name=names[0], storage=storage).get_trials(deepcopy=False) if names else []
        finally:
            storage.engine.dispose()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces studies and experimental features; that is not for the reader of a report."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _accuracy(trial: FrozenTrial, epochs: int) -> float | None:
    curve = trial.user_attrs.get("curve", ())
    value = curve[epochs - 1]["val_accuracy"] if len(curve) >= epochs else None
    return value if value is not None and math.isfinite(value) else None


def _complete(params: Mapping[str, Any], ranges: Mapping[str, BaseDistribution], value: float) -> FrozenTrial:
    return optuna.create_trial(params=dict(params), distributions=dict(ranges), value=value, state=TrialState.COMPLETE)
