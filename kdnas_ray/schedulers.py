"""Which candidates are stopped early, and at which epochs is that decided?"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from search_spaces import KdnasError, Registry


@dataclass(frozen=True)
class ASHA:
    """Asynchronous successive halving: at each rung the best 1 / reduction_factor go on.

    Source: Li 2020, A System for Massively Parallel Hyperparameter Tuning (MLSys).

    Args:
        max_epochs: full training of a candidate in the search.
        grace_epochs: epochs of the first rung; nobody is stopped before.
        reduction_factor: ratio of one rung to the next.
    """

    max_epochs: int = 27
    grace_epochs: int = 3
    reduction_factor: float = 3

    def __post_init__(self) -> None:
        _check_epochs(self.max_epochs)
        if not 1 <= self.grace_epochs <= self.max_epochs:
            raise KdnasError(
                "must lie between 1 and max_epochs",
                field="scheduler.grace_epochs",
                value=self.grace_epochs,
                remedy=f"max_epochs is {self.max_epochs}",
            )
        if self.reduction_factor < 1.1:
            raise KdnasError(
                "must be at least 1.1",
                field="scheduler.reduction_factor",
                value=self.reduction_factor,
                remedy="3 is usual",
            )

    def rungs(self) -> tuple[int, ...]:
        """Epochs at which a trial reports, ascending; the last is the full training."""
        found, rung = [], float(self.grace_epochs)
        while rung < self.max_epochs:
            found.append(math.ceil(rung - 1e-9))
            rung *= self.reduction_factor
        return tuple(dict.fromkeys((*found, self.max_epochs)))

    def make(self) -> TrialScheduler:
        """Ray Tune's scheduler, without history."""
        return ASHAScheduler(
            time_attr="epoch",
            metric="val_accuracy",
            mode="max",
            max_t=self.max_epochs,
            grace_period=self.grace_epochs,
            reduction_factor=self.reduction_factor,
        )


@dataclass(frozen=True)
class Full:
    """Nobody is stopped: every candidate trains in full.

    Args:
        max_epochs: full training of a candidate in the search.
    """

    max_epochs: int = 27

    def __post_init__(self) -> None:
        _check_epochs(self.max_epochs)

    def rungs(self) -> tuple[int, ...]:
        """Epochs at which a trial reports."""
        return (self.max_epochs,)

    def make(self) -> TrialScheduler:
        """Ray Tune's scheduler."""
        return FIFOScheduler()


SCHEDULERS: Registry[type] = Registry("scheduler", ("asha", ASHA), ("full", Full))


@dataclass(frozen=True)
class _Past:
    trial_id: str


def replay(scheduler: TrialScheduler, rungs: Iterable[int], curves: Mapping[str, Mapping[int, float]]) -> None:
    """Give a fresh scheduler the rungs of an earlier session, as they were.

    Ray Tune's own restore loses a scheduler's state (ray-project/ray#30838), so what each candidate reached
    is told again. Decisions depend on the recorded values alone, not on their order.

    Args:
        scheduler: to be told.
        rungs: epochs at which trials report.
        curves: candidate id to {epoch: validation accuracy} as far as it came.
    """
    for candidate, curve in curves.items():
        past = _Past(candidate)
        reached = [rung for rung in rungs if rung in curve]
        if not reached:
            continue
        scheduler.on_trial_add(None, past)
        for rung in reached:
            scheduler.on_trial_result(None, past, {"epoch": rung, "val_accuracy": curve[rung]})


def _check_epochs(epochs: int) -> None:
    if epochs < 1:
        raise KdnasError("at least one epoch is needed", field="scheduler.max_epochs", value=epochs)
