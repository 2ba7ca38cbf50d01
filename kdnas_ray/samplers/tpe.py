"""TPE: draws from where the good candidates lie and the others do not."""

import warnings
from dataclasses import dataclass

from optuna.samplers import BaseSampler, TPESampler

from kdnas_ray.samplers.base import Around, Constraints, at_least


@dataclass(frozen=True)
class TPE:
    """Tree-structured Parzen estimator, multivariate, aware of running trials; one or several objectives.

    Source: Bergstra 2011, Algorithms for Hyper-Parameter Optimization; Falkner 2018, BOHB (multivariate).

    Args:
        startup_trials: random candidates before the model is used.
        candidates: points drawn from the model for each proposal.
    """

    startup_trials: int = 10
    candidates: int = 24

    def __post_init__(self) -> None:
        at_least("startup_trials", self.startup_trials, 1)
        at_least("candidates", self.candidates, 1)

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constraints as a function: experimental, then deprecated
            return TPESampler(
                n_startup_trials=self.startup_trials,
                n_ei_candidates=self.candidates,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=seed,
                constraints_func=constraints,
            )
