"""Specification that every registered loss keeps, and of the projector."""

import numpy as np
import pytest
import torch

from trainables.losses import LOSSES, Answer, Projector

LABELS = torch.tensor([0, 1, 2, 3])
LOGITS, FEATURE = (4, 5), (4, 3, 2, 2)


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


def answer(seed: int, dtype=torch.float64, grad: bool = False) -> Answer:
    draw = torch.Generator().manual_seed(seed)
    logits, feature = (torch.randn(shape, generator=draw, dtype=dtype) for shape in (LOGITS, FEATURE))
    return Answer(logits.requires_grad_(grad), feature.requires_grad_(grad))


def copied(other: Answer) -> Answer:
    return Answer(other.logits.clone(), other.feature.clone())


CROSS_ENTROPIES = ("nkd",)  # smallest, but not zero, where the student equals the teacher


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in CROSS_ENTROPIES])
def test_loss_is_zero_when_the_student_equals_the_teacher(name, temperature):
    teacher, loss = answer(0), LOSSES[name]
    assert loss.function(copied(teacher), teacher, LABELS, temperature).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_loss_is_a_finite_positive_scalar_when_they_differ(loss, seed):
    value = loss.function(answer(seed), answer(seed + 100), LABELS, 3.0)
    assert value.shape == ()
    assert 0 < value.item() < float("inf")


def test_gradient_reaches_what_the_loss_reads_of_the_student_and_nothing_of_the_teacher(loss):
    student, teacher = answer(1, grad=True), answer(2, grad=True)
    loss.function(student, teacher, LABELS, 3.0).backward()
    read, other = (student.feature, student.logits) if loss.feature else (student.logits, student.feature)
    assert read.grad.abs().sum() > 0
    assert other.grad is None
    assert teacher.logits.grad is None
    assert teacher.feature.grad is None


def test_gradient_agrees_with_finite_differences(loss):
    student, teacher = answer(1, grad=True), answer(2)
    assert torch.autograd.gradcheck(
        lambda logits, feature: loss.function(Answer(logits, feature), teacher, LABELS, 2.5),
        (student.logits, student.feature),
    )


def test_gradient_step_brings_the_student_nearer_to_the_teacher(loss):
    student, teacher = answer(1, grad=True), answer(2)
    before = loss.function(student, teacher, LABELS, 2.0)
    before.backward()
    step = [x - 0.01 * x.grad if x.grad is not None else x for x in (student.logits, student.feature)]
    assert loss.function(Answer(*step), teacher, LABELS, 2.0) < before


@pytest.mark.parametrize("shape", [(4, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.projected or not loss.feature])
def test_loss_raises_when_the_shapes_differ_even_where_torch_would_broadcast(name, shape):
    loss = LOSSES[name]
    part, teacher = "feature" if loss.feature else "logits", answer(2)
    wrong = torch.zeros(*shape, *getattr(teacher, part).shape[2:], dtype=torch.float64)
    student = Answer(**{"logits": teacher.logits, "feature": teacher.feature, part: wrong})
    with pytest.raises(ValueError, match="differ in shape"):
        loss.function(student, teacher, LABELS, 2.0)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.feature and not loss.projected])
def test_loss_compares_features_of_any_number_of_channels_and_any_size(name):
    teacher = answer(2)
    wide = torch.randn((4, 7, 4, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value = LOSSES[name].function(Answer(teacher.logits, wide), teacher, LABELS, 1.0)
    assert value.shape == ()
    assert 0 < value.item() < float("inf")


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.maps])
def test_loss_on_maps_raises_when_it_is_given_vectors(name):
    vectors = Answer(torch.zeros(4, 5), torch.ones(4, 3))
    with pytest.raises(ValueError, match="must be maps"):
        LOSSES[name].function(vectors, vectors, LABELS, 1.0)


def test_loss_stays_finite_when_logits_are_huge(loss):
    student, teacher = answer(1, torch.float32), answer(2, torch.float32)
    huge = Answer((student.logits * 6e4).requires_grad_(), (student.feature * 1e4).requires_grad_())
    value = loss.function(huge, Answer(teacher.logits * -6e4, teacher.feature), LABELS, 1.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(huge.feature.grad if loss.feature else huge.logits.grad).all()


def test_loss_is_described_with_summary_and_source():
    for row in LOSSES.describe():
        assert row["summary"].endswith(".")
        assert row["source"]


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
def test_kd_value_is_the_divergence_of_the_softened_outputs_times_the_temperature_squared(temperature):
    student, teacher = answer(1), answer(2)
    p, q = (softmax(x.logits.numpy() / temperature) for x in (teacher, student))
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    value = LOSSES["kd"].function(student, teacher, LABELS, temperature)
    assert value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_kd_gradient_is_the_difference_of_the_softened_outputs_times_the_temperature(temperature):
    student, teacher = answer(1, grad=True), answer(2)
    LOSSES["kd"].function(student, teacher, LABELS, temperature).backward()
    p, q = (softmax(x.logits.detach().numpy() / temperature) for x in (teacher, student))
    np.testing.assert_allclose(student.logits.grad.numpy(), temperature * (q - p) / len(LABELS), atol=1e-12)


def test_kd_gradient_keeps_its_size_when_the_temperature_is_high():
    # Hinton 2015, eq. 4: it tends to (student - teacher) / (batch * classes) for logits of mean 0.
    student, teacher = answer(1), answer(2)
    zero_mean = [x.logits - x.logits.mean(dim=1, keepdim=True) for x in (student, teacher)]
    limit = (zero_mean[0] - zero_mean[1]) / (LOGITS[0] * LOGITS[1])
    for temperature in (500.0, 1000.0):
        logits = student.logits.clone().requires_grad_()
        LOSSES["kd"].function(Answer(logits, student.feature), teacher, LABELS, temperature).backward()
        torch.testing.assert_close(logits.grad, limit, atol=1e-3, rtol=0)


def test_hint_value_is_the_mean_squared_difference():
    student, teacher = answer(1), answer(2)
    expected = ((student.feature.numpy() - teacher.feature.numpy()) ** 2).mean()
    assert LOSSES["hint"].function(student, teacher, LABELS, 9.0).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("student", "teacher", "common"),
    [
        ((4, 8, 8), (6, 4, 4), (6, 4, 4)),
        ((4, 4, 4), (6, 8, 8), (6, 4, 4)),
        ((4, 8, 2), (6, 4, 4), (6, 4, 2)),
        ((4, 5, 5), (6, 5, 5), (6, 5, 5)),
        ((4,), (6,), (6,)),
    ],
)
def test_projector_brings_both_features_to_the_teachers_channels_and_the_smaller_size(student, teacher, common):
    projected, target = Projector(student, teacher)(torch.rand(2, *student), torch.rand(2, *teacher))
    assert projected.shape == target.shape == (2, *common)


def test_projector_averages_the_larger_map_and_leaves_the_smaller_alone():
    small, large = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 4, 4)
    _, target = Projector((3, 2, 2), (3, 4, 4))(small, large)
    torch.testing.assert_close(target, large.view(2, 3, 2, 2, 2, 2).mean(dim=(3, 5)))
    _, kept = Projector((3, 4, 4), (3, 2, 2))(large, small)
    assert torch.equal(kept, small)
