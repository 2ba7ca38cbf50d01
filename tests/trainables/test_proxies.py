"""Specification that every registered proxy keeps, and values from computations of another kind."""

import copy
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from search_spaces import ForeignModel, KdnasError, ResNetSpace, TappedModel, sample
from trainables.augment import Augmentation
from trainables.bank import build
from trainables.proxies import PROXIES, Probe, Proxy
from trainables.proxies.diswot import diswot, diswot_relation, diswot_semantic
from trainables.proxies.kernels import jacob_cov, naswot
from trainables.proxies.saliency import fisher, grad_norm, grasp, snip, synflow, zico

SHAPE, CLASSES, BATCH = (1, 8, 8), 10, 16
SPACE = ResNetSpace()


@pytest.fixture(params=PROXIES)
def proxy(request) -> Proxy:
    return PROXIES[request.param]


def network(seed: int) -> TappedModel:
    architecture = sample(SPACE, random.Random(seed))
    torch.manual_seed(seed)
    return SPACE.build(architecture, SHAPE, CLASSES)


def probe(seed: int = 0, batch: int = BATCH) -> Probe:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, *SHAPE, generator=draw)
    labels = torch.randint(0, CLASSES, (batch,), generator=draw)
    teacher = network(100).eval()
    with torch.no_grad():
        logits, taps = teacher.forward_taps(images, ("stage3", "penultimate"))
    return Probe(images, labels, logits, taps)


def vectors(*rows: list[float], labels: tuple[int, ...] = ()) -> Probe:
    images = torch.tensor(rows)
    return Probe(images, torch.tensor(labels or (0,) * len(rows)))


def linear(*weights: list[list[float]]) -> nn.Sequential:
    """Linear layers with these weights and no bias."""
    layers = []
    for weight in weights:
        layer = nn.Linear(len(weight[0]), len(weight), bias=False)
        layer.weight.data = torch.tensor(weight)
        layers.append(layer)
    return nn.Sequential(*layers)


# What every proxy keeps.


@pytest.mark.parametrize("seed", range(4))
def test_score_is_a_finite_number_whatever_the_network(proxy, seed):
    value = proxy(network(seed), probe())
    assert isinstance(value, float)
    assert math.isfinite(value)


@pytest.mark.parametrize("batch", [2, 3])
def test_score_is_finite_on_the_smallest_batches(proxy, batch):
    assert math.isfinite(proxy(network(0), probe(batch=batch)))


@pytest.mark.parametrize("training", [True, False])
def test_model_stays_as_it_was(proxy, training):
    model, asked = network(0).train(training), probe()
    model.classifier.weight.requires_grad_(False)
    model.classifier.bias.grad = torch.ones(CLASSES)
    before, images = copy.deepcopy(model.state_dict()), asked.images.clone()
    grads = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    proxy(model, asked)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == grads
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"classifier.bias"}
    assert torch.equal(model.classifier.bias.grad, torch.ones(CLASSES))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(asked.images, images)
    assert not asked.images.requires_grad


def test_score_is_the_same_again_whatever_the_seed_and_the_mode(proxy):
    model = network(1)
    first = proxy(model, probe())
    torch.manual_seed(99)
    assert proxy(model.eval(), probe()) == first
    assert proxy(copy.deepcopy(model), probe()) == first


def test_score_draws_nothing_and_dropout_is_off(proxy):
    model, asked = network(2), probe()
    model.parts["stage3"].append(nn.Dropout(0.5))
    state = torch.get_rng_state()
    first = proxy(model, asked)
    assert torch.equal(torch.get_rng_state(), state)
    assert proxy(model, asked) == first


def test_score_follows_the_images_where_it_says_so(proxy):
    scores = [proxy(network(3), probe(seed)) for seed in (0, 1)]
    assert (scores[0] != scores[1]) == ("images" in proxy.needs)


@pytest.mark.parametrize("name", PROXIES)
def test_teacher_that_is_needed_and_missing_is_asked_for(name):
    whole, model = probe(), network(0)
    needs = PROXIES[name].needs
    bare = Probe(whole.images, whole.labels)
    if "taps" in needs:
        with pytest.raises(KdnasError, match="teacher"):
            PROXIES[name](model, bare)
    else:
        assert PROXIES[name](model, bare) == PROXIES[name](model, whole)


def test_every_entry_tells_its_source_and_what_it_reads():
    rows = PROXIES.describe()
    assert all(row["summary"] and row["source"] for row in rows)
    assert {row["name"]: row["reads"] for row in rows}["diswot_relation"] == "images, the teacher's taps"
    assert PROXIES["synflow"].reads == "weights only"


def test_probe_of_a_batch_has_the_first_teachers_answers_and_guessed_labels(data, normalise, teacher):
    bank = build(data.train, [teacher.model], normalise, augmentation=Augmentation(), views=1, seed=0, taps=["stage2"])
    batch = bank.batch(np.arange(8), 0, bank.transforms(0), ["stage2"])
    batch.labels[0] = -1
    found = Probe.of(batch, normalise)
    assert found.images.dtype == torch.float32
    assert torch.equal(found.logits, batch.logits[0])
    assert torch.equal(found.taps["stage2"], batch.taps["stage2"])
    assert found.labels[0] == batch.logits[0, 0].argmax()
    assert all(math.isfinite(proxy(network(0), found)) for proxy in PROXIES.values())


def test_transformer_and_network_with_functions_instead_of_modules_are_scored(proxy):
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 12)
            self.block = nn.TransformerEncoderLayer(12, 2, 24, activation="gelu", batch_first=True)
            self.pooled = nn.Identity()
            self.head = nn.Linear(12, CLASSES)

        def forward(self, x):
            return self.head(self.pooled(F.relu(self.block(self.embed(x[:, 0]))).mean(dim=1)))

    torch.manual_seed(0)
    model = ForeignModel(Tokens(), {"penultimate": "pooled"})
    assert math.isfinite(proxy(model, probe()))


# Values.


def test_synflow_of_a_linear_network_counts_every_path_once_a_layer():
    first, second = [[1.0, -2.0], [3.0, 0.5]], [[-1.0, 2.0]]
    paths = sum(abs(second[0][j] * first[j][i]) for i in range(2) for j in range(2))
    assert synflow(linear(first, second), vectors([5.0, 7.0], [1.0, 2.0])) == pytest.approx(2 * paths)


def test_synflow_leaves_norms_out_and_survives_depth():
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))]
    plain = nn.Sequential(*layers[::2])
    layers[1].running_mean.fill_(9.0)
    assert synflow(nn.Sequential(*layers), vectors([0.0] * 4)) == pytest.approx(synflow(plain, vectors([0.0] * 4)))
    deep = linear(*[[[1e6] * 4] * 4] * 20)  # 1e132 and more: infinite in single precision
    assert synflow(deep, vectors([0.0] * 4)) == pytest.approx(20 * 1e120 * 4**21, rel=1e-6)


def softmax_error(logits: np.ndarray, labels: tuple[int, ...]) -> np.ndarray:
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return shares - np.eye(logits.shape[1])[list(labels)]


X, W, Y = [[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0], [2.0, -1.0]], [[0.5, -1.0], [2.0, 0.25]], (0, 1, 1, 0)


def test_snip_and_grad_norm_of_logistic_regression():
    x, w = np.array(X), np.array(W)
    slope = softmax_error(x @ w.T, Y).T @ x / len(x)
    assert snip(linear(W), vectors(*X, labels=Y)) == pytest.approx(np.abs(w * slope).sum())
    assert grad_norm(linear(W), vectors(*X, labels=Y)) == pytest.approx(np.linalg.norm(slope))


def test_grad_norm_adds_a_norm_a_layer():
    second = [[1.0, 0.0], [1.0, -1.0]]
    x, w, v = np.array(X), np.array(W), np.array(second)
    error = softmax_error(x @ w.T @ v.T, Y) / len(x)
    outer, inner = error.T @ (x @ w.T), v.T @ error.T @ x
    expected = np.linalg.norm(outer) + np.linalg.norm(inner)
    assert grad_norm(linear(W, second), vectors(*X, labels=Y)) == pytest.approx(expected)


def test_grasp_of_logistic_regression_agrees_with_a_difference_of_gradients():
    x, w = np.array(X), np.array(W)

    def slope(weights: np.ndarray) -> np.ndarray:
        return softmax_error(x @ weights.T, Y).T @ x / len(x)

    g, step = slope(w), 1e-5
    curved = (slope(w + step * g) - slope(w - step * g)) / (2 * step)  # H g
    assert grasp(linear(W), vectors(*X, labels=Y)) == pytest.approx(-(w * curved).sum(), rel=1e-4)


def test_fisher_of_one_layer_by_hand():
    z = np.array(X) @ np.array(W).T
    products = z * softmax_error(z, Y) / len(z)
    weights = len(W[0])
    assert fisher(linear(W), vectors(*X, labels=Y)) == pytest.approx(weights * (products**2).mean(axis=0).sum() / 2)


def test_fisher_sums_over_places_before_it_squares_and_knows_activations_in_place():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 1)
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images, labels = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 1])
    a = conv(images).detach().numpy()
    error = softmax_error(np.maximum(a, 0).mean(axis=(2, 3)), (0, 1, 1)) / 3
    products = (a * (a > 0) * error[:, :, None, None] / 4).sum(axis=(2, 3))
    assert fisher(model, Probe(images, labels)) == pytest.approx((products**2).mean(axis=0).sum() / 2, rel=1e-5)


def test_zico_of_logistic_regression():
    x, w = np.array(X), np.array(W)
    first, second = (softmax_error(x[part] @ w.T, Y[part]).T @ x[part] / 2 for part in (slice(0, 2), slice(2, 4)))
    both = np.stack([first, second])
    expected = np.log((np.abs(both).mean(axis=0) / both.std(axis=0)).sum())
    assert zico(linear(W), vectors(*X, labels=Y)) == pytest.approx(expected, rel=1e-5)


def test_jacob_cov_agrees_with_numpys_correlations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    images = torch.randn(5, 6, dtype=torch.float64)
    inner, outer = model[0].weight.detach().numpy(), model[2].weight.detach().numpy()
    on = (model[0](images) > 0).numpy()
    values = np.linalg.eigvalsh(np.corrcoef((on * outer.sum(axis=0)) @ inner)) + 1e-5
    expected = -(np.log(values) + 1 / values).sum()
    assert jacob_cov(model, Probe(images, torch.zeros(5, dtype=torch.int64))) == pytest.approx(expected)


def test_jacob_cov_of_a_network_that_ignores_its_input_is_the_worst():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[0].weight)
    probes = vectors([1.0, 0, 0, 0], [0, 1.0, 0, 0])
    assert jacob_cov(model, probes) == pytest.approx(-2 * (math.log(1e-5) + 1e5))


CODES = ([1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, 1.0, 1.0])  # each two differ in two of three units


class Functional(nn.Module):
    def forward(self, x):
        return F.relu(x)


class InPlace(nn.Module):
    def forward(self, x):
        return (x * 1).relu_()


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), Functional(), InPlace(), nn.ReLU6(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(), nn.ELU()],
)
def test_naswot_of_three_samples_by_hand_whatever_the_activation(activation):
    # K = [[3, 1, 1], [1, 3, 1], [1, 1, 3]], |K| = 5 * 2 * 2
    assert naswot(activation, vectors(*CODES)) == pytest.approx(math.log(20))


def test_naswot_adds_up_the_layers():
    twice = nn.Sequential(nn.ReLU(), nn.Hardtanh(-9, 9), nn.Linear(3, 2))  # inputs of the second: 0 or more
    assert naswot(twice, vectors(*CODES)) == pytest.approx(math.log(20 * 2**3))


def test_naswot_of_equal_patterns_is_finite_and_low():
    value = naswot(nn.ReLU(), vectors([1.0, 1.0], [2.0, 3.0], [-1.0, 1.0]))
    assert math.log(1e-5) < value < math.log(1e-5) + 3


def test_naswot_without_activation_is_refused():
    with pytest.raises(KdnasError, match="no activation"):
        naswot(linear(W), vectors(*X))


def test_naswot_sees_every_relu_of_our_blocks():
    model, seen = network(4), probe()
    gates = [m for m in model.modules() if isinstance(m, nn.ReLU) or type(m).__name__ == "Residual"]
    units = []
    hooks = [m.register_forward_hook(lambda _m, _i, out: units.append((out > 0).flatten(1).clone())) for m in gates]
    model(seen.images)
    assert len(units) == len(gates) > sum(isinstance(m, nn.ReLU) for m in gates)
    codes = torch.cat(units, dim=1).double()
    kernel = codes @ codes.T + (1 - codes) @ (1 - codes).T
    for hook in hooks:
        hook.remove()
    assert naswot(model, seen) == pytest.approx(np.linalg.slogdet(kernel.numpy())[1])


def relations(rows: np.ndarray) -> np.ndarray:
    matrix = rows @ rows.T
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_diswot_agrees_with_numpy_and_with_the_gradient_of_the_classifier():
    model, seen = network(5), probe()
    twin = copy.deepcopy(model)
    logits, taps = twin.forward_taps(seen.images, ("stage3", "penultimate"))
    F.cross_entropy(logits, seen.labels).backward()
    teacher = network(100).eval()
    F.cross_entropy(teacher(seen.images), seen.labels).backward()
    classes = [relations(m.classifier.weight.grad.double().numpy()) for m in (twin, teacher)]
    samples = [relations(x.detach().flatten(1).double().numpy()) for x in (taps["stage3"], seen.taps["stage3"])]
    semantic, relation = (-np.linalg.norm(a - b) for a, b in (classes, samples))
    assert diswot_semantic(model, seen) == pytest.approx(semantic, rel=1e-4)
    assert diswot_relation(model, seen) == pytest.approx(relation, rel=1e-4)
    assert diswot(model, seen) == pytest.approx(semantic + relation, rel=1e-4)


def test_diswot_is_zero_where_the_student_is_the_teacher():
    model, seen = network(6), probe()
    logits, taps = copy.deepcopy(model).forward_taps(seen.images, ("stage3", "penultimate"))
    same = Probe(seen.images, seen.labels, logits.detach(), {name: tap.detach() for name, tap in taps.items()})
    assert diswot(model, same) == pytest.approx(0, abs=1e-5)
    assert diswot(model, seen) < -0.1


def test_diswot_of_a_teacher_without_penultimate_pools_its_last_map():
    model, seen = network(7), probe()
    without = Probe(seen.images, seen.labels, seen.logits, {"stage3": seen.taps["stage3"]})
    assert diswot_semantic(model, without) == pytest.approx(diswot_semantic(model, seen), rel=1e-5)


def test_diswot_of_a_model_without_taps_is_refused():
    with pytest.raises(KdnasError, match="features"):
        diswot(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)), probe())
