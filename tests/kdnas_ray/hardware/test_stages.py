"""Specification of `kdnas_ray.hardware.stages`: hints only where the device spends its time."""

import random

import pytest

from kdnas_ray.hardware.devices import device
from kdnas_ray.hardware.operators import operators
from kdnas_ray.hardware.stages import mean_shares, stages, tap_shares, worthwhile
from search_spaces import SPACES, KdnasError, sample
from search_spaces.resnet import ResNetSpace, resnet_architecture
from trainables.recipe import SimpleRecipes

SHAPE = (3, 32, 32)
NPU = device("npu-small")


@pytest.mark.parametrize("name", SPACES)
def test_by_tap_when_of_any_space_then_stages_follow_each_other_from_the_first_operator_on(name):
    space = SPACES[name]()
    shape = (1, 40, 100) if name == "speech" else (3, 16, 16)
    architecture = sample(space, random.Random(0))
    parts = stages(space, architecture, shape, 10)
    whole = operators(lambda: space.build(architecture, shape, 10), shape).each
    joined = tuple(operator for part in parts.values() for operator in part)
    assert parts[space.taps()[0]]
    assert [operator.kind for operator in joined] == [operator.kind for operator in whole[: len(joined)]]


def test_tap_shares_when_a_stage_is_wider_then_it_takes_more_and_all_add_up_to_one():
    narrow, wide = (resnet_architecture(16, (16, last, 16), (1, 1, 1)) for last in (16, 128))
    parts = (stages(ResNetSpace(), architecture, SHAPE, 10) for architecture in (narrow, wide))
    before, after = (tap_shares(found, NPU) for found in parts)
    assert list(before) == ["stage1", "stage2", "stage3"]
    assert sum(after.values()) == pytest.approx(1)
    assert after["stage2"] > before["stage2"]


def test_mean_shares_when_there_are_several_devices_then_a_stage_counts_where_it_counts_most():
    alone = {
        name: mean_shares(ResNetSpace(), SHAPE, 10, {name: device(name)}, 0) for name in ("npu-small", "cortex-m7")
    }
    both = mean_shares(ResNetSpace(), SHAPE, 10, {name: device(name) for name in alone}, 0)
    assert both == {tap: max(shares[tap] for shares in alone.values()) for tap in both}


def test_mean_shares_when_no_device_has_a_profile_then_names_the_option():
    with pytest.raises(KdnasError) as caught:
        mean_shares(ResNetSpace(), SHAPE, 10, {}, 0)
    assert caught.value.field == "recipes.tap_share"


def test_worthwhile_when_a_stage_takes_little_then_has_no_hint_there_and_ends_stay():
    recipes = SimpleRecipes(taps=("stage1", "stage2", "penultimate"), tap_share=0.2)
    assert worthwhile(recipes, {"stage1": 0.1, "stage2": 0.9}).taps == ("stage2", "penultimate")


def test_worthwhile_when_none_is_left_then_says_what_each_takes():
    with pytest.raises(KdnasError) as caught:
        worthwhile(SimpleRecipes(taps=("stage1",), tap_share=0.2), {"stage1": 0.1, "stage2": 0.9})
    assert caught.value.field == "recipes.tap_share"
    assert "stage1 10.0 %" in caught.value.problem
