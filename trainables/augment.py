"""How are training images transformed, so that a view can be repeated exactly?

B samples of a batch, C channels, H rows, W columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces import KdnasError


@dataclass(frozen=True)
class Augmentation:
    """Random transforms of an image, applied in the order crop, flip, shift, cutout.

    Source: DeVries 2017, Improved Regularization of Convolutional Neural Networks with Cutout (cutout).

    Args:
        shift: up to so many pixels in each direction, filled with zeros.
        crop: random crop after reflecting the border by so many pixels.
        flip: mirror half of the images left to right.
        cutout: side in pixels of a square set to zero, clipped at the border.
    """

    shift: int = 0
    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("shift", "crop", "cutout"):
            value = getattr(self, name)
            if value < 0:
                raise KdnasError(
                    "pixels start at 0",
                    field=f"task.augmentation.{name}",
                    value=value,
                    remedy="0 switches it off",
                )


@dataclass(frozen=True)
class Transforms:
    """Transform parameters of N samples, or of the rows of a batch.

    Args:
        shift: rows and columns, `[N, 2]`, or None where nothing is shifted.
        crop: rows and columns, `[N, 2]`, or None.
        mirror: `[N]` bool, or None.
        corner: top and left of the cut-out square, `[N, 2]`, may lie outside the image; or None.
        side: of the cut-out square, pixels.
    """

    shift: np.ndarray | None = None
    crop: np.ndarray | None = None
    mirror: np.ndarray | None = None
    corner: np.ndarray | None = None
    side: int = 0

    def rows(self, indices: np.ndarray) -> "Transforms":
        """Parameters of the samples at `indices` `[batch]`."""
        shift, crop, mirror, corner = (
            None if part is None else part[indices] for part in (self.shift, self.crop, self.mirror, self.corner)
        )
        return Transforms(shift, crop, mirror, corner, self.side)


def draw(augmentation: Augmentation, n: int, height: int, width: int, seed: int, view: int) -> Transforms:
    """Transform parameters of one whole view, determined by seed and view; view 0 is the identity.

    Args:
        augmentation: what to draw from.
        n: samples in the view.
        height: of the images, pixels.
        width: of the images, pixels.
        seed: of all views.
        view: which one.

    Raises:
        KdnasError: a transform does not fit the image.
    """
    check_fits(augmentation, height, width)
    if view == 0:
        return Transforms()
    rng = np.random.default_rng((seed, view))
    # Always drawn in this order and number, so that switching one transform leaves the others as they are.
    shift = rng.integers(-augmentation.shift, augmentation.shift + 1, (n, 2), dtype=np.int16)
    crop = rng.integers(-augmentation.crop, augmentation.crop + 1, (n, 2), dtype=np.int16)
    mirror = rng.random(n) < 0.5
    half = augmentation.cutout // 2
    corner = rng.integers(0, (height, width), (n, 2), dtype=np.int16) - np.int16(half)
    return Transforms(
        shift if augmentation.shift else None,
        crop if augmentation.crop else None,
        mirror if augmentation.flip else None,
        corner if augmentation.cutout else None,
        augmentation.cutout,
    )


def apply(images: Tensor, transforms: Transforms) -> Tensor:
    """Transformed images `[B, C, H, W]` uint8; one gather for crop, flip and shift, one mask for cutout.

    Args:
        images: `[B, C, H, W]` uint8; returned as they are where there is nothing to do.
        transforms: of these B samples.
    """
    batch, channels, height, width = images.shape
    rows = _offsets(height, transforms.shift, 0)
    columns = _offsets(width, transforms.shift, 1)
    inside = None
    if transforms.shift is not None:
        inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
        rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    if transforms.mirror is not None:
        columns = np.where(transforms.mirror[:, None], width - 1 - columns, columns)
    if transforms.crop is not None:
        rows = _reflect(rows + transforms.crop[:, 0:1], height)
        columns = _reflect(columns + transforms.crop[:, 1:2], width)
    if any(part is not None for part in (transforms.shift, transforms.mirror, transforms.crop)):
        index = np.empty((batch, height, width), dtype=np.int64)
        np.add(rows[:, :, None].astype(np.int64) * width, columns[:, None, :], out=index)
        flat = torch.from_numpy(index).view(batch, 1, -1).expand(-1, channels, -1)
        images = images.flatten(2).gather(2, flat).view(batch, channels, height, width)
    if inside is not None:
        images = images * torch.from_numpy(inside)[:, None]
    if transforms.corner is not None:
        images = images * torch.from_numpy(~_square(transforms.corner, transforms.side, height, width))[:, None]
    return images


def check_fits(augmentation: Augmentation, height: int, width: int) -> None:
    """Refuses transforms that reach across a whole image of `height` x `width` pixels.

    Raises:
        KdnasError: names the transform.
    """
    shortest = min(height, width)
    for name in ("shift", "crop", "cutout"):
        value = getattr(augmentation, name)
        if value >= shortest:
            raise KdnasError(
                f"does not fit images of {height} x {width} pixels",
                field=f"task.augmentation.{name}",
                value=value,
                remedy=f"choose less than {shortest}",
            )


def _offsets(size: int, shift: np.ndarray | None, axis: int) -> np.ndarray:
    line = np.arange(size, dtype=np.int16)[None]
    return line if shift is None else line + shift[:, axis : axis + 1]


def _within(positions: np.ndarray, size: int) -> np.ndarray:
    return (positions >= 0) & (positions < size)


def _reflect(positions: np.ndarray, size: int) -> np.ndarray:
    positions = np.abs(positions)
    return np.minimum(positions, 2 * (size - 1) - positions)


def _square(corner: np.ndarray, side: int, height: int, width: int) -> np.ndarray:
    down = np.arange(height)[None] - corner[:, 0:1]
    right = np.arange(width)[None] - corner[:, 1:2]
    return _within(down, side)[:, :, None] & _within(right, side)[:, None, :]
