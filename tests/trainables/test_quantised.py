"""Specification of `trainables.quantised`, and of trainings that use it."""

import dataclasses
import io

import pytest
import torch
from torch import nn

from search_spaces import SPACES, sample
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.loop import DivergedError, start, train
from trainables.quantised import Ranges, quantisable, quantised, rounded_weights
from trainables.recipe import Recipe, Term

QUANTISED = Recipe(batch_size=32, quantised=True)


@pytest.fixture(scope="module")
def bank(data, task, teacher, normalise):
    augmentation = task.augmentation
    return banks.build(data.train, [teacher.model], normalise, augmentation=augmentation, views=2, seed=0)


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_resnet(resnet_architecture(4, (4, 8), (1, 1)), (1, 8, 8), 10)


@pytest.fixture
def go(bank, data, task, normalise):
    def go(training, until):
        return train(training, bank, data.validation, task, normalise, until)

    return go


def test_weights_when_rounded_then_have_255_values_a_channel_around_zero():
    weights = torch.randn(3, 40, 5, 5) * torch.tensor([0.01, 1.0, 100.0]).view(3, 1, 1, 1)
    rounded = rounded_weights(weights)
    largest = weights.abs().amax(dim=(1, 2, 3))
    steps = rounded / (largest / 127).view(3, 1, 1, 1)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert steps.abs().amax(dim=(1, 2, 3)).round().tolist() == [127, 127, 127]
    error = (rounded - weights).abs().amax(dim=(1, 2, 3))
    assert (error <= 0.5001 * largest / 127).all()


def test_weights_when_scaled_by_channel_then_round_alike():
    """Batch norm may be folded into the rounded weights: what it multiplies are whole channels, of either sign."""
    weights, factors = torch.randn(8, 4, 3, 3), torch.randn(8).view(8, 1, 1, 1)
    assert torch.allclose(rounded_weights(weights) * factors, rounded_weights(weights * factors), rtol=1e-4, atol=1e-6)


def test_gradient_when_rounded_then_passes_straight_through():
    weights = torch.randn(2, 3, 1, 1, requires_grad=True)
    (rounded_weights(weights) * 3).sum().backward()
    assert torch.equal(weights.grad, torch.full_like(weights, 3))


def test_activations_when_rounded_then_hold_zero_exactly_and_256_values():
    ranges = Ranges(nn.Linear(1, 1))
    x = torch.linspace(-1, 3, 5000).view(-1, 1)
    assert ranges.round(0, x) is x  # nothing is known yet
    ranges.follow(0, x)
    rounded = ranges.round(0, x)
    assert len(rounded.unique()) <= 256
    assert (rounded - x).abs().max() <= 1.01 * 4 / 255
    assert ranges.round(0, torch.zeros(1, 1)).item() == 0
    assert ranges.round(0, torch.tensor([[9.0]])).item() == pytest.approx(3, abs=0.02)  # beyond the range: its end


@pytest.mark.parametrize("ends", [(-1, float("inf")), (-float("inf"), 1), (-float("inf"), float("inf"))])
def test_activations_when_infinite_then_stay_so_that_the_loss_shows_it(ends):
    ranges, x = Ranges(nn.Linear(1, 1)), torch.tensor([[ends[0]], [ends[1]]])
    ranges.follow(0, x)
    assert ranges.round(0, x) is x


def test_ranges_when_batches_follow_then_are_their_moving_average_and_hold_zero():
    ranges = Ranges(nn.Linear(1, 1))
    ranges.follow(0, torch.tensor([[1.0], [2.0]]))
    assert ranges.ends.tolist() == [[0.0, 2.0]]
    ranges.follow(0, torch.tensor([[-1.0], [4.0]]))
    assert torch.allclose(ranges.ends, torch.tensor([[-0.1, 2.2]]))


@pytest.mark.parametrize("name", SPACES)
def test_model_of_every_space_when_quantised_then_answers_nearly_the_same_and_is_plain_again(name):
    import random

    space = SPACES[name]()
    torch.manual_seed(0)
    model = space.build(sample(space, random.Random(0)), (1, 8, 8), 10)
    plain_state, ranges, images = dict(model.state_dict()), Ranges(model), torch.randn(16, 1, 8, 8)
    with quantised(model, ranges):
        model.train()
        model(images).sum().backward()
        assert list(model.state_dict()) == list(plain_state)
        model.eval()
        ends = ranges.ends.clone()
        rough = model(images)
        assert (
            torch.equal(
                ranges.ends,
                ends,
            )
            or ends.isnan().any()
        )
    exact = model(images)
    assert (rough - exact).abs().max() <= 0.2 * exact.abs().max() + 0.05
    assert list(model.state_dict()) == list(plain_state)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())
    assert not any("weight" in layer.__dict__ for layer in model.modules())


def test_model_when_its_forward_fails_then_is_plain_again():
    model = student()
    with pytest.raises(RuntimeError), quantised(model, Ranges(model)):
        model(torch.zeros(1, 3, 8, 8))
    assert not any("weight" in layer.__dict__ for layer in model.modules())


def test_training_when_quantised_then_only_its_last_half_differs_from_the_plain_one(bank, go):
    curves = {}
    for flag in (False, True):
        recipe = dataclasses.replace(QUANTISED, quantised=flag)
        training = start(student(), recipe, bank, seed=0, total_epochs=4)
        curves[flag] = go(training, 4)
    assert curves[True][:2] == curves[False][:2]
    assert curves[True][2]["train_loss"] != curves[False][2]["train_loss"]


def test_training_when_saved_and_taken_up_while_quantised_then_ends_bit_for_bit_alike(bank, go):
    whole = start(student(), QUANTISED, bank, seed=0, total_epochs=4)
    go(whole, 4)
    part = start(student(), QUANTISED, bank, seed=0, total_epochs=4)
    go(part, 3)
    file = io.BytesIO()
    torch.save(part.state(), file)
    file.seek(0)
    again = start(student(7), QUANTISED, bank, seed=0, total_epochs=4)
    again.restore(torch.load(file, weights_only=True))
    go(again, 4)
    states = (whole.model.state_dict(), again.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    "change",
    [
        {"terms": (Term("kd"), Term("reused_classifier", tap="penultimate")), "alpha": 1.0},
        {"weighting": "meta"},
        {"terms": ()},
    ],
)
def test_training_when_quantised_with_other_methods_then_learns(data, task, teacher, normalise, change):
    bank = banks.build(
        data.train, [teacher.model], normalise,
        augmentation=task.augmentation, views=2, seed=0, taps=("penultimate",),
    )  # fmt: skip
    recipe = dataclasses.replace(QUANTISED, **change)
    training = start(student(), recipe, bank, seed=0, total_epochs=4)
    try:
        curve = train(training, bank, data.validation, task, normalise, 4)
    except DivergedError as error:
        pytest.fail(str(error))
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]


def test_recipe_when_quantised_then_survives_json_and_losing_its_teacher():
    assert Recipe.from_json(QUANTISED.to_json()) == QUANTISED
    assert QUANTISED.without_teacher().quantised
    old = {name: value for name, value in QUANTISED.to_json().items() if name != "quantised"}
    assert not Recipe.from_json(old).quantised  # of a run before there was the choice


def test_layers_when_their_weights_are_computed_then_are_left_out():
    model = student()
    before = len(quantisable(model))
    nn.utils.parametrizations.weight_norm(model.classifier)
    assert len(quantisable(model)) == before - 1
