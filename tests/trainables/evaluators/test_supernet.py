"""Specification of `trainables.evaluators.supernet`: one set of weights that every architecture starts from."""

import random

import pytest
import torch

from search_spaces import KdnasError, ResNetSpace, sample
from trainables.candidate import build_model
from trainables.evaluators import OneShot, supernet
from trainables.evaluators.steps import normaliser
from trainables.evaluators.supernet import extremes, new_supernet, score, train_supernet
from trainables.loop import evaluate

SHORT = OneShot(epochs=20, batch_size=32)


@pytest.fixture(scope="module")
def trained(shared):
    return train_supernet(shared, SHORT, 0)


@pytest.fixture
def prepared(workshop, trained, monkeypatch):
    """A supernet that was trained once for all tests."""
    monkeypatch.setattr(supernet, "train_supernet", lambda *_: trained)
    made = workshop()
    return made, SHORT.prepare(made)


def architectures(space, count=6):
    return [sample(space, random.Random(seed)) for seed in range(count)]


def test_shared_weights_answer_better_than_fresh_ones(prepared, shared):
    _, found = prepared
    fresh = new_supernet(shared, 0)
    trained = [found.judge([a])[0] for a in architectures(shared.space)]
    untrained = [score(shared, fresh, a) for a in architectures(shared.space)]
    assert sum(trained) > sum(untrained) + 0.5


def test_candidate_begins_with_what_the_supernet_says_of_its_architecture(prepared, shared):
    _, found = prepared
    for architecture in architectures(shared.space):
        model = build_model(shared.space, architecture, (1, 8, 8), 10, seed=1).eval()
        found.start.inherit(architecture, model)
        found.start.net.set(architecture)
        images = torch.rand(4, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(model(images), found.start.net.eval()(images))


def test_judging_leaves_the_shared_weights_and_their_norms_as_they_were(prepared):
    made, found = prepared
    before = {name: value.clone() for name, value in found.start.net.state_dict().items()}
    momenta = [m.momentum for m in found.start.net.modules() if hasattr(m, "momentum")]
    first = found.judge(architectures(made.shared.space, 2))
    assert all(torch.equal(before[name], value) for name, value in found.start.net.state_dict().items())
    assert [m.momentum for m in found.start.net.modules() if hasattr(m, "momentum")] == momenta
    assert found.judge(architectures(made.shared.space, 2)) == first


def test_norms_measured_anew_judge_an_architecture_better_than_those_of_all(prepared, shared):
    _, found = prepared
    own = found.judge(architectures(shared.space))
    mixed = []
    for architecture in architectures(shared.space):
        found.start.net.set(architecture)
        mixed.append(evaluate(found.start.net, shared.validation, shared.task, normaliser(shared))[1])
    assert sum(own) > sum(mixed)


def test_training_is_done_once_a_run_and_read_afterwards(prepared, workshop, shared):
    first, found = prepared
    again = workshop()
    read = SHORT.prepare(again)
    assert (first.calls, again.calls) == ([1], [])
    assert read.judge(architectures(shared.space, 2)) == found.judge(architectures(shared.space, 2))
    assert "earlier session" in again.said[-1]


def test_extremes_are_the_biggest_and_the_smallest(shared):
    biggest, smallest = extremes(shared, random.Random(0))
    sizes = [
        sum(p.numel() for p in shared.space.build(a, (1, 8, 8), 10).parameters())
        for a in (smallest, *architectures(shared.space, 20), biggest)
    ]
    assert sizes[0] == min(sizes)
    assert sizes[-1] == max(sizes)


def test_space_that_cannot_share_is_refused_with_those_that_can():
    with pytest.raises(KdnasError) as caught:
        OneShot().check(ResNetSpace())
    assert caught.value.field == "space"
    assert "nasbench201" in caught.value.remedy


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"paths": -1}, {"learning_rate": 0.0}, {"alpha": 2.0}, {"temperature": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(KdnasError) as caught:
        OneShot(**options)
    assert caught.value.field == f"evaluator.{next(iter(options))}"
