"""Specification of `kdnas_ray.analysis.cka`."""

import itertools

import pytest
import torch

from kdnas_ray.analysis.cka import cka, gram, unbiased_hsic


@pytest.fixture
def features():
    return torch.randn(40, 12, generator=torch.Generator().manual_seed(0))


def test_gram_of_maps_is_the_inner_product_by_hand():
    maps = torch.tensor([[[[1.0, 2.0]]], [[[3.0, -1.0]]]])
    assert gram(maps).tolist() == [[5, 1], [1, 10]]


def test_cka_when_features_are_equal_rotated_or_scaled_then_1(features):
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    for other in (features, features @ rotation, 7 * features, features + 100):
        # A shift leaves the centred features as they are.
        assert cka(gram(features), gram(other)) == pytest.approx(1, abs=1e-4)


def test_cka_when_features_are_unrelated_then_around_0_though_they_are_wider_than_samples_are_many():
    generator = torch.Generator().manual_seed(2)
    found = [
        cka(*(gram(torch.randn(30, 500, generator=generator)) for _ in range(2)))  # type: ignore[arg-type]
        for _ in range(40)
    ]
    assert abs(sum(found) / 40) < 0.02
    assert max(map(abs, found)) < 0.2


def test_unbiased_hsic_is_the_mean_over_all_quadruples():
    # The U-statistic of Song 2012, eq. 4, summed out.
    generator = torch.Generator().manual_seed(3)
    k, m = (gram(torch.randn(6, 3, generator=generator)) for _ in range(2))
    quadruples = list(itertools.permutations(range(6), 4))
    total = sum(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in quadruples)
    assert unbiased_hsic(k, m) == pytest.approx(float(total) / len(quadruples))


def test_cka_when_a_network_says_the_same_of_all_or_samples_are_few_then_none(features):
    assert cka(gram(torch.ones(40, 3)), gram(features)) is None
    assert cka(gram(features[:3]), gram(features[:3])) is None
