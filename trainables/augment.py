"""How are training images transformed, so that a view can be repeated exactly?

B samples of a batch, C channels, H rows, W columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces import KdnasError

LEAST_VISIBLE = 0.25  # share of a box that must be left inside the image, or it is none any more


@dataclass(frozen=True)
class Augmentation:
    """Random transforms of an image, applied in the order crop, flip, shift, cutout, masks.

    A spectrogram is an image whose columns are time and whose rows are frequency.

    Source: DeVries 2017, Improved Regularization of Convolutional Neural Networks with Cutout (cutout); Park 2019,
    SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition, section 2 (masks).

    Args:
        shift: up to so many pixels in each direction, filled with zeros.
        crop: random crop after reflecting the border by so many pixels.
        flip: mirror half of the images left to right.
        cutout: side in pixels of a square set to zero, clipped at the border.
        time_shift: up to so many columns more to the left or right, filled with zeros.
        time_mask: up to so many neighbouring columns set to zero over the whole height.
        frequency_mask: up to so many neighbouring rows set to zero over the whole width.
    """

    shift: int = 0
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    time_shift: int = 0
    time_mask: int = 0
    frequency_mask: int = 0

    def __post_init__(self) -> None:
        for name in ("shift", "crop", "cutout", "time_shift", "time_mask", "frequency_mask"):
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
        gaps: first masked column and the one after the last, `[N, 2]`, or None.
        bands: first masked row and the one after the last, `[N, 2]`, or None.
    """

    shift: np.ndarray | None = None
    crop: np.ndarray | None = None
    mirror: np.ndarray | None = None
    corner: np.ndarray | None = None
    side: int = 0
    gaps: np.ndarray | None = None
    bands: np.ndarray | None = None

    def rows(self, indices: np.ndarray) -> "Transforms":
        """Parameters of the samples at `indices` `[batch]`."""
        parts = (self.shift, self.crop, self.mirror, self.corner, self.gaps, self.bands)
        shift, crop, mirror, corner, gaps, bands = (None if part is None else part[indices] for part in parts)
        return Transforms(shift, crop, mirror, corner, self.side, gaps, bands)


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
    # From generators of their own: a range of one value takes nothing from a generator, so that the order alone would
    # not keep these as they are when one above is switched.
    own = [np.random.default_rng((seed, view, number)) for number in (1, 2, 3)]
    shift[:, 1] += own[0].integers(-augmentation.time_shift, augmentation.time_shift + 1, n, dtype=np.int16)
    gaps = _spans(own[1], n, augmentation.time_mask, width)
    bands = _spans(own[2], n, augmentation.frequency_mask, height)
    return Transforms(
        shift if augmentation.shift or augmentation.time_shift else None,
        crop if augmentation.crop else None,
        mirror if augmentation.flip else None,
        corner if augmentation.cutout else None,
        augmentation.cutout,
        gaps if augmentation.time_mask else None,
        bands if augmentation.frequency_mask else None,
    )


def apply(images: Tensor, transforms: Transforms) -> Tensor:
    """Transformed images `[B, C, H, W]` uint8; one gather for crop, flip and shift, a mask for each of the rest.

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
    if transforms.gaps is not None:
        images = images * torch.from_numpy(~_spanned(transforms.gaps, width))[:, None, None, :]
    if transforms.bands is not None:
        images = images * torch.from_numpy(~_spanned(transforms.bands, height))[:, None, :, None]
    return images


def apply_to_boxes(labels: Tensor, transforms: Transforms, height: int, width: int) -> Tensor:
    """Boxes of the transformed images, `[B, M, 5]`: NaN for what a shift brought out of the image for the most part.

    Args:
        labels: `[B, M, 5]`, rows of (class, x0, y0, x1, y1) in pixels, NaN where there is no box.
        transforms: of these B samples; `flip` and `shift` move boxes, `cutout` and masks do not.
        height: of the images, pixels.
        width: of the images, pixels.
    """
    if transforms.mirror is None and transforms.shift is None:
        return labels
    kind, x0, y0, x1, y1 = labels.unbind(dim=2)
    if transforms.mirror is not None:
        mirror = torch.from_numpy(transforms.mirror)[:, None]
        x0, x1 = torch.where(mirror, width - x1, x0), torch.where(mirror, width - x0, x1)
    before = (x1 - x0) * (y1 - y0)
    if transforms.shift is not None:  # a pixel is read from as far to the right or below
        down, right = torch.from_numpy(transforms.shift).to(labels.dtype).T[..., None]
        x0, x1 = ((x - right).clamp(0, width) for x in (x0, x1))
        y0, y1 = ((y - down).clamp(0, height) for y in (y0, y1))
    hidden = (x1 - x0) * (y1 - y0) < LEAST_VISIBLE * before
    return torch.stack([kind, x0, y0, x1, y1], dim=2).masked_fill(hidden[..., None], torch.nan)


def check_fits(augmentation: Augmentation, height: int, width: int) -> None:
    """Refuses transforms that reach across a whole image of `height` x `width` pixels.

    Raises:
        KdnasError: names the transform.
    """
    bounds = dict.fromkeys(("shift", "crop", "cutout"), min(height, width))
    bounds |= {"time_shift": width, "time_mask": width, "frequency_mask": height}
    for name, bound in bounds.items():
        value = getattr(augmentation, name)
        if value >= bound:
            raise KdnasError(
                f"does not fit images of {height} x {width} pixels",
                field=f"task.augmentation.{name}",
                value=value,
                remedy=f"choose less than {bound}",
            )


def _spans(rng: np.random.Generator, n: int, longest: int, size: int) -> np.ndarray:
    """First place and the one after the last of N masks, `[N, 2]`: length and place evenly drawn, as published."""
    length = rng.integers(0, longest + 1, n)
    first = (rng.random(n) * (size - length + 1)).astype(np.int64)
    return np.stack([first, first + length], axis=1).astype(np.int16)


def _spanned(spans: np.ndarray, size: int) -> np.ndarray:
    """Whether each of `size` places lies in the sample's span, `[N, size]`."""
    places = np.arange(size)[None]
    return (places >= spans[:, 0:1]) & (places < spans[:, 1:2])


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
