"""Where in a student does each loss pull, how strongly, and do the losses agree?

A stage is a named part of the network: `stem`, `stage1` …, `classifier`. Shapes: S stages, L losses.
"""

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.bank import Bank
from trainables.loop import Normalise, Training, answers, device_of, epoch_batches, read_taps, weighed
from trainables.tasks.base import Task

BATCHES = 4  # of the next epoch, over which a gradient is the mean
CONTAINERS = ("parts", "module")  # what a network wraps its stages in


def stages(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters of each named part of the network, from input to output."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        stage = words[1] if words[0] in CONTAINERS and len(words) > 2 else words[0]
        found.setdefault(stage, []).append(parameter)
    return found


def stage_gradients(losses: Iterable[Tensor], parts: Mapping[str, Sequence[nn.Parameter]]) -> list[list[np.ndarray]]:
    """Gradient of each loss by the parameters of each stage, `[L][S]` of flat float64; graphs are kept."""
    parameters = [parameter for part in parts.values() for parameter in part]
    found = []
    for loss in losses:
        slopes: Sequence[Tensor | None] = [None] * len(parameters)
        if loss.requires_grad:
            slopes = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        flat = iter(torch.zeros_like(p) if s is None else s for s, p in zip(slopes, parameters, strict=True))
        found.append([np.concatenate([_flat(next(flat)) for _ in part]) for part in parts.values()])
    return found


def cosine(first: np.ndarray, second: np.ndarray) -> float | None:
    """Cosine of the angle between two vectors; None where one is zero."""
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / length if length > 0 else None


def effective_depth(norms: Sequence[float]) -> float | None:
    """How many stages share a gradient: 1 where one stage has all of it, S where all have the same.

    The exponential of the entropy of `p_s = norm_s² / sum norm²` (a Hill number of order 1). The definition is ours: it
    says over how much of the network's depth a loss reaches. None where there is no gradient.
    """
    squares = np.square(np.asarray(norms, dtype=float))
    if squares.sum() <= 0:
        return None
    shares = squares[squares > 0] / squares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def gradient_paths(training: Training, bank: Bank, task: Task, normalise: Normalise) -> dict[str, Any]:
    """What each loss of a training would do to each stage in its next step; the training itself stays as it is.

    Each loss comes with its weight in the recipe (of learned weights without what was learned), its gradient is the
    mean over the first four batches of the next epoch.

    Returns:
        `stages`, `terms` (the first is the labels'), `norms` `[L][S]`, `cosines` `[L - 1][S]` of each term with the
        labels, the sum of the terms as `distillation` (`norms`, `cosines`, `[S]`; None without terms), `depth` of each
        loss `[L]`, and `depth_together` of their sum.
    """
    model, projectors = copy.deepcopy((training.model, training.projectors))  # batch norm and memories would move
    copied = dataclasses.replace(training, model=model, projectors=projectors)
    model.train()
    parts = stages(model)
    chosen = epoch_batches(copied, bank)
    count = min(BATCHES, len(chosen))
    found = [stage_gradients(_losses(copied, bank, task, normalise, chosen, place), parts) for place in range(count)]
    mean = [[np.mean(stage, axis=0) for stage in zip(*loss, strict=True)] for loss in zip(*found, strict=True)]
    return described(list(parts), _terms(copied), mean)


def described(names: Sequence[str], terms: Sequence[str], gradients: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
    """The numbers of `gradient_paths` for the gradients `[L][S]`, the labels' first."""
    norms = [_norms(loss) for loss in gradients]
    labels, others = gradients[0], gradients[1:]
    together = _added(gradients)
    distillation = None
    if others:
        added = _added(others)
        distillation = {
            "norms": _norms(added),
            "cosines": _cosines(added, labels),
            "depth": effective_depth(_norms(added)),
        }
    return {
        "stages": list(names),
        "terms": list(terms),
        "norms": norms,
        "cosines": [_cosines(loss, labels) for loss in others],
        "distillation": distillation,
        "depth": [effective_depth(row) for row in norms],
        "depth_together": effective_depth(_norms(together)),
    }


def _losses(
    training: Training, bank: Bank, task: Task, normalise: Normalise, chosen: Sequence[np.ndarray], place: int
) -> list[Tensor]:
    own, theirs = read_taps(training.reads)
    view = training.epoch % bank.views
    batch = bank.batch(chosen[place], view, bank.transforms(view), theirs).to(device_of(training.model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)  # of dropout
        logits, seen = answers(training.model, normalise(batch.images), own, training.bfloat16)
    steps = training.total_epochs * len(chosen)
    progress = min((training.epoch * len(chosen) + place) / max(steps - 1, 1), 1.0)
    return weighed(training, batch, logits, seen, task, progress)


def _terms(training: Training) -> list[str]:
    reads = training.reads
    return ["labels", *(read.term.loss + (f" at {read.term.tap}" if read.term.tap else "") for read in reads)]


def _added(losses: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    return [np.sum(stage, axis=0) for stage in zip(*losses, strict=True)]


def _norms(loss: Sequence[np.ndarray]) -> list[float]:
    return [float(np.linalg.norm(stage)) for stage in loss]


def _cosines(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[float | None]:
    return [cosine(a, b) for a, b in zip(first, second, strict=True)]


def _flat(slope: Tensor) -> np.ndarray:
    return slope.detach().flatten().double().cpu().numpy()
