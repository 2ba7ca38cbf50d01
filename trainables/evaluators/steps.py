"""What do trainings of shared weights have in common? Batches of the bank, and what is learned from them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from trainables.bank import Batch
from trainables.distill import Shared
from trainables.ensembles import combine
from trainables.loop import Normalise, hard_loss
from trainables.losses import KD, LOSSES, Answer
from trainables.schedules import between
from trainables.tasks.base import Targets

SHUFFLE = 0  # parts of the training samples are the same in every training


def batches(
    shared: Shared,
    epochs: int,
    size: int,
    seed: int,
    part: slice = slice(None),
    taps: tuple[str, ...] = (),
) -> Iterator[Batch]:
    """Batches of so many epochs in random order, an epoch a view, on the device of the training.

    Args:
        shared: its bank.
        epochs: how many.
        size: samples a batch; what is left over at the end of an epoch is not used.
        seed: of the order.
        part: of the training samples, taken from a fixed shuffle of them.
        taps: teacher features to gather.
    """
    own = np.random.default_rng(SHUFFLE).permutation(len(shared.bank))[part]
    there = shared.bank.useful(shared.bank.logits.shape[1] > 0)[own]
    own = np.resize(own[there], len(own)) if there.any() else own
    device = torch.device(shared.device)
    for epoch in range(epochs):
        view = epoch % shared.bank.views
        transforms = shared.bank.transforms(view)
        order = np.random.default_rng((seed, epoch)).permutation(own)
        for start in range(0, max(1, len(order) // size) * size, size):
            yield shared.bank.batch(order[start : start + size], view, transforms, taps).to(device)


def normaliser(shared: Shared) -> Normalise:
    """Images to inputs."""
    return Normalise(shared.mean, shared.std)


def distillation(logits: Tensor, batch: Batch, shared: Shared, alpha: float, temperature: float) -> Tensor:
    """`alpha KD + (1 - alpha) L` with the mean of the teachers and the task's loss on the labels there are; scalar."""
    hard = hard_loss(shared.task, logits, batch.labels)
    if len(batch.logits) == 0 or alpha == 0:
        return hard
    targets = shared.task.targets
    answer = combine(batch.logits, batch.labels, temperature, student=logits.detach(), targets=targets)
    return (1 - alpha) * hard + alpha * soft(logits, answer, temperature, targets)


def soft(student: Tensor, teacher: Tensor, temperature: float, targets: Targets = "classes") -> Tensor:
    """The task's plain KD loss between outputs `[batch, K]`, scalar."""
    function = LOSSES[KD[targets]].function
    return function(Answer(student, student), Answer(teacher, teacher), teacher.argmax(dim=1), temperature)


def rate(peak: float, progress: float) -> float:
    """Learning rate at `progress` (0 at the first step), a cosine from its peak to 0."""
    return between("cosine", peak, 0.0, progress)
