"""Specification of `kdnas_ray.samplers.tpe`: Optuna's TPE, which sees some of a long study only."""

import random
import warnings

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from kdnas_ray.samplers.tpe import BEST, TPE
from search_spaces import KdnasError


def keeps_all(trial):
    return trial.user_attrs.get("excess") or [0.0]


def propose(trial):
    choice = trial.suggest_categorical("choice", (1, 2, 3))
    return choice, trial.suggest_float("x", 0, 1) if choice == 3 else 0.5


def searched(sampler, trials, directions=("maximize",)):
    """A study in which a third is trained in full, a third pruned, a third rejected; value and decisions agree."""
    study = optuna.create_study(directions=directions, sampler=sampler)
    draw = random.Random(0)
    for number in range(trials):
        trial = study.ask()
        choice, x = propose(trial)
        value = x + choice / 10 + draw.uniform(0, 0.01)
        if number % 3 == 2:
            trial.set_user_attr("excess", [1.0])
        elif len(directions) == 1:
            trial.report(value / 2, 3)
        if number % 3 == 0:
            study.tell(trial, [value, *([choice] if len(directions) == 2 else [])])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return study


def test_history_when_the_study_is_shorter_then_optunas_own_proposals():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = TPESampler(multivariate=True, group=True, constant_liar=True, seed=3, constraints_func=keeps_all)
    ours, theirs = (searched(sampler, 100) for sampler in (TPE(history=100).make(3, keeps_all), known))
    assert [trial.params for trial in ours.trials] == [trial.params for trial in theirs.trials]


def test_history_when_the_study_is_longer_then_the_best_and_the_latest_are_seen():
    sampler = TPE(history=120).make(3, keeps_all)
    study = searched(sampler, 200)
    open_trial = study.ask()
    seen = sampler._view(study).get_trials()
    assert 71 < len(seen) <= 121
    assert [trial.number for trial in seen[-71:]] == list(range(200 - 70, 201))  # 70 that ended, one that runs
    assert seen[-1].number == open_trial.number
    older = study.trials[: 200 - 70]
    whole = sorted((t.value for t in study.trials if t.state == TrialState.COMPLETE), reverse=True)
    assert {t.number for t in older if t.state == TrialState.COMPLETE and t.value >= whole[BEST - 1]} <= {
        trial.number for trial in seen
    }
    assert not [t for t in seen[:-71] if t.user_attrs.get("excess")]


def test_history_when_a_trial_stays_open_then_those_after_it_are_ranked_all_the_same():
    sampler = TPE(history=100).make(0, keeps_all)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.ask()
    for number in range(150):
        trial = study.ask()
        propose(trial)
        study.tell(trial, float(number == 5))
    assert 6 in {trial.number for trial in sampler._view(study).get_trials()}


def test_history_when_there_are_several_objectives_then_their_front_is_seen():
    sampler = TPE(history=100).make(0, keeps_all)
    study = searched(sampler, 180, ("maximize", "minimize"))
    seen = {trial.number for trial in sampler._view(study).get_trials()}
    assert {trial.number for trial in study.best_trials} <= seen
    propose(study.ask())


def test_history_when_it_holds_little_more_than_the_best_then_refused():
    with pytest.raises(KdnasError) as caught:
        TPE(history=99)
    assert caught.value.field == "sampler.history"
    assert "at least 100" in (caught.value.remedy or "")
    with pytest.raises(KdnasError, match="too small"):
        TPE(startup_trials=200)  # else the model would never be used
