"""A Gaussian process of all decisions, and the candidate from which it expects the greatest improvement."""

import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial

from kdnas_ray.samplers.base import Around, Constraints, at_least
from kdnas_ray.samplers.history import History, as_complete, of_all


@dataclass(frozen=True)
class GP:
    """Gaussian process with expected improvement, aware of running trials; one or several objectives.

    Models the decisions that every candidate has; those that depend on others are drawn by TPE. Stopped candidates
    count with an estimate of their final score. A proposal takes tenths of a second, seconds after some hundred
    candidates: for trainings of minutes.

    Source: Jones 1998, Efficient Global Optimization of Expensive Black-Box Functions; Ament 2023, Unexpected
    Improvements to Expected Improvement for Bayesian Optimization.

    Args:
        startup_trials: random candidates before the model is used.
    """

    startup_trials: int = 10

    def __post_init__(self) -> None:
        at_least("startup_trials", self.startup_trials, 1)

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constraints as a function: experimental, then deprecated
            return _GPSampler(self, seed, constraints)


class _GPSampler(GPSampler):
    def __init__(self, options: GP, seed: int, constraints: Constraints) -> None:
        super().__init__(
            seed=seed,
            n_startup_trials=options.startup_trials,
            constraints_func=constraints,
            independent_sampler=TPESampler(seed=seed, n_startup_trials=options.startup_trials),
            warn_independent_sampling=False,
        )
        self._history = History(constraints)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Optuna's, with stopped candidates estimated and rejected ones as bad as the worst."""
        self._history.read(study, asking=trial.number)
        seen = as_complete(study, self._history)
        return super().sample_relative(seen, trial, of_all(search_space, seen))
