"""How is a teacher obtained: from the cache, from its files, or trained now?"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from search_spaces import KdnasError, Shape, first_line, tap_shapes
from trainables import bank as banks
from trainables.alignment import Aligned, Alignment, align
from trainables.loop import Normalise, evaluate
from trainables.opaque import opaque_part
from trainables.tasks.base import Data, Task
from trainables.teachers.base import Known, KnownTeacher, Say, Teacher, read_teacher, save_teacher, weights_digest
from trainables.teachers.trained import AssistantTeacher, TrainedTeacher, its_teacher, network, train_teacher

TeacherSettings = TrainedTeacher | KnownTeacher
PROBED = 64  # validation images whose answers take part in a digest


def build_teacher(settings: TeacherSettings, data: Data) -> nn.Module:
    """The teacher's network as far as it is known before any training: for sizes, classes and taps.

    It answers for the task's classes; what of its own classes that are is in its `alignment` where it is an `Aligned`.

    Raises:
        KdnasError: it cannot be built, or what it answers does not fit the task.
    """
    if isinstance(settings, TrainedTeacher):
        return network(settings, data.shape, len(data.classes))
    return _matched(*_read(settings, data))


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
    if not isinstance(settings, TrainedTeacher):
        return _known_teacher(settings, data, task, say)
    parts = [banks.FORMAT, asdict(settings), data.digest(), vars(task.augmentation), seed]
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


def _known_teacher(settings: KnownTeacher, data: Data, task: Task, say: Say) -> Teacher:
    known, alignment = _read(settings, data)
    model, normalise = _matched(known, alignment), Normalise(data.mean, data.std)
    if alignment.remark():
        say(f"Teacher {known.name}: {alignment.remark()}.")
    _, accuracy = evaluate(model, data.validation, task, normalise)
    if known.meta and alignment.straight:
        return Teacher(known.name, model, weights_digest(model), accuracy, meta=known.meta)
    # A network of ours is kept with its weights, not with how its classes are matched.
    digest = _answers_digest(known, alignment, data, normalise)
    return Teacher(known.name, model, digest, accuracy)


def _read(settings: KnownTeacher, data: Data) -> tuple[Known, Alignment]:
    known = settings.read(data)
    return replace(known, model=known.model.eval()), align(known.classes, known.width, data.classes, settings.mapping)


def _matched(known: Known, alignment: Alignment) -> nn.Module:
    return known.model if alignment.straight else Aligned(known.model, alignment).eval()


def _answers_digest(known: Known, alignment: Alignment, data: Data, normalise: Normalise) -> str:
    """Names what the teacher says: its weights or file, its classes, its taps, and what its code answers."""
    images = torch.from_numpy(np.array(data.validation.images[:PROBED]))
    with torch.inference_mode():
        answers = known.model(normalise(images)).half().numpy().tobytes()
    parts = [weights_digest(known.model), known.content, alignment.sources, hashlib.sha256(answers).hexdigest()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
