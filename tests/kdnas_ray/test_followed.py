"""Specification of `kdnas_ray.followed`: what a network is compared with, and what is seen of it."""

import numpy as np
import pytest
import torch
from torch import nn

from kdnas_ray.analysis.cka import gram
from kdnas_ray.followed import BATCH, Reference, compare_with, kernels, matrix, probes, seen, similarity
from search_spaces import TappedModel
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.loop import Normalise
from trainables.tasks.base import Split

NORMALISE = Normalise((0.5,), (0.25,))


@pytest.fixture
def network():
    torch.manual_seed(0)
    parts = {
        "stem": nn.Conv2d(1, 2, 1),
        "stage1": nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()),
    }
    return TappedModel(parts, 3, 4)


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(256, size=(300, 1, 6, 6), dtype=np.uint8), rng.integers(4, size=300))


def test_seen_is_what_the_model_says_batch_by_batch_and_leaves_its_mode(network, split):
    network.train()
    logits, maps = seen(network, split.images, NORMALISE, ("stage1",))
    assert network.training
    assert len(split) > BATCH  # more than one batch
    whole = NORMALISE(torch.from_numpy(split.images))
    network.eval()
    with torch.no_grad():
        expected, taps = network.forward_taps(whole, ("stage1",))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(maps["stage1"], taps["stage1"])


def test_seen_averages_large_maps(network):
    images = np.random.default_rng(0).integers(256, size=(2, 1, 64, 64), dtype=np.uint8)
    _, maps = seen(network, images, NORMALISE, ("stage1",))
    assert maps["stage1"].shape == (2, 3, 32, 32)
    with torch.no_grad():
        whole = network.eval().forward_taps(NORMALISE(torch.from_numpy(images)), ("stage1",))[1]["stage1"]
    torch.testing.assert_close(maps["stage1"], nn.functional.avg_pool2d(whole, 2))


def test_similarity_of_a_network_with_itself_is_1_on_the_diagonal(network, split):
    reference = compare_with(network, split, NORMALISE, speaks=True, temperature=2.0, classes=True)
    assert list(reference.kernels) == ["stage1", "penultimate"]
    assert reference.logits.shape == (300, 4)
    found = similarity(network, reference, split, NORMALISE)
    assert found["stage1"]["stage1"] == pytest.approx(1)
    assert found["penultimate"]["penultimate"] == pytest.approx(1)
    assert found["stage1"]["penultimate"] == pytest.approx(found["penultimate"]["stage1"])
    assert found["stage1"]["penultimate"] < 0.99


def test_kernels_are_those_of_the_taps(network, split):
    found = kernels(network, split, NORMALISE, ["penultimate"])
    torch.testing.assert_close(
        found["penultimate"], gram(seen(network, split.images, NORMALISE, ["penultimate"])[1]["penultimate"])
    )


def test_similarity_when_the_teacher_has_no_layers_then_empty(network, split):
    assert similarity(network, Reference({}, None, 1.0, True), split, NORMALISE) == {}
    assert compare_with(None, split, NORMALISE, speaks=True, temperature=1.0, classes=True).logits is None


def test_probes_learn_from_the_training_split_and_not_from_samples_without_label(network, split):
    # The class is how bright the image is: the pooled features know it.
    images = np.repeat(np.arange(4, dtype=np.uint8)[:, None, None, None] * 60, 36, axis=1).reshape(4, 1, 6, 6)
    labels = np.arange(200) % 4
    train = Split(images[labels], np.where(np.arange(200) < 100, labels, -1))
    bank = banks.without_teacher(train, augmentation=Augmentation(), views=1, seed=0)
    found = probes(network, bank, Split(images[labels], labels), NORMALISE, ["stage1", "penultimate"])
    assert found["penultimate"] > 0.7
    assert probes(network, bank, split, NORMALISE, ["penultimate"])["penultimate"] < 0.5


def test_matrix_of_many_classes_is_not_written_down():
    assert matrix(np.eye(60)) is None
    assert matrix(np.array([[0.5, np.nan]])) == [[0.5, None]]
