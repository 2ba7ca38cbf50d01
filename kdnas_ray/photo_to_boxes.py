"""How does a photo become what an exported detector reads, and its answers boxes? NumPy and Pillow are needed.

`kdnas export` copies this file beside a detector; `about.json` there (and the metadata of an ONNX file) holds the
numbers: `how = about["detection"]`.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# What Pillow decodes by itself: for some other formats it starts foreign programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


def read(path: str | PathLike[str]) -> np.ndarray:
    """A photo uint8 `[height, width, 3]`, upright (as its EXIF says), of 16 bits the upper eight.

    Raises:
        ValueError: its pixels are neither of 8 nor of 16 bits; Pillow raises OSError where there is no image.
    """
    image: Image.Image = Image.open(path, formats=FORMATS)
    image = ImageOps.exif_transpose(image) if image.getexif() else image
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of {path} are of type {image.mode}, not of 8 or 16 bits")
    if image.mode in ("1", "L", "LA", "La"):
        image = image.convert("L")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def pixels(photo: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """What a network reads of one photo: uint8 `[1, 3, how["height"], how["width"]]`, the photo in its upper left.

    It is made as large as fits, proportions kept, by Pillow's bilinear filter (which averages where it makes smaller);
    the rest is 0.

    Args:
        photo: uint8 `[height, width, 3]`.
        how: the numbers of the network.

    Raises:
        ValueError: the photo has another shape or type.
    """
    width, height = _size(photo, how)
    image = Image.fromarray(photo)
    image = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
    found = np.zeros((1, 3, how["height"], how["width"]), dtype=np.uint8)
    found[0, :, :height, :width] = np.asarray(image).transpose(2, 0, 1)
    return found


def boxes(answers: np.ndarray, photo: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """What is found in the photo: rows of (class, score, x0, y0, x1, y1), the surest first, `[D, 6]` float32.

    Boxes are in pixels of the photo and end at its borders. The score is the probability of the class times the
    centre-ness; what has less than `how["threshold"]` is left out, and of boxes of a class the less sure that overlap a
    kept one by an IoU above `how["iou"]`. At most `how["candidates"]` are compared and `how["most"]` kept.

    Source: Tian 2019, FCOS, section 3.4; greedy non-maximum suppression.

    Args:
        answers: of the network for this photo, `[places, K + 5]`: logits of K classes, box, logit of the centre-ness.
        photo: uint8 `[height, width, 3]`.
        how: the numbers of the network.
    """
    scores = _sigmoid(answers[:, :-5]) * _sigmoid(answers[:, -1:])  # [places, K]
    order = np.argsort(-scores.ravel(), kind="stable")[: how["candidates"]]
    order = order[scores.ravel()[order] >= how["threshold"]]
    places, kinds = np.divmod(order, scores.shape[1])
    corners = answers[places, -5:-1]
    kept: list[int] = []
    for rank in range(len(order)):
        rivals = [other for other in kept if kinds[other] == kinds[rank]]
        if not _overlap(corners[rank], corners[rivals], how["iou"]):
            kept.append(rank)
    kept = kept[: how["most"]]
    width, height = _size(photo, how)
    scale = np.array([width / photo.shape[1], height / photo.shape[0]] * 2)
    borders = np.array([photo.shape[1], photo.shape[0]] * 2)
    own = (corners[kept] / scale).clip(0, borders)
    return np.column_stack([kinds[kept], scores.ravel()[order[kept]], own]).astype(np.float32)


def _size(photo: np.ndarray, how: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height that the photo gets; halves are rounded to even numbers."""
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"a photo is uint8 [height, width, 3], this is {photo.dtype} {list(photo.shape)}")
    height, width = photo.shape[:2]
    scale = min(how["width"] / width, how["height"] / height)
    return max(round(scale * width), 1), max(round(scale * height), 1)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def _overlap(box: np.ndarray, others: np.ndarray, iou: float) -> bool:
    """Whether the box `[4]` overlaps one of the others `[N, 4]` by more than this."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = (high - low).clip(0).prod(axis=1)
    either = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - both
    return bool((both > iou * either).any())
