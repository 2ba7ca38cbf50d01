"""Specification that every registered loss keeps, and of the projector."""

import numpy as np
import pytest
import torch

from trainables.losses import LOSSES as ALL
from trainables.losses import Answer, Projector, Setting

# What takes over a teacher's classifier is no function of two answers: see test_reuse.py.
LOSSES = {name: loss for name, loss in ALL.items() if loss.at != "penultimate"}
LABELS = torch.tensor([0, 1, 2, 3])
LOGITS, FEATURE, DEEPER = (4, 5), (4, 3, 2, 2), (4, 6, 2, 2)


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


def call(name: str, student: Answer, teacher: Answer, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss; one with weights of its own is made anew each time, always with the same weights and draws."""
    loss = LOSSES[name]
    if loss.targets == ("values",):
        labels = torch.zeros(len(labels), 5, dtype=student.logits.dtype)
    if not loss.learned:
        return loss.function(student, teacher, labels, temperature)
    torch.manual_seed(0)
    own, theirs = (
        tuple(tuple(feature.shape[1:]) for feature in (x.features if loss.several else (x.feature,)))
        for x in (student, teacher)
    )
    module = loss.function(Setting(own, theirs, samples=8, classes=5)).to(student.logits.dtype)
    return module(student, teacher, labels, temperature)


def answer(seed: int, dtype=torch.float64, grad: bool = False) -> Answer:
    draw = torch.Generator().manual_seed(seed)
    logits, feature, deeper = (
        torch.randn(shape, generator=draw, dtype=dtype).requires_grad_(grad) for shape in (LOGITS, FEATURE, DEEPER)
    )
    return Answer(logits, feature, (feature, deeper), torch.arange(len(logits)))


def copied(other: Answer) -> Answer:
    return Answer(other.logits.clone(), other.feature.clone())


# Not zero where the student equals the teacher: cross-entropies, a hinge with a margin, what is projected first.
NEVER_ZERO = ("nkd", "label_free", "label_smoothing", "activation_boundary")
NEVER_ZERO += tuple(name for name, loss in LOSSES.items() if loss.learned)
# A weight or temperature in them follows the student without a gradient: see their own tests.
PARTLY_DETACHED = ("wsld", "dtkd", "contrastive", "class_maps")


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NEVER_ZERO])
def test_loss_is_zero_when_the_student_equals_the_teacher(name, temperature):
    teacher = answer(0)
    assert call(name, copied(teacher), teacher, LABELS, temperature).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_loss_is_a_finite_positive_scalar_when_they_differ(name, seed):
    value = call(name, answer(seed), answer(seed + 100), LABELS, 3.0)
    assert value.shape == ()
    assert 0 < value.item() < float("inf")


def test_gradient_reaches_what_the_loss_reads_of_the_student_and_nothing_of_the_teacher(name):
    student, teacher, loss = answer(1, grad=True), answer(2, grad=True), LOSSES[name]
    call(name, student, teacher, LABELS, 3.0).backward()
    read = student.features if loss.several else (student.feature,) if loss.feature else (student.logits,)
    assert all(part.grad.abs().sum() > 0 for part in read)
    for part in (student.logits, *student.features):
        assert part.grad is None or any(part is other for other in read)
    assert all(part.grad is None for part in (teacher.logits, *teacher.features))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in PARTLY_DETACHED])
def test_gradient_agrees_with_finite_differences(name):
    student, teacher = answer(1, grad=True), answer(2)

    def value(logits, feature, deeper):
        return call(name, Answer(logits, feature, (feature, deeper), student.samples), teacher, LABELS, 2.5)

    assert torch.autograd.gradcheck(value, (student.logits, *student.features))


def test_gradient_step_brings_the_student_nearer_to_the_teacher(name):
    student, teacher = answer(1, grad=True), answer(2)
    before = call(name, student, teacher, LABELS, 2.0)
    before.backward()
    step = [x - 0.001 * x.grad if x.grad is not None else x for x in (student.logits, *student.features)]
    after = call(name, Answer(step[0], step[1], tuple(step[1:]), student.samples), teacher, LABELS, 2.0)
    assert after < before


@pytest.mark.parametrize("shape", [(4, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.projected or loss.reads == "logits"])
def test_loss_raises_when_the_shapes_differ_even_where_torch_would_broadcast(name, shape):
    loss = LOSSES[name]
    part, teacher = "feature" if loss.feature else "logits", answer(2)
    wrong = torch.zeros(*shape, *getattr(teacher, part).shape[2:], dtype=torch.float64)
    student = Answer(**{"logits": teacher.logits, "feature": teacher.feature, part: wrong})
    with pytest.raises(ValueError, match="differ in shape"):
        call(name, student, teacher, LABELS, 2.0)


@pytest.mark.parametrize(
    "name", [name for name, loss in LOSSES.items() if loss.feature and not loss.projected and loss.at is None]
)
def test_loss_compares_features_of_any_number_of_channels_and_any_size(name):
    teacher = answer(2)
    wide = torch.randn((4, 7, 4, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    student = Answer(teacher.logits, wide, samples=teacher.samples)
    value = call(name, student, teacher, LABELS, 1.0)
    assert value.shape == ()
    assert 0 < value.item() < float("inf")


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.maps])
def test_loss_on_maps_raises_when_it_is_given_vectors(name):
    vectors = Answer(torch.zeros(4, 5), torch.ones(4, 3))
    with pytest.raises(ValueError, match="must be maps"):
        call(name, vectors, vectors, LABELS, 1.0)


def test_loss_stays_finite_when_logits_are_huge(name):
    student, teacher = answer(1, torch.float32), answer(2, torch.float32)
    features = tuple((feature * 1e4).requires_grad_() for feature in student.features)
    huge = Answer((student.logits * 6e4).requires_grad_(), features[0], features, student.samples)
    opposite = Answer(teacher.logits * -6e4, teacher.feature, teacher.features, teacher.samples)
    value = call(name, huge, opposite, LABELS, 1.0)
    value.backward()
    assert torch.isfinite(value)
    gradients = [part.grad for part in (huge.logits, *features) if part.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_loss_is_described_with_summary_and_source():
    for row in ALL.describe():
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
