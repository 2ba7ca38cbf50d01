"""What is a task: data, loss on the true labels, metric?

Targets are of one of four kinds: one of several `classes` a sample, any number of `labels`, numbers (`values`), or
`boxes` around objects, each of one class.
Shapes: N samples, K outputs (classes, labels or numbers), M boxes a sample at most.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces import KdnasError
from trainables.augment import Augmentation

Outputs = Literal["classes", "labels", "values"]  # a row of numbers a sample
Targets = Literal[Outputs, "boxes"]
Labels = TypeVar("Labels", np.ndarray, Tensor)
LEAST_STD = 1e-6  # of a target, so that a constant one can be divided by it
# Names of files or folders that are splits of one data set, not classes.
SPLIT_NAMES = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")


@dataclass(frozen=True)
class Split:
    """Inputs and what is to be said of them.

    Args:
        images: `[N, C, H, W]` uint8; of a table `[N, columns, 1, 1]` float32.
        labels: `[N]` int64, -1 for a sample without label; where targets are labels or values `[N, K]` float32, a row
            of NaN for a sample without; where they are boxes `[N, M, 5]` float32, rows of (class, x0, y0, x1, y1) in
            pixels, NaN where there is no box, and the first class -1 for a sample whose boxes are not known.
    """

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
        classes: names of the outputs: the classes in the order of the labels, the labels, or the numbers.
        mean: of the training images, one a channel, on the scale 0 to 1 (of a table a 255th of each column's mean).
        std: their standard deviation, at least 0.001.
        target_mean: where targets are values: the training split's mean of each, which the splits' labels are free of.
        target_std: where targets are values: its standard deviation of each, which the splits' labels are divided by.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

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
    def targets(self) -> Targets:
        """What a sample's target is: one of the `classes`, any of the `labels`, numbers (`values`), or `boxes`."""

    @property
    def metric_name(self) -> str:
        """The metric in a word or two, for people."""

    @property
    def augmentation(self) -> Augmentation:
        """Transforms that views of the training images are drawn from."""

    def load(self, seed: int) -> Data:
        """The data, split by this seed."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss on the true labels, scalar; logits `[batch, K]`, labels as in `Split`, every sample with one.

        Where targets are boxes, logits are `[batch, P, K + 5]` (see `search_spaces.detector`).
        """

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """What candidates are ranked on, 0 to 1, more is better."""


class Classification:
    """Cross-entropy and accuracy, for tasks with one class a sample."""

    targets: Targets = "classes"
    metric_name = "accuracy"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, scalar; logits `[batch, classes]`, labels `[batch]`."""
        return F.cross_entropy(logits, labels)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Share of samples classified correctly."""
        return float((logits.argmax(dim=1) == labels).double().mean())


class MultiLabel:
    """Binary cross-entropy and mean average precision, for tasks with any number of labels a sample."""

    targets: Targets = "labels"
    metric_name = "mean average precision"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, scalar; both `[batch, labels]`, labels 0 or 1.

        Summed over the labels, mean over the samples: each logit's gradient is as steep as with cross-entropy, so that
        the same learning rates serve. A mean over many labels would hardly move.
        """
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(logits)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Mean over the labels of the average precision, 0 to 1; both `[N, labels]`.

        It needs no threshold, unlike an F1 score. A label that no sample of the split has does not count; without any
        it is 0. Equal logits count as one rank, so that a network that says the same of all samples gets the share of
        samples with the label.

        Source: Everingham 2010, The PASCAL Visual Object Classes (VOC) Challenge, section 4.2; without interpolation,
        as scikit-learn's `average_precision_score`.
        """
        scores, order = logits.double().T.sort(dim=1, descending=True)  # [labels, N]
        hits = labels.double().T.gather(1, order)
        precision = hits.cumsum(dim=1) / torch.arange(1, len(logits) + 1, device=logits.device)
        rising = (-scores).contiguous()
        end = torch.searchsorted(rising, rising, right=True) - 1  # the last of equal scores
        found = hits.sum(dim=1)
        average = (precision.gather(1, end.clamp_min(0)) * hits).sum(dim=1) / found.clamp_min(1)
        return float(average[found > 0].mean()) if bool((found > 0).any()) else 0.0


class Regression:
    """Mean squared error and coefficient of determination, for tasks whose targets are numbers.

    Labels come standardised by the training split (`standardised`), so that every target weighs the same.
    """

    targets: Targets = "values"
    metric_name = "R²"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error, over samples and targets, scalar; both `[batch, targets]`."""
        return F.mse_loss(logits, labels)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Mean over the targets of `R² = 1 - squared error / variance`, each at least 0; both `[N, targets]`.

        0 is as good as the mean of the split, or worse: candidates that learned nothing are all alike.

        Source: Chicco 2021, The coefficient of determination R-squared is more informative than SMAPE, MAE, MAPE, MSE
        and RMSE in regression analysis evaluation.
        """
        logits, labels = logits.double(), labels.double()
        variance = (labels - labels.mean(dim=0)).square().mean(dim=0).clamp_min(LEAST_STD**2)
        return float((1 - (logits - labels).square().mean(dim=0) / variance).clamp_min(0).mean())


HEADS: dict[Outputs, Classification | MultiLabel | Regression] = {
    "classes": Classification(),
    "labels": MultiLabel(),
    "values": Regression(),
}


class AnyTargets:
    """Loss and metric by the option `targets`, for tasks that read data of all three kinds."""

    targets: Outputs

    @property
    def metric_name(self) -> str:
        """The metric in a word or two, for people."""
        return HEADS[self.targets].metric_name

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss on the true labels, scalar; logits `[batch, K]`, labels as in `Split`, every sample with one."""
        return HEADS[self.targets].loss(logits, labels)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """What candidates are ranked on, 0 to 1, more is better."""
        return HEADS[self.targets].metric(logits, labels)


def known(labels: Labels) -> Labels:
    """Which samples have a label, `[N]` bool; labels as in `Split`, numpy or torch."""
    if labels.ndim == 1:
        return labels >= 0
    if labels.ndim == 3:
        return labels[:, 0, 0] != -1
    return (labels == labels).all(1)  # NaN alone differs from itself


def split(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    validation: float,
    test: float | Split,
    seed: int,
) -> tuple[Split, Split, Split]:
    """Train, validation and test split, seeded; by classes stratified, each with at least one sample of every class.

    Args:
        images: `[N, C, H, W]`.
        labels: `[N]` int64, or of another kind: drawn then without regard to the labels.
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
    if labels.ndim == 1 and len(classes) < 2:
        raise KdnasError("at least two classes are needed", field="task", value=list(classes))
    strata = _strata(labels)
    counts = _class_counts(strata, classes if labels.ndim == 1 else ["all samples"], needed, validation)
    rank = _rank_in_class(strata, counts, seed)
    # Rounding must neither leave a rare class out of a split nor use it up.
    held_out = _quotas(counts, round(share * len(labels))).clip(1, counts - 2) if share else np.zeros_like(counts)
    compared = _quotas(counts, round(validation * len(labels))).clip(1, counts - held_out - 1)
    in_test = rank < held_out[strata]
    in_validation = ~in_test & (rank < (held_out + compared)[strata])
    in_train = ~in_test & ~in_validation
    return (
        Split(images[in_train], labels[in_train]),
        Split(images[in_validation], labels[in_validation]),
        test if isinstance(test, Split) else Split(images[in_test], labels[in_test]),
    )


def keep_labels(split: Split, share: float, classes: Sequence[str], seed: int) -> Split:
    """The split with a share of the labels of each class, or of all samples; the others have none (see `Split`).

    Args:
        split: labels of any kind.
        share: above 0, at most 1.
        classes: names in the order of the labels.
        seed: of the draw.

    Raises:
        KdnasError: a class keeps none.
    """
    if share == 1:
        return split
    there = np.flatnonzero(known(split.labels))
    strata = _strata(split.labels[there])
    classes = classes if split.labels.ndim == 1 else ["all samples"]
    counts = np.bincount(strata, minlength=len(classes))
    kept = np.floor(counts * share + 0.5).astype(np.int64)
    if kept.min() < 1:
        empty = int(kept.argmin())
        raise KdnasError(
            f"leaves class {classes[empty]!r} with none of its {counts[empty]} labels",
            field="labels",
            value=share,
            remedy=f"keep at least {0.5 / counts.min():.2g}, one label of the rarest class",
        )
    chosen = np.zeros(len(split), dtype=bool)
    chosen[there] = _rank_in_class(strata, counts, seed) < kept[strata]
    if split.labels.ndim == 1:
        return Split(split.images, np.where(chosen, split.labels, -1))
    if split.labels.ndim == 3:
        labels = split.labels.copy()
        labels[~chosen] = np.nan
        labels[~chosen, 0, 0] = -1
        return Split(split.images, labels)
    return Split(split.images, np.where(chosen[:, None], split.labels, np.float32(np.nan)))


def choose(labels: np.ndarray, total: int, seed: int) -> np.ndarray:
    """Indices, ascending, of `total` samples drawn so that every class keeps its share.

    Args:
        labels: `[N]` int64, or of another kind: drawn then without regard to them.
        total: at most N.
        seed: of the draw.
    """
    strata = _strata(labels)
    counts = np.bincount(strata)
    return np.flatnonzero(_rank_in_class(strata, counts, seed) < _quotas(counts, total)[strata])


def assemble(train: Split, validation: Split, test: Split, classes: Sequence[str]) -> Data:
    """The data of a task, with the mean and deviation of its training images, or of the columns of its table."""
    channels = train.images.shape[1]
    if train.images.dtype != np.uint8:
        # `Normalise` divides by 255 first, whatever the input.
        mean, std = (part(train.images.astype(np.float64), axis=(0, 2, 3)) / 255 for part in (np.mean, np.std))
        std = np.where(std > 0, std, 1 / 255)  # a constant column says nothing
        return Data(train, validation, test, tuple(classes), tuple(mean.tolist()), tuple(std.tolist()))
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


def standardised(data: Data) -> Data:
    """The data with values that have mean 0 and deviation 1 in the training split; what they were is in the data."""
    there = data.train.labels[known(data.train.labels)].astype(np.float64)
    mean, std = there.mean(axis=0), there.std(axis=0)
    std = np.where(std > LEAST_STD, std, 1.0)
    train, validation, test = (
        Split(part.images, ((part.labels - mean) / std).astype(np.float32))
        for part in (data.train, data.validation, data.test)
    )
    return dataclasses.replace(
        data,
        train=train,
        validation=validation,
        test=test,
        target_mean=tuple(mean.tolist()),
        target_std=tuple(std.tolist()),
    )


def _strata(labels: np.ndarray) -> np.ndarray:
    """What a split keeps the shares of, `[N]`: the class of each sample; one for all where it has not one class."""
    return labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)


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
