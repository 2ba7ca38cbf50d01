"""Reference values of the losses with weights or a memory of their own, computed here in numpy from those weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from trainables.losses import LOSSES, Answer, Setting
from trainables.losses.learned import by_depth

RNG = np.random.default_rng(5)
LABELS = np.array([0, 2, 1, 4, 4, 3])
S, T = RNG.normal(size=(2, 6, 5)) * 2
FS, FT = RNG.normal(size=(6, 3, 4, 4)), RNG.normal(size=(6, 3, 4, 4))
WIDE = RNG.normal(size=(6, 7, 2, 2))
STAGES_S = [RNG.normal(size=(6, *shape)) for shape in ((2, 8, 8), (3, 4, 4), (4, 2, 2))]
STAGES_T = [RNG.normal(size=(6, *shape)) for shape in ((5, 8, 8), (3, 8, 8), (6, 4, 4), (2, 4, 4), (7, 4, 4))]
MEMORY = 20
SAMPLES = np.array([3, 19, 0, 7, 12, 5])


def answer(logits: np.ndarray, *features: np.ndarray, samples: np.ndarray | None = None) -> Answer:
    maps = tuple(map(torch.tensor, features))
    return Answer(
        torch.tensor(logits),
        maps[0] if maps else torch.tensor(logits),
        maps,
        None if samples is None else torch.tensor(samples),
    )


def made(name: str, student: list[np.ndarray], teacher: list[np.ndarray], samples: int = MEMORY) -> nn.Module:
    torch.manual_seed(0)
    shapes = (tuple(x.shape[1:] for x in features) for features in (student, teacher))
    return LOSSES[name].function(Setting(*shapes, samples=samples, classes=5)).double()


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def called(module: nn.Module, student: Answer, teacher: Answer, temperature: float = 1.0) -> float:
    return module(student, teacher, torch.tensor(LABELS), temperature).item()


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def units(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def convolved(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    side, (height, width) = kernel.shape[2], x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2))
    out = np.zeros((len(x), len(kernel), height, width)) + bias[:, None, None]
    for i in range(side):
        for j in range(side):
            out += np.einsum("ncij,oc->noij", padded[:, :, i : i + height, j : j + width], kernel[:, :, i, j])
    return out


def shrunk(x: np.ndarray, side: int) -> np.ndarray:
    n, c, height, width = x.shape
    return x.reshape(n, c, side, height // side, side, width // side).mean(axis=(3, 5))


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.1 * x)


def gaussian(fs: np.ndarray, ft: np.ndarray, variance: np.ndarray) -> float:
    v = variance.reshape(1, -1, *[1] * (fs.ndim - 2))
    return float(((ft - fs) ** 2 / (2 * v) + np.log(v) / 2).mean())


@pytest.mark.parametrize(("fs", "ft"), [(FS, FT), (FS[:, :, 0, 0], FT[:, :, 0, 0])], ids=["maps", "vectors"])
def test_variational_is_the_gaussian_likelihood_with_the_learned_variance_of_each_channel(fs, ft):
    module = made("variational", [ft], [ft])
    raw = np.array([-3.0, 0.5, 4.0])
    module.spread.data = torch.tensor(raw)
    expected = gaussian(fs, ft, np.log1p(np.exp(raw)) + 1e-5)
    assert called(module, answer(S, fs), answer(T, ft)) == pytest.approx(expected, rel=1e-9)


def test_variational_has_variance_5_in_every_channel_at_first():
    module = made("variational", [FT], [FT])
    assert called(module, answer(S, FS), answer(T, FT)) == pytest.approx(gaussian(FS, FT, np.full(3, 5.0)), rel=1e-6)


def test_masked_generation_is_the_squared_error_of_two_convolutions_with_a_relu_where_nothing_is_hidden():
    module = made("masked_generation", [FT], [FT])
    module.hidden = 0
    weights = arrays(module)
    inner = np.maximum(convolved(FS, weights, "generate.0"), 0)
    expected = ((convolved(inner, weights, "generate.2") - FT) ** 2).mean()
    assert called(module, answer(S, FS), answer(T, FT)) == pytest.approx(expected, rel=1e-9)


def test_masked_generation_hides_about_half_of_the_places_in_all_channels_and_draws_them_anew():
    wide = np.ones((6, 3, 32, 32))
    module, seen = made("masked_generation", [wide], [wide]), []
    module.generate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy().copy()))
    with torch.no_grad():
        for _ in range(2):
            called(module, answer(S, wide), answer(T, wide))
    for shown in seen:
        assert set(np.unique(shown)) == {0.0, 1.0}
        assert shown.mean(axis=(1, 2, 3)) == pytest.approx(np.full(6, 0.5), abs=0.08)
        assert (shown == shown[:, :1]).all()
    assert (seen[0] != seen[1]).mean() == pytest.approx(0.5, abs=0.05)


def test_factor_transfer_is_the_distance_of_the_unit_factors_plus_a_200th_of_the_decoders_error():
    module = made("factor_transfer", [FS], [WIDE])
    weights = arrays(module)
    small = shrunk(FS, 2)
    code = leaky(convolved(WIDE, weights, "encode.0"))
    assert code.shape[1] == 3
    own = leaky(convolved(small, weights, "translate.0"))
    rebuilt = ((convolved(code, weights, "decode") - WIDE) ** 2).mean()
    expected = np.abs(units(code.reshape(6, -1)) - units(own.reshape(6, -1))).mean() + rebuilt / 200
    assert called(module, answer(S, FS), answer(T, WIDE)) == pytest.approx(expected, rel=1e-9)


def test_factor_transfer_counts_the_decoder_once_after_the_usual_weight():
    assert LOSSES["factor_transfer"].weight == 200


def test_factor_transfer_moves_the_code_by_the_decoders_error_and_not_by_the_students():
    module = made("factor_transfer", [FS], [FT])
    for part in module.decode.parameters():
        part.data.zero_()
    module(answer(S, FS), answer(T, FT), torch.tensor(LABELS), 1.0).backward()
    assert module.translate[0].weight.grad.abs().sum() > 0
    assert all((part.grad == 0).all() for part in module.encode.parameters())
    assert module.decode.weight.grad.abs().sum() > 0


def contrastive_embedded(weights: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    s, t = (
        units(x.reshape(6, -1) @ weights[f"embed_{side}.weight"].T + weights[f"embed_{side}.bias"])
        for x, side in ((FS, "student"), (WIDE, "teacher"))
    )
    return s, t


def contrastive(weights: dict[str, np.ndarray], drawn: np.ndarray, scale: list[float] | None = None) -> float:
    """Value from the weights before the call; `scale`: Z of both directions, from this batch where left out."""
    s, t = contrastive_embedded(weights)
    total, noise = 0.0, drawn.shape[1] / MEMORY
    for side, (own, memory) in enumerate(((s, weights["memory"][1]), (t, weights["memory"][0]))):
        powers = np.exp(own @ memory.T / 0.07)
        z = scale[side] if scale else np.mean([powers[i, j] for i in range(6) for j in drawn[i]]) * MEMORY
        h = powers / z / (powers / z + noise)
        for i in range(6):
            total -= np.log(h[i, SAMPLES[i]]) / 6
            for j in drawn[i]:
                if j != SAMPLES[i] and weights["classes"][j] != LABELS[i]:
                    total -= np.log(1 - h[i, j]) / 6
    return total


def contrastive_made() -> nn.Module:
    return made("contrastive", [FS], [WIDE])


def contrastive_called(module: nn.Module, seed: int = 11) -> tuple[float, np.ndarray]:
    """The value, and the others that were drawn."""
    torch.manual_seed(seed)
    drawn = np.tile(torch.randint(MEMORY, (MEMORY,)).numpy(), (6, 1))
    torch.manual_seed(seed)
    return called(module, answer(S, FS, samples=SAMPLES), answer(T, WIDE, samples=SAMPLES)), drawn


def test_contrastive_is_the_noise_contrastive_estimate_against_the_memory_in_both_directions():
    module = contrastive_made()
    weights = arrays(module)
    found, drawn = contrastive_called(module)
    assert found == pytest.approx(contrastive(weights, drawn), rel=1e-9)


def test_contrastive_keeps_the_scale_of_the_first_batch():
    module = contrastive_made()
    first = arrays(module)
    _, drawn = contrastive_called(module)
    scale = []
    for own, memory in zip(contrastive_embedded(first), first["memory"][::-1], strict=True):
        powers = np.exp(own @ memory.T / 0.07)
        scale.append(np.mean([powers[i, j] for i in range(6) for j in drawn[i]]) * MEMORY)
    second = arrays(module)
    found, drawn = contrastive_called(module, seed=12)
    assert found == pytest.approx(contrastive(second, drawn, scale), rel=1e-9)


def test_contrastive_draws_512_others_at_most():
    module = made("contrastive", [FS], [WIDE], samples=600)
    torch.manual_seed(4)
    called(module, answer(S, FS, samples=SAMPLES), answer(T, WIDE, samples=SAMPLES))
    after = torch.rand(())
    torch.manual_seed(4)
    torch.randint(600, (512,))
    assert torch.rand(()) == after


def test_contrastive_starts_from_a_memory_of_length_1_and_no_known_classes():
    weights = arrays(contrastive_made())
    assert weights["memory"].shape == (2, MEMORY, 128)
    np.testing.assert_allclose(np.linalg.norm(weights["memory"], axis=2), 1, atol=1e-6)
    assert (weights["classes"] == -1).all()


def test_contrastive_moves_the_memory_of_the_batch_halfway_and_back_to_length_1():
    module = contrastive_made()
    before = arrays(module)
    contrastive_called(module)
    after = arrays(module)
    for side, fresh in enumerate(contrastive_embedded(before)):
        expected = before["memory"][side].copy()
        expected[SAMPLES] = units(0.5 * expected[SAMPLES] + 0.5 * fresh)
        np.testing.assert_allclose(after["memory"][side], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(after["memory"][:, SAMPLES], axis=2), 1)
    expected = np.full(MEMORY, -1)
    expected[SAMPLES] = LABELS
    np.testing.assert_array_equal(after["classes"], expected)


def test_contrastive_takes_no_sample_of_the_same_class_for_a_negative():
    module = contrastive_made()
    module.classes[:] = torch.tensor(RNG.integers(5, size=MEMORY))
    weights = arrays(module)
    found, drawn = contrastive_called(module)
    left_out = sum(weights["classes"][j] == LABELS[i] for i in range(6) for j in drawn[i] if j != SAMPLES[i])
    assert left_out > 10
    assert found == pytest.approx(contrastive(weights, drawn), rel=1e-9)


def test_contrastive_without_any_sample_of_another_class_only_pulls_towards_the_positive():
    module = contrastive_made()
    module.classes[:] = 2
    weights = arrays(module)
    torch.manual_seed(11)
    drawn = np.tile(torch.randint(MEMORY, (MEMORY,)).numpy(), (6, 1))
    torch.manual_seed(11)
    own, other = answer(S, FS, samples=SAMPLES), answer(T, WIDE, samples=SAMPLES)
    found = module(own, other, torch.full((6,), 2), 1.0).item()
    expected = 0.0
    for view, memory in zip(contrastive_embedded(weights), weights["memory"][::-1], strict=True):
        powers = np.exp(view @ memory.T / 0.07)
        z = np.mean([powers[i, j] for i in range(6) for j in drawn[i]]) * MEMORY
        positive = powers[np.arange(6), SAMPLES] / z
        expected -= np.log(positive / (positive + 1)).mean()
    assert found == pytest.approx(expected, rel=1e-9)


def test_contrastive_raises_without_the_positions_of_the_samples():
    module = contrastive_made()
    with pytest.raises(ValueError, match="positions in the training data"):
        called(module, answer(S, FS), answer(T, WIDE))


def test_contrastive_has_a_gradient_at_the_first_batch():
    module = contrastive_made()
    feature = torch.tensor(FS, requires_grad=True)
    own = replace(answer(S, FS, samples=SAMPLES), feature=feature)
    module(own, answer(T, WIDE, samples=SAMPLES), torch.tensor(LABELS), 1.0).backward()
    assert torch.isfinite(feature.grad).all()
    assert feature.grad.abs().sum() > 0


def test_contrastive_has_a_gradient_on_both_embeddings_from_the_second_batch_on():
    module = contrastive_made()
    contrastive_called(module)
    feature = torch.tensor(FS, requires_grad=True)
    own = replace(answer(S, FS, samples=SAMPLES), feature=feature)
    module(own, answer(T, WIDE, samples=SAMPLES), torch.tensor(LABELS), 1.0).backward()
    for part in (feature, module.embed_student.weight, module.embed_teacher.weight):
        assert torch.isfinite(part.grad).all()
        assert part.grad.abs().sum() > 0


def flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    side = min(a.shape[2], b.shape[2])
    a, b = shrunk(a, side), shrunk(b, side)
    out = np.zeros((len(a), a.shape[1], b.shape[1]))
    for n in range(len(a)):
        for i in range(side):
            for j in range(side):
                out[n] += np.outer(a[n, :, i, j], b[n, :, i, j]) / side**2
    return out / np.sqrt((out**2).sum(axis=(1, 2), keepdims=True))


def test_flow_matrices_compares_the_flow_between_consecutive_stages_with_the_teachers_at_the_same_depth():
    module = made("flow_matrices", STAGES_S, STAGES_T)
    weights = arrays(module)
    mapped = [convolved(x, weights, f"project.{i}") for i, x in enumerate(STAGES_S)]
    theirs = [STAGES_T[0], STAGES_T[2], STAGES_T[4]]
    apart = [(flow(*mapped[i : i + 2]) - flow(*theirs[i : i + 2])) ** 2 for i in range(2)]
    expected = np.mean([each.sum(axis=(1, 2)).mean() for each in apart])
    assert called(module, answer(S, *STAGES_S), answer(T, *STAGES_T)) == pytest.approx(expected, rel=1e-9)


def by_levels(a: np.ndarray, b: np.ndarray) -> float:
    side = min(a.shape[2], b.shape[2])
    sides = [side, *(level for level in (4, 2, 1) if level < side)]
    shares = [0.5**i for i in range(len(sides))]
    errors = [((shrunk(a, level) - shrunk(b, level)) ** 2).mean() for level in sides]
    return float(np.average(errors, weights=shares))


def test_review_compares_every_stage_fused_with_all_deeper_ones_at_every_level():
    module = made("review", STAGES_S, STAGES_T)
    weights = arrays(module)
    expected, fused = 0.0, None
    for stage, partner in ((2, 4), (1, 2), (0, 0)):
        x = convolved(STAGES_S[stage], weights, f"enter.{stage}")
        if fused is not None:
            fused = fused.repeat(2, axis=2).repeat(2, axis=3)
            z = 1 / (1 + np.exp(-convolved(np.concatenate([x, fused], axis=1), weights, f"attend.{stage}")))
            x = x * z[:, :1] + fused * z[:, 1:]
        fused = x
        expected += by_levels(convolved(x, weights, f"leave.{stage}"), STAGES_T[partner])
    assert called(module, answer(S, *STAGES_S), answer(T, *STAGES_T)) == pytest.approx(expected, rel=1e-9)


def cross_layer_attention(weights: dict[str, np.ndarray], stage: int) -> np.ndarray:
    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x.mean(axis=(2, 3)) @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    query = linear(STAGES_S[stage], f"query.{stage}")
    keys = [linear(t, f"key.{j}") for j, t in enumerate(STAGES_T)]
    return softmax(np.stack([(query * key).sum(axis=1) / np.sqrt(32) for key in keys], axis=1))


def test_cross_layer_is_the_error_of_every_pair_of_stages_weighed_by_the_attention_of_the_sample():
    module = made("cross_layer", STAGES_S, STAGES_T)
    weights = arrays(module)
    rows = []
    for i, s in enumerate(STAGES_S):
        errors = []
        for j, t in enumerate(STAGES_T):
            side = min(s.shape[2], t.shape[2])
            own = convolved(shrunk(s, side), weights, f"projectors.{5 * i + j}.linear")
            errors.append(((own - shrunk(t, side)) ** 2).mean(axis=(1, 2, 3)))
        rows.append((cross_layer_attention(weights, i) * np.stack(errors, axis=1)).sum(axis=1))
    assert called(module, answer(S, *STAGES_S), answer(T, *STAGES_T)) == pytest.approx(np.mean(rows), rel=1e-9)


@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("sample", range(6))
def test_cross_layer_attention_of_every_stage_and_sample_sums_to_one(stage, sample):
    """Errors of 1 in this row and 0 in the others leave the sum of its attention, over the number of rows."""
    module = made("cross_layer", STAGES_S, STAGES_T)
    for index, projector in enumerate(module.projectors):
        projector.linear.weight.data.zero_()
        projector.linear.bias.data.fill_(0.0 if index // 5 == stage else 1.0)
    student = [x[sample : sample + 1] for x in STAGES_S]
    found = called(module, answer(S[:1], *student), answer(T[:1], *(np.ones_like(x[:1]) for x in STAGES_T)))
    assert 3 * found == pytest.approx(1, rel=1e-12)


def test_cross_layer_attention_differs_between_samples_and_stages():
    weights = arrays(made("cross_layer", STAGES_S, STAGES_T))
    found = np.concatenate([cross_layer_attention(weights, i) for i in range(3)])
    assert len(np.unique(found.round(9), axis=0)) == 18


def class_similarity(means: np.ndarray, logits: np.ndarray, temperature: float) -> float:
    p, q = means[LABELS], softmax(logits / temperature)
    return temperature**2 * float((p * np.log(p / q)).sum(axis=1).mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_class_similarity_is_kd_from_the_moving_mean_answer_to_the_class(temperature):
    module = made("class_similarity", [], [])
    means = np.zeros((5, 5))
    for step in range(3):
        s, t = RNG.normal(size=(2, 6, 5)) * 2
        soft = softmax(t / temperature)
        for k in range(5):
            fresh = soft[k == LABELS].mean(axis=0)
            means[k] = fresh if step == 0 else 0.9 * means[k] + 0.1 * fresh
        assert called(module, answer(s), answer(t), temperature) == pytest.approx(
            class_similarity(means, s, temperature), rel=1e-9
        )
        np.testing.assert_allclose(module.means.numpy(), means, rtol=1e-9)


def test_class_similarity_leaves_the_mean_of_a_class_that_is_not_in_the_batch():
    module = made("class_similarity", [], [])
    called(module, answer(S), answer(T), 2.0)
    before = arrays(module)["means"]
    module(answer(S[:2]), answer(S[:2]), torch.tensor([1, 1]), 2.0)
    after = arrays(module)["means"]
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(after[others], before[others])
    np.testing.assert_allclose(after[1], 0.9 * before[1] + 0.1 * softmax(S[:2] / 2).mean(axis=0))


def test_class_similarity_starts_a_class_with_the_first_answer_to_it_however_late_it_comes():
    module = made("class_similarity", [], [])
    for _ in range(3):
        module(answer(S[:1]), answer(T[:1]), torch.tensor([0]), 1.0)
    module(answer(S[:1]), answer(T[3:4]), torch.tensor([4]), 1.0)
    np.testing.assert_allclose(module.means[4].numpy(), softmax(T[3]))
    assert (module.means[1:4] == 0).all()


def test_class_similarity_gradient_pulls_towards_the_mean_of_the_class():
    module = made("class_similarity", [], [])
    student = torch.tensor(S, requires_grad=True)
    module(Answer(student, student), answer(T), torch.tensor(LABELS), 3.0).backward()
    means = np.stack([softmax(T / 3)[label == LABELS].mean(axis=0) for label in LABELS])
    np.testing.assert_allclose(student.grad.numpy(), 3 * (softmax(S / 3) - means) / 6, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("count", "others", "partners"),
    [
        (1, 4, (3,)),
        (2, 5, (0, 4)),
        (3, 5, (0, 2, 4)),
        (4, 4, (0, 1, 2, 3)),
        (5, 3, (0, 0, 1, 2, 2)),
        (4, 5, (0, 1, 3, 4)),
        (3, 1, (0, 0, 0)),
    ],
)
def test_layers_meet_the_one_at_the_same_relative_depth(count, others, partners):
    assert by_depth(count, others) == partners


@pytest.mark.parametrize("count", range(2, 8))
@pytest.mark.parametrize("others", range(1, 8))
def test_layers_meet_in_order_from_first_to_last_half_a_step_off_at_most(count, others):
    found = by_depth(count, others)
    assert (found[0], found[-1]) == (0, others - 1)
    assert list(found) == sorted(found)
    assert all(abs(j - i * (others - 1) / (count - 1)) <= 0.5 for i, j in enumerate(found))


def test_shared_space_is_the_supervised_contrast_of_both_models_in_both_directions():
    module = made("shared_space", [FS], [WIDE])
    weights = arrays(module)

    def embedded(x: np.ndarray, which: str) -> np.ndarray:
        rows = x.reshape(6, -1) @ weights[f"embed_{which}.weight"].T + weights[f"embed_{which}.bias"]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    near = embedded(FS, "student") @ embedded(WIDE, "teacher").T / 0.1
    total = 0.0
    for scores in (near, near.T):
        chances = softmax(scores)
        for i in range(6):
            own = [p for p in range(6) if LABELS[p] == LABELS[i]]
            total -= sum(np.log(chances[i, p]) for p in own) / len(own) / 6
    assert called(module, answer(S, FS), answer(T, WIDE)) == pytest.approx(total / 2, rel=1e-9)
