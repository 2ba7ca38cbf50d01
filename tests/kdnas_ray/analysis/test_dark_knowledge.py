"""Specification of `kdnas_ray.analysis.dark_knowledge`."""

import numpy as np
import pytest

from kdnas_ray.analysis.dark_knowledge import agreement, calibration_error, likeness, mean_outputs


def logits_of(*rows):
    return np.log(np.array(rows, dtype=np.float64))


def test_mean_outputs_by_hand():
    logits = logits_of([0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1])
    found = mean_outputs(logits, np.array([0, 0, 1]))
    np.testing.assert_allclose(found[:2], [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])
    assert np.isnan(found[2]).all()
    # At temperature 2 probabilities go by their square roots.
    roots = np.sqrt([0.2, 0.7, 0.1])
    np.testing.assert_allclose(mean_outputs(logits, np.array([0, 0, 1]), 2.0)[1], roots / roots.sum())


def test_likeness_looks_off_the_diagonal_only():
    first = np.array([[0.9, 0.08, 0.02], [0.1, 0.8, 0.1], [0.01, 0.3, 0.69]])
    other = 0.5 * first
    np.fill_diagonal(other, [0, 5, 9])
    assert likeness(first, other) == pytest.approx(1)
    off = [0.08, 0.02, 0.1, 0.1, 0.01, 0.3]
    mirrored = [0.1, 0.01, 0.08, 0.3, 0.02, 0.1]
    assert likeness(first, first.T) == pytest.approx(np.corrcoef(off, mirrored)[0, 1])


def test_likeness_when_a_class_is_absent_or_nothing_varies():
    first = np.array([[0.9, 0.08, 0.02], [0.1, 0.8, 0.1], [np.nan] * 3])
    second = np.array([[0.5, 0.16, 0.04], [0.2, 0.5, 0.2], [0.3, 0.1, 0.6]])
    assert likeness(first, second) == pytest.approx(1)
    assert likeness(np.full((3, 3), 0.1), second) is None
    assert likeness(np.eye(2), np.eye(2)) is None


def test_calibration_error_by_hand():
    # Confidences 0.9, 0.92 (bin 14: (13/15, 14/15]), one right: |0.91 - 0.5| twice of four; 0.62, 0.64 (bin 10), both
    # right: |0.63 - 1| twice of four.
    logits = logits_of([0.9, 0.1], [0.08, 0.92], [0.62, 0.38], [0.36, 0.64])
    labels = np.array([0, 0, 0, 1])
    assert calibration_error(logits, labels) == pytest.approx(0.5 * 0.41 + 0.5 * 0.37)


def test_calibration_error_when_sure_and_right_then_0_and_when_sure_and_wrong_then_1():
    logits = np.array([[100.0, 0.0], [0.0, 100.0]])
    assert calibration_error(logits, np.array([0, 1])) == pytest.approx(0)
    assert calibration_error(logits, np.array([1, 0])) == pytest.approx(1)


def test_agreement_by_hand():
    first, second = np.array([[1, 0], [0, 1], [1, 0], [3, 2]]), np.array([[2, 1], [1, 0], [5, 0], [0, 9]])
    assert agreement(first, second) == 0.5
