"""How are candidates proposed? Always by an Optuna sampler."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial

from search_spaces import KdnasError, Registry, Space

Constraints = Callable[[FrozenTrial], Sequence[float]]
Row = Mapping[str, Any]  # a line of candidates.jsonl


@dataclass(frozen=True)
class Around:
    """What a sampler may know of the search it serves.

    Args:
        space: of the architectures.
        recipes: space of the recipes.
        costs: `params` and `flops` of an architecture.
        rows: the search's ended candidates so far.
        epochs: length of a full training.
    """

    space: Space
    recipes: Any
    costs: Callable[[Any], dict[str, int]]
    rows: Callable[[], Sequence[Row]]
    epochs: int


@dataclass(frozen=True)
class Random:
    """Independent uniform draws; the baseline that every other sampler must beat.

    Source: Bergstra and Bengio 2012, Random Search for Hyper-Parameter Optimization.
    """

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
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

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
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

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return NSGAIISampler(population_size=self.population, seed=seed, constraints_func=constraints)


@dataclass(frozen=True)
class Advised(TPE):
    """TPE for the architecture; for its recipe the best of many by a model of finished candidates, earlier runs' too.

    Source: Vanschoren 2019, Meta-Learning, section 2.3 (warm-starting from prior evaluations).

    Args:
        startup_trials: random architectures before TPE is used.
        candidates: points drawn from TPE's model for each proposal.
        warm_start: run folders of earlier searches to learn from, also on other spaces and data.
        explore: share of the proposals that keep a random recipe.
        draws: random recipes that the model chooses from.
    """

    warm_start: tuple[Path, ...] = ()
    explore: float = 0.2
    draws: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("draws", self.draws, 1)
        if not 0 <= self.explore <= 1:
            raise KdnasError("a share", field="sampler.explore", value=self.explore, remedy="choose 0 to 1")

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler; plain TPE where nothing is known of the search."""
        base = super().make(seed, constraints)
        if around is None:
            return base
        from kdnas_ray.samplers.advised import AdvisedSampler, read_searches

        earlier = read_searches(self.warm_start)
        return AdvisedSampler(base, around, earlier, explore=self.explore, draws=self.draws, seed=seed)


SAMPLERS: Registry[type] = Registry("sampler", ("tpe", TPE), ("random", Random), ("nsga2", NSGA2), ("advised", Advised))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise KdnasError("too small", field=f"sampler.{name}", value=value, remedy=f"choose at least {least}")
