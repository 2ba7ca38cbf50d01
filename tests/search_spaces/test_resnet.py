"""Specification of `search_spaces.resnet`."""

import pytest
import torch
from torch import nn

from search_spaces import KdnasError, ResNetSpace, decode, tap_shapes
from search_spaces.resnet import build_resnet, resnet_architecture, resnet_point

SMALL = {
    "stem.width": 4,
    "stage1.depth": 1,
    "stage1.width": 4,
    "stage1.kernel": 3,
    "stage1.block": "basic",
    "stage2.depth": 1,
    "stage2.width": 6,
    "stage2.kernel": 5,
    "stage2.block": "bottleneck",
    "stage3.depth": 1,
    "stage3.width": 8,
    "stage3.kernel": 3,
    "stage3.block": "separable",
}


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_are_those_counted_by_hand():
    # A convolution has in * out * k^2 weights (divided by its groups), a batch norm 2 for each channel.
    stem = 1 * 4 * 9 + 8
    basic = 2 * (4 * 4 * 9 + 8)
    bottleneck = (4 * 3 + 6) + (3 * 3 * 25 + 6) + (3 * 6 + 12) + (4 * 6 + 12)
    separable = (6 * 9 + 12) + (6 * 8 + 16) + (8 * 9 + 16) + (8 * 8 + 16) + (6 * 8 + 16)
    classifier = 8 * 10 + 10
    assert size(build_resnet(SMALL, (1, 8, 8), 10)) == stem + basic + bottleneck + separable + classifier == 1115


def test_parameters_are_the_published_272474_when_it_is_resnet20_with_projections():
    # He 2016, table 6 says 0.27 million; with 1x1 projection shortcuts and batch norm it is 272,474.
    architecture = resnet_architecture(16, (16, 32, 64), (3, 3, 3))
    assert size(build_resnet(architecture, (3, 32, 32), 10)) == 272_474


def test_first_stage_keeps_the_resolution_and_later_ones_halve_it():
    model = build_resnet(SMALL, (1, 9, 8), 10)
    shapes = tap_shapes(model, (1, 9, 8), model.taps)
    assert shapes == {
        "stage1": (4, 9, 8),
        "stage2": (6, 5, 4),
        "stage3": (8, 3, 2),
        "penultimate": (8,),
        "logits": (10,),
    }


@pytest.mark.parametrize("block", ["basic", "bottleneck", "bottleneck4", "separable"])
def test_every_block_answers_when_the_image_is_one_pixel(block):
    architecture = resnet_architecture(1, (1, 2), (2, 1), kernel=5, block=block)
    assert build_resnet(architecture, (3, 1, 1), 2).eval()(torch.rand(1, 3, 1, 1)).shape == (1, 2)


def test_space_with_other_options_offers_exactly_these():
    space = ResNetSpace(stages=1, stem_widths=(5,), widths=(7,), depths=(2,), kernels=(1,), blocks=("basic",))
    only = {"stem.width": 5, "stage1.depth": 2, "stage1.width": 7, "stage1.kernel": 1, "stage1.block": "basic"}
    assert dict(decode(space, only)) == only
    assert space.taps() == ("stage1", "penultimate", "logits")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stages": 0}, "space.stages"),
        ({"stem_widths": ()}, "space.stem_widths"),
        ({"blocks": ()}, "space.blocks"),
        ({"widths": (8, 0)}, "space.widths"),
        ({"stem_widths": (-1,)}, "space.stem_widths"),
        ({"depths": (0,)}, "space.depths"),
        ({"kernels": (3, 4)}, "space.kernels"),
        ({"kernels": (-1,)}, "space.kernels"),
        ({"blocks": ("basic", "transformer")}, "space.blocks"),
    ],
)
def test_space_refuses_impossible_options_with_the_field(options, field):
    with pytest.raises(KdnasError) as caught:
        ResNetSpace(**options)
    assert caught.value.field == field


@pytest.mark.parametrize(("widths", "depths"), [((8, 16), (1,)), ((), ()), ((8,), (1, 1))])
def test_resnet_architecture_refuses_depths_that_do_not_match_the_widths(widths, depths):
    with pytest.raises(KdnasError, match="one depth for each width"):
        resnet_architecture(8, widths, depths)


@pytest.mark.parametrize(
    ("name", "params"),
    # What is counted for the networks of He 2016 (table 1) with a 3x3 stem and ten classes: torchvision's counts for
    # ImageNet (11,689,512 for ResNet-18) less its stem and classifier, plus these.
    [
        ("resnet10", 4_903_242),
        ("resnet18", 11_689_512 - 7 * 7 * 3 * 64 - 513_000 + 3 * 3 * 3 * 64 + 5_130),
        ("resnet34", 21_797_672 - 7 * 7 * 3 * 64 - 513_000 + 3 * 3 * 3 * 64 + 5_130),
        ("resnet50", 25_557_032 - 7 * 7 * 3 * 64 - 2_049_000 + 3 * 3 * 3 * 64 + 20_490),
        ("resnet101", 44_549_160 - 7 * 7 * 3 * 64 - 2_049_000 + 3 * 3 * 3 * 64 + 20_490),
        ("resnet152", 60_192_808 - 7 * 7 * 3 * 64 - 2_049_000 + 3 * 3 * 3 * 64 + 20_490),
    ],
)
def test_published_networks_have_the_published_parameters(name, params):
    with torch.device("meta"):
        assert size(build_resnet(resnet_point(name), (3, 32, 32), 10)) == params


def test_published_networks_scale_with_the_width():
    small = build_resnet(resnet_point("resnet50", width=4), (1, 8, 8), 10)
    assert tap_shapes(small, (1, 8, 8), ["stage1", "stage4"]) == {"stage1": (16, 8, 8), "stage4": (128, 1, 1)}


@pytest.mark.parametrize(("name", "width", "field"), [("resnet19", 64, "name"), ("resnet18", 0, "width")])
def test_resnet_point_refuses_what_does_not_exist(name, width, field):
    with pytest.raises(KdnasError) as caught:
        resnet_point(name, width)
    assert caught.value.field == field


def test_inputs_of_one_pixel_get_kernels_of_one():
    model = build_resnet(resnet_architecture(4, (4, 8), (1, 1)), (10, 1, 1), 2)
    assert {module.kernel_size for module in model.modules() if isinstance(module, torch.nn.Conv2d)} == {(1, 1)}
    assert model(torch.zeros(3, 10, 1, 1)).shape == (3, 2)
