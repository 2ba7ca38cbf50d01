"""Predictor-guided search: of many proposals, the one that models of the ended candidates like best."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler

from kdnas_ray.samplers.base import Around, Constraints, Planner, Point, at_least, to_unit
from kdnas_ray.samplers.history import History, fitness

PARENTS = 10  # best candidates that proposals are mutations of
ABSENT = -1.0  # feature of a number that the candidate has no decision for


@dataclass(frozen=True)
class Predictor:
    """The best of many mutations and random draws, by an ensemble that predicts a candidate's scores.

    Each member is a ridge regression on all decisions, of a bootstrap sample of the candidates, and an extremely
    randomised tree for what a regression leaves unexplained: most of what decisions do adds up, which a forest alone
    learns slowly. How far the members disagree says how much there is to learn. With several objectives every proposal
    weighs them anew at random, so that all parts of the front are searched. Stopped candidates teach by an estimate of
    their final score; those that failed or broke a constraint as if they were as bad as the worst.

    Source: White 2021, BANANAS: Bayesian Optimization with Neural Architectures for Neural Architecture Search; Hutter
    2011, SMAC (ensembles and their spread); Knowles 2006, ParEGO (random weights).

    Args:
        startup_trials: random candidates before the model is used.
        pool: proposals that the model chooses from.
        explore: how many standard deviations of the members count in favour of a proposal.
        refit: ended candidates after which the ensemble is fitted anew.
        trees: members of the ensemble.
    """

    startup_trials: int = 10
    pool: int = 200
    explore: float = 1.0
    refit: int = 5
    trees: int = 30

    def __post_init__(self) -> None:
        for name in ("startup_trials", "pool", "refit", "trees"):
            at_least(name, getattr(self, name), 1)
        at_least("explore", self.explore, 0)

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        return PredictorSampler(self, seed, constraints, around)


class PredictorSampler(Planner):
    """See `Predictor`."""

    def __init__(self, options: Predictor, seed: int, constraints: Constraints, around: Around | None) -> None:
        super().__init__(seed, constraints, around)
        self._options = options
        self._fitted: list[int] = []
        self._columns: dict[str, BaseDistribution] = {}
        self._members: list[tuple[Any, Any]] = []  # a regression and a tree for its residuals

    def plan(self, history: History, rng: random.Random) -> Point:
        """The best of the pool that no trial holds; a random candidate at first."""
        scored = history.scored
        if len(scored) < self._options.startup_trials:
            return self.fresh(history, lambda: self.drawn(rng), rng)
        self._fit(history)
        best = np.argsort(-fitness(np.array([ended.scores for ended in scored])), kind="stable")[:PARENTS]
        parents = [Point(scored[i].params, scored[i].ranges) for i in best]
        pool = self._pool(parents, history, rng)
        if not pool:
            return self.fresh(history, lambda: self.drawn(rng), rng)
        ranked = np.argsort(-self._merits(pool, rng), kind="stable")
        return next((pool[i] for i in ranked if self.keeps(pool[i])), pool[ranked[0]])

    def _pool(self, parents: Sequence[Point], history: History, rng: random.Random) -> list[Point]:
        """Mutations of the best, of mutations too, and random candidates where the spaces are known; none known."""
        pool = []
        for index in range(self._options.pool):
            if self._around is not None and index % 4 == 0:
                point = self.drawn(rng)
            else:
                point = self.mutated(rng.choice(parents), rng)
                if index % 4 == 1:
                    point = self.mutated(point, rng)
            if not history.knows(point.params):
                pool.append(point)
        return pool

    def _merits(self, pool: Sequence[Point], rng: random.Random) -> np.ndarray:
        table = np.array([self._features(point.params) for point in pool], dtype=np.float32)
        votes = np.stack(
            [sum(part.predict(table).reshape(len(pool), -1) for part in member) for member in self._members]
        )
        merits = votes.mean(axis=0) + self._options.explore * votes.std(axis=0)  # [pool, objectives]
        if merits.shape[1] == 1:
            return merits[:, 0]
        weights = np.array([rng.expovariate(1) for _ in range(merits.shape[1])])
        weighted = (merits - merits.max(axis=0)) * weights / weights.sum()  # how far from the best in everything
        return weighted.min(axis=1) + 0.05 * weighted.sum(axis=1)

    def _fit(self, history: History) -> None:
        rows = history.ended[: len(history.ended) // self._options.refit * self._options.refit]
        if not any(row.scores is not None for row in rows):
            rows = history.ended
        numbers = [row.number for row in rows]
        if numbers == self._fitted:
            return
        from sklearn.ensemble import ExtraTreesRegressor
        from sklearn.linear_model import Ridge

        self._fitted = numbers
        self._columns = {name: distribution for row in rows for name, distribution in row.ranges.items()}
        trained = np.array([row.scores for row in rows if row.scores is not None])
        spread = trained.std(axis=0)
        standard = (trained - trained.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        scores = iter(standard)
        targets = np.array([next(scores) if row.scores is not None else standard.min(axis=0) for row in rows])
        table = np.array([self._features(row.params) for row in rows])
        left = targets - Ridge().fit(table, targets).predict(table).reshape(targets.shape)
        forest = ExtraTreesRegressor(self._options.trees, bootstrap=True, random_state=self._seed % 2**32)
        forest.fit(table, left[:, 0] if spread.size == 1 else left)
        draws = np.random.default_rng(self._seed).integers(len(rows), size=(self._options.trees, len(rows)))
        lines = [Ridge().fit(table[drawn], targets[drawn]) for drawn in draws]
        self._members = list(zip(lines, forest.estimators_, strict=True))

    def _features(self, params: Mapping[str, Any]) -> list[float]:
        row: list[float] = []
        for name, distribution in self._columns.items():
            if isinstance(distribution, CategoricalDistribution):
                value = params.get(name)
                row.extend(float(name in params and value == choice) for choice in distribution.choices)
            else:
                row.append(to_unit(distribution, params[name]) if name in params else ABSENT)
        return row
