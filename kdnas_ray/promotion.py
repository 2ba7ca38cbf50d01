"""Which candidate that waits at a rung goes on next?

Ray Tune's ASHA stops a candidate at a rung or lets it go on, once and at once: one that came early, when few had
reached the rung, is judged by few. Here every candidate waits at each rung, and whenever a worker is free the best that
now belong to the top go on; only where nobody does, a new one begins.

Source: Li 2020, A System for Massively Parallel Hyperparameter Tuning (MLSys), algorithm 2 (`get_job`).
"""

from collections.abc import Mapping, Sequence

from ray.tune.schedulers import TrialScheduler

from kdnas_ray.pending import InOrder
from trainables.loop import Point


class OneRung(InOrder):
    """Ends every trial of Ray Tune after one rung; a candidate that goes on is a new trial, on any worker."""

    def on_trial_result(self, tune_controller: object, trial: object, result: Mapping[str, object]) -> str:
        """Stop."""
        return TrialScheduler.STOP


def promotable(
    curves: Mapping[str, Sequence[Point]], waiting: Sequence[str], rungs: Sequence[int], factor: float
) -> str | None:
    """The candidate that goes on, from the highest rung at which one may; None where nobody may.

    At a rung that n candidates have reached, the best n / `factor` (rounded down) may go on.

    Args:
        curves: of every candidate of the search, running, waiting or ended.
        waiting: those that wait at the rung where their curve ends.
        rungs: epochs, ascending; the last is the end.
        factor: the reduction factor.
    """
    for rung in reversed(rungs[:-1]):
        reached = {name: curve[rung - 1]["val_accuracy"] for name, curve in curves.items() if len(curve) >= rung}
        best = sorted(reached, key=lambda name: (-reached[name], name))[: int(len(reached) / factor)]
        for name in best:
            if name in waiting and len(curves[name]) == rung:
                return name
    return None
