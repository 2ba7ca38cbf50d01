"""Which plain networks without convolutions may be built, for tables of numbers?"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel, suggest_stages
from search_spaces.errors import KdnasError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


@dataclass(frozen=True)
class MLPSpace:
    """Multilayer perceptrons: width and depth of every stage, and the activation.

    Inputs of any shape are flattened. Layers are convolutions of one pixel, which is the same as linear layers on one
    position, so that taps, hints, proxies and cost models work as for images. Taps: `stage1` … `stageN`, `penultimate`,
    `logits`.

    Source: Gorishniy 2021, Revisiting Deep Learning Models for Tabular Data (NeurIPS), section 3.1; with batch norm
    instead of dropout.

    Args:
        stages: number of stages.
        widths: units that the layers of a stage may have.
        depths: layers a stage may have.
        activations: `relu`, `gelu` or `silu`.
    """

    stages: int = 3
    widths: tuple[int, ...] = (4, 8, 16, 32, 64)
    depths: tuple[int, ...] = (1, 2)
    activations: tuple[str, ...] = ("relu", "silu")

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise KdnasError("at least one stage is needed", field="space.stages", value=self.stages)
        for name in ("widths", "depths", "activations"):
            if not getattr(self, name):
                raise KdnasError("no choice left", field=f"space.{name}", value=[], remedy="list at least one value")
        for name in ("widths", "depths"):
            if min(getattr(self, name)) < 1:
                raise KdnasError("values start at 1", field=f"space.{name}", value=list(getattr(self, name)))
        unknown = [name for name in self.activations if name not in ACTIVATIONS]
        if unknown:
            raise KdnasError(
                "unknown activation",
                field="space.activations",
                value=unknown[0],
                remedy=f"known: {', '.join(ACTIVATIONS)}",
            )

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        decisions: dict[str, Decision] = {"activation": trial.suggest_categorical("activation", self.activations)}
        decisions |= suggest_stages(trial, self.stages, {"depth": self.depths, "width": self.widths})
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        width = shape[0] * shape[1] * shape[2]
        activation = ACTIVATIONS[str(architecture["activation"])]
        parts: dict[str, nn.Module] = {"stem": Flat()}
        for stage in range(1, self.stages + 1):
            out, layers = int(architecture[f"stage{stage}.width"]), []
            for _ in range(int(architecture[f"stage{stage}.depth"])):
                layers += [nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out), activation()]
                width = out
            parts[f"stage{stage}"] = nn.Sequential(*layers)
        return TappedModel(parts, width, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*(f"stage{stage}" for stage in range(1, self.stages + 1)), "penultimate", "logits")


class Flat(nn.Module):
    """All numbers of an input as channels of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, C, H, W]` to `[batch, C * H * W, 1, 1]`."""
        return x.flatten(1)[:, :, None, None]
