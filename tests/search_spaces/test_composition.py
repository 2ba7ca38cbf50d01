"""Specification of `search_spaces.composition`."""

import random

import optuna
import pytest
import torch
from torch import nn

from search_spaces import Architecture, CompositionSpace, KdnasError, sample, tap_shapes
from search_spaces.composition import BLOCKS
from search_spaces.resnet import build_resnet, resnet_architecture

ONLY = Architecture.of({})  # of a space without a choice


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def kinds(space: CompositionSpace, draws: int = 60) -> set[tuple[str, ...]]:
    """The names of the decisions of all architectures that were drawn."""
    return {tuple(sample(space, random.Random(seed))) for seed in range(draws)}


def test_network_without_a_choice_is_the_one_that_is_written_down():
    layers = [
        {"block": "conv", "width": 16},
        {"name": "stage1", "block": "basic", "repeat": 3},
        {"name": "stage2", "block": "basic", "repeat": 3, "width": 32, "stride": 2},
        {"name": "stage3", "block": "basic", "repeat": 3, "width": 64, "stride": 2},
    ]
    space = CompositionSpace(layers)
    assert sample(space, random.Random(0)) == ONLY
    model = space.build(ONLY, (3, 32, 32), 10)
    resnet20 = build_resnet(resnet_architecture(16, (16, 32, 64), (3, 3, 3)), (3, 32, 32), 10)
    assert size(model) == size(resnet20) == 272_474
    assert space.taps() == model.taps == resnet20.taps
    assert tap_shapes(model, (3, 32, 32), model.taps) == tap_shapes(resnet20, (3, 32, 32), resnet20.taps)
    values = [value.flatten() for value in model.state_dict().values()]
    names = list(resnet20.state_dict())
    resnet20.load_state_dict(
        {name: value.reshape(resnet20.state_dict()[name].shape) for name, value in zip(names, values, strict=True)}
    )
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.eval()(images), resnet20.eval()(images))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_answers_with_its_defaults_on_one_pixel_and_on_many(block):
    space = CompositionSpace([{"block": "conv", "width": 8}, block, {"block": block, "repeat": 2}])
    for shape in ((3, 1, 1), (1, 9, 8)):
        assert space.build(ONLY, shape, 5).eval()(torch.rand(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("stride", "expected"), [(1, (9, 8)), (2, (5, 4)), (3, (3, 3))])
@pytest.mark.parametrize("block", ["max_pool", "avg_pool"])
def test_pool_divides_the_image_by_its_stride_rounded_up(block, stride, size, expected):
    space = CompositionSpace([{"name": "end", "block": block, "size": size, "stride": stride}])
    assert tap_shapes(space.build(ONLY, (2, 9, 8), 5), (2, 9, 8), ["end"])["end"] == (2, *expected)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("block", ["max_pool", "avg_pool"])
def test_pool_of_a_constant_image_is_constant(block, size):
    model = CompositionSpace([{"name": "end", "block": block, "size": size}]).build(ONLY, (1, 7, 7), 5)
    _, seen = model.forward_taps(-torch.ones(1, 1, 7, 7), ["end"])
    torch.testing.assert_close(seen["end"], -torch.ones(1, 1, 4, 4))


def test_max_pool_by_two_takes_the_largest_of_each_four():
    model = CompositionSpace([{"name": "end", "block": "max_pool"}]).build(ONLY, (1, 4, 4), 5)
    _, seen = model.forward_taps(torch.arange(16.0).reshape(1, 1, 4, 4), ["end"])
    assert seen["end"].flatten().tolist() == [5, 7, 13, 15]


def test_lists_are_decisions_named_by_item_and_key_and_single_values_are_none():
    space = CompositionSpace(
        [
            {"block": "conv", "width": [4, 8], "kernel": 3},
            {"name": "stage1", "block": ["basic", "inverted"], "width": [8], "kernel": [3, 5], "repeat": [1, 2]},
        ]
    )
    names = ("layers.0.width", "stage1.block", "stage1.kernel", "stage1.repeat")
    assert kinds(space) == {names}
    trial = optuna.trial.FixedTrial(dict(zip(names, (8, "inverted", 5, 2), strict=True)))
    model = space.build(space.suggest(trial), (1, 8, 8), 5)
    assert [
        module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups > 1
    ] == [
        (5, 5),
        (5, 5),
    ]


def test_alternatives_decide_their_own_values_only_when_they_are_chosen():
    layers = [{"name": "stage1", "width": [8, 16], "any": ["basic", {"block": "inverted", "expansion": [2, 3]}]}]
    assert kinds(CompositionSpace(layers)) == {
        ("stage1.block", "stage1.width"),
        ("stage1.block", "stage1.width", "stage1.inverted.expansion"),
    }


def test_value_of_an_alternative_goes_before_that_of_the_item():
    space = CompositionSpace([{"name": "end", "width": 8, "any": [{"block": "conv", "width": 4}, "basic"]}])
    widths = {label: space.build(Architecture.of({"end.block": label}), (1, 8, 8), 5) for label in ("conv", "basic")}
    assert {label: tap_shapes(model, (1, 8, 8), ["end"])["end"][0] for label, model in widths.items()} == {
        "conv": 4,
        "basic": 8,
    }


def test_two_alternatives_of_one_block_are_told_apart_by_name():
    layers = [{"any": [{"block": "conv", "name": "slim", "width": 4}, {"block": "conv", "name": "wide", "width": 8}]}]
    assert {sample(CompositionSpace(layers), random.Random(seed))["layers.0.block"] for seed in range(20)} == {
        "slim",
        "wide",
    }


def test_item_is_there_only_when_all_its_conditions_hold():
    space = CompositionSpace(
        [
            {"name": "a", "block": ["conv", "basic"], "width": [4, 8]},
            {"name": "b", "block": "conv", "width": [16, 32], "when": {"a.block": "conv", "a.width": [8]}},
        ]
    )
    for seed in range(30):
        architecture = sample(space, random.Random(seed))
        there = architecture["a.block"] == "conv" and architecture["a.width"] == 8
        assert ("b.width" in architecture) is there
        # The tap exists all the same: nothing stands between it and the one before.
        width = architecture["b.width"] if there else architecture["a.width"]
        shapes = tap_shapes(space.build(architecture, (1, 8, 8), 5), (1, 8, 8), ["b", "penultimate"])
        assert shapes == {"b": (width, 8, 8), "penultimate": (width,)}


def test_condition_on_something_that_was_left_out_does_not_hold():
    space = CompositionSpace(
        [
            {"name": "a", "block": "conv", "width": [4, 8]},
            {"name": "b", "block": "conv", "width": [4, 8], "when": {"a.width": 4}},
            {"name": "c", "block": "conv", "width": [4, 8], "when": {"b.width": [4, 8]}},
        ]
    )
    assert kinds(space) == {("a.width",), ("a.width", "b.width", "c.width")}


def test_alternatives_are_offered_only_when_their_conditions_hold_and_optuna_takes_all_in_one_study():
    space = CompositionSpace(
        [
            {"name": "a", "block": "conv", "width": [4, 8, 12]},
            {
                "name": "b",
                "any": [
                    "basic",
                    {"block": "separable", "when": {"a.width": [8, 12]}},
                    {"block": "conv", "when": {"a.width": 12}},
                ],
            },
        ]
    )
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=optuna.samplers.TPESampler(seed=0))
    seen: dict[int, set] = {4: set(), 8: set(), 12: set()}
    for _ in range(60):
        trial = study.ask()
        architecture = space.suggest(trial)
        seen[architecture["a.width"]].add(tuple(architecture.to_json().items())[1:])
        study.tell(trial, random.Random(trial.number).random())
    # With one left there is nothing to decide; with fewer than all it is a decision of its own.
    assert seen[4] == {()}
    assert seen[8] == {(("b.block[basic|separable]", "basic"),), (("b.block[basic|separable]", "separable"),)}
    assert seen[12] == {(("b.block", label),) for label in ("basic", "separable", "conv")}


def test_condition_on_a_block_holds_whichever_alternatives_were_offered():
    space = CompositionSpace(
        [
            {"name": "a", "block": "conv", "width": [4, 8]},
            {"name": "b", "any": ["basic", "separable", {"block": "conv", "when": {"a.width": 8}}]},
            {"name": "c", "block": "conv", "width": [4, 8], "when": {"b.block": "separable"}},
        ]
    )
    assert ("a.width", "b.block[basic|separable]", "c.width") in kinds(space)
    assert ("a.width", "b.block", "c.width") in kinds(space)


def test_item_is_left_out_when_no_alternative_is_offered_or_it_is_repeated_0_times():
    never = {"block": "conv", "width": 32, "when": {"a.width": 8}}
    layers = [{"name": "a", "block": "conv", "width": [4, 8]}, {"any": [never]}, {"block": "conv", "repeat": 0}]
    space = CompositionSpace(layers)
    for width, out in ((4, 4), (8, 32)):
        model = space.build(Architecture.of({"a.width": width}), (1, 8, 8), 5)
        assert model.classifier.in_features == out


def test_only_the_first_of_repeated_blocks_has_the_stride():
    space = CompositionSpace([{"name": "end", "block": "conv", "width": 4, "stride": 2, "repeat": 3}])
    assert tap_shapes(space.build(ONLY, (1, 8, 8), 5), (1, 8, 8), ["end"])["end"] == (4, 4, 4)


def test_changing_what_was_given_does_not_change_the_space():
    given = [{"block": "conv", "width": [4, 8]}]
    space = CompositionSpace(given)
    given[0]["width"].append("wide")
    given.append({"block": "nonsense"})
    assert space == CompositionSpace([{"block": "conv", "width": [4, 8]}])
    assert space != CompositionSpace([{"block": "conv", "width": [4, 16]}])


CONV = {"name": "a", "block": "conv", "width": [4, 8]}


@pytest.mark.parametrize(
    ("layers", "field", "remedy"),
    [
        ([], "space.layers", "at least one"),
        ([3], "space.layers.0", "block: conv"),
        ([None], "space.layers.0", "block: conv"),
        (["cnv"], "space.layers.0.block", "did you mean 'conv'"),
        ([CONV, {}], "space.layers.1", "block: conv"),
        ([CONV, {"block": "conv", "any": ["basic"]}], "space.layers.1", "block: conv"),
        ([CONV, {"block": []}], "space.layers.1.block", "at least one"),
        ([CONV, {"any": []}], "space.layers.1.any", "at least one"),
        ([CONV, {"any": ["basic", 3]}], "space.layers.1.any.1", "block: conv"),
        ([CONV, {"any": ["basic", {"width": 4}]}], "space.layers.1.any.1.block", "known: conv"),
        ([CONV, {"any": ["basic", {"block": ["conv"]}]}], "space.layers.1.any.1.block", "known: conv"),
        ([CONV, {"any": ["conv", {"block": "conv"}]}], "space.layers.1", "`name`"),
        ([CONV, {"block": ["basic", "basic"]}], "space.layers.1", "`name`"),
        ([CONV, CONV, {"block": "basic", "kernl": 3}], "space.layers.1.name", "rename"),
        ([CONV, "basic", {"block": "basic", "kernl": 3}], "space.layers.2.kernl", "did you mean 'kernel'"),
        ([CONV, {"block": "max_pool", "kernel": 3}], "space.layers.1.kernel", "size"),
        ([CONV, {"any": [{"block": "basic", "expansion": 3}]}], "space.layers.1.any.0.expansion", "known:"),
        ([{"block": "conv", 3: 4}], "space.layers.0.3", "known:"),
        ([CONV, "basic", {"block": "basic", "kernel": [3, 4]}], "space.layers.2.kernel", "odd"),
        ([{"block": "conv", "width": 0}], "space.layers.0.width", "from 1"),
        ([{"block": "conv", "width": True}], "space.layers.0.width", "from 1"),
        ([{"block": "conv", "width": "8"}], "space.layers.0.width", "whole number"),
        ([{"block": "conv", "width": [[8]]}], "space.layers.0.width", "whole number"),
        ([{"block": "conv", "width": [8, 8]}], "space.layers.0.width", "leave one out"),
        ([{"block": "conv", "repeat": -1}], "space.layers.0.repeat", "from 0"),
        ([{"block": "conv", "stride": []}], "space.layers.0.stride", "at least one"),
        ([{"block": "conv", "activation": "swish"}], "space.layers.0.activation", "hswish"),
        ([{"block": "inverted", "squeeze": 1}], "space.layers.0.squeeze", "true or false"),
        ([CONV, {"block": "conv", "when": None}], "space.layers.1.when", "stage1.block"),
        ([CONV, {"block": "conv", "when": {"a.widht": 4}}], "space.layers.1.when.a.widht", "did you mean 'a.width'"),
        ([CONV, {"block": "conv", "when": {"a.width": 5}}], "space.layers.1.when.a.width", "4, 8"),
        ([CONV, {"block": "conv", "when": {"a.width": []}}], "space.layers.1.when.a.width", "at least one"),
        ([{"block": "conv", "when": {"layers.0.block": "conv"}}], "space.layers.0.when.layers.0.block", "known"),
        ([CONV, {"any": [{"block": "conv", "when": {"b": 1}}]}], "space.layers.1.any.0.when.b", "known: a.block"),
        ([{"block": "conv", "name": "two words"}], "space.layers.0.name", "letters"),
        ([{"block": "conv", "name": "a.b"}], "space.layers.0.name", "letters"),
        ([{"block": "conv", "name": 1}], "space.layers.0.name", "letters"),
        ([{"block": "conv", "name": "items"}], "space.layers.0.name", "letters"),
        ([{"block": "conv", "name": "training"}], "space.layers.0.name", "letters"),
        ([{"block": "conv", "name": "logits"}], "space.layers.0.name", "penultimate"),
        ([{"any": [{"block": "conv", "name": "a|b"}]}], "space.layers.0.any.0.name", "letters"),
    ],
)
def test_space_refuses_impossible_layers_with_the_field(layers, field, remedy):
    with pytest.raises(KdnasError) as caught:
        CompositionSpace(layers)
    assert caught.value.field == field
    assert remedy in caught.value.remedy
