"""Which cells are there in NAS-Bench-201, and what does a network of them look like?"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel
from search_spaces.cells import STAGES, Graph, Zero, check_at_least, malformed, relu_conv_norm, sum_edges
from search_spaces.sharing import Option, Pick, build_picked

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
# Node and the earlier node that it reads, in the order of the benchmark's notation.
EDGES = tuple((node, source) for node in range(1, NODES) for source in range(node))
_EXAMPLE = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"


@dataclass(frozen=True)
class NASBench201Space:
    """The 15,625 cells of NAS-Bench-201: four nodes, and one of five operations on each of the six edges.

    Three stages of equal cells, with a residual block that halves the resolution and doubles the channels between
    them. The benchmark trained networks of `width` 16 and `cells` 5. An edge that lies on no way from the cell's input
    to its output is not built: it would cost (the benchmark's own parameter counts include such edges) and add nothing
    but, where a convolution reads zeros, the bias of its batch norm.

    Source: Dong and Yang 2020, NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search (ICLR).

    Args:
        width: channels of the first stage.
        cells: cells of each stage.
    """

    PUBLISHED: ClassVar[Mapping[str, int]] = {"width": 16, "cells": 5}
    width: int = 4
    cells: int = 1

    def __post_init__(self) -> None:
        check_at_least(1, width=self.width, cells=self.cells)

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        return Architecture.of({name: trial.suggest_categorical(name, OPERATIONS) for name in map(_edge, EDGES)})

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        return build_picked(self, architecture, shape, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*STAGES, "penultimate", "logits")

    def assemble(self, shape: Shape, classes: int, pick: Pick) -> TappedModel:
        """The network with `pick(edge, operations)` at each edge, the same in every cell."""
        width = self.width
        parts: dict[str, nn.Module] = {
            "stem": nn.Sequential(nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        }
        for stage in STAGES:
            layers: list[nn.Module] = []
            if stage != STAGES[0]:
                layers.append(_Reduction(width, 2 * width))
                width *= 2
            layers += [_Cell(width, pick) for _ in range(self.cells)]
            parts[stage] = nn.Sequential(*layers)
        parts["head"] = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        return TappedModel(parts, width, classes)

    def choices(self, architecture: Architecture) -> dict[str, str]:
        """Name of the operation at each edge, `none` where the edge lies on no way from input to output."""
        live = {_edge(edge) for edge in _live_edges(architecture)}
        return {name: str(op) if name in live else "none" for name, op in architecture.items()}

    def discretise(self, weights: Mapping[str, Mapping[str, float]]) -> Architecture:
        """The architecture that keeps the heaviest operation of each edge: `{edge: {operation: weight}}`."""
        return Architecture.of({name: max(weights[name], key=weights[name].__getitem__) for name in map(_edge, EDGES)})

    def notation(self, architecture: Architecture) -> str:
        """The benchmark's own text, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
        return "+".join(
            "|" + "|".join(f"{architecture[_edge((node, source))]}~{source}" for source in range(node)) + "|"
            for node in range(1, NODES)
        )

    def parse(self, text: str) -> Architecture:
        """The architecture that the benchmark's text describes.

        Raises:
            KdnasError: malformed, an unknown operation, or an edge from another node than expected.
        """
        nodes = text.strip().split("+")
        if len(nodes) != NODES - 1:
            raise malformed(f"{len(nodes)} nodes instead of {NODES - 1}", text, f"write it as {_EXAMPLE}")
        decisions: dict[str, Decision] = {}
        for node, part in enumerate(nodes, start=1):
            edges = re.fullmatch(r"\|(.*)\|", part.strip())
            found = [edge.partition("~") for edge in edges[1].split("|")] if edges else []
            if [source for _, _, source in found] != [str(source) for source in range(node)]:
                problem = f"node {node} is {part!r}, it needs one edge from each of the nodes before it"
                raise malformed(problem, text, f"write it as {_EXAMPLE}")
            for operation, _, source in found:
                if operation not in OPERATIONS:
                    raise malformed(f"unknown operation {operation!r}", text, f"operations: {', '.join(OPERATIONS)}")
                decisions[_edge((node, int(source)))] = operation
        return Architecture.of(decisions)

    def canonical(self, architecture: Architecture) -> str:
        """What the cell computes, the same for cells that compute the same function of their weights.

        Edges of zeros and what leads nowhere are left out, a skip is what it reads. The paper's own text counts
        6,466 different cells of 15,625, as it keeps the zeros of a sum; by this one there are 5,260. The
        convolutions are listed after the sum, because one that is read twice is not two that are read once.

        Source: Dong and Yang 2020, section 2 (isomorphic cells).
        """
        live = _live_edges(architecture)
        sums: list[list[str]] = [["x"]]
        convolutions = []
        for node in range(1, NODES):
            terms: list[str] = []
            for source in (source for target, source in live if target == node):
                operation = str(architecture[_edge((node, source))])
                if operation == "skip_connect":
                    terms += sums[source]
                else:
                    terms.append(f"{operation}({'+'.join(sums[source])})")
                if operation.startswith("nor_conv"):
                    convolutions.append(terms[-1])
            sums.append(sorted(terms))
        return f"{'+'.join(sums[-1]) or '0'} with {', '.join(sorted(convolutions)) or 'no convolution'}"

    def graph(self, architecture: Architecture) -> Graph:
        """Operations of the cell and what they read, for a drawing: edges that lie on a way to the output."""
        vertices: Graph = [("input", ())]
        inputs: dict[int, tuple[int, ...]] = {0: (0,)}
        for node in range(1, NODES):
            found: list[int] = []
            for source in (source for target, source in _live_edges(architecture) if target == node):
                vertices.append((str(architecture[_edge((node, source))]), inputs[source]))
                found.append(len(vertices) - 1)
            inputs[node] = tuple(found)
        return [*vertices, ("output", inputs[NODES - 1])]


def _edge(edge: tuple[int, int]) -> str:
    return f"edge{edge[0]}_{edge[1]}"


def _live_edges(architecture: Mapping[str, Decision]) -> list[tuple[int, int]]:
    """Edges that carry something from the cell's input to its output."""
    edges = [edge for edge in EDGES if architecture[_edge(edge)] != "none"]
    fed, used = {0}, {NODES - 1}
    for node, source in edges:  # in the order of nodes
        if source in fed:
            fed.add(node)
    for node, source in reversed(edges):
        if node in used:
            used.add(source)
    return [(node, source) for node, source in edges if source in fed and node in used]


def _operations(width: int) -> dict[str, Option]:
    return {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": lambda: relu_conv_norm(width, width, 1),
        "nor_conv_3x3": lambda: relu_conv_norm(width, width, 3),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    }


class _Cell(nn.Module):
    def __init__(self, width: int, pick: Pick) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({name: pick(name, _operations(width)) for name in map(_edge, EDGES)})

    def forward(self, x: Tensor) -> Tensor:
        """Value of the last node, `[batch, width, h, w]`."""
        nodes = [x]
        for node in range(1, NODES):
            nodes.append(sum_edges((self.edges[_edge((node, source))], nodes[source]) for source in range(node)))
        return nodes[-1]


class _Reduction(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(relu_conv_norm(width, out, 3, stride=2), relu_conv_norm(out, out, 3))
        # Rounded up, as the convolutions do, so that odd sizes fit as well.
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(width, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Half the resolution, `[batch, out, h / 2, w / 2]`."""
        return self.shortcut(x) + self.body(x)
