"""Local search: the neighbours of the best candidate, one after the other."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from kdnas_ray.samplers.base import Around, Constraints, Planner, Point, at_least, from_unit, same, to_unit
from kdnas_ray.samplers.history import Ended, History, fitness

OFFSETS = (-0.25, -0.06, 0.06, 0.25)  # where a number's neighbours lie, as shares of its range


@dataclass(frozen=True)
class Local:
    """Local search: neighbours of the best candidate in random order; where none is better, a new start not far away.

    A neighbour differs in one decision: a name is any other, a number is near by, later decisions that no longer fit
    are drawn anew. With several objectives better means better in one and worse in none. A candidate that was stopped
    early or broke a constraint is never better than a complete one.

    Source: White 2021, Exploring the Loss Landscape in Neural Architecture Search (the descent); Lourenço 2003,
    Iterated Local Search (the new start).

    Args:
        startup_trials: random candidates, of which the best is the first start.
        kick: decisions of a good candidate that are changed at random for a new start.
    """

    startup_trials: int = 10
    kick: int = 3

    def __post_init__(self) -> None:
        at_least("startup_trials", self.startup_trials, 1)
        at_least("kick", self.kick, 1)

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        return LocalSampler(self, seed, constraints, around)


class LocalSampler(Planner):
    """See `Local`. Where the search stands is found by walking through the ended trials in their order."""

    def __init__(self, options: Local, seed: int, constraints: Constraints, around: Around | None) -> None:
        super().__init__(seed, constraints, around)
        self._options = options
        self._walked: list[int] = []
        self._current: Ended | None = None
        self._left: list[Point] = []  # neighbours that were not tried when the walk was here

    def plan(self, history: History, rng: random.Random) -> Point:
        """A neighbour not yet tried; a random candidate at first; a new start where all were tried."""
        self._walk(history)
        if len(history.scored) >= self._options.startup_trials:
            untried = [point for point in self._left if not history.knows(point.params)]
            rng.shuffle(untried)
            for point in untried:
                if self.keeps(point):
                    return point
            return self.fresh(history, lambda: self._kicked(history.scored, rng), rng)
        return self.fresh(history, lambda: self.drawn(rng), rng)

    def _kicked(self, scored: Sequence[Ended], rng: random.Random) -> Point:
        """A good candidate (the best every other time) with several decisions changed."""
        rivals = rng.sample(scored, (len(scored) + 1) // 2)
        best = rivals[int(np.argmax(fitness(np.array([rival.scores for rival in rivals]))))]
        point = Point(best.params, best.ranges)
        for _ in range(self._options.kick):
            point = self.mutated(point, rng)
        return point

    def _walk(self, history: History) -> None:
        numbers = [ended.number for ended in history.ended]
        if numbers[: len(self._walked)] != self._walked:
            self._walked, self._current, self._left = [], None, []
        for ended in history.ended[len(self._walked) :]:
            if ended.scores is not None:
                restarts = not self._left and len(self._walked) >= self._options.startup_trials
                if self._current is None or restarts or _better(ended, self._current):
                    self._current, self._left = ended, self._neighbours(ended)
            self._left = [point for point in self._left if not _leads_to(point, ended)]
            self._walked.append(ended.number)

    def _neighbours(self, ended: Ended) -> list[Point]:
        rng = self.rng(ended.number)
        here = Point(ended.params, ended.ranges)
        return [
            self.changed(here, name, value, rng)
            for name, distribution in here.ranges.items()
            for value in _near(distribution, here.params[name])
        ]


def _better(one: Ended, other: Ended) -> bool:
    if one.complete != other.complete:
        return one.complete
    assert one.scores is not None
    assert other.scores is not None
    return one.scores != other.scores and all(a >= b for a, b in zip(one.scores, other.scores, strict=True))


def _leads_to(point: Point, ended: Ended) -> bool:
    return all(name in point.params and same(point.params[name], value) for name, value in ended.params.items())


def _near(distribution: BaseDistribution, value: Any) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if not same(choice, value)]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    share = to_unit(distribution, value)
    found = [from_unit(distribution, share + offset) for offset in OFFSETS if 0 <= share + offset <= 1]
    if distribution.step and not distribution.log:
        found += [value - distribution.step, value + distribution.step]
    return sorted(near for near in set(found) - {value} if distribution._contains(near))
