"""How are candidates proposed? Always by an Optuna sampler."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial

from search_spaces import KdnasError, Registry

Constraints = Callable[[FrozenTrial], Sequence[float]]


@dataclass(frozen=True)
class Random:
    """Independent uniform draws; the baseline that every other sampler must beat.

    Source: Bergstra and Bengio 2012, Random Search for Hyper-Parameter Optimization.
    """

    def make(self, seed: int, constraints: Constraints) -> BaseSampler:
        """The Optuna sampler."""
        return optuna.samplers.RandomSampler(seed=seed)


@dataclass(frozen=True)
class TPE:
    """Tree-structured Parzen estimator, multivariate, aware of running trials; one or several objectives.

    Source: Bergstra 2011, Algorithms for Hyper-Parameter Optimization; Falkner 2018, BOHB (multivariate).

    Args:
        startup_trials: random candidates before the model is used.
        candidates: points drawn from the model for each proposal.
    """

    startup_trials: int = 10
    candidates: int = 24

    def __post_init__(self) -> None:
        _at_least("startup_trials", self.startup_trials, 1)
        _at_least("candidates", self.candidates, 1)

    def make(self, seed: int, constraints: Constraints) -> BaseSampler:
        """The Optuna sampler."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(
                n_startup_trials=self.startup_trials,
                n_ei_candidates=self.candidates,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=seed,
                constraints_func=constraints,
            )


@dataclass(frozen=True)
class NSGA2:
    """Non-dominated sorting genetic algorithm, for several objectives.

    Source: Deb 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II.

    Args:
        population: candidates of one generation.
    """

    population: int = 16

    def __post_init__(self) -> None:
        _at_least("population", self.population, 2)

    def make(self, seed: int, constraints: Constraints) -> BaseSampler:
        """The Optuna sampler."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return NSGAIISampler(population_size=self.population, seed=seed, constraints_func=constraints)


SAMPLERS: Registry[type] = Registry("sampler", ("tpe", TPE), ("random", Random), ("nsga2", NSGA2))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise KdnasError("too small", field=f"sampler.{name}", value=value, remedy=f"choose at least {least}")
