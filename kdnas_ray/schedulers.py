"""Which candidates are stopped early, and at which epochs is that decided?"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from kdnas_ray.extrapolation import StopHopeless
from kdnas_ray.pending import InOrder, StartsPending
from kdnas_ray.promotion import OneRung
from search_spaces import KdnasError, Registry


class _StoppingASHA(StartsPending, ASHAScheduler):
    """Ray Tune's ASHA, which knows what the worker of a candidate trained beside it before it judges that one.

    These report later, in trials of their own, and count once more then, which moves no quantile by much.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the candidate goes on."""
        for name, accuracy in result.get("beside", {}).items():
            past = Past(name)
            super().on_trial_add(tune_controller, past)
            super().on_trial_result(tune_controller, past, {"epoch": result["epoch"], "val_accuracy": accuracy})
        return super().on_trial_result(tune_controller, trial, result)


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
        _check_grace(self.grace_epochs, self.max_epochs, type(self).grace_epochs)
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
        return _StoppingASHA(
            time_attr="epoch",
            metric="val_accuracy",
            mode="max",
            max_t=self.max_epochs,
            grace_period=self.grace_epochs,
            reduction_factor=self.reduction_factor,
        )


@dataclass(frozen=True)
class PromotingASHA(ASHA):
    """ASHA as published: candidates wait at rungs, and the best go on whenever a worker is free; none is cut at once.

    Source: Li 2020, A System for Massively Parallel Hyperparameter Tuning (MLSys), algorithm 2.
    """

    def make(self) -> TrialScheduler:
        """The scheduler for Ray Tune: who goes on is decided where candidates are handed out."""
        return OneRung()


@dataclass(frozen=True)
class Extrapolate:
    """Stopped is whose learning curve makes it unlikely to end among the best.

    Source: after Domhan 2015, Speeding up Automatic Hyperparameter Optimization of DNNs by Extrapolation of Learning
    Curves; Baker 2017, Accelerating Neural Architecture Search using Performance Prediction.

    Args:
        max_epochs: full training of a candidate in the search.
        grace_epochs: epochs of the first rung; nobody is stopped before.
        every_epochs: epochs from one rung to the next.
        top: how many of the best finished candidates one should be among.
        confidence: one is stopped where the probability of that is smaller; more stops more.
        startup_trials: nobody is stopped before so many have finished (or `top`, if that is more).
    """

    max_epochs: int = 27
    grace_epochs: int = 3
    every_epochs: int = 3
    top: int = 3
    confidence: float = 0.05
    startup_trials: int = 5

    def __post_init__(self) -> None:
        _check_epochs(self.max_epochs)
        _check_grace(self.grace_epochs, self.max_epochs, type(self).grace_epochs)
        for name, least in (("every_epochs", 1), ("top", 1), ("startup_trials", 2)):
            if getattr(self, name) < least:
                raise KdnasError(
                    f"must be at least {least}",
                    field=f"scheduler.{name}",
                    value=getattr(self, name),
                    remedy=f"{getattr(type(self), name)} is usual",
                )
        if not 0 < self.confidence < 1:
            raise KdnasError(
                "a probability between 0 and 1",
                field="scheduler.confidence",
                value=self.confidence,
                remedy="0.05 is usual; more stops more candidates",
            )

    def rungs(self) -> tuple[int, ...]:
        """Epochs at which a trial reports, ascending; the last is the full training."""
        return (*range(self.grace_epochs, self.max_epochs, self.every_epochs), self.max_epochs)

    def make(self) -> TrialScheduler:
        """The scheduler for Ray Tune, without history."""
        return StopHopeless(self.max_epochs, self.top, self.confidence, self.startup_trials)


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
        return InOrder()


SCHEDULERS: Registry[type] = Registry(
    "scheduler",
    ("asha", ASHA),
    ("asha-promote", PromotingASHA),
    ("extrapolate", Extrapolate),
    ("full", Full),
    needs=("rungs", "make", "max_epochs"),
)


@dataclass(frozen=True)
class Past:
    """All that a scheduler sees of a trial that is told again."""

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
        past = Past(candidate)
        reached = [rung for rung in rungs if rung in curve]
        if not reached:
            continue
        scheduler.on_trial_add(None, past)
        for rung in reached:
            so_far = [{"epoch": epoch, "val_accuracy": curve[epoch]} for epoch in sorted(curve) if epoch <= rung]
            scheduler.on_trial_result(None, past, {"epoch": rung, "val_accuracy": curve[rung], "curve": so_far})


def _check_grace(epochs: int, max_epochs: int, usual: int) -> None:
    if 1 <= max_epochs < epochs == usual:  # what was typed is the other number
        raise KdnasError(
            f"shorter than the first rung, which is at {epochs} epochs",
            field="scheduler.max_epochs",
            value=max_epochs,
            remedy=f"scheduler.grace_epochs={max_epochs}, or more epochs",
        )
    if not 1 <= epochs <= max_epochs:
        raise KdnasError(
            "must lie between 1 and max_epochs",
            field="scheduler.grace_epochs",
            value=epochs,
            remedy=f"max_epochs is {max_epochs}",
        )


def _check_epochs(epochs: int) -> None:
    if epochs < 1:
        raise KdnasError("at least one epoch is needed", field="scheduler.max_epochs", value=epochs)
