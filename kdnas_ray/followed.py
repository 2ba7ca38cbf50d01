"""What is seen of a student on its way? One training, looked at now and then, and once more at its end.

Shapes: n validation samples that kernels compare, N that outputs are compared on, K classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnas_ray.analysis.cka import cka, gram
from kdnas_ray.analysis.dark_knowledge import agreement, calibration_error, likeness, mean_outputs
from kdnas_ray.analysis.gradients import gradient_paths
from kdnas_ray.analysis.probes import linear_probe, pooled
from trainables import slot
from trainables.bank import Bank, fitting
from trainables.candidate import Candidate
from trainables.distill import Shared, open_training
from trainables.loop import DivergedError, Normalise, device_of, train
from trainables.losses.reuse import settle
from trainables.recipe import Recipe
from trainables.tasks.base import Split, known

COMPARED = 512  # samples that kernels compare
PROBED = 2000  # training samples that a probe learns from, and most that outputs are compared on
LOOKS = 7  # at a training, its begin and end among them
SIDE = 32  # places of a map in height and width that a kernel reads at most
BATCH = 256
MOST_CLASSES = 50  # above which the confusions are not written down, only how alike they are
WITH, WITHOUT = "with", "without"


@dataclass(frozen=True)
class Reference:
    """What every student is compared with.

    Args:
        kernels: of the teacher's taps over the first n validation samples, `[n, n]`; empty where it has none.
        logits: the teacher's for the first N validation samples, `[N, K]`; None where it says nothing of them.
        temperature: of the softened outputs that are compared.
        classes: whether targets are classes; nothing but kernels and gradients is compared otherwise.
    """

    kernels: Mapping[str, Tensor]
    logits: np.ndarray | None
    temperature: float
    classes: bool


@dataclass(frozen=True)
class Job:
    """One training: which variant of a candidate's recipe, and the `repeat`-th seed."""

    variant: str
    candidate: Candidate
    repeat: int


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe, the same without a teacher, and, where it has several terms, the same without each of them.

    Removing a term leaves alpha and the other terms' weights as they are.
    """
    found = {WITH: recipe, WITHOUT: recipe.without_teacher()}
    if len(recipe.terms) > 1:
        for index, term in enumerate(recipe.terms):
            rest = (*recipe.terms[:index], *recipe.terms[index + 1 :])
            found[f"without {term.loss}" + (f" at {term.tap}" if term.tap else "")] = dataclasses.replace(
                recipe, terms=rest
            )
    return found


def looked_at(epochs: int) -> list[int]:
    """Epochs after which a training is looked at, 0 and the last among them."""
    return sorted(set(np.linspace(0, epochs, LOOKS).round().astype(int).tolist()))


def compare_with(
    model: nn.Module | None, validation: Split, normalise: Normalise, *, speaks: bool, temperature: float, classes: bool
) -> Reference:
    """What students are compared with, from a teacher that is shown validation samples.

    Args:
        model: the teacher; None where it cannot be shown them.
        validation: the split.
        normalise: uint8 images to its inputs.
        speaks: whether its logits are about the task's classes.
        temperature: see `Reference`.
        classes: see `Reference`.
    """
    if model is None:
        return Reference({}, None, temperature, classes)
    taps = [tap for tap in getattr(model, "taps", ()) if tap != "logits"]
    logits = seen(model, validation.images[:PROBED], normalise)[0].numpy() if speaks else None
    return Reference(kernels(model, validation, normalise, taps), logits, temperature, classes)


def kernels(model: nn.Module, validation: Split, normalise: Normalise, taps: Sequence[str]) -> dict[str, Tensor]:
    """Kernel of each tap over the first n validation samples, `[n, n]`."""
    if not taps:
        return {}
    maps = seen(model, validation.images[:COMPARED], normalise, taps)[1]
    return {tap: gram(value) for tap, value in maps.items()}


def seen(
    model: nn.Module, images: np.ndarray, normalise: Normalise, taps: Sequence[str] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits `[N, K]` and taps of a model in evaluation mode; maps larger than 32 x 32 are averaged down to that."""
    training, device = model.training, device_of(model)
    model.eval()
    logits: list[Tensor] = []
    maps: dict[str, list[Tensor]] = {tap: [] for tap in taps}
    size = fitting(BATCH, images.shape[1:])
    with torch.inference_mode():
        for begin in range(0, len(images), size):
            x = normalise(torch.from_numpy(np.array(images[begin : begin + size])).to(device))
            answer, found = model.forward_taps(x, taps) if taps else (model(x), {})  # type: ignore[operator]
            logits.append(answer.float().cpu())
            for tap in taps:
                maps[tap].append(_small(found[tap].float()).cpu())
    model.train(training)
    return torch.cat(logits), {tap: torch.cat(parts) for tap, parts in maps.items()}


def probes(
    model: nn.Module, bank: Bank, validation: Split, normalise: Normalise, taps: Sequence[str]
) -> dict[str, float | None]:
    """Accuracy of a linear probe at each tap: trained on training samples as they are, scored on validation samples."""
    chosen = np.flatnonzero(known(bank.labels))
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, min(PROBED, len(chosen))).astype(int))]
    own = _pooled(model, bank.images[chosen], normalise, taps)
    other = _pooled(model, validation.images[:PROBED], normalise, taps)
    labels = validation.labels[:PROBED]
    return {tap: linear_probe(own[tap], bank.labels[chosen], other[tap], labels) for tap in taps}


def follow(shared: Shared, reference: Reference, job: Job, epochs: int) -> dict[str, Any]:
    """One training from fresh weights with what was seen of it: a line that is kept.

    Returns:
        `variant`, `repeat`, `seed`, `epochs`, the `curve`, `looks` (at each: `epoch`, `gradients` of
        `analysis.gradients`, and `similarity`, CKA by the student's tap and the teacher's) and `end` (see `at_end`);
        or `failure` where the training diverged.
    """
    torch.set_num_threads(shared.threads)
    line: dict[str, Any] = {
        "variant": job.variant,
        "repeat": job.repeat,
        "seed": job.candidate.seed,
        "epochs": epochs,
    }
    normalise = Normalise(shared.mean, shared.std)
    training = open_training(shared, job.candidate, epochs)
    looks = []
    try:
        with slot.training():
            for epoch in looked_at(epochs):
                train(training, shared.bank, shared.validation, shared.task, normalise, epoch)
                gradients = gradient_paths(training, shared.bank, shared.task, normalise)
                similar = similarity(training.model, reference, shared.validation, normalise)
                looks.append({"epoch": epoch, "gradients": gradients, "similarity": similar})
    except DivergedError as error:
        return line | {"failure": str(error)}
    settle(training.model)
    end = at_end(training.model, reference, shared, normalise)
    return line | {"curve": training.curve, "train_s": training.train_s, "looks": looks, "end": end}


def similarity(
    model: nn.Module, reference: Reference, validation: Split, normalise: Normalise
) -> dict[str, dict[str, float | None]]:
    """CKA of each of the student's taps with each of the teacher's; empty where the teacher has none."""
    if not reference.kernels:
        return {}
    own = kernels(model, validation, normalise, _inner(model))
    return {
        tap: {name: cka(kernel, theirs) for name, theirs in reference.kernels.items()} for tap, kernel in own.items()
    }


def at_end(model: nn.Module, reference: Reference, shared: Shared, normalise: Normalise) -> dict[str, Any]:
    """What is seen of a trained student on validation samples; empty where targets are not classes.

    Returns:
        `accuracy` and `calibration_error` on the samples that outputs are compared on, `probes` by tap, and where the
        teacher speaks of them `agreement` (share of samples given the teacher's class), `likeness` of its confusions
        to the teacher's, and `outputs`, `[K, K]` (None for many classes).
    """
    if not reference.classes:
        return {}
    validation = shared.validation
    labels = np.asarray(validation.labels[:PROBED])
    logits = seen(model, validation.images[:PROBED], normalise)[0].numpy()
    found = judged(logits, labels)
    found["probes"] = probes(model, shared.bank, validation, normalise, _inner(model))
    if reference.logits is None:
        return found
    own, theirs = (mean_outputs(answer, labels, reference.temperature) for answer in (logits, reference.logits))
    found["agreement"] = agreement(logits, reference.logits)
    found["likeness"] = likeness(own, theirs)
    found["outputs"] = matrix(own)
    return found


def judged(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy and calibration error of outputs `[N, K]`."""
    return {
        "accuracy": float((logits.argmax(axis=1) == labels).mean()),
        "calibration_error": calibration_error(logits, labels),
    }


def matrix(outputs: np.ndarray) -> list[list[float | None]] | None:
    """Mean outputs as JSON; None for more classes than anybody reads."""
    if len(outputs) > MOST_CLASSES:
        return None
    return [[float(value) if np.isfinite(value) else None for value in row] for row in outputs]


def _inner(model: nn.Module) -> list[str]:
    return [tap for tap in getattr(model, "taps", ()) if tap != "logits"]


def _pooled(model: nn.Module, images: np.ndarray, normalise: Normalise, taps: Sequence[str]) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {tap: [] for tap in taps}
    for begin in range(0, len(images), BATCH):  # whole maps of all samples would not fit in memory
        for tap, value in seen(model, images[begin : begin + BATCH], normalise, taps)[1].items():
            parts[tap].append(pooled(value))
    return {tap: np.concatenate(found) for tap, found in parts.items()}


def _small(features: Tensor) -> Tensor:
    if features.dim() != 4 or max(features.shape[2:]) <= SIDE:
        return features
    height, width = features.shape[2:]
    return F.adaptive_avg_pool2d(features, (min(height, SIDE), min(width, SIDE)))
