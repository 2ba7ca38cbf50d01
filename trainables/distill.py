"""How does one candidate train as a Ray Tune trial? One step is one rung.

Usable with plain Ray Tune: `tune.Tuner(tune.with_parameters(Distill, shared=shared), …)`.
"""

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from search_spaces import Architecture, Space, first_line
from trainables import bank as banks
from trainables import packed, slot
from trainables.bank import Bank
from trainables.candidate import Candidate, build_model
from trainables.checkpoints import Checkpoints
from trainables.files import replace_text
from trainables.layout import to_channels_last
from trainables.limits import leave, notice, stopping, time_limit
from trainables.lineup import LinedUp
from trainables.loop import DivergedError, Normalise, Point, Training, start, train
from trainables.model_files import restore_training, save_training
from trainables.stream import Stream
from trainables.tasks.base import Split, Task

CHECKPOINT = "rung.pt"
REPORT = "rung.json"  # of one that was trained beside another
PEER_SEED = 500_000_003  # the peer of mutual learning starts from other weights than any candidate

logger = logging.getLogger(__name__)


class Start(Protocol):
    """Weights that candidates begin with, prepared by an evaluator."""

    def inherit(self, architecture: Architecture, model: nn.Module) -> None:
        """Give the fresh model of this architecture its weights."""


@dataclass(frozen=True)
class Shared:
    """What every trial reads and none changes: one copy a node, in the object store.

    Args:
        bank: training data and the teachers' answers.
        validation: scored after every epoch.
        task: loss and metric.
        space: builds the candidates.
        mean: of the training images, a channel each, on the scale 0 to 1.
        std: their standard deviation.
        classes: number of classes.
        rungs: epochs at which a trial reports, ascending; the last is the full training.
        checkpoints: folder or URL that holds a folder for each unfinished candidate, see `Checkpoints`.
        threads: CPU threads a trial may use.
        device: where students train, `cpu` or `cuda`.
        channels_last: memory layout of the students' weights and activations.
        bfloat16: whether students compute in that format while they train.
        rung_s: seconds that one step may take, after which its worker is ended; None for no limit.
        pack: whether trainings of one architecture run as one: `always`, `never`, or where it is faster (`auto`).
        start: weights that candidates begin with; None for fresh ones.
        stream: the groups in which the classes come; None where all are there from the start.
    """

    bank: Bank
    validation: Split
    task: Task
    space: Space
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    rungs: tuple[int, ...]
    checkpoints: str
    threads: int = 1
    device: str = "cpu"
    channels_last: bool = False
    bfloat16: bool = False
    pack: str = "auto"
    rung_s: float | None = None
    start: Start | None = None
    stream: Stream | None = None


class InTraining(Protocol):
    """What a trial trains: one training, or one after another along a stream."""

    model: nn.Module
    train_s: float

    @property
    def curve(self) -> Sequence[Point]:
        """One point an epoch so far."""

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `state()`."""


def fresh_network(shared: Shared, candidate: Candidate, seed: int) -> nn.Module:
    """The candidate's network before training, on its device."""
    model = build_model(shared.space, candidate.architecture, shared.bank.shape, shared.classes, seed)
    if shared.start is not None:
        shared.start.inherit(candidate.architecture, model)
    model = model.to(shared.device)
    return to_channels_last(model) if shared.channels_last else model


def open_training(shared: Shared, candidate: Candidate, total_epochs: int) -> Training:
    """The candidate's training at epoch 0."""
    peer = fresh_network(shared, candidate, candidate.seed + PEER_SEED) if candidate.recipe.mutual else None
    return start(
        fresh_network(shared, candidate, candidate.seed),
        candidate.recipe,
        shared.bank,
        seed=candidate.seed,
        total_epochs=total_epochs,
        peer=peer,
        targets=shared.task.targets,
        bfloat16=shared.bfloat16,
    )


def taught_by_itself(shared: Shared, model: nn.Module) -> Shared:
    """The same with the trained student as the only teacher, for its next generation.

    Source: Furlanello 2018, Born-Again Neural Networks, section 3.1.
    """
    old = shared.bank
    bank = banks.build(
        Split(old.images, old.labels),
        [model.cpu()],
        Normalise(shared.mean, shared.std),
        augmentation=old.augmentation,
        views=old.views,
        seed=old.seed,
    )
    return replace(shared, bank=bank)


def read_report(checkpoints: Checkpoints, name: str) -> dict[str, Any] | None:
    """`curve` and `train_s` of a candidate that was trained beside another; None where there is no report."""
    try:
        report: dict[str, Any] = json.loads(checkpoints.fetch(name, REPORT).read_text())
    except (OSError, ValueError):
        return None
    return report


class Distill(LinedUp):
    """Trains a candidate from rung to rung; its checkpoint lies in the run folder, so any worker can go on.

    The configuration of a trial is `{"candidate": Candidate.to_json(), "reported": epochs, "mates": [candidate, …]}`.
    `reported` (default 0) is how far an earlier session's reports came: the first step goes to the rung after it.
    `mates` (default none) have the same architecture and stand at the same rung: the first step trains them beside the
    candidate where that is faster, and leaves the checkpoint of each at the next rung, from which its own trial, later,
    reports at once.

    A step returns `epoch`, `val_accuracy`, the whole `curve`, `train_s` so far, the step's own `save_s` (seconds in
    training loops and in saving) and `beside`, the accuracy of each mate at the rung by its name; a candidate that
    cannot be trained returns `failure` (the reason) and ends, without costing the actor.
    """

    def setup(self, config: dict[str, Any], shared: Shared) -> None:
        """Called once an actor: keeps the shared data, then prepares the first candidate."""
        torch.set_num_threads(shared.threads)
        self.shared, self.checkpoints = shared, Checkpoints(shared.checkpoints)
        self.normalise = Normalise(shared.mean, shared.std)
        self.pays: dict[tuple[Architecture, int], bool] = {}  # whether one with so many mates trains faster as one
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare the next candidate in the same actor; a fresh actor would cost seconds."""
        self.candidate = Candidate.from_json(new_config["candidate"])
        self.mates = [Candidate.from_json(mate) for mate in new_config.get("mates", ())]
        self.training: InTraining | None = None
        self.kept = 0  # epoch of the checkpoint that lies there
        self.rung = sum(rung <= new_config.get("reported", 0) for rung in self.shared.rungs)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung."""
        until = self.shared.rungs[self.rung]
        self.rung += 1
        self.save_s, self.beside = 0.0, dict[str, float]()
        if self.training is None and (known := self._trained_beside(until)) is not None:
            self.mates = []
            return known
        try:
            if self.training is None:
                self.training = self._open()
                self.kept = self.training.epoch
            with slot.training(), self._limited(), notice() as self.told_to_go:
                if self.mates and isinstance(self.training, Training):
                    self._train_beside(self.training, until)
                    self._save_if_over()
                curve = self._train(until)
        except DivergedError as error:
            return {"failure": str(error), "done": True}
        except Exception as error:  # one candidate's fault must not end the search
            return {"failure": f"{type(error).__name__}: {error}", "done": True}
        # A training taken up from a later rung reports the earlier rungs again, each with its own part.
        curve = curve[:until]
        last = until == self.shared.rungs[-1]
        if not last and self.training.epoch == until != self.kept:
            self._keep()
        return {
            "epoch": until,
            "val_accuracy": curve[-1]["val_accuracy"],
            "curve": curve,
            "train_s": self.training.train_s,
            "save_s": self.save_s,
            "done": last,
            **({"beside": self.beside} if self.beside else {}),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save where Ray Tune asks (when it pauses a trial)."""
        if self.training is not None:
            save_training(Path(checkpoint_dir) / CHECKPOINT, self.training)

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from a checkpoint that Ray Tune kept."""
        self.training = self._open(Path(checkpoint))
        self.rung = sum(rung <= self.training.epoch for rung in self.shared.rungs)

    def _train(self, until: int) -> Sequence[Point]:
        shared, training = self.shared, self.training
        assert isinstance(training, Training)
        while training.epoch < until:
            train(training, shared.bank, shared.validation, shared.task, self.normalise, training.epoch + 1)
            self._save_if_over()
        return training.curve

    def _limited(self) -> contextlib.AbstractContextManager[None]:
        limit_s = self.shared.rung_s and self.shared.rung_s * (1 + len(self.mates))
        return time_limit(limit_s, self.checkpoints, self.candidate.id)

    def _save_if_over(self) -> None:
        """Where the machine is taken away, or the search ends: save what is reached; another goes on from here."""
        told = self.told_to_go()
        if told or stopping(self._folder(self.candidate).parent):
            self._keep()
        if told:
            leave(self.checkpoints, self.candidate.id)

    def _train_beside(self, own: Training, until: int) -> None:
        """The first step of a candidate with mates: all of them as one, unless that is slower or cannot be."""
        shared, mates, self.mates = self.shared, self.mates, []
        mates = [mate for mate in mates if packed.shares_steps(mate.recipe)]
        if not mates or not packed.shares_steps(self.candidate.recipe):
            return
        what = (self.candidate.architecture, len(mates))
        beside: list[tuple[Candidate, Training]] = []
        failed: dict[int, DivergedError] = {}
        try:
            if what not in self.pays:
                self.pays[what] = packed.wanted(shared.pack, own, 1 + len(mates), shared.bank)
            if not self.pays[what]:
                return
            for mate in mates:
                training = open_training(shared, mate, shared.rungs[-1])
                restore_training(self.checkpoints.fetch(mate.id, CHECKPOINT), training)
                if training.epoch == own.epoch < until:
                    beside.append((mate, training))
            if not beside:
                return
            trainings = [own, *(training for _, training in beside)]
            failed = packed.train_packed(trainings, shared.bank, shared.validation, shared.task, self.normalise, until)
        except packed.UnpackableError as error:
            logger.info("%s and its mates train one by one: %s", self.candidate.id, error)
            self.pays[what] = False
            return
        except Exception as error:  # a mate's fault, or too little memory for all: each has its own trial
            logger.warning("%s and its mates train one by one: %s", self.candidate.id, first_line(error))
            self.training = self._open()  # it may stand within an epoch
            return
        for place, (mate, training) in enumerate(beside, start=1):
            if place not in failed:
                self._save(mate, training)
                self.beside[mate.id] = training.curve[-1]["val_accuracy"]
                with contextlib.suppress(OSError):  # then its own trial trains it
                    report = {"curve": training.curve, "train_s": training.train_s}
                    replace_text(self._folder(mate) / REPORT, json.dumps(report))
                    self.checkpoints.publish(mate.id, REPORT)
        if 0 in failed:
            raise failed[0]

    def _trained_beside(self, until: int) -> dict[str, Any] | None:
        """What a step would return, where another's worker trained this candidate to the rung: no network is made."""
        known = read_report(self.checkpoints, self.candidate.id)
        if known is None or len(known["curve"]) != until:
            return None
        last = until == self.shared.rungs[-1]
        return {"epoch": until, "val_accuracy": known["curve"][-1]["val_accuracy"], "save_s": 0.0, "done": last} | known

    def _keep(self) -> None:
        assert self.training is not None
        self._save(self.candidate, self.training)

    def _save(self, candidate: Candidate, training: InTraining) -> None:
        begin = time.perf_counter()
        try:
            save_training(self._folder(candidate) / CHECKPOINT, training)
            self.checkpoints.publish(candidate.id, CHECKPOINT)
        except OSError as error:  # a full disk costs the way back to this rung, not the training itself
            logger.warning("%s: no checkpoint after epoch %d (%s)", candidate.id, training.epoch, error)
        self.save_s += time.perf_counter() - begin

    def _folder(self, candidate: Candidate) -> Path:
        return self.checkpoints.folder(candidate.id)

    def _checkpoint(self, folder: Path | None) -> Path:
        return folder / CHECKPOINT if folder else self.checkpoints.fetch(self.candidate.id, CHECKPOINT)

    def _open(self, folder: Path | None = None) -> InTraining:
        training = open_training(self.shared, self.candidate, self.shared.rungs[-1])
        restore_training(self._checkpoint(folder), training)
        return training
