"""What does an architecture look like? A drawing as SVG text that needs nothing around it.

A space with a method `graph(architecture)` is drawn as the graph that it gives (or as several, by name), one with a
method `parts(architecture)` as a chain of those boxes (name to lines of text), any other as a chain of boxes, one for
each group of decisions.
"""

import html
import itertools
from collections.abc import Mapping, Sequence

from search_spaces.base import Architecture, Space
from search_spaces.cells import Graph

_ROW, _GAP, _MARGIN, _LINE = 40, 44, 12, 17
_LETTER = 7.2  # width of a letter at 12 pixels, generous
_Block = tuple[float, float, list[str]]  # width, height, elements


def svg(space: Space, architecture: Architecture) -> str:
    """Drawing of the architecture: an `<svg>` element, to write to a file or into a page."""
    graph = getattr(space, "graph", None)
    if graph is None:
        parts = getattr(space, "parts", _groups)
        blocks = [_chain(parts(architecture))]
    else:
        found = graph(architecture)
        graphs = found if isinstance(found, Mapping) else {"": found}
        blocks = [_titled(name, _layered(vertices)) for name, vertices in graphs.items()]
    width = max(block[0] for block in blocks) + 2 * _MARGIN
    y, body = float(_MARGIN), []
    for _, height, elements in blocks:
        body.append(f'<g transform="translate({_MARGIN},{y:.0f})">{"".join(elements)}</g>')
        y += height + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{y:.0f}" '
        f'viewBox="0 0 {width:.0f} {y:.0f}" font-family="sans-serif" font-size="12">'
        f"<title>{html.escape(type(space).__name__)} {architecture.digest()}</title>"
        f'<rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>'
    )


def _groups(architecture: Architecture) -> dict[str, list[str]]:
    """Decisions by what they belong to: `stage1.width` to `stage1`."""
    groups: dict[str, list[str]] = {}
    for name, value in architecture.items():
        group, dot, rest = name.partition(".")
        groups.setdefault(group if dot else "", []).append(f"{rest if dot else name} {value}")
    return groups


def _chain(groups: Mapping[str, Sequence[str]]) -> _Block:
    """A box for each group, from left to right."""
    height = _LINE * (1 + max((len(lines) for lines in groups.values()), default=0)) + 12.0
    x, elements = 0.0, []
    for group, lines in groups.items():
        if x:
            elements.append(_line([(x - _GAP, height / 2), (x, height / 2)]))
        width = _width([group, *lines])
        elements.append(_box(x, 0, width, height))
        elements.append(_text(x + width / 2, _LINE, group, bold=True))
        elements += [_text(x + width / 2, _LINE * row, line) for row, line in enumerate(lines, start=2)]
        x += width + _GAP
    return max(x - _GAP, 0), height, elements


def _titled(name: str, block: _Block) -> _Block:
    if not name:
        return block
    width, height, elements = block
    moved = f'<g transform="translate(0,{_LINE + 4})">{"".join(elements)}</g>'
    heading = f'<text y="{_LINE - 4}" font-weight="bold">{html.escape(name)}</text>'
    return max(width, _LETTER * len(name)), height + _LINE + 4, [heading, moved]


def _layered(graph: Graph) -> _Block:
    """The graph from left to right, every vertex one layer after the last of its inputs.

    Source: Sugiyama 1981, Methods for Visual Understanding of Hierarchical System Structures (layers, barycentres).
    """
    depth: list[int] = []
    for _, inputs in graph:
        depth.append(1 + max((depth[source] for source in inputs), default=-1))
    # An edge over several layers has a place of its own in each between, so that it runs around the boxes.
    reach = list(depth)
    for vertex, (_, inputs) in enumerate(graph):
        for source in inputs:
            reach[source] = max(reach[source], depth[vertex] - 1)
    layers = [
        [vertex for vertex in range(len(graph)) if depth[vertex] <= layer <= reach[vertex]]
        for layer in range(max(depth) + 1)
    ]
    row = _rows(graph, depth, layers)
    rows = max(map(len, layers))
    widths = [
        _width([graph[vertex][0] for vertex in layer if depth[vertex] == number]) for number, layer in enumerate(layers)
    ]
    left = [sum(widths[:number]) + _GAP * number for number in range(len(layers))]

    def middle(vertex: int, layer: int) -> float:
        return _ROW * (row[vertex, layer] + (rows - len(layers[layer])) / 2 + 0.5)

    elements = []
    for vertex, (_, inputs) in enumerate(graph):
        for source in inputs:
            points: list[tuple[float, float]] = []
            for layer in range(depth[source], depth[vertex]):
                x, y = left[layer], middle(source, layer)
                points += [(x + widths[layer], y)] if layer == depth[source] else [(x, y), (x + widths[layer], y)]
            elements.append(_line([*points, (left[depth[vertex]], middle(vertex, depth[vertex]))]))
    for vertex, (label, inputs) in enumerate(graph):
        x, y, width = left[depth[vertex]], middle(vertex, depth[vertex]), widths[depth[vertex]]
        end = not inputs or vertex == len(graph) - 1
        elements.append(_box(x, y - 14, width, 28, "#eeeeee" if end else "#dcebfa"))
        elements.append(_text(x + width / 2, y + 4, label))
    return left[-1] + widths[-1], float(_ROW * rows), elements


def _rows(graph: Graph, depth: list[int], layers: list[list[int]]) -> dict[tuple[int, int], int]:
    """Row of each vertex in each layer, near the middle of what it reads."""
    row: dict[tuple[int, int], int] = {}
    for number, layer in enumerate(layers):
        # In parts of the layer's height, as layers differ in their number of rows.
        before = layers[number - 1] if number else []
        height = {vertex: (row[vertex, number - 1] + 0.5) / len(before) for vertex in before}
        wish = {}
        for vertex in layer:
            sources = graph[vertex][1] if depth[vertex] == number else (vertex,)
            wish[vertex] = sum(height[source] for source in sources) / len(sources) if sources else 0.0
        row |= {(vertex, number): place for place, vertex in enumerate(sorted(layer, key=wish.__getitem__))}
    return row


def _width(texts: list[str]) -> float:
    return _LETTER * max(map(len, texts), default=0) + 16


def _box(x: float, y: float, width: float, height: float, fill: str = "#dcebfa") -> str:
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="5" fill="{fill}" '
        f'stroke="#46637f"/>'
    )


def _text(x: float, y: float, text: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle"{weight}>{html.escape(text)}</text>'


def _line(points: list[tuple[float, float]]) -> str:
    """Line through the points, straight along the boxes and curved between them."""
    path = f"M{points[0][0]:.0f},{points[0][1]:.0f}"
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        half = (x + to_x) / 2
        path += f" C{half:.0f},{y:.0f} {half:.0f},{to_y:.0f} {to_x:.0f},{to_y:.0f}"
    return f'<path d="{path}" fill="none" stroke="#46637f" stroke-width="1.3"/>'
