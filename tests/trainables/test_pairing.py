"""Specification of `trainables.pairing`: a teacher of digits answers for pictures of another shape, by class."""

import dataclasses

import numpy as np
import pytest
import torch

from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.alignment import UNKNOWN, align
from trainables.augment import Augmentation
from trainables.loop import start, train
from trainables.pairing import Paired
from trainables.recipe import Recipe, Term
from trainables.tasks.base import Classification, Split, keep_labels

CLASSES = ("7", "two", "zebra")  # one by name, one mapped, one that digits lack
TAPS = ("stage2", "penultimate")
VIEWS = 3


@pytest.fixture(scope="module")
def ours():
    """Thirty pictures of another shape, ten a class; what they show does not matter."""
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (30, 1, 5, 9), dtype=np.uint8), np.arange(30) % 3)


@pytest.fixture(scope="module")
def paired(teacher, data, normalise):
    alignment = align(data.classes, 10, CLASSES, {"2": "two"})
    made = lambda **options: Paired(teacher.model, alignment, data.train, normalise, seed=4, **options).eval()  # noqa: E731
    return made


def bank_of(split, *teachers, taps=TAPS):
    return banks.build(
        split, teachers, lambda images: images.float(), augmentation=Augmentation(), views=VIEWS, seed=0, taps=taps
    )


def test_partners_have_the_class_of_the_sample_and_change_with_the_view_alone(paired, ours, data):
    model = paired()
    first, second = model.partners(ours.labels, 0), model.partners(ours.labels, 1)
    theirs = {0: 7, 1: 2}
    for own, digit in theirs.items():
        assert (data.train.labels[first[ours.labels == own]] == digit).all()
    assert (first[ours.labels == 2] == -1).all()
    assert (first != second).sum() > 15
    assert np.array_equal(first, paired().partners(ours.labels, 0))


def test_bank_holds_what_the_teacher_says_of_the_partners(paired, ours, data, teacher, normalise):
    model = paired()
    bank = bank_of(ours, model)
    images = torch.from_numpy(data.train.images)
    with torch.inference_mode():
        logits, seen = teacher.model.forward_taps(normalise(images), TAPS)
    for view in range(VIEWS):
        partners = model.partners(ours.labels, view)
        there = partners >= 0
        found = bank.logits[view, 0].astype(np.float32)
        assert found[there][:, :2] == pytest.approx(logits[partners[there]][:, [7, 2]].numpy(), abs=2e-2)
        assert (found[there][:, 2] < -64_000).all()
        assert (found[~there] < -64_000).all()
        for tap in TAPS:
            features = bank.taps[tap][view].astype(np.float32)
            assert features[there] == pytest.approx(seen[tap][partners[there]].numpy(), abs=2e-2)
            assert np.isnan(features[~there]).all()


@pytest.mark.parametrize("heat", [2.0, 500.0])
def test_class_mean_is_the_mean_of_the_softened_answers_about_the_class(paired, ours, data, teacher, normalise, heat):
    bank = bank_of(ours, paired(answers="class_mean", temperature=heat))
    images = torch.from_numpy(data.train.images[data.train.labels == 2])
    with torch.inference_mode():
        known = teacher.model(normalise(images))[:, [7, 2]]
    mean = (known / heat).softmax(dim=1).mean(dim=0).numpy()
    rows = bank.logits[:, 0, ours.labels == 1].astype(np.float32)
    softened = np.exp(rows[..., :2] / heat) / np.exp(rows[..., :2] / heat).sum(axis=-1, keepdims=True)
    assert softened == pytest.approx(np.broadcast_to(mean, softened.shape), abs=2e-3)
    assert np.ptp(bank.taps["penultimate"][:, ours.labels == 1].astype(np.float32), axis=1).max() > 0.1


def test_class_mean_without_features_asks_about_no_partner(paired, ours):
    assert np.array_equal(
        bank_of(ours, paired(answers="class_mean"), taps=()).logits, bank_of(ours, paired(answers="class_mean")).logits
    )


def test_of_inputs_alone_nothing_is_said(paired):
    model, x = paired(), torch.zeros(2, 1, 5, 9)
    assert (model(x) == UNKNOWN).all()
    logits, seen = model.forward_taps(x, TAPS)
    assert (logits == UNKNOWN).all()
    assert seen["penultimate"].shape[0] == 2
    assert seen["penultimate"].isnan().all()


def student():
    torch.manual_seed(0)
    return build_resnet(resnet_architecture(4, (4, 8), (1, 1)), (1, 5, 9), 3)


@pytest.fixture
def few(ours):
    return keep_labels(ours, 0.3, CLASSES, seed=1)


def test_samples_that_nobody_speaks_of_are_left_out_and_no_step_is_less(paired, few):
    bank = bank_of(few, paired())
    assert np.array_equal(bank.useful(True), few.labels >= 0)
    seen = []
    watched = dataclasses.replace(bank)
    object.__setattr__(watched, "batch", lambda indices, *rest: seen.append(indices) or bank.batch(indices, *rest))
    recipe = Recipe(terms=(Term("kd"), Term("similarity", tap="stage2")), batch_size=10)
    training = start(student(), recipe, watched, seed=0, total_epochs=2)
    train(training, watched, few_labelled(few), Classification(), lambda images: images.float() / 255, 2)
    assert len(np.concatenate(seen)) == 2 * len(few)
    assert (few.labels[np.concatenate(seen)] >= 0).all()


def few_labelled(split):
    there = split.labels >= 0
    return Split(split.images[there], split.labels[there])


def test_another_teacher_beside_it_speaks_of_the_others(paired, few):
    class Other(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3)

    bank = bank_of(few, paired(), Other())
    assert bank.useful(True).all()
    assert np.array_equal(bank.useful(False), few.labels >= 0)


@pytest.mark.parametrize("loss", ["hint", "similarity", "rkd_distance", "contrastive", "shared_space"])
def test_losses_on_features_leave_out_samples_without(paired, ours, loss):
    """The third class has no partner: a student trained on batches that hold some of it learns the same of the rest."""
    from trainables.terms import distilled, make_ready

    bank, recipe, model = bank_of(ours, paired()), Recipe(alpha=1.0, terms=(Term(loss, tap="stage2"),)), student()
    torch.manual_seed(0)
    reads, parts = make_ready(model, bank, recipe)
    values = []
    for chosen in (np.arange(12), np.flatnonzero(np.arange(12) % 3 < 2)):
        batch = bank.batch(chosen, 0, bank.transforms(0), ("stage2",))
        logits, seen = model.eval().forward_taps(batch.images.float() / 255, ("stage2",))
        torch.manual_seed(1)
        found = distilled(logits.sum() * 0, logits, seen, batch, recipe, reads, parts, progress=0, size=1)
        values.append(found[1].item())
        torch.manual_seed(0)
        reads, parts = make_ready(model, bank, recipe)  # a memory begins anew
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] != 0


def test_batch_without_any_feature_teaches_nothing_by_features(paired, ours):
    from trainables.terms import distilled, make_ready

    bank, recipe, model = bank_of(ours, paired()), Recipe(terms=(Term("hint", tap="stage2"),)), student()
    reads, parts = make_ready(model, bank, recipe)
    batch = bank.batch(np.array([2, 5, 8]), 0, bank.transforms(0), ("stage2",))
    logits, seen = model.forward_taps(batch.images.float() / 255, ("stage2",))
    assert distilled(logits.sum() * 0, logits, seen, batch, recipe, reads, parts, progress=0, size=1)[1].item() == 0


def test_bank_with_absent_features_survives_its_file(paired, few, tmp_path):
    bank = bank_of(few, paired())
    banks.save(bank, tmp_path / "bank")
    again = banks.load(tmp_path / "bank", few, augmentation=Augmentation(), seed=0)
    for tap in TAPS:
        np.testing.assert_array_equal(again.taps[tap], bank.taps[tap])
    assert np.array_equal(again.useful(True), bank.useful(True))
