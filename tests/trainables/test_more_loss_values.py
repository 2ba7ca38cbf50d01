"""Reference values of further losses without weights of their own, computed here in numpy from their formulas."""

import numpy as np
import pytest
import torch

from trainables.losses import LOSSES, Answer

RNG = np.random.default_rng(3)
LABELS = np.array([0, 2, 1, 4, 4, 3])
S, T = RNG.normal(size=(2, 6, 5)) * 2
FS, FT = RNG.normal(size=(6, 3, 4, 4)), RNG.normal(size=(6, 3, 4, 4))


def value(
    name: str,
    temperature: float = 1.0,
    fs: np.ndarray = FS,
    ft: np.ndarray = FT,
    s: np.ndarray = S,
    t: np.ndarray = T,
    labels: np.ndarray = LABELS,
) -> float:
    student, teacher = (Answer(torch.tensor(x), torch.tensor(f)) for x, f in ((s, fs), (t, ft)))
    return LOSSES[name].function(student, teacher, torch.tensor(labels), temperature).item()


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def wsld_weights() -> np.ndarray:
    hard_s, hard_t = (-np.log(softmax(x)[np.arange(6), LABELS]) for x in (S, T))
    return 1 - np.exp(-hard_s / hard_t)


def test_logits_mse_is_the_mean_square_of_what_differs_beside_the_mean():
    expected = np.mean([(s[k] - s.mean() - t[k] + t.mean()) ** 2 for s, t in zip(S, T, strict=True) for k in range(5)])
    assert value("logits_mse") == pytest.approx(expected, rel=1e-12)


def test_logits_mse_ignores_a_shift_of_all_logits_of_a_sample():
    shift = RNG.normal(size=(6, 1)) * 10
    assert value("logits_mse", s=S + shift) == pytest.approx(value("logits_mse"), rel=1e-9)
    assert value("logits_mse", s=T + shift) == pytest.approx(0, abs=1e-20)


def test_logits_mse_is_the_limit_of_kd_at_a_high_temperature():
    assert value("kd", 1e4) == pytest.approx(value("logits_mse") / 2, rel=1e-3)


def test_label_free_is_the_cross_entropy_with_the_teachers_most_likely_class():
    expected = np.mean([-np.log(softmax(s)[t.argmax()]) for s, t in zip(S, T, strict=True)])
    assert value("label_free") == pytest.approx(expected, rel=1e-12)


def test_label_free_reads_no_label():
    assert value("label_free", labels=np.zeros(6, dtype=np.int64)) == value("label_free")


def test_label_smoothing_is_the_cross_entropy_with_nine_tenths_label_and_a_tenth_spread_over_all_classes():
    expected = 0.0
    for s, label in zip(S, LABELS, strict=True):
        target = 0.9 * np.eye(5)[label] + 0.1 / 5
        expected -= (target * np.log(softmax(s))).sum() / 6
    assert value("label_smoothing") == pytest.approx(expected, rel=1e-12)


def test_label_smoothing_reads_nothing_of_the_teacher_but_its_shape():
    assert value("label_smoothing", t=T * -7) == value("label_smoothing")


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_wsld_is_kd_weighed_by_how_hard_the_student_finds_the_sample_beside_the_teacher(temperature):
    rows = [divergence(softmax(t / temperature), softmax(s / temperature)) for s, t in zip(S, T, strict=True)]
    expected = temperature**2 * np.mean(wsld_weights() * rows)
    assert value("wsld", temperature) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_wsld_gradient_is_the_gradient_of_kd_times_the_weight_of_the_sample(temperature):
    student = torch.tensor(S, requires_grad=True)
    own, other = Answer(student, student), Answer(torch.tensor(T), torch.tensor(T))
    LOSSES["wsld"].function(own, other, torch.tensor(LABELS), temperature).backward()
    of_kd = temperature * (softmax(S / temperature) - softmax(T / temperature)) / 6
    np.testing.assert_allclose(student.grad.numpy(), wsld_weights()[:, None] * of_kd, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dtkd_shares_twice_the_temperature_by_the_sharpness_of_the_two_models(temperature):
    expected = 0.0
    for s, t in zip(S, T, strict=True):
        x, y = (np.log(np.exp(logits - logits.mean()).sum()) for logits in (t, s))
        heat_t, heat_s = 2 * temperature * x / (x + y), 2 * temperature * y / (x + y)
        expected += heat_t * heat_s * divergence(softmax(t / heat_t), softmax(s / heat_s)) / 6
    assert value("dtkd", temperature) == pytest.approx(expected, rel=1e-9)


def test_dtkd_is_kd_where_both_models_are_alike_sharp():
    permuted = T[:, ::-1].copy()
    assert value("dtkd", 4.0, s=permuted) == pytest.approx(value("kd", 4.0, s=permuted), rel=1e-9)


def test_dtkd_gradient_takes_the_temperatures_as_given():
    student = torch.tensor(S, requires_grad=True)
    own, other = Answer(student, student), Answer(torch.tensor(T), torch.tensor(T))
    LOSSES["dtkd"].function(own, other, torch.tensor(LABELS), 4.0).backward()
    for found, s, t in zip(student.grad.numpy(), S, T, strict=True):
        x, y = (np.log(np.exp(logits - logits.mean()).sum()) for logits in (t, s))
        heat_t, heat_s = 8 * x / (x + y), 8 * y / (x + y)
        np.testing.assert_allclose(found, heat_t * (softmax(s / heat_s) - softmax(t / heat_t)) / 6, rtol=1e-7)


def margin_relu(s: np.ndarray, t: np.ndarray) -> float:
    total = 0.0
    for channel in range(s.shape[1]):
        responses = t[:, channel].ravel()
        negative = [x for x in responses if x < 0]
        margin = sum(negative) / len(negative) if negative else 0.0
        for a, b in zip(s[:, channel].ravel(), responses, strict=True):
            target = max(b, margin)
            if not a <= target <= 0:
                total += (a - target) ** 2
    return total / len(s)


def test_margin_relu_is_the_partial_square_beyond_the_mean_negative_response_of_each_channel():
    assert value("margin_relu") == pytest.approx(margin_relu(FS, FT), rel=1e-9)


def test_margin_relu_reads_vectors_channel_by_channel():
    s, t = FS[:, :, 0, 0], FT[:, :, 0, 0]
    assert value("margin_relu", fs=s, ft=t) == pytest.approx(margin_relu(s, t), rel=1e-9)


def test_margin_relu_has_margin_0_for_a_channel_without_negative_responses():
    t = np.maximum(FT, 0)
    assert value("margin_relu", ft=t) == pytest.approx(margin_relu(FS, t), rel=1e-9)
    below = -np.abs(FS)
    assert value("margin_relu", fs=below, ft=np.zeros_like(FT)) == 0


def test_margin_relu_takes_no_zero_for_a_negative_response():
    t = np.where(FT > 0.5, 0.0, FT)
    assert value("margin_relu", ft=t) == pytest.approx(margin_relu(FS, t), rel=1e-9)


def test_margin_relu_does_not_mind_how_far_below_the_margin_a_response_lies():
    t = np.where(FT < 0, FT, FT - 4)
    assert (t < 0).all()
    assert value("margin_relu", fs=np.full_like(FS, -50.0), ft=t) == 0


@pytest.mark.parametrize("ft", [FT, FT[:, :, 0, 0]], ids=["maps", "vectors"])
def test_activation_boundary_is_the_squared_hinge_on_the_teachers_side_of_each_neuron(ft):
    fs = FS if ft.ndim == 4 else FS[:, :, 0, 0]
    expected = np.mean(
        [max(0, 1 - s) ** 2 if t > 0 else max(0, 1 + s) ** 2 for s, t in zip(fs.ravel(), ft.ravel(), strict=True)]
    )
    assert value("activation_boundary", fs=fs, ft=ft) == pytest.approx(expected, rel=1e-9)


def test_activation_boundary_is_zero_beyond_the_margin_and_counts_a_teachers_zero_as_silent():
    assert value("activation_boundary", fs=np.where(FT > 0, 1.5, -1.0)) == 0
    assert value("activation_boundary", fs=np.ones_like(FS), ft=np.zeros_like(FT)) == 4


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_binary_kd_is_the_summed_divergence_of_each_labels_yes_and_no(temperature):
    p, q = (1 / (1 + np.exp(-x / temperature)) for x in (T, S))
    expected = temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(axis=1).mean()
    assert value("binary_kd", temperature) == pytest.approx(expected)


def test_output_mse_is_the_mean_squared_error_to_the_teacher():
    assert value("output_mse") == pytest.approx(((S - T) ** 2).mean())


def test_output_bounded_counts_the_error_of_samples_where_the_student_is_worse_than_the_teacher():
    truth = RNG.normal(size=S.shape)
    truth[0] = np.nan  # without label
    own, other = ((x - truth) ** 2 for x in (S, T))
    rows = np.where(own.mean(axis=1) > other.mean(axis=1), own.mean(axis=1), 0.0)
    assert 0 < (rows > 0).sum() < len(rows)
    assert value("output_bounded", labels=truth) == pytest.approx(rows.mean())
