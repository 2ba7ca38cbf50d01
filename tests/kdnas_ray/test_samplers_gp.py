"""Specification of `kdnas_ray.samplers.gp`: it models, and learns from stopped and rejected candidates too."""

import optuna
from optuna.trial import TrialState

from kdnas_ray.samplers import SAMPLERS


def study_with(directions=("maximize",)) -> optuna.Study:
    sampler = SAMPLERS["gp"](startup_trials=6).make(0, lambda trial: trial.user_attrs.get("excess") or [0.0])
    return optuna.create_study(directions=directions, sampler=sampler)


def test_finds_the_top_of_a_hill_though_half_of_the_candidates_are_stopped():
    study = study_with()
    for number in range(16):
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        value = -((x - 0.7) ** 2)
        trial.report(value - 0.5, 1)
        if number % 2:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
    assert max(-((trial.params["x"] - 0.7) ** 2) for trial in study.trials) > -1e-3


def test_learns_from_rejected_candidates_to_keep_the_constraint():
    study = study_with()
    for _ in range(22):
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("excess", [x - 0.4])
        if x > 0.4:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, x)
    assert sum(trial.params["x"] <= 0.4 for trial in study.trials[-8:]) >= 3
    assert study.best_value > 0.3


def test_two_objectives_and_a_decision_under_a_condition():
    study = study_with(("maximize", "minimize"))
    for _ in range(9):
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        if trial.suggest_categorical("a", ("b", "c")) == "b":
            trial.suggest_int("n", 1, 3)
        study.tell(trial, (x, x * x))
    assert all(("n" in trial.params) == (trial.params["a"] == "b") for trial in study.trials)


def test_proposals_that_are_out_at_once_differ():
    study = study_with()
    for _ in range(7):
        trial = study.ask()
        study.tell(trial, -abs(trial.suggest_float("x", 0, 1) - 0.5))
    values = [study.ask().suggest_float("x", 0, 1) for _ in range(2)]
    assert abs(values[0] - values[1]) > 1e-3
