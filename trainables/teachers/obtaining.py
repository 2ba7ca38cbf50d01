"""How is a teacher obtained: from the cache, from its files, or trained now?"""

import hashlib
import inspect
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from search_spaces import KdnasError, Shape, first_line, tap_shapes
from trainables import bank as banks
from trainables.alignment import Aligned, Alignment, Rescaled, align, check_whole
from trainables.loop import Normalise, evaluate
from trainables.model_files import load_student
from trainables.opaque import opaque_part
from trainables.tasks import TASKS
from trainables.tasks.base import Data, Targets, Task
from trainables.teachers.base import Known, KnownTeacher, Say, Teacher, read_teacher, save_teacher, weights_digest
from trainables.teachers.classifier import ClassifierTeacher, CropsTask
from trainables.teachers.paired import PairedTeacher, as_teacher, pair
from trainables.teachers.trained import AssistantTeacher, TrainedTeacher, its_teacher, network, train_teacher

TeacherSettings = TrainedTeacher | ClassifierTeacher | PairedTeacher | KnownTeacher
PROBED = 64  # validation images whose answers take part in a digest


def build_teacher(settings: TeacherSettings, data: Data, targets: Targets = "classes") -> nn.Module:
    """The teacher's network as far as it is known before any training: for sizes, classes and taps.

    It answers for the task's classes; what of its own classes that are is in its `alignment` where it is an `Aligned`.
    Where targets are labels or values it answers for all of them, values standardised as the data are.

    Raises:
        KdnasError: it cannot be built, or what it answers does not fit the task.
    """
    _check_kind(settings, targets)
    if isinstance(settings, ClassifierTeacher):
        return settings.untrained(data)
    if isinstance(settings, TrainedTeacher):
        return network(settings, data.shape, len(data.classes))
    if isinstance(settings, PairedTeacher):
        with _inside("task", "task"):
            theirs = settings.read()
        with _inside("teacher", "teachers"):
            model = build_teacher(settings.teacher, theirs)
        return pair(settings, model, theirs, data, targets)
    return _matched(*_read(settings, data, targets), data, targets)


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
            other = "name other taps, give a module's submodules names in teachers.0.taps, or set"
            raise KdnasError(
                "the teacher has no such tap",
                field=field,
                value=tap,
                remedy=f"its taps: {', '.join(known)}; {other} recipes.hints to [false]"
                if opaque_part(model) is None
                else "it answers with logits alone: set recipes.hints to [false], and choose none that reads features",
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
        data: the task's data; the test split is not read, but for the names of its samples.
        task: loss and metric.
        seed: of its weights and sample order.
        cache: folder for trained teachers.
        say: told in one line what is being done, and how its classes are matched to the task's.
        previous: the teacher listed before it; an assistant learns from it, others do without.

    Raises:
        KdnasError: it cannot be read or built, does not fit the task, or its training diverges.
    """
    _check_kind(settings, task.targets)
    if isinstance(settings, ClassifierTeacher):
        return _dense_teacher(settings, data, seed, cache, say)
    if isinstance(settings, PairedTeacher):
        with _inside("task", "task"):
            theirs = settings.read()
        with _inside("teacher", "teachers"):
            inner = obtain(settings.teacher, theirs, settings.task, seed=settings.seed, cache=cache, say=say)
        teacher, remark = as_teacher(settings, inner, theirs, data)
        say(f"Teacher {teacher.name}: {remark}.")
        return teacher
    if not isinstance(settings, TrainedTeacher):
        return _known_teacher(settings, data, task, say)
    parts = [banks.FORMAT, asdict(settings), data.digest(), vars(task.augmentation), seed, *_own_code(task)]
    if isinstance(settings, AssistantTeacher):
        parts.append(its_teacher(previous).digest)
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


@contextmanager
def _inside(option: str, section: str) -> Iterator[None]:
    """Errors about an option of a paired teacher that is a `section` of its own name their keys in full."""
    try:
        yield
    except KdnasError as error:
        key = error.field.removeprefix(section).lstrip(".")
        field = ".".join(filter(None, ("teachers", option, key)))
        raise KdnasError(error.problem, field=field, value=error.value, remedy=error.remedy) from error


def _check_kind(settings: TeacherSettings, targets: Targets) -> None:
    """Refuses a teacher of boxes for what is none, and any other for boxes."""
    dense = isinstance(settings, ClassifierTeacher)
    if dense != (targets == "boxes"):
        raise KdnasError(
            f"the targets of this task are {targets}",
            field="teachers.name",
            value="classifier" if dense else type(settings).__name__,
            remedy="it teaches detectors alone: choose another" if dense else "choose teachers=[classifier]",
        )


def _dense_teacher(settings: ClassifierTeacher, data: Data, seed: int, cache: Path, say: Say) -> Teacher:
    if settings.path is not None:
        inner, meta = load_student(Path(settings.path))
        model, accuracy = settings.adapted(inner, meta, data), math.nan
        if remark := model.alignment.remark():
            say(f"Teacher {settings.path}: {remark}.")
    else:
        task = CropsTask(settings, data)
        crops = task.load(seed)
        say(f"Teacher: a classifier of {len(crops.classes)} classes, on {len(crops.train):,} crops of training images")
        known = obtain(settings.trained(), crops, task, seed=seed, cache=cache, say=say)
        model, accuracy = settings.adapted(known.model, known.meta, data), known.val_accuracy
        say(f"Teacher: validation accuracy {accuracy:.4f} on {len(crops.validation):,} crops")
    parts = [weights_digest(model), model.alignment.sources]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return Teacher("classifier", model, digest, accuracy)


def _known_teacher(settings: KnownTeacher, data: Data, task: Task, say: Say) -> Teacher:
    known, alignment = _read(settings, data, task.targets)
    model, normalise = _matched(known, alignment, data, task.targets), Normalise(data.mean, data.std)
    remarks = [alignment.remark(task.targets)]
    if task.targets == "values" and not known.target_std:
        remarks.append("its answers are read in the values' own units")
    if any(remarks):
        say(f"Teacher {known.name}: {'; '.join(filter(None, remarks))}.")
    _, accuracy = evaluate(model, data.validation, task, normalise)
    if known.meta and model is known.model:
        return Teacher(known.name, model, weights_digest(model), accuracy, meta=known.meta)
    # A network of ours is kept with its weights, not with how its classes are matched.
    digest = _answers_digest(known, alignment, data, normalise)
    return Teacher(known.name, model, digest, accuracy)


def _read(settings: KnownTeacher, data: Data, targets: Targets) -> tuple[Known, Alignment]:
    known = settings.read(data)
    if known.targets not in (None, targets):
        raise KdnasError(
            f"it answers for {known.targets}, the task's targets are {targets}",
            field="teachers",
            value=known.name,
            remedy=f"use a teacher for {targets}; stored answers as `logits`",
        )
    alignment = align(known.classes, known.width, data.classes, settings.mapping)
    check_whole(alignment, data.classes, targets)
    return replace(known, model=known.model.eval()), alignment


def _matched(known: Known, alignment: Alignment, data: Data, targets: Targets) -> nn.Module:
    model = known.model if alignment.straight else Aligned(known.model, alignment).eval()
    if targets != "values":
        return model
    order, count = [source[0] for source in alignment.sources], len(data.classes)
    own = [[part[index] for index in order] for part in (known.target_mean, known.target_std) if part]
    mean, std = own or ([0.0] * count, [1.0] * count)
    wanted = (list(data.target_mean), list(data.target_std)) if data.target_std else ([0.0] * count, [1.0] * count)
    return model if (mean, std) == wanted else Rescaled(model, (mean, std), wanted).eval()


def _answers_digest(known: Known, alignment: Alignment, data: Data, normalise: Normalise) -> str:
    """Names what the teacher says: its weights or file, its classes, its taps, its units, and what its code answers."""
    images = torch.from_numpy(np.array(data.validation.images[:PROBED]))
    with torch.inference_mode():
        answers = known.model(normalise(images)).half().numpy().tobytes()
    parts: list[Any] = [weights_digest(known.model), known.content, alignment.sources]
    parts.append(hashlib.sha256(answers).hexdigest())
    if data.target_std or known.target_std:
        parts.append([known.target_mean, known.target_std, data.target_mean, data.target_std])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _own_code(task: Task) -> list[Any]:
    """What else decides what a user's own task teaches: its options and the file with its loss; nothing for ours."""
    if type(task) in TASKS.values():
        return []
    try:
        code = hashlib.sha256(Path(inspect.getfile(type(task))).read_bytes()).hexdigest()
    except (OSError, TypeError):  # made in an interactive session
        code = ""
    return [type(task).__qualname__, repr(task), code]
