"""How are features that are too large to keep asked for when they are needed? By one teacher that all trials share."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import ray
import torch
from torch import nn

from trainables.bank import Bank, OnlineTap, features
from trainables.loop import Normalise


class Asks:
    """Asks the shared teacher; travels to the trials inside the bank."""

    def __init__(self, teacher: ray.actor.ActorHandle) -> None:
        self._teacher = teacher

    def __call__(self, indices: np.ndarray, view: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Features `{name: [batch, …]}` float16 of these samples as the view shows them."""
        return ray.get(self._teacher.answer.remote(indices, view, names))


def online(
    bank: Bank,
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    pool: int | None,
) -> Bank:
    """The bank with taps that are not stored: an actor computes them batch by batch, as they would have been stored.

    It lives as long as the bank that is returned.

    Args:
        bank: without taps.
        model: the first teacher.
        shapes: of each tap without the batch, pooled.
        mean: of the training images, a channel each.
        std: their deviation.
        pool: as in `trainables.bank.build`.
    """
    empty = np.zeros((bank.views, 0, len(bank), 1), dtype=np.float16)
    images = dataclasses.replace(bank, logits=empty, taps={})
    # No core of its own: a trial waits while it answers.
    teacher = ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3)(_Teacher).remote(
        model, images, mean, std, pool
    )
    asks = Asks(teacher)
    lead = (bank.views, len(bank))
    return dataclasses.replace(bank, taps={name: OnlineTap((*lead, *shape), asks) for name, shape in shapes.items()})


class _Teacher:
    def __init__(
        self, model: nn.Module, images: Bank, mean: tuple[float, ...], std: tuple[float, ...], pool: int | None
    ) -> None:
        torch.set_num_threads(1)
        self._model, self._images, self._pool = model.eval(), images, pool
        self._normalise = Normalise(mean, std)

    def answer(self, indices: np.ndarray, view: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        transforms = self._images.transforms(view)
        return features(self._images, self._model, self._normalise, indices, view, transforms, names, self._pool)[1]
