"""Specification of `kdnas_ray.analysis.probes`."""

import numpy as np
import pytest
import torch

from kdnas_ray.analysis.probes import linear_probe, pooled


def test_pooled_is_the_mean_over_places():
    maps = torch.arange(8.0).view(1, 2, 2, 2)
    assert pooled(maps).tolist() == [[1.5, 5.5]]
    assert pooled(torch.tensor([[1.0, 2.0]])).tolist() == [[1, 2]]


def test_linear_probe_when_classes_lie_apart_then_all_right_whatever_the_scale():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = np.eye(3)[labels] * [1, 1000, 0.001] + rng.normal(size=(60, 3)) * [0.01, 10, 0.00001]
    assert linear_probe(features, labels, features, labels) == 1
    assert linear_probe(features, labels, features, (labels + 1) % 3) == 0


def test_linear_probe_when_features_say_nothing_then_as_good_as_guessing():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(4000, 4)), rng.integers(4, size=4000)
    assert linear_probe(features[:2000], labels[:2000], features[2000:], labels[2000:]) == pytest.approx(0.25, abs=0.04)


def test_linear_probe_when_there_is_one_class_or_no_varying_feature_then_none():
    features = np.ones((4, 2))
    assert linear_probe(features, np.zeros(4, dtype=int), features, np.zeros(4, dtype=int)) is None
    assert linear_probe(features, np.array([0, 1, 0, 1]), features, np.zeros(4, dtype=int)) is None
