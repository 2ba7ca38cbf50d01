"""How do images without labels join a training split, and none that is to be predicted with them?"""

import hashlib
import logging
from pathlib import Path

import numpy as np

from search_spaces import KdnasError
from trainables.tasks.base import Split

logger = logging.getLogger(__name__)


def join(parts: tuple[Split, Split, Split], images: np.ndarray, path: Path) -> tuple[Split, Split, Split]:
    """The splits, the first one with these images too, without label: -1, or a row of NaN (see `Split`).

    Images that lie in the validation or the test split as well are left out, with a warning: a student that learns what
    the teacher says of them is not judged on unseen samples.

    Args:
        parts: train, validation and test split.
        images: `[M, C, H, W]`, of the shape of theirs.
        path: where they came from, for messages.

    Raises:
        KdnasError: all of them are held out.
    """
    train, *held_out = parts
    sealed = {_digest(image) for split in held_out for image in split.images}
    new = np.array([_digest(image) not in sealed for image in images])
    if not new.any():
        raise KdnasError(
            f"all {len(images):,} images are in the validation or the test split",
            field="task.unlabelled",
            value=str(path),
            remedy="give images that are not part of the labelled data",
        )
    if not new.all():
        logger.warning(
            "%d of %d unlabelled images of %s are in the validation or the test split and are left out",
            len(images) - int(new.sum()),
            len(images),
            path,
        )
    shape = (int(new.sum()), *train.labels.shape[1:])
    none = np.full(shape, -1 if train.labels.ndim == 1 else np.nan, dtype=train.labels.dtype)
    joined = Split(np.concatenate([train.images, images[new]]), np.concatenate([train.labels, none]))
    return joined, parts[1], parts[2]


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
