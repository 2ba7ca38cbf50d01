"""Specification of `kdnas_ray.analysis.gradients`."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from kdnas_ray.analysis.gradients import cosine, described, effective_depth, gradient_paths, stage_gradients, stages
from search_spaces import TappedModel
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.loop import Normalise, start, train
from trainables.recipe import Recipe, Temperature, Term
from trainables.tasks.base import Classification, Split


def network(width=4, classes=3):
    torch.manual_seed(0)
    parts = {
        "stem": nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)),
        "stage1": nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)),
    }
    return TappedModel(parts, width, classes)


@pytest.fixture
def taught():
    """Opens a training of a recipe on 64 samples with a teacher; returns it with its bank."""
    rng = np.random.default_rng(0)
    split = Split(rng.integers(256, size=(64, 1, 8, 8), dtype=np.uint8), rng.integers(3, size=64))
    normalise = Normalise((0.5,), (0.3,))

    def open_(recipe):
        bank = banks.build(
            split, [network(8).eval()], normalise, augmentation=Augmentation(), views=1, seed=0, taps=("stage1",)
        )
        return start(network(), recipe, bank, seed=1, total_epochs=3), bank, split, normalise

    return open_


class Task(Classification):
    augmentation = Augmentation()


def test_stages_are_the_named_parts_from_input_to_output():
    assert list(stages(network())) == ["stem", "stage1", "classifier"]
    assert list(stages(nn.Sequential(nn.Linear(2, 2)))) == ["0"]


def test_stage_gradients_by_hand():
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    losses = [(a**2).sum() + 5 * b.sum(), a[0] * 2, torch.zeros(())]
    found = stage_gradients(losses, {"first": [a], "second": [b]})
    assert [[stage.tolist() for stage in loss] for loss in found] == [[[2, 4], [5]], [[2, 0], [0]], [[0, 0], [0]]]


def test_cosine_when_opposed_then_minus_1_and_when_one_is_zero_then_none():
    x = np.array([1.0, -2.0, 3.0])
    assert cosine(x, -3 * x) == pytest.approx(-1)
    assert cosine(x, 2 * x) == pytest.approx(1)
    assert cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(math.sqrt(0.5))
    assert cosine(x, 0 * x) is None


def test_effective_depth_by_hand():
    assert effective_depth([2.0, 2.0, 2.0]) == pytest.approx(3)
    assert effective_depth([0.0, 5.0]) == pytest.approx(1)
    shares = np.array([0.2, 0.8])  # of squared norms 1 and 4
    assert effective_depth([1.0, 2.0]) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert effective_depth([0.0, 0.0]) is None


def test_described_adds_terms_up_and_compares_them_with_the_labels():
    labels = [np.array([1.0, 0.0]), np.array([2.0])]
    terms = [[np.array([-1.0, 0.0]), np.array([1.0])], [np.array([-2.0, 4.0]), np.array([-4.0])]]
    found = described(["first", "second"], ["labels", "kd", "hint"], [labels, *terms])
    assert found["norms"] == [[1, 2], [1, 1], [pytest.approx(math.sqrt(20)), 4]]
    assert found["cosines"][0] == [pytest.approx(-1), pytest.approx(1)]
    assert found["distillation"]["norms"] == [pytest.approx(5), 3]
    assert found["distillation"]["cosines"] == [pytest.approx(-0.6), pytest.approx(-1)]
    assert found["depth_together"] == effective_depth([math.sqrt(4 + 16), 1])


def test_gradient_paths_when_the_teacher_is_opposed_to_the_labels_then_the_classifier_hears_it(taught):
    # One class alone is a label, and the teacher always says another: the two pull opposite ways on these two logits.
    recipe = Recipe(0.5, Temperature("constant", 1.0), (Term("kd"),), batch_size=16)
    training, bank, _, normalise = taught(recipe)
    labels = np.zeros(64, dtype=np.int64)
    logits = np.full((1, 1, 64, 3), -20, dtype=np.float16)
    logits[..., 1] = 20
    opposed = banks.Bank(bank.images, labels, logits, bank.taps, bank.augmentation, bank.seed, bank.teacher_params)
    found = gradient_paths(training, opposed, Task(), normalise)
    assert found["stages"] == ["stem", "stage1", "classifier"]
    assert found["terms"] == ["labels", "kd"]
    agreeing = gradient_paths(
        training,
        banks.Bank(bank.images, labels + 1, logits, bank.taps, bank.augmentation, bank.seed, bank.teacher_params),
        Task(),
        normalise,
    )
    assert agreeing["distillation"]["cosines"] == [pytest.approx(1, abs=1e-3)] * 3
    assert found["distillation"]["cosines"][2] < -0.3


def test_gradient_paths_is_the_gradient_of_the_loss_that_is_trained_on(taught):
    recipe = Recipe(0.7, Temperature("constant", 3.0), (Term("kd"), Term("hint", 0.5, "stage1")), batch_size=64)
    training, bank, _, normalise = taught(recipe)
    found = gradient_paths(training, bank, Task(), normalise)
    assert found["terms"] == ["labels", "kd", "hint at stage1"]
    # By hand: one batch of all samples; the parts' squared norms of the sum against the loss of the loop itself.
    from trainables.loop import epoch_batches, weighed

    (indices,) = epoch_batches(training, bank)
    batch = bank.batch(indices, 0, bank.transforms(0), ("stage1",))
    training.model.train()
    logits, seen = training.model.forward_taps(normalise(batch.images), ("stage1",))
    torch.stack(weighed(training, batch, logits, seen, Task(), 0.0)).sum().backward()
    by_hand = [math.sqrt(sum(float((p.grad**2).sum()) for p in part)) for part in stages(training.model).values()]
    assert found["depth_together"] == pytest.approx(effective_depth(by_hand), rel=1e-4)


def test_gradient_paths_leave_the_training_as_it_is(taught):
    recipe = Recipe(0.7, terms=(Term("kd"), Term("contrastive", 1.0, "stage1")), batch_size=16)
    training, bank, split, normalise = taught(recipe)
    other, *_ = taught(recipe)
    for epoch in (1, 2):
        gradient_paths(training, bank, Task(), normalise)
        train(training, bank, split, Task(), normalise, epoch)
    train(other, bank, split, Task(), normalise, 2)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_gradient_paths_without_a_teacher_have_no_distillation(taught):
    training, bank, _, normalise = taught(Recipe(batch_size=16).without_teacher())
    found = gradient_paths(training, bank, Task(), normalise)
    assert found["distillation"] is None
    assert found["cosines"] == []
    assert len(found["norms"]) == 1
