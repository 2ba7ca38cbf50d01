"""Specification of `trainables.rehearsal`, against values computed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from trainables.rehearsal import EXEMPLARS, align_weights, herding


def test_herding_when_done_by_hand_then_takes_the_sample_that_brings_the_mean_nearest_each_time():
    # Directions at 0, 30, 90 and 100 degrees. Their mean points to about 55 degrees, length 0.78.
    angles = np.radians([0, 30, 90, 100])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(
        [[1], [5], [2], [7]]
    )  # lengths do not count
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mean = unit.mean(axis=0)
    expected: list[int] = []
    for place in range(1, 4):
        left = [i for i in range(4) if i not in expected]
        expected.append(min(left, key=lambda i: np.linalg.norm(mean - unit[[*expected, i]].sum(axis=0) / place)))
    assert herding(features, 3, 0).tolist() == expected
    assert expected[0] == 1  # 30 degrees: the nearest to the mean


def test_herding_when_more_is_kept_then_begins_with_what_fewer_would_keep():
    features = np.random.default_rng(0).normal(size=(30, 6))
    assert herding(features, 12, 0)[:5].tolist() == herding(features, 5, 0).tolist()


def test_herding_when_compared_with_chance_then_keeps_the_mean_better():
    features = np.random.default_rng(1).normal(size=(200, 8)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    apart = [np.linalg.norm(unit.mean(axis=0) - unit[choose(features, 10, 0)].mean(axis=0))
             for choose in (herding, EXEMPLARS["random"])]  # fmt: skip
    assert apart[0] < apart[1] / 2


@pytest.mark.parametrize("name", EXEMPLARS)
def test_exemplars_when_a_class_has_too_few_then_are_all_of_them_once(name):
    chosen = EXEMPLARS[name](np.random.default_rng(0).normal(size=(4, 3)), 9, 0)
    assert sorted(chosen.tolist()) == [0, 1, 2, 3]


def test_alignment_when_done_by_hand_then_newer_rows_are_as_long_as_earlier_ones():
    classifier = nn.Linear(2, 4)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[3.0, 4], [0, 1], [6, 8], [9, 9]]))  # lengths 5, 1, 10; one to come
    bias = classifier.bias.clone()
    gamma = align_weights(classifier, old=2, seen=3)
    assert gamma == pytest.approx(((5 + 1) / 2) / 10)
    torch.testing.assert_close(classifier.weight[2], torch.tensor([6.0, 8]) * 0.3)
    torch.testing.assert_close(classifier.weight[3], torch.tensor([9.0, 9]))
    torch.testing.assert_close(classifier.bias, bias)
