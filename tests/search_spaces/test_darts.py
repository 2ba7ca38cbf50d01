"""Specification of `search_spaces.darts`, against published genotypes and numbers."""

import random

import pytest
import torch

from search_spaces import Architecture, DARTSSpace, KdnasError, sample
from search_spaces.darts import KINDS, NODES, OPERATIONS

SPACE = DARTSSpace(width=4)
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
PDARTS = (
    "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)], "
    "normal_concat=range(2, 6), reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), "
    "('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], "
    "reduce_concat=range(2, 6))"
)
CELL = [[("sep_conv_3x3", 0), ("skip_connect", 1)] for _ in NODES]


def genotype(normal=CELL, reduce=CELL) -> str:
    cells = {"normal": normal, "reduce": reduce}
    return f"Genotype({', '.join(f'{kind}={sum(cells[kind], [])}, {kind}_concat=range(2, 6)' for kind in KINDS)})"  # noqa: RUF017


# 3.3M in Liu 2019 (table 1), 3.4M in Chen 2019 (its code counts 3,433,798).
@pytest.mark.parametrize(("text", "parameters"), [(DARTS_V2, 3_349_342), (PDARTS, 3_433_798)])
def test_published_network_has_the_published_number_of_parameters(text, parameters):
    space = DARTSSpace(width=36, cells=20)
    model = space.build(space.parse(text), (3, 32, 32), 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_notation_is_a_genotype_as_it_is_usually_written():
    written = SPACE.notation(SPACE.parse(PDARTS))
    assert written == PDARTS
    assert SPACE.parse(written) == SPACE.parse(PDARTS)


def test_parse_gives_back_every_architecture():
    for seed in range(100):
        architecture = sample(SPACE, random.Random(seed))
        assert SPACE.parse(SPACE.notation(architecture)) == architecture


def test_order_of_a_nodes_inputs_does_not_matter():
    turned = genotype([list(reversed(pair)) for pair in CELL])
    assert turned != genotype()
    assert SPACE.canonical(SPACE.parse(turned)) == SPACE.canonical(SPACE.parse(genotype()))
    assert SPACE.parse(turned) == SPACE.parse(genotype())


def test_order_of_nodes_that_do_not_read_each_other_does_not_matter():
    a, b = [("sep_conv_3x3", 0), ("skip_connect", 1)], [("max_pool_3x3", 0), ("skip_connect", 1)]
    one = genotype([a, b, [("skip_connect", 2), ("skip_connect", 0)], a])
    same = genotype([b, a, [("skip_connect", 3), ("skip_connect", 0)], a])
    other = genotype([b, a, [("skip_connect", 2), ("skip_connect", 0)], a])
    assert SPACE.parse(one) != SPACE.parse(same)
    assert SPACE.canonical(SPACE.parse(one)) == SPACE.canonical(SPACE.parse(same))
    assert SPACE.canonical(SPACE.parse(one)) != SPACE.canonical(SPACE.parse(other))
    swapped = genotype(CELL, [a, b, a, b])
    assert SPACE.canonical(SPACE.parse(genotype([a, b, a, b]))) != SPACE.canonical(SPACE.parse(swapped))


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("__import__('os').getcwd()", "not a genotype", "Genotype"),
        ("Genotype(normal=open('x'))", "not a genotype", "Genotype"),
        ("Genotype(normal=[])", "fields", "reduce_concat"),
        (genotype().replace("range(2, 6)", "range(3, 6)", 1), "normal_concat", r"range(2, 6)"),
        (genotype().replace("range(2, 6)", "range(2, 10**9)", 1), "not a genotype", "Genotype"),
        (genotype(CELL[:3]), "6 edges instead of 8", "Genotype"),
        (genotype(reduce=[*CELL[:3], [("conv", 0), ("skip_connect", 1)]]), "unknown operation 'conv'", "sep_conv_3x3"),
        (genotype([*CELL[:3], [("none", 0), ("skip_connect", 1)]]), "unknown operation 'none'", "sep_conv_3x3"),
        (genotype([[("skip_connect", 2), ("skip_connect", 1)], *CELL[1:]]), "node 2 of normal", "0, 1"),
        (genotype([*CELL[:3], [("skip_connect", 1), ("skip_connect", 1)]]), "node 5 of normal", "0, 1, 2, 3, 4"),
        (genotype([*CELL[:3], [("skip_connect", 1.0), ("skip_connect", 0)]]), "no edge", "sep_conv_3x3"),
        (genotype([*CELL[:3], [(["skip_connect"], 1), ("skip_connect", 0)]]), "unknown operation", "sep_conv_3x3"),
    ],
)
def test_parse_says_what_is_wrong_and_what_is_valid(text, problem, remedy):
    with pytest.raises(KdnasError, match=problem) as caught:
        SPACE.parse(text)
    assert remedy in caught.value.remedy


def test_reduction_cells_stand_at_a_third_and_two_thirds_and_halve_the_resolution():
    model = DARTSSpace(width=2, cells=8).build(SPACE.parse(DARTS_V2), (3, 32, 32), 10)
    kinds = [[cell.kind for cell in model.parts[f"stage{stage}"]] for stage in (1, 2, 3)]
    assert kinds == [["normal"] * 2, ["reduce"] + ["normal"] * 2, ["reduce"] + ["normal"] * 2]
    _, seen = model.forward_taps(torch.rand(2, 3, 32, 32), ("stage1", "stage2", "stage3"))
    assert [tuple(value.shape[1:]) for value in seen.values()] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]


def test_unused_edges_have_no_parameters():
    model = SPACE.build(SPACE.parse(genotype()), (1, 8, 8), 3)
    cell = model.parts["stage1"][0]
    used = {name for name, edge in cell.edges.items() if list(edge.parameters())}
    assert used == {f"e{node}_0" for node in NODES}


def test_cell_is_the_sum_that_its_genotype_says():
    torch.manual_seed(0)
    cell = SPACE.build(SPACE.parse(genotype()), (1, 8, 8), 3).parts["stage1"][0].eval()
    older, newer = torch.randn(2, 12, 8, 8), torch.randn(2, 12, 8, 8)
    a, b = cell.older(older), cell.newer(newer)
    torch.testing.assert_close(cell(older, newer), torch.cat([cell.edges[f"e{n}_0"](a) + b for n in NODES], dim=1))


def test_discretise_keeps_two_edges_a_node_and_never_none():
    weights = {
        f"{kind}.e{node}_{source}": dict.fromkeys(("none", *OPERATIONS), 0.0) | {"none": 1.0}
        for kind in KINDS
        for node in NODES
        for source in range(node)
    }
    for name in ("e2_0", "e2_1", "e3_1", "e3_2", "e4_0", "e4_3", "e5_2", "e5_4"):
        weights[f"normal.{name}"]["dil_conv_5x5"] = 0.3
    weights["normal.e5_3"]["sep_conv_5x5"] = 0.2
    found = SPACE.discretise(weights)
    assert [found[f"normal.node{node}.inputs"] for node in (3, 4, 5)] == ["1,2", "0,3", "2,4"]
    assert {found[f"normal.node{node}.{i}"] for node in NODES for i in ("first", "second")} == {"dil_conv_5x5"}
    # Where nothing stands out, the earliest nodes.
    assert [found[f"reduce.node{node}.inputs"] for node in (3, 4, 5)] == ["0,1"] * 3


@pytest.mark.parametrize("width", [1, 3])
def test_odd_widths_build(width):
    space = DARTSSpace(width=width, cells=3)
    architecture = space.parse(DARTS_V2)
    assert space.build(architecture, (1, 7, 9), 3)(torch.rand(2, 1, 7, 9)).shape == (2, 3)


@pytest.mark.parametrize("options", [{"width": 0}, {"cells": 2}])
def test_space_refuses_options_with_field_value_and_remedy(options):
    with pytest.raises(KdnasError) as caught:
        DARTSSpace(**options)
    ((name, given),) = options.items()
    assert (caught.value.field, caught.value.value) == (f"space.{name}", given)
    assert caught.value.remedy


def test_graphs_show_both_cells():
    graphs = SPACE.graph(SPACE.parse(DARTS_V2))
    assert list(graphs) == ["normal", "reduce"]
    for vertices in graphs.values():
        assert vertices[-1][0] == "output"
        assert [vertices[i][0] for i in vertices[-1][1]] == ["node 2", "node 3", "node 4", "node 5"]
        assert all(source < index for index, (_, inputs) in enumerate(vertices) for source in inputs)


def test_architecture_of_a_first_node_has_no_choice_of_inputs():
    assert isinstance(SPACE.parse(DARTS_V2), Architecture)
    assert "normal.node2.inputs" not in SPACE.parse(DARTS_V2)
