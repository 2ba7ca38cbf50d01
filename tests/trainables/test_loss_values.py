"""Reference values of the losses, computed here in numpy from the papers' formulas."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from search_spaces import KdnasError
from trainables.losses import LOSSES, Answer, check_feature

RNG = np.random.default_rng(0)
LABELS = np.array([0, 2, 1, 4, 4, 3])
S, T = RNG.normal(size=(2, 6, 5)) * 2
FS, FT = RNG.normal(size=(6, 3, 4, 4)), RNG.normal(size=(6, 3, 4, 4))
WIDE = RNG.normal(size=(6, 7, 2, 2))


def value(name: str, temperature: float = 1.0, fs: np.ndarray = FS, ft: np.ndarray = FT) -> float:
    student, teacher = (Answer(torch.tensor(x), torch.tensor(f)) for x, f in ((S, fs), (T, ft)))
    return LOSSES[name].function(student, teacher, torch.tensor(LABELS), temperature).item()


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def others(p: np.ndarray, label: int) -> np.ndarray:
    rest = np.delete(p, label)
    return rest / rest.sum()


def units(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_is_the_binary_divergence_plus_eight_times_that_among_the_other_classes(temperature):
    expected = 0.0
    for s, t, label in zip(S, T, LABELS, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        binary = divergence(np.array([p[label], 1 - p[label]]), np.array([q[label], 1 - q[label]]))
        expected += binary + 8 * divergence(others(p, label), others(q, label))
    assert value("dkd", temperature) == pytest.approx(temperature**2 * expected / len(S), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_with_the_teachers_own_weights_is_kd(temperature):
    """Zhao 2022, eq. 6: KD is DKD with alpha 1 and beta 1 - p_true of the teacher, sample by sample."""
    loss = LOSSES["dkd"].function
    total = 0.0
    for s, t, label in zip(S, T, LABELS, strict=True):
        student, teacher = (Answer(torch.tensor(x[None]), torch.zeros(1, 1)) for x in (s, t))
        beta = 1 - softmax(t / temperature)[label]
        total += loss(student, teacher, torch.tensor([label]), temperature, alpha=1.0, beta=beta).item()
    assert value("kd", temperature) == pytest.approx(total / len(S), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_one_minus_the_correlations_of_rows_and_of_columns(temperature):
    p, q = softmax(T / temperature), softmax(S / temperature)
    rows = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)]
    columns = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)]
    expected = np.mean(rows) + np.mean(columns)
    assert value("dist", temperature) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kd_standardised_is_kd_of_z_scores_and_ignores_shift_and_scale(temperature):
    z = [(x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True) for x in (T, S)]
    p, q = (softmax(x / temperature) for x in z)
    expected = temperature**2 * np.mean([divergence(a, b) for a, b in zip(p, q, strict=True)])
    assert value("kd_standardised", temperature) == pytest.approx(expected, rel=1e-5)
    same = Answer(torch.tensor(3 * T + 5), torch.zeros(1))
    other = Answer(torch.tensor(T), torch.zeros(1))
    loss = LOSSES["kd_standardised"].function(same, other, torch.tensor(LABELS), temperature)
    assert loss.item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_nkd_is_the_soft_target_part_plus_the_normalised_others(temperature):
    expected = 0.0
    for s, t, label in zip(S, T, LABELS, strict=True):
        expected -= softmax(t)[label] * np.log(softmax(s)[label])
        q, p = others(softmax(s / temperature), label), others(softmax(t / temperature), label)
        expected -= 1.5 * temperature**2 * (p * np.log(q)).sum()
    assert value("nkd", temperature) == pytest.approx(expected / len(S), rel=1e-9)


def test_normalised_hint_is_the_squared_distance_of_the_directions():
    a, b = (units(x.reshape(6, -1)) for x in (FS, FT))
    assert value("normalised_hint") == pytest.approx(((a - b) ** 2).sum(axis=1).mean(), rel=1e-9)


def test_attention_compares_normalised_maps_of_squared_activations():
    a, b = (units((x**2).mean(axis=1).reshape(6, -1)) for x in (FS, FT))
    assert value("attention") == pytest.approx(((a - b) ** 2).sum(axis=1).mean(), rel=1e-9)


def test_attention_averages_the_larger_map_down():
    small = FS.reshape(6, 3, 2, 2, 2, 2).mean(axis=(3, 5))
    a, b = (units((x**2).mean(axis=1).reshape(6, -1)) for x in (small, WIDE))
    assert value("attention", ft=WIDE) == pytest.approx(((a - b) ** 2).sum(axis=1).mean(), rel=1e-9)


def test_nst_is_the_discrepancy_of_the_channels_under_the_squared_kernel():
    a, b = (units(x.reshape(6, x.shape[1], -1)) for x in (FS.reshape(6, 3, 2, 2, 2, 2).mean(axis=(3, 5)), WIDE))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return np.mean([[[(u @ v) ** 2 for v in q] for u in p] for p, q in zip(x, y, strict=True)])

    expected = kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)
    assert value("nst", ft=WIDE) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_wise_is_the_divergence_over_places_averaged_over_channels_and_batch(temperature):
    p, q = (softmax(x.reshape(18, 16) / temperature) for x in (FT, FS))
    expected = temperature**2 * sum(divergence(a, b) for a, b in zip(p, q, strict=True)) / 18
    assert value("channel_wise", temperature) == pytest.approx(expected, rel=1e-9)


def test_pearson_features_is_one_minus_the_mean_correlation_of_the_channels():
    correlations = [np.corrcoef(FS[:, c].ravel(), FT[:, c].ravel())[0, 1] for c in range(3)]
    assert value("pearson_features") == pytest.approx(1 - np.mean(correlations), rel=1e-5)


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def distances(x: np.ndarray) -> np.ndarray:
    return np.array([[np.linalg.norm(a - b) for b in x] for a in x])


def test_rkd_distance_compares_distances_relative_to_their_mean():
    relative = []
    for x in (FS.reshape(6, -1), WIDE.reshape(6, -1)):
        d = distances(x)
        relative.append(d / d[d > 0].mean())
    expected = np.mean([[huber(a - b) for a, b in zip(p, q, strict=True)] for p, q in zip(*relative, strict=True)])
    assert value("rkd_distance", ft=WIDE) == pytest.approx(expected, rel=1e-9)


def angle(x: np.ndarray, i: int, j: int, k: int) -> float:
    """Cosine at corner i of the triangle i, j, k; 0 where two corners are the same."""
    a, b = x[j] - x[i], x[k] - x[i]
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 0 else 0.0


def test_rkd_angle_compares_the_angles_of_all_triangles():
    s, t = FS.reshape(6, -1), WIDE.reshape(6, -1)
    found = [huber(angle(s, i, j, k) - angle(t, i, j, k)) for i in range(6) for j in range(6) for k in range(6)]
    assert value("rkd_angle", ft=WIDE) == pytest.approx(np.mean(found), rel=1e-9)


def test_similarity_compares_the_batchs_similarity_matrices():
    a, b = (units(x.reshape(6, -1) @ x.reshape(6, -1).T) for x in (FS, WIDE))
    assert value("similarity", ft=WIDE) == pytest.approx(((a - b) ** 2).sum() / 36, rel=1e-9)


def test_correlation_compares_gaussian_kernels_up_to_the_second_order_of_their_series():
    kernels = []
    for x in (FS, WIDE):
        d = units(x.reshape(6, -1))
        inner = np.array([[u @ v for v in d] for u in d])
        kernels.append(np.exp(-0.8) * (1 + 0.8 * inner + 0.32 * inner**2))
    assert value("correlation", ft=WIDE) == pytest.approx(((kernels[0] - kernels[1]) ** 2).mean(), rel=1e-9)


def test_correlation_kernel_is_near_the_gaussian_where_features_are_alike():
    from trainables.losses.relations import _gaussian_kernel

    x = units(np.ones((4, 8)) + 0.1 * RNG.normal(size=(4, 8)))
    exact = np.exp(-0.4 * distances(x) ** 2)
    np.testing.assert_allclose(_gaussian_kernel(torch.tensor(x)).numpy(), exact, atol=0.06)
    assert math.isclose(0.8**3 / 6 * np.exp(-0.8), 0.0383, rel_tol=1e-2)  # the first term that is left out


def test_pkt_is_the_divergence_of_the_shifted_cosines():
    rows = []
    for x in (FS, WIDE):
        d = units(x.reshape(6, -1))
        affinity = (d @ d.T + 1) / 2
        rows.append(affinity / affinity.sum(axis=1, keepdims=True))
    expected = (rows[1] * np.log(rows[1] / rows[0])).mean()
    assert value("pkt", ft=WIDE) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "similarity", "correlation", "pkt"])
@pytest.mark.parametrize("make", [np.zeros, np.ones])
def test_relation_has_a_finite_gradient_where_all_samples_are_alike(name: str, make: Callable):
    student = torch.tensor(make((6, 4)), requires_grad=True)
    teacher = Answer(torch.zeros(6, 5), torch.tensor(FT.reshape(6, -1)))
    LOSSES[name].function(Answer(torch.zeros(6, 5), student), teacher, torch.tensor(LABELS), 1.0).backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    ("name", "student", "teacher", "problem"),
    [
        ("hint", (4, 8, 8), (16,), "one is a map, one a vector"),
        ("attention", (8,), (16,), "compares maps"),
        ("nst", (4, 8, 8), (16,), "compares maps"),
        ("channel_wise", (8,), (8,), "compares maps"),
    ],
)
def test_feature_when_the_loss_cannot_read_it_is_refused(name, student, teacher, problem):
    with pytest.raises(KdnasError, match=problem) as caught:
        check_feature(name, "stage9", student, teacher)
    assert caught.value.value == "stage9"
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["rkd_distance", "similarity", "pkt"])
def test_feature_of_any_kind_is_read_by_relations(name):
    check_feature(name, "penultimate", (4, 8, 8), (16,))
