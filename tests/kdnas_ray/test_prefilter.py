"""Specification of `kdnas_ray.prefilter` and of the sieve in the adapter: who is trained at all, and by what score."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from ray.tune.search import Searcher
from sessions import Widths, costs_of

from kdnas_ray import prefilter
from kdnas_ray.adapter import Sieve
from kdnas_ray.config import read
from kdnas_ray.prefilter import make_probe, make_scores, make_sieve, proxy_score
from kdnas_ray.prepare import plan
from kdnas_ray.runs import read_jsonl
from search_spaces import KdnasError, ResNetSpace, sample
from trainables import bank as banks
from trainables.candidate import Candidate, build_model
from trainables.distill import Shared
from trainables.evaluators.base import Prepared
from trainables.loop import Normalise
from trainables.proxies import PROXIES, Proxy
from trainables.recipe import LabelsAlone, Recipe
from trainables.tasks import DigitsTask
from trainables.tasks.base import Split

SPACE = ResNetSpace(stages=2, stem_widths=(2, 4), widths=(2, 3, 4), depths=(1,), kernels=(3,), blocks=("basic",))


def widths(candidates: Sequence[Candidate]) -> list[float]:
    return [float(candidate.architecture["width"]) for candidate in candidates]


def wide(propose: int, keep: int) -> Sieve:
    return Sieve("width", propose, keep, widths)


def drain(opened, result) -> list[Candidate]:
    """Everything that this session trains, each in full."""
    trained = []
    while (found := opened.adapter.suggest("t")) != Searcher.FINISHED:
        trained.append(Candidate.from_json(found["candidate"]))
        opened.adapter.on_trial_complete("t", result(0.5, 0.6, 0.7))
    return trained


def test_sieve_when_proposals_are_drawn_then_only_the_best_are_trained_best_first(session):
    opened = session(sieve=wide(6, 2))
    trained = [opened.ask("a"), opened.ask("b")]
    assert len(opened.study.trials) == 6
    order = sorted((trial.params["width"] for trial in opened.study.trials), reverse=True)
    assert widths(trained) == order[:2]
    rejected = opened.rows()
    assert sorted((row["architecture"]["width"] for row in rejected.values()), reverse=True) == order[2:]
    for row in rejected.values():
        width, params = row["architecture"]["width"], row["params"]
        assert (row["state"], row["epochs"], params) == ("rejected", 0, 100 * width)
        assert row["reason"].startswith(f"width {width}: number ")
        assert row["reason"].endswith(" of 6 proposals")
        assert opened.trial(int(row["id"][1:])).state == TrialState.PRUNED
    places = sorted(int(row["reason"].split()[3]) for row in rejected.values())
    assert places == [3, 4, 5, 6]


def test_sieve_when_those_that_passed_are_under_way_then_draws_anew(session):
    opened = session(sieve=wide(5, 2))
    opened.ask("a"), opened.ask("b")
    assert len(opened.study.trials) == 5
    opened.ask("c")
    assert len(opened.study.trials) == 10


def test_sieve_when_the_budget_ends_within_a_draw_then_no_more_pass_than_are_trained(session, result):
    opened = session(sieve=wide(5, 2), trials=3)
    trained = drain(opened, result)
    rows = opened.rows().values()
    assert len(trained) == 3
    assert len([row for row in rows if row["state"] == "complete"]) == 3
    assert len(rows) == len(opened.study.trials) == 10
    assert all(trial.state.is_finished() for trial in opened.study.trials)
    assert not opened.adapter.has_work()


def test_sieve_when_a_constraint_is_broken_then_that_proposal_is_none_of_the_drawn(session):
    opened = session(sieve=wide(4, 1), bounds={"params": 500.0})
    assert opened.ask("a").architecture["width"] <= 5
    reasons = [row["reason"] for row in opened.rows().values()]
    assert len([reason for reason in reasons if reason.endswith("of 4 proposals")]) == 3
    assert all("at most 500" in reason for reason in reasons if not reason.endswith("of 4 proposals"))


def test_sieve_when_there_are_two_objectives_then_leftovers_are_pruned_and_the_trained_have_both_values(
    session, result
):
    opened = session(("val_accuracy", "params"), sieve=wide(4, 1), trials=2)
    trained = {int(candidate.id[1:]): candidate for candidate in drain(opened, result)}
    for trial in opened.study.trials:
        if trial.number in trained:
            assert trial.values == [0.7, 100 * trained[trial.number].architecture["width"]]
        else:
            assert trial.state == TrialState.PRUNED


def test_sieve_when_a_leftover_is_proposed_again_then_it_may_be_trained(session, result):
    opened = session(sieve=wide(2, 1), space=Widths(2), recipes=LabelsAlone(), trials=9)
    assert widths(drain(opened, result)) == [2, 1]
    assert opened.adapter.exhausted
    assert opened.adapter.error is None


def test_killed_search_when_some_have_passed_then_trains_those_and_none_of_the_leftovers(session, result):
    first = session(sieve=wide(6, 3), trials=4)
    begun = first.ask("a")  # two more wait when the process dies
    rejected = set(first.rows())
    again = session(sieve=wide(6, 3), trials=4)
    trained = drain(again, result)
    assert len(trained) == 4
    assert begun in trained[:3]
    assert not rejected & {candidate.id for candidate in trained}
    order = sorted((trial.params["width"] for trial in again.study.trials[:6]), reverse=True)
    assert sorted(widths(trained[:3]), reverse=True) == order[:3]
    assert all(trial.state.is_finished() for trial in again.study.trials)


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_killed_search_when_it_was_scoring_then_closes_the_proposals_and_loses_no_budget(session, result):
    first = session(sieve=Sieve("slow", 5, 2, killed))
    with pytest.raises(KeyboardInterrupt):
        first.adapter.suggest("a")
    again = session(sieve=wide(5, 2))
    assert {trial.state for trial in again.study.trials} == {TrialState.FAIL}
    assert again.rows() == {}
    assert {int(candidate.id[1:]) for candidate in drain(again, result)}.isdisjoint(range(5))
    assert again.progress.trained == 4


def test_killed_search_when_it_was_writing_leftovers_down_then_trains_only_what_had_passed(
    session, result, monkeypatch
):
    first = session(sieve=wide(5, 2), trials=2)
    monkeypatch.setattr(first.study, "tell", killed)  # after the line of the first leftover
    with pytest.raises(KeyboardInterrupt):
        first.adapter.suggest("a")
    monkeypatch.undo()
    again = session(sieve=wide(5, 2), trials=2)
    order = sorted((trial.params["width"] for trial in again.study.trials), reverse=True)
    assert sorted(widths(drain(again, result)), reverse=True) == order[:2]
    assert len(again.study.trials) == 5
    states = [trial.state for trial in again.study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED), states.count(TrialState.FAIL)) == (
        2, 1, 2,
    )  # fmt: skip


def params_and(**scores: float):
    return lambda candidate: {name: value * candidate.architecture["width"] for name, value in scores.items()}


def test_proxy_when_an_objective_then_is_known_before_training_and_told_with_the_accuracy(session, result):
    opened = session(("val_accuracy", "synflow"), scores=params_and(synflow=2.5))
    candidate = opened.ask("a")
    score = 2.5 * candidate.architecture["width"]
    assert opened.trial(0).user_attrs["synflow"] == score
    (started,) = [r for r in read_jsonl(opened.run / "tracking.jsonl") if r["type"] == "candidate_started"]
    assert started["metrics"] == {**costs_of(candidate.architecture), "synflow": score}
    opened.adapter.on_trial_complete("a", result(0.5, 0.6, 0.7))
    assert opened.trial(0).values == [0.7, score]
    assert opened.rows()["c0000"]["synflow"] == score


def test_proxy_when_the_search_is_resumed_then_is_not_computed_again(session, result):
    session(("val_accuracy", "synflow"), scores=params_and(synflow=2.5)).ask("a")
    again = session(("val_accuracy", "synflow"), scores=killed)
    candidate = again.ask("b")
    again.adapter.on_trial_complete("b", result(0.5, 0.6, 0.7))
    assert again.trial(0).values == [0.7, 2.5 * candidate.architecture["width"]]


def test_proxy_when_it_is_no_number_then_the_candidate_is_rejected_with_the_reason(session):
    def scores(candidate: Candidate) -> dict[str, float]:
        return {"synflow": -np.inf if candidate.architecture["width"] > 3 else 1.0}

    opened = session(("val_accuracy", "synflow"), scores=scores)
    assert opened.ask("a").architecture["width"] <= 3
    rows = opened.rows()
    assert rows
    for row in rows.values():
        assert (row["state"], row["reason"]) == ("rejected", "synflow is -inf")
        assert opened.trial(int(row["id"][1:])).state == TrialState.PRUNED


def test_proxy_when_no_candidate_has_one_then_the_search_gives_up_and_says_so(session):
    opened = session(("val_accuracy", "synflow"), scores=lambda candidate: {"synflow": float("nan")})
    assert opened.adapter.suggest("a") == Searcher.FINISHED
    assert "synflow is nan" in str(opened.adapter.error)


@pytest.fixture(scope="module")
def shared() -> Shared:
    """Sixty digits and what an untrained network says of them."""
    data = DigitsTask().load(0)
    train = Split(data.train.images[:60], data.train.labels[:60])
    teacher = SPACE.build(sample(SPACE, random.Random(0)), data.shape, 10)
    bank = banks.build(
        train, [teacher], Normalise(data.mean, data.std), augmentation=DigitsTask().augmentation, views=2, seed=0,
        taps=("stage2",),
    )  # fmt: skip
    return Shared(
        bank=bank, validation=train, task=DigitsTask(), space=SPACE, mean=data.mean, std=data.std, classes=10,
        rungs=(1,), checkpoints="nowhere",
    )  # fmt: skip


@pytest.fixture
def made():
    class Made:
        """Of a plan, what the sieve reads."""

        config = read({"seed": 3})
        costs = staticmethod(lambda architecture: {"params": 7, "flops": 100 * architecture["stem.width"]})

    return Made()


def drawn(count: int) -> list[Candidate]:
    return [Candidate(f"c{seed:04d}", sample(SPACE, random.Random(seed)), Recipe(), seed) for seed in range(count)]


def test_sieve_when_none_is_configured_then_all_are_trained(made):
    assert make_sieve(read(), made, None, Prepared()) is None


def test_sieve_when_the_judge_is_a_cost_then_needs_no_data(made):
    sieve = make_sieve(read({"prefilter": {"judge": "flops", "propose": 9, "keep": 3}}), made, None, Prepared())
    assert (sieve.name, sieve.propose, sieve.keep) == ("flops", 9, 3)
    assert sieve.score(drawn(5)) == [100.0 * candidate.architecture["stem.width"] for candidate in drawn(5)]


def test_sieve_when_the_judge_is_the_evaluators_then_it_sees_the_architectures_together(made):
    seen = []

    def judge(architectures):
        seen.append(list(architectures))
        return [0.1, 0.3, 0.2]

    sieve = make_sieve(read({"evaluator": "supernet", "prefilter": "evaluator"}), made, None, Prepared(judge=judge))
    assert sieve.score(drawn(3)) == [0.1, 0.3, 0.2]
    assert seen == [[candidate.architecture for candidate in drawn(3)]]


@pytest.mark.parametrize("name", ["synflow", "naswot", "diswot"])
def test_sieve_when_the_judge_is_a_proxy_then_scores_each_networks_own_weights_on_the_probe(made, shared, name):
    config = read({"prefilter": {"judge": name, "batch_size": 16}, "seed": 3})
    sieve = make_sieve(config, made, shared, Prepared())
    probe = make_probe(shared, 16, 3)
    expected = [
        PROXIES[name](build_model(SPACE, c.architecture, (1, 8, 8), 10, c.seed), probe) for c in drawn(3)
    ]  # fmt: skip
    assert sieve.score(drawn(3)) == pytest.approx(expected)
    assert len({round(score, 6) for score in expected}) == 3


def test_probe_when_made_then_holds_training_samples_and_what_the_teacher_said_of_them(shared):
    probe = make_probe(shared, 16, 3)
    chosen = np.sort(np.random.default_rng(3).permutation(60)[:16])
    assert torch.equal(probe.labels, torch.from_numpy(shared.bank.labels[chosen]))
    scaled = torch.from_numpy(shared.bank.images[chosen]).float() / 255
    assert torch.allclose(probe.images, (scaled - shared.mean[0]) / shared.std[0], atol=1e-5)
    assert torch.allclose(probe.logits, torch.from_numpy(shared.bank.logits[0, 0, chosen]).float())
    assert set(probe.taps) == {"stage2"}
    assert len(make_probe(shared, 1000, 3).labels) == 60


def test_scores_when_proxies_are_objectives_then_are_those_of_the_candidates_network(shared):
    config = read({"objectives": ["val_accuracy", "naswot", "params", "synflow"], "sampler": "nsga2"})
    (candidate,) = drawn(1)
    probe, model = make_probe(shared, 64, 0), build_model(SPACE, candidate.architecture, (1, 8, 8), 10, candidate.seed)
    expected = {name: PROXIES[name](model, probe) for name in ("naswot", "synflow")}
    assert make_scores(config, shared)(candidate) == pytest.approx(expected)


def test_scores_when_no_proxy_is_an_objective_then_are_none_and_ask_for_no_data(shared):
    config = read({"objectives": ["val_accuracy", "params"], "sampler": "nsga2"})
    assert make_scores(config, replace(shared, bank=None))(drawn(1)[0]) == {}


def test_score_when_computed_then_draws_nothing_and_is_the_lowest_where_it_is_no_number(shared, monkeypatch):
    (candidate,) = drawn(1)
    probe = make_probe(shared, 8, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    proxy_score("synflow", shared, candidate, probe)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(prefilter, "PROXIES", {"odd": Proxy(lambda model, probe: float("nan"))})
    assert proxy_score("odd", shared, candidate, probe) == -np.inf


SMALL = {
    "teachers": [{"stem": 4, "widths": [4, 6], "depths": [1, 1], "epochs": 1, "views": 2}],
    "space": {"stages": 2, "stem_widths": [2], "widths": [2, 3], "depths": [1], "kernels": [3], "blocks": ["basic"]},
    "recipes": {"hints": [False]},
    "constraints": {},
}
TABLE = {"evaluator": {"name": "table", "path": "nowhere.json", "metric": "acc", "test": "test"}}


@pytest.mark.parametrize(
    ("data", "field", "part"),
    [
        ({"prefilter": "synflwo"}, "prefilter.judge", "did you mean 'synflow'?"),
        ({"prefilter": {"propose": 3, "keep": 4}}, "prefilter.keep", "at most 3"),
        (SMALL | {"prefilter": "evaluator"}, "prefilter.judge", "evaluator=supernet"),
        (TABLE | {"prefilter": "naswot"}, "prefilter.judge", "choose params or flops"),
        (TABLE | {"objectives": ["val_accuracy", "naswot"], "sampler": "nsga2"}, "objectives", "params or flops"),
        ({"objectives": ["synflow"]}, "objectives", "[val_accuracy, params]"),
        ({"constraints": {"synflow": 3}}, "constraints", "known: params, flops"),
    ],
)
def test_judge_or_objective_when_this_search_cannot_have_it_then_is_refused(data, field, part):
    from kdnas_ray.table_search import plan_table

    with pytest.raises(KdnasError) as caught:
        (plan_table if "evaluator" in data else plan)(read(data))
    assert caught.value.field == field
    assert part in caught.value.remedy


@pytest.mark.parametrize(
    "asked", [{"prefilter": "diswot"}, {"objectives": ["val_accuracy", "diswot"], "sampler": "nsga2"}]
)
def test_bank_when_a_proxy_compares_features_then_holds_the_teachers_last(asked):
    assert plan(read(SMALL | asked)).taps == ("stage2",)
    assert plan(read(SMALL)).taps == ()
