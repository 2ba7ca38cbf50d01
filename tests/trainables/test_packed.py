"""Specification of `trainables.packed`: students side by side end as each would have alone."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import SPACES, sample
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.layout import to_channels_last
from trainables.loop import DivergedError, Normalise, start, train
from trainables.packed import UnpackableError, pack, train_packed
from trainables.recipe import Recipe, Temperature, Term
from trainables.tasks import DigitsTask
from trainables.tasks.base import Split

SHAPE, CLASSES, TAPS = (1, 8, 8), 5, ("stage1", "stage2", "penultimate")
NORMALISE, TASK = Normalise((0.5,), (0.25,)), DigitsTask()
SMALL = resnet_architecture(4, (4, 8), (1, 1))
RECIPES = {
    "labels alone": Recipe().without_teacher(),
    "kd, warm": Recipe(alpha=0.9, temperature=Temperature(start=8.0), learning_rate=0.05),
    "kd, cold, slow": Recipe(alpha=0.3, temperature=Temperature("linear", 4.0, 1.0), learning_rate=0.01),
    "with a hint": Recipe(terms=(Term("kd"), Term("hint", tap="stage2")), weight_decay=1e-3),
    "a loss that draws": Recipe(terms=(Term("kd"), Term("masked_generation", tap="stage2")), learning_rate=0.02),
    "learned weights": Recipe(terms=(Term("kd"), Term("similarity", tap="penultimate")), weighting="uncertainty"),
    "several maps": Recipe(terms=(Term("kd"), Term("attention", tap="stage1")), weighting="confidence"),
}


def split(samples, seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, samples)
    images = (draw.integers(0, 120, (samples, *SHAPE)) + 20 * labels[:, None, None, None]).astype(np.uint8)
    return Split(images, labels)


@pytest.fixture(scope="module")
def bank():
    torch.manual_seed(0)
    teacher = build_resnet(resnet_architecture(8, (8, 16), (1, 1)), SHAPE, CLASSES)
    return banks.build(
        split(96, 0), [teacher], NORMALISE, augmentation=Augmentation(shift=1), views=2, seed=0, taps=TAPS
    )


def begun(bank, recipes, build=lambda: build_resnet(SMALL, SHAPE, CLASSES), epochs=4, last=False, seeds=None):
    found = []
    for place, recipe in enumerate(recipes):
        seed = place if seeds is None else seeds[place]
        torch.manual_seed(seed)
        model = to_channels_last(build()) if last else build()
        small = dataclasses.replace(recipe, batch_size=32)
        found.append(start(model, small, bank, seed=seed, total_epochs=epochs))
    return found


def together(trainings, bank, until=4):
    return train_packed(trainings, bank, split(40, 1), TASK, NORMALISE, until)


def alone(trainings, bank, until=4):
    for training in trainings:
        train(training, bank, split(40, 1), TASK, NORMALISE, until)


def assert_alike(packed, single, tolerance=2e-3):
    for one, other in zip(packed, single, strict=True):
        assert len(one.curve) == len(other.curve)
        for point, wanted in zip(one.curve, other.curve, strict=True):
            assert point == pytest.approx(wanted, rel=tolerance, abs=0.03)  # 0.025 is one of the 40 images
        for (name, weight), wanted in zip(
            one.model.state_dict().items(), other.model.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(weight, wanted, rtol=0.02, atol=2e-3, msg=name)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_pack_when_recipes_and_seeds_differ_then_each_ends_as_alone(bank, last):
    packed, single = (begun(bank, RECIPES.values(), last=last) for _ in range(2))
    assert together(packed, bank) == {}
    alone(single, bank)
    assert_alike(packed, single)


@pytest.mark.parametrize("name", list(RECIPES))
def test_pack_when_three_seeds_of_one_recipe_then_each_ends_as_alone(bank, name):
    packed, single = (begun(bank, [RECIPES[name]] * 3) for _ in range(2))
    together(packed, bank)
    alone(single, bank)
    assert_alike(packed, single)


def test_pack_when_adamw_then_each_ends_as_alone(bank):
    recipe = Recipe(optimizer="adamw", learning_rate=2e-3)
    packed, single = (begun(bank, [recipe, dataclasses.replace(recipe, alpha=0.2)]) for _ in range(2))
    together(packed, bank)
    alone(single, bank)
    assert_alike(packed, single)


def test_pack_when_in_bfloat16_then_each_ends_about_as_alone(bank):
    packed, single = (begun(bank, [RECIPES["labels alone"]] * 2, epochs=2) for _ in range(2))
    for training in (*packed, *single):
        training.bfloat16 = True
    together(packed, bank, 2)
    alone(single, bank, 2)
    for one, other in zip(packed, single, strict=True):
        losses = [[point["train_loss"] for point in training.curve] for training in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
        assert {weight.dtype for weight in one.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["mobilenet", "nasbench_macro", "nasbench201", "resnet"])
def test_pack_when_of_another_space_then_each_ends_as_alone(bank, name):
    space = SPACES[name]()
    architecture = sample(space, random.Random(4))
    slow = dataclasses.replace(RECIPES["labels alone"], learning_rate=0.01)
    packed, single = (
        begun(bank, [slow, slow], build=lambda: space.build(architecture, SHAPE, CLASSES), epochs=2) for _ in range(2)
    )
    together(packed, bank, 2)
    alone(single, bank, 2)
    assert_alike(packed, single, 0.02)


def test_pack_when_it_goes_on_alone_or_packed_anew_then_as_in_one_go(bank):
    packed, single = (begun(bank, [RECIPES["kd, warm"], RECIPES["with a hint"]]) for _ in range(2))
    together(packed, bank, 1)
    train(packed[0], bank, split(40, 1), TASK, NORMALISE, 3)
    train(packed[1], bank, split(40, 1), TASK, NORMALISE, 3)
    together(packed, bank, 4)
    alone(single, bank)
    assert_alike(packed, single)


def test_pack_when_closed_then_no_student_shares_memory_with_another(bank):
    packed = begun(bank, [RECIPES["kd, warm"]] * 3)
    together(packed, bank, 1)
    storages = [tensor.untyped_storage() for t in packed for tensor in t.model.state_dict().values()]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)
    weight = next(packed[0].model.parameters())
    assert weight.untyped_storage().nbytes() == weight.numel() * weight.element_size()
    assert all(parameter.grad is None for t in packed for parameter in t.model.parameters())


def test_pack_when_it_trained_then_the_time_is_shared(bank):
    packed = begun(bank, [RECIPES["kd, warm"]] * 3)
    together(packed, bank, 2)
    assert packed[0].train_s > 0
    assert len({round(training.train_s, 9) for training in packed}) == 1


def test_pack_when_one_diverges_then_the_others_go_on(bank):
    wild = dataclasses.replace(RECIPES["kd, warm"], learning_rate=100.0, weight_decay=1.0)
    recipes = [RECIPES["kd, warm"], wild, RECIPES["kd, cold, slow"]]
    packed, single = (begun(bank, recipes, epochs=6) for _ in range(2))
    next(iter(packed[1].model.parameters())).data.fill_(float("nan"))
    next(iter(single[1].model.parameters())).data.fill_(float("nan"))
    failed = together(packed, bank, 6)
    assert list(failed) == [1]
    with pytest.raises(DivergedError, match=str(failed[1])):
        alone(single[1:2], bank, 6)
    alone(single[::2], bank, 6)
    assert_alike(packed[::2], single[::2])


class _Concatenates(nn.Module):
    taps = ("logits",)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.classifier(torch.cat([self.one(x), self.other(x)], dim=1).mean(dim=(2, 3)))

    def forward_taps(self, x, names):
        logits = self(x)
        return logits, dict.fromkeys(names, logits)


class _ReadsItsLayer(_Concatenates):
    def forward(self, x):
        assert self.one.out_channels == 4
        return self.classifier(torch.cat([self.one(x), self.other(x)], dim=1).mean(dim=(2, 3)))


class _Ties(_Concatenates):
    def __init__(self) -> None:
        super().__init__()
        self.other.weight = self.one.weight


class _NormsLast(_Concatenates):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, CLASSES))


def _attends():
    space = SPACES["vit_tiny"]()
    return space.build(sample(space, random.Random(0)), SHAPE, CLASSES)


@pytest.mark.parametrize(
    ("recipes", "build", "reason"),
    [
        ([Recipe(mutual=1.0)] * 2, None, "steps of their own"),
        ([Recipe(quantised=True)] * 2, None, "steps of their own"),
        ([Recipe(), Recipe(weighting="meta")], None, "steps of their own"),
        ([Recipe()] * 2, _Concatenates, "answer otherwise"),
        ([Recipe()] * 2, _ReadsItsLayer, "out_channels"),
        ([Recipe()] * 2, _Ties, "a weight twice"),
        ([Recipe()] * 2, _NormsLast, "no pack of LayerNorm"),
        (
            [Recipe()] * 2,
            _attends,
            "no pack of",
        ),
    ],
    ids=["mutual", "int8", "meta", "channels put together", "reads its layer", "ties", "norms last", "attention"],
)
def test_pack_when_it_cannot_be_then_says_so_and_leaves_the_students_as_they_were(bank, recipes, build, reason):
    recipes = [dataclasses.replace(recipe, batch_size=32) for recipe in recipes]
    trainings = []
    for seed, recipe in enumerate(recipes):
        torch.manual_seed(seed)
        model = build() if build else build_resnet(SMALL, SHAPE, CLASSES)
        peer = build_resnet(SMALL, SHAPE, CLASSES) if recipe.mutual else None
        trainings.append(start(model, recipe, bank, seed=seed, total_epochs=4, peer=peer))
    before = [{name: value.clone() for name, value in t.model.state_dict().items()} for t in trainings]
    with pytest.raises(UnpackableError, match=reason):
        pack(trainings, NORMALISE, bank)
    for training, values in zip(trainings, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in training.model.state_dict().items())
        weight = next(training.model.parameters())
        assert weight.untyped_storage().nbytes() == weight.numel() * weight.element_size()  # its own


def test_pack_when_epochs_differ_then_refused(bank):
    trainings = begun(bank, [RECIPES["kd, warm"]] * 2)
    alone(trainings[:1], bank, 1)
    with pytest.raises(UnpackableError, match="differ in epochs"):
        pack(trainings, NORMALISE, bank)
