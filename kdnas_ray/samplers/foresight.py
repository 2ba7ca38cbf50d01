"""How does any sampler propose what keeps the bounds, instead of learning from rejections alone?"""

import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from kdnas_ray.samplers.base import STEPS, Around, Draft, Planner, excess, fits, from_unit

DRAWS = 10  # of the sampler for one proposal; one that has settled outside the bounds draws much the same again


def foreseeing(sampler: BaseSampler, seed: int, around: Around) -> BaseSampler:
    """The sampler, drawing again where a proposal would break a bound; those that plan do so by themselves."""
    return sampler if isinstance(sampler, Planner) else Foresight(sampler, seed, around)


class Foresight(BaseSampler):
    """Asks another sampler for architectures until one keeps the bounds, which cost nothing to check.

    What the other sampler leaves open (at its start all) is drawn at random and kept with the rest. So the candidates
    are those that the other sampler would propose, given that they keep the bounds (rejection sampling); where ten
    draws break them, random changes of the last one that lead no further beyond them. Recipes, which no bound
    depends on, are left to it.

    Args:
        sampler: the other one.
        seed: of what is drawn at random.
        around: the search.
    """

    def __init__(self, sampler: BaseSampler, seed: int, around: Around) -> None:
        self._sampler, self._seed, self._around = sampler, seed, around
        self._plans: dict[int, Mapping[str, Any]] = {}
        self._lock = threading.Lock()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Decisions that the other sampler draws together."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Their values in the first draw that keeps the bounds."""
        rng = random.Random(f"{self._seed} {trial.number}")
        found: dict[str, Any] = {}
        over = 0.0
        draft = Draft(lambda name, distribution: None)
        for count in range(DRAWS + STEPS):
            if count < DRAWS:
                with self._lock:
                    found = self._sampler.sample_relative(study, trial, search_space)
                draft = self._completed(found, rng)
            else:
                kept = dict(draft.params)
                kept.pop(rng.choice(list(kept)))
                step = self._completed(kept, rng)
                draft = step if excess(self._around, step.params) <= over else draft
            over = excess(self._around, draft.params)
            if not over:
                break
        self._plans[trial.number] = draft.params
        return {name: draft.params.get(name, value) for name, value in found.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The planned value where it fits, else the other sampler's."""
        planned = self._plans.get(trial.number, {}).get(param_name)
        if fits(param_distribution, planned):
            return planned
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Passed on."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Forget the plan, and pass on."""
        self._plans.pop(trial.number, None)
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Passed on."""
        self._sampler.reseed_rng()

    def _completed(self, found: Mapping[str, Any], rng: random.Random) -> Draft:
        """The architecture that these decisions lead to."""

        def take(name: str, distribution: BaseDistribution) -> Any:
            value = found.get(name)
            return value if fits(distribution, value) else from_unit(distribution, rng.random())

        draft = Draft(take)
        self._around.space.suggest(draft)
        return draft
