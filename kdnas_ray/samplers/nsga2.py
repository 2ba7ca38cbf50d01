"""NSGA-II: generations bred from the best Pareto fronts and their least crowded parts."""

import warnings
from dataclasses import dataclass

from optuna.samplers import BaseSampler, NSGAIISampler

from kdnas_ray.samplers.base import Around, Constraints, at_least


@dataclass(frozen=True)
class NSGA2:
    """Non-dominated sorting genetic algorithm, for several objectives.

    Source: Deb 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II.

    Args:
        population: candidates of one generation.
    """

    population: int = 16

    def __post_init__(self) -> None:
        at_least("population", self.population, 2)

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constraints as a function: experimental, then deprecated
            return NSGAIISampler(population_size=self.population, seed=seed, constraints_func=constraints)
