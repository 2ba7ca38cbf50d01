"""Specification of `search_spaces.mobilenet`."""

import pytest
import torch
from torch import nn

from search_spaces import KdnasError, MobileNetSpace, decode, tap_shapes
from search_spaces.mobilenet import InvertedResidual, SqueezeExcite, conv_act

SMALL = {"stem.width": 4} | {
    f"stage{stage}.{trait}": value
    for stage, values in (
        (1, (1, 4, 3, 1, False, "relu")),
        (2, (2, 6, 5, 3, False, "hswish")),
        (3, (1, 8, 7, 2, True, "relu")),
    )
    for trait, value in zip(("depth", "width", "kernel", "expansion", "squeeze", "activation"), values, strict=True)
}


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_parameters_are_those_counted_by_hand():
    # A convolution has in * out * k^2 weights (divided by its groups), a batch norm 2 for each channel.
    stem = 1 * 4 * 9 + 8
    stage1 = (4 * 9 + 8) + (4 * 4 + 8)
    stage2 = (4 * 12 + 24) + (12 * 25 + 24) + (12 * 6 + 12) + (6 * 18 + 36) + (18 * 25 + 36) + (18 * 6 + 12)
    squeeze = (12 * 8 + 8) + (8 * 12 + 12)
    stage3 = (6 * 12 + 24) + (12 * 49 + 24) + squeeze + (12 * 8 + 16)
    classifier = 8 * 10 + 10
    space = MobileNetSpace(widths=(4, 6, 8))
    built = space.build(decode(space, SMALL), (1, 8, 8), 10)
    assert size(built) == stem + stage1 + stage2 + stage3 + classifier


def test_blocks_make_the_published_mobilenet_v2_of_3504872_parameters():
    # Sandler 2018, table 2: expansion, width, repeats, stride. 3,504,872 is what torchvision counts.
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    width, parts = 32, [*conv_act(3, 32, 3, "relu", stride=2)]
    for expansion, out, repeats, stride in table:
        for index in range(repeats):
            parts.append(InvertedResidual(width, out, expansion * width, stride=stride if index == 0 else 1))
            width = out
    parts += [*conv_act(width, 1280, 1, "relu"), nn.Linear(1280, 1000)]
    assert size(*parts) == 3_504_872


def test_blocks_make_the_published_mobilenet_v3_small_of_2542856_parameters():
    # Howard 2019, table 2: kernel, inner width, width, squeeze-excite. 2,542,856 is what torchvision counts.
    table = (
        (3, 16, 16, True), (3, 72, 24, False), (3, 88, 24, False), (5, 96, 40, True), (5, 240, 40, True),
        (5, 240, 40, True), (5, 120, 48, True), (5, 144, 48, True), (5, 288, 96, True), (5, 576, 96, True),
        (5, 576, 96, True),
    )  # fmt: skip
    width, parts = 16, [*conv_act(3, 16, 3, "hswish", stride=2)]
    for kernel, inner, out, squeeze in table:
        parts.append(InvertedResidual(width, out, inner, kernel, squeeze=squeeze, activation="hswish"))
        width = out
    parts += [*conv_act(width, 576, 1, "hswish"), nn.Linear(576, 1024), nn.Linear(1024, 1000)]
    assert size(*parts) == 2_542_856


def test_first_stage_keeps_the_resolution_and_later_ones_halve_it():
    space = MobileNetSpace(widths=(4, 6, 8))
    model = space.build(decode(space, SMALL), (3, 9, 8), 10)
    shapes = {"stage1": (4, 9, 8), "stage2": (6, 5, 4), "stage3": (8, 3, 2), "penultimate": (8,), "logits": (10,)}
    assert tap_shapes(model, (3, 9, 8), model.taps) == shapes


def test_activation_of_a_stage_is_the_one_decided():
    space = MobileNetSpace(widths=(4, 6, 8))
    parts = space.build(decode(space, SMALL), (1, 8, 8), 10).parts
    assert not any(isinstance(module, nn.Hardswish) for module in parts["stage1"].modules())
    assert sum(isinstance(module, nn.Hardswish) for module in parts["stage2"].modules()) == 4
    assert not any(isinstance(module, nn.ReLU) for module in parts["stage2"].modules())


def test_shortcut_joins_the_ends_only_where_they_fit():
    for block, joined in ((InvertedResidual(4, 4, 8), True), (InvertedResidual(4, 6, 8), False)):
        images = torch.rand(2, 4, 5, 5)
        block.eval()
        nn.init.zeros_(block.body[-1].weight)  # the last batch norm: the body answers 0
        expected = images if joined else torch.zeros(2, 6, 5, 5)
        torch.testing.assert_close(block(images), expected)
    assert not InvertedResidual(4, 4, 8, stride=2).shortcut


def test_squeeze_excite_weighs_channels_between_0_and_1_the_same_at_every_place():
    images = torch.rand(2, 8, 5, 4) + 0.5
    weights = SqueezeExcite(8)(images) / images
    torch.testing.assert_close(weights, weights[:, :, :1, :1].expand_as(weights))
    assert 0 <= weights.min() <= weights.max() <= 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stages": 0}, "space.stages"),
        ({"stem_widths": ()}, "space.stem_widths"),
        ({"squeezes": ()}, "space.squeezes"),
        ({"widths": (8, 0)}, "space.widths"),
        ({"expansions": (0,)}, "space.expansions"),
        ({"depths": (0,)}, "space.depths"),
        ({"kernels": (3, 4)}, "space.kernels"),
        ({"activations": ("relu", "gelu")}, "space.activations"),
    ],
)
def test_space_refuses_impossible_options_with_the_field(options, field):
    with pytest.raises(KdnasError) as caught:
        MobileNetSpace(**options)
    assert caught.value.field == field
