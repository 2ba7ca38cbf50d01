"""What keeps Ray Tune's own cost a trial from growing with the search?

Which trial that waits starts next: the one that waited longest, without a look at all others. What is kept of a trial
that ended: hardly anything.
"""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class StartsPending(TrialScheduler):
    """Leaves it to Tune to start what is pending.

    Tune's own schedulers go through all trials of the search, twice at each event, to find one: a cost that grows with
    the search. It is needed where a scheduler pauses trials only.
    """

    _before: Trial | None = None  # the last that ended

    def choose_trial_to_run(self, tune_controller: object) -> None:
        """No trial before others."""

    def on_trial_complete(self, tune_controller: object, trial: Trial, result: dict[str, Any]) -> None:
        """Drops most of what Tune keeps of a trial until the search ends and nobody reads (66 KB each, before)."""
        super().on_trial_complete(tune_controller, trial, result)
        trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps = {}, {}
        trial.config, trial.evaluated_params = {}, {}
        if self._before is not None:  # Tune hands on the last result of the one that ends now, after this
            self._before.run_metadata.last_result = {"done": True}
            trial.placement_group_factory = self._before.placement_group_factory  # an equal one
        self._before = trial


class InOrder(StartsPending, FIFOScheduler):
    """Stops nobody."""
