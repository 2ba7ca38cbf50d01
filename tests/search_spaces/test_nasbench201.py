"""Specification of `search_spaces.nasbench201`, against numbers that the paper and its benchmark published."""

import itertools
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from search_spaces import Architecture, KdnasError, NASBench201Space
from search_spaces.nasbench201 import EDGES, OPERATIONS

TABLE = Path(__file__).parents[2] / "../shared/data/nas_bench_201/nas_bench_201.parquet"
SPACE = NASBench201Space(width=16)
ALL_3X3 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
NO_CONV = "|skip_connect~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|skip_connect~2|"


def cell(**operations: str) -> Architecture:
    return Architecture.of({f"edge{a}_{b}": operations.get(f"edge{a}_{b}", "none") for a, b in EDGES})


def every_cell() -> list[Architecture]:
    names = [f"edge{a}_{b}" for a, b in EDGES]
    return [
        Architecture.of(dict(zip(names, ops, strict=True))) for ops in itertools.product(OPERATIONS, repeat=len(EDGES))
    ]


@pytest.mark.parametrize(("text", "parameters"), [(ALL_3X3, 1_531_546), (NO_CONV, 73_306)])
def test_network_of_the_benchmark_has_the_published_number_of_parameters(text, parameters):
    space = NASBench201Space(width=16, cells=5)
    model = space.build(space.parse(text), (3, 32, 32), 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_notation_is_the_benchmarks_text():
    assert SPACE.notation(SPACE.parse(ALL_3X3)) == ALL_3X3
    assert SPACE.parse(NO_CONV)["edge3_0"] == "avg_pool_3x3"


@pytest.mark.skipif(not TABLE.exists(), reason="no table of NAS-Bench-201 here")
def test_notation_of_every_parsed_line_of_the_table_is_the_line():
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = parquet.read_table(TABLE, columns=["architecture"])["architecture"].to_pylist()
    assert len(set(texts)) == 15_625
    assert all(SPACE.notation(SPACE.parse(text)) == text for text in texts)


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("|none~0|+|none~0|none~1|", "2 nodes instead of 3", "nor_conv_3x3~2"),
        ("|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "node 2", "nor_conv_3x3~2"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|", "node 3", "nor_conv_3x3~2"),
        ("none~0+|none~0|none~1|+|none~0|none~1|none~2|", "node 1", "nor_conv_3x3~2"),
        ("|none~0|+|none~0|none~1|+|none~0|conv~1|none~2|", "unknown operation 'conv'", "avg_pool_3x3"),
    ],
)
def test_parse_says_what_is_wrong_and_what_is_valid(text, problem, remedy):
    with pytest.raises(KdnasError, match=problem) as caught:
        SPACE.parse(text)
    assert remedy in caught.value.remedy


def papers_text(architecture: Architecture) -> str:
    """The text by which the paper tells cells apart; zeros stay in the sum, a sum of zeros is no zero."""
    nodes = ["0"]
    for node in (1, 2, 3):
        terms = []
        for source in range(node):
            operation = architecture[f"edge{node}_{source}"]
            if operation == "none" or nodes[source] == "#":
                terms.append("#")
            else:
                terms.append(nodes[source] if operation == "skip_connect" else f"({nodes[source]})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def value(architecture: Architecture) -> float:
    """The cell's value on a number, with the same made-up function for every convolution of a kind."""
    functions = {
        "none": lambda x: 0.0,
        "skip_connect": lambda x: x,
        "nor_conv_1x1": lambda x: (0.3 * x * x + 0.1 * x) % 7,
        "nor_conv_3x3": lambda x: (0.7 * x * x * x + 0.23 * x) % 11,
        "avg_pool_3x3": lambda x: 0.61 * x,
    }
    nodes = [1.2345]
    for node in (1, 2, 3):
        nodes.append(sum(functions[str(architecture[f"edge{node}_{s}"])](nodes[s]) for s in range(node)))
    return round(nodes[-1], 9)


def test_canonical_forms_of_all_cells_are_5260_where_the_papers_text_counts_6466():
    forms, values = defaultdict(set), defaultdict(set)
    cells = every_cell()
    for architecture in cells:
        forms[SPACE.canonical(architecture)].add(architecture)
        values[SPACE.canonical(architecture)].add(value(architecture))
    assert len(cells) == 15_625
    assert len(forms) == 5_260
    assert len({papers_text(architecture) for architecture in cells}) == 6_466
    # What is called the same computes the same.
    assert all(len(found) == 1 for found in values.values())


def test_canonical_leaves_out_zeros_skips_and_what_leads_nowhere():
    once = cell(edge3_0="nor_conv_3x3")
    for other in (
        cell(edge1_0="nor_conv_3x3", edge3_1="skip_connect"),
        cell(edge2_0="skip_connect", edge3_2="nor_conv_3x3"),
        cell(edge3_0="nor_conv_3x3", edge1_0="nor_conv_1x1"),
        cell(edge3_0="nor_conv_3x3", edge3_1="nor_conv_1x1"),
        cell(edge1_0="skip_connect", edge2_1="nor_conv_3x3", edge3_2="skip_connect"),
    ):
        assert SPACE.canonical(other) == SPACE.canonical(once)
    assert SPACE.canonical(cell()) == SPACE.canonical(cell(edge1_0="nor_conv_1x1", edge3_2="nor_conv_1x1"))


def test_canonical_tells_a_convolution_that_is_read_twice_from_two():
    shared = cell(edge1_0="nor_conv_3x3", edge2_1="avg_pool_3x3", edge3_1="skip_connect", edge3_2="skip_connect")
    two = cell(edge1_0="nor_conv_3x3", edge2_1="avg_pool_3x3", edge3_0="nor_conv_3x3", edge3_2="skip_connect")
    assert value(shared) == value(two)
    assert SPACE.canonical(shared) != SPACE.canonical(two)


def test_build_leaves_out_what_does_not_reach_the_output():
    names = dict(SPACE.build(cell(edge1_0="nor_conv_3x3", edge3_0="nor_conv_1x1"), (1, 8, 8), 3).named_parameters())
    assert any("edges.edge3_0" in name for name in names)
    assert not any("edges.edge1_0" in name for name in names)


def test_cell_of_zeros_answers_the_same_for_every_image():
    logits = SPACE.build(cell(), (1, 8, 8), 3).eval()(torch.rand(4, 1, 8, 8))
    assert torch.equal(logits, logits[:1].expand(4, 3))


def test_cell_is_the_sum_that_its_notation_says():
    torch.manual_seed(0)
    architecture = cell(edge1_0="nor_conv_3x3", edge3_1="skip_connect", edge3_0="avg_pool_3x3")
    module = SPACE.build(architecture, (1, 8, 8), 3).parts["stage1"][0].eval()
    x = torch.randn(2, 16, 8, 8)
    expected = module.edges["edge1_0"](x) + module.edges["edge3_0"](x)
    torch.testing.assert_close(module(x), expected)


def test_discretise_keeps_the_heaviest_operation_of_each_edge():
    weights = {f"edge{a}_{b}": {name: float(name == "skip_connect") for name in OPERATIONS} for a, b in EDGES}
    weights["edge3_2"] = dict.fromkeys(OPERATIONS, 0.1) | {"nor_conv_1x1": 0.2}
    found = SPACE.discretise(weights)
    assert found["edge3_2"] == "nor_conv_1x1"
    assert found["edge1_0"] == "skip_connect"


@pytest.mark.parametrize("options", [{"width": 0}, {"cells": 0}, {"cells": 1.5}, {"width": True}])
def test_space_refuses_options_with_field_value_and_remedy(options):
    with pytest.raises(KdnasError) as caught:
        NASBench201Space(**options)
    ((name, given),) = options.items()
    assert (caught.value.field, caught.value.value) == (f"space.{name}", given)
    assert caught.value.remedy


def test_graph_shows_live_operations_only():
    assert SPACE.graph(cell(edge1_0="nor_conv_3x3", edge3_1="skip_connect", edge2_0="nor_conv_1x1")) == [
        ("input", ()),
        ("nor_conv_3x3", (0,)),
        ("skip_connect", (1,)),
        ("output", (2,)),
    ]
