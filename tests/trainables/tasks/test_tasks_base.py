"""Specification of `trainables.tasks.base`: splits, statistics, loss and metric."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, r2_score

from search_spaces import KdnasError
from trainables.tasks.base import (
    Classification,
    MultiLabel,
    Regression,
    Split,
    assemble,
    choose,
    keep_labels,
    known,
    split,
    standardised,
)


def numbered(counts: list[int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images that carry their own number, so that a sample can be recognised in a split."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 1, 2, 2)
    return images, labels, [f"class{number}" for number in range(len(counts))]


def numbers(part: Split) -> list[int]:
    return np.frombuffer(part.images.tobytes(), dtype=np.uint32).tolist()


@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=6),
    validation=st.floats(0.01, 0.49),
    test=st.floats(0.01, 0.49),
    seed=st.integers(0, 2**31 - 1),
)
def test_split_gives_every_sample_to_one_split_and_every_class_to_all(counts, validation, test, seed):
    images, labels, classes = numbered(counts)
    parts = split(images, labels, classes, validation=validation, test=test, seed=seed)
    assert sorted(number for part in parts for number in numbers(part)) == list(range(len(labels)))
    for part in parts:
        assert set(part.labels) == set(range(len(counts)))
        assert np.array_equal(part.labels, labels[numbers(part)])


def test_split_keeps_the_shares_of_the_classes():
    images, labels, classes = numbered([500, 300, 200])
    train, validation, test = split(images, labels, classes, validation=0.1, test=0.2, seed=3)
    assert np.bincount(train.labels).tolist() == [350, 210, 140]
    assert np.bincount(validation.labels).tolist() == [50, 30, 20]
    assert np.bincount(test.labels).tolist() == [100, 60, 40]


def test_split_repeats_with_the_seed_and_differs_without():
    images, labels, classes = numbered([50, 50])
    first, again, other = (split(images, labels, classes, validation=0.2, test=0.2, seed=seed) for seed in (1, 1, 2))
    assert [numbers(part) for part in first] == [numbers(part) for part in again]
    assert numbers(first[2]) != numbers(other[2])


def test_split_leaves_the_test_split_alone_when_the_validation_share_changes():
    images, labels, classes = numbered([50, 50])
    few, many = (split(images, labels, classes, validation=share, test=0.2, seed=1)[2] for share in (0.1, 0.4))
    assert numbers(few) == numbers(many)


def test_split_takes_nothing_for_test_when_the_test_split_exists():
    images, labels, classes = numbered([50, 50])
    own = Split(images[:2], labels[:2])
    train, validation, test = split(images, labels, classes, validation=0.2, test=own, seed=1)
    assert test is own
    assert (len(train), len(validation)) == (80, 20)


@pytest.mark.parametrize(
    ("validation", "test", "field"),
    [
        (0.0, 0.2, "task.validation"),
        (1.0, 0.2, "task.validation"),
        (0.2, -0.1, "task.test"),
        (0.2, 1.5, "task.test"),
        (0.2, 0, "task.test"),
        (float("nan"), 0.2, "task.validation"),
        (0.5, 0.5, "task.validation"),
    ],
)
def test_split_refuses_impossible_shares_with_the_field(validation, test, field):
    images, labels, classes = numbered([50, 50])
    with pytest.raises(KdnasError) as caught:
        split(images, labels, classes, validation=validation, test=test, seed=0)
    assert caught.value.field == field
    assert caught.value.remedy


def test_split_names_the_class_its_count_and_the_need_when_it_is_too_rare():
    images, labels, classes = numbered([50, 2])
    with pytest.raises(KdnasError, match=r"class 'class1' has 2 samples.*\n.*at least 3"):
        split(images, labels, classes, validation=0.2, test=0.2, seed=0)


def test_split_refuses_a_single_class():
    images, labels, classes = numbered([50])
    with pytest.raises(KdnasError, match="at least two classes"):
        split(images, labels, classes, validation=0.2, test=0.2, seed=0)


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=6), data=st.data())
def test_choose_draws_exactly_so_many_and_no_class_is_off_by_a_whole_sample(counts, data):
    _, labels, _ = numbered(counts)
    total = data.draw(st.integers(1, len(labels)))
    chosen = choose(labels, total, seed=data.draw(st.integers(0, 99)))
    assert len(np.unique(chosen)) == total
    assert np.all(np.diff(chosen) > 0)
    drawn = np.bincount(labels[chosen], minlength=len(counts))
    assert np.all(np.abs(drawn - np.array(counts) * total / len(labels)) < 1)


def test_assemble_measures_mean_and_deviation_of_the_training_images_by_channel():
    images = np.random.default_rng(0).integers(0, 200, (3000, 3, 4, 5), dtype=np.uint8)
    images[:, 2] = 51
    part = Split(images, np.zeros(3000, dtype=np.int64))
    other = Split(images[:1] + 50, part.labels[:1])
    data = assemble(part, other, other, ("a", "b"))
    scaled = images / 255
    assert data.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)))
    assert data.std[:2] == pytest.approx(scaled.std(axis=(0, 2, 3))[:2])
    assert data.std[2] == 1e-3  # a constant channel must not divide by zero
    assert data.shape == (3, 4, 5)


def test_digest_names_the_data_and_changes_with_any_part_of_them():
    images, labels, classes = numbered([20, 20])
    data = assemble(*split(images, labels, classes, validation=0.2, test=0.2, seed=1), classes)
    again = assemble(*split(images, labels, classes, validation=0.2, test=0.2, seed=1), classes)
    assert data.digest() == again.digest()
    assert len(data.digest()) == 16
    brighter = replace(data, test=Split(data.test.images + 1, data.test.labels))
    relabelled = replace(data, train=Split(data.train.images, 1 - data.train.labels))
    renamed = replace(data, classes=("cat", "dog"))
    assert len({part.digest() for part in (data, brighter, relabelled, renamed)}) == 4


def test_loss_and_metric_are_cross_entropy_and_accuracy():
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    labels = torch.tensor([0, 1, 0, 0])
    task = Classification()
    assert task.metric(logits, labels) == 0.5
    expected = (2 * np.log(2) + np.log1p(np.exp(-9)) + 9 + np.log1p(np.exp(-9))) / 4
    assert task.loss(logits, labels).item() == pytest.approx(expected)


def test_kept_labels_are_a_share_of_every_class_and_the_others_are_minus_1():
    labels = np.repeat(np.arange(3), [100, 40, 20])
    whole = Split(np.zeros((160, 1, 2, 2), np.uint8), labels)
    kept = keep_labels(whole, 0.1, ("a", "b", "c"), seed=0)
    assert np.bincount(kept.labels[kept.labels >= 0]).tolist() == [10, 4, 2]
    assert (kept.labels[kept.labels >= 0] == labels[kept.labels >= 0]).all()
    assert set(kept.labels[kept.labels < 0]) == {-1}
    assert keep_labels(whole, 1.0, ("a", "b", "c"), seed=0) is whole
    assert not np.array_equal(kept.labels, keep_labels(whole, 0.1, ("a", "b", "c"), seed=1).labels)


def test_share_that_leaves_a_class_without_label_is_refused():
    whole = Split(np.zeros((104, 1, 2, 2), np.uint8), np.repeat(np.arange(2), [100, 4]))
    with pytest.raises(KdnasError) as caught:
        keep_labels(whole, 0.1, ("cat", "dog"), seed=0)
    assert caught.value.field == "labels"
    assert "'dog'" in caught.value.problem
    assert "0.12" in caught.value.remedy


def tagged(samples: int, outputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that know something of 0 or 1 labels, both `[N, K]`."""
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.rand(samples, outputs, generator=draw) < 0.3).float()
    return labels + torch.randn(samples, outputs, generator=draw), labels


@pytest.mark.parametrize("decimals", [6, 0])  # many equal logits with 0
def test_mean_average_precision_is_that_of_scikit_learn(decimals):
    logits, labels = tagged(200, 5)
    logits = logits.round(decimals=decimals)
    expected = average_precision_score(labels.numpy(), logits.numpy(), average="macro")
    assert MultiLabel().metric(logits, labels) == pytest.approx(expected, abs=1e-9)


def test_mean_average_precision_leaves_out_a_label_that_no_sample_has():
    logits, labels = tagged(100, 3)
    labels[:, 1] = 0
    assert MultiLabel().metric(logits, labels) == pytest.approx(MultiLabel().metric(logits[:, ::2], labels[:, ::2]))
    assert MultiLabel().metric(logits, labels * 0) == 0


def test_mean_average_precision_of_one_answer_for_all_is_the_share_with_the_label():
    labels = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    assert MultiLabel().metric(torch.zeros(4, 1), labels) == pytest.approx(0.25)


def test_r2_is_that_of_scikit_learn_and_never_below_0():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randn(300, 2, generator=draw)
    logits = labels + 0.5 * torch.randn(300, 2, generator=draw)
    assert Regression().metric(logits, labels) == pytest.approx(r2_score(labels.numpy(), logits.numpy()), abs=1e-6)
    assert Regression().metric(-logits, labels) == 0
    assert Regression().metric(labels, torch.zeros_like(labels)) == 0  # a target that never varies


def test_split_and_keep_labels_work_without_regard_to_labels_of_several_numbers():
    images, _, _ = numbered([50, 50])
    values = np.random.default_rng(0).normal(5, 3, (100, 2)).astype(np.float32)
    parts = split(images, values, ["a", "b"], validation=0.2, test=0.2, seed=0)
    assert [len(part) for part in parts] == [60, 20, 20]
    assert all(np.array_equal(part.labels, values[numbers(part)]) for part in parts)
    few = keep_labels(parts[0], 0.1, ["a", "b"], seed=0)
    assert known(few.labels).sum() == 6
    assert known(torch.from_numpy(few.labels)).sum() == 6
    assert np.array_equal(few.labels[known(few.labels)], parts[0].labels[known(few.labels)])
    assert len(choose(values, 30, seed=0)) == 30
    with pytest.raises(KdnasError, match="none of its 60 labels"):
        keep_labels(parts[0], 0.001, ["a", "b"], seed=0)


def test_standardised_frees_values_of_the_training_splits_mean_and_deviation():
    images, _, _ = numbered([50, 50])
    values = np.random.default_rng(0).normal([5, -2], [3, 0], (100, 2)).astype(np.float32)
    data = assemble(*split(images, values, ["a", "b"], validation=0.2, test=0.2, seed=0), ["a", "b"])
    found = standardised(data)
    assert found.train.labels.mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert found.train.labels.std(axis=0) == pytest.approx([1, 0], abs=1e-5)
    assert found.test.labels * found.target_std + found.target_mean == pytest.approx(data.test.labels, abs=1e-5)


def test_share_of_the_labels_is_that_of_the_labelled_samples():
    labels = np.concatenate([np.arange(40) % 2, np.full(100, -1)])
    whole = Split(np.zeros((140, 1, 2, 2), dtype=np.uint8), labels)
    few = keep_labels(whole, 0.1, ("a", "b"), seed=0)
    assert np.bincount(few.labels[few.labels >= 0]).tolist() == [2, 2]
    assert (few.labels[40:] == -1).all()
    alone = keep_labels(Split(whole.images[:40], labels[:40]), 0.1, ("a", "b"), seed=0)
    assert np.array_equal(few.labels[:40], alone.labels)


def test_values_are_standardised_by_those_that_are_there():
    values = np.array([[1.0], [3.0], [np.nan]], dtype=np.float32)
    parts = [Split(np.zeros((3, 1, 2, 2), dtype=np.uint8), values)] * 3
    data = standardised(assemble(*parts, ["x"]))
    assert (data.target_mean, data.target_std) == ((2.0,), (1.0,))
    assert data.train.labels[:2, 0].tolist() == [-1.0, 1.0]
    assert np.isnan(data.train.labels[2, 0])
