"""What is every sampler given, and what is a sampler that plans a whole candidate at once?"""

import abc
import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FixedTrial, FrozenTrial

from kdnas_ray.samplers.history import History
from search_spaces import KdnasError, Space

Constraints = Callable[[FrozenTrial], Sequence[float]]
Row = Mapping[str, Any]  # a line of candidates.jsonl

TRIES = 30  # proposals in a row that are known already or break a bound, before one is changed at random
STEPS = 80  # random changes after that; what even they do not mend is proposed
STEP = 0.2  # standard deviation of the change of a number, as a share of its range


@dataclass(frozen=True)
class Around:
    """What a sampler may know of the search it serves.

    Args:
        space: of the architectures.
        recipes: space of the recipes.
        costs: `params` and `flops` of an architecture.
        rows: the search's ended candidates so far.
        epochs: length of a full training.
        excess: how far an architecture exceeds its worst bound, relative to it (at most 0: it keeps all), asked before
            it is proposed; None where there are no bounds.
    """

    space: Space
    recipes: Any
    costs: Callable[[Any], dict[str, float]]
    rows: Callable[[], Sequence[Row]]
    epochs: int
    excess: Callable[[Any], float] | None = None


def at_least(name: str, value: float, least: float) -> None:
    """Raises unless the sampler's option is large enough.

    Raises:
        KdnasError: it is not.
    """
    if value < least:
        raise KdnasError("too small", field=f"sampler.{name}", value=value, remedy=f"choose at least {least}")


def several_objectives(sampler: str) -> KdnasError:
    """The error of a sampler that knows one objective only."""
    return KdnasError(
        "knows one objective only", field="sampler", value=sampler, remedy="choose one objective, or sampler nsga2"
    )


@dataclass(frozen=True)
class Point:
    """Decisions of a whole candidate, architecture and recipe, each with its range; perhaps incomplete."""

    params: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, BaseDistribution] = field(default_factory=dict)


class Planner(BaseSampler):
    """A sampler that plans all decisions of a candidate at once; subclasses say how, in `plan`.

    Its state is the study alone: what is learned is read from the ended trials, and the random numbers of a trial
    derive from the seed and the trial's number. So a resumed search goes on as if it had never stopped, and several
    workers need no code; only running trials must not be proposed again, which `fresh` sees to.

    Decisions that a plan leaves open, or that do not fit where a condition changed, are drawn by `choose`. With
    `around`, plans are completed before they are used, by replaying the spaces; without, decisions that no plan holds
    are drawn when they are asked for, and only what an earlier candidate decided is varied.

    Args:
        seed: of all random numbers.
        constraints: a candidate with a value above 0 breaks one.
        around: the search.
    """

    def __init__(self, seed: int, constraints: Constraints, around: Around | None) -> None:
        self._seed, self._around = seed, around
        self._history = History(constraints)
        self._lock = threading.Lock()
        self._plans: dict[int, tuple[Mapping[str, Any], random.Random]] = {}

    @abc.abstractmethod
    def plan(self, history: History, rng: random.Random) -> Point:
        """The next candidate, given what the study holds."""

    def choose(self, name: str, distribution: BaseDistribution, rng: random.Random) -> Any:
        """A value for a decision without a plan."""
        return from_unit(distribution, rng.random())

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: the decisions are made one by one, as the spaces ask for them."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing, see `infer_relative_search_space`."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The planned value where it fits, else one chosen now."""
        if trial.number not in self._plans:
            rng = self.rng(trial.number)
            with self._lock:
                self._history.read(study, asking=trial.number)
                self._plans[trial.number] = self.plan(self._history, rng).params, rng
        wishes, rng = self._plans[trial.number]
        if fits(param_distribution, wishes.get(param_name)):
            return wishes[param_name]
        return self.choose(param_name, param_distribution, rng)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Forget the plan."""
        self._plans.pop(trial.number, None)

    def rng(self, number: int) -> random.Random:
        """The random numbers of trial `number`."""
        return random.Random(f"{self._seed} {number}")

    def drawn(self, rng: random.Random) -> Point:
        """A candidate whose every decision is chosen without a plan."""
        return self.complete(Point(), rng)

    def complete(self, point: Point, rng: random.Random) -> Point:
        """The candidate that these decisions lead to: exactly those its spaces ask for."""
        if self._around is None:
            return point

        def take(name: str, distribution: BaseDistribution) -> Any:
            wish = point.params.get(name)
            return wish if fits(distribution, wish) else self.choose(name, distribution, rng)

        draft = Draft(take)
        self._around.space.suggest(draft)
        self._around.recipes.suggest(draft)
        return Point(draft.params, draft.ranges)

    def changed(self, point: Point, name: str, value: Any, rng: random.Random) -> Point:
        """The candidate with one decision changed; later ones that no longer fit are drawn anew."""
        return self.complete(Point({**point.params, name: value}, point.ranges), rng)

    def mutated(self, point: Point, rng: random.Random) -> Point:
        """The candidate with one decision changed at random: a name to any other, a number by a normal step."""
        names = [name for name, distribution in point.ranges.items() if not distribution.single()]
        if not names:
            return self.drawn(rng)
        name = rng.choice(names)
        return self.changed(point, name, _other(point.ranges[name], point.params[name], rng), rng)

    def keeps(self, point: Point) -> bool:
        """Whether the candidate keeps all bounds, as far as they are known."""
        return not excess(self._around, point.params)

    def fresh(self, history: History, propose: Callable[[], Point], rng: random.Random) -> Point:
        """The first proposal that no trial holds yet and that keeps the bounds; after `TRIES`, steps away from one.

        No step leads further beyond the bounds.
        """
        point, over = propose(), 0.0
        for count in range(TRIES + STEPS):
            over = excess(self._around, point.params)
            if not over and not history.knows(point.params):
                break
            step = propose() if count < TRIES else self.mutated(point, rng)
            if count < TRIES or excess(self._around, step.params) <= over:
                point = step
        return point


def excess(around: Around | None, params: Mapping[str, Any]) -> float:
    """How far the candidate with these decisions exceeds its worst bound; 0 where it keeps all or none is known."""
    if around is None or around.excess is None:
        return 0.0
    return max(0.0, around.excess(around.space.suggest(FixedTrial(dict(params)))))


class Draft:
    """A trial that is never run: passes every decision to `take`, and keeps it with its range."""

    def __init__(self, take: Callable[[str, BaseDistribution], Any]) -> None:
        self._take = take
        self.params: dict[str, Any] = {}
        self.ranges: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """See `search_spaces.Suggests`."""
        return self._decide(name, CategoricalDistribution(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """See `search_spaces.Suggests`."""
        return self._decide(name, IntDistribution(low, high, log, step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """See `search_spaces.Suggests`."""
        return self._decide(name, FloatDistribution(low, high, log, step))

    def _decide(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.params:
            self.params[name] = self._take(name, distribution)
            self.ranges[name] = distribution
        return self.params[name]


def fits(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the range holds the value; none holds None, unless it is a choice."""
    if isinstance(distribution, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in distribution.choices)
    return isinstance(value, (int, float)) and distribution._contains(value)


def from_unit(distribution: BaseDistribution, share: float) -> Any:
    """Value at this share (0 to 1) of the range; choices and steps have equal parts of it."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[_part(share, len(distribution.choices))]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        ends = (low, high) if step is None else (low - 0.5, high + 0.5)
        value = math.exp(math.log(ends[0]) + share * (math.log(ends[1]) - math.log(ends[0])))
    elif step is None:
        value = low + share * (high - low)
    else:
        value = low + step * _part(share, round((high - low) / step) + 1)
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else value


def to_unit(distribution: BaseDistribution, value: Any) -> float:
    """Share of the range below the value, its inverse: the middle of a choice's or step's part."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high, step = float(distribution.low), float(distribution.high), distribution.step
    if distribution.log:
        if step is not None:
            low, high = low - 0.5, high + 0.5
        low, high, value = math.log(low), math.log(high), math.log(value)
    elif step is not None:
        low, high = low - step / 2, high + step / 2
    return (value - low) / (high - low) if high > low else 0.5


def _part(share: float, parts: int) -> int:
    return min(int(share * parts), parts - 1)


def _other(distribution: BaseDistribution, value: Any, rng: random.Random) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice([choice for choice in distribution.choices if not same(choice, value)])
    share = to_unit(distribution, value)
    for _ in range(TRIES):
        moved = rng.gauss(share, STEP)
        found = from_unit(distribution, moved)
        if 0 <= moved <= 1 and found != value:
            return found
    return from_unit(distribution, rng.random())


def same(first: Any, second: Any) -> bool:
    """Whether two values are the same choice (True is not 1)."""
    return first == second and type(first) is type(second)
