"""Specification of `kdnas_ray.samplers.local`: which neighbour is next, and when the search starts anew."""

import optuna
from optuna.trial import TrialState

from kdnas_ray.samplers import SAMPLERS


def study_with(seed: int = 0, **options) -> optuna.Study:
    sampler = SAMPLERS["local"](**options).make(seed, lambda trial: trial.user_attrs.get("excess") or [0.0])
    return optuna.create_study(direction="maximize", sampler=sampler)


def suggest(trial) -> dict:
    for index in range(4):
        trial.suggest_categorical(f"d{index}", (0, 1, 2))
    return dict(trial.params)


def distance(one: dict, other: dict) -> int:
    return sum(one[name] != other[name] for name in one)


def test_neighbours_of_the_best_are_tried_until_one_is_better():
    study = study_with(startup_trials=3)
    for _ in range(40):
        ended = [trial for trial in study.trials if trial.value is not None]
        trial = study.ask()
        child = suggest(trial)
        if len(ended) >= 3:
            best = max(ended, key=lambda t: t.value)
            assert distance(child, best.params) == 1
        study.tell(trial, float(sum(child.values())))
        if sum(child.values()) == 8:
            break
    assert study.best_value == 8


def test_when_no_neighbour_is_better_then_starts_anew_some_steps_away_and_goes_on_from_there():
    study = study_with(startup_trials=1, kick=3)
    away = []
    for number in range(30):
        trial = study.ask()
        child = suggest(trial)
        away.append(distance(child, study.trials[0].params))
        study.tell(trial, 1.0 if number == 0 else 0.0)
    assert away[1:9] == [1] * 8  # all its neighbours
    assert away[9] > 1
    assert distance(study.trials[10].params, study.trials[9].params) == 1


def test_failed_and_rejected_neighbours_are_not_tried_again_and_do_not_hold_the_search_up():
    study = study_with(startup_trials=1)
    for number in range(12):
        trial = study.ask()
        suggest(trial)
        if number == 0:
            study.tell(trial, 1.0)
        elif number % 2:
            study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr("excess", [1.0])
            study.tell(trial, state=TrialState.PRUNED)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 12


def test_numbers_have_neighbours_near_by_and_on_their_grid():
    study = study_with(startup_trials=1)
    for _ in range(40):
        trial = study.ask()
        x = trial.suggest_float("x", 1e-4, 1.0, log=True)
        n = trial.suggest_int("n", 2, 20, step=2)
        study.tell(trial, -abs(n - 12) - abs(x - 0.05))
    assert study.best_params["n"] == 12
    assert 0.01 < study.best_params["x"] < 0.25


def test_a_stopped_candidate_does_not_displace_a_complete_one():
    study = study_with(startup_trials=1)
    for number in range(6):
        trial = study.ask()
        suggest(trial)
        if number == 0:
            study.tell(trial, 0.5)
        else:
            trial.report(0.9, 1)
            study.tell(trial, state=TrialState.PRUNED)
    assert all(distance(trial.params, study.trials[0].params) == 1 for trial in study.trials[1:])
