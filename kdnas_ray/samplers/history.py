"""What do the trials of a study say? Read from the study alone, so that resuming and several workers need no code."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdnas_ray.analysis.pareto import front_numbers

Scores = tuple[float, ...]  # one an objective, more is better


@dataclass(frozen=True)
class Ended:
    """A trial that is over.

    Args:
        number: of the trial.
        params: all its decisions.
        ranges: their ranges.
        scores: its objectives, oriented so that more is better; estimated where it was stopped early; None where it
            broke a constraint or failed.
        complete: whether it was trained in full.
        steps: its objectives at every step it reached.
    """

    number: int
    params: Mapping[str, Any]
    ranges: Mapping[str, BaseDistribution]
    scores: Scores | None
    complete: bool
    steps: Mapping[int, Scores]


class History:
    """The trials of one study, in the order in which they ended.

    A candidate that the scheduler stopped has values of fewer epochs, which must not be compared with those of a whole
    training. Its final values are estimated: the last it reached, plus what the complete candidates still gained, on
    average, after that epoch. It was stopped because others did better at that epoch, so it rarely beats a complete
    one, but two stopped at different epochs can be told apart, and no result is thrown away.

    Args:
        constraints: a trial with a value above 0 breaks one: it is no example to follow.
    """

    def __init__(self, constraints: Callable[[FrozenTrial], Sequence[float]]) -> None:
        self.constraints = constraints
        self._ended: dict[int, Ended | None] = {}
        self._order: list[tuple[Any, int]] = []
        self._known: dict[frozenset[str], set[tuple[str, ...]]] = {}
        self._open: list[Mapping[str, Any]] = []
        self.ended: list[Ended] = []

    @property
    def scored(self) -> list[Ended]:
        """Those that were trained and keep the constraints."""
        return [ended for ended in self.ended if ended.scores is not None]

    def read(self, study: optuna.Study, asking: int = -1) -> None:
        """Take in what is new in the study; trial `asking` is the one that is being proposed."""
        fresh = [t for t in study.get_trials(deepcopy=False) if t.number not in self._ended and t.number != asking]
        ended = [trial for trial in fresh if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        for trial in ended:
            self._known.setdefault(frozenset(trial.params), set())
        # A trial that failed while it was being proposed lacks decisions: only one with as many as others is of use.
        ended += [t for t in fresh if t.state == TrialState.FAIL and frozenset(t.params) in self._known]
        names = (study.metric_names or ()) if ended else ()
        for trial in ended:
            self._known[frozenset(trial.params)].add(_values(trial.params))
            self._order.append((trial.datetime_complete, trial.number))
            self._ended[trial.number] = self._read(trial, signs(study), names)
        self._open = [dict(trial.params) for trial in fresh if not trial.state.is_finished()]
        self._order.sort()
        found = (self._ended[number] for _, number in self._order)
        self.ended = _estimated([ended for ended in found if ended is not None])

    def knows(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial, running ones too, is what these decisions lead to."""
        for names, values in self._known.items():
            if names and names <= params.keys():
                part = {name: params[name] for name in names}
                if _values(part) in values or part in self._open:
                    return True
        return False

    def _read(self, trial: FrozenTrial, signs: Sequence[float], names: Sequence[str]) -> Ended | None:
        steps = {step: _oriented(values, signs) for step, values in _curve(trial, names).items()}
        complete = trial.state == TrialState.COMPLETE
        scores = _oriented(trial.values, signs) if complete else steps[max(steps)] if steps else None
        if trial.state == TrialState.FAIL or any(value > 0 for value in self.constraints(trial)):
            scores = None
        elif scores is None or not np.isfinite(scores).all():
            return None
        return Ended(trial.number, trial.params, trial.distributions, scores, complete, steps)


def fitness(scores: np.ndarray) -> np.ndarray:
    """A number for each candidate, more is better: its score, or its place by Pareto front, then by crowding distance.

    Source: Deb 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, section III.

    Args:
        scores: `[candidates, objectives]`, more is better.
    """
    if scores.shape[1] == 1:
        return scores[:, 0]
    fronts = np.array(front_numbers(-scores))
    crowding = np.zeros(len(scores))
    for front in np.unique(fronts):
        members = np.flatnonzero(fronts == front)
        crowding[members] = _crowding(scores[members])
    places = np.lexsort((crowding, -fronts))
    found = np.empty(len(scores))
    found[places] = np.arange(len(scores))
    return found


def as_complete(study: optuna.Study, history: History) -> Any:
    """The study as a sampler of Optuna's should see it, which knows little of trials that were not completed.

    A stopped trial is complete with its estimated scores; one that broke a constraint is complete and as bad as the
    worst; those that another sampler proposed know their constraints. All else is the study's.
    """
    scored = [ended.scores for ended in history.ended if ended.scores is not None]
    worst = tuple(np.min(scored, axis=0).tolist()) if scored else None
    known = [(ended.number, ended.scores or worst) for ended in history.ended]
    values = {number: _oriented(scores, signs(study)) for number, scores in known if scores is not None}
    trials = study.get_trials(deepcopy=False)
    return Seen(study, [_completed(trial, values, history.constraints) for trial in trials])


def of_all(ranges: Mapping[str, BaseDistribution], seen: Any) -> dict[str, BaseDistribution]:
    """The decisions that every complete trial of `as_complete` took.

    Optuna finds those of its own complete trials, and a stopped or rejected one may have taken others. Leaving that
    trial out instead would have the sampler propose it again and again.
    """
    complete = seen.get_trials(states=(TrialState.COMPLETE,))
    return {name: found for name, found in ranges.items() if all(name in trial.params for trial in complete)}


class Seen:
    """A study of which certain trials are seen, as a sampler of Optuna's reads them; all else is the study's.

    Args:
        study: the study.
        trials: that are seen.
    """

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        """Those that are seen."""
        return [trial for trial in self._trials if states is None or trial.state in states]

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return self.get_trials(deepcopy, states)


def _completed(
    trial: FrozenTrial,
    values: Mapping[int, Sequence[float]],
    constraints: Callable[[FrozenTrial], Sequence[float]],
) -> FrozenTrial:
    if trial.state == TrialState.PRUNED and trial.number in values:
        trial = copy.copy(trial)
        trial.state, trial.values = TrialState.COMPLETE, values[trial.number]
    if trial.state == TrialState.COMPLETE and not trial.constraints:
        trial = copy.copy(trial)
        trial.system_attrs = dict(trial.system_attrs)
        for index, value in enumerate(constraints(trial)):
            trial.set_constraint(str(index), value)
    return trial


def _crowding(scores: np.ndarray) -> np.ndarray:
    """Crowding distance within one front, `[candidates]`; infinite at the ends."""
    distance = np.zeros(len(scores))
    for column in scores.T:
        order = np.argsort(column, kind="stable")
        width = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if width > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / width
    return distance


def _curve(trial: FrozenTrial, names: Sequence[str]) -> dict[int, Sequence[float]]:
    """Objectives by step. Optuna keeps none where they are several: then from what the search adapter writes down."""
    if trial.intermediate_values:
        return {step: [value] for step, value in trial.intermediate_values.items()}
    points = [{**trial.user_attrs, **point} for point in trial.user_attrs.get("curve", ())]
    return {int(p["epoch"]): [p[name] for name in names] for p in points if names and all(n in p for n in names)}


def signs(study: optuna.Study) -> list[float]:
    """1 for an objective of which more is better, -1 for the others."""
    return [1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions]


def _oriented(values: Sequence[float], signs: Sequence[float]) -> Scores:
    return tuple(sign * value for sign, value in zip(signs, values, strict=True))


def _estimated(trials: Sequence[Ended]) -> list[Ended]:
    """The trials with the final scores of stopped ones estimated."""
    gains: dict[int, np.ndarray] = {}
    found = []
    for trial in trials:
        if not trial.complete and trial.scores is not None:
            last = max(trial.steps)
            if last not in gains:
                gains[last] = _gain(trials, last)
            trial = replace(trial, scores=tuple((np.array(trial.scores) + gains[last]).tolist()))
        found.append(trial)
    return found


def _gain(trials: Sequence[Ended], step: int) -> np.ndarray:
    """What complete trials gained after this step, on average; 0 where none tells."""
    whole = [(t.scores, t.steps[step]) for t in trials if t.complete and t.scores is not None and step in t.steps]
    return np.mean([np.subtract(last, then) for last, then in whole], axis=0) if whole else np.array(0.0)


def _values(params: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(repr(params[name]) for name in sorted(params))
