"""Where does a teacher come from: trained here, read from a folder, or a user's own module?"""

import hashlib
import importlib
import inspect
import json
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from search_spaces import (
    SPACES,
    Architecture,
    ForeignModel,
    KdnasError,
    Registry,
    ResNetSpace,
    Shape,
    first_line,
    tap_shapes,
)
from search_spaces.resnet import BLOCKS, build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.files import whole_folder
from trainables.loop import DivergedError, Normalise, Point, Training, evaluate, start, train
from trainables.model_files import load_student, more_meta, restore_training, save_student, save_training
from trainables.recipe import Recipe, Temperature
from trainables.tasks import TASKS
from trainables.tasks.base import Data, Task

Say = Callable[[str], None]
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Teacher:
    """A trained model that answers for a task.

    Args:
        name: for people.
        model: answers with logits `[batch, classes]`, in evaluation mode.
        digest: hash of its weights; for a user's own module also of its taps and answers.
        val_accuracy: on the validation split, 0 to 1.
        curve: of its training; empty when it was trained elsewhere.
        meta: what `load_student` needs to rebuild it; empty for a user's own module.
    """

    name: str
    model: nn.Module
    digest: str
    val_accuracy: float
    curve: list[Point] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


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


@dataclass(frozen=True)
class FolderTeacher:
    """A teacher saved by `kdnas teacher train`: a folder with model.json and weights.safetensors.

    Args:
        path: the folder.
    """

    path: Path


@dataclass(frozen=True)
class ModuleTeacher:
    """A user's own module, named by import path; this runs the user's code.

    Args:
        factory: `package.module:function`; called without arguments, returns an `nn.Module` that answers
            normalised images `[batch, C, H, W]` with logits `[batch, classes]`.
        weights: state dictionary to load into it (.safetensors, or .pt read with `weights_only=True`).
        taps: tap name to the dotted name of the submodule whose output it is.
    """

    factory: str
    weights: Path | None = None
    taps: Mapping[str, str] = field(default_factory=dict)


TEACHERS: Registry[type] = Registry(
    "teacher",
    ("trained", TrainedTeacher),
    ("assistant", AssistantTeacher),
    ("folder", FolderTeacher),
    ("module", ModuleTeacher),
)
TeacherSettings = TrainedTeacher | FolderTeacher | ModuleTeacher


def check_order(settings: Sequence[TeacherSettings]) -> None:
    """Raises if an assistant comes first, where there is no teacher that it could learn from."""
    if isinstance(settings[0], AssistantTeacher):
        raise _nobody_before()


def build_teacher(settings: TeacherSettings, shape: Shape, classes: int) -> nn.Module:
    """The teacher's network as far as it is known before any training: for sizes, classes and taps.

    Raises:
        KdnasError: it cannot be built, or it does not answer for `classes` classes.
    """
    if isinstance(settings, TrainedTeacher):
        try:
            return build_resnet(settings.architecture(), shape, classes)
        except (RuntimeError, OverflowError, TypeError) as error:  # torch, when numbers or memory run out
            raise KdnasError(
                f"a network of this size cannot be built ({first_line(error)})",
                field="teachers.widths",
                value=settings.widths,
                remedy="choose smaller widths or fewer blocks",
            ) from error
    if isinstance(settings, FolderTeacher):
        model, meta = load_student(Path(settings.path))
        if tuple(meta["shape"]) != tuple(shape):
            raise KdnasError(
                f"the teacher was trained on inputs {tuple(meta['shape'])}, the task's are {tuple(shape)}",
                field="teachers.path",
                value=str(settings.path),
                remedy="train a teacher on this task: `kdnas teacher train`",
            )
    else:
        model = _own_module(settings)
    _check_classes(model, settings, shape, classes)
    return model


def check_taps(
    model: nn.Module, shape: Shape, needed: Sequence[str], field: str = "recipes.taps"
) -> dict[str, tuple[int, ...]]:
    """Shape of each needed tap of the teacher, `(C, H, W)` or `(C,)`; `field` is what asks for them.

    Raises:
        KdnasError: the teacher has no such tap.
    """
    known = getattr(model, "taps", ())
    for tap in needed:
        if tap not in known:
            raise KdnasError(
                "the teacher has no such tap",
                field=field,
                value=tap,
                remedy=f"its taps: {', '.join(known) or 'none'}; name other taps, give a module's submodules names in "
                "teachers.0.taps, or set recipes.hints to [false]",
            )
    return tap_shapes(model, shape, needed) if needed else {}


def obtain(
    settings: TeacherSettings,
    data: Data,
    task: Task,
    *,
    seed: int,
    cache: Path,
    say: Say,
    previous: Teacher | None = None,
) -> Teacher:
    """The trained teacher: from the cache, from its files, or trained now.

    Args:
        settings: which teacher.
        data: the task's data; the test split is not read.
        task: loss and metric.
        seed: of its weights and sample order.
        cache: folder for trained teachers.
        say: told in one line what is being done.
        previous: the teacher listed before it; an assistant learns from it, others do without.

    Raises:
        KdnasError: it cannot be read or built, does not fit the task, or its training diverges.
    """
    normalise = Normalise(data.mean, data.std)
    if not isinstance(settings, TrainedTeacher):
        model = build_teacher(settings, data.shape, len(data.classes)).eval()
        loss, accuracy = evaluate(model, data.validation, task, normalise)
        meta = load_student(Path(settings.path))[1] if isinstance(settings, FolderTeacher) else {}
        name = str(settings.path) if isinstance(settings, FolderTeacher) else settings.factory
        return Teacher(name, model, _answers_digest(settings, model, loss), accuracy, meta=meta)
    parts = [banks.FORMAT, asdict(settings), data.digest(), vars(task.augmentation), seed, *_own_code(task)]
    if isinstance(settings, AssistantTeacher):
        parts.append(_its_teacher(previous).digest)
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    folder = cache / "teachers" / key
    if (folder / "teacher.json").exists():
        try:
            return read_teacher(folder)
        except KdnasError as error:
            say(f"The cached teacher cannot be used ({error.problem}); training it again.")
    checkpoint = cache / "teachers" / f"{key}.pt"
    teacher = train_teacher(settings, data, task, seed=seed, say=say, checkpoint=checkpoint, previous=previous)
    try:
        save_teacher(folder, teacher)
        checkpoint.unlink(missing_ok=True)
    except OSError as error:
        say(f"The teacher cannot be kept in the cache ({first_line(error)}); the next search trains it again.")
    return teacher


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
        say: told the validation accuracy after every epoch; what it raises ends the training.
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
        [_its_teacher(previous).model] if assists else [],
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
    return Teacher(TEACHERS.name_of(settings), model.eval(), _weights_digest(model), accuracy, training.curve, meta)


def save_teacher(folder: Path, teacher: Teacher) -> None:
    """Write a teacher of one of our spaces to `folder`; `FolderTeacher(folder)` reads it."""
    facts = {
        "name": teacher.name,
        "digest": teacher.digest,
        "val_accuracy": teacher.val_accuracy,
        "curve": teacher.curve,
    }
    with whole_folder(folder) as draft:
        save_student(draft, teacher.model, teacher.meta)
        (draft / "teacher.json").write_text(json.dumps(facts) + "\n")


def read_teacher(folder: Path) -> Teacher:
    """Teacher that `save_teacher` wrote.

    Raises:
        KdnasError: the files are missing or altered.
    """
    model, meta = load_student(folder)
    try:
        facts = json.loads((folder / "teacher.json").read_text())
        if facts["digest"] != _weights_digest(model):
            raise ValueError("its weights were altered")
        return Teacher(facts["name"], model, facts["digest"], facts["val_accuracy"], facts["curve"], meta)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KdnasError(
            f"no usable teacher here ({first_line(error)})",
            field="path",
            value=str(folder),
            remedy="delete the folder: the teacher is trained again",
        ) from error


def _own_code(task: Task) -> list[Any]:
    """What else decides what a user's own task teaches: its options and the file with its loss; nothing for ours."""
    if type(task) in TASKS.values():
        return []
    try:
        code = hashlib.sha256(Path(inspect.getfile(type(task))).read_bytes()).hexdigest()
    except (OSError, TypeError):  # made in an interactive session
        code = ""
    return [type(task).__qualname__, repr(task), code]


def _its_teacher(previous: Teacher | None) -> Teacher:
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


def _weights_digest(model: nn.Module) -> str:
    seen = hashlib.sha256()
    for name, value in model.state_dict().items():
        seen.update(name.encode())
        # As bytes: numpy has no bfloat16.
        seen.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()[:16]


def _answers_digest(settings: FolderTeacher | ModuleTeacher, model: nn.Module, loss: float) -> str:
    """Names what the teacher says: its weights and, for a user's module, its taps and the loss its code gives."""
    weights = _weights_digest(model)
    if isinstance(settings, FolderTeacher):
        return weights
    parts = [weights, dict(settings.taps), loss]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _check_classes(model: nn.Module, settings: TeacherSettings, shape: Shape, classes: int) -> None:
    model.eval()
    for batch in (2, 1):  # the last batch of a split may hold a single image
        _check_answer(model, settings, (batch, *shape), (batch, classes))


def _check_answer(model: nn.Module, settings: TeacherSettings, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    try:
        with torch.no_grad():
            answer = model(torch.zeros(shape))
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise KdnasError(
            f"the teacher does not take inputs of shape {shape} ({first_line(error)})",
            field="teachers",
            value=TEACHERS.name_of(settings),
            remedy="use a teacher for this task's images, or set task.size",
        ) from error
    if not isinstance(answer, Tensor) or tuple(answer.shape) != wanted:
        found = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise KdnasError(
            f"the teacher answers inputs of shape {shape} with {found}, the task needs logits of shape {wanted}",
            field="teachers",
            value=TEACHERS.name_of(settings),
            remedy="use a teacher that was trained on this task's classes and returns logits",
        )


def _own_module(settings: ModuleTeacher) -> nn.Module:
    name, _, attribute = settings.factory.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        model = getattr(importlib.import_module(name), attribute)()
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise KdnasError(
            f"cannot be imported and called ({type(error).__name__}: {first_line(error)})",
            field="teachers.factory",
            value=settings.factory,
            remedy="name a function without arguments as package.module:function, importable from here",
        ) from error
    if not isinstance(model, nn.Module):
        raise KdnasError(
            f"it returned a {type(model).__name__}, not an nn.Module",
            field="teachers.factory",
            value=settings.factory,
            remedy="return the module itself",
        )
    if settings.weights is not None:
        _load_weights(model, Path(settings.weights))
    if hasattr(model, "forward_taps") and not settings.taps:
        return model
    return ForeignModel(model, settings.taps)


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix not in WEIGHTS_SUFFIXES:
            raise ValueError(f"known suffixes are {', '.join(WEIGHTS_SUFFIXES)}")
        safe = path.suffix == ".safetensors"
        weights = safetensors.torch.load_file(path) if safe else torch.load(path, weights_only=True)
        model.load_state_dict(weights)
    except (
        OSError,
        ValueError,
        RuntimeError,
        AttributeError,
        TypeError,
        KeyError,
        EOFError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        raise KdnasError(
            f"the weights cannot be loaded ({first_line(error)})",
            field="teachers.weights",
            value=str(path),
            remedy="give a state dictionary that fits the module, as .safetensors or .pt",
        ) from error
