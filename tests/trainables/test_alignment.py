"""Specification of `trainables.alignment`: which of a teacher's logits speak of which class of the task."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from search_spaces import KdnasError
from trainables.alignment import UNKNOWN, Aligned, agreeing, align
from trainables.ensembles import combine
from trainables.losses import Answer
from trainables.losses.logits import kd

TASK = ("cat", "dog", "owl")
ANSWERS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, -1.0, 2.5, 0.0]])


class Fixed(nn.Module):
    """Answers the same rows to anything; one tap."""

    taps = ("inner", "logits")

    def forward(self, x):
        return ANSWERS[: len(x)]

    def forward_taps(self, x, names):
        seen = {"inner": x, "logits": self(x)}
        return self(x), {name: seen[name] for name in names}


def aligned(theirs, mapping=None, width=4):
    return align(theirs, width, TASK, mapping or {})


def test_classes_in_the_same_order_stay_as_they_are_without_a_word():
    found = align(TASK, 3, TASK, {})
    assert found.straight
    assert found.speaks
    assert found.remark() == ""


def test_classes_without_names_are_taken_in_order_and_that_is_said():
    found = align((), 3, TASK, {})
    assert found.straight
    assert "in the order of the task's classes" in found.remark()


def test_classes_in_another_order_are_matched_by_name():
    found = aligned(("owl", "cat", "dog"), width=3)
    assert found.sources == ((1,), (2,), (0,))
    assert not found.straight
    assert found.remark() == "3 of the task's 3 classes are matched"


def test_superset_leaves_out_the_others_and_says_so():
    found = aligned(("emu", "owl", "dog", "cat"))
    assert found.sources == ((3,), (2,), (1,))
    assert found.unused == ("emu",)
    assert found.remark().endswith("left out are its 1 other classes (emu)")
    logits = Aligned(Fixed(), found)(torch.zeros(2, 1, 1, 1))
    assert torch.equal(logits, ANSWERS[:, [3, 2, 1]])


def test_subset_says_nothing_about_the_rest_and_which_they_are():
    found = aligned(("dog", "emu", "ant", "cat"))
    assert found.untaught == ("owl",)
    assert found.speaks
    assert "it teaches nothing about owl" in found.remark()
    model = Aligned(Fixed(), found)
    logits, seen = model.forward_taps(torch.zeros(2, 1, 1, 1), ("inner", "logits"))
    assert torch.equal(logits[:, :2], ANSWERS[:, [3, 0]])
    assert (logits[:, 2] == UNKNOWN).all()
    assert torch.equal(seen["logits"], ANSWERS)  # as a feature they are the teacher's own
    assert model.taps == Fixed.taps


def test_other_classes_leave_the_features_alone():
    found = aligned(("a", "b", "c", "d"))
    assert not found.speaks
    assert found.remark() == "it knows none of the task's 3 classes; students learn from its features alone"


def test_mapping_goes_before_names_and_several_classes_may_mean_one():
    found = aligned(("tabby", "tiger", "dog", "owl"), {"tabby": "cat", "tiger": "cat"})
    assert found.sources == ((0, 1), (2,), (3,))
    logits = Aligned(Fixed(), found)(torch.zeros(2, 1, 1, 1))
    summed = F.softmax(ANSWERS, dim=1)
    torch.testing.assert_close(F.softmax(logits, dim=1)[:, 0], summed[:, 0] + summed[:, 1])


def test_mapping_names_positions_where_the_teacher_has_no_names():
    assert aligned((), {0: "owl", "2": "cat"}).sources == ((2,), (), (0,))


@pytest.mark.parametrize(
    ("theirs", "width", "mapping", "field", "problem"),
    [
        ((), 4, {}, "teachers.classes", "answers with 4 logits, the task has 3 classes"),
        (("a", "b"), 4, {}, "teachers.classes", "answers with 4 logits"),
        (("a", "b", "a"), 3, {}, "teachers.classes", "comes twice"),
        (("a", "b", "c"), 3, {"d": "cat"}, "teachers.mapping", "the teacher has no such class"),
        (("a", "b", "c"), 3, {"a": "cow"}, "teachers.mapping", "the task has no such class"),
        ((), 4, {4: "cat"}, "teachers.mapping", "the teacher has no such class"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_the_field(theirs, width, mapping, field, problem):
    with pytest.raises(KdnasError, match=problem) as caught:
        align(theirs, width, TASK, mapping)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("half", [False, True])
def test_of_unknown_classes_the_answer_is_the_students_so_only_known_ones_are_learned(temperature, half):
    torch.manual_seed(0)
    student = torch.randn(5, 4, requires_grad=True)
    teacher = torch.randn(5, 4)
    teacher[:, 2:] = UNKNOWN
    teacher = teacher.half().float() if half else teacher  # as the bank keeps it
    answer = agreeing(teacher[None], student.detach(), temperature)[0]
    theirs, own = F.softmax(answer / temperature, dim=1), F.softmax(student / temperature, dim=1)
    torch.testing.assert_close(theirs[:, 2:], own[:, 2:].detach())
    # By hand: the divergence over the known classes, times the student's probability of them.
    known = [F.log_softmax(x[:, :2] / temperature, dim=1) for x in (teacher, student)]
    apart = (known[0].exp() * (known[0] - known[1])).sum(dim=1)
    expected = temperature**2 * (own[:, :2].sum(dim=1) * apart).mean()
    labels = torch.zeros(5, dtype=torch.long)
    loss = kd(Answer(student, student), Answer(answer, answer), labels, temperature)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient[:, 2:].abs().max() < 1e-6
    assert gradient[:, :2].abs().max() > 1e-3


def test_teacher_that_knows_no_class_agrees_with_the_student():
    student = torch.randn(3, 4)
    nothing = torch.full((1, 3, 4), UNKNOWN)
    assert torch.equal(agreeing(nothing, student, 2.0)[0], student)
    assert torch.equal(combine(nothing, torch.zeros(3, dtype=torch.long), 2.0, student=student), student)


def test_known_answers_pass_untouched():
    logits = torch.randn(2, 3, 4)
    assert agreeing(logits, torch.randn(3, 4), 2.0) is logits
