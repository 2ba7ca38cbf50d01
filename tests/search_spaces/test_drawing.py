"""Specification of `search_spaces.drawing`."""

import random
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import pytest

from search_spaces import Architecture, DARTSSpace, NASBench201Space, ResNetSpace, sample
from search_spaces.composition import CompositionSpace
from search_spaces.drawing import svg

NAME = "{http://www.w3.org/2000/svg}"


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter(f"{NAME}text")]


@pytest.mark.parametrize("seed", range(5))
def test_svg_of_every_space_is_well_formed_and_inside_its_frame(space, seed):
    drawing = svg(space, sample(space, random.Random(seed)))
    root = ElementTree.fromstring(drawing)
    assert root.tag == f"{NAME}svg"
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [box.attrib for box in root.iter(f"{NAME}rect")][1:]
    assert boxes
    for box in boxes:
        assert 0 <= float(box["x"]) <= float(box["x"]) + float(box["width"]) <= width
        assert 0 <= float(box["y"]) <= float(box["y"]) + float(box["height"]) <= height
    assert "href" not in drawing


@pytest.mark.parametrize("seed", range(5))
def test_boxes_of_a_drawing_do_not_overlap(space, seed):
    root = ElementTree.fromstring(svg(space, sample(space, random.Random(seed))))
    for group in root.iter(f"{NAME}g"):
        boxes = [
            [float(box.attrib[key]) for key in ("x", "y", "width", "height")] for box in group.findall(f"{NAME}rect")
        ]
        for i, (x, y, width, height) in enumerate(boxes):
            for other_x, other_y, other_width, other_height in boxes[:i]:
                beside = x >= other_x + other_width or other_x >= x + width
                assert beside or y >= other_y + other_height or other_y >= y + height


def test_chain_has_a_box_for_each_group_with_its_decisions():
    shown = texts(svg(ResNetSpace(), sample(ResNetSpace(), random.Random(0))))
    assert [text for text in shown if text in ("stem", "stage1", "stage2", "stage3")] == [
        "stem",
        "stage1",
        "stage2",
        "stage3",
    ]
    assert sum(text.startswith("depth ") for text in shown) == 3


def test_graph_shows_its_operations():
    space = NASBench201Space()
    cell = space.parse("|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|nor_conv_1x1~0|none~1|skip_connect~2|")
    assert texts(svg(space, cell)) == [
        "input",
        "nor_conv_3x3",
        "avg_pool_3x3",
        "nor_conv_1x1",
        "skip_connect",
        "output",
    ]


def test_several_graphs_are_named():
    shown = texts(svg(DARTSSpace(), sample(DARTSSpace(), random.Random(0))))
    assert [text for text in shown if text in ("normal", "reduce")] == ["normal", "reduce"]


@dataclass(frozen=True)
class Hostile:
    """A space with names that are markup."""

    drawn_as_graph: bool

    def __getattr__(self, name):
        if name == "graph" and self.drawn_as_graph:
            return lambda architecture: {"<b>": [("<script>", ()), ("a & b", (0,))]}
        raise AttributeError(name)


def test_composition_is_drawn_with_every_layer_that_is_built_and_no_other():
    layers = [
        {"name": "first", "block": "conv", "width": [4, 8]},
        "max_pool",
        {"name": "last", "width": 8, "any": ["basic", {"block": "inverted", "when": {"first.width": 8}}]},
        {"block": "squeeze_excite", "when": {"first.width": 8}},
    ]  # fmt: skip
    space = CompositionSpace(layers)
    small = next(a for seed in range(99) if (a := sample(space, random.Random(seed)))["first.width"] == 4)
    large = next(a for seed in range(99) if (a := sample(space, random.Random(seed)))["first.width"] == 8)
    assert {"first", "conv", "width 4", "max_pool", "last", "basic"} <= set(texts(svg(space, small)))
    assert "squeeze_excite" not in texts(svg(space, small))
    assert "squeeze_excite" in texts(svg(space, large))


@pytest.mark.parametrize("drawn_as_graph", [False, True])
def test_markup_in_names_and_values_is_escaped(drawn_as_graph):
    drawing = svg(Hostile(drawn_as_graph), Architecture.of({"<script>.a": "</svg>", "b & c": 1}))
    assert "<script>" not in drawing
    assert "<script>" in texts(drawing)


def test_architecture_without_decisions_is_a_drawing_too():
    assert texts(svg(ResNetSpace(), Architecture.of({}))) == []
