"""Spaces that the suites run on: every registered one, some with other options, and one as a user would write it."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from search_spaces import (
    SPACES,
    Architecture,
    CompositionSpace,
    DARTSSpace,
    MobileNetSpace,
    NASBench101Space,
    NASBench201Space,
    NASBenchMacroSpace,
    Shape,
    SpeechSpace,
    Suggests,
    ViTSpace,
)


class _Net(nn.Module):
    def __init__(self, inputs: int, hidden: list[int], dropout: float, classes: int) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden, strict=False))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)
        self.taps = ("layer1", "logits")

    def forward(self, x):
        return self.forward_taps(x, ())[0]

    def forward_taps(self, x, names):
        x, seen = x.flatten(1), {}
        for number, layer in enumerate(self.layers, start=1):
            x = seen[f"layer{number}"] = torch.relu(layer(x))
        seen["logits"] = self.head(self.dropout(x))
        return seen["logits"], {name: seen[name] for name in names}


@dataclass(frozen=True)
class OwnSpace:
    """A user's space: conditional (as many widths as layers), with whole numbers, fractions and words."""

    def suggest(self, trial: Suggests) -> Architecture:
        layers = trial.suggest_int("layers", 1, 3)
        decisions = {"layers": layers}
        for number in range(1, layers + 1):
            decisions[f"width{number}"] = trial.suggest_int(f"width{number}", 4, 12, step=4)
        decisions["dropout"] = trial.suggest_float("dropout", 0.1, 0.3, step=0.1)
        decisions["scale"] = trial.suggest_float("scale", 0.5, 2.0)
        decisions["act"] = trial.suggest_categorical("act", ("relu", "gelu"))
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> nn.Module:
        hidden = [architecture[f"width{number}"] for number in range(1, architecture["layers"] + 1)]
        return _Net(shape[0] * shape[1] * shape[2], hidden, architecture["dropout"], classes)

    def taps(self) -> tuple[str, ...]:
        return ("layer1", "logits")


@pytest.fixture
def own_space() -> OwnSpace:
    return OwnSpace()


# Every branch of the language of `composition`: conditional items and alternatives, none at all, repeats, choices of
# stride, taps in the middle and layers after the last one.
CONDITIONAL = (
    {"name": "begin", "block": "conv", "width": [6, 8], "stride": [1, 2], "activation": ["relu", "hswish"]},
    {
        "name": "middle",
        "any": [
            "bottleneck",
            {"block": "conv", "when": {"begin.width": 6}},
            {"block": "conv", "name": "wide", "kernel": [3, 5], "when": {"begin.width": [8]}},
        ],
        "width": [4, 6],
    },
    {"name": "maybe", "block": "inverted", "squeeze": [False, True], "when": {"middle.block": "wide"}},
    {"block": ["max_pool", "avg_pool", "skip"], "size": 3, "repeat": [0, 2]},
)
VARIANTS = {
    "mobilenet, one stage": MobileNetSpace(stages=1, widths=(3, 8), expansions=(1, 4)),
    "nasbench101, small": NASBench101Space(width=5, vertices=5, edges=5, cells=2),
    "nasbench201, two cells": NASBench201Space(width=3, cells=2),
    "darts, one channel": DARTSSpace(width=1, cells=3),
    "vit_tiny, shallow": ViTSpace(patches=(3, 5), depths=(1, 2), widths=(8, 16), stems=("patch", "conv")),
    "nasbench_macro, small": NASBenchMacroSpace(stem_width=4, widths=(4, 8), depths=(2, 1), head_width=0),
    "speech, one stage": SpeechSpace(stages=1, widths=(4, 8), time_kernels=(3, 7)),
    "composition, conditional": CompositionSpace(layers=CONDITIONAL),
    "a user's own": OwnSpace(),
}


@pytest.fixture(params=[*SPACES, *VARIANTS])
def space(request):
    return SPACES[request.param]() if request.param in SPACES else VARIANTS[request.param]
