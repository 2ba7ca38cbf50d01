"""How are logits over many classes kept small? The largest in full, the others as two numbers and a class's habit.

Shapes: V views, T teachers, N training samples, K classes, k kept logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

REST_TEMPERATURE = 2.0  # at it the rest keeps its probability exactly: between 1 and 4, so that both come out well
CHUNK = 512


@dataclass(frozen=True)
class TopLogits:
    """The k largest logits of each answer; the others rebuilt as `slope * typical[largest class] + shift`.

    Spreading the remaining probability evenly, as Wu 2022 does, is right at temperature 1 and loses what the rest
    says at higher ones; the typical answer of a teacher that sees this class keeps most of it.

    Source: after Wu 2022, TinyViT: Fast Pretraining Distillation, section 3.1 (sparse soft labels).

    Args:
        values: `[V, T, N, k]` float16, from the largest down.
        classes: `[V, T, N, k]` unsigned, their classes.
        rest: `[V, T, N, 2]` float16, slope and shift.
        typical: `[T, K, K]` float16, from `typical`.
    """

    values: np.ndarray
    classes: np.ndarray
    rest: np.ndarray
    typical: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(V, T, N, K), as of the full logits."""
        views, teachers, samples, _ = self.values.shape
        return views, teachers, samples, self.typical.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in vars(self).values())

    def rows(self, view: int, indices: np.ndarray) -> np.ndarray:
        """Logits of these samples in this view, `[T, batch, K]` float32; no rebuilt one exceeds a kept one."""
        values, classes, rest = (np.take(x[view], indices, axis=1) for x in (self.values, self.classes, self.rest))
        values, rest = values.astype(np.float32), rest.astype(np.float32)
        teachers = np.arange(len(self.typical))[:, None]
        dense = self.typical[teachers, classes[..., 0]].astype(np.float32)
        dense *= rest[..., :1]
        dense += rest[..., 1:]
        np.minimum(dense, values[..., -1:], out=dense)
        np.put_along_axis(dense, classes.astype(np.int64), values, axis=-1)
        return dense


def typical(logits: np.ndarray) -> np.ndarray:
    """Mean answer, less its own mean, by the class with the largest logit: `[N, K]` to `[K, K]` float16.

    A class's few answers are mixed with one share of the mean of all.
    """
    classes = logits.shape[1]
    total, seen = torch.zeros(classes, classes), torch.zeros(classes, 1)
    for start in range(0, len(logits), CHUNK):
        z = torch.from_numpy(logits[start : start + CHUNK]).float()
        largest = z.argmax(dim=1)
        total.index_add_(0, largest, z - z.mean(dim=1, keepdim=True))
        seen.index_add_(0, largest, torch.ones(len(z), 1))
    overall = total.sum(dim=0) / max(1, len(logits))
    return _half((total + overall) / (seen + 1))


def compress(logits: np.ndarray, typical: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and classes `[N, k]` and rest `[N, 2]` of one teacher's answers to one view.

    The slope is the least-squares fit of the other logits, the shift gives them their probability at
    `REST_TEMPERATURE`.

    Args:
        logits: `[N, K]` float16.
        typical: `[K, K]`, the teacher's.
        k: how many are kept, 2 to K.
    """
    habits = torch.from_numpy(typical)
    values, classes, rest = [], [], []
    for start in range(0, len(logits), CHUNK):
        z = torch.from_numpy(logits[start : start + CHUNK]).float()
        top = z.topk(k, dim=1)
        values.append(_half(top.values))
        classes.append(top.indices.numpy().astype(class_type(z.shape[1])))
        left = torch.ones_like(z, dtype=torch.bool).scatter_(1, top.indices, False)
        rest.append(_half(_line(z, habits[top.indices[:, 0]].float(), left)))
    return np.concatenate(values), np.concatenate(classes), np.concatenate(rest)


def stacked(views: Sequence[Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]], habits: np.ndarray) -> TopLogits:
    """What `compress` gave for each teacher of each view, as one."""
    values, classes, rest = (np.stack([[teacher[part] for teacher in view] for view in views]) for part in range(3))
    return TopLogits(values, classes, rest, habits)


def class_type(classes: int) -> np.dtype:
    """The smallest unsigned type that holds every class."""
    return np.min_scalar_type(classes - 1)


def top_bytes(views: int, teachers: int, samples: int, classes: int, k: int) -> int:
    """Bytes of the `TopLogits` of these sizes."""
    answer = k * (2 + class_type(classes).itemsize) + 2 * 2
    return teachers * (views * samples * answer + 2 * classes * classes)


def _line(z: Tensor, habit: Tensor, left: Tensor) -> Tensor:
    """Slope and shift of `z` on `habit` over the classes in `left`, `[N, 2]`; zero where none are left."""
    count = left.sum(dim=1, keepdim=True).clamp_min(1)
    z_off, habit_off = ((x - (x * left).sum(dim=1, keepdim=True) / count) * left for x in (z, habit))
    slope = (z_off * habit_off).sum(dim=1, keepdim=True) / habit_off.square().sum(dim=1, keepdim=True).clamp_min(1e-6)
    shift = _soft_maximum(z, left) - _soft_maximum(slope * habit, left)
    return torch.cat([slope, shift], dim=1).nan_to_num(0.0)  # not a number: infinite less infinite, none left


def _soft_maximum(z: Tensor, left: Tensor) -> Tensor:
    scaled = (z / REST_TEMPERATURE).masked_fill(~left, -torch.inf)
    return REST_TEMPERATURE * scaled.logsumexp(dim=1, keepdim=True)


def _half(x: Tensor) -> np.ndarray:
    return x.clamp(-65_000, 65_000).half().numpy()
