"""Specification of `kdnas_ray.samplers.history` and `base`: what a study says; values and their ranges."""

import random

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from kdnas_ray.samplers.base import fits, from_unit, to_unit
from kdnas_ray.samplers.history import History, as_complete, fitness, of_all

RANGES = [
    CategoricalDistribution(("a", None, True, 1)),
    IntDistribution(1, 4),
    IntDistribution(2, 10, step=4),
    IntDistribution(1, 100, log=True),
    FloatDistribution(-1, 1),
    FloatDistribution(0.1, 0.9, step=0.2),
    FloatDistribution(1e-4, 1, log=True),
    FloatDistribution(3, 3),
]


def excess(trial: optuna.trial.FrozenTrial) -> list[float]:
    return trial.user_attrs.get("excess") or [0.0]


def told(study: optuna.Study, values, curve=(), state=None, over: float = 0.0, x: float = 0.5) -> optuna.Trial:
    study.enqueue_trial({"x": x})
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("excess", [over])
    for step, value in enumerate(curve, 1):
        trial.report(value, step)
    study.tell(trial, values, state=state)
    return trial


def read(study: optuna.Study) -> History:
    history = History(excess)
    history.read(study)
    return history


@pytest.mark.parametrize("distribution", RANGES, ids=str)
def test_every_share_of_a_range_is_a_value_in_it_and_values_come_back(distribution):
    rng = random.Random(0)
    for share in [0, 1, *(rng.random() for _ in range(200))]:
        value = from_unit(distribution, share)
        assert fits(distribution, value)
        again = from_unit(distribution, to_unit(distribution, value))
        assert again == pytest.approx(value) if isinstance(value, float) else again is value or again == value


def test_steps_and_choices_are_drawn_alike_often():
    for distribution, parts in zip(RANGES, (4, 4, 3), strict=False):
        values = [repr(from_unit(distribution, (i + 0.5) / 120)) for i in range(120)]
        assert {values.count(value) for value in values} == {120 // parts}


def test_true_is_not_one():
    assert fits(CategoricalDistribution((0, 1)), 1)
    assert not fits(CategoricalDistribution((0, 1)), True)
    assert not fits(CategoricalDistribution(("a",)), None)


def test_scores_are_oriented_so_that_more_is_better():
    study = optuna.create_study(directions=["maximize", "minimize"])
    told(study, [0.9, 100.0])
    assert [ended.scores for ended in read(study).scored] == [(0.9, -100.0)]


def test_a_stopped_candidate_is_credited_with_what_complete_ones_gained_after_that_epoch():
    study = optuna.create_study(direction="maximize")
    told(study, 0.8, curve=(0.5, 0.7, 0.8))
    told(study, 0.9, curve=(0.6, 0.8, 0.9))
    told(study, None, curve=(0.3,), state=TrialState.PRUNED)
    told(study, None, curve=(0.3, 0.4), state=TrialState.PRUNED)
    scored = read(study).scored
    assert [ended.complete for ended in scored] == [True, True, False, False]
    assert [ended.scores[0] for ended in scored[2:]] == pytest.approx([0.6, 0.5])


def test_a_stopped_candidate_counts_as_it_is_until_a_complete_one_tells_more():
    study = optuna.create_study(direction="maximize")
    told(study, None, curve=(0.3,), state=TrialState.PRUNED)
    assert read(study).scored[0].scores == (0.3,)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_stopped_candidate_of_several_objectives_is_read_from_what_the_adapter_writes_down():
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.set_metric_names(["val_accuracy", "params"])
    for values, state, curve in (([0.9, 10], TrialState.COMPLETE, (0.5, 0.9)), (None, TrialState.PRUNED, (0.4,))):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("params", 10)
        trial.set_user_attr("curve", [{"epoch": i, "val_accuracy": v} for i, v in enumerate(curve, 1)])
        study.tell(trial, values, state=state)
    assert read(study).scored[1].scores == pytest.approx((0.8, -10))


def test_a_candidate_that_broke_a_constraint_or_failed_has_no_score_but_is_known():
    study = optuna.create_study(direction="maximize")
    told(study, 0.9, x=0.1)
    told(study, None, state=TrialState.PRUNED, over=0.5, x=0.2)
    told(study, None, state=TrialState.FAIL, x=0.3)
    told(study, 0.9, over=0.1, x=0.4)
    history = read(study)
    assert [ended.scores for ended in history.ended] == [(0.9,), None, None, None]
    assert all(history.knows({"x": x}) for x in (0.1, 0.2, 0.3, 0.4))
    assert not history.knows({"x": 0.5})


def test_a_running_candidate_is_known_but_not_the_one_that_asks():
    study = optuna.create_study(direction="maximize")
    told(study, 0.9, x=0.1)
    running = study.ask()
    x = running.suggest_float("x", 0, 1)
    assert read(study).knows({"x": x})
    history = History(excess)
    history.read(study, asking=running.number)
    assert not history.knows({"x": x})


def test_a_candidate_that_failed_while_it_was_proposed_bars_no_others():
    study = optuna.create_study(direction="maximize")
    for finished in (False, True):
        trial = study.ask()
        trial.suggest_categorical("a", ("only",))
        if finished:
            trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5 if finished else None, state=None if finished else TrialState.FAIL)
    assert not read(study).knows({"a": "only", "x": 0.123})


def test_candidates_are_read_in_the_order_in_which_they_ended():
    study = optuna.create_study(direction="maximize")
    trials = [study.ask() for _ in range(3)]
    history = History(excess)
    for trial in reversed(trials):
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
        history.read(study)
    assert [ended.number for ended in history.ended] == [2, 1, 0]


def test_fitness_of_one_objective_is_its_score():
    assert fitness(np.array([[3.0], [1.0]])).tolist() == [3.0, 1.0]


def test_fitness_of_several_objectives_is_the_front_then_the_room_around():
    scores = np.array([[0, 10], [10, 0], [5, 5], [5.5, 4.5], [1, 1]])
    order = np.argsort(-fitness(scores)).tolist()
    assert set(order[:2]) == {0, 1}
    assert order[-1] == 4


def test_a_study_seen_as_complete_holds_stopped_and_rejected_ones_with_values():
    study = optuna.create_study(direction="minimize")
    told(study, 2.0, curve=(3.0, 2.0))
    told(study, None, curve=(5.0,), state=TrialState.PRUNED)
    told(study, None, state=TrialState.PRUNED, over=1.0)
    seen = as_complete(study, read(study))
    values = [trial.value for trial in seen.get_trials(states=(TrialState.COMPLETE,))]
    assert values == pytest.approx([2.0, 4.0, 4.0])
    assert [trial.state for trial in study.trials].count(TrialState.COMPLETE) == 1
    assert seen.direction == study.direction


def test_decisions_that_a_rejected_trial_did_not_take_are_not_modelled():
    study = optuna.create_study(direction="minimize")
    ranges = {name: FloatDistribution(0, 1) for name in ("x", "kernel")}
    study.add_trial(optuna.create_trial(params={"x": 0.5, "kernel": 0.25}, distributions=ranges, value=1.0))
    assert list(of_all(ranges, as_complete(study, read(study)))) == ["x", "kernel"]
    told(study, None, state=TrialState.PRUNED, over=1.0)
    assert list(of_all(ranges, as_complete(study, read(study)))) == ["x"]


def test_a_study_seen_as_complete_knows_the_constraints_of_trials_that_another_sampler_proposed():
    study = optuna.create_study(direction="minimize")
    told(study, 2.0, over=0.5)
    assert not study.trials[0].constraints
    (trial,) = as_complete(study, read(study)).get_trials()
    assert list(trial.constraints.values()) == [0.5]
    assert not study.trials[0].constraints
