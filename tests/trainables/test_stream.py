"""Specification of `trainables.stream`: groups, what takes part in loss and metric, and how remembering is measured."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from search_spaces.resnet import build_resnet, resnet_architecture
from trainables.stream import Earlier, SeenClasses, Stream, accuracy_matrix, measures, ordered
from trainables.tasks import DigitsTask
from trainables.tasks.base import Data, Split

STREAM = Stream((2, 1, 2))
MATRIX = [[0.9], [0.7, 0.8], [0.5, 0.9, 1.0]]


def test_groups_when_asked_then_number_labels_in_the_order_in_which_they_come():
    assert [STREAM.seen(count) for count in range(4)] == [0, 2, 3, 5]
    assert STREAM.group_of(np.arange(5)).tolist() == [0, 0, 1, 2, 2]
    part = STREAM.part(Split(np.arange(5)[:, None, None, None], np.array([4, 0, 2, 3, 1])), 2)
    assert part.labels.tolist() == [4, 3]
    assert part.images.ravel().tolist() == [0, 3]


def test_ordered_when_groups_name_classes_then_labels_and_names_follow_them():
    split = Split(np.zeros((3, 1, 1, 1), dtype=np.uint8), np.array([0, 1, 2]))
    found = ordered(Data(split, split, split, ("a", "b", "c"), (0.5,), (0.5,)), [["c", "a"], ["b"]])
    assert found.classes == ("c", "a", "b")
    assert found.train.labels.tolist() == [1, 2, 0]
    assert found.test.labels.tolist() == [1, 2, 0]


def test_loss_and_metric_when_classes_have_not_come_then_leave_their_outputs_out():
    task = SeenClasses(DigitsTask(), STREAM, 2)
    logits = torch.tensor([[2.0, 1, 0, 9, 9], [0, 3, 1, 9, 9], [0, 5, 1, 9, 9]], requires_grad=True)
    labels = torch.tensor([0, 1, 2])
    loss = task.loss(logits, labels)
    assert loss.item() == pytest.approx(F.cross_entropy(logits[:, :3], labels).item())
    loss.backward()
    assert (logits.grad[:, 3:] == 0).all()
    assert task.metric(logits, labels) == pytest.approx((1.0 + 0.0) / 2)  # both of group 1, none of group 2


def test_metric_when_groups_differ_in_size_then_counts_each_group_alike():
    logits = F.one_hot(torch.tensor([0, 0, 0, 0, 1])).float()
    logits = F.pad(logits, (0, 3))
    labels = torch.tensor([0, 0, 0, 0, 2])
    assert SeenClasses(DigitsTask(), STREAM, 2).metric(logits, labels) == 0.5


def test_earlier_self_when_asked_then_has_no_logits_for_later_classes():
    model: nn.Module = build_resnet(resnet_architecture(4, (4,), (1,)), (1, 8, 8), 5).eval()
    x = torch.rand(2, 1, 8, 8)
    logits, taps = Earlier(model, 3).forward_taps(x, ("stage1",))
    torch.testing.assert_close(logits, model(x)[:, :3])
    torch.testing.assert_close(taps["stage1"], model.forward_taps(x, ("stage1",))[1]["stage1"])


def test_measures_when_computed_by_hand_then_agree():
    found = measures(MATRIX)
    assert found["incremental_accuracy"] == pytest.approx((0.9 + 0.75 + 0.8) / 3)
    assert found["old_accuracy"] == pytest.approx((0.5 + 0.9) / 2)
    # the best earlier accuracy is 0.9 on the first group, 0.8 on the second, which got better: less than nothing
    assert found["forgetting"] == pytest.approx(((0.9 - 0.5) + (0.8 - 0.9)) / 2)


def test_measures_when_one_group_came_then_nothing_is_forgotten():
    assert measures([[0.9]]) == {"incremental_accuracy": 0.9, "forgetting": 0.0}


def test_matrix_when_read_from_a_curve_then_has_a_row_for_each_group_that_ended():
    curve = [
        {"epoch": 1, "val_accuracy": 0.5},
        {"epoch": 2, "group1_accuracy": 0.9},
        {"epoch": 3},
        {"epoch": 4, "group1_accuracy": 0.7, "group2_accuracy": 0.8},
    ]
    assert accuracy_matrix(curve) == [[0.9], [0.7, 0.8]]
