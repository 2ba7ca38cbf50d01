"""Specification of `kdnas_ray.samplers.cmaes`: what it needs, and what it makes of stopped and rejected candidates."""

import importlib.util
from dataclasses import replace

import optuna
import pytest

from kdnas_ray.config import SearchConfig
from kdnas_ray.samplers import SAMPLERS, Around
from search_spaces import Architecture, KdnasError, ResNetSpace
from trainables.recipe import Recipe, SimpleRecipes

needs_cmaes = pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="needs the extra cmaes")


class Names:
    """A space without a number."""

    def suggest(self, trial) -> Architecture:
        return Architecture.of({"a": trial.suggest_categorical("a", (1, 2))})


class OneRecipe:
    def suggest(self, trial) -> Recipe:
        return Recipe()


AROUND = Around(Names(), OneRecipe(), lambda _: {"params": 1, "flops": 1}, list, 9)


def make(around=None):
    return SAMPLERS["cmaes"]().make(0, lambda trial: trial.user_attrs.get("excess") or [0.0], around)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(KdnasError) as caught:
        make()
    assert caught.value.remedy == "pip install 'kdnas_ray[cmaes]'"


def test_population_below_three_is_refused():
    with pytest.raises(KdnasError) as caught:
        SAMPLERS["cmaes"](population=2)
    assert caught.value.field == "sampler.population"


def test_several_objectives_are_refused_when_the_configuration_is_read():
    with pytest.raises(Exception, match="one objective only"):
        SearchConfig(sampler="cmaes", objectives=["val_accuracy", "params"])


@needs_cmaes
def test_a_search_without_numbers_is_refused_one_with_numbers_in_the_recipe_is_not():
    with pytest.raises(KdnasError) as caught:
        make(AROUND)
    assert caught.value.field == "sampler"
    make(replace(AROUND, space=ResNetSpace(), recipes=SimpleRecipes()))


@needs_cmaes
def test_several_objectives_are_refused_in_a_study_too():
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make())
    with pytest.raises(KdnasError):
        study.ask().suggest_float("x", 0, 1)


@needs_cmaes
def test_numbers_are_found_more_closely_than_by_chance():
    study = optuna.create_study(direction="maximize", sampler=make())
    for number in range(80):
        trial = study.ask()
        x, y = (trial.suggest_float(name, -1, 1) for name in "xy")
        trial.suggest_categorical("a", ("b", "c"))
        value = -((x - 0.3) ** 2) - (y + 0.5) ** 2
        if number % 3 == 1:
            trial.report(value - 0.2, 1)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            trial.report(value - 0.2, 1)
            study.tell(trial, value)
    assert study.best_value > -0.005
