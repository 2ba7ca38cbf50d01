"""What do trainings of shared weights have in common? Batches of the bank, and what is learned from them."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.bank import Batch
from trainables.distill import Shared
from trainables.loop import Normalise

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


def distillation(logits: Tensor, batch: Batch, alpha: float, temperature: float) -> Tensor:
    """`alpha KD + (1 - alpha) CE` with the mean of the teachers; labels of -1 count for nothing."""
    known = batch.labels >= 0
    hard = F.cross_entropy(logits[known], batch.labels[known]) if bool(known.any()) else logits.sum() * 0
    if len(batch.logits) == 0 or alpha == 0:
        return hard
    return (1 - alpha) * hard + alpha * soft(logits, batch.logits.mean(dim=0), temperature)


def soft(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(teacher || student)` at this temperature, mean over the batch; scalar.

    Source: Hinton 2015, Distilling the Knowledge in a Neural Network, section 2.
    """
    own, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(own, theirs, reduction="batchmean", log_target=True)
