"""Specification of `kdnas_ray.analysis.gain`, by hand."""

import math

import pytest

from kdnas_ray.analysis.gain import Gain, distillation_gain


def lines(name: str, with_kd: list[float], without: list[float], epochs: int = 9) -> list[dict]:
    return [
        {"id": name, "seed": seed, "with_kd": kd, "epochs": epochs, "test_accuracy": score}
        for kd, scores in ((True, with_kd), (False, without))
        for seed, score in enumerate(scores)
    ]


def test_gain_when_computed_by_hand_then_agrees():
    found = distillation_gain(lines("a", [0.93, 0.95, 0.97], [0.90, 0.94, 0.92]), "a")
    # differences 0.03, 0.01, 0.05: mean 0.03, deviation 0.02; t(0.975, 2) = 4.3027
    assert found.mean == pytest.approx(0.03)
    assert found.margin == pytest.approx(4.3027 * 0.02 / math.sqrt(3), rel=1e-4)
    assert found.seeds == 3
    assert not found.clear


def test_gain_when_seeds_differ_more_than_methods_then_pairs_still_show_it():
    found = distillation_gain(lines("a", [0.70, 0.80, 0.91], [0.60, 0.70, 0.80]), "a")
    assert found.clear


@pytest.mark.parametrize(("mean", "margin", "clear"), [(0.1, None, False), (-0.1, 0.05, True), (0.1, 0.2, False)])
def test_gain_when_zero_lies_outside_its_interval_then_is_clear(mean, margin, clear):
    assert Gain(mean, margin, 3).clear is clear


def test_gain_when_there_is_a_single_seed_then_has_no_margin():
    assert distillation_gain(lines("a", [0.75], [0.5]), "a") == Gain(0.25, None, 1)


def test_gain_when_a_seed_was_trained_one_way_only_then_leaves_it_out():
    assert distillation_gain(lines("a", [0.75, 0.9, 0.9], [0.5]), "a") == Gain(0.25, None, 1)


def test_gain_when_nothing_can_be_paired_then_is_none():
    assert distillation_gain([], "a") is None
    assert distillation_gain(lines("a", [0.9], []), "a") is None
    assert distillation_gain(lines("b", [0.9], [0.8]), "a") is None


def test_gain_when_retrained_again_for_longer_then_counts_the_longest():
    rows = lines("a", [0.5], [0.9], epochs=3) + lines("a", [0.75], [0.5], epochs=9)
    assert distillation_gain(rows, "a") == Gain(0.25, None, 1)
