"""Specification of `search_spaces.nasbench101`, against numbers that the paper and its benchmark published."""

import itertools
import json
import random

import pytest
import torch

from search_spaces import KdnasError, NASBench101Space, sample
from search_spaces.nasbench101 import OPERATIONS, Cell, cell_hash, vertex_widths

C3, C1, POOL = OPERATIONS
SPACE = NASBench101Space(width=16)
# The benchmark's example (NASBench.ipynb) and the first line of its table.
INCEPTION = (
    ["0111010", "0000001", "0000001", "0000100", "0000001", "0000001", "0000000"],
    [C1, C3, C3, C3, POOL],
)
FIRST = (
    ["0100110", "0010000", "0001001", "0000010", "0000010", "0000001", "0000000"],
    [C3, POOL, C3, C3, C1],
)


def text(rows: list[str], operations: list[str]) -> str:
    return json.dumps({"matrix": [[int(x) for x in row] for row in rows], "ops": ["input", *operations, "output"]})


def cells(vertices: int, most: int = 9):
    """Every cell of so many vertices in which none is dead, isomorphic ones included."""
    pairs = [(a, b) for b in range(1, vertices) for a in range(b)]
    for count in range(1, most + 1):
        for edges in itertools.combinations(pairs, count):
            if len({a for a, _ in edges}) == len({b for _, b in edges}) == vertices - 1:
                matrix = tuple(tuple(int((a, b) in edges) for b in range(vertices)) for a in range(vertices))
                for operations in itertools.product(OPERATIONS, repeat=vertices - 2):
                    yield Cell(matrix, operations)


def first_order(cell: Cell) -> tuple:
    """The smallest of all renamings of the inner vertices: equal exactly for isomorphic cells."""
    count = len(cell.matrix)
    found = []
    for inner in itertools.permutations(range(1, count - 1)):
        order = (0, *inner, count - 1)
        matrix = tuple(tuple(cell.matrix[a][b] for b in order) for a in order)
        found.append((matrix, tuple(cell.operations[v - 1] for v in inner)))
    return min(found)


@pytest.mark.parametrize(("cell", "parameters"), [(INCEPTION, 2_694_282), (FIRST, 8_555_530)])
def test_network_of_the_benchmark_has_the_published_number_of_parameters(cell, parameters):
    space = NASBench101Space(width=128, cells=3)
    model = space.build(space.parse(text(*cell)), (3, 32, 32), 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_canonical_is_the_benchmarks_hash():
    assert SPACE.canonical(SPACE.parse(text(*FIRST))) == "00005c142e6f48ac74fdcf73e3439874"


def test_hash_is_equal_exactly_for_isomorphic_cells_of_up_to_five_vertices():
    counts = []
    for vertices in range(2, 6):
        pairs = {(cell_hash(cell), first_order(cell)) for cell in cells(vertices)}
        counts.append(len(pairs))
        assert len({digest for digest, _ in pairs}) == len({order for _, order in pairs}) == len(pairs)
    assert counts == [1, 6, 84, 2441]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_hash_counts_the_cells_of_the_paper():
    shapes: set[tuple] = set()
    hashes = set()
    for vertices in range(2, 8):
        for matrix, found in itertools.groupby(cells(vertices), key=lambda cell: cell.matrix):
            # A renamed graph has the same cells once more, as all operations stand at all its vertices.
            shape = first_order(Cell(matrix, (C3,) * (vertices - 2)))
            if shape not in shapes:
                shapes.add(shape)
                hashes |= {cell_hash(cell) for cell in found}
    assert len(hashes) == 423_624


def test_random_cells_are_valid_and_mostly_different():
    drawn = [SPACE.cell(sample(SPACE, random.Random(seed))) for seed in range(300)]
    for cell in drawn:
        count = len(cell.matrix)
        assert 2 <= count <= 7
        assert sum(map(sum, cell.matrix)) <= 9
        assert all(any(row) for row in cell.matrix[:-1])
        assert all(any(row[v] for row in cell.matrix) for v in range(1, count))
        assert all(cell.matrix[a][b] == 0 for a in range(count) for b in range(a + 1))
        assert len(cell.operations) == count - 2
    assert len({cell_hash(cell) for cell in drawn}) > 280


@pytest.mark.parametrize("vertices", [2, 3, 4])
def test_every_cell_has_an_architecture(vertices):
    for cell in cells(vertices):
        written = json.dumps({"matrix": cell.matrix, "ops": ["input", *cell.operations, "output"]})
        assert SPACE.cell(SPACE.parse(written)) == cell
        assert SPACE.notation(SPACE.parse(written)) == written


def test_decisions_are_read_as_a_cell_that_is_connected():
    nothing = dict(SPACE.parse(text(["01", "00"], [])))
    assert SPACE.cell(nothing | {"edge6_0": 0}).matrix == ((0, 1), (0, 0))
    lonely = SPACE.cell(nothing | {"edge6_0": 0, "edge3_2": 1, "op2": C1, "op3": POOL})
    assert lonely == Cell(((0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)), (C1, POOL))
    everything = SPACE.cell({name: 1 if name.startswith("edge") else C3 for name in nothing})
    assert sum(map(sum, everything.matrix)) == 9
    assert len(everything.matrix) == 7


def test_parse_leaves_out_what_lies_on_no_way_from_input_to_output():
    with_dead = SPACE.parse(text(["0110", "0001", "0000", "0000"], [C3, C1]))
    assert SPACE.cell(with_dead) == Cell(((0, 1, 0), (0, 0, 1), (0, 0, 0)), (C3,))


@pytest.mark.parametrize(
    ("given", "problem", "remedy"),
    [
        (text(["0"] * 1, []), "square", "matrix"),
        (text(["010", "001", "000"], []), "square", "matrix"),
        (text(["020", "001", "000"], [C3]), "square", "matrix"),
        (text(["010", "001", "000"], ["conv7x7"]), "unknown operation 'conv7x7'", "maxpool3x3"),
        (text(["010", "000", "000"], [C3]), "not connected", "matrix"),
        (text(["010", "101", "000"], [C3]), "leads back", "above the diagonal"),
        (text(["01111", "00111", "00011", "00001", "00000"], [C3] * 3), "10 edges", "at most 9"),
        (text(["0" * 8] * 8, [C3] * 6), "8 vertices", "from 2 to 7"),
        ('{"matrix": [[0, 1], [0, 0]], "ops": ["output", "input"]}', "input", "matrix"),
        ('{"matrix": [[[0], 1], [0, 0]], "ops": ["input", "output"]}', "not the JSON", "matrix"),
        ('{"matrix": 3, "ops": []}', "not the JSON", "matrix"),
        ('{"matrix": [], "ops": []}', "input", "matrix"),
    ],
)
def test_parse_says_what_is_wrong_and_what_is_valid(given, problem, remedy):
    with pytest.raises(KdnasError, match=problem) as caught:
        SPACE.parse(given)
    assert remedy in caught.value.remedy


def test_vertices_share_the_outputs_channels_and_feed_no_wider_one():
    matrix = tuple(tuple(map(int, row)) for row in INCEPTION[0])
    # Four vertices feed the output; vertex 3 feeds vertex 4 alone.
    assert vertex_widths(Cell(matrix, tuple(INCEPTION[1])), 16, 18) == [16, 5, 5, 4, 4, 4, 18]
    for seed in range(100):
        cell = SPACE.cell(sample(SPACE, random.Random(seed)))
        widths, last = vertex_widths(cell, 16, 33), len(cell.matrix) - 1
        assert sum(widths[v] for v in range(1, last) if cell.matrix[v][last]) in (0, 33)
        assert all(widths[a] >= widths[b] > 0 for a in range(1, last) for b in range(a + 1, last) if cell.matrix[a][b])


def test_cell_projects_its_input_adds_and_puts_the_last_side_by_side():
    torch.manual_seed(0)
    model = SPACE.build(SPACE.parse(text(["0111", "0001", "0001", "0000"], [POOL, C1])), (1, 8, 8), 3)
    module = model.parts["stage1"][0].eval()
    x = torch.randn(2, 16, 8, 8)
    values = [module.operations[i](module.projections[str(i + 1)](x)) for i in range(2)]
    torch.testing.assert_close(module(x), torch.cat(values, dim=1) + module.projections["3"](x))


@pytest.mark.parametrize("options", [{"width": 4}, {"cells": 0}, {"vertices": 2}, {"edges": 1}])
def test_space_refuses_options_with_field_value_and_remedy(options):
    with pytest.raises(KdnasError) as caught:
        NASBench101Space(**options)
    ((name, given),) = options.items()
    assert (caught.value.field, caught.value.value) == (f"space.{name}", given)
    assert caught.value.remedy


@pytest.mark.parametrize("space", [NASBench101Space(vertices=3, width=1, edges=2), NASBench101Space(edges=3)])
def test_smaller_spaces_hold_valid_cells_too(space):
    for seed in range(50):
        architecture = sample(space, random.Random(seed))
        assert sum(map(sum, space.cell(architecture).matrix)) <= space.edges
        assert space.parse(space.notation(architecture))
    assert space.build(architecture, (1, 8, 8), 3)(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_graph_lists_each_vertex_with_what_it_reads():
    assert SPACE.graph(SPACE.parse(text(["011", "001", "000"], [C3]))) == [
        ("input", ()),
        (C3, (0,)),
        ("output", (0, 1)),
    ]
