"""CMA-ES: a normal distribution over the numeric decisions that moves and stretches towards good candidates."""

import importlib.util
import json
import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
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
        self._optimizer: Any = None

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

    # Optuna keeps the distribution in the study as a pickle, and a study may come from elsewhere: here it is JSON.

    def _init_optimizer(self, *arguments: Any) -> Any:
        self._optimizer = super()._init_optimizer(*arguments)
        return self._optimizer

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            key = self._attr_key_optimizer
            parts = {name: part for name, part in trial.system_attrs.items() if name.startswith(key)}
            found = _from_text(self._concat_optimizer_attrs(parts)) if parts else None
            if found is not None:
                self._optimizer = found
                return found
        return None

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        return super()._split_optimizer_str(_to_text(self._optimizer))


def _to_text(optimizer: Any) -> str:
    """The distribution as JSON: numbers as they are, arrays as lists."""
    return json.dumps(optimizer.__getstate__(), default=np.ndarray.tolist)


def _from_text(text: str) -> Any:
    """The distribution that `_to_text` wrote; None where it is something else, such as a pickle of an earlier version.

    Without one Optuna begins with a new distribution, which learns from the generations that are there.
    """
    import cmaes  # type: ignore[import-untyped]

    try:
        kept = json.loads(text)
        size = kept["_n_dim"]
        if len(kept["_c_1d"]) != size * (size + 1) // 2 or len(kept["_weights"]) != kept["_popsize"]:
            return None  # numbers that promise more than is there would take any amount of memory
        found = cmaes.CMA(mean=np.zeros(kept["_n_dim"]), sigma=1.0, population_size=kept["_popsize"])
        found.ask()  # so that every array is there
        like = found.__getstate__()
        if set(kept) != set(like) or not all(_alike(kept[name], like[name]) for name in like):
            return None
        arrays = {name: np.array(kept[name]) for name in like if isinstance(kept[name], list)}
        found.__setstate__({**kept, **arrays})
    except (ValueError, LookupError, TypeError, AssertionError, OverflowError, MemoryError, RecursionError):
        return None
    return found


def _alike(kept: Any, like: Any) -> bool:
    """Whether a value has the type and shape of another; bounds and derived arrays may be absent."""
    if kept is None or like is None:
        return True
    if isinstance(like, np.ndarray):
        return np.array(kept, dtype=np.float64).shape == like.shape
    return isinstance(kept, (int, float))


def _has_number(around: Around, seed: int) -> bool:
    rng = random.Random(seed)
    for _ in range(20):  # a number may depend on another decision
        draft = Draft(lambda _, distribution: from_unit(distribution, rng.random()))
        around.space.suggest(draft)
        around.recipes.suggest(draft)
        if any(not isinstance(d, CategoricalDistribution) and not d.single() for d in draft.ranges.values()):
            return True
    return False
