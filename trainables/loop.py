"""How is a student trained? Candidate in, curve and weights out: no Ray, no logging, no files.

The trainable, `retrain`, teacher training and the tests call this one loop.
"""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import KdnasError
from trainables.bank import Bank, Batch, fitting
from trainables.losses import KD, LOSSES, Answer
from trainables.meta import EVERY, MetaWeights, slopes
from trainables.optimizer import OPTIMIZERS, SGD, AdamW, clip
from trainables.quantised import LAST_SHARE, RANGES, Ranges, quantised
from trainables.recipe import Recipe
from trainables.tasks.base import Split, Targets, Task, known
from trainables.terms import PEER, WEIGHTING, Read, distilled, make_ready, together

# Share of all steps over which the learning rate rises. A longer rise ends as well but makes the first rungs poorer
# judges: with 0.1 instead of 0.03, tau between epoch 9 and the end at 27 fell from 0.57 to 0.35 (digits, n = 16).
WARMUP = 0.03
EVALUATION_BATCH = 1024

Point = dict[str, float]  # one epoch of a curve: epoch, train_loss, val_loss, val_accuracy


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass
class Training:
    """A student in training: everything that changes from step to step, so that it can be saved and go on.

    Args:
        model: the student.
        recipe: how it learns.
        seed: order of the samples derives from it.
        total_epochs: length of the learning rate and temperature schedules, in epochs.
        projectors: what is trained beside the student for its terms (see `trainables.terms.make_ready`), and the
            ranges of its activations where it trains quantised.
        optimizer: over student and projectors.
        reads: what each term reads.
        curve: one point an epoch so far.
        train_s: seconds spent in this loop so far.
        size: parameters of the student over those of the first teacher.
        bfloat16: whether the student computes in that format (autocast) while it trains; weights, losses and scores
            stay in float32.
    """

    model: nn.Module
    recipe: Recipe
    seed: int
    total_epochs: int
    projectors: nn.ModuleDict
    optimizer: SGD | AdamW
    reads: tuple[Read, ...] = ()
    curve: list[Point] = field(default_factory=list)
    train_s: float = 0.0
    size: float = 1.0
    bfloat16: bool = False

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""
        return len(self.curve)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and plain values (`torch.load(weights_only=True)` reads it).

        The tensors are the live ones: save them before training goes on.
        """
        return {
            "model": self.model.state_dict(),
            "projectors": self.projectors.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curve": self.curve,
            "train_s": self.train_s,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `state()`."""
        self.model.load_state_dict(state["model"])
        self.projectors.load_state_dict(state["projectors"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curve = list(state["curve"])
        self.train_s = state["train_s"]


class Normalise(nn.Module):
    """Maps uint8 images `[batch, C, H, W]` to float32 with the training split's mean 0 and deviation 1."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        scale = 1.0 / (255.0 * torch.tensor(std))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std)).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `[batch, C, H, W]` float32."""
        self.to(images.device)
        return torch.addcmul(self.shift, images.float(), self.scale)


def start(
    model: nn.Module,
    recipe: Recipe,
    bank: Bank,
    *,
    seed: int,
    total_epochs: int,
    peer: nn.Module | None = None,
    targets: Targets = "classes",
    bfloat16: bool = False,
) -> Training:
    """A training at epoch 0: projectors made for the shapes at hand, optimiser over both.

    Args:
        model: the student.
        recipe: how it learns.
        bank: what it learns from.
        seed: order of the samples derives from it.
        total_epochs: length of the schedules.
        peer: a second student for mutual learning; needed where the recipe's `mutual` is above 0.
        targets: of the task that it is trained for.
        bfloat16: see `Training`; not where the recipe trains quantised, whose rounding is the finer one.

    Raises:
        KdnasError: the recipe names an unknown loss or one that is not for such targets, a teacher or a tap that the
            bank does not hold, or a tap that its loss does not read.
    """
    params = sum(part.numel() for part in model.parameters())  # before a teacher's classifier comes in
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reads, projectors = make_ready(model, bank, recipe, targets)
    if recipe.mutual:
        if peer is None:
            raise ValueError("mutual learning needs a peer")
        projectors[PEER] = peer
    if recipe.quantised:
        projectors[RANGES] = Ranges(model)
    projectors.to(device_of(model))
    if recipe.terms and bank.logits.shape[1] == 0:
        raise KdnasError("the recipe distils, but there is no teacher", field="teachers", value=[])
    if recipe.teacher_shares and len(recipe.teacher_shares) != bank.logits.shape[1]:
        raise KdnasError(
            f"the bank holds {bank.logits.shape[1]} teachers",
            field="recipe.teacher_shares",
            value=recipe.teacher_shares,
            remedy="give a share for each of them, or none",
        )
    trained = [*model.parameters(), *projectors.parameters()]
    optimizer = OPTIMIZERS[recipe.optimizer](trained, recipe.weight_decay)
    size = params / bank.teacher_params[0] if any(bank.teacher_params[:1]) else 1.0
    bfloat16 = bfloat16 and not recipe.quantised
    return Training(model, recipe, seed, total_epochs, projectors, optimizer, reads, size=size, bfloat16=bfloat16)


def train(
    training: Training, bank: Bank, validation: Split, task: Task, normalise: Normalise, until_epoch: int
) -> list[Point]:
    """Train up to `until_epoch` and return the whole curve so far; does nothing where it is there already.

    Args:
        training: the student and its state; changed in place.
        bank: training images, labels and the teachers' answers.
        validation: scored after every epoch.
        task: loss on the true labels and metric.
        normalise: uint8 images to model inputs.
        until_epoch: last epoch to train, counted from 1.

    Raises:
        DivergedError: the loss of an epoch is not finite.
    """
    begin = time.perf_counter()
    earlier = training.train_s
    while training.epoch < until_epoch:
        with _as_in_int8(training):
            loss = _epoch(training, bank, task, normalise)
        if not math.isfinite(loss):
            raise DivergedError(f"loss is {loss} in epoch {training.epoch + 1}")
        val_loss, accuracy = evaluate(training.model, validation, task, normalise)
        if math.isnan(val_loss):  # the last step of the epoch may have gone too far
            raise DivergedError(f"validation loss is {val_loss} after epoch {training.epoch + 1}")
        training.curve.append(
            {
                "epoch": training.epoch + 1,
                "train_loss": loss,
                "val_loss": val_loss,
                "val_accuracy": accuracy,
            }
        )
        training.train_s = earlier + time.perf_counter() - begin
    return training.curve


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights lie; a model without any works on the CPU."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def evaluate(model: nn.Module, split: Split, task: Task, normalise: Normalise) -> tuple[float, float]:
    """Loss and metric of the model on a split."""
    model.eval()
    logits = []
    with torch.inference_mode():
        size = fitting(EVALUATION_BATCH, split.images.shape[1:])
        for begin in range(0, len(split), size):
            images = torch.from_numpy(np.array(split.images[begin : begin + size]))
            logits.append(model(normalise(images.to(device_of(model)))).cpu())
        answers, labels = torch.cat(logits), torch.from_numpy(np.array(split.labels))
        return float(task.loss(answers, labels)), task.metric(answers, labels)


def _as_in_int8(training: Training) -> contextlib.AbstractContextManager[None]:
    """How the next epoch is trained; scored is the plain student."""
    if RANGES not in training.projectors or training.epoch < (1 - LAST_SHARE) * training.total_epochs:
        return contextlib.nullcontext()
    ranges = training.projectors[RANGES]
    assert isinstance(ranges, Ranges)
    return quantised(training.model, ranges)


def _epoch(training: Training, bank: Bank, task: Task, normalise: Normalise) -> float:
    recipe, epoch = training.recipe, training.epoch
    view = epoch % bank.views
    transforms = bank.transforms(view)
    batches = epoch_batches(training, bank)
    total_steps = training.total_epochs * len(batches)
    own, theirs = read_taps(training.reads)
    training.model.train()
    device = device_of(training.model)
    total = torch.zeros((), device=device)
    for index, indices in enumerate(batches):
        step = epoch * len(batches) + index
        progress = step / max(total_steps - 1, 1)
        batch = bank.batch(indices, view, transforms, theirs).to(device)
        images = normalise(batch.images)
        logits, seen = answers(training.model, images, own, training.bfloat16)
        losses = weighed(training, batch, logits, seen, task, progress)
        if recipe.weighting == "meta" and recipe.terms and step % EVERY == 0:
            far = bank.batch(batches[(index + len(batches) // 2) % len(batches)], view, transforms).to(device)
            _learn_weights(training, losses, far, task, normalise, recipe.learning_rate * rate(step / total_steps))
        loss = together(losses, training.projectors)
        if PEER in training.projectors:
            peer = training.projectors[PEER]
            loss = loss + _mutual(peer, recipe.mutual, logits, images, batch.labels, task)
        training.optimizer.zero_grad()
        loss.backward()
        clip(training.optimizer.parameters)
        training.optimizer.step(recipe.learning_rate * rate(step / total_steps))
        total += loss.detach()
    return float(total) / len(batches)


def answers(
    model: nn.Module, images: Tensor, taps: Sequence[str], bfloat16: bool
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Logits `[B, K]` and the named taps of a model in training, float32 whatever it computed in."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        logits, seen = model.forward_taps(images, taps) if taps else (model(images), {})  # type: ignore[operator]
    return logits.float(), {tap: value.float() for tap, value in seen.items()} if bfloat16 else seen


def epoch_batches(training: Training, bank: Bank) -> list[np.ndarray]:
    """Positions of the samples of each step of the next epoch."""
    recipe = training.recipe
    order = np.random.default_rng((training.seed, training.epoch)).permutation(len(bank))
    if not (there := bank.useful(bool(recipe.terms))).all():
        # Where nothing is to be learned of some samples the others come more often, and there is no step less.
        order = np.resize(order[there[order]], len(order))
    # A last batch of one sample has no variance for batch norm: spread the samples evenly instead.
    parts = min(math.ceil(len(order) / recipe.batch_size), len(order) // 2)
    return np.array_split(order, max(1, parts))


def read_taps(reads: Iterable[Read]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Taps of the student, and of the teacher, that the terms read, each once."""
    found = tuple(reads)
    own = tuple(dict.fromkeys(tap for read in found for tap in read.student))
    return own, tuple(dict.fromkeys(tap for read in found for tap in read.teacher))


def weighed(
    training: Training, batch: Batch, logits: Tensor, seen: Mapping[str, Tensor], task: Task, progress: float
) -> list[Tensor]:
    """What the recipe weighs, scalars, the labels first.

    Args:
        training: of the student.
        batch: what it was asked.
        logits: what it answered, `[B, K]`.
        seen: its taps.
        task: loss on the true labels.
        progress: 0 at the first step, 1 at the last.
    """
    recipe = training.recipe
    hard = hard_loss(task, logits, batch.labels)
    if not recipe.terms:
        return [hard]
    key = hash((training.seed, progress))  # numbers alone: the same in every process
    with _drawing(key, logits.device):  # losses that hide or draw do so from this seed
        return distilled(
            hard,
            logits[:, : batch.logits.shape[2]],  # a teacher of earlier classes has no logit for later ones
            seen,
            batch.guessed(recipe.teacher_shares),
            recipe,
            training.reads,
            training.projectors,
            progress=progress,
            size=training.size,
            targets=task.targets,
        )


@contextlib.contextmanager
def _drawing(key: int, device: torch.device) -> Iterator[None]:
    # Not torch.manual_seed: where no GPU is, it keeps a stack trace of every call (0.8 ms, and memory that grows).
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(key)
        if device.type == "cuda":
            torch.cuda.manual_seed(key)
        yield


def hard_loss(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Loss on the labels of those samples that have one."""
    there = known(labels)
    if bool(there.all()):
        return task.loss(logits, labels)
    return task.loss(logits[there], labels[there]) if bool(there.any()) else logits.sum() * 0


def _mutual(peer: nn.Module, weight: float, logits: Tensor, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    """What mutual learning adds to the loss on the labels: the peer's own, and how far the two disagree.

    `CE(peer) + w (KL(peer || student) + KL(student || peer))`, each divergence moves the second model only; where
    targets are labels or values, the task's own KD at temperature 1 takes its place.

    Source: Zhang 2018, Deep Mutual Learning, eqs. 5 to 7; both learn at the same step.
    """
    theirs = peer(images)
    if task.targets != "classes":
        kd, (a, b) = LOSSES[KD[task.targets]].function, (Answer(x, x) for x in (logits, theirs))
        return hard_loss(task, theirs, labels) + weight * (kd(a, b, labels, 1.0) + kd(b, a, labels, 1.0))
    own, other = (F.log_softmax(x, dim=1) for x in (logits, theirs))
    apart = F.kl_div(own, other.detach(), reduction="batchmean", log_target=True)
    apart = apart + F.kl_div(other, own.detach(), reduction="batchmean", log_target=True)
    return hard_loss(task, theirs, labels) + weight * apart


def _learn_weights(
    training: Training, losses: list[Tensor], far: Batch, task: Task, normalise: Normalise, rate: float
) -> None:
    weights = training.projectors[WEIGHTING]
    assert isinstance(weights, MetaWeights)
    images = normalise(far.images)
    found = slopes(
        training.model,
        losses,
        weights.factors(),
        rate,
        lambda answer: hard_loss(task, answer(images), far.labels),
    )
    weights.learn(found)


def rate(progress: float) -> float:
    """Learning rate at `progress` (0 at the first step, 1 at the last) relative to its peak."""
    if progress < WARMUP:
        return max(progress, 0.01) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))
