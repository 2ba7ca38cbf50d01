"""Specification of `kdnas_ray.analysis.correlation`, by hand."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_ray.analysis.correlation import kendall_tau, rung_taus


def tau_b(first: list[int], second: list[int]) -> float:
    """Kendall 1945: (agreeing - disagreeing) / sqrt(pairs untied in the first * pairs untied in the second)."""
    sign = lambda x: (x > 0) - (x < 0)  # noqa: E731
    pairs = list(itertools.combinations(range(len(first)), 2))
    a = [sign(first[i] - first[j]) for i, j in pairs]
    b = [sign(second[i] - second[j]) for i, j in pairs]
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(map(abs, a)) * sum(map(abs, b)))


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),  # one of six pairs disagrees
        ([1, 1, 2], [1, 2, 3], 2 / math.sqrt(2 * 3)),
        ([0.1, 0.2], [0.9, 0.5], -1.0),
    ],
)
def test_tau_when_computed_by_hand_then_agrees(first, second, tau):
    assert kendall_tau(first, second) == pytest.approx(tau)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1], [1]), ([1, 1], [1, 2]), ([1, 2], [3, 3])])
def test_tau_when_it_is_not_defined_then_is_none(first, second):
    assert kendall_tau(first, second) is None


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_tau_when_compared_with_its_definition_then_agrees(points):
    first, second = [point[0] for point in points], [point[1] for point in points]
    found = kendall_tau(first, second)
    if len(set(first)) < 2 or len(set(second)) < 2:
        assert found is None
    else:
        assert found == pytest.approx(tau_b(first, second))


def test_rung_taus_when_computed_by_hand_then_agree(row):
    rows = [
        row(0, "complete", [0.1, 0.5, 0.6]),
        row(1, "complete", [0.3, 0.4, 0.7]),
        row(2, "complete", [0.2, 0.6, 0.8]),
        row(3, "pruned", [0.9]),
        row(4, "failed", []),
    ]
    retrained = [
        {"id": "c0000", "with_kd": True, "val_accuracy": 0.8},
        {"id": "c0000", "with_kd": True, "val_accuracy": 0.6},  # mean over seeds 0.7
        {"id": "c0000", "with_kd": False, "val_accuracy": 0.1},
        {"id": "c0002", "with_kd": True, "val_accuracy": 0.75},
        {"id": "c0003", "with_kd": True, "val_accuracy": 0.99},  # never complete: no end to compare with
    ]
    first, second, last = rung_taus(rows, (1, 2, 3), retrained)
    # Epoch 1: 0.1, 0.3, 0.2 against the end 0.6, 0.7, 0.8: two pairs agree, one does not.
    assert first == {
        "epochs": 1,
        "tau_search": pytest.approx(1 / 3),
        "n_search": 3,
        "tau_retrained": pytest.approx(1.0),
        "n_retrained": 2,
    }
    # Epoch 2: 0.5, 0.4, 0.6: likewise.
    assert second["tau_search"] == pytest.approx(1 / 3)
    assert last["tau_search"] is None  # a number compared with itself says nothing
    assert last["tau_retrained"] == pytest.approx(1.0)


def test_rung_taus_when_nothing_is_complete_then_are_undefined(row):
    assert rung_taus([row(0, "pruned", [0.5])], (1, 3), []) == [
        {"epochs": rung, "tau_search": None, "n_search": 0, "tau_retrained": None, "n_retrained": 0} for rung in (1, 3)
    ]
