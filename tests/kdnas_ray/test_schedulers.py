"""Specification of `kdnas_ray.schedulers`: rungs, decisions by hand, and decisions after a resume."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from kdnas_ray.schedulers import ASHA, SCHEDULERS, Extrapolate, Full, replay
from search_spaces import KdnasError

GO_ON, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


@dataclass(frozen=True)
class FakeTrial:
    """What Ray's scheduler sees of a trial."""

    trial_id: str


def report(scheduler: TrialScheduler, trial: FakeTrial, epoch: int, accuracy: float) -> str:
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "val_accuracy": accuracy})


def enter(scheduler: TrialScheduler, name: str) -> FakeTrial:
    trial = FakeTrial(name)
    scheduler.on_trial_add(None, trial)
    return trial


@pytest.mark.parametrize(
    ("scheduler", "rungs"),
    [
        (ASHA(), (3, 9, 27)),
        (ASHA(max_epochs=81, grace_epochs=1, reduction_factor=3), (1, 3, 9, 27, 81)),
        (ASHA(max_epochs=30, grace_epochs=3), (3, 9, 27, 30)),
        (ASHA(max_epochs=10, grace_epochs=4, reduction_factor=2), (4, 8, 10)),
        (ASHA(max_epochs=10, grace_epochs=10), (10,)),
        (ASHA(max_epochs=1, grace_epochs=1), (1,)),
        (ASHA(max_epochs=6, grace_epochs=1, reduction_factor=1.5), (1, 2, 3, 4, 6)),  # 1, 1.5, 2.25, 3.375, 5.06
        (Full(12), (12,)),
        (Extrapolate(), (3, 6, 9, 12, 15, 18, 21, 24, 27)),
        (Extrapolate(10, 4, 5), (4, 9, 10)),
        (Extrapolate(4, 4), (4,)),
    ],
)
def test_rungs_when_computed_by_hand_then_agree(scheduler, rungs):
    assert scheduler.rungs() == rungs


@given(epochs=st.integers(1, 300), grace=st.integers(1, 300), factor=st.floats(1.1, 10))
def test_rungs_when_any_asha_then_ascend_from_grace_to_the_full_training(epochs, grace, factor):
    grace = min(grace, epochs)
    rungs = ASHA(epochs, grace, factor).rungs()
    assert rungs == tuple(sorted(set(rungs)))
    assert rungs[0] == grace
    assert rungs[-1] == epochs


@given(
    epochs=st.integers(2, 100),
    grace=st.integers(1, 20),
    factor=st.sampled_from((1.5, 2, 2.5, 3, 4)),
)
@settings(max_examples=50)
def test_rungs_when_a_hopeless_candidate_reports_at_any_then_ray_stops_it_there(epochs, grace, factor):
    # A step is a rung: were ours and Ray's rungs not the same, a decision would come late or never.
    asha = ASHA(epochs, min(grace, epochs), factor)
    for rung in asha.rungs()[:-1]:
        scheduler = asha.make()
        good, bad = enter(scheduler, "good"), enter(scheduler, "bad")
        assert report(scheduler, good, rung, 0.9) == GO_ON
        assert report(scheduler, bad, rung, 0.1) == STOP


def test_asha_when_decided_by_hand_then_the_best_third_goes_on():
    scheduler = ASHA(27, 3, 3).make()
    a, b, c, d = (enter(scheduler, name) for name in "abcd")
    assert report(scheduler, a, 3, 0.5) == GO_ON  # nothing to compare with
    assert report(scheduler, b, 3, 0.4) == STOP  # two thirds quantile of {0.5} is 0.5
    assert report(scheduler, c, 3, 0.45) == STOP  # of {0.4, 0.5}: 0.467
    assert report(scheduler, d, 3, 0.9) == GO_ON  # of {0.4, 0.45, 0.5}: 0.467
    assert report(scheduler, a, 9, 0.6) == GO_ON
    assert report(scheduler, d, 9, 0.59) == STOP
    assert report(scheduler, a, 27, 0.7) == STOP  # the full training is reached


def test_full_when_asked_then_stops_nobody():
    scheduler = Full(5).make()
    for name, accuracy in (("a", 0.9), ("b", 0.1)):
        assert report(scheduler, enter(scheduler, name), 5, accuracy) == GO_ON


@given(
    curves=st.lists(st.lists(st.integers(0, 12), min_size=3, max_size=3), min_size=1, max_size=14),
    cut=st.integers(0, 60),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150)
def test_replay_when_a_session_ended_anywhere_then_the_next_decides_as_the_one_that_lived_through(curves, cut, seed):
    asha = ASHA(27, 3, 3)
    rungs = asha.rungs()
    lived, rng = asha.make(), random.Random(seed)
    trials = {f"c{number:04d}": enter(lived, f"c{number:04d}") for number in range(len(curves))}
    seen: dict[str, dict[int, float]] = {name: {} for name in trials}
    open_ = list(trials)

    def step(schedulers: list[tuple[TrialScheduler, dict[str, FakeTrial]]]) -> None:
        name = rng.choice(open_)
        rung = rungs[len(seen[name])]
        accuracy = curves[int(name[1:])][len(seen[name])] / 12
        seen[name][rung] = accuracy
        decisions = {report(scheduler, known[name], rung, accuracy) for scheduler, known in schedulers}
        assert len(decisions) == 1, f"at {name}, epoch {rung}: {decisions}"
        if decisions == {STOP}:
            open_.remove(name)

    while open_ and cut > 0:
        step([(lived, trials)])
        cut -= 1
    fresh = asha.make()
    told = list(seen.items())
    rng.shuffle(told)
    replay(fresh, rungs, dict(told))
    # Ray Tune gives the candidates that go on new trial ids.
    again = {name: enter(fresh, f"again-{name}") for name in trials}
    while open_:
        step([(lived, trials), (fresh, again)])


def test_replay_when_epochs_between_rungs_are_known_then_only_rungs_count():
    scheduler = ASHA(27, 3, 3).make()
    replay(scheduler, (3, 9, 27), {"c0": {1: 0.99, 2: 0.99, 3: 0.5, 4: 0.99}, "c1": {1: 0.99}, "c2": {}})
    assert report(scheduler, enter(scheduler, "low"), 3, 0.49) == STOP
    assert report(scheduler, enter(scheduler, "high"), 3, 0.51) == GO_ON
    assert report(scheduler, enter(scheduler, "next"), 9, 0.1) == GO_ON  # nobody was there before


def test_replay_when_the_scheduler_stops_nobody_then_changes_nothing():
    scheduler = Full(5).make()
    replay(scheduler, (5,), {"c0": {5: 0.5}})
    assert report(scheduler, enter(scheduler, "a"), 5, 0.1) == GO_ON


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_epochs": 0}, "max_epochs"),
        ({"grace_epochs": 0}, "grace_epochs"),
        ({"grace_epochs": 28}, "grace_epochs"),
        ({"reduction_factor": 1}, "reduction_factor"),
    ],
)
def test_asha_when_impossible_then_is_refused(options, field):
    with pytest.raises(KdnasError) as caught:
        ASHA(**options)
    assert caught.value.field == f"scheduler.{field}"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_when_listed_then_offers_rungs_that_end_with_the_full_training(name):
    scheduler = SCHEDULERS[name]()
    assert scheduler.rungs()[-1] == scheduler.max_epochs
    assert isinstance(scheduler.make(), TrialScheduler)


def told(scheduler: TrialScheduler, name: str, *accuracies: float) -> str:
    """The decision about a candidate that reports this curve; its last rung is told as Ray tells it."""
    curve = [{"epoch": epoch, "val_accuracy": accuracy} for epoch, accuracy in enumerate(accuracies, start=1)]
    result = {"epoch": len(curve), "val_accuracy": accuracies[-1], "curve": curve}
    if len(curve) < 4:
        return scheduler.on_trial_result(None, FakeTrial(name), result)
    scheduler.on_trial_complete(None, FakeTrial(name), result)
    return GO_ON


def rising(last: float) -> list[float]:
    """A curve of four epochs that halves its error after each."""
    return [1 - (1 - last) * 2**left for left in (3, 2, 1, 0)]


def test_extrapolate_when_a_candidate_hardly_can_be_among_the_best_then_stops_it_once_enough_have_finished():
    scheduler = Extrapolate(4, 1, 1, top=2, startup_trials=3).make()
    hopeless = [0.2, 0.2]
    for number, last in enumerate((0.96, 0.94, 0.95)):
        assert told(scheduler, "bad", *hopeless) == GO_ON
        told(scheduler, str(number), *rising(last))
    assert told(scheduler, "bad", *hopeless) == STOP
    assert told(scheduler, "good", *rising(0.955)[:2]) == GO_ON
    # One between the second and the third: among the best three, not certainly among the best two.
    assert told(scheduler, "middle", *rising(0.945)[:2]) == GO_ON


def test_extrapolate_when_top_is_larger_then_stops_fewer():
    curves = [rising(last) for last in (0.99, 0.99, 0.9, 0.9, 0.9, 0.9)]
    decisions = []
    for top in (1, 2, 3, 6):
        scheduler = Extrapolate(4, 1, 1, top=top).make()
        for number, curve in enumerate(curves):
            told(scheduler, str(number), *curve)
        decisions.append(told(scheduler, "asked", *rising(0.9)[:3]))
    assert decisions == [STOP, STOP, GO_ON, GO_ON]


def test_extrapolate_when_candidates_fail_or_are_cut_then_they_do_not_count_as_finished():
    scheduler = Extrapolate(4, 1, 1, top=1, startup_trials=2).make()
    told(scheduler, "whole", *rising(0.99))
    scheduler.on_trial_complete(None, FakeTrial("failed"), {"failure": "NaN", "done": True})
    scheduler.on_trial_complete(None, FakeTrial("cut"), {"epoch": 2, "val_accuracy": 0.1, "curve": []})
    assert told(scheduler, "asked", 0.1, 0.1) == GO_ON
    told(scheduler, "second", *rising(0.98))
    assert told(scheduler, "asked", 0.1, 0.1) == STOP


@given(
    curves=st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=2, max_size=12),
    asked=st.lists(st.integers(0, 20), min_size=2, max_size=3),
    seed=st.integers(0, 99),
)
def test_replay_when_candidates_finished_in_an_earlier_session_then_extrapolate_decides_as_before(curves, asked, seed):
    lived, fresh = (Extrapolate(4, 2, 1, top=2, confidence=0.3, startup_trials=2).make() for _ in range(2))
    known = {}
    for number, curve in enumerate(curves):
        told(lived, str(number), *(value / 20 for value in curve))
        known[f"c{number:04d}"] = {epoch: value / 20 for epoch, value in enumerate(curve, start=1)}
    shuffled = list(known.items())
    random.Random(seed).shuffle(shuffled)
    replay(fresh, (2, 3, 4), dict(shuffled))
    decisions = {told(scheduler, "asked", *(value / 20 for value in asked)) for scheduler in (lived, fresh)}
    assert len(decisions) == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_epochs": 0}, "max_epochs"),
        ({"grace_epochs": 28}, "grace_epochs"),
        ({"every_epochs": 0}, "every_epochs"),
        ({"top": 0}, "top"),
        ({"startup_trials": 1}, "startup_trials"),
        ({"confidence": 0}, "confidence"),
        ({"confidence": 1}, "confidence"),
    ],
)
def test_extrapolate_when_impossible_then_is_refused(options, field):
    with pytest.raises(KdnasError) as caught:
        Extrapolate(**options)
    assert caught.value.field == f"scheduler.{field}"
    assert caught.value.remedy or field == "max_epochs"


def test_asha_when_a_worker_trained_others_beside_a_candidate_then_judges_it_among_them():
    def decided(beside):
        scheduler = ASHA(max_epochs=9, grace_epochs=1, reduction_factor=3).make()
        trial = FakeTrial("head")
        scheduler.on_trial_add(None, trial)
        return scheduler.on_trial_result(None, trial, {"epoch": 1, "val_accuracy": 0.5, **beside})

    assert decided({}) == GO_ON  # the first of all is always among the best
    assert decided({"beside": {"c0001": 0.9, "c0002": 0.8}}) == STOP
    assert decided({"beside": {"c0001": 0.1, "c0002": 0.2}}) == GO_ON


def test_scheduler_when_trials_end_then_ray_keeps_of_them_only_the_last_result_of_the_last():
    scheduler, ended = ASHA().make(), []
    for name in ("a", "b"):
        trial = Trial("none", config={"x": name}, stub=True)
        scheduler.on_trial_add(None, trial)
        trial.update_last_result({"epoch": 27, "val_accuracy": 0.5, "trial_id": name})
        scheduler.on_trial_complete(None, trial, trial.last_result)
        ended.append(trial)
    first, last = ended
    assert "val_accuracy" not in first.last_result
    assert last.last_result["val_accuracy"] == 0.5
    assert all(not (trial.config or trial.run_metadata.metric_analysis) for trial in ended)
    assert last.placement_group_factory is first.placement_group_factory
