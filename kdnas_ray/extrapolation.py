"""How will a candidate end, judged by its learning curve so far? Those that hardly can be among the best are stopped.

Families of curves (`c - a * x^-b`, exponential, log-power) fitted to the candidate's own epochs are what the papers
below use. Under the learning rate schedules of this search they predict worse than the candidates that have finished:
a curve bends when the schedule does, at the same epoch for all (`benchmarks/curves.py` measures both). So it is learned
from the finished candidates alone how much of the smallest error so far is left at the end.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import TrialScheduler
from scipy.stats import t as student_t

from kdnas_ray.pending import InOrder

LEAST_ERROR = 1e-3  # added to every error, so that one without any has a logarithm
# Few finished candidates may agree by chance: two more, made up, say that shares differ by a factor of e^0.5 = 1.6.
PRIOR_SPREAD, PRIOR_COUNT = 0.5, 2


def forecast(curve: Sequence[float], finished: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """How the candidate ends: median, scale and degrees of freedom of Student's t over the logarithm of its error.

    The logarithm of the share of the error that is left at the end is taken as normal over candidates, with mean and
    spread of the finished ones.

    Args:
        curve: validation accuracy after each epoch so far, 0 to 1.
        finished: whole curves of other candidates, at least two.
    """
    epoch = len(curve)
    left = np.array([log_error(whole[-1]) - log_error(max(whole[:epoch])) for whole in finished])
    freedom = len(left) - 1 + PRIOR_COUNT
    variance = (((left - left.mean()) ** 2).sum() + PRIOR_COUNT * PRIOR_SPREAD**2) / freedom
    return log_error(max(curve)) + float(left.mean()), float(np.sqrt(variance * (1 + 1 / len(left)))), freedom


def chance(curve: Sequence[float], finished: Sequence[Sequence[float]], goal: float) -> float:
    """Probability that the candidate ends above the goal.

    Source: after Domhan 2015, Speeding up Automatic Hyperparameter Optimization of DNNs by Extrapolation of Learning
    Curves, section 3.3 (the rule), and Baker 2017, Accelerating Neural Architecture Search using Performance
    Prediction (curves predicted from other candidates' curves).

    Args:
        curve: validation accuracy after each epoch so far, 0 to 1.
        finished: whole curves of other candidates, at least two.
        goal: validation accuracy, 0 to 1.
    """
    median, scale, freedom = forecast(curve, finished)
    return float(student_t.cdf((log_error(goal) - median) / scale, freedom))


def log_error(accuracy: float) -> float:
    """Logarithm of the error, finite for an accuracy of 1 too."""
    return float(np.log(1 - accuracy + LEAST_ERROR))


class StopHopeless(InOrder):
    """Stops a candidate at a rung where it hardly can end above the best finished ones.

    Args:
        max_epochs: full training.
        top: how many of the best finished candidates it should be among.
        confidence: stopped where the probability of that is smaller.
        startup_trials: nobody is stopped before so many have finished.
    """

    def __init__(self, max_epochs: int, top: int, confidence: float, startup_trials: int) -> None:
        super().__init__()
        self._max_epochs, self._top, self._confidence = max_epochs, top, confidence
        self._enough = max(startup_trials, top)
        self._finished: dict[str, list[float]] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A candidate reached a rung: stop it or let it go on."""
        curve = [point["val_accuracy"] for point in result["curve"]]
        if result["epoch"] >= self._max_epochs:
            self._finished[trial.trial_id] = curve
        elif len(self._finished) >= self._enough:
            finished = list(self._finished.values())
            goal = sorted((whole[-1] for whole in finished), reverse=True)[self._top - 1]
            if chance(curve, finished, goal) < self._confidence:
                return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Called in place of `on_trial_result` for a candidate's last report; one that failed has no curve."""
        if result.get("epoch") == self._max_epochs:
            self.on_trial_result(tune_controller, trial, result)
