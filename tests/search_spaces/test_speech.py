"""Specification of `search_spaces.speech`."""

import random

import pytest
import torch
from torch import nn

from search_spaces import KdnasError, SpeechSpace, decode, sample, tap_shapes
from search_spaces.speech import TimeResidual

SOUND = (1, 40, 101)
PICTURES = {
    "family": "ds_cnn", "stem.width": 8, "stem.stride": 2,
    "stage1.depth": 1, "stage1.width": 8, "stage1.kernel": 3,
    "stage2.depth": 2, "stage2.width": 16, "stage2.stride": 2, "stage2.kernel": 5,
}  # fmt: skip
TIME = {
    "family": "tc_resnet", "stem.width": 8, "stem.stride": 1,
    "stage1.depth": 1, "stage1.width": 8, "stage1.time_kernel": 3,
    "stage2.depth": 2, "stage2.width": 16, "stage2.stride": 2, "stage2.time_kernel": 9,
}  # fmt: skip
TWO = SpeechSpace(stages=2)


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def built(decisions: dict, shape=SOUND, classes: int = 12) -> nn.Module:
    return TWO.build(decode(TWO, decisions), shape, classes)


def test_parameters_of_ds_cnn_are_those_counted_by_hand():
    # A convolution has in * out * k^2 weights (divided by its groups), a batch norm 2 for each channel.
    stem = 8 * 25 + 16
    stage1 = (8 * 9 + 16) + (8 * 8 + 16)
    stage2 = (8 * 25 + 16) + (8 * 16 + 32) + (16 * 25 + 32) + (16 * 16 + 32)
    assert size(built(PICTURES)) == stem + stage1 + stage2 + 16 * 12 + 12


def test_parameters_of_tc_resnet_are_those_counted_by_hand():
    stem = 40 * 3 * 8 + 16
    stage1 = 2 * (8 * 8 * 3 + 16)
    stage2 = (8 * 16 * 9 + 32) + (16 * 16 * 9 + 32) + (8 * 16 + 32) + 2 * (16 * 16 * 9 + 32)
    assert size(built(TIME)) == stem + stage1 + stage2 + 16 * 12 + 12


@pytest.mark.parametrize(
    ("widths", "depth", "published"), [((16, 24, 32, 48), 1, 66_000), ((16, 24, 32, 48), 2, 305_000)]
)
def test_tc_resnet_has_the_published_size(widths, depth, published):
    """Choi 2019, table 1: TC-ResNet8 66 K, TC-ResNet14-1.5 305 K, for 40 features and 12 classes."""
    widths = tuple(int(1.5 * width) for width in widths) if depth == 2 else widths
    space = SpeechSpace(stem_widths=widths, widths=widths, depths=(1, 2), time_kernels=(9,))
    decisions = {"family": "tc_resnet", "stem.width": widths[0], "stem.stride": 1}
    for stage, width in enumerate(widths[1:], start=1):
        decisions |= {f"stage{stage}.depth": depth, f"stage{stage}.width": width, f"stage{stage}.time_kernel": 9}
        decisions |= {f"stage{stage}.stride": 2} if stage > 1 else {}
    model = space.build(decode(space, decisions), SOUND, 12)
    # The paper counts the running mean and deviation of each batch norm too.
    running = sum(buffer.numel() for buffer in model.buffers() if buffer.dim())
    assert size(model) + running == pytest.approx(published, rel=0.01)


def test_ds_cnn_filters_both_directions_and_tc_resnet_time_alone():
    assert tap_shapes(built(PICTURES), SOUND, ("stage1", "stage2")) == {"stage1": (8, 20, 51), "stage2": (16, 10, 26)}
    assert tap_shapes(built(TIME), SOUND, ("stage1", "stage2")) == {"stage1": (8, 1, 101), "stage2": (16, 1, 51)}


def test_stem_of_tc_resnet_is_a_1d_convolution_over_the_mels_as_channels():
    stem = built(TIME).parts["stem"].eval()
    sound = torch.rand(3, *SOUND)
    plain = nn.functional.conv1d(sound[:, 0], stem[0].weight[:, 0], padding=1)
    torch.testing.assert_close(stem[0](sound)[:, :, 0], plain)


def test_shortcut_of_a_block_is_there_only_where_its_ends_differ():
    assert isinstance(TimeResidual(8, 8, 3, 1).shortcut, nn.Identity)
    assert not isinstance(TimeResidual(8, 8, 3, 2).shortcut, nn.Identity)
    assert not isinstance(TimeResidual(8, 16, 3, 1).shortcut, nn.Identity)


def test_a_sound_that_comes_later_moves_the_maps_of_time_but_not_the_pooled_features():
    model = built(TIME | {"stage2.stride": 1}).eval()
    early, late = torch.zeros(1, *SOUND), torch.zeros(1, *SOUND)
    sound = torch.rand(40, 10)
    early[0, 0, :, 40:50], late[0, 0, :, 43:53] = sound, sound
    (first, seen), (second, later) = (model.forward_taps(x, ("stage2",)) for x in (early, late))
    torch.testing.assert_close(seen["stage2"][..., 20:70], later["stage2"][..., 23:73])
    torch.testing.assert_close(first, second)


def test_each_family_decides_its_own_kernels_only():
    for family, own, other in (("ds_cnn", ".kernel", ".time_kernel"), ("tc_resnet", ".time_kernel", ".kernel")):
        for seed in range(5):
            names = list(sample(SpeechSpace(families=(family,)), random.Random(seed)))
            assert any(name.endswith(own) for name in names)
            assert not any(name.endswith(other) for name in names)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stages": 0}, "space.stages"),
        ({"families": ()}, "space.families"),
        ({"families": ("ds_cnn", "lstm")}, "space.families"),
        ({"stem_widths": ()}, "space.stem_widths"),
        ({"strides": (0,)}, "space.strides"),
        ({"widths": (8, 0)}, "space.widths"),
        ({"depths": (0,)}, "space.depths"),
        ({"kernels": (3, 4)}, "space.kernels"),
        ({"time_kernels": (2,)}, "space.time_kernels"),
    ],
)
def test_space_refuses_impossible_options_with_the_field(options, field):
    with pytest.raises(KdnasError) as caught:
        SpeechSpace(**options)
    assert caught.value.field == field
