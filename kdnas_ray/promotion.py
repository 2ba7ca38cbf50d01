"""Which candidate that waits at a rung goes on next?

Ray Tune's ASHA stops a candidate at a rung or lets it go on, once and at once: one that came early, when few had
reached the rung, is judged by few. Here every candidate waits at each rung, and whenever a worker will soon be free
(trials are handed out ahead, one a worker) the best that now belong to the top go on; only where nobody does, a new one
begins.

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

    def promotable(self, factor: float | None = None) -> list[list[str]]:
        """Who may go on, best first, rung by rung from the highest; rungs at which nobody may are left out.

        Args:
            factor: instead of the usual one.
        """
        found = []
        for rung in reversed(self._rungs):
            reached = self._reached[rung]
            allowed = int(len(reached) / (factor or self._factor))
            names = []
            for place in self._waiting[rung]:
                if bisect.bisect_left(reached, place) >= allowed:
                    break
                names.append(place[1])
            if names:
                found.append(names)
        return found


def group(rungs: Sequence[Sequence[str]], of: Mapping[str, object], most: int, patient: bool) -> list[str]:
    """Which of those that may go on do so now, as one: candidates of one architecture at one rung, best first.

    The larger group goes first: the more train as one, the less each costs. While there is other work, one that is less
    than half as large as it could be waits for more of its kind, unless many wait already.

    Args:
        rungs: who may go on, from the highest rung, best first.
        of: what each has to have in common with the others of a group.
        most: candidates in a group.
        patient: there is other work.
    """
    best: list[str] = []
    for names in rungs:
        if most == 1:
            return [names[0]]
        groups: dict[object, list[str]] = {}
        for name in names:
            groups.setdefault(of[name], []).append(name)
        largest = max(groups.values(), key=len)[:most]
        ready = not patient or 2 * len(largest) >= most or len(names) >= 2 * most
        if ready and len(largest) > len(best):
            best = largest
    return best
