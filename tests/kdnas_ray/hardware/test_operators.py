"""Specification of `kdnas_ray.hardware.operators`: values by hand, and those published for known networks."""

import random

import pytest
import torch
from published_networks import mobilenet_v3_small, resnet
from torch import nn

from kdnas_ray.hardware.counting import count
from kdnas_ray.hardware.operators import ALL_KINDS, operators
from search_spaces import SPACES, sample

SHAPE = (3, 8, 8)


class Small(nn.Module):
    """A convolution, its activation in place, an addition, a pooling, a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True))
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.conv(x)
        x = x + self.depthwise(x)
        return self.head(x.mean((2, 3)))


def test_operators_when_counted_by_hand_then_agree():
    found = operators(Small, SHAPE)
    image, map_ = 3 * 64, 4 * 16
    assert [(o.kind, o.macs, o.params, o.reads, o.writes) for o in found.each] == [
        ("conv", 16 * 4 * 27, 108, image, map_),
        ("relu", 0, 0, map_, map_),
        ("depthwise_conv", 16 * 4 * 9, 36 + 4, map_, map_),
        ("add", 0, 0, 2 * map_, map_),
        ("pool", 0, 0, map_, 4),
        ("linear", 40, 50, 4, 10),
    ]
    assert found.each[0].shape == (3, 4, 3, 2, 1, 4)
    assert found.macs == 16 * 4 * 36 + 40
    assert found.params == 108 + 8 + 40 + 50
    assert found.peak == 192 + 3 * map_  # the caller keeps the image; two maps are added to a third


def test_convolutions_when_not_square_then_both_sides_are_kept():
    def described(kernel, stride=1, padding=0):
        (found,) = operators(lambda: nn.Conv2d(3, 4, kernel, stride, padding), SHAPE).each
        return found.kind, found.shape

    assert described(1) == ("pointwise_conv", (3, 4, 1, 1, 1, 8))
    assert described((3, 1), 1, (1, 0)) == ("conv", (3, 4, 1, 1, 1, 8, 3, 1, 8))
    assert described((1, 3), 1, (0, 1)) == ("conv", (3, 4, 3, 1, 1, 8, 1, 1, 8))
    assert described(3, (2, 1), 1) == ("conv", (3, 4, 3, 1, 1, 8, 3, 2, 4))


def test_operators_when_the_batch_grows_then_work_grows_and_weights_do_not():
    one, four = operators(Small, SHAPE), operators(Small, SHAPE, batch=4)
    assert four.macs == 4 * one.macs
    assert four.params == one.params
    assert four.peak == 4 * one.peak


@pytest.mark.parametrize(
    ("build", "params", "gmacs"),
    [
        (lambda: resnet((2, 2, 2, 2), False), 11_689_512, 1.814),
        (lambda: resnet((3, 4, 6, 3), True), 25_557_032, 4.089),
        (mobilenet_v3_small, 2_542_856, 0.0565),
    ],
    ids=["resnet18", "resnet50", "mobilenet_v3_small"],
)
def test_operators_when_a_known_network_then_have_the_published_size(build, params, gmacs):
    shape = (3, 224, 224)
    found = operators(build, shape)
    assert found.params == params
    assert found.macs / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert count(build, shape) == {"params": params, "flops": 2 * found.macs}


@pytest.mark.parametrize("name", SPACES)
def test_operators_when_of_any_space_then_agree_with_the_flop_counter_and_have_known_kinds(name):
    space = SPACES[name]()
    architecture, shape = sample(space, random.Random(0)), (3, 16, 16)

    def build():
        return space.build(architecture, shape, 10)

    found = operators(build, shape)
    assert {"params": found.params, "flops": 2 * found.macs} == count(build, shape)
    assert {operator.kind for operator in found.each} <= set(ALL_KINDS) - {"other"}
    assert found.peak >= 3 * 16 * 16


def test_operators_when_counted_then_leave_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    operators(Small, SHAPE)
    assert torch.equal(torch.rand(2), expected)
