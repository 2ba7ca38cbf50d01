"""NSGA-III: generations bred from the best Pareto fronts, spread by reference directions."""

import warnings
from dataclasses import dataclass

from optuna.samplers import BaseSampler, NSGAIIISampler

from kdnas_ray.samplers.base import Around, Constraints, at_least


@dataclass(frozen=True)
class NSGA3:
    """Non-dominated sorting genetic algorithm with reference directions, for three or more objectives.

    Source: Deb and Jain 2014, An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based
    Nondominated Sorting Approach, Part I (NSGA-III).

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
            return NSGAIIISampler(population_size=self.population, seed=seed, constraints_func=constraints)
