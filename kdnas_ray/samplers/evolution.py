"""Regularised evolution: a child of the best of a few of the youngest candidates."""

import random
from dataclasses import dataclass

import numpy as np
from optuna.samplers import BaseSampler

from kdnas_ray.samplers.base import Around, Constraints, Planner, Point, at_least
from kdnas_ray.samplers.history import History, fitness


@dataclass(frozen=True)
class Evolution:
    """Regularised evolution: the best of some of the youngest candidates has a child with one decision changed.

    With several objectives the better one is that on the better Pareto front, then the less crowded one. Candidates
    stopped early take part with an estimate of their final score; those that broke a constraint have no children.

    Source: Real 2019, Regularized Evolution for Image Classifier Architecture Search.

    Args:
        population: how many of the youngest candidates may have children; the first as many are drawn at random.
        tournament: how many of them compete to be the parent.
    """

    population: int = 30
    tournament: int = 10

    def __post_init__(self) -> None:
        at_least("population", self.population, 2)
        at_least("tournament", self.tournament, 1)

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        return EvolutionSampler(self, seed, constraints, around)


class EvolutionSampler(Planner):
    """See `Evolution`."""

    def __init__(self, options: Evolution, seed: int, constraints: Constraints, around: Around | None) -> None:
        super().__init__(seed, constraints, around)
        self._options = options

    def plan(self, history: History, rng: random.Random) -> Point:
        """A mutation of the winner of a tournament; a random candidate until the population is full."""
        members = history.scored[-self._options.population :]
        if len(members) < self._options.population:
            return self.fresh(history, lambda: self.drawn(rng), rng)

        def child() -> Point:
            rivals = rng.sample(members, min(self._options.tournament, len(members)))
            parent = rivals[int(np.argmax(fitness(np.array([rival.scores for rival in rivals]))))]
            return self.mutated(Point(parent.params, parent.ranges), rng)

        return self.fresh(history, child, rng)
