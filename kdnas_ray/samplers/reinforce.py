"""REINFORCE: a policy that learns which value of each decision pays."""

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler

from kdnas_ray.samplers.base import Around, Constraints, Planner, Point, at_least, from_unit, to_unit
from kdnas_ray.samplers.history import Ended, History
from search_spaces import KdnasError

WINDOW = 50  # recent candidates that a candidate of several objectives is compared with
BAD = -2.0  # advantage of a candidate that failed or breaks a constraint, in standard deviations


@dataclass(frozen=True)
class Reinforce:
    """REINFORCE: a softmax over the values of each decision, moved towards candidates better than a moving average.

    Every decision has logits of its own; a number is cut into bins and drawn uniformly within one. The reward is the
    score in standard deviations of those seen so far, or, with several objectives, the share of recent candidates that
    do not dominate the candidate. Stopped candidates count with an estimate of their final score.

    Source: Williams 1992, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning;
    Zoph and Le 2017, Neural Architecture Search with Reinforcement Learning.

    Args:
        startup_trials: random candidates before the policy is used.
        learning_rate: step of the logits for an advantage of one standard deviation.
        entropy: weight of the policy's entropy, which keeps it from settling too early.
        decay: of the moving average, 0 to 1; higher forgets more slowly.
        bins: parts that a number's range is cut into.
    """

    startup_trials: int = 10
    learning_rate: float = 0.5
    entropy: float = 0.1
    decay: float = 0.9
    bins: int = 8

    def __post_init__(self) -> None:
        at_least("startup_trials", self.startup_trials, 1)
        at_least("bins", self.bins, 1)
        at_least("entropy", self.entropy, 0)
        if not self.learning_rate > 0:
            raise KdnasError(
                "no step", field="sampler.learning_rate", value=self.learning_rate, remedy="choose a rate above 0"
            )
        if not 0 <= self.decay < 1:
            raise KdnasError("a share", field="sampler.decay", value=self.decay, remedy="choose from 0 to below 1")

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        return ReinforceSampler(self, seed, constraints, around)


class ReinforceSampler(Planner):
    """See `Reinforce`. The policy is what replaying the ended trials in their order leads to."""

    def __init__(self, options: Reinforce, seed: int, constraints: Constraints, around: Around | None) -> None:
        super().__init__(seed, constraints, around)
        self._options = options
        self._forget()

    def plan(self, history: History, rng: random.Random) -> Point:
        """A candidate drawn from the policy."""
        self._learn(history)
        return self.fresh(history, lambda: self.drawn(rng), rng)

    def choose(self, name: str, distribution: BaseDistribution, rng: random.Random) -> Any:
        """A value drawn from the policy; the least and the largest value of a part belong to it."""
        parts = self._parts(distribution)
        weights = _softmax(self._logits[name]) if name in self._logits else np.full(parts, 1 / parts)
        if len(weights) != parts or len(self._replayed) < self._options.startup_trials:
            weights = np.full(parts, 1 / parts)
        part = rng.choices(range(parts), weights.tolist())[0]
        return from_unit(distribution, (part + rng.random()) / parts)

    def _forget(self) -> None:
        self._replayed: list[int] = []
        self._recent: list[tuple[float, ...]] = []
        self._logits: dict[str, np.ndarray] = {}
        self._mean, self._square, self._baseline = 0.0, 0.0, 0.0
        self._count = 0

    def _learn(self, history: History) -> None:
        numbers = [ended.number for ended in history.ended]
        if numbers[: len(self._replayed)] != self._replayed:
            self._forget()
        for ended in history.ended[len(self._replayed) :]:
            self._step(ended, self._advantage(ended))
            self._replayed.append(ended.number)

    def _advantage(self, ended: Ended) -> float:
        if ended.scores is None:
            return BAD
        reward = self._reward(ended.scores)
        self._count += 1
        change = reward - self._mean
        self._mean += change / self._count
        self._square += change * (reward - self._mean)
        if self._count == 1:
            self._baseline = reward
        spread = math.sqrt(self._square / self._count) or 1.0
        advantage = (reward - self._baseline) / spread
        self._baseline += (1 - self._options.decay) * (reward - self._baseline)
        return min(max(advantage, -3.0), 3.0)

    def _reward(self, scores: tuple[float, ...]) -> float:
        if len(scores) == 1:
            return scores[0]
        others = np.array(self._recent or [scores])
        dominated = (others >= scores).all(axis=1) & (others > scores).any(axis=1)
        self._recent = [*self._recent, scores][-WINDOW:]
        return 1 - float(dominated.mean())

    def _step(self, ended: Ended, advantage: float) -> None:
        for name, distribution in ended.ranges.items():
            parts = self._parts(distribution)
            logits = self._logits.get(name)
            if logits is None or len(logits) != parts:
                logits = np.zeros(parts)
            policy = _softmax(logits)
            taken = np.zeros(parts)
            taken[min(int(to_unit(distribution, ended.params[name]) * parts), parts - 1)] = 1
            log = np.log(policy + 1e-12)
            entropy = -policy * (log - (policy * log).sum())  # gradient of the entropy
            step = advantage * (taken - policy) + self._options.entropy * entropy
            self._logits[name] = logits + self._options.learning_rate * step

    def _parts(self, distribution: BaseDistribution) -> int:
        if isinstance(distribution, CategoricalDistribution):
            return len(distribution.choices)
        low, high, step = (getattr(distribution, key) for key in ("low", "high", "step"))
        if isinstance(distribution, FloatDistribution) and step is None:
            return self._options.bins
        return min(self._options.bins, round((high - low) / step) + 1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
