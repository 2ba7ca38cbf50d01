"""CMA-ES: a normal distribution over the numeric decisions that moves and stretches towards good candidates."""

import importlib.util
import random
from dataclasses import dataclass
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, TPESampler
from optuna.trial import FrozenTrial

from kdnas_ray.samplers.base import Around, Constraints, Draft, at_least, from_unit, several_objectives
from kdnas_ray.samplers.history import History, as_complete, of_all
from search_spaces import KdnasError


@dataclass(frozen=True)
class CMAES:
    """Covariance matrix adaptation evolution strategy, for one objective and decisions that are mostly numbers.

    Only the numbers that every candidate has are searched so; names, and numbers that depend on others, are drawn by
    TPE, one by one. Needs the extra `cmaes`. Stopped candidates count with an estimate of their final score.

    Source: Hansen 2016, The CMA Evolution Strategy: A Tutorial.

    Args:
        startup_trials: random candidates before the strategy is used.
        population: candidates of one generation, at least 3; None for 4 + 3 log(numbers).
    """

    several_objectives: ClassVar[bool] = False

    startup_trials: int = 1
    population: int | None = None

    def __post_init__(self) -> None:
        at_least("startup_trials", self.startup_trials, 1)
        if self.population is not None:
            at_least("population", self.population, 3)

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler.

        Raises:
            KdnasError: the package `cmaes` is missing, or no decision of the search is a number.
        """
        if importlib.util.find_spec("cmaes") is None:
            raise KdnasError(
                "needs the package cmaes", field="sampler", value="cmaes", remedy="pip install 'kdnas_ray[cmaes]'"
            )
        if around is not None and not _has_number(around, seed):
            raise KdnasError(
                "no decision is a number", field="sampler", value="cmaes", remedy="choose another, such as evolution"
            )
        return _CmaEsSampler(self, seed, constraints)


class _CmaEsSampler(CmaEsSampler):
    def __init__(self, options: CMAES, seed: int, constraints: Constraints) -> None:
        super().__init__(
            seed=seed,
            n_startup_trials=options.startup_trials,
            popsize=options.population,
            independent_sampler=TPESampler(seed=seed),
            warn_independent_sampling=False,
        )
        self._history = History(constraints)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Optuna's.

        Raises:
            KdnasError: the study has several objectives.
        """
        if len(study.directions) > 1:
            raise several_objectives("cmaes")
        return super().infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Optuna's, with stopped candidates estimated and rejected ones as bad as the worst."""
        self._history.read(study, asking=trial.number)
        seen = as_complete(study, self._history)
        return super().sample_relative(seen, trial, of_all(search_space, seen))


def _has_number(around: Around, seed: int) -> bool:
    rng = random.Random(seed)
    for _ in range(20):  # a number may depend on another decision
        draft = Draft(lambda _, distribution: from_unit(distribution, rng.random()))
        around.space.suggest(draft)
        around.recipes.suggest(draft)
        if any(not isinstance(d, CategoricalDistribution) and not d.single() for d in draft.ranges.values()):
            return True
    return False
