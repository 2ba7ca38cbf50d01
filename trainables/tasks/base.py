"""What is a task: data, loss on the true labels, metric?"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from search_spaces import KdnasError
from trainables.augment import Augmentation

# Names of files or folders that are splits of one data set, not classes.
SPLIT_NAMES = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")


@dataclass(frozen=True)
class Split:
    """Images `[N, C, H, W]` uint8 and labels `[N]` int64, -1 for a sample without label."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """A task's data in three splits. The test split is sealed: only the retraining of finalists reads it.

    Args:
        train: what students learn from.
        validation: what candidates are compared on.
        test: scored once, at the end.
        classes: their names, in the order of the labels.
        mean: of the training images, one a channel, on the scale 0 to 1.
        std: their standard deviation, at least 0.001.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def digest(self) -> str:
        """Sixteen hexadecimal digits that name these data."""
        seen = hashlib.sha256("\0".join(self.classes).encode())
        for part in (self.train, self.validation, self.test):
            seen.update(repr(part.images.shape).encode())
            seen.update(np.ascontiguousarray(part.images).data)
            seen.update(np.ascontiguousarray(part.labels).data)
        return seen.hexdigest()[:16]


class Task(Protocol):
    """What is learned. Implementations are frozen dataclasses whose fields are the options in the YAML."""

    @property
    def augmentation(self) -> Augmentation:
        """Transforms that views of the training images are drawn from."""

    def load(self, seed: int) -> Data:
        """The data, split by this seed."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss on the true labels, scalar; logits `[batch, classes]`, labels `[batch]`."""

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """What candidates are ranked on, 0 to 1, more is better."""


class Classification:
    """Cross-entropy and accuracy, for tasks with one class a sample."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, scalar; logits `[batch, classes]`, labels `[batch]`."""
        return F.cross_entropy(logits, labels)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Share of samples classified correctly."""
        return float((logits.argmax(dim=1) == labels).double().mean())


def split(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    validation: float,
    test: float | Split,
    seed: int,
) -> tuple[Split, Split, Split]:
    """Train, validation and test split, stratified and seeded, each with at least one sample of every class.

    Args:
        images: `[N, C, H, W]` uint8.
        labels: `[N]` int64.
        classes: names in the order of the labels.
        validation: share of the N samples.
        test: share of the N samples, or the split itself where the data came with one.
        seed: of the draw.

    Raises:
        KdnasError: a share is impossible, there is one class only, or a class has too few samples.
    """
    share = 0.0 if isinstance(test, Split) else test
    check_shares(validation, None if isinstance(test, Split) else share)
    needed = 2 if isinstance(test, Split) else 3
    counts = _class_counts(labels, classes, needed, validation)
    rank = _rank_in_class(labels, counts, seed)
    # Rounding must neither leave a rare class out of a split nor use it up.
    held_out = _quotas(counts, round(share * len(labels))).clip(1, counts - 2) if share else np.zeros_like(counts)
    compared = _quotas(counts, round(validation * len(labels))).clip(1, counts - held_out - 1)
    in_test = rank < held_out[labels]
    in_validation = ~in_test & (rank < (held_out + compared)[labels])
    in_train = ~in_test & ~in_validation
    return (
        Split(images[in_train], labels[in_train]),
        Split(images[in_validation], labels[in_validation]),
        test if isinstance(test, Split) else Split(images[in_test], labels[in_test]),
    )


def keep_labels(split: Split, share: float, classes: Sequence[str], seed: int) -> Split:
    """The split with labels for a share of each class; -1 stands for the label of the others.

    Args:
        split: `[N]` labels.
        share: above 0, at most 1.
        classes: names in the order of the labels.
        seed: of the draw.

    Raises:
        KdnasError: a class keeps none.
    """
    if share == 1:
        return split
    counts = np.bincount(split.labels, minlength=len(classes))
    kept = np.floor(counts * share + 0.5).astype(np.int64)
    if kept.min() < 1:
        empty = int(kept.argmin())
        raise KdnasError(
            f"leaves class {classes[empty]!r} with none of its {counts[empty]} labels",
            field="labels",
            value=share,
            remedy=f"keep at least {0.5 / counts.min():.2g}, one label of the rarest class",
        )
    known = _rank_in_class(split.labels, counts, seed) < kept[split.labels]
    return Split(split.images, np.where(known, split.labels, -1))


def choose(labels: np.ndarray, total: int, seed: int) -> np.ndarray:
    """Indices, ascending, of `total` samples drawn so that every class keeps its share.

    Args:
        labels: `[N]` int64.
        total: at most N.
        seed: of the draw.
    """
    counts = np.bincount(labels)
    return np.flatnonzero(_rank_in_class(labels, counts, seed) < _quotas(counts, total)[labels])


def assemble(train: Split, validation: Split, test: Split, classes: Sequence[str]) -> Data:
    """The data of a task, with the mean and deviation of its training images."""
    channels = train.images.shape[1]
    counts = np.zeros((channels, 256))
    # Counted piece by piece: a float copy of the images would take four to eight times their memory.
    for start in range(0, len(train), 1024):
        for channel in range(channels):
            piece = train.images[start : start + 1024, channel]
            counts[channel] += np.bincount(piece.ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0)).clip(1e-3)
    return Data(train, validation, test, tuple(classes), tuple(mean.tolist()), tuple(std.tolist()))


def check_shares(validation: float, test: float | None) -> None:
    """Refuses shares of validation and test split that cannot be; None for a test split that came with the data.

    Raises:
        KdnasError: names the share.
    """
    shares = {"task.validation": validation} | ({} if test is None else {"task.test": test})
    for field, share in shares.items():
        if not 0 < share < 1:
            raise KdnasError("a share lies between 0 and 1", field=field, value=share, remedy="0.2 is usual")
    if sum(shares.values()) >= 1:
        raise KdnasError(
            f"validation and test take {sum(shares.values()):g} of the data: nothing is left to train on",
            field="task.validation",
            value=validation,
            remedy="choose smaller shares",
        )


def _rank_in_class(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Place of each sample among those of its class, in an order drawn from the seed."""
    drawn = np.random.default_rng(seed).permutation(len(labels))
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def _quotas(counts: np.ndarray, total: int) -> np.ndarray:
    """How many of `total` fall to each class: whole numbers by largest remainder."""
    quotas, remainder = np.divmod(counts * total, counts.sum())
    quotas[np.argsort(-remainder, kind="stable")[: total - quotas.sum()]] += 1
    return quotas


def _class_counts(labels: np.ndarray, classes: Sequence[str], needed: int, validation: float) -> np.ndarray:
    if len(classes) < 2:
        raise KdnasError("at least two classes are needed", field="task", value=list(classes))
    counts = np.bincount(labels, minlength=len(classes))
    rarest = int(counts.argmin())
    if counts[rarest] < needed:
        raise KdnasError(
            f"class {classes[rarest]!r} has {counts[rarest]} samples, too few for every split to hold one",
            field="task.validation",
            value=validation,
            remedy=f"at least {needed} of each class are needed: add samples or leave the class out",
        )
    return counts
