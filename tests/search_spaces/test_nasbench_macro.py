"""Specification of `search_spaces.nasbench_macro`."""

import json
import random
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import KdnasError, NASBenchMacroSpace, sample, tap_shapes
from search_spaces.notation import notation, parse
from search_spaces.sharing import Shares, SuperNet, inherited

TABLE = Path(__file__).parents[3] / "shared" / "data" / "nas_bench_macro" / "nas-bench-macro_cifar10.json"
# Parameters and multiply-adds of some of the published table.
PUBLISHED = {
    "02012100": (890_666, 47_327_744),
    "11111221": (2_181_386, 65_012_224),
    "00011110": (1_118_378, 31_390_208),
    "22012211": (1_884_778, 75_244_032),
}
SMALL = NASBenchMacroSpace(stem_width=4, widths=(4, 8, 8), head_width=16)


def counted(code: str) -> tuple[int, int]:
    """Parameters and multiply-adds of the network for an image of CIFAR-10."""
    space = NASBenchMacroSpace()
    with torch.device("meta"):
        model = space.build(space.parse(code), (3, 32, 32), 10).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 32, 32))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize("code", PUBLISHED)
def test_networks_have_the_published_parameters_and_multiply_adds(code):
    assert counted(code) == PUBLISHED[code]


@pytest.mark.skipif(not TABLE.exists(), reason="the published table is not at hand")
def test_networks_have_the_parameters_and_multiply_adds_of_the_whole_table():
    table = json.loads(TABLE.read_text())
    assert len(table) == 3**8
    for code in random.Random(0).sample(sorted(table), 40):  # all 6,561 agree, and take minutes
        assert counted(code) == (table[code]["params"], table[code]["flops"]), code


def test_every_stage_halves_the_resolution_even_when_all_layers_are_identities():
    model = NASBenchMacroSpace().build(parse(NASBenchMacroSpace(), "00000000"), (3, 32, 32), 10)
    assert tap_shapes(model, (3, 32, 32), model.taps) == {
        "stage1": (64, 16, 16),
        "stage2": (128, 8, 8),
        "stage3": (256, 4, 4),
        "penultimate": (1280,),
        "logits": (10,),
    }


def test_notation_is_the_code_of_the_table_both_ways():
    space = NASBenchMacroSpace()
    architecture = parse(space, "02012100")
    assert dict(architecture)["layer2"] == "mb6_k5"
    assert (architecture["layer1"], architecture["layer4"]) == ("identity", "mb3_k3")
    assert notation(space, architecture) == "02012100"
    for seed in range(20):
        drawn = sample(space, random.Random(seed))
        assert space.parse(space.notation(drawn)) == drawn


@pytest.mark.parametrize("text", ["", "0201210", "020121000", "02012103", "0201210x", " 2012100", "0²012100"])
def test_parse_refuses_malformed_text(text):
    with pytest.raises(KdnasError, match="8 digits of 0, 1 and 2") as caught:
        NASBenchMacroSpace().parse(text)
    assert (caught.value.field, caught.value.value) == ("architecture", text)


def test_discretise_keeps_what_weighs_most_at_each_layer():
    weights = {f"layer{n}": {"identity": 0.2, "mb3_k3": 0.3, "mb6_k5": 0.5} for n in range(1, 9)}
    weights["layer3"] = {"identity": 0.9, "mb3_k3": 0.05, "mb6_k5": 0.05}
    assert SMALL.notation(SMALL.discretise(weights)) == "22022222"


def test_supernet_holds_every_network_with_the_same_answer():
    assert isinstance(SMALL, Shares)
    supernet = SuperNet(SMALL, (1, 8, 8), 5).eval()
    assert list(supernet.places) == [f"layer{n}" for n in range(1, 9)]
    images = torch.rand(2, 1, 8, 8)
    for seed in range(4):
        architecture = sample(SMALL, random.Random(seed))
        supernet.set(architecture)
        model = SMALL.build(architecture, (1, 8, 8), 5).eval()
        model.load_state_dict(inherited(supernet, architecture, model))
        torch.testing.assert_close(model(images), supernet(images))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"widths": ()}, "space.widths"),
        ({"widths": (4, 0, 8)}, "space.widths"),
        ({"depths": (2, 0, 3)}, "space.depths"),
        ({"widths": (4, 8)}, "space.depths"),
        ({"stem_width": 0}, "space.stem_width"),
        ({"head_width": -1}, "space.head_width"),
    ],
)
def test_space_refuses_impossible_options_with_the_field(options, field):
    with pytest.raises(KdnasError) as caught:
        NASBenchMacroSpace(**options)
    assert caught.value.field == field
