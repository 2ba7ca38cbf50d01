"""Specification of `trainables.losses.reuse`: a student that answers through its teacher's classifier."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import ForeignModel, KdnasError
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.loop import evaluate, start, train
from trainables.losses import Answer, Setting
from trainables.losses.reuse import ReusedClassifier, settle
from trainables.recipe import Recipe, SimpleRecipes, Term

RECIPE = Recipe(alpha=1.0, batch_size=32, terms=(Term("reused_classifier", tap="penultimate"),))


@pytest.fixture(scope="module")
def bank(data, task, teacher, normalise):
    return banks.build(
        data.train,
        [teacher.model],
        normalise,
        augmentation=task.augmentation,
        views=2,
        seed=0,
        taps=("stage2", "penultimate"),
    )


def student() -> nn.Module:
    torch.manual_seed(0)
    return build_resnet(resnet_architecture(4, (4, 8), (1, 1)), (1, 8, 8), 10)


def test_student_learns_without_labels_and_settles_to_an_ordinary_network_of_the_same_answers(
    bank, data, task, normalise
):
    model, plain = student(), student()
    training = start(model, RECIPE, bank, seed=0, total_epochs=12)
    curve = train(training, bank, data.validation, task, normalise, 12)
    assert curve[-1]["val_accuracy"] > 0.4
    before = evaluate(model, data.validation, task, normalise)
    settle(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert evaluate(model, data.validation, task, normalise) == pytest.approx(before, abs=1e-5)
    plain.load_state_dict(model.state_dict())


def test_classifier_is_the_teachers_times_the_map_and_the_teachers_never_moves(bank, data, task, normalise):
    model = student()
    training = start(model, RECIPE, bank, seed=0, total_epochs=1)
    train(training, bank, data.validation, task, normalise, 1)
    maps = model.classifier.parametrizations
    weight, bias = bank.classifier
    inner, shift = maps.weight.original.detach().numpy(), maps.bias.original.detach().numpy()
    np.testing.assert_allclose(model.classifier.weight.detach().numpy(), weight @ inner, atol=1e-5)
    np.testing.assert_allclose(model.classifier.bias.detach().numpy(), weight @ shift + bias, atol=1e-5)
    assert len(training.optimizer.parameters) == len({id(p) for p in training.optimizer.parameters})


def test_loss_is_the_squared_error_of_the_mapped_feature():
    model = student().double()
    draw = np.random.default_rng(0)
    weight, bias, s, t = (
        draw.normal(size=(10, 6)),
        draw.normal(size=10),
        draw.normal(size=(3, 8)),
        draw.normal(size=(3, 6)),
    )
    loss = ReusedClassifier(Setting(((8,),), ((6,),), 3, 10))
    loss.take_over(model, (torch.tensor(weight), torch.tensor(bias)))
    maps = model.classifier.parametrizations
    inner, shift = maps.weight.original.detach().numpy(), maps.bias.original.detach().numpy()
    own, other = (Answer(torch.zeros(3, 10), torch.tensor(x)) for x in (s, t))
    expected = ((s @ inner.T + shift - t) ** 2).mean()
    assert loss(own, other, torch.zeros(3), 1.0).item() == pytest.approx(expected)


def test_network_that_is_no_student_of_a_reused_classifier_is_left_alone_by_settle():
    model = student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settle(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_classifier_survives_the_disk(bank, data, tmp_path):
    banks.save(bank, tmp_path / "bank")
    again = banks.load(tmp_path / "bank", data.train, augmentation=bank.augmentation, seed=bank.seed)
    assert all(np.array_equal(a, b) for a, b in zip(again.classifier, bank.classifier, strict=True))


def test_student_with_another_head_or_teacher_without_one_is_refused(bank):
    foreign = ForeignModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10)), {"penultimate": "1"})
    for model, known, whose in (
        (foreign, bank, "student"),
        (student(), dataclasses.replace(bank, classifier=None), "teacher"),
    ):
        with pytest.raises(KdnasError, match=f"the {whose} has no linear classifier"):
            start(model, RECIPE, known, seed=0, total_epochs=1)
    with pytest.raises(KdnasError, match="reads one tap only\n  name the tap penultimate"):
        start(
            student(),
            dataclasses.replace(RECIPE, terms=(Term("reused_classifier", tap="stage2"),)),
            bank,
            seed=0,
            total_epochs=1,
        )


def test_recipes_with_it_ask_for_the_last_feature():
    recipes = SimpleRecipes(hint_losses=("hint", "reused_classifier"), taps=("stage2",))
    assert recipes.needed_taps() == ("stage2", "penultimate")
    assert Term("reused_classifier", tap="penultimate") in recipes.needed_terms()
