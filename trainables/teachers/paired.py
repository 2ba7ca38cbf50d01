"""A teacher of another task, images for speech say, that teaches by samples of the same class."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces import KdnasError
from trainables.alignment import align, listed
from trainables.loop import Normalise
from trainables.pairing import Answers, Paired
from trainables.tasks.base import Data, Targets, known
from trainables.teachers.base import Teacher
from trainables.teachers.trained import AssistantTeacher, TrainedTeacher

TRAINED = TrainedTeacher()


@dataclass(frozen=True)
class PairedTeacher:
    """A teacher of another task with classes of the same names: asked about a sample of its own of the same class.

    For every labelled training sample, and every view anew, a partner is drawn from the training split of the other
    task; what the teacher says of the partner, logits and features, is learned for the sample. Samples without label
    have no partner: they are left out of the training unless another teacher speaks of them.

    Source: Gupta 2016, Cross Modal Distillation for Supervision Transfer; Yun 2020, Regularizing Class-wise Predictions
    via Self-knowledge Distillation, section 2.1 (partners of the same class).

    Args:
        task: what the teacher learned, with options as under `task`, such as {name: images, path: mnist.parquet}.
        teacher: who learned it, with options as under `teachers`; `trained` trains it on that task and keeps it.
        answers: `partner` for the answer about the partner; `class_mean` for soft targets by class: the mean of the
            softened answers about all samples of the class. Features are the partner's in both.
        temperature: of the softened answers that are averaged; best the recipe's own, which it is exact for.
        seed: of the other task's splits, the teacher's training and the partners.
        mapping: class of the teacher to class of the task, where the names differ.
    """

    task: Any
    teacher: Any = TRAINED
    answers: Answers = "partner"
    temperature: float = 3.0
    seed: int = 0
    mapping: Mapping[str | int, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        targets = getattr(self.task, "targets", None)
        if targets != "classes":
            raise KdnasError(
                f"pairs are made by class, this task's targets are {targets}",
                field="teachers.task.targets",
                value=targets,
                remedy="choose a task whose samples have one class each",
            )
        if isinstance(self.teacher, (PairedTeacher, AssistantTeacher)):
            raise KdnasError(
                "a teacher that learned the other task by itself is needed",
                field="teachers.teacher",
                value=type(self.teacher).__name__,
                remedy="choose trained, folder, module, huggingface, onnx, callable or predictions",
            )
        if not 0 <= self.seed < 2**32:
            remedy = "choose a whole number from 0 to 2**32 - 1"
            raise KdnasError("not possible", field="teachers.seed", value=self.seed, remedy=remedy)
        if not 0.01 <= self.temperature <= 1000:
            remedy = "stay between 0.01 and 1000"
            raise KdnasError("not possible", field="teachers.temperature", value=self.temperature, remedy=remedy)

    def read(self) -> Data:
        """The other task's data."""
        return self.task.load(self.seed)


def pair(settings: PairedTeacher, model: Any, theirs: Data, data: Data, targets: Targets) -> Paired:
    """The other task's teacher as one of ours.

    Args:
        settings: how.
        model: answers normalised inputs of `theirs` with logits for its classes.
        theirs: the other task's data.
        data: ours.
        targets: of ours.

    Raises:
        KdnasError: our targets are no classes, or none of them is a class of the other task.
    """
    if targets != "classes":
        raise KdnasError(
            f"pairs are made by class, the task's targets are {targets}",
            field="teachers.name",
            value="paired",
            remedy="choose another teacher",
        )
    alignment = align(theirs.classes, len(theirs.classes), data.classes, settings.mapping)
    if not alignment.speaks:
        raise KdnasError(
            f"the other task has none of the task's classes ({listed(data.classes)}), so there are no pairs",
            field="teachers.mapping",
            value=dict(settings.mapping),
            remedy=f"map its classes ({listed(theirs.classes)}) to the task's: {{theirs: ours}}",
        )
    return Paired(
        model.eval(),
        alignment,
        theirs.train,
        Normalise(theirs.mean, theirs.std),
        seed=settings.seed,
        answers=settings.answers,
        temperature=settings.temperature,
    ).eval()


def as_teacher(settings: PairedTeacher, inner: Teacher, theirs: Data, data: Data) -> tuple[Teacher, str]:
    """The teacher that answers for our task, and what a user should know of it, in one line.

    Its accuracy is that on the other task's own validation split.
    """
    model = pair(settings, inner.model, theirs, data, "classes")
    labels = data.train.labels
    alone = int((model.partners(labels, 0)[known(labels)] < 0).sum())
    without = int((~known(labels)).sum())
    parts = [
        f"validation accuracy {inner.val_accuracy:.4f} on its own task",
        f"{len(labels) - alone - without:,} of {len(labels):,} training samples have a partner of their class",
        f"{without:,} have no label" if without else "",
        model.alignment.remark(),
    ]
    content = [inner.digest, theirs.digest(), model.alignment.sources, settings.seed, settings.answers]
    content += [settings.temperature] if settings.answers == "class_mean" else []
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    teacher = Teacher(f"paired, {inner.name}", model, digest, inner.val_accuracy)
    return teacher, "; ".join(filter(None, parts))
