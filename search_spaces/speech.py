"""Which small networks for keyword spotting may be built on pictures of sound, `[1, mels, frames]`?"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel
from search_spaces.errors import KdnasError
from search_spaces.resnet import conv_norm

_LISTS = ("families", "stem_widths", "strides", "widths", "depths", "kernels", "time_kernels")


@dataclass(frozen=True)
class SpeechSpace:
    """Keyword-spotting networks of two families: separable convolutions in time and frequency, or in time alone.

    `ds_cnn` filters pictures in both directions by depthwise-separable convolutions (DS-CNN). `tc_resnet` takes the
    mels for channels, so that already its first convolution hears all frequencies, and filters along time by residual
    blocks (TC-ResNet). Width, depth and stride are common decisions; each family has kernels of its own. The
    first stage keeps the stem's resolution. Taps: `stage1` … `stageN`, `penultimate`, `logits`; a stage of `tc_resnet`
    answers with `[batch, channels, 1, frames]`.

    Source: Zhang et al. 2017, Hello Edge: Keyword Spotting on Microcontrollers (DS-CNN); Choi et al. 2019, Temporal
    Convolution for Real-Time Keyword Spotting on Mobile Devices (TC-ResNet).

    Args:
        families: `ds_cnn`, `tc_resnet` or both.
        stages: number of stages.
        stem_widths: channels of the first convolution.
        strides: stride of the stem and of each stage after the first; in time alone for `tc_resnet`.
        widths: channels a stage may have.
        depths: blocks a stage may have.
        kernels: side of the kernels of `ds_cnn`.
        time_kernels: length of the kernels of `tc_resnet`, frames.
    """

    families: tuple[str, ...] = ("ds_cnn", "tc_resnet")
    stages: int = 3
    stem_widths: tuple[int, ...] = (8, 16, 24)
    strides: tuple[int, ...] = (1, 2)
    widths: tuple[int, ...] = (8, 16, 24, 32, 48, 64)
    depths: tuple[int, ...] = (1, 2)
    kernels: tuple[int, ...] = (3, 5)
    time_kernels: tuple[int, ...] = (3, 5, 9)

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise KdnasError("at least one stage is needed", field="space.stages", value=self.stages)
        for name in _LISTS:
            if not getattr(self, name):
                raise KdnasError("no choice left", field=f"space.{name}", value=[], remedy="list at least one value")
        for name in ("stem_widths", "strides", "widths", "depths"):
            if min(getattr(self, name)) < 1:
                raise KdnasError("values start at 1", field=f"space.{name}", value=list(getattr(self, name)))
        for name in ("kernels", "time_kernels"):
            if any(kernel < 1 or kernel % 2 == 0 for kernel in getattr(self, name)):
                value = list(getattr(self, name))
                raise KdnasError("kernel sizes are odd and positive", field=f"space.{name}", value=value)
        unknown = [family for family in self.families if family not in FAMILIES]
        if unknown:
            remedy = f"known: {', '.join(FAMILIES)}"
            raise KdnasError("unknown family", field="space.families", value=unknown[0], remedy=remedy)

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        family = trial.suggest_categorical("family", self.families)
        # Two names: one name has one list of choices, or Optuna cannot tell what it learned of it.
        kernel = ("kernel", self.kernels) if family == "ds_cnn" else ("time_kernel", self.time_kernels)
        decisions: dict[str, Decision] = {
            "family": family,
            "stem.width": trial.suggest_categorical("stem.width", self.stem_widths),
            "stem.stride": trial.suggest_categorical("stem.stride", self.strides),
        }
        for stage in range(1, self.stages + 1):
            stride = [("stride", self.strides)] if stage > 1 else []
            for trait, choices in (("depth", self.depths), ("width", self.widths), *stride, kernel):
                name = f"stage{stage}.{trait}"
                decisions[name] = trial.suggest_categorical(name, choices)
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, mels, frames)."""
        family = str(architecture["family"])
        stem, block = FAMILIES[family]
        trait = "kernel" if family == "ds_cnn" else "time_kernel"
        width = int(architecture["stem.width"])
        parts: dict[str, nn.Module] = {"stem": stem(shape, width, int(architecture["stem.stride"]))}
        for stage in range(1, self.stages + 1):
            out, kernel = int(architecture[f"stage{stage}.width"]), int(architecture[f"stage{stage}.{trait}"])
            stride, blocks = int(architecture.get(f"stage{stage}.stride", 1)), []
            for _ in range(int(architecture[f"stage{stage}.depth"])):
                blocks.append(block(width, out, kernel, stride))
                width, stride = out, 1
            parts[f"stage{stage}"] = nn.Sequential(*blocks)
        return TappedModel(parts, width, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*(f"stage{stage}" for stage in range(1, self.stages + 1)), "penultimate", "logits")


class TimeResidual(nn.Module):
    """Residual block along time: two convolutions of `1 x kernel`, a 1x1 shortcut where the ends differ.

    Source: Choi 2019, figure 2 (b) and (c).

    Args:
        width: channels that come in.
        out: channels that leave.
        kernel: frames that a convolution sees.
        stride: of the first convolution, in time.
    """

    def __init__(self, width: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_along_time(width, out, kernel, stride), nn.ReLU(inplace=True), *_along_time(out, out, kernel)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != out:
            self.shortcut = nn.Sequential(*_along_time(width, out, 1, stride), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block, `[batch, out, 1, frames / stride]`."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


def _separable(width: int, out: int, kernel: int, stride: int) -> nn.Module:
    return nn.Sequential(conv_norm(width, width, kernel, stride, groups=width), conv_norm(width, out, 1))


def _along_time(width: int, out: int, kernel: int, stride: int = 1, height: int = 1) -> list[nn.Module]:
    """Convolution that spans all `height` rows and `kernel` frames, and batch norm; one row is left."""
    size, padding = (height, kernel), (0, kernel // 2)
    return [nn.Conv2d(width, out, size, stride=(1, stride), padding=padding, bias=False), nn.BatchNorm2d(out)]


def _time_stem(shape: Shape, width: int, stride: int) -> nn.Module:
    # The same sum as of a 1-d convolution over the mels as channels, without an operator that turns the picture.
    return nn.Sequential(*_along_time(shape[0], width, 3, stride, height=shape[1]), nn.ReLU(inplace=True))


def _picture_stem(shape: Shape, width: int, stride: int) -> nn.Module:
    return conv_norm(shape[0], width, 5, stride)


# Stem and block of each.
FAMILIES: dict[str, tuple[Callable[[Shape, int, int], nn.Module], Callable[[int, int, int, int], nn.Module]]] = {
    "ds_cnn": (_picture_stem, _separable),
    "tc_resnet": (_time_stem, TimeResidual),
}
