"""Which networks does NAS-Bench-Macro hold: eight layers with three choices each?"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel
from search_spaces.errors import KdnasError
from search_spaces.mobilenet import InvertedResidual
from search_spaces.resnet import conv_norm
from search_spaces.sharing import Option, Pick, build_picked

OPTIONS = ("identity", "mb3_k3", "mb6_k5")  # written 0, 1, 2 in the table


@dataclass(frozen=True)
class NASBenchMacroSpace:
    """NAS-Bench-Macro: 3 choices at each of 8 layers, 6,561 networks whose CIFAR-10 accuracies are published.

    A layer is an identity, or an inverted residual of expansion 3 and kernel 3, or of 6 and 5. The first layer of
    each stage halves the resolution; an identity is a 1x1 convolution there. The defaults build the published
    networks; smaller `widths` and `head_width` make students of them. The weights of all can be shared.
    Taps: `stage1` … `stage3`, `penultimate`, `logits`.

    Source: Su 2021, Prioritized Architecture Sampling with Monto-Carlo Tree Search (CVPR).

    Args:
        stem_width: channels of the first convolution.
        widths: channels of each stage.
        depths: layers of each stage.
        head_width: channels of the 1x1 convolution before the classifier; 0 for none.
    """

    stem_width: int = 32
    widths: tuple[int, ...] = (64, 128, 256)
    depths: tuple[int, ...] = (2, 3, 3)
    head_width: int = 1280

    def __post_init__(self) -> None:
        for name in ("widths", "depths"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise KdnasError(
                    "values start at 1", field=f"space.{name}", value=list(values), remedy="give one for each stage"
                )
        if len(self.widths) != len(self.depths):
            raise KdnasError(
                "one depth for each width is needed",
                field="space.depths",
                value=list(self.depths),
                remedy=f"give {len(self.widths)} depths, as many as widths",
            )
        if self.stem_width < 1:
            raise KdnasError("too small", field="space.stem_width", value=self.stem_width, remedy="choose 1 or more")
        if self.head_width < 0:
            raise KdnasError("too small", field="space.head_width", value=self.head_width, remedy="0 for no head")

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        return Architecture.of({name: trial.suggest_categorical(name, OPTIONS) for name in self._layers()})

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        return build_picked(self, architecture, shape, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*(f"stage{stage}" for stage in range(1, len(self.widths) + 1)), "penultimate", "logits")

    def assemble(self, shape: Shape, classes: int, pick: Pick) -> TappedModel:
        """The network with `pick(layer, options)` at each layer."""
        width, number = self.stem_width, 0
        parts: dict[str, nn.Module] = {"stem": conv_norm(shape[0], width, 3)}
        for stage, (out, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            layers = []
            for index in range(depth):
                number += 1
                layers.append(pick(f"layer{number}", _options(width, out, stride=2 if index == 0 else 1)))
                width = out
            parts[f"stage{stage}"] = nn.Sequential(*layers)
        if self.head_width:
            parts["head"] = conv_norm(width, self.head_width, 1)
            width = self.head_width
        return TappedModel(parts, width, classes)

    def choices(self, architecture: Architecture) -> dict[str, str]:
        """Name of the option at each layer."""
        return {name: str(option) for name, option in architecture.items()}

    def discretise(self, weights: Mapping[str, Mapping[str, float]]) -> Architecture:
        """The architecture that keeps what weighs most at each layer."""
        best: dict[str, Decision] = {
            name: max(weights[name], key=lambda option: weights[name][option]) for name in self._layers()
        }
        return Architecture.of(best)

    def notation(self, architecture: Architecture) -> str:
        """One digit a layer, as in the published table: `02012100`."""
        return "".join(str(OPTIONS.index(str(architecture[name]))) for name in self._layers())

    def parse(self, text: str) -> Architecture:
        """The architecture that `notation` wrote.

        Raises:
            KdnasError: the text has another length or other signs than 0, 1 and 2.
        """
        layers = self._layers()
        if len(text) != len(layers) or set(text) - set("012"):
            example = "".join("012"[index % 3] for index in range(len(layers)))
            raise KdnasError(
                f"is not {len(layers)} digits of 0, 1 and 2",
                field="architecture",
                value=text,
                remedy=f"one digit a layer, such as {example}: 0 identity, 1 expansion 3, 2 expansion 6",
            )
        return Architecture.of({name: OPTIONS[int(digit)] for name, digit in zip(layers, text, strict=True)})

    def _layers(self) -> list[str]:
        return [f"layer{number}" for number in range(1, sum(self.depths) + 1)]


def _options(width: int, out: int, stride: int) -> dict[str, Option]:
    return {
        "identity": functools.partial(_identity, width, out, stride),
        "mb3_k3": functools.partial(InvertedResidual, width, out, 3 * width, 3, stride),
        "mb6_k5": functools.partial(InvertedResidual, width, out, 6 * width, 5, stride),
    }


def _identity(width: int, out: int, stride: int) -> nn.Module:
    if stride == 1 and width == out:
        return nn.Identity()
    return conv_norm(width, out, 1, stride, relu=False)
