"""Which residual networks may be built, from a few hundred parameters up to ResNet-like teachers?"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel, suggest_stages
from search_spaces.errors import KdnasError


@dataclass(frozen=True)
class ResNetSpace:
    """Residual networks: depth, width, kernel size and block type of every stage.

    The first stage keeps the stem's resolution, each later one halves it. Taps: `stage1` … `stageN`,
    `penultimate`, `logits`.

    Source: He 2016, Deep Residual Learning for Image Recognition (CVPR).

    Args:
        stages: number of stages.
        stem_widths: channels of the first convolution.
        stem_strides: stride of the first convolution; 2 quarters the cost of everything after it.
        widths: channels a stage may have.
        depths: blocks a stage may have.
        kernels: side of the spatial convolutions.
        blocks: `basic` (two convolutions), `bottleneck` (at half width), `bottleneck4` (a quarter, as published),
            `separable`.
    """

    stages: int = 3
    stem_widths: tuple[int, ...] = (4, 8, 16)
    stem_strides: tuple[int, ...] = (1,)
    widths: tuple[int, ...] = (4, 8, 12, 16, 24, 32)
    depths: tuple[int, ...] = (1, 2)
    kernels: tuple[int, ...] = (3, 5)
    blocks: tuple[str, ...] = ("basic", "bottleneck", "separable")

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise KdnasError("at least one stage is needed", field="space.stages", value=self.stages)
        for name in ("stem_widths", "stem_strides", "widths", "depths", "kernels", "blocks"):
            if not getattr(self, name):
                raise KdnasError("no choice left", field=f"space.{name}", value=[], remedy="list at least one value")
        for name in ("stem_widths", "stem_strides", "widths", "depths"):
            if min(getattr(self, name)) < 1:
                raise KdnasError("values start at 1", field=f"space.{name}", value=list(getattr(self, name)))
        if any(kernel < 1 or kernel % 2 == 0 for kernel in self.kernels):
            raise KdnasError("kernel sizes are odd and positive", field="space.kernels", value=list(self.kernels))
        unknown = [block for block in self.blocks if block not in BLOCKS]
        if unknown:
            raise KdnasError(
                "unknown block", field="space.blocks", value=unknown[0], remedy=f"known: {', '.join(BLOCKS)}"
            )

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        decisions: dict[str, Decision] = {"stem.width": trial.suggest_categorical("stem.width", self.stem_widths)}
        if self.stem_strides != (1,):  # left out where it is always 1, as in the published family
            decisions["stem.stride"] = trial.suggest_categorical("stem.stride", self.stem_strides)
        traits = {"depth": self.depths, "width": self.widths, "kernel": self.kernels, "block": self.blocks}
        decisions |= suggest_stages(trial, self.stages, traits)
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        return build_resnet(architecture, shape, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*(f"stage{stage}" for stage in range(1, self.stages + 1)), "penultimate", "logits")


def build_resnet(architecture: Mapping[str, Decision], shape: Shape, classes: int) -> TappedModel:
    """Residual network for any decisions of this family, also outside a space's ranges (teachers).

    Inputs of one pixel (rows of a table) get kernels of one: all else of a larger one would see padding alone. With a
    decision `head.middle` the classifier reads the average of so many places a side in the middle of the last map.
    """
    single = max(shape[1:]) == 1
    stages = sum(1 for name in architecture if name.endswith(".depth"))
    width = int(architecture["stem.width"])
    stride = int(architecture.get("stem.stride", 1))
    parts: dict[str, nn.Module] = {"stem": conv_norm(shape[0], width, 1 if single else 3, stride)}
    for stage in range(1, stages + 1):
        depth, out, kernel = (int(architecture[f"stage{stage}.{trait}"]) for trait in ("depth", "width", "kernel"))
        block = str(architecture[f"stage{stage}.block"])
        layers = []
        for index in range(depth):
            stride = 2 if index == 0 and stage > 1 else 1
            layers.append(residual(block, width, out, 1 if single else kernel, stride))
            width = out
        parts[f"stage{stage}"] = nn.Sequential(*layers)
    if "head.middle" in architecture:
        parts["head"] = Middle(int(architecture["head.middle"]))
    return TappedModel(parts, width, classes)


class Middle(nn.Module):
    """The middle of a map, at most `side` places in height and width: `[batch, C, h, w]` to `[batch, C, side, side]`.

    Args:
        side: places.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """The middle of the map."""
        top, left = ((size - self.side) // 2 if size > self.side else 0 for size in x.shape[2:])
        return x[:, :, top : top + self.side, left : left + self.side]


def resnet_architecture(
    stem: int, widths: tuple[int, ...], depths: tuple[int, ...], kernel: int = 3, block: str = "basic"
) -> Architecture:
    """Architecture with these channels and blocks a stage, the same kernel and block everywhere."""
    if len(widths) != len(depths) or not widths:
        raise KdnasError(
            "one depth for each width is needed",
            field="depths",
            value=list(depths),
            remedy=f"give {len(widths)} depths, as many as widths",
        )
    decisions: dict[str, Decision] = {"stem.width": stem}
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        decisions |= {
            f"stage{stage}.depth": depth,
            f"stage{stage}.width": width,
            f"stage{stage}.kernel": kernel,
            f"stage{stage}.block": block,
        }
    return Architecture.of(decisions)


def resnet_point(name: str, width: int = 64) -> Architecture:
    """A published network as an architecture of this family, to be compressed or to teach.

    Its stem is the 3x3 convolution that is used on small images, without the pooling that ImageNet's has.

    Source: He 2016, Deep Residual Learning for Image Recognition (CVPR), table 1.

    Args:
        name: one of `FAMILY`, such as `resnet18`.
        width: channels of the first stage's 3x3 convolutions, 64 as published; the other widths follow.

    Raises:
        KdnasError: the name is unknown or the width too small.
    """
    if name not in FAMILY:
        raise KdnasError("unknown network", field="name", value=name, remedy=f"known: {', '.join(FAMILY)}")
    if width < 1:
        raise KdnasError("too small", field="width", value=width, remedy="choose 1 or more; 64 is the published one")
    block, depths = FAMILY[name]
    first = width if block == "basic" else 4 * width
    return resnet_architecture(width, tuple(first * 2**stage for stage in range(len(depths))), depths, block=block)


def residual(block: str, width: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """One residual block of a kind in `BLOCKS`: `[batch, width, h, w]` to `[batch, out, h / stride, w / stride]`."""
    return Residual(BLOCKS[block](width, out, kernel, stride), width, out, stride)


class Residual(nn.Module):
    """`relu(body(x) + shortcut(x))`; the shortcut is the identity where nothing changes its shape."""

    def __init__(self, body: nn.Module, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != out:
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block, `[batch, out, h, w]`."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


def conv_norm(width: int, out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution, batch norm and, unless told otherwise, ReLU; the image keeps its size at stride 1."""
    layers: list[nn.Module] = [
        nn.Conv2d(width, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _basic(width: int, out: int, kernel: int, stride: int) -> nn.Module:
    return nn.Sequential(conv_norm(width, out, kernel, stride), conv_norm(out, out, kernel, relu=False))


def _bottleneck(width: int, out: int, kernel: int, stride: int, squeeze: int = 2) -> nn.Module:
    # He 2016 squeezes to a quarter; at student widths (8 to 32) a quarter leaves 2 channels, so a half.
    inner = max(out // squeeze, 1)
    return nn.Sequential(
        conv_norm(width, inner, 1),
        conv_norm(inner, inner, kernel, stride),
        conv_norm(inner, out, 1, relu=False),
    )


def _separable(width: int, out: int, kernel: int, stride: int) -> nn.Module:
    return nn.Sequential(
        conv_norm(width, width, kernel, stride, groups=width, relu=False),
        conv_norm(width, out, 1),
        conv_norm(out, out, kernel, groups=out, relu=False),
        conv_norm(out, out, 1, relu=False),
    )


BLOCKS: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "basic": _basic,
    "bottleneck": _bottleneck,
    "bottleneck4": functools.partial(_bottleneck, squeeze=4),
    "separable": _separable,
}

# Block and depths of the stages.
FAMILY: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck4", (3, 4, 6, 3)),
    "resnet101": ("bottleneck4", (3, 4, 23, 3)),
    "resnet152": ("bottleneck4", (3, 8, 36, 3)),
}
