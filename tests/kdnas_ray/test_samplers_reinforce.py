"""Specification of `kdnas_ray.samplers.reinforce`: what the policy learns from ended candidates."""

from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState

from kdnas_ray.samplers import SAMPLERS
from search_spaces import KdnasError


def study_with(directions=("maximize",), **options) -> optuna.Study:
    sampler = SAMPLERS["reinforce"](**options).make(0, lambda trial: trial.user_attrs.get("excess") or [0.0])
    return optuna.create_study(directions=directions, sampler=sampler)


def test_policy_comes_to_prefer_what_pays_and_keeps_trying_the_rest():
    study = study_with()
    for _ in range(120):
        trial = study.ask()
        good = trial.suggest_categorical("a", ("good", "bad", "worse")) == "good"
        study.tell(trial, good + 0.3 * trial.suggest_float("x", 0, 1))
    last = study.trials[-60:]
    shares = Counter(trial.params["a"] for trial in last)
    assert shares["good"] > 40
    assert sum(trial.params["x"] for trial in last) / 60 > 0.55


def test_more_entropy_keeps_the_policy_broader():
    counts = []
    for entropy in (0.0, 10.0):
        study = study_with(entropy=entropy)
        for _ in range(100):
            trial = study.ask()
            study.tell(trial, float(trial.suggest_categorical("a", ("good", "bad")) == "good"))
        counts.append(sum(trial.params["a"] == "good" for trial in study.trials[-50:]))
    assert counts[0] > counts[1]


def test_rejected_candidates_push_the_policy_away():
    study = study_with()
    for _ in range(80):
        trial = study.ask()
        if trial.suggest_categorical("a", ("large", "small")) == "large":
            trial.set_user_attr("excess", [1.0])
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, 0.5)
    assert sum(trial.params["a"] == "small" for trial in study.trials[-30:]) > 25


def test_with_two_objectives_dominated_candidates_lose():
    study = study_with(directions=("maximize", "minimize"))
    for _ in range(150):
        trial = study.ask()
        waste = trial.suggest_categorical("waste", (False, True))
        size = trial.suggest_float("size", 0, 1)
        study.tell(trial, (size - waste, size + waste))
    assert sum(trial.params["waste"] for trial in study.trials[-50:]) < 12


@pytest.mark.parametrize(
    ("field", "value"), [("learning_rate", 0.0), ("decay", 1.0), ("decay", -0.1), ("entropy", -1.0)]
)
def test_options_outside_their_range_are_refused(field, value):
    with pytest.raises(KdnasError) as caught:
        SAMPLERS["reinforce"](**{field: value})
    assert caught.value.field == f"sampler.{field}"
