"""Which candidate that waits at a rung goes on next?

Ray Tune's ASHA stops a candidate at a rung or lets it go on, once and at once: one that came early, when few had
reached the rung, is judged by few. Here every candidate waits at each rung, and whenever a worker is free the best that
now belong to the top go on; only where nobody does, a new one begins.

Source: Li 2020, A System for Massively Parallel Hyperparameter Tuning (MLSys), algorithm 2 (`get_job`).
"""

import bisect
from collections.abc import Mapping, Sequence

from ray.tune.schedulers import TrialScheduler

from kdnas_ray.pending import InOrder
from trainables.loop import Point


class OneRung(InOrder):
    """Ends every trial of Ray Tune after one rung; a candidate that goes on is a new trial, on any worker."""

    def on_trial_result(self, tune_controller: object, trial: object, result: Mapping[str, object]) -> str:
        """Stop."""
        return TrialScheduler.STOP


class Ladder:
    """Who reached which rung, and who waits there; what it costs to ask does not grow with the search.

    At a rung that n candidates have reached, the best n / `factor` (rounded down) may go on; equals in the order of
    their names.

    Args:
        rungs: epochs, ascending; the last is the end, from which nobody goes on.
        factor: the reduction factor.
    """

    def __init__(self, rungs: Sequence[int], factor: float) -> None:
        self._rungs, self._factor = rungs[:-1], factor
        self._values: dict[int, dict[str, tuple[float, str]]] = {rung: {} for rung in self._rungs}
        self._reached: dict[int, list[tuple[float, str]]] = {rung: [] for rung in self._rungs}
        self._waiting: dict[int, list[tuple[float, str]]] = {rung: [] for rung in self._rungs}

    def reached(self, name: str, curve: Sequence[Point]) -> None:
        """A candidate came as far as its curve; told again, nothing changes."""
        for rung in self._rungs:
            if rung <= len(curve) and name not in self._values[rung]:
                place = self._values[rung][name] = (-curve[rung - 1]["val_accuracy"], name)
                bisect.insort(self._reached[rung], place)

    def wait(self, name: str, curve: Sequence[Point]) -> None:
        """A candidate waits where its curve ends."""
        self.reached(name, curve)
        if (rung := len(curve)) in self._values:
            bisect.insort(self._waiting[rung], self._values[rung][name])

    def leave(self, name: str, curve: Sequence[Point]) -> None:
        """It goes on, or is given up."""
        if (rung := len(curve)) in self._values:
            self._waiting[rung].remove(self._values[rung][name])

    def next(self, factor: float | None = None) -> list[str]:
        """Who may go on, best first, from the highest rung at which anybody may.

        Args:
            factor: instead of the usual one.
        """
        for rung in reversed(self._rungs):
            reached = self._reached[rung]
            allowed = int(len(reached) / (factor or self._factor))
            found = []
            for place in self._waiting[rung]:
                if bisect.bisect_left(reached, place) >= allowed:
                    break
                found.append(place[1])
            if found:
                return found
        return []
