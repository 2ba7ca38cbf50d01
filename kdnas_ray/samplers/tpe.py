"""TPE: draws from where the good candidates lie and the others do not."""

import bisect
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from kdnas_ray.samplers.base import Around, Constraints, at_least
from kdnas_ray.samplers.history import Seen, signs

BEST = 50  # of a bounded history are the best so far; twice as many as TPE models as good


@dataclass(frozen=True)
class TPE:
    """Tree-structured Parzen estimator, multivariate, aware of running trials; one or several objectives.

    Source: Bergstra 2011, Algorithms for Hyper-Parameter Optimization; Falkner 2018, BOHB (multivariate).

    Args:
        startup_trials: random candidates before the model is used.
        candidates: points drawn from the model for each proposal.
        history: trials that the model sees, the 50 best and the latest others: a proposal costs 2 ms and 2 more for
            each hundred of them.
    """

    startup_trials: int = 10
    candidates: int = 24
    history: int = 300

    def __post_init__(self) -> None:
        at_least("history", self.history, max(2 * BEST, 2 * self.startup_trials))
        at_least("startup_trials", self.startup_trials, 1)
        at_least("candidates", self.candidates, 1)

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constraints as a function: experimental, then deprecated
            return _Bounded(
                self.history,
                constraints,
                n_startup_trials=self.startup_trials,
                n_ei_candidates=self.candidates,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=seed,
            )


class _Bounded(TPESampler):
    """Optuna's, with an eye for some of the trials only: its cost grows with all that it sees."""

    def __init__(self, history: int, constraints: Constraints, **options: Any) -> None:
        super().__init__(constraints_func=constraints, **options)
        self._history, self._constraints = history, constraints
        self._seen, self._open = 0, set[int]()  # trials so far, and those of them that had not ended
        self._best: list[tuple[tuple[float, ...], int]] = []

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Decisions that are drawn together."""
        return super().infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Their values."""
        return super().sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a decision that no earlier candidate with the same ones had."""
        return super().sample_independent(self._view(study), trial, param_name, param_distribution)

    def _view(self, study: optuna.Study) -> Any:
        trials = study.get_trials(deepcopy=False)
        if len(trials) <= self._history:
            return study
        self._take_in(study, trials)
        first, ended = len(trials), 0
        while first and ended < self._history - BEST:  # those that run are seen beside them, however many there are
            first -= 1
            ended += first not in self._open
        best = sorted(number for _, number in self._best if number < first)
        return Seen(study, [*(trials[number] for number in best), *trials[first:]])

    def _take_in(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        """Those that ended since the last time, into the best so far."""
        self._open |= set(range(self._seen, len(trials)))
        self._seen = len(trials)
        for number in sorted(number for number in self._open if trials[number].state.is_finished()):
            self._open.remove(number)
            trial = trials[number]
            if trial.state == TrialState.FAIL:
                continue
            if len(study.directions) == 1:
                bisect.insort(self._best, (_rank(trial, self._constraints, *signs(study)), number))
                del self._best[BEST:]
            elif trial.state == TrialState.COMPLETE and not _excess(trial, self._constraints):
                losses = tuple(-sign * value for sign, value in zip(signs(study), trial.values, strict=True))
                if not any(_no_worse(known, losses) for known, _ in self._best):
                    front = [best for best in self._best if not _no_worse(losses, best[0])]
                    self._best = [*front, (losses, number)][-BEST:]


def _rank(trial: FrozenTrial, constraints: Constraints, sign: float) -> tuple[float, ...]:
    """As TPE itself ranks them, less is better: what keeps the bounds, was trained longest, and has the best value."""
    excess = _excess(trial, constraints)
    if trial.state == TrialState.COMPLETE:
        return (excess, -math.inf, -sign * trial.values[0])
    if not trial.intermediate_values:
        return (excess, 1.0, 0.0)
    step, value = max(trial.intermediate_values.items())
    return (excess, -step, -sign * value)


def _excess(trial: FrozenTrial, constraints: Constraints) -> float:
    return sum(max(0.0, value) for value in constraints(trial))


def _no_worse(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
