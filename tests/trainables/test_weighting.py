"""Specification of `trainables.weighting` and of the AEKD weights of teachers, with reference values from numpy."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from trainables.ensembles import ENSEMBLES
from trainables.losses import LOSSES, Answer
from trainables.weighting import ALPHAS, TEMPERATURES, WEIGHTINGS, sample_losses

RNG = np.random.default_rng(6)
LABELS = np.array([0, 2, 1, 4, 4, 3])
S, T = RNG.normal(size=(2, 6, 5)) * 2
HEATS = np.array([0.5, 1.0, 2.0, 3.0, 4.0, 8.0])
BY_SAMPLE = [name for name, loss in LOSSES.items() if loss.by_sample]

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def confidence(logits: np.ndarray, labels: np.ndarray = LABELS) -> np.ndarray:
    return WEIGHTINGS["confidence"](torch.tensor(logits), torch.tensor(labels)).numpy()


def per_sample(logits: np.ndarray, start: float = 5.0, end: float = 1.0) -> np.ndarray:
    return TEMPERATURES["per_sample"](torch.tensor(logits), start, end).numpy()


def test_fixed_counts_every_sample_alike():
    assert (WEIGHTINGS["fixed"](torch.tensor(T), torch.tensor(LABELS)) == torch.ones(6)).all()


def test_confidence_is_the_probability_of_the_label_times_one_minus_the_relative_entropy():
    expected = []
    for t, label in zip(T, LABELS, strict=True):
        p = softmax(t)
        expected.append(p[label] * (1 + (p * np.log(p)).sum() / np.log(5)))
    np.testing.assert_allclose(confidence(T), expected, rtol=1e-9)


def test_confidence_is_1_for_right_and_certain_and_0_for_wrong_or_a_guess():
    right, wrong, guess = np.eye(5)[[0]] * 1e4, np.eye(5)[[3]] * 1e4, np.zeros((1, 5))
    np.testing.assert_allclose(
        confidence(np.concatenate([right, wrong, guess]), np.zeros(3, int)), [1, 0, 0], atol=1e-9
    )


def test_confidence_stays_from_0_to_1_for_single_precision_guesses():
    logits = torch.rand(2000, 10, generator=torch.Generator().manual_seed(0)) * 1e-4
    found = WEIGHTINGS["confidence"](logits, torch.zeros(2000, dtype=torch.long))
    assert ((found >= 0) & (found <= 1)).all()


def uncertainty(raw: np.ndarray) -> torch.nn.Module:
    module = WEIGHTINGS["uncertainty"](len(raw)).double()
    module.raw.data = torch.tensor(raw)
    return module


RAW, LOSS_VALUES = np.array([-0.4, 0.1, 1.3]), np.array([2.0, 0.03, 7.0])


def test_uncertainty_is_the_sum_of_the_losses_by_their_precision_plus_half_the_log_variances():
    s = 3 * np.tanh(RAW)
    expected = (np.exp(-s) * LOSS_VALUES + s / 2).sum()
    assert uncertainty(RAW)(list(torch.tensor(LOSS_VALUES))).item() == pytest.approx(expected, rel=1e-12)


def test_uncertainty_is_the_plain_sum_at_first():
    found = WEIGHTINGS["uncertainty"](3)([torch.tensor(float(x)) for x in LOSS_VALUES])
    assert found.item() == pytest.approx(LOSS_VALUES.sum())


@pytest.mark.parametrize(("raw", "bound"), [(1e6, 3.0), (-1e6, -3.0)])
def test_uncertainty_keeps_the_log_variance_within_3(raw, bound):
    found = uncertainty(np.full(2, raw))([torch.tensor(2.0), torch.tensor(0.5)]).item()
    assert found == pytest.approx(2.5 * math.exp(-bound) + bound, rel=1e-9)


def test_uncertainty_gradient_weighs_each_loss_and_moves_each_parameter_by_what_its_loss_is_worth():
    module, losses = uncertainty(RAW), [torch.tensor(x, requires_grad=True) for x in LOSS_VALUES]
    module(losses).backward()
    s = 3 * np.tanh(RAW)
    np.testing.assert_allclose([loss.grad for loss in losses], np.exp(-s), rtol=1e-9)
    slope = (0.5 - np.exp(-s) * LOSS_VALUES) * 3 * (1 - np.tanh(RAW) ** 2)
    np.testing.assert_allclose(module.raw.grad.numpy(), slope, rtol=1e-9)


@pytest.mark.parametrize(("start", "end"), [(5.0, 1.0), (2.0, 6.0)])
def test_per_sample_runs_linearly_in_the_confidence_from_end_for_a_guess_to_start_for_certainty(start, end):
    expected = [end + (start - end) * (softmax(t).max() - 0.2) / 0.8 for t in T]
    np.testing.assert_allclose(per_sample(T, start, end), expected, rtol=1e-9)


def test_per_sample_is_start_for_certainty_and_end_for_a_guess():
    np.testing.assert_allclose(per_sample(np.stack([np.eye(5)[2] * 1e4, np.zeros(5)])), [5, 1])


def curriculum(start: float = 4.0, end: float = 1.0, theta: float = 0.0) -> torch.nn.Module:
    module = TEMPERATURES["curriculum"](start, end).double()
    module.theta.data = torch.tensor(theta, dtype=torch.float64)
    return module


@pytest.mark.parametrize("progress", [0.0, 0.03, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("start", [4.0, 1.0])
def test_curriculum_is_start_at_first_whatever_the_progress(progress, start):
    assert curriculum(start)(progress).item() == pytest.approx(start, rel=1e-12)


@pytest.mark.parametrize("theta", [-30.0, -0.7, 0.4, 30.0])
def test_curriculum_runs_by_a_sigmoid_from_end_to_as_far_beyond_start(theta):
    expected = 1 + 6 / (1 + math.exp(-theta))
    assert curriculum(theta=theta)(0.5).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("progress", "strength"),
    [(0.0, 0.0), (0.025, (1 - math.sqrt(0.5)) / 2), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (1.0, 1.0)],
)
@pytest.mark.parametrize("theta", [0.0, 0.8])
def test_curriculum_gradient_is_reversed_and_grows_by_a_cosine_over_the_first_tenth(progress, strength, theta):
    module = curriculum(theta=theta)
    module(progress).backward()
    sigmoid = 1 / (1 + math.exp(-theta))
    assert module.theta.grad.item() == pytest.approx(-strength * 6 * sigmoid * (1 - sigmoid), abs=1e-12)


def test_curriculum_moves_by_gradient_descent_to_where_the_students_loss_is_higher():
    module, student, teacher = curriculum(), Answer(torch.tensor(S), torch.tensor(S)), Answer(*[torch.tensor(T)] * 2)

    def of_temperature(temperature: float) -> float:
        p, q = softmax(T / temperature), softmax(S / temperature)
        return temperature**2 * float(np.mean([divergence(a, b) for a, b in zip(p, q, strict=True)]))

    before = module(0.5)
    LOSSES["kd"].function(student, teacher, torch.tensor(LABELS), before).backward()
    module.theta.data -= 0.1 * module.theta.grad
    after = module(0.5)
    assert after.item() != before.item()
    assert of_temperature(after.item()) > of_temperature(before.item())


def labels_for(name: str) -> torch.Tensor:
    """Classes, or numbers for a loss on values."""
    return torch.zeros(S.shape) if LOSSES[name].targets == ("values",) else torch.tensor(LABELS)


def losses_by_sample(name: str, heats: np.ndarray, s: np.ndarray = S) -> np.ndarray:
    student, teacher = (Answer(torch.tensor(x), torch.tensor(x)) for x in (s, T))
    return sample_losses(LOSSES[name], student, teacher, labels_for(name), torch.tensor(heats)).numpy()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", BY_SAMPLE)
def test_losses_of_the_samples_have_the_loss_of_the_batch_as_their_mean(name, temperature):
    student, teacher = (Answer(torch.tensor(x), torch.tensor(x)) for x in (S, T))
    whole = LOSSES[name].function(student, teacher, labels_for(name), temperature).item()
    rows = losses_by_sample(name, np.full(6, temperature))
    assert rows.shape == (6,)
    assert rows.mean() == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(
    "name",
    BY_SAMPLE,
)
def test_losses_of_the_samples_come_without_a_warning_of_pytorch(name):
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else only the first call of the process warns
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            losses_by_sample(name, HEATS)
    finally:
        torch.set_warn_always(always)


@pytest.mark.parametrize("name", BY_SAMPLE)
def test_loss_of_a_sample_does_not_depend_on_the_other_samples(name):
    changed = np.concatenate([S[:1], RNG.normal(size=(5, 5))])
    before, after = losses_by_sample(name, HEATS), losses_by_sample(name, HEATS, changed)
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert (after[1:] != before[1:]).any()


def test_kd_of_the_samples_is_the_divergence_at_the_temperature_of_each():
    expected = [
        heat**2 * divergence(softmax(t / heat), softmax(s / heat)) for s, t, heat in zip(S, T, HEATS, strict=True)
    ]
    np.testing.assert_allclose(losses_by_sample("kd", HEATS), expected, rtol=1e-9)


def test_kd_of_the_samples_has_the_gradient_of_kd_at_the_temperature_of_each_and_none_for_the_teacher():
    student, teacher = torch.tensor(S, requires_grad=True), torch.tensor(T, requires_grad=True)
    rows = sample_losses(
        LOSSES["kd"], Answer(student, student), Answer(teacher, teacher), torch.tensor(LABELS), torch.tensor(HEATS)
    )
    weights = np.arange(1.0, 7.0)
    (torch.tensor(weights) * rows).sum().backward()
    heat = HEATS[:, None]
    expected = weights[:, None] * heat * (softmax(S / heat) - softmax(T / heat))
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert teacher.grad is None


def aekd(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Weights of the teachers `[T]`, the same for all samples."""
    found = ENSEMBLES["gradient"](
        torch.tensor(logits), torch.tensor(LABELS), temperature, torch.Generator(), torch.tensor(S)
    ).numpy()
    assert found.shape == logits.shape[:2]
    assert (found == found[:, :1]).all()
    return found[:, 0]


def length(weights: np.ndarray, logits: np.ndarray, temperature: float) -> float:
    rows = softmax(S / temperature) - softmax(logits / temperature)
    return float((np.tensordot(weights, rows, axes=1) ** 2).sum())


def near(distance: float) -> np.ndarray:
    return S + distance * RNG.normal(size=(6, 5))


PAIRS = {
    "alike far": np.stack([near(2.0), near(2.0)]),
    "first nearer": np.stack([near(0.1), near(3.0)]),
    "second nearer": np.stack([near(3.0), near(0.1)]),
    "opposite": np.stack([S + 0.6 * T, S - 0.6 * T]),
}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("pair", PAIRS)
def test_gradient_weights_of_two_teachers_are_the_best_of_a_fine_grid_from_0_4_to_0_6(pair, temperature):
    logits, grid = PAIRS[pair], np.linspace(0.4, 0.6, 2001)
    best = min(grid, key=lambda w: length(np.array([w, 1 - w]), logits, temperature))
    assert aekd(logits, temperature) == pytest.approx([best, 1 - best], abs=1e-4)


def test_gradient_weights_give_no_teacher_more_than_0_6_even_where_it_alone_would_be_best():
    assert aekd(PAIRS["first nearer"], 1.0) == pytest.approx([0.6, 0.4], abs=1e-9)
    assert aekd(PAIRS["second nearer"], 1.0) == pytest.approx([0.4, 0.6], abs=1e-9)


def test_gradient_weights_of_two_teachers_can_lie_inside_the_bounds():
    assert 0.41 < aekd(PAIRS["opposite"], 1.0)[0] < 0.59


def several(teachers: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return S + draw.normal(size=(teachers, 6, 5)) * draw.uniform(0.3, 3, size=(teachers, 1, 1))


@pytest.mark.parametrize("seed", range(4))
def test_gradient_weights_of_three_teachers_are_near_the_best_of_a_grid(seed):
    logits, steps = several(3, seed), np.linspace(0, 0.6, 121)
    grid = [(a, b, 1 - a - b) for a, b in itertools.product(steps, steps) if -1e-9 <= 1 - a - b <= 0.6 + 1e-9]
    best = min(length(np.array(weights), logits, 2.0) for weights in grid)
    assert length(aekd(logits, 2.0), logits, 2.0) <= best * 1.05


@pytest.mark.parametrize("teachers", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_gradient_weights_keep_the_bounds_sum_to_one_and_beat_the_average(teachers, seed):
    logits = several(teachers, seed)
    found = aekd(logits, 2.0)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    assert found.min() >= 0
    assert found.max() <= 0.6 + 1e-9
    assert length(found, logits, 2.0) < length(np.full(teachers, 1 / teachers), logits, 2.0)


@pytest.mark.parametrize("teachers", [5, 8])
def test_gradient_weights_of_many_teachers_are_the_shortest_within_one_percent(teachers):
    for seed in range(10):
        logits = several(teachers, seed)
        best = minimize(
            length,
            np.full(teachers, 1 / teachers),
            args=(logits, 2.0),
            bounds=[(0, 0.6)] * teachers,
            constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1}],
            options={"ftol": 1e-12},
        )
        assert length(aekd(logits, 2.0), logits, 2.0) <= best.fun * 1.01


def test_gradient_weights_are_alike_where_all_teachers_answer_alike():
    assert aekd(np.stack([T, T, T]), 2.0) == pytest.approx([1 / 3] * 3)


def test_gradient_weight_of_a_single_teacher_is_1():
    assert aekd(T[None], 2.0) == pytest.approx([1])


@pytest.mark.parametrize("registry", [WEIGHTINGS, TEMPERATURES, ALPHAS], ids=["weightings", "temperatures", "alphas"])
def test_policy_is_described_with_summary(registry):
    for row in registry.describe():
        assert row["summary"].endswith(".")
