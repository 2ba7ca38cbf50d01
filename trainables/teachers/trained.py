"""How is a teacher trained here, on the labels or with another teacher's help?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search_spaces import SPACES, Architecture, KdnasError, ResNetSpace, Shape, first_line
from search_spaces.resnet import BLOCKS, build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.loop import DivergedError, Normalise, Training, start, train
from trainables.model_files import more_meta, restore_training, save_training
from trainables.recipe import Recipe, Temperature
from trainables.tasks.base import Data, Task
from trainables.teachers.base import Say, Teacher, weights_digest


@dataclass(frozen=True)
class TrainedTeacher:
    """A residual network, trained on the task's labels and kept in the cache.

    Source: He 2016, Deep Residual Learning for Image Recognition; Cho and Hariharan 2019, On the Efficacy of Knowledge
    Distillation (`stop_epoch`: teachers stopped early teach small students better).

    Args:
        stem: channels of the first convolution.
        widths: channels of each stage.
        depths: blocks of each stage.
        block: `basic`, `bottleneck`, `bottleneck4` (as in ResNet-50 and larger) or `separable`.
        epochs: length of its training.
        learning_rate: peak learning rate of SGD with Nesterov momentum.
        weight_decay: L2 penalty.
        batch_size: samples a step.
        views: augmented views of the data it sees in turn.
        stop_epoch: epoch after which it ends, its schedule being as long as `epochs`; null for the whole training.
    """

    stem: int = 32
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (2, 2, 2)
    block: str = "basic"
    epochs: int = 20
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    batch_size: int = 64
    views: int = 8
    stop_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise KdnasError(
                "unknown block", field="teachers.block", value=self.block, remedy=f"known: {', '.join(BLOCKS)}"
            )
        for name in ("stem", "widths", "depths", "epochs", "views"):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if min(values, default=1) < 1 or max(values, default=1) > 100_000:
                remedy = "choose whole numbers in this range"
                raise KdnasError(
                    "values lie between 1 and 100,000", field=f"teachers.{name}", value=value, remedy=remedy
                )
        if not 1 <= self.last_epoch <= self.epochs:
            raise KdnasError(
                f"the training has the epochs 1 to {self.epochs}",
                field="teachers.stop_epoch",
                value=self.stop_epoch,
                remedy=f"choose 1 to {self.epochs}, or null for the whole training",
            )
        try:
            self.architecture()
            self.recipe()
        except KdnasError as error:  # the user wrote `teachers.learning_rate`, not `recipe.learning_rate`
            field = f"teachers.{error.field.rpartition('.')[2]}"
            raise KdnasError(error.problem, field=field, value=error.value, remedy=error.remedy) from error

    @property
    def last_epoch(self) -> int:
        """Epoch after which its training ends."""
        return self.epochs if self.stop_epoch is None else self.stop_epoch

    def architecture(self) -> Architecture:
        """Its network, of the same family as the space `resnet`."""
        return resnet_architecture(self.stem, self.widths, self.depths, block=self.block)

    def recipe(self) -> Recipe:
        """How the teacher itself is trained: on the labels."""
        return Recipe(
            alpha=0.0,
            terms=(),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class AssistantTeacher(TrainedTeacher):
    """A smaller residual network that learned from the teacher listed just before it, and bridges the gap to students.

    By default a tenth of the default teacher's parameters: in the middle, on a logarithmic scale, between it and a
    student of a hundredth.

    Source: Mirzadeh 2020, Improved Knowledge Distillation via Teacher Assistant (TAKD).

    Args:
        stem: channels of the first convolution.
        widths: channels of each stage.
        depths: blocks of each stage.
        block: `basic`, `bottleneck`, `bottleneck4` (as in ResNet-50 and larger) or `separable`.
        epochs: length of its training.
        learning_rate: peak learning rate of SGD with Nesterov momentum.
        weight_decay: L2 penalty.
        batch_size: samples a step.
        views: augmented views of the data it sees in turn.
        stop_epoch: epoch after which it ends, its schedule being as long as `epochs`; null for the whole training.
        alpha: weight of its own distillation, 0 (labels only) to 1 (its teacher only).
        temperature: of its own distillation's soft targets.
    """

    stem: int = 16
    widths: tuple[int, ...] = (16, 32, 64)
    depths: tuple[int, ...] = (1, 1, 1)
    alpha: float = 0.7
    temperature: float = 3.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1000:
            raise KdnasError(
                "not possible",
                field="teachers.temperature",
                value=self.temperature,
                remedy="stay between 0.01 and 1000",
            )
        super().__post_init__()

    def recipe(self) -> Recipe:
        """How the assistant itself is trained: on the labels and its teacher's logits."""
        temperature = Temperature(start=self.temperature)
        return replace(super().recipe(), alpha=self.alpha, temperature=temperature, terms=Recipe().terms)


def check_order(settings: Sequence[Any]) -> None:
    """Raises if an assistant comes first, where there is no teacher that it could learn from."""
    if isinstance(settings[0], AssistantTeacher):
        raise _nobody_before()


def network(settings: TrainedTeacher, shape: Shape, classes: int) -> nn.Module:
    """The network before any training.

    Raises:
        KdnasError: it cannot be built.
    """
    try:
        return build_resnet(settings.architecture(), shape, classes)
    except (RuntimeError, OverflowError, TypeError) as error:  # torch, when numbers or memory run out
        raise KdnasError(
            f"a network of this size cannot be built ({first_line(error)})",
            field="teachers.widths",
            value=settings.widths,
            remedy="choose smaller widths or fewer blocks",
        ) from error


def train_teacher(
    settings: TrainedTeacher,
    data: Data,
    task: Task,
    *,
    seed: int,
    say: Say,
    checkpoint: Path | None = None,
    previous: Teacher | None = None,
) -> Teacher:
    """Teacher trained on the task's labels, an assistant on its teacher's answers too.

    Args:
        settings: network and length of the training.
        data: the task's data; the test split is not read.
        task: loss and metric.
        seed: of its weights and sample order.
        say: told the validation metric after every epoch; what it raises ends the training.
        checkpoint: file that is written after every epoch and that an interrupted training goes on from.
        previous: the teacher that an assistant learns from.

    Raises:
        KdnasError: the training diverges, or an assistant has no teacher.
    """
    normalise = Normalise(data.mean, data.std)
    architecture = settings.architecture()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_resnet(architecture, data.shape, len(data.classes))
    assists = isinstance(settings, AssistantTeacher)
    whom = "assistant" if assists else "teacher"
    bank = banks.build(
        data.train,
        [its_teacher(previous).model] if assists else [],
        normalise,
        augmentation=task.augmentation,
        views=settings.views,
        seed=seed,
    )
    training = start(model, settings.recipe(), bank, seed=seed, total_epochs=settings.epochs, targets=task.targets)
    if checkpoint is not None and restore_training(checkpoint, training):
        say(f"Training the {whom}: going on after epoch {training.epoch}")
    last = settings.last_epoch
    for epoch in range(training.epoch + 1, last + 1):
        try:
            point = train(training, bank, data.validation, task, normalise, epoch)[-1]
        except DivergedError as error:
            raise KdnasError(
                f"the {whom}'s training diverged ({error})",
                field="teachers.learning_rate",
                value=settings.learning_rate,
                remedy="choose a smaller learning rate",
            ) from error
        if checkpoint is not None and epoch < last:
            checkpoint = _kept(checkpoint, training, say)
        say(f"Training the {whom}: epoch {epoch}/{last}, validation {task.metric_name} {point['val_accuracy']:.4f}")
    meta = {
        "space": {"name": SPACES.name_of(ResNetSpace), "stages": len(settings.widths)},
        "architecture": architecture.to_json(),
        "shape": list(data.shape),
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        **more_meta(task.targets, data),
    }
    accuracy = training.curve[-1]["val_accuracy"]
    name = "assistant" if assists else "trained"
    return Teacher(name, model.eval(), weights_digest(model), accuracy, training.curve, meta)


def its_teacher(previous: Teacher | None) -> Teacher:
    """The teacher that an assistant learns from.

    Raises:
        KdnasError: there is none.
    """
    if previous is None:
        raise _nobody_before()
    return previous


def _nobody_before() -> KdnasError:
    return KdnasError(
        "an assistant learns from the teacher listed before it, and there is none",
        field="teachers.0",
        value="assistant",
        remedy="list its teacher first, for example teachers=[trained, assistant]",
    )


def _kept(checkpoint: Path, training: Training, say: Say) -> Path | None:
    try:
        save_training(checkpoint, training)
    except OSError as error:
        say(f"The teacher's training cannot be kept ({first_line(error)}); interrupted, it begins again.")
        return None
    return checkpoint
