"""Specification of `kdnas_ray.samplers.predictor`: what the forest is asked, and what comes of it."""

import optuna
from optuna.trial import TrialState

from kdnas_ray.samplers import SAMPLERS, Around
from search_spaces import Architecture
from trainables.recipe import Recipe


class Space:
    """Eight decisions of three values, of which the last matters under a condition only."""

    def suggest(self, trial) -> Architecture:
        decisions = {f"d{i}": trial.suggest_categorical(f"d{i}", (0, 1, 2)) for i in range(7)}
        if decisions["d0"] == 2:
            decisions["deep"] = trial.suggest_int("deep", 0, 5)
        return Architecture.of(decisions)


class OneRecipe:
    def suggest(self, trial) -> Recipe:
        return Recipe()


AROUND = Around(Space(), OneRecipe(), lambda _: {"params": 1, "flops": 1}, list, 9)


def study_with(directions=("maximize",), seed=0, around=AROUND, **options) -> optuna.Study:
    sampler = SAMPLERS["predictor"](trees=20, pool=60, **options).make(
        seed, lambda trial: trial.user_attrs.get("excess") or [0.0], around
    )
    return optuna.create_study(directions=directions, sampler=sampler)


def total(trial) -> int:
    return sum(int(value) for _, value in Space().suggest(trial).items())


def test_finds_the_best_of_thousands_within_some_dozens():
    study = study_with()
    for _ in range(70):
        trial = study.ask()
        study.tell(trial, float(total(trial)))
    assert study.best_value >= 18  # of 19, which two of 5,832 reach


def test_learns_from_rejected_candidates_which_to_leave_out():
    study = study_with()
    for _ in range(60):
        trial = study.ask()
        value = total(trial)
        if trial.params["d3"] == 2:  # a third by chance, and the score pulls there
            trial.set_user_attr("excess", [1.0])
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, float(value))
    assert sum(trial.params["d3"] == 2 for trial in study.trials[-25:]) < 6


def test_with_two_objectives_both_ends_of_the_front_are_searched():
    study = study_with(directions=("maximize", "minimize"))
    for _ in range(80):
        trial = study.ask()
        value = total(trial)
        study.tell(trial, (value, value + 3 * (trial.params["d5"] == 1)))
    late = [trial.values[0] for trial in study.trials[40:]]
    assert max(late) >= 15
    assert min(late) <= 3


def test_a_pool_that_holds_nothing_new_does_not_stop_the_search():
    study = study_with(around=None)
    for _ in range(20):
        trial = study.ask()
        study.tell(trial, float(trial.suggest_categorical("a", (0, 1))))
    assert study.best_value == 1
