"""Specification of `kdnas_ray.samplers.cmaes`: what it needs, and what it makes of stopped and rejected candidates."""

import importlib.util
import json
import pickle
from dataclasses import replace

import numpy as np
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


def search(study: optuna.Study, trials: int) -> list[float]:
    """What is proposed."""
    found = []
    for _ in range(trials):
        trial = study.ask()
        found.append(trial.suggest_float("x", -1, 1))
        study.tell(trial, -((found[-1] - 0.3) ** 2) - (trial.suggest_float("y", -1, 1) + 0.5) ** 2)
    return found


def distributions(study: optuna.Study) -> list[str]:
    attributes = [trial.system_attrs for trial in study.trials]
    return [value for found in attributes for name, value in found.items() if name.startswith("cma:optimizer")]


@needs_cmaes
def test_distribution_when_kept_then_is_json_and_a_resumed_search_goes_on_with_it():
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(direction="maximize", sampler=make(), storage=storage)
    search(study, 30)
    kept = [json.loads(text) for text in distributions(study)]
    assert [state["_g"] for state in kept] == list(range(1, len(kept) + 1))
    resumed = optuna.load_study(study_name=study.study_name, sampler=make(), storage=storage)
    search(resumed, 20)
    after = [json.loads(text) for text in distributions(resumed)]
    assert [state["_g"] for state in after] == list(range(1, len(after) + 1))
    assert len(after) > len(kept)


@needs_cmaes
def test_distribution_when_written_and_read_then_is_what_a_pickle_would_be():
    import cmaes

    from kdnas_ray.samplers.cmaes import _from_text, _to_text

    optimizer = cmaes.CMA(mean=np.zeros(3), sigma=0.3, bounds=np.array([[-1, 1]] * 3), seed=0)
    for _ in range(3):
        points = [optimizer.ask() for _ in range(optimizer.population_size)]
        optimizer.tell([(x, float(((x - 0.2) ** 2).sum())) for x in points])
    optimizer._funhist_values[:] = np.nan_to_num(optimizer._funhist_values)  # some of it was never written
    again, pickled = _from_text(_to_text(optimizer)), pickle.loads(pickle.dumps(optimizer))  # noqa: S301 (our own)
    for one in (pickled, again):
        one._rng.seed(1)
    assert again.ask().tolist() == pickled.ask().tolist()
    assert json.loads(_to_text(again)) == json.loads(_to_text(pickled))


@needs_cmaes
@pytest.mark.parametrize("kind", ["pickle", "text", "huge", "other"])
def test_distribution_when_the_study_holds_something_else_then_nothing_of_it_runs_and_the_search_goes_on(
    tmp_path, kind
):
    class Planted:
        def __reduce__(self):
            return open, (str(tmp_path / "planted"), "w")

    import cmaes

    from kdnas_ray.samplers.cmaes import _to_text

    state = json.loads(_to_text(cmaes.CMA(mean=np.zeros(2), sigma=0.3)))
    planted = {
        "pickle": pickle.dumps(Planted()).hex(),
        "text": "[1, 2",
        "huge": json.dumps(state | {"_n_dim": 10**7}),
        "other": json.dumps(state | {"_mean": [[0.0]], "_sigma": "os.system"}),
    }[kind]
    study = optuna.create_study(direction="maximize", sampler=make())
    search(study, 3)
    trial = study.ask()
    trial.storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", planted)
    study.tell(trial, -(trial.suggest_float("x", -1, 1) ** 2) - trial.suggest_float("y", -1, 1) ** 2)
    found = search(study, 20)
    assert not (tmp_path / "planted").exists()
    assert len(set(found)) == 20
