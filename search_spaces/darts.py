"""Which cells does DARTS search, and what does a network of them look like?"""

import ast
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel
from search_spaces.cells import STAGES, Graph, Zero, check_at_least, malformed, relu_conv_norm, sum_edges
from search_spaces.sharing import Option, Pick, build_picked

KINDS = ("normal", "reduce")
OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
# Nodes 0 and 1 are the outputs of the two cells before; the cell's output is nodes 2 to 5 side by side.
NODES = range(2, 6)
EDGES = tuple((node, source) for node in NODES for source in range(node))
_EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), … two for each of 4 nodes], "
    "normal_concat=range(2, 6), reduce=[…], reduce_concat=range(2, 6))"
)
_Edge = tuple[str, int]  # operation and the node that it reads


@dataclass(frozen=True)
class DARTSSpace:
    """The cells of DARTS: a normal and a reduction cell of four nodes, each with two of seven operations.

    The cells at a third and at two thirds of the depth are reduction cells, which halve the resolution and double
    the channels. While weights are shared, every node reads every earlier one and each edge may also be `none`; all
    networks are the ones that were trained after the search in the paper (no normalisation after pooling), without
    drop-path and auxiliary head. The paper's CIFAR-10 networks have `width` 36 and `cells` 20.

    Source: Liu 2019, DARTS: Differentiable Architecture Search (ICLR).

    Args:
        width: channels of a node in the first cells; a cell puts out four times as many.
        cells: cells of the network, at least 3.
    """

    width: int = 2
    cells: int = 5

    def __post_init__(self) -> None:
        check_at_least(1, width=self.width)
        check_at_least(3, cells=self.cells)

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        decisions: dict[str, Decision] = {}
        for kind in KINDS:
            for node in NODES:
                name = f"{kind}.node{node}"
                if node > NODES[0]:  # the first node reads the only two there are
                    pairs = tuple(f"{a},{b}" for a, b in itertools.combinations(range(node), 2))
                    decisions[f"{name}.inputs"] = trial.suggest_categorical(f"{name}.inputs", pairs)
                for input_ in ("first", "second"):
                    decisions[f"{name}.{input_}"] = trial.suggest_categorical(f"{name}.{input_}", OPERATIONS)
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        return build_picked(self, architecture, shape, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*STAGES, "penultimate", "logits")

    def assemble(self, shape: Shape, classes: int, pick: Pick) -> TappedModel:
        """The network with `pick("normal.e2_0", operations)` at each edge, the same in every cell of a kind."""
        stem = 3 * self.width
        parts: dict[str, nn.Module] = {
            "stem": nn.Sequential(nn.Conv2d(shape[0], stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem))
        }
        reductions = (self.cells // 3, 2 * self.cells // 3)
        bounds = (0, *reductions, self.cells)
        older, newer, width, reduced = stem, stem, self.width, False
        for stage, (start, end) in zip(STAGES, itertools.pairwise(bounds), strict=True):
            cells = []
            for index in range(start, end):
                reduces = index in reductions
                width *= 2 if reduces else 1
                cells.append(_Cell(older, newer, width, reduces, reduced, pick))
                older, newer, reduced = newer, len(NODES) * width, reduces
            parts[stage] = nn.ModuleList(cells)
        return _Network(parts, newer, classes)

    def choices(self, architecture: Architecture) -> dict[str, str]:
        """Name of the operation at each edge, `none` where there is no edge."""
        found = {_place(kind, node, source): "none" for kind in KINDS for node, source in EDGES}
        for kind in KINDS:
            for node, edges in _cell(architecture, kind).items():
                found |= {_place(kind, node, source): operation for operation, source in edges}
        return found

    def discretise(self, weights: Mapping[str, Mapping[str, float]]) -> Architecture:
        """The architecture that keeps each node's two edges with the heaviest operation other than `none`.

        Source: Liu 2019, section 2.4.

        Args:
            weights: of the operations at each edge, `{"normal.e2_0": {operation: weight}}`.
        """
        cells: dict[str, list[list[_Edge]]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            for node in NODES:
                edges = []
                for source in range(node):
                    at = weights[_place(kind, node, source)]
                    best = max(OPERATIONS, key=at.__getitem__)
                    edges.append((at[best], best, source))
                edges.sort(key=lambda edge: (-edge[0], edge[2]))
                cells[kind].append([(operation, source) for _, operation, source in edges[:2]])
        return _architecture(cells)

    def notation(self, architecture: Architecture) -> str:
        """The usual text of a genotype, `Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), …)`."""
        parts = []
        for kind in KINDS:
            edges = [edge for pair in _cell(architecture, kind).values() for edge in pair]
            parts.append(f"{kind}={edges}, {kind}_concat={NODES}")
        return f"Genotype({', '.join(parts)})"

    def parse(self, text: str) -> Architecture:
        """The architecture of a genotype's text; the order of a node's two inputs does not matter.

        Raises:
            KdnasError: malformed, an unknown operation, or inputs that a node cannot have.
        """
        try:
            call = ast.parse(text.strip(), mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Genotype":
                raise ValueError("no Genotype")
            found = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
            raise malformed("not a genotype", text, f"write it as {_EXAMPLE}") from error
        known = [name for kind in KINDS for name in (kind, f"{kind}_concat")]
        if call.args or sorted(found) != sorted(known):
            raise malformed("not the fields of a genotype", text, f"fields: {', '.join(known)}")
        for kind in KINDS:
            if found[f"{kind}_concat"] != list(NODES):
                raise malformed(f"{kind}_concat is not nodes 2 to 5", text, "write range(2, 6)")
        return _architecture({kind: _nodes(found[kind], kind, text) for kind in KINDS})

    def canonical(self, architecture: Architecture) -> str:
        """Both cells in the first of all orders of their nodes, and of each node's inputs."""
        return f"normal {_first_order(architecture, 'normal')} reduce {_first_order(architecture, 'reduce')}"

    def graph(self, architecture: Architecture) -> dict[str, Graph]:
        """Operations of both cells and what they read, for a drawing."""
        graphs = {}
        for kind in KINDS:
            vertices: Graph = [("input of two before", ()), ("input", ())]
            values = {0: 0, 1: 1}
            for node, edges in _cell(architecture, kind).items():
                for operation, source in edges:
                    vertices.append((operation, (values[source],)))
                vertices.append((f"node {node}", (len(vertices) - 2, len(vertices) - 1)))
                values[node] = len(vertices) - 1
            graphs[kind] = [*vertices, ("output", tuple(values[node] for node in NODES))]
        return graphs


def _place(kind: str, node: int, source: int) -> str:
    return f"{kind}.e{node}_{source}"


def _cell(architecture: Architecture, kind: str) -> dict[int, tuple[_Edge, _Edge]]:
    """The two edges of each node, (operation, source), the earlier source first."""
    cell = {}
    for node in NODES:
        name = f"{kind}.node{node}"
        first, second = map(int, str(architecture.get(f"{name}.inputs", "0,1")).split(","))
        cell[node] = (str(architecture[f"{name}.first"]), first), (str(architecture[f"{name}.second"]), second)
    return cell


def _architecture(cells: Mapping[str, Sequence[Sequence[_Edge]]]) -> Architecture:
    decisions: dict[str, Decision] = {}
    for kind in KINDS:
        for node, edges in zip(NODES, cells[kind], strict=True):
            (first, a), (second, b) = sorted(edges, key=lambda edge: edge[1])
            if node > NODES[0]:
                decisions[f"{kind}.node{node}.inputs"] = f"{a},{b}"
            decisions |= {f"{kind}.node{node}.first": first, f"{kind}.node{node}.second": second}
    return Architecture.of(decisions)


def _first_order(architecture: Architecture, kind: str) -> list[list[_Edge]]:
    """Isomorphic cells differ in the order of nodes that do not read each other: the smallest of all orders."""
    cell = _cell(architecture, kind)
    found = []
    for order in itertools.permutations(NODES):
        renamed = {0: 0, 1: 1} | {node: index for index, node in enumerate(order, start=NODES[0])}
        if all(renamed[source] < renamed[node] for node in NODES for _, source in cell[node]):
            found.append([sorted((operation, renamed[source]) for operation, source in cell[node]) for node in order])
    return min(found)


def _literal(node: ast.expr) -> Any:
    """A list, or the list of a `range(…)`; nothing is evaluated."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        low, high = (ast.literal_eval(argument) for argument in node.args)
        if node.keywords or not (isinstance(low, int) and isinstance(high, int) and high - low < 100):
            raise ValueError("no short range")
        return list(range(low, high))
    return list(ast.literal_eval(node))


def _nodes(edges: list[Any], kind: str, text: str) -> list[list[_Edge]]:
    """Pairs of edges of the four nodes, checked."""
    if len(edges) != 2 * len(NODES):
        problem = f"{kind} has {len(edges)} edges instead of {2 * len(NODES)}"
        raise malformed(problem, text, f"write it as {_EXAMPLE}")
    for edge in edges:
        if not (isinstance(edge, (tuple, list)) and len(edge) == 2 and type(edge[1]) is int):
            raise malformed(f"{edge!r} in {kind} is no edge", text, "write an edge as ('sep_conv_3x3', 0)")
        if edge[0] not in OPERATIONS:
            raise malformed(f"unknown operation {edge[0]!r} in {kind}", text, f"operations: {', '.join(OPERATIONS)}")
    pairs = [[(str(operation), source) for operation, source in edges[i : i + 2]] for i in range(0, len(edges), 2)]
    for node, pair in zip(NODES, pairs, strict=True):
        sources = {source for _, source in pair}
        if len(sources) != 2 or not sources <= set(range(node)):
            remedy = f"two different ones of {', '.join(map(str, range(node)))}"
            raise malformed(f"node {node} of {kind} reads {[source for _, source in pair]}", text, remedy)
    return pairs


def _operations(width: int, stride: int) -> dict[str, Option]:
    def average() -> nn.Module:
        return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)

    return {
        "none": lambda: Zero(stride),
        "max_pool_3x3": lambda: nn.MaxPool2d(3, stride=stride, padding=1),
        "avg_pool_3x3": average,
        "skip_connect": lambda: nn.Identity() if stride == 1 else _HalvedSkip(width, width),
        "sep_conv_3x3": lambda: nn.Sequential(*_separable(width, 3, stride), *_separable(width, 3)),
        "sep_conv_5x5": lambda: nn.Sequential(*_separable(width, 5, stride), *_separable(width, 5)),
        "dil_conv_3x3": lambda: nn.Sequential(*_separable(width, 3, stride, dilation=2)),
        "dil_conv_5x5": lambda: nn.Sequential(*_separable(width, 5, stride, dilation=2)),
    }


def _separable(width: int, kernel: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),  # not in place: other edges read the same input
        nn.Conv2d(width, width, kernel, stride, padding, dilation, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
    ]


class _HalvedSkip(nn.Module):
    """Half the resolution without losing what lies between: two 1x1 convolutions, the second one pixel further."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(width, out - out // 2, 1, stride=2, bias=False)
        # With a single channel to give out there is no second half.
        self.odd = nn.Conv2d(width, out // 2, 1, stride=2, bias=False) if out > 1 else None
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Half the resolution, `[batch, out, h / 2, w / 2]`."""
        x = x.relu()
        halves = [self.even(x)]
        if self.odd is not None:
            # Padded at the far end, so that both have the same size where the input's is odd.
            halves.append(self.odd(nn.functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]))
        return self.norm(torch.cat(halves, dim=1))


class _Cell(nn.Module):
    def __init__(self, older: int, newer: int, width: int, reduces: bool, reduced: bool, pick: Pick) -> None:
        super().__init__()
        self.kind = KINDS[reduces]
        # After a reduction cell the older of the two inputs has twice the resolution.
        self.older = _HalvedSkip(older, width) if reduced else relu_conv_norm(older, width, 1)
        self.newer = relu_conv_norm(newer, width, 1)
        self.edges = nn.ModuleDict()
        for node, source in EDGES:
            stride = 2 if reduces and source < NODES[0] else 1
            self.edges[f"e{node}_{source}"] = pick(_place(self.kind, node, source), _operations(width, stride))

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        """The four nodes side by side, `[batch, 4 * width, h, w]`."""
        nodes = [self.older(older), self.newer(newer)]
        for node in NODES:
            nodes.append(sum_edges((self.edges[f"e{node}_{source}"], nodes[source]) for source in range(node)))
        return torch.cat(nodes[NODES[0] :], dim=1)


class _Network(TappedModel):
    """A chain of stages whose cells read the outputs of the two cells before them."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` for inputs `[batch, channels, height, width]`."""
        return self.forward_taps(x, ())[0]

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `[batch, classes]` and the activations `{name: [batch, …]}` of the named taps."""
        seen = {}
        older = newer = self.parts["stem"](x)
        for stage in STAGES:
            for cell in cast(nn.ModuleList, self.parts[stage]):
                older, newer = newer, cell(older, newer)
            seen[stage] = newer
        seen["penultimate"] = newer.mean(dim=(2, 3))
        seen["logits"] = self.classifier(seen["penultimate"])
        return seen["logits"], {name: seen[name] for name in names}
