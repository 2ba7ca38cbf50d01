"""Which trial that waits does Ray Tune start next? The one that waited longest, without a look at all others."""

from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class StartsPending(TrialScheduler):
    """Leaves it to Tune to start what is pending.

    Tune's own schedulers go through all trials of the search, twice at each event, to find one: a cost that grows with
    the search. It is needed where a scheduler pauses trials only.
    """

    def choose_trial_to_run(self, tune_controller: object) -> None:
        """No trial before others."""


class InOrder(StartsPending, FIFOScheduler):
    """Stops nobody."""
