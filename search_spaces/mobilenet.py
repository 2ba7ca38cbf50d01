"""Which mobile networks of inverted residuals may be built?"""

from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel, suggest_stages
from search_spaces.errors import KdnasError

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "hswish": nn.Hardswish}
_LISTS = ("stem_widths", "widths", "depths", "kernels", "expansions", "squeezes", "activations")


@dataclass(frozen=True)
class MobileNetSpace:
    """Mobile networks: depth, width, kernel, expansion, squeeze-excite and activation of every stage.

    The first stage keeps the stem's resolution, each later one halves it. Unlike the published networks these
    have no wide convolution before the classifier: at small widths it would hold most of the parameters.
    Taps: `stage1` … `stageN`, `penultimate`, `logits`.

    Source: Howard 2019, Searching for MobileNetV3 (ICCV); Sandler 2018, MobileNetV2 (CVPR).

    Args:
        stages: number of stages.
        stem_widths: channels of the first convolution.
        widths: channels a stage may have.
        depths: blocks a stage may have.
        kernels: side of the depthwise convolutions.
        expansions: how many times wider a block is inside than its input.
        squeezes: whether a block has a squeeze-excite unit.
        activations: `relu` or `hswish`.
    """

    stages: int = 3
    stem_widths: tuple[int, ...] = (4, 8, 16)
    widths: tuple[int, ...] = (4, 8, 12, 16, 24)
    depths: tuple[int, ...] = (1, 2)
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (1, 2, 3, 6)
    squeezes: tuple[bool, ...] = (False, True)
    activations: tuple[str, ...] = ("relu", "hswish")

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise KdnasError("at least one stage is needed", field="space.stages", value=self.stages)
        for name in _LISTS:
            if not getattr(self, name):
                raise KdnasError("no choice left", field=f"space.{name}", value=[], remedy="list at least one value")
        for name in ("stem_widths", "widths", "depths", "expansions"):
            if min(getattr(self, name)) < 1:
                raise KdnasError("values start at 1", field=f"space.{name}", value=list(getattr(self, name)))
        if any(kernel < 1 or kernel % 2 == 0 for kernel in self.kernels):
            raise KdnasError("kernel sizes are odd and positive", field="space.kernels", value=list(self.kernels))
        for name in self.activations:
            if name not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise KdnasError("unknown activation", field="space.activations", value=name, remedy=f"known: {known}")

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        decisions: dict[str, Decision] = {"stem.width": trial.suggest_categorical("stem.width", self.stem_widths)}
        traits = {
            "depth": self.depths,
            "width": self.widths,
            "kernel": self.kernels,
            "expansion": self.expansions,
            "squeeze": self.squeezes,
            "activation": self.activations,
        }
        decisions |= suggest_stages(trial, self.stages, traits)
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        width = int(architecture["stem.width"])
        parts: dict[str, nn.Module] = {"stem": nn.Sequential(*conv_act(shape[0], width, 3, "hswish"))}
        for stage in range(1, self.stages + 1):
            traits = {
                trait: architecture[f"stage{stage}.{trait}"]
                for trait in ("depth", "width", "kernel", "expansion", "squeeze", "activation")
            }
            out, blocks = int(traits["width"]), []
            for index in range(int(traits["depth"])):
                blocks.append(
                    InvertedResidual(
                        width,
                        out,
                        inner=width * int(traits["expansion"]),
                        kernel=int(traits["kernel"]),
                        stride=2 if index == 0 and stage > 1 else 1,
                        squeeze=bool(traits["squeeze"]),
                        activation=str(traits["activation"]),
                    )
                )
                width = out
            parts[f"stage{stage}"] = nn.Sequential(*blocks)
        return TappedModel(parts, width, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*(f"stage{stage}" for stage in range(1, self.stages + 1)), "penultimate", "logits")


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise), squeeze-excite, project (1x1); the shortcut joins the narrow ends.

    Source: Sandler 2018, figure 3; with squeeze-excite Howard 2019, figure 4.

    Args:
        width: channels that come in.
        out: channels that leave.
        inner: channels between; the first 1x1 is left out where they are `width`.
        kernel: side of the depthwise convolution.
        stride: of the depthwise convolution.
        squeeze: whether there is a squeeze-excite unit.
        activation: name of one of `ACTIVATIONS`.
    """

    def __init__(
        self,
        width: int,
        out: int,
        inner: int,
        kernel: int = 3,
        stride: int = 1,
        squeeze: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        layers = conv_act(width, inner, 1, activation) if inner != width else []
        layers += conv_act(inner, inner, kernel, activation, stride, groups=inner)
        if squeeze:
            layers.append(SqueezeExcite(inner))
        self.body = nn.Sequential(*layers, nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))
        self.shortcut = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block, `[batch, out, h, w]`."""
        return self.body(x) + x if self.shortcut else self.body(x)


class SqueezeExcite(nn.Module):
    """Weighs every channel by what the whole image says.

    Source: Hu 2018, Squeeze-and-Excitation Networks (CVPR), as in Howard 2019: a quarter of the width, hard sigmoid.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = _eights(width / 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, inner, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, width, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The weighed channels, `[batch, width, h, w]`."""
        return x * self.gate(x)


def conv_act(width: int, out: int, kernel: int, activation: str, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch norm and activation; the image keeps its size at stride 1."""
    return [
        nn.Conv2d(width, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        ACTIVATIONS[activation](inplace=True),
    ]


def _eights(width: float) -> int:
    """The nearest multiple of 8, at least 8 and not less than nine tenths of the width, as published."""
    near = max(8, int(width + 4) // 8 * 8)
    return near if near >= 0.9 * width else near + 8
