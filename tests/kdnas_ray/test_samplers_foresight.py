"""Specification of `kdnas_ray.samplers.foresight`: what keeps the bounds is proposed."""

import importlib.util

import optuna
import pytest
from optuna.trial import TrialState

from kdnas_ray.samplers import SAMPLERS, Around
from kdnas_ray.samplers.base import Planner
from kdnas_ray.samplers.foresight import foreseeing
from search_spaces import Architecture
from trainables.recipe import Recipe

NAMES = [name for name in SAMPLERS if name != "cmaes" or importlib.util.find_spec("cmaes")]


class OneRecipe:
    """No decision."""

    def suggest(self, trial) -> Recipe:
        return Recipe()


class Depths:
    """8 decisions of 4 depths each, some only where the first says so."""

    def suggest(self, trial) -> Architecture:
        first = trial.suggest_int("d0", 1, 4)
        rest = {f"d{i}": trial.suggest_int(f"d{i}", 1, 4) for i in range(1, 6 if first < 3 else 8)}
        return Architecture.of({"d0": first, **rest})


def total(architecture: Architecture) -> int:
    return sum(int(value) for value in architecture.values())


def searched(name: str, most: int | None, trials: int = 60) -> list[bool]:
    """Of every proposal whether it broke the bound on the total depth; deeper is better."""
    space = Depths()
    over = None if most is None else lambda architecture: total(architecture) / (most or 1) - 1
    around = Around(space, OneRecipe(), lambda a: {"params": total(a), "flops": total(a)}, list, 9, over)
    sampler = SAMPLERS[name]().make(0, lambda trial: trial.user_attrs["excess"], around)
    sampler = foreseeing(sampler, 0, around)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    broken = []
    for _ in range(trials):
        trial = study.ask()
        depth = total(space.suggest(trial))
        trial.set_user_attr("excess", [depth / 12 - 1])
        broken.append(depth > 12)
        study.tell(trial, None if broken[-1] else depth, state=TrialState.PRUNED if broken[-1] else None)
    return broken


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.pairs) if n == "gp" else n for n in NAMES])
def test_sampler_when_it_looks_ahead_then_hardly_a_proposal_breaks_a_bound_that_few_architectures_keep(name):
    blind, seeing = searched(name, None), searched(name, 12)
    assert sum(blind) > (20 if name != "gp" else 6)  # gp learns to keep a bound while it is searching
    assert sum(seeing) <= 3


def test_sampler_when_it_plans_then_is_not_wrapped():
    around = Around(Depths(), OneRecipe(), lambda _: {}, list, 9, lambda _: 0.0)
    made = SAMPLERS["evolution"]().make(0, lambda _: [0.0], around)
    assert isinstance(made, Planner)
    assert foreseeing(made, 0, around) is made


def test_sampler_when_no_architecture_keeps_the_bound_then_still_proposes():
    assert searched("tpe", 0, trials=12) == searched("tpe", 0, trials=12)
    assert len(searched("random", 0, trials=5)) == 5


def test_sampler_when_recipes_vary_then_leaves_them_to_the_other_sampler():
    class Rates:
        def suggest(self, trial):
            return trial.suggest_float("rate", 0, 1)

    around = Around(Depths(), Rates(), lambda _: {}, list, 9, lambda a: total(a) / 12 - 1)
    plain = SAMPLERS["random"]().make(3, lambda _: [0.0], around)
    study = optuna.create_study(sampler=foreseeing(plain, 3, around))
    rates = []
    for _ in range(5):
        trial = study.ask()
        around.space.suggest(trial)
        rates.append(around.recipes.suggest(trial))
        study.tell(trial, 0.0)
    alone = optuna.create_study(sampler=SAMPLERS["random"]().make(3, lambda _: [0.0], around))
    assert rates == [alone.ask().suggest_float("rate", 0, 1) for _ in range(5)]
