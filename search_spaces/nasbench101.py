"""Which cells are there in NAS-Bench-101, and what does a network of them look like?"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel
from search_spaces.cells import STAGES, Graph, check_at_least, malformed

# In the benchmark's order: its hash numbers the operations by it.
OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
_EXAMPLE = '{"matrix": [[0, 1, 1], [0, 0, 1], [0, 0, 0]], "ops": ["input", "conv3x3-bn-relu", "output"]}'


@dataclass(frozen=True)
class Cell:
    """A graph in which every vertex lies on a way from the input (the first) to the output (the last).

    Args:
        matrix: 1 where the row's vertex feeds the column's, upper triangular.
        operations: of the inner vertices.
    """

    matrix: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]


@dataclass(frozen=True)
class NASBench101Space:
    """The 423,624 cells of NAS-Bench-101: graphs of at most 7 vertices and 9 edges with one of three operations each.

    Three stages of equal cells, with max-pooling and twice the channels between them. The benchmark trained networks
    of `width` 128 and `cells` 3. There is one decision for each possible edge and each inner vertex, so that all
    samplers see the same ranges in every trial, and every combination means a valid cell: a vertex without edges is not
    there, one that nothing feeds reads the input, one that feeds nothing feeds the output, and of too many edges the
    longest are dropped. So a random draw is a cell of 6 or 7 vertices in 99 of 100 cases, as most of the benchmark
    are; leaving out what is not connected instead gives one cell in seven that is a projection alone.

    Source: Ying 2019, NAS-Bench-101: Towards Reproducible Neural Architecture Search (ICML).

    Args:
        width: channels of the first stage, at least as many as a cell has inner vertices.
        cells: cells of each stage.
        vertices: most vertices of a cell, input and output included.
        edges: most edges of a cell.
    """

    PUBLISHED: ClassVar[Mapping[str, int]] = {"width": 128, "cells": 3}
    width: int = 8
    cells: int = 1
    vertices: int = 7
    edges: int = 9

    def __post_init__(self) -> None:
        check_at_least(3, vertices=self.vertices)
        check_at_least(2, edges=self.edges)
        check_at_least(1, cells=self.cells)
        # The inner vertices that feed the output share its channels.
        check_at_least(self.vertices - 2, width=self.width)

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        decisions: dict[str, Decision] = {}
        for vertex in range(1, self.vertices):
            for source in range(vertex):
                name = _edge(vertex, source)
                decisions[name] = trial.suggest_categorical(name, (0, 1))
        for vertex in range(1, self.vertices - 1):
            decisions[f"op{vertex}"] = trial.suggest_categorical(f"op{vertex}", OPERATIONS)
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        cell = self.cell(architecture)
        width = out = self.width
        parts: dict[str, nn.Module] = {"stem": _conv_norm_relu(shape[0], width, 3)}
        for stage in STAGES:
            layers: list[nn.Module] = []
            if stage != STAGES[0]:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                out *= 2
            for _ in range(self.cells):
                layers.append(_CellModule(cell, width, out))
                width = out
            parts[stage] = nn.Sequential(*layers)
        return TappedModel(parts, width, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*STAGES, "penultimate", "logits")

    def cell(self, architecture: Architecture) -> Cell:
        """The cell that the decisions mean: connected, with few enough edges."""
        output = self.vertices - 1
        edges = {
            (source, vertex)
            for vertex in range(1, self.vertices)
            for source in range(vertex)
            if architecture[_edge(vertex, source)]
        }
        for vertex in {vertex for edge in edges for vertex in edge} - {0, output}:
            if all(target != vertex for _, target in edges):
                edges.add((0, vertex))
            if all(source != vertex for source, _ in edges):
                edges.add((vertex, output))
        while len(edges) > self.edges:
            edges = _connected(edges - {_most_dispensable(edges)}, self.vertices)
        edges = edges or {(0, output)}
        kept = sorted({vertex for edge in edges for vertex in edge})
        matrix = tuple(tuple(int((source, vertex) in edges) for vertex in kept) for source in kept)
        return Cell(matrix, tuple(str(architecture[f"op{vertex}"]) for vertex in kept[1:-1]))

    def notation(self, architecture: Architecture) -> str:
        """The cell as the benchmark writes it: `{"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}`."""
        cell = self.cell(architecture)
        return json.dumps({"matrix": cell.matrix, "ops": ["input", *cell.operations, "output"]})

    def parse(self, text: str) -> Architecture:
        """The architecture of the benchmark's text; what lies on no way from input to output is left out, as there.

        Raises:
            KdnasError: malformed, too many vertices or edges, or input and output are not connected.
        """
        matrix, operations = _read(text)
        count = len(matrix)
        if not 2 <= count <= self.vertices:
            raise malformed(f"{count} vertices", text, f"from 2 to {self.vertices} vertices")
        # The output is the last vertex however few there are.
        place = [*range(count - 1), self.vertices - 1]
        edges = {(source, vertex) for source in range(count) for vertex in range(count) if matrix[source][vertex]}
        if any(source >= vertex for source, vertex in edges):
            raise malformed("an edge leads back", text, "only entries above the diagonal may be 1")
        alive = _connected(edges, count)
        if not alive:
            raise malformed("input and output are not connected", text, f"write it as {_EXAMPLE}")
        if len(alive) > self.edges:
            raise malformed(f"{len(alive)} edges", text, f"at most {self.edges} edges")
        decisions: dict[str, Decision] = {
            _edge(vertex, source): 0 for vertex in range(1, self.vertices) for source in range(vertex)
        }
        decisions |= {_edge(place[vertex], place[source]): 1 for source, vertex in alive}
        decisions |= {f"op{vertex}": OPERATIONS[0] for vertex in range(1, self.vertices - 1)}
        decisions |= {f"op{vertex}": operation for vertex, operation in enumerate(operations, start=1)}
        return Architecture.of(decisions)

    def canonical(self, architecture: Architecture) -> str:
        """The benchmark's own hash of the cell, the same for isomorphic cells.

        Source: Ying 2019, supplement S1 (iterative graph hashing).
        """
        return cell_hash(self.cell(architecture))

    def graph(self, architecture: Architecture) -> Graph:
        """Operation of each vertex and what it reads, for a drawing."""
        cell = self.cell(architecture)
        labels = ("input", *cell.operations, "output")
        return [
            (label, tuple(source for source in range(vertex) if cell.matrix[source][vertex]))
            for vertex, label in enumerate(labels)
        ]


def cell_hash(cell: Cell) -> str:
    """The 32 hexadecimal digits under which the benchmark lists the cell; the same for isomorphic cells.

    Every vertex starts from its degrees and operation and takes in its neighbours' hashes, again and again.

    Source: Ying 2019, supplement S1; text and order of operations as in its published table.
    """
    count = len(cell.matrix)
    labels = [-1, *(OPERATIONS.index(operation) for operation in cell.operations), -2]
    reads = [[w for w in range(count) if cell.matrix[w][v]] for v in range(count)]
    feeds = [[w for w in range(count) if cell.matrix[v][w]] for v in range(count)]
    hashes = [_md5(str((len(feeds[v]), len(reads[v]), labels[v]))) for v in range(count)]
    for _ in range(count):
        hashes = [
            _md5(
                "".join(sorted(hashes[w] for w in reads[v]))
                + "|"
                + "".join(sorted(hashes[w] for w in feeds[v]))
                + "|"
                + hashes[v]
            )
            for v in range(count)
        ]
    return _md5(str(sorted(hashes)))


def vertex_widths(cell: Cell, width: int, out: int) -> list[int]:
    """Channels of every vertex of a cell from `width` to `out` channels.

    Vertices that feed the output share its channels (the first take what is left over), any other vertex has as
    many as the widest that it feeds.

    Source: Ying 2019, section 2.2 and supplement.
    """
    count = len(cell.matrix)
    last = [v for v in range(1, count - 1) if cell.matrix[v][count - 1]]
    widths = [width, *[0] * (count - 2), out]
    for index, vertex in enumerate(last):
        widths[vertex] = out // len(last) + (index < out % len(last))
    for vertex in range(count - 3, 0, -1):
        if vertex not in last:
            widths[vertex] = max(widths[w] for w in range(vertex + 1, count - 1) if cell.matrix[vertex][w])
    return widths


def _edge(vertex: int, source: int) -> str:
    return f"edge{vertex}_{source}"


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _connected(edges: set[tuple[int, int]], count: int) -> set[tuple[int, int]]:
    """The edges (source, vertex) that lie on a way from vertex 0 to the last."""
    fed, used = {0}, {count - 1}
    for source, vertex in sorted(edges):
        if source in fed:
            fed.add(vertex)
    for source, vertex in sorted(edges, key=lambda edge: -edge[1]):
        if vertex in used:
            used.add(source)
    return {(source, vertex) for source, vertex in edges if source in fed and vertex in used}


def _most_dispensable(edges: set[tuple[int, int]]) -> tuple[int, int]:
    """The longest edge, of those without which every vertex is still fed and used where there is one."""
    spare = [
        (source, vertex)
        for source, vertex in edges
        if sum(s == source for s, _ in edges) > 1 and sum(v == vertex for _, v in edges) > 1
    ]
    return max(spare or edges, key=lambda edge: (edge[1] - edge[0], edge))


def _read(text: str) -> tuple[Sequence[Sequence[int]], list[str]]:
    """Square matrix of 0 and 1, and known operations of the inner vertices."""
    try:
        found: Any = json.loads(text)
        matrix, operations = found["matrix"], list(found["ops"])
        shape = {len(row) for row in matrix} | {len(matrix), len(operations)}
        entries = {entry for row in matrix for entry in row}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise malformed("not the JSON of a cell", text, f"write it as {_EXAMPLE}") from error
    if len(shape) != 1 or not entries <= {0, 1}:
        raise malformed("not a square matrix of 0 and 1 with one operation a row", text, f"write it as {_EXAMPLE}")
    ends, inner = (operations[0], operations[-1]) if operations else None, operations[1:-1]
    if ends != ("input", "output"):
        raise malformed("the first operation is input, the last output", text, f"write it as {_EXAMPLE}")
    unknown = [operation for operation in inner if operation not in OPERATIONS]
    if unknown:
        raise malformed(f"unknown operation {unknown[0]!r}", text, f"operations: {', '.join(OPERATIONS)}")
    return matrix, inner


def _conv_norm_relu(width: int, out: int, kernel: int) -> nn.Sequential:
    # Not in place: other vertices read the same input.
    return nn.Sequential(nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def _operation(name: str, width: int) -> nn.Module:
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return _conv_norm_relu(width, width, 3 if name.startswith("conv3x3") else 1)


class _CellModule(nn.Module):
    def __init__(self, cell: Cell, width: int, out: int) -> None:
        super().__init__()
        self.matrix = cell.matrix
        self.widths = vertex_widths(cell, width, out)
        count = len(cell.matrix)
        self.projections = nn.ModuleDict(
            {str(v): _conv_norm_relu(width, self.widths[v], 1) for v in range(1, count) if cell.matrix[0][v]}
        )
        self.operations = nn.ModuleList(
            _operation(name, self.widths[v]) for v, name in enumerate(cell.operations, start=1)
        )

    def extra_repr(self) -> str:
        """What its weights' shapes do not say."""
        return f"matrix={self.matrix}"

    def forward(self, x: Tensor) -> Tensor:
        """Value of the output vertex, `[batch, out, h, w]`."""
        values = [x]
        output = len(self.matrix) - 1
        for vertex, operation in enumerate(self.operations, start=1):
            # A source may have a channel more than this vertex: it is cut off.
            terms = [values[w][:, : self.widths[vertex]] for w in range(1, vertex) if self.matrix[w][vertex]]
            values.append(operation(self._plus_input(terms, x, vertex)))
        last = [values[w] for w in range(1, output) if self.matrix[w][output]]
        return self._plus_input([torch.cat(last, dim=1)] if last else [], x, output)

    def _plus_input(self, terms: list[Tensor], x: Tensor, vertex: int) -> Tensor:
        if self.matrix[0][vertex]:
            terms = [*terms, self.projections[str(vertex)](x)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
