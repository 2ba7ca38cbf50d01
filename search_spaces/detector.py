"""Which small one-stage detectors may be built: a searched backbone, and a head that answers without anchors?

Shapes: B images, P places of a grid, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, suggest_stages
from search_spaces.errors import KdnasError
from search_spaces.resnet import BLOCKS, build_resnet, conv_norm

BOX = 5  # numbers of an answer beside the class logits: x0, y0, x1, y1 in pixels and the centre-ness logit
PRIOR = 0.01  # probability of every class at every place before training, Lin 2017 section 4.1
FARTHEST = 6.0  # exponent of a distance in strides: without a bound an early step could make it infinite
STRIDES = tuple(2**level for level in range(1, 7))
_LISTS = ("stem_widths", "widths", "depths", "kernels", "blocks", "head_widths", "head_depths")


@dataclass(frozen=True)
class DetectorSpace:
    """Anchor-free detectors: a residual backbone, maps joined top-down, and an FCOS head on one grid.

    The stem halves the image, the first stage keeps that, each later stage halves it again: stage `i` has stride
    `2 ** i`. Stages from `level` on are brought to the resolution of stage `level` and summed; there every place says
    which class it lies on, how far the borders of the box are, and how near its centre it is. A network answers with
    `[batch, P, K + 5]`: class logits, x0, y0, x1, y1 in pixels of the input, and the centre-ness logit. Taps: `stage1`
    … `stageN`, `class_map` (the class logits as a map), `logits`.

    Source: Tian 2019, FCOS: Fully Convolutional One-Stage Object Detection, section 3 (the head), on one level; Lin
    2017, Feature Pyramid Networks for Object Detection, figure 3 (top-down); He 2016, Deep Residual Learning for Image
    Recognition (backbone).

    Args:
        stages: number of stages of the backbone.
        level: stage on whose grid the network answers; a box smaller than its stride `2 ** level` is hardly found.
        stem_widths: channels of the first convolution.
        widths: channels a stage may have.
        depths: blocks a stage may have.
        kernels: side of the backbone's spatial convolutions.
        blocks: kinds of block, as in the space `resnet`.
        head_widths: channels of the joined map and of the head.
        head_depths: convolutions before the answers about classes, and as many before those about boxes.
    """

    answers: ClassVar[str] = "boxes"  # kind of targets that its networks are for; other spaces suit all other kinds

    stages: int = 4
    level: int = 3
    stem_widths: tuple[int, ...] = (8, 16)
    widths: tuple[int, ...] = (8, 16, 24, 32, 48)
    depths: tuple[int, ...] = (1, 2)
    kernels: tuple[int, ...] = (3, 5)
    blocks: tuple[str, ...] = ("basic", "bottleneck", "separable")
    head_widths: tuple[int, ...] = (16, 24, 32)
    head_depths: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if not 1 <= self.stages <= len(STRIDES):
            raise KdnasError(
                f"there are 1 to {len(STRIDES)}", field="space.stages", value=self.stages, remedy="4 is usual"
            )
        if not 1 <= self.level <= self.stages:
            remedy = f"choose 1 to {self.stages}: a small one for small boxes"
            raise KdnasError("there is no such stage", field="space.level", value=self.level, remedy=remedy)
        for name in _LISTS:
            chosen = getattr(self, name)
            if not chosen:
                raise KdnasError("no choice left", field=f"space.{name}", value=[], remedy="list at least one value")
            if name != "blocks" and min(chosen) < 1:
                raise KdnasError("values start at 1", field=f"space.{name}", value=list(chosen))
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise KdnasError("kernel sizes are odd and positive", field="space.kernels", value=list(self.kernels))
        unknown = [block for block in self.blocks if block not in BLOCKS]
        if unknown:
            remedy = f"known: {', '.join(BLOCKS)}"
            raise KdnasError("unknown block", field="space.blocks", value=unknown[0], remedy=remedy)

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        decisions: dict[str, Decision] = {"stem.width": trial.suggest_categorical("stem.width", self.stem_widths)}
        traits = {"depth": self.depths, "width": self.widths, "kernel": self.kernels, "block": self.blocks}
        decisions |= suggest_stages(trial, self.stages, traits)
        decisions["head.width"] = trial.suggest_categorical("head.width", self.head_widths)
        decisions["head.depth"] = trial.suggest_categorical("head.depth", self.head_depths)
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> "Detector":
        """A freshly initialised detector for inputs of `shape` (channels, height, width)."""
        return Detector(architecture, self.level, shape, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*(f"stage{stage}" for stage in range(1, self.stages + 1)), "class_map", "logits")


class Detector(nn.Module):
    """A backbone with an anchor-free head.

    Args:
        architecture: decisions of a `DetectorSpace`.
        level: stage on whose grid it answers.
        shape: channels, height and width of an input.
        classes: how many, K.
    """

    def __init__(self, architecture: Mapping[str, Decision], level: int, shape: Shape, classes: int) -> None:
        super().__init__()
        backbone = {name: value for name, value in architecture.items() if not name.startswith("head.")}
        self.parts = build_resnet({**backbone, "stem.stride": 2}, shape, 1).parts
        stages = [name for name in self.parts if name != "stem"]
        self.joined = stages[level - 1 :]
        self.stride = 2**level
        width, depth = int(architecture["head.width"]), int(architecture["head.depth"])
        self.laterals = nn.ModuleDict(
            {name: nn.Conv2d(int(architecture[f"{name}.width"]), width, 1) for name in self.joined}
        )
        self.class_tower, self.box_tower = (
            nn.Sequential(*(conv_norm(width, width, 3) for _ in range(depth))) for _ in range(2)
        )
        self.class_map = nn.Conv2d(width, classes, 3, padding=1)
        self.distances = nn.Conv2d(width, 4, 3, padding=1)
        self.centre = nn.Conv2d(width, 1, 3, padding=1)
        for layer in (self.class_map, self.distances, self.centre):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.class_map.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        self.places: Tensor
        self.register_buffer("places", places(*shape[1:], self.stride), persistent=False)
        self.taps = (*stages, "class_map", "logits")

    def forward(self, x: Tensor) -> Tensor:
        """Class logits, boxes in pixels and centre-ness logit of every place, `[batch, P, K + 5]`."""
        return self.forward_taps(x, ())[0]

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The answer `[batch, P, K + 5]` and the activations `{name: [batch, …]}` of the named taps."""
        seen: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            x = seen[name] = part(x)
        joined = self.laterals[self.joined[-1]](seen[self.joined[-1]])
        for name in reversed(self.joined[:-1]):
            joined = self.laterals[name](seen[name]) + F.interpolate(joined, size=seen[name].shape[2:], mode="nearest")
        seen["class_map"] = self.class_map(self.class_tower(joined))
        boxes = self.box_tower(joined)
        # Tian 2019, section 3.2: exp keeps distances above 0; in strides, so that they start near the size of a place.
        far = self.stride * self.distances(boxes).clamp(max=FARTHEST).exp().flatten(2).transpose(1, 2)
        near, beyond = self.places - far[..., :2], self.places + far[..., 2:]
        rows = (
            seen["class_map"].flatten(2).transpose(1, 2),
            near,
            beyond,
            self.centre(boxes).flatten(2).transpose(1, 2),
        )
        seen["logits"] = torch.cat(rows, dim=2)
        return seen["logits"], {name: seen[name] for name in names}


def places(height: int, width: int, stride: int) -> Tensor:
    """Centres (x, y) of the places of a grid over an image, row by row, `[P, 2]`, pixels.

    Source: Tian 2019, FCOS, section 3.1.
    """
    y, x = (stride * (torch.arange(math.ceil(side / stride)) + 0.5) for side in (height, width))
    return torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], dim=1)


def stride_of(count: int, height: int, width: int) -> int:
    """Stride of the grid with so many places over an image of `height` x `width` pixels.

    Raises:
        ValueError: no grid has so many.
    """
    for stride in STRIDES:
        if math.ceil(height / stride) * math.ceil(width / stride) == count:
            return stride
    raise ValueError(f"no grid over {height} x {width} pixels has {count} places")
