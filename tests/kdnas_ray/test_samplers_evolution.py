"""Specification of `kdnas_ray.samplers.evolution`: who has children, and what a child is."""

import optuna
from optuna.trial import TrialState

from kdnas_ray.samplers import SAMPLERS


def study_with(directions=("maximize",), **options) -> optuna.Study:
    sampler = SAMPLERS["evolution"](**options).make(0, lambda trial: trial.user_attrs.get("excess") or [0.0])
    return optuna.create_study(directions=directions, sampler=sampler)


def suggest(trial) -> dict:
    for index in range(6):
        trial.suggest_categorical(f"d{index}", (0, 1, 2, 3))
    return dict(trial.params)


def distance(one: dict, other: dict) -> int:
    return sum(one[name] != other[name] for name in one)


def test_child_differs_from_the_best_of_the_population_in_one_decision():
    study = study_with(population=8, tournament=8)
    for number in range(8):
        trial = study.ask()
        suggest(trial)
        study.tell(trial, float(number == 3))
    children = [suggest(study.ask()) for _ in range(10)]
    assert all(distance(child, study.trials[3].params) == 1 for child in children)
    assert len({tuple(child.values()) for child in children}) == 10


def test_parents_die_of_age_however_good_they_are():
    study = study_with(population=4, tournament=4)
    for number in range(8):  # the best is the first, and four others follow
        trial = study.ask()
        suggest(trial)
        study.tell(trial, 10.0 if number == 0 else 0.1 * number)
    assert distance(suggest(study.ask()), study.trials[7].params) == 1


def test_rejected_and_failed_candidates_are_never_parents():
    study = study_with(population=3, tournament=3)
    for number in range(12):
        trial = study.ask()
        suggest(trial)
        if number % 3 == 0:
            study.tell(trial, 0.5)
        elif number % 3 == 1:
            trial.set_user_attr("excess", [1.0])
            study.tell(trial, 9.0)
        else:
            study.tell(trial, state=TrialState.FAIL)
    members = [trial.params for trial in study.trials if trial.number % 3 == 0][-3:]
    for _ in range(5):
        child = suggest(study.ask())
        assert min(distance(child, parent) for parent in members) == 1


def test_stopped_candidate_is_a_parent_only_where_its_estimate_is_best():
    study = study_with(population=2, tournament=2)
    for curve in ((0.5, 0.9), (0.4,)):
        trial = study.ask()
        suggest(trial)
        for step, value in enumerate(curve):
            trial.report(value, step)
        if len(curve) == 2:
            study.tell(trial, 0.9)
        else:
            study.tell(trial, state=TrialState.PRUNED)
    assert distance(suggest(study.ask()), study.trials[0].params) == 1


def test_with_two_objectives_parents_lie_on_the_front():
    study = study_with(directions=("maximize", "minimize"), population=4, tournament=4)
    for values in ((0.9, 9.0), (0.5, 1.0), (0.4, 9.0), (0.3, 5.0)):
        trial = study.ask()
        suggest(trial)
        study.tell(trial, values)
    front = [study.trials[i].params for i in (0, 1)]
    for _ in range(5):
        child = suggest(study.ask())
        assert min(distance(child, parent) for parent in front) == 1
