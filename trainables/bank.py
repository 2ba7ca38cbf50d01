"""What did the teachers say about the training data, and how is it computed once, cached and shared?

Shapes: V views, T teachers, N training samples, K classes. Everything is numpy and read-only, so that Ray
maps one copy into every worker of a node; a batch is gathered by index.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from search_spaces import KdnasError, Shape
from trainables.alignment import NO_ANSWER, UNKNOWN
from trainables.augment import Augmentation, Transforms, apply, apply_to_boxes, draw
from trainables.files import whole_folder
from trainables.opaque import params_of
from trainables.pairing import Paired
from trainables.tasks.base import Split, known
from trainables.top_logits import TopLogits, compress, stacked, top_bytes, typical

FORMAT = 4
CLASSIFIER = ("classifier.weight", "classifier.bias")
INFERENCE_BATCH = 512
INFERENCE_NUMBERS = 2**23  # of inputs at a time: large images come in smaller batches


@dataclass(frozen=True)
class Batch:
    """One batch as a student sees it.

    Args:
        images: `[batch, C, H, W]` uint8, transformed as the view says.
        labels: `[batch]` int64, -1 for a sample without label; or float32 (see `trainables.tasks.base.Split`); boxes
            where they lie in the transformed image.
        logits: `[T, batch, K]` float32, the teachers' answers to exactly these images.
        taps: teacher features `{name: [batch, …]}` float32, NaN of a sample that the teacher has none of.
        samples: their positions in the training data, `[batch]` int64.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    taps: dict[str, Tensor]
    samples: Tensor

    def guessed(self, shares: Sequence[float] = ()) -> "Batch":
        """The batch with the teachers' mean answer, each by its share, as the class of samples that have none.

        So has a sample of a class that the teachers have no logit for (it came after them, see `trainables.stream`).
        Labels of other kinds stay as they are: no loss for them needs a guess.
        """
        if self.labels.dim() > 1:
            return self
        known = (self.labels >= 0) & (self.labels < self.logits.shape[2])
        if bool(known.all()):
            return self
        counts = self.logits.new_tensor(shares or [1.0] * len(self.logits))
        guess = (counts[:, None, None] * self.logits.softmax(dim=2)).sum(dim=0).argmax(dim=1)
        return dataclasses.replace(self, labels=torch.where(known, self.labels, guess))

    def to(self, device: torch.device) -> "Batch":
        """The batch on this device."""
        if device == self.images.device:
            return self
        taps = {name: value.to(device) for name, value in self.taps.items()}
        images, labels, logits, samples = (x.to(device) for x in (self.images, self.labels, self.logits, self.samples))
        return Batch(images, labels, logits, taps, samples)


@dataclass(frozen=True)
class OnlineTap:
    """A feature that is not kept but computed when it is asked for.

    Args:
        shape: as if it were kept, `(V, N, …)`.
        ask: `(indices [batch], view, names) -> {name: [batch, …]}` float16, for all such taps of the bank.
    """

    shape: tuple[int, ...]
    ask: Callable[[np.ndarray, int, Sequence[str]], Mapping[str, np.ndarray]]
    nbytes: int = 0


@dataclass(frozen=True)
class Bank:
    """The teachers' knowledge about a training split, for V seeded views of it.

    Args:
        images: `[N, C, H, W]` uint8, untransformed.
        labels: `[N]` int64, or float32 (see `trainables.tasks.base.Split`).
        logits: `[V, T, N, K]` float16, or the largest of them; T may be 0 (training on the labels alone).
        taps: `{name: [V, N, …]}` float16, features of the first teacher; NaN of a sample that it has none of.
        augmentation: the transforms that views are drawn from; view 0 is the identity.
        seed: seed of the views.
        teacher_params: number of parameters of each teacher, 0 where it is not known.
        classifier: weight `[K, features]` and bias `[K]` of the first teacher's, where it has a linear one.
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray | TopLogits
    taps: Mapping[str, np.ndarray | OnlineTap]
    augmentation: Augmentation
    seed: int
    teacher_params: tuple[int, ...] = ()
    classifier: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def views(self) -> int:
        """Number of views."""
        return self.logits.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.images, self.labels, self.logits, *self.taps.values())
        return sum(array.nbytes for array in arrays)

    def useful(self, distilling: bool) -> np.ndarray:
        """Which samples there is something to learn of, `[N]` bool: a label or, distilling, any teacher's answer."""
        labelled = known(self.labels)
        if not distilling or labelled.all():
            return labelled
        # Only where targets are classes, and all logits are kept, may a teacher leave samples out.
        if self.labels.ndim > 1 or isinstance(self.logits, TopLogits):
            return np.ones_like(labelled)
        return labelled | (self.logits[0] > NO_ANSWER).any(axis=(0, 2))

    def transforms(self, view: int) -> Transforms:
        """Transform parameters of every sample in this view."""
        _, _, height, width = self.images.shape
        return draw(self.augmentation, len(self), height, width, self.seed, view)

    def batch(self, indices: np.ndarray, view: int, transforms: Transforms, taps: Sequence[str] = ()) -> Batch:
        """The samples at `indices` `[batch]` as `view` shows them; copies only these rows.

        Args:
            indices: which samples, `[batch]`.
            view: 0 to V - 1.
            transforms: `self.transforms(view)`, passed in because an epoch uses it many times.
            taps: names of the teacher features to gather.
        """
        images = torch.from_numpy(np.take(self.images, indices, axis=0))
        labels, drawn = torch.from_numpy(np.take(self.labels, indices, axis=0)), transforms.rows(indices)
        if labels.dim() == 3:
            labels = apply_to_boxes(labels, drawn, *self.shape[1:])
        if isinstance(self.logits, TopLogits):
            logits = self.logits.rows(view, indices)
        else:
            logits = np.take(self.logits[view], indices, axis=1).astype(np.float32)
        return Batch(
            images=apply(images, drawn),
            labels=labels,
            logits=torch.from_numpy(logits),
            taps=self._features(indices, view, taps),
            samples=torch.from_numpy(np.asarray(indices, dtype=np.int64)),
        )

    def _features(self, indices: np.ndarray, view: int, names: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, np.ndarray] = {}
        absent = [tap for name in names if isinstance(tap := self.taps[name], OnlineTap)]
        if absent:  # one question for all of them
            asked = [name for name in names if isinstance(self.taps[name], OnlineTap)]
            found = dict(absent[0].ask(indices, view, asked))
        for name in names:
            tap = self.taps[name]
            if not isinstance(tap, OnlineTap):
                found[name] = np.take(tap[view], indices, axis=0)
        return {name: torch.from_numpy(found[name].astype(np.float32)) for name in names}


def build(
    split: Split,
    teachers: Sequence[nn.Module],
    normalise: nn.Module,
    *,
    augmentation: Augmentation,
    views: int,
    seed: int,
    taps: Sequence[str] = (),
    pool: int | None = None,
    top_k: int | None = None,
    on_view: Callable[[int], None] = lambda view: None,
    room: Callable[[str, tuple[int, ...]], np.ndarray] = lambda name, shape: np.empty(shape, dtype=np.float16),
) -> Bank:
    """Bank with every teacher's answer to every view of the split.

    Args:
        split: training images and labels.
        teachers: modules that answer `[batch, C, H, W]` with logits `[batch, K]`; none for plain training.
        normalise: maps uint8 images to the teachers' and students' inputs.
        augmentation: what views are drawn from.
        views: how many views, at least 1; the first is the identity.
        seed: seed of the views.
        taps: features of the first teacher to keep.
        pool: maps are averaged down to at most so many places in height and width; None to keep them as they are.
        top_k: keep only so many of each answer's logits, 2 to K, and the others roughly; None to keep all.
        on_view: told the number of each view before it is computed; what it raises ends the work.
        room: an array float16 to fill, `logits` (unless `top_k`) or `tap.NAME`, of a shape.

    Raises:
        KdnasError: a transform does not fit the images, or a teacher answers with NaN.
    """
    bank = without_teacher(split, augmentation=augmentation, views=views, seed=seed)
    taps = tuple(dict.fromkeys(taps))
    if not teachers:
        return bank
    dense: np.ndarray | None = None
    maps: dict[str, np.ndarray] = {}
    short: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = []
    habits: list[np.ndarray] = []
    for view in range(views):
        on_view(view)
        transforms = bank.transforms(view)

        def keep(name: str, begin: int, rows: np.ndarray, view: int = view) -> None:
            if name not in maps:
                maps[name] = room(f"tap.{name}", (views, len(bank), *rows.shape[1:]))
            maps[name][view, begin : begin + len(rows)] = rows

        answers = [
            _answers(bank, model, normalise, view, transforms, taps if first else (), pool, keep)
            for first, model in _first(teachers)
        ]
        if top_k is None:
            if dense is None:
                dense = room("logits", (views, len(answers), *answers[0].shape))
            for index, logits in enumerate(answers):
                dense[view, index] = logits
            continue
        habits = habits or [typical(logits) for logits in answers]
        short.append([compress(logits, habit, top_k) for logits, habit in zip(answers, habits, strict=True)])
    kept = stacked(short, np.stack(habits)) if dense is None else dense
    params = tuple(params_of(teacher) or 0 for teacher in teachers)
    head = getattr(teachers[0], "classifier", None)
    linear = isinstance(head, nn.Linear) and head.bias is not None
    known = (head.weight.detach().cpu().numpy(), head.bias.detach().cpu().numpy()) if linear else None  # type: ignore[union-attr]
    return Bank(bank.images, bank.labels, kept, maps, augmentation, seed, params, known)


def without_teacher(split: Split, *, augmentation: Augmentation, views: int, seed: int) -> Bank:
    """Bank that holds the images and labels only: what a teacher itself is trained on."""
    empty = np.zeros((views, 0, len(split), 1), dtype=np.float16)
    return Bank(split.images, split.labels, empty, {}, augmentation, seed)


def digest(
    weights: Sequence[str],
    data: str,
    augmentation: Augmentation,
    views: int,
    seed: int,
    taps: Sequence[str],
    pool: int | None = None,
    top_k: int | None = None,
) -> str:
    """Sixteen hexadecimal digits that name a bank: hash of weights, data, views, taps and what is kept of them."""
    parts = [FORMAT, list(weights), data, vars(augmentation), views, seed, sorted(taps), pool, top_k]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def fitting(batch: int, shape: Shape) -> int:
    """How many images of this shape to ask about at a time: `batch`, fewer where they are large."""
    return max(min(batch, INFERENCE_NUMBERS // math.prod(shape)), 1)


def pooled(shape: tuple[int, ...], pool: int | None) -> tuple[int, ...]:
    """Shape of a feature in the bank: a map `(C, H, W)` has at most `pool` x `pool` places."""
    return shape if pool is None or len(shape) != 3 else (shape[0], *(min(size, pool) for size in shape[1:]))


def sizes(
    views: int,
    teachers: int,
    samples: int,
    classes: int,
    taps: Mapping[str, tuple[int, ...]],
    *,
    top_k: int | None = None,
) -> dict[str, int]:
    """Bytes of the logits and of each tap `tap.NAME`, before anything is computed.

    Args:
        views: how many.
        teachers: how many.
        samples: in the training split.
        classes: how many.
        taps: their shapes without the batch, pooled.
        top_k: as in `build`.
    """
    full = 2 * views * teachers * samples * classes
    logits = full if top_k is None else top_bytes(views, teachers, samples, classes, top_k)
    return {"logits": logits, **{f"tap.{name}": 2 * views * samples * math.prod(taps[name]) for name in taps}}


def save(bank: Bank, folder: Path) -> None:
    """Write the teachers' answers to `folder` (bank.safetensors, bank.json); images stay with the data."""
    with whole_folder(folder) as draft:
        logits = vars(bank.logits) if isinstance(bank.logits, TopLogits) else {"all": bank.logits}
        arrays = {f"logits.{name}": value for name, value in logits.items()}
        arrays |= {f"tap.{name}": value for name, value in bank.taps.items()}
        if bank.classifier is not None:
            arrays |= dict(zip(CLASSIFIER, bank.classifier, strict=True))
        safetensors.numpy.save_file(arrays, draft / "bank.safetensors")
        digest_of_file = file_digest(draft / "bank.safetensors")
        facts = {
            "format": FORMAT,
            "sha256": digest_of_file,
            "teacher_params": bank.teacher_params,
            "taps": list(bank.taps),  # from input to output; the file does not keep the order
        }
        (draft / "bank.json").write_text(json.dumps(facts))


def load(folder: Path, split: Split, *, augmentation: Augmentation, seed: int) -> Bank:
    """Bank saved in `folder`, for the same split.

    Raises:
        KdnasError: a file is missing, cut short or altered, or it belongs to another split.
    """
    try:
        facts: Mapping[str, Any] = json.loads((folder / "bank.json").read_text())
        if facts["sha256"] != file_digest(folder / "bank.safetensors"):
            raise corrupt(folder, "its checksum does not match")
        arrays = safetensors.numpy.load_file(folder / "bank.safetensors")
        parts = {name.removeprefix("logits."): arrays[name] for name in arrays if name.startswith("logits.")}
        logits = parts["all"] if "all" in parts else TopLogits(**parts)
        params = tuple(int(size) for size in facts["teacher_params"])
        taps = {name: arrays[f"tap.{name}"] for name in facts["taps"]}
        known = (arrays[CLASSIFIER[0]], arrays[CLASSIFIER[1]]) if CLASSIFIER[0] in arrays else None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise corrupt(folder, f"it cannot be read ({error})") from error
    for samples in (logits.shape[2], *(tap.shape[1] for tap in taps.values())):
        if samples != len(split):
            raise corrupt(folder, f"it holds {samples} samples, the data {len(split)}")
    return Bank(split.images, split.labels, logits, taps, augmentation, seed, params, known)


def _answers(
    bank: Bank,
    model: nn.Module,
    normalise: nn.Module,
    view: int,
    transforms: Transforms,
    taps: Sequence[str],
    pool: int | None,
    keep: Callable[[str, int, np.ndarray], None],
) -> np.ndarray:
    """Logits `[N, K]`; features are given to `keep` as they come, for together they may not fit in memory."""
    logits: list[np.ndarray] = []
    model.eval()
    size = fitting(INFERENCE_BATCH, bank.shape)
    for start in range(0, len(bank), size):
        indices = np.arange(start, min(start + size, len(bank)))
        answer, seen = features(bank, model, normalise, indices, view, transforms, taps, pool)
        logits.append(answer)
        for name in taps:
            keep(name, start, seen[name])
    return np.concatenate(logits)


def features(
    bank: Bank,
    model: nn.Module,
    normalise: nn.Module,
    indices: np.ndarray,
    view: int,
    transforms: Transforms,
    taps: Sequence[str],
    pool: int | None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What a teacher in evaluation mode says of some samples: logits `[batch, K]` and taps, float16, as they are kept.

    Of a sample that it says nothing of the logits are `UNKNOWN`, the features NaN.

    Args:
        bank: holds the images.
        model: the teacher.
        normalise: maps uint8 images to its inputs.
        indices: which samples, `[batch]`.
        view: which view.
        transforms: of the view.
        taps: names of the features.
        pool: as in `build`.

    Raises:
        KdnasError: the teacher answers with NaN.
    """
    with torch.inference_mode():
        if isinstance(model, Paired):  # it looks at samples of its own, not at these images
            partners = model.partners(bank.labels, view)[indices]
            there = np.flatnonzero(partners >= 0)
            asked = there if len(there) else np.zeros(1, dtype=np.int64)  # one, for the shapes
            answer, seen = model.ask(partners[asked], bank.labels[indices[asked]], taps)
            maps = {name: _spread(_half(_averaged(seen[name], pool)), there, len(indices), np.nan) for name in taps}
            return _spread(_half(answer), there, len(indices), UNKNOWN), maps
        images = normalise(bank.batch(indices, view, transforms).images)
        answer, seen = model.forward_taps(images, taps) if taps else (model(images), {})  # type: ignore[operator]
        return _half(answer), {name: _half(_averaged(seen[name], pool)) for name in taps}


def _spread(values: np.ndarray, at: np.ndarray, total: int, otherwise: float) -> np.ndarray:
    """Rows `[total, …]`: those at `at` are the values, the others all the same."""
    found = np.full((total, *values.shape[1:]), otherwise, dtype=values.dtype)
    found[at] = values[: len(at)]
    return found


def _averaged(x: Tensor, pool: int | None) -> Tensor:
    shape = pooled(tuple(x.shape[1:]), pool)
    return x if shape == tuple(x.shape[1:]) else F.adaptive_avg_pool2d(x, (shape[1], shape[2]))


def _half(x: Tensor) -> np.ndarray:
    # A sum costs a fraction of the search for NaN, and is finite where there is none (or the search decides).
    if not math.isfinite(float(x.sum())) and bool(x.isnan().any()):
        raise KdnasError(
            "its answer to a training image is not a number (NaN)",
            field="teachers",
            remedy="check its weights and the scale of its inputs: images come normalised to mean 0, deviation 1",
        )
    # float16 ends at 65,504: a larger activation would become infinite and every loss with it.
    return x.float().clamp(-65_000, 65_000).half().cpu().numpy()


def _first(teachers: Sequence[nn.Module]) -> list[tuple[bool, nn.Module]]:
    return [(index == 0, teacher) for index, teacher in enumerate(teachers)]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def corrupt(folder: Path, what: str) -> KdnasError:
    """The error of a stored bank that cannot be used."""
    return KdnasError(
        f"the stored bank is unusable: {what}",
        field="bank",
        value=str(folder),
        remedy="it is computed again; delete the folder if this repeats",
    )
