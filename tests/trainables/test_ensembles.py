"""Specification of `trainables.ensembles`, with reference values from numpy."""

import numpy as np
import pytest
import torch

from trainables.alignment import UNKNOWN
from trainables.ensembles import ENSEMBLES, combine

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(3, 4, 5)) * 2
LABELS = np.array([0, 2, 4, 1])


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def weights(policy: str, temperature: float = 3.0, logits: np.ndarray = LOGITS) -> np.ndarray:
    torch.manual_seed(0)
    shares = torch.ones(len(logits))
    student = torch.zeros(4, 5, dtype=torch.float64)
    return ENSEMBLES[policy](torch.tensor(logits), torch.tensor(LABELS), temperature, shares, student).numpy()


@pytest.mark.parametrize("policy", ENSEMBLES)
@pytest.mark.parametrize("teachers", [1, 2, 3])
def test_weights_of_every_policy_sum_to_one_for_each_sample(policy, teachers):
    found = weights(policy, logits=LOGITS[:teachers])
    assert found.shape == (teachers, 4)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=0), 1)


def test_entropy_weighs_by_the_inverse_entropy_of_the_softened_output():
    p = softmax(LOGITS / 3.0)
    inverse = 1 / -(p * np.log(p)).sum(axis=2)
    np.testing.assert_allclose(weights("entropy"), inverse / inverse.sum(axis=0))


def test_confidence_weighs_by_the_cross_entropy_with_the_label():
    losses = -np.log(softmax(LOGITS)[:, np.arange(4), LABELS])
    expected = (1 - np.exp(losses) / np.exp(losses).sum(axis=0)) / 2
    np.testing.assert_allclose(weights("confidence"), expected)


def test_confidence_trusts_a_teacher_that_is_right_more_than_one_that_is_wrong():
    right, wrong = np.zeros((4, 5)), np.zeros((4, 5))
    right[np.arange(4), LABELS], wrong[np.arange(4), (LABELS + 1) % 5] = 9, 9
    found = weights("confidence", logits=np.stack([right, wrong]))
    assert (found[0] > 0.99).all()


def test_random_takes_one_teacher_a_batch_and_all_of_them_in_turn():
    torch.manual_seed(0)
    logits, labels, shares = torch.tensor(LOGITS), torch.tensor(LABELS), torch.ones(3)
    drawn = [ENSEMBLES["random"](logits, labels, 1.0, shares, logits[0]).numpy() for _ in range(60)]
    assert all(sorted(found[:, 0]) == [0, 0, 1] and (found == found[:, :1]).all() for found in drawn)
    assert {int(found[:, 0].argmax()) for found in drawn} == {0, 1, 2}


def test_random_draws_each_teacher_as_often_as_its_share_says():
    torch.manual_seed(0)
    logits = torch.tensor([[[9.0, 0.0]], [[0.0, 9.0]]])
    answers = [int(combine(logits, torch.tensor([0]), 1.0, "random", (9.0, 1.0)).argmax()) for _ in range(400)]
    assert np.mean(answers) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("policy", ["average", "entropy", "confidence"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_combined_answer_softens_to_the_mixture_of_the_softened_answers(policy, temperature):
    found = combine(torch.tensor(LOGITS), torch.tensor(LABELS), temperature, policy).numpy()
    expected = (weights(policy, temperature)[..., None] * softmax(LOGITS / temperature)).sum(axis=0)
    np.testing.assert_allclose(softmax(found / temperature), expected, atol=1e-12)


def test_combined_kd_has_the_gradient_of_the_weighted_sum_of_the_teachers_own_losses():
    from trainables.losses import LOSSES, Answer

    labels, temperature = torch.tensor(LABELS), 3.0
    student = torch.randn((4, 5), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    nothing = torch.zeros(1)

    def gradient(loss) -> torch.Tensor:
        logits = student.clone().requires_grad_()
        loss(Answer(logits, nothing)).backward()
        return logits.grad

    kd = LOSSES["kd"].function
    mixed = combine(torch.tensor(LOGITS), labels, temperature)
    one = gradient(lambda s: kd(s, Answer(mixed, nothing), labels, temperature))
    three = gradient(
        lambda s: sum(kd(s, Answer(torch.tensor(t), nothing), labels, temperature) for t in LOGITS) / len(LOGITS)
    )
    torch.testing.assert_close(one, three)


def test_shares_leave_a_teacher_out_or_weigh_it():
    labels = torch.tensor(LABELS)
    only = combine(torch.tensor(LOGITS), labels, 2.0, shares=(0.0, 1.0, 0.0)).numpy()
    np.testing.assert_allclose(softmax(only / 2), softmax(LOGITS[1] / 2), atol=1e-6)
    found = combine(torch.tensor(LOGITS), labels, 2.0, shares=(3.0, 1.0, 0.0)).numpy()
    expected = 0.75 * softmax(LOGITS[0] / 2) + 0.25 * softmax(LOGITS[1] / 2)
    np.testing.assert_allclose(softmax(found / 2), expected, atol=1e-6)


def test_one_teacher_answers_as_it_is():
    logits = torch.tensor(LOGITS[:1])
    assert torch.equal(combine(logits, torch.tensor(LABELS), 3.0, "entropy"), logits[0])


def test_combined_answer_to_labels_has_the_mean_probability_of_each_label():
    logits, heat = torch.tensor(LOGITS), 2.0
    found = combine(logits, torch.zeros(4, 5), heat, targets="labels")
    expected = torch.sigmoid(logits / heat).mean(dim=0)
    torch.testing.assert_close(torch.sigmoid(found / heat), expected)


def test_combined_answer_to_values_is_the_mean_by_shares():
    logits = torch.tensor(LOGITS)
    found = combine(logits, torch.zeros(4, 5), 1.0, shares=(1.0, 3.0, 0.0), targets="values")
    torch.testing.assert_close(found, 0.25 * logits[0] + 0.75 * logits[1])


@pytest.mark.parametrize("targets", ["labels", "values"])
def test_answer_is_never_unknown_where_targets_are_labels_or_values(targets):
    far = torch.tensor([[[UNKNOWN, 1.0]]])
    student = torch.ones(1, 2)
    assert torch.equal(combine(far, torch.zeros(1, 2), 1.0, student=student, targets=targets), far[0])
    assert not torch.equal(combine(far, torch.zeros(1, dtype=torch.long), 1.0, student=student), far[0])
