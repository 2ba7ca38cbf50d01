"""Specification of `kdnas_ray.adapter`: what Optuna and the run folder hold after everything that can happen.

Ray is left out: the adapter is called as Ray Tune's loop calls it.
"""

import json
import pickle
import random
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from sessions import RUNGS, Widths

from kdnas_ray.adapter import FAILURES, REJECTIONS, Sieve, candidate_seed, curves
from kdnas_ray.runs import read_jsonl
from search_spaces import Architecture, RunError
from trainables.candidate import Candidate
from trainables.limits import HUNG, LEFT
from trainables.recipe import LabelsAlone


def test_candidate_when_suggested_then_carries_its_number_seed_and_what_the_space_decided(session):
    opened = session(seed=5)
    candidate = opened.ask("a")
    trial = opened.trial(0)
    assert candidate.id == "c0000"
    assert candidate.architecture == Architecture.of({"width": trial.params["width"]})
    assert candidate.recipe.alpha == trial.params["alpha"]
    assert candidate.seed == candidate_seed(5, 0)
    assert {"params", "flops"} <= set(trial.user_attrs)
    assert opened.reported == 0
    assert opened.progress.running == 1


def test_candidate_when_trained_in_full_then_is_told_as_complete(session, result):
    opened = session()
    opened.ask("a")
    opened.adapter.on_trial_result("a", result(0.5))
    assert opened.trial(0).intermediate_values == {1: 0.5}
    assert opened.trial(0).state == TrialState.RUNNING
    opened.adapter.on_trial_complete("a", result(0.5, 0.6, 0.7, train_s=4.0))
    trial, row = opened.trial(0), opened.rows()["c0000"]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)
    assert trial.intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}
    assert (row["state"], row["epochs"], row["val_accuracy"], row["train_s"]) == ("complete", 3, 0.7, 4.0)
    assert [point["val_accuracy"] for point in row["curve"]] == [0.5, 0.6, 0.7]
    assert row["reason"] is None
    assert opened.progress.running == 0


def test_candidate_when_stopped_by_the_scheduler_then_is_told_as_pruned_with_its_curve(session, result):
    opened = session()
    opened.ask("a")
    opened.adapter.on_trial_complete("a", result(0.3))
    trial, row = opened.trial(0), opened.rows()["c0000"]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.3}
    assert trial.user_attrs["curve"] == row["curve"]
    assert (row["state"], row["epochs"], row["val_accuracy"], row["reason"]) == ("pruned", 1, 0.3, None)
    assert opened.progress.stopped == {1: 1}


def test_candidate_when_there_are_two_objectives_then_is_told_both_values(session, result):
    opened = session(("val_accuracy", "params"))
    candidate = opened.ask("a")
    opened.adapter.on_trial_complete("a", result(0.5, 0.6, 0.7))
    assert opened.trial(0).values == [0.7, 100 * candidate.architecture["width"]]
    opened.ask("b")
    opened.adapter.on_trial_complete("b", result(0.5))
    assert opened.trial(1).state == TrialState.PRUNED
    assert opened.trial(1).user_attrs["curve"][0]["val_accuracy"] == 0.5


def test_candidate_when_its_loss_is_not_finite_then_fails_with_the_reason_and_the_search_goes_on(session, result):
    opened = session()
    opened.ask("a")
    opened.adapter.on_trial_result("a", result(0.5))
    opened.adapter.on_trial_complete("a", {"failure": "loss is nan in epoch 2", "done": True})
    row = opened.rows()["c0000"]
    assert (row["state"], row["reason"], opened.trial(0).state) == ("failed", "loss is nan in epoch 2", TrialState.FAIL)
    assert opened.ask("b").id == "c0001"


def test_candidate_when_its_worker_dies_for_good_then_fails_and_keeps_what_it_had(session, result):
    opened = session()
    opened.ask("a")
    opened.adapter.on_trial_result("a", result(0.5))
    opened.adapter.on_trial_complete("a", None, error=True)
    assert opened.rows() == {}
    for trial in ("b", "c"):
        assert opened.ask(trial).id == "c0000"
        assert opened.reported == 1
        opened.adapter.on_trial_complete(trial, None, error=True)
    row = opened.rows()["c0000"]
    assert row["state"] == "failed"
    assert "worker died 3 times" in row["reason"]
    assert opened.ask("d").id == "c0001"


def test_candidate_when_its_worker_died_twice_then_waits_until_it_has_the_machines_to_itself(session, result):
    opened = session(trials=4)
    for trial in ("a", "b"):
        assert opened.ask(trial).id == "c0000"
        opened.adapter.on_trial_complete(trial, None, error=True)
    assert opened.ask("c").id == "c0000"
    assert opened.adapter.suggest("d") is None  # nobody beside it
    opened.adapter.on_trial_complete("c", result(0.5, 0.6, 0.7))
    assert opened.ask("e").id == "c0001"
    assert opened.ask("f").id == "c0002"
    for trial in ("e", "g"):
        opened.adapter.on_trial_complete(trial, None, error=True)
        assert trial == "g" or opened.ask("g").id == "c0001"
    assert opened.adapter.suggest("h") is None  # c0002 still runs
    opened.adapter.on_trial_complete("f", result(0.5))
    assert opened.ask("h").id == "c0001"


def test_candidate_when_promoted_after_its_worker_died_twice_then_goes_on_alone_and_without_mates(session, result):
    opened = session(trials=4, promote=2, recipes_each=4, space=Widths(1))
    assert opened.ask("a").id == "c0000"
    opened.adapter.on_trial_complete("a", None, error=True)
    for trial, name, accuracy in (("b", "c0001", 0.8), ("c", "c0002", 0.5), ("d", "c0003", 0.5)):
        assert opened.ask(trial).id == name
        opened.adapter.on_trial_complete(trial, result(accuracy))
    assert opened.ask("e").id == "c0000"
    opened.adapter.on_trial_complete("e", None, error=True)
    assert opened.ask("f").id == "c0000"
    opened.adapter.on_trial_complete("f", result(0.9))
    assert opened.ask("g").id == "c0001"  # the two best of four may go on, and they would as one
    assert "mates" not in opened.given
    assert opened.adapter.suggest("h") is None
    opened.adapter.on_trial_complete("g", result(0.8, 0.8, 0.8))
    assert opened.ask("i").id == "c0000"
    assert "mates" not in opened.given
    assert opened.adapter.suggest("j") is None


def test_candidate_when_promoted_after_its_worker_died_twice_then_waits_for_those_that_run(session, result):
    opened = session(trials=5, promote=2)
    for trial in ("a", "b"):
        assert opened.ask(trial).id == "c0000"
        opened.adapter.on_trial_complete(trial, None, error=True)
    assert opened.ask("c").id == "c0000"
    opened.adapter.on_trial_complete("c", result(0.9))
    opened.ask("d"), opened.ask("e")
    opened.adapter.on_trial_complete("d", result(0.5))  # now c0000 may go on, and c0002 runs
    assert opened.adapter.suggest("f") is None
    opened.adapter.on_trial_complete("e", result(0.5))
    assert opened.ask("g").id == "c0000"


def test_candidate_when_its_worker_was_told_to_go_then_is_not_to_blame(session, result):
    opened = session()
    folder = opened.run / "trials" / "c0000"
    for trial in "abcd":
        assert opened.ask(trial).id == "c0000"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LEFT).write_text(trial)
        opened.adapter.on_trial_complete(trial, None, error=True)
    for trial in "ef":  # the note of the last time is no excuse for another death
        assert opened.ask(trial).id == "c0000"
        opened.adapter.on_trial_complete(trial, None, error=True)
    assert opened.ask("g").id == "c0000"
    assert opened.adapter.suggest("h") is None
    opened.adapter.on_trial_complete("g", result(0.5, 0.6, 0.7))
    assert opened.rows()["c0000"]["state"] == "complete"
    assert not folder.exists()


def test_candidate_when_it_hung_then_fails_at_once_with_what_it_had(session, result, caplog):
    opened = session()
    opened.ask("a")
    opened.adapter.on_trial_result("a", result(0.5, train_s=2.5))
    (opened.run / "trials" / "c0000").mkdir(parents=True)
    stood = 'training thread 0x1\nTimeout!\nThread 0x1 (most recent call first):\n  File "own.py", line 3 in loss\n'
    (opened.run / "trials" / "c0000" / HUNG).write_text(stood)
    with caplog.at_level("WARNING", "kdnas_ray.adapter"):
        opened.adapter.on_trial_complete("a", None, error=True)
    row = opened.rows()["c0000"]
    assert (row["state"], row["epochs"], row["train_s"]) == ("failed", 1, 2.5)
    assert row["reason"].startswith("hung: after the rung at epoch 1 the next rung was not reached within resources.")
    (said,) = caplog.messages
    assert said.startswith("c0000 hung: after the rung at epoch 1")
    assert "which trained" in said.splitlines()[1]


def test_trial_when_unknown_or_told_twice_then_is_ignored(session, result):
    opened = session()
    opened.adapter.on_trial_complete("never suggested", result(0.5))
    opened.ask("a")
    opened.adapter.on_trial_complete("a", result(0.5))
    opened.adapter.on_trial_complete("a", result(0.5, 0.6, 0.7))
    assert [row["state"] for row in read_jsonl(opened.run / "candidates.jsonl")] == ["pruned"]


def test_budget_when_used_up_then_nothing_more_is_suggested(session, result):
    opened = session(trials=2)
    opened.ask("a")
    assert opened.adapter.has_work()
    opened.ask("b")
    assert not opened.adapter.has_work()
    assert opened.adapter.suggest("c") == Searcher.FINISHED
    assert len(opened.study.trials) == 2
    # A resumed search counts what was trained before.
    opened.adapter.on_trial_complete("a", result(0.5, 0.6, 0.7))
    opened.adapter.on_trial_complete("b", {"failure": "NaN"})
    assert not session(trials=2).adapter.has_work()
    more = session(trials=3)
    assert more.ask("d").id == "c0002"
    assert more.adapter.suggest("e") == Searcher.FINISHED


def test_budget_when_there_is_none_then_work_never_ends(session):
    opened = session(trials=None)
    for number in range(6):
        opened.ask(str(number))
    assert opened.adapter.has_work()


def test_search_when_time_is_over_then_closes_running_candidates_with_the_reason(session, result):
    opened = session()
    opened.ask("a"), opened.ask("b"), opened.ask("c")
    opened.stop.reason = "budget"
    opened.adapter.on_trial_complete("a", result(0.5))
    opened.adapter.on_trial_complete("b", result(0.5, 0.6, 0.7))
    opened.adapter.on_trial_complete("c", None)
    rows = opened.rows()
    assert (rows["c0000"]["state"], rows["c0000"]["reason"]) == ("pruned", "the search's time was over")
    assert (rows["c0001"]["state"], rows["c0001"]["reason"]) == ("complete", None)
    assert (rows["c0002"]["state"], rows["c0002"]["epochs"]) == ("pruned", 0)
    assert opened.adapter.suggest("d") == Searcher.FINISHED
    assert [trial.state for trial in opened.study.trials] == [TrialState.PRUNED, TrialState.COMPLETE, TrialState.PRUNED]


def test_search_when_interrupted_then_running_candidates_stay_open_and_go_on_later(session, result):
    opened = session()
    first, second = opened.ask("a"), opened.ask("b")
    opened.adapter.on_trial_result("a", result(0.5))
    opened.stop.reason = "interrupt"
    opened.adapter.on_trial_complete("a", result(0.5))
    opened.adapter.on_trial_complete("b", None)
    assert opened.adapter.suggest("c") == Searcher.FINISHED
    assert opened.rows() == {}
    assert opened.progress.running == 0
    assert [trial.state for trial in opened.study.trials] == [TrialState.RUNNING] * 2

    again = session()
    assert again.ask("x") == first
    assert again.reported == 1
    assert again.ask("y") == second
    assert again.reported == 0
    assert again.ask("z").id == "c0002"
    again.adapter.on_trial_complete("x", result(0.5, 0.6, 0.7))
    assert again.trial(0).intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}
    assert again.rows()["c0000"]["state"] == "complete"


def test_search_when_interrupted_then_a_candidate_that_just_finished_is_kept(session, result):
    opened = session()
    opened.ask("a")
    opened.stop.reason = "interrupt"
    opened.adapter.on_trial_complete("a", result(0.5, 0.6, 0.7))
    assert opened.rows()["c0000"]["state"] == "complete"


def test_rung_when_reported_again_after_a_resume_then_is_written_once(session, result):
    opened = session()
    opened.ask("a")
    opened.adapter.on_trial_result("a", result(0.5))
    again = session()  # killed here
    again.ask("b")
    again.adapter.on_trial_result("b", result(0.5))  # trained anew from the beginning: the same rung
    again.adapter.on_trial_complete("b", result(0.5, 0.6, 0.7))
    sent = [record for record in read_jsonl(again.run / "tracking.jsonl") if record["type"] == "rung"]
    assert [[point["epoch"] for point in record["curve"]] for record in sent] == [[1], [2, 3]]
    assert again.trial(0).intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}


def test_crash_between_run_folder_and_study_then_the_study_is_told_at_the_next_start(session, result, monkeypatch):
    opened = session(("val_accuracy", "params"))
    opened.ask("a"), opened.ask("b"), opened.ask("c")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(opened.study, "tell", killed)
        for trial_id, told in (("a", result(0.5, 0.6, 0.7)), ("b", result(0.4)), ("c", {"failure": "NaN"})):
            with pytest.raises(KeyboardInterrupt):
                opened.adapter.on_trial_complete(trial_id, told)
    assert [trial.state for trial in opened.study.trials] == [TrialState.RUNNING] * 3

    again = session(("val_accuracy", "params"))
    assert [trial.state for trial in again.study.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert again.trial(0).values == [0.7, again.rows()["c0000"]["params"]]
    assert again.ask("d").id == "c0003"


def test_crash_while_a_candidate_was_proposed_then_its_trial_is_closed_as_failed(session):
    opened = session()
    opened.study.ask()  # killed before the candidate was written down
    again = session()
    assert again.trial(0).state == TrialState.FAIL
    assert again.ask("a").id == "c0001"
    assert again.rows() == {}


def test_crash_then_every_candidate_ends_exactly_once(session, result):
    # Whatever order candidates end in and wherever sessions are cut, each is trained once and told once.
    rng = random.Random(7)
    for _ in range(8):
        opened = session(trials=10)
        running = []
        for number in range(rng.randint(1, 4)):
            found = opened.adapter.suggest(str(number))
            if found == Searcher.FINISHED:
                break
            running.append(str(number))
        for trial_id in running:
            if rng.random() < 0.6:  # the others are cut by the crash
                opened.adapter.on_trial_complete(trial_id, result(*[0.5] * rng.choice(RUNGS)))
    last = session(trials=10)
    while (found := last.adapter.suggest("last")) != Searcher.FINISHED:
        assert isinstance(found, dict)
        last.adapter.on_trial_complete("last", result(0.5, 0.6, 0.7))
    ended = [row["id"] for row in read_jsonl(last.run / "candidates.jsonl")]
    assert sorted(ended) == [f"c{number:04d}" for number in range(10)]
    assert all(trial.state.is_finished() for trial in last.study.trials)


def test_constraint_when_broken_then_the_candidate_is_rejected_untrained_and_told_as_pruned(session):
    opened = session(bounds={"params": 300.0}, trials=20)
    kept = [opened.ask(str(number)) for number in range(20)]
    assert all(candidate.architecture["width"] <= 3 for candidate in kept)
    rejected = [row for row in opened.rows().values() if row["state"] == "rejected"]
    assert rejected
    for row in rejected:
        trial = opened.trial(int(row["id"][1:]))
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["excess"] == pytest.approx([row["params"] / 300 - 1])
        assert row["reason"] == f"params {row['params']:,} (at most 300)"
        assert (row["epochs"], row["train_s"], row["curve"]) == (0, 0.0, [])
    assert opened.progress.ended["rejected"] == len(rejected)
    assert not opened.adapter.has_work()  # rejected ones do not count as trained, twenty did


def test_constraint_when_no_candidate_can_meet_it_then_the_search_gives_up_with_the_closest_miss(session):
    opened = session(bounds={"params": 90.0, "flops": 5000.0})
    assert opened.adapter.suggest("a") == Searcher.FINISHED
    error = opened.adapter.error
    assert isinstance(error, RunError)
    assert f"{REJECTIONS} proposals in a row" in str(error)
    assert "the closest: params 100 (at most 90)" in str(error)
    assert error.field == "constraints"
    assert opened.adapter.suggest("b") == Searcher.FINISHED
    assert len(opened.study.trials) == REJECTIONS


def test_search_when_the_first_candidates_all_fail_then_gives_up_and_shows_the_reason(session):
    opened = session(trials=20)
    for number in range(FAILURES):
        assert opened.adapter.error is None
        opened.ask(str(number))
        opened.adapter.on_trial_complete(str(number), {"failure": f"CUDA out of memory {number}"})
    assert f"the first {FAILURES} candidates all failed" in str(opened.adapter.error)
    assert f"CUDA out of memory {FAILURES - 1}" in str(opened.adapter.error)
    assert opened.adapter.suggest("more") == Searcher.FINISHED


def test_search_when_all_of_a_small_budget_fail_then_is_no_success(session):
    opened = session(trials=2)
    for number in range(2):
        opened.ask(str(number))
        opened.adapter.on_trial_complete(str(number), {"failure": "NaN"})
    assert "the first 2 candidates all failed" in str(opened.adapter.error)


def test_search_when_one_candidate_trained_then_does_not_give_up_for_failures(session, result):
    opened = session(trials=20)
    opened.ask("good")
    opened.adapter.on_trial_complete("good", result(0.5))
    for number in range(FAILURES + 2):
        opened.ask(str(number))
        opened.adapter.on_trial_complete(str(number), {"failure": "NaN"})
    assert opened.adapter.error is None


def test_adapter_when_pickled_or_saved_then_holds_nothing(session, result, tmp_path):
    opened = session(trials=50)
    for number in range(30):
        opened.ask(str(number))
        opened.adapter.on_trial_complete(str(number), result(0.5, 0.6, 0.7))
    assert len(pickle.dumps(opened.adapter)) < 100
    assert vars(pickle.loads(pickle.dumps(opened.adapter))) == {}  # noqa: S301 (our own bytes)
    path = tmp_path / "searcher"
    opened.adapter.save(str(path))
    assert not path.exists()
    opened.adapter.restore(str(path))
    assert opened.adapter.has_work()


def test_curves_when_read_from_the_study_then_are_what_each_candidate_reached(session, result):
    opened = session()
    opened.ask("a"), opened.ask("b"), opened.ask("c")
    opened.adapter.on_trial_complete("a", result(0.5, 0.6, 0.7))
    opened.adapter.on_trial_result("b", result(0.4))
    assert curves(opened.study) == {"c0000": {1: 0.5, 2: 0.6, 3: 0.7}, "c0001": {1: 0.4}, "c0002": {}}


ONE_RECIPE = {"space": Widths(2), "recipes": LabelsAlone(), "trials": 9}


def test_candidate_when_trained_already_then_is_told_again_and_not_trained(session, result):
    first = session(**ONE_RECIPE)
    widths, numbers = [], []
    while first.adapter.has_work():
        found = first.adapter.suggest("t")
        if found == Searcher.FINISHED:
            break
        own = Candidate.from_json(found["candidate"])
        widths.append(own.architecture["width"])
        numbers.append(int(own.id[1:]))
        first.adapter.on_trial_complete("t", result(0.1, 0.1, 0.1 * int(own.architecture["width"])))
    assert sorted(widths) == [1, 2]
    assert first.adapter.exhausted
    assert first.adapter.error is None
    trained = {trial.params["width"]: trial.values for trial in first.study.trials if trial.number in numbers}
    again = [trial for trial in first.study.trials if trial.number not in numbers]
    assert {trial.state for trial in again} == {TrialState.COMPLETE}
    assert all(trial.values == trained[trial.params["width"]] for trial in again)
    rejected = [row for row in first.rows().values() if row["state"] == "rejected"]
    assert all("not trained again" in row["reason"] for row in rejected)


def test_curves_when_a_candidate_was_told_again_then_hold_it_once(session, result):
    first = session(**ONE_RECIPE)
    for name in ("a", "b"):
        first.ask(name)
        first.adapter.on_trial_complete(name, result(0.1, 0.2, 0.3))
    first.adapter.suggest("c")
    assert len(first.study.trials) > 2
    assert list(curves(first.study).values()) == [{1: 0.1, 2: 0.2, 3: 0.3}] * 2


def test_search_when_all_that_keeps_the_constraints_is_trained_then_ends_without_an_error(session, result):
    first = session(**(ONE_RECIPE | {"space": Widths(20), "bounds": {"params": 300}, "trials": 40}))
    widths = []
    while (found := first.adapter.suggest("t")) != Searcher.FINISHED:
        widths.append(Candidate.from_json(found["candidate"]).architecture["width"])
        first.adapter.on_trial_complete("t", result(0.1, 0.2, 0.3))
    assert sorted(widths) == [1, 2, 3]
    assert first.adapter.exhausted
    assert first.adapter.error is None


def test_candidate_when_its_worker_dies_after_all_is_proposed_then_is_trained_again(session):
    first = session(**(ONE_RECIPE | {"space": Widths(1)}))
    own = first.ask("a")
    assert first.adapter.suggest("b") == Searcher.FINISHED
    first.adapter.on_trial_complete("a", error=True)
    assert first.adapter.has_work()
    assert first.ask("c").id == own.id


def test_candidate_when_an_evaluator_proposes_it_then_no_judge_keeps_it_from_training(session):
    sieve = Sieve("width", 5, 1, lambda candidates: [float(c.architecture["width"]) for c in candidates])
    first = session(**(ONE_RECIPE | {"space": Widths(20), "sieve": sieve}))
    for width in (1, 2):
        first.study.enqueue_trial({"width": width})
    assert [first.ask(name).architecture["width"] for name in "ab"] == [1, 2]
    assert first.ask("c").architecture["width"] > 5


def test_duplicate_when_the_first_was_stopped_then_is_told_with_its_curve(session, result):
    first = session(**(ONE_RECIPE | {"space": Widths(1)}))
    first.ask("a")
    first.adapter.on_trial_complete("a", result(0.4))
    first.adapter.suggest("b")
    told = [trial for trial in first.study.trials if trial.number > 0]
    assert {trial.state for trial in told} == {TrialState.PRUNED}
    assert all(trial.intermediate_values == {1: 0.4} for trial in told)


def test_candidate_when_the_same_is_being_trained_then_is_not_trained_beside_it(session):
    first = session(**ONE_RECIPE)
    a, b = first.ask("a"), first.ask("b")
    assert {a.architecture["width"], b.architecture["width"]} == {1, 2}
    assert first.adapter.suggest("c") == Searcher.FINISHED


def test_candidate_when_trained_in_an_earlier_session_then_is_not_trained_again(session, result):
    first = session(**ONE_RECIPE)
    own = first.ask("a")
    first.adapter.on_trial_complete("a", result(0.1, 0.2, 0.5))
    other = session(**ONE_RECIPE).ask("b")
    assert other.architecture["width"] != own.architecture["width"]


def promoting(session, workers: int = 1):
    return session(promote=2.0, workers=workers, trials=4)


def test_promotion_when_a_candidate_ends_a_rung_then_it_waits_and_goes_on_when_it_is_among_the_best(session, result):
    opened = promoting(session)
    first = opened.ask("a")
    opened.adapter.on_trial_complete("a", result(0.5, train_s=1.0))
    assert (opened.rows(), opened.progress.running) == ({}, 0)
    assert opened.trial(0).state == TrialState.RUNNING
    second = opened.ask("b")
    assert second.id == "c0001"  # one alone is not the better half
    opened.adapter.on_trial_complete("b", result(0.4))
    assert (opened.ask("c"), opened.reported) == (first, 1)
    opened.adapter.on_trial_complete("c", result(0.5, 0.6, 0.7, train_s=3.0))
    assert (opened.rows()["c0000"]["state"], opened.rows()["c0000"]["train_s"]) == ("complete", 3.0)
    assert opened.trial(0).intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}


def test_promotion_when_all_have_begun_then_who_may_goes_on_and_the_rest_are_pruned_with_their_time(session, result):
    opened = promoting(session, workers=2)
    for number, accuracy in enumerate((0.1, 0.2)):
        opened.ask(f"r{number}")
        opened.adapter.on_trial_complete(f"r{number}", result(accuracy, train_s=1.5))
    assert opened.ask("x").id == "c0001"
    opened.adapter.on_trial_complete("x", result(0.2, 0.2, 0.2))
    for number, accuracy in enumerate((0.15, 0.05), start=2):
        opened.ask(f"r{number}")
        opened.adapter.on_trial_complete(f"r{number}", result(accuracy, train_s=1.5))
    assert opened.ask("y").id == "c0002"
    assert opened.adapter.suggest("z") is None  # what runs may let another go on
    opened.adapter.on_trial_complete("y", result(0.15, 0.4, 0.4))
    assert not opened.adapter.has_work()
    assert opened.adapter.suggest("end") == Searcher.FINISHED
    opened.adapter.end_paused()
    row = opened.rows()["c0000"]
    assert (row["state"], row["epochs"], row["train_s"]) == ("pruned", 1, 1.5)
    assert opened.trial(0).state == TrialState.PRUNED
    assert (opened.progress.running, opened.progress.trained) == (0, 4)


def test_promotion_when_too_few_were_begun_for_a_top_then_the_best_goes_on_all_the_same(session, result):
    opened = session(promote=3.0, workers=2, trials=2)
    opened.ask("a"), opened.ask("b")
    opened.adapter.on_trial_complete("a", result(0.1))
    opened.adapter.on_trial_complete("b", result(0.2))
    assert opened.adapter.has_work()
    assert opened.ask("c").id == "c0001"
    opened.adapter.on_trial_complete("c", result(0.2, 0.2, 0.2))
    assert not opened.adapter.has_work()


def test_promotion_when_resumed_then_those_that_wait_are_neither_lost_nor_counted_twice(session, result):
    opened = promoting(session)
    for number, accuracy in enumerate((0.01, 0.2)):
        opened.ask(f"r{number}")
        opened.adapter.on_trial_complete(f"r{number}", result(accuracy, train_s=1.5))
    again = promoting(session)
    assert (again.ask("x").id, again.reported) == ("c0001", 1)
    again.adapter.on_trial_complete("x", result(0.2, 0.2, 0.2))
    assert [again_new(again, f"n{number}", result) for number in range(2)] == ["c0002", "c0003"]
    while again.adapter.has_work():
        again.ask("y")
        again.adapter.on_trial_complete("y", result(0.3, 0.3, 0.3))
    again.adapter.end_paused()
    assert sorted(again.rows()) == ["c0000", "c0001", "c0002", "c0003"]
    assert again.rows()["c0000"]["train_s"] == 1.5


def again_new(opened, trial_id: str, result) -> str:
    name = opened.ask(trial_id).id
    opened.adapter.on_trial_complete(trial_id, result(0.05))
    return name


def test_promotion_when_interrupted_then_what_ran_and_what_waited_stays_open(session, result):
    opened = promoting(session)
    opened.ask("a")
    opened.adapter.on_trial_complete("a", result(0.1))
    opened.ask("b")
    opened.stop.reason = "interrupt"
    opened.adapter.on_trial_complete("b", None)
    assert opened.rows() == {}
    assert [trial.state for trial in opened.study.trials] == [TrialState.RUNNING] * 2


def test_mates_when_an_architecture_has_several_recipes_then_its_worker_gets_them_and_each_has_a_trial(session, result):
    opened = session(recipes_each=3, trials=4, workers=1)
    first = opened.ask("a")
    assert [mate["id"] for mate in opened.given["mates"]] == ["c0001", "c0002"]
    assert all(mate["architecture"] == first.to_json()["architecture"] for mate in opened.given["mates"])
    assert len({mate["recipe"]["alpha"] for mate in opened.given["mates"]} | {first.recipe.alpha}) == 3
    assert opened.adapter.has_work()
    opened.adapter.on_trial_result("a", result(0.5))  # by now the worker has trained all three
    assert [opened.ask(name).id for name in ("b", "c")] == ["c0001", "c0002"]
    assert "mates" not in opened.given
    opened.adapter.on_trial_complete("b", result(0.4))
    last = opened.ask("d")
    assert last.id == "c0003"
    assert "mates" not in opened.given  # no trial of the budget is left for one
    for name in ("a", "c", "d"):
        opened.adapter.on_trial_complete(name, result(0.5, 0.6, 0.7))
    assert not opened.adapter.has_work()
    assert sorted(opened.rows()) == ["c0000", "c0001", "c0002", "c0003"]


def test_mates_when_their_worker_is_not_done_then_others_are_proposed_or_one_waits(session, result):
    opened = session(recipes_each=2, trials=4, workers=2)
    assert [opened.ask(name).id for name in ("a", "b")] == ["c0000", "c0002"]
    assert opened.adapter.suggest("c") is None  # all are proposed, two are still in their worker's hands
    opened.adapter.on_trial_complete("b", result(0.1))
    assert opened.ask("c").id == "c0003"


def test_lineup_when_packs_are_fewer_than_workers_then_counts_them_and_no_mate_waits(session, result):
    opened = session(recipes_each=3, trials=4, workers=4)
    opened.ask("a")
    assert opened.given["lineup"]["workers"] == 2
    opened.adapter.on_trial_result("a", result(0.5))
    opened.ask("b")
    assert "lineup" not in opened.given  # its worker has begun already
    opened.ask("c")
    opened.ask("d")
    assert opened.given["lineup"]["workers"] == 2


def test_mates_when_a_sieve_let_others_through_then_these_are_trained_first(session, result):
    sieve = Sieve("size", 8, 4, lambda candidates: [float(c.architecture["width"]) for c in candidates])
    opened = session(recipes_each=4, trials=6, sieve=sieve)
    for number in range(6):
        opened.ask(str(number))
        opened.adapter.on_trial_complete(str(number), result(0.5, 0.6, 0.7))
    assert opened.adapter.suggest("more") == Searcher.FINISHED
    assert not opened.adapter.has_work()


def test_mates_when_the_worker_dies_then_they_are_handed_out_all_the_same(session, result):
    opened = session(recipes_each=2, trials=2)
    opened.ask("a")
    opened.adapter.on_trial_complete("a", None, error=True)
    assert {opened.ask(name).id for name in ("b", "c")} == {"c0000", "c0001"}


def test_mates_when_the_time_is_over_then_what_their_worker_trained_is_kept_though_no_trial_told_it(session, result):
    opened = session(recipes_each=3, trials=3)
    opened.ask("a")
    points = result(0.2, 0.5, 0.8)["curve"]
    folder = opened.run / "trials" / "c0001"
    folder.mkdir(parents=True)
    (folder / "rung.json").write_text(json.dumps({"curve": points, "train_s": 7.0}))
    opened.stop.reason = "budget"
    opened.adapter.on_trial_complete("a", result(0.2, 0.5, 0.9))
    opened.adapter.end_paused()
    assert {name: row["state"] for name, row in opened.rows().items()} == {"c0000": "complete", "c0001": "complete"}
    assert (opened.rows()["c0001"]["train_s"], opened.trial(1).value) == (7.0, 0.8)
    assert opened.trial(2).state == TrialState.RUNNING  # nothing of it was trained: a resume does
    assert opened.progress.running == 0


def test_resume_when_the_process_died_before_a_last_line_was_written_then_it_is_written(session, result):
    opened = session()
    opened.ask("a")
    opened.study._storage.set_trial_user_attr(0, "curve", result(0.2, 0.5, 0.8)["curve"])
    again = session()
    assert again.rows()["c0000"]["state"] == "complete"
    assert again.trial(0).value == 0.8
    assert again.ask("b").id == "c0001"


def test_mates_when_the_recipe_is_one_then_there_are_none(session, result):
    opened = session(**(ONE_RECIPE | {"recipes_each": 4}))
    opened.ask("a")
    assert "mates" not in opened.given
    assert not opened.adapter.exhausted


def test_mates_when_resumed_then_every_one_is_still_trained(session, result):
    opened = session(recipes_each=3, trials=3)
    opened.ask("a")
    again = session(recipes_each=3, trials=3)
    assert [again.ask(name).id for name in ("a", "b", "c")] == ["c0000", "c0001", "c0002"]
    assert again.adapter.suggest("d") == Searcher.FINISHED


def test_mates_when_those_that_wait_have_one_architecture_then_they_go_on_together(session, result):
    opened = session(promote=2.0, recipes_each=4, trials=4, workers=1)
    opened.ask("a")
    opened.adapter.on_trial_complete("a", result(0.9))
    for name, accuracy in (("b", 0.8), ("c", 0.1), ("d", 0.2)):
        opened.ask(name)
        opened.adapter.on_trial_complete(name, result(accuracy))
    assert opened.ask("e").id == "c0000"
    assert [mate["id"] for mate in opened.given["mates"]] == ["c0001"]
    opened.adapter.on_trial_complete("e", result(0.9, 0.9, 0.9))
    assert (opened.ask("f").id, opened.reported) == ("c0001", 1)
    opened.stop.reason = "budget"
    opened.adapter.on_trial_complete("f", result(0.8, 0.8, 0.8))
    opened.adapter.end_paused()
    assert [opened.rows()[f"c000{number}"]["state"] for number in range(4)] == [
        "complete",
        "complete",
        "pruned",
        "pruned",
    ]


def test_mates_when_the_time_is_over_before_they_are_handed_out_then_what_they_reached_is_kept(session, result):
    opened = session(promote=2.0, recipes_each=4, trials=4, workers=1)
    opened.ask("a")
    opened.adapter.on_trial_complete("a", result(0.9))
    for name, accuracy in (("b", 0.8), ("c", 0.1), ("d", 0.2)):
        opened.ask(name)
        opened.adapter.on_trial_complete(name, result(accuracy))
    opened.ask("e")
    opened.stop.reason = "budget"
    opened.adapter.on_trial_complete("e", result(0.9))
    opened.adapter.end_paused()
    assert {name: row["epochs"] for name, row in opened.rows().items()} == {f"c000{number}": 1 for number in range(4)}


def test_candidate_seed_when_numbers_or_seeds_differ_then_differs_and_else_repeats():
    seeds = {candidate_seed(seed, number) for seed in range(5) for number in range(200)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert candidate_seed(3, 4) == candidate_seed(3, 4)


def test_rejection_when_a_device_lacks_an_operator_then_its_reason_names_it(session):
    def costs(architecture: Architecture) -> dict[str, float]:
        return {"params": 1.0, "unsupported/mine": float(architecture["width"] > 2)}

    opened = session(costs=costs, bounds={"unsupported/mine": 0.0}, missing=lambda architecture: {"mine": ("gelu",)})
    opened.ask("a")
    opened.ask("b")
    reasons = {row["reason"] for row in opened.rows().values() if row["state"] == "rejected"}
    assert reasons == {"mine cannot run gelu"}
