"""Which of a teacher's logits speak of which class of the task?

A teacher may know the task's classes in another order, some of them, more than them, or none. Of a class that it does
not know it says nothing (`UNKNOWN`), and where its answer is learned from it agrees there with the student. Labels and
values may come in another order and among others too, but all of them must be known, each by itself.

Shapes: T teachers, B samples, K classes of the task, J classes of the teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from search_spaces import KdnasError
from trainables.tasks.base import Targets

UNKNOWN = -65_000.0  # the least logit that a bank keeps, and no network's answer: the teacher does not know this class
NO_ANSWER = -64_000.0  # float16 keeps `UNKNOWN` to the nearest 32
SHOWN = 5  # names listed in a message


@dataclass(frozen=True)
class Alignment:
    """Where the task's classes lie among a teacher's.

    Args:
        sources: for each class of the task the positions of the teacher's classes that mean it; none for a class that
            the teacher does not know.
        untaught: the task's classes that the teacher does not know.
        unused: the teacher's classes that the task does not have.
        named: whether the teacher's class names are known; else its logits are in the task's order.
    """

    sources: tuple[tuple[int, ...], ...]
    untaught: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    named: bool = True

    @property
    def straight(self) -> bool:
        """Whether the teacher's logits are those of the task as they stand."""
        return not self.unused and all(source == (index,) for index, source in enumerate(self.sources))

    @property
    def speaks(self) -> bool:
        """Whether the teacher knows any class of the task; else its features alone can be learned from."""
        return any(self.sources)

    def remark(self, targets: Targets = "classes") -> str:
        """What a user should know of it, in one line; empty where names and order agree."""
        known, total = len(self.sources) - len(self.untaught), len(self.sources)
        if not self.named:
            names = "class names" if targets == "classes" else f"names of {targets}"
            return f"its {names} are not known; its {total} logits are taken in the order of the task's {targets}"
        if self.straight:
            return ""
        if not self.speaks:
            return f"it knows none of the task's {total} classes; students learn from its features alone"
        parts = [f"{known} of the task's {total} {targets} are matched"]
        if self.untaught:
            parts.append(f"it teaches nothing about {listed(self.untaught)}")
        if self.unused:
            parts.append(f"left out are its {len(self.unused)} other {targets} ({listed(self.unused)})")
        return "; ".join(parts)


def align(
    theirs: Sequence[str], width: int, classes: Sequence[str], mapping: Mapping[str | int, str | int]
) -> Alignment:
    """How a teacher's classes are matched to the task's: as `mapping` says, the others by their names.

    Args:
        theirs: the teacher's class names in the order of its logits; empty where they are not known.
        width: how many logits it answers with, J.
        classes: the task's class names, K.
        mapping: class of the teacher (its name, or its position where names are not known) to class of the task.
            Several classes may be mapped to one: their probabilities are added.

    Raises:
        KdnasError: names and logits differ in number, a mapped class does not exist, or nothing says which is which.
    """
    if theirs and len(theirs) != width:
        raise KdnasError(
            f"the teacher answers with {width} logits",
            field="teachers.classes",
            value=list(theirs),
            remedy="name each of its classes, in the order of its logits",
        )
    if len(set(theirs)) < len(theirs):
        twice = next(name for name in theirs if list(theirs).count(name) > 1)
        raise KdnasError("comes twice", field="teachers.classes", value=twice, remedy="give each class its own name")
    if not theirs and not mapping:
        if width != len(classes):
            raise KdnasError(
                f"the teacher answers with {width} logits, the task has {len(classes)} classes, and the names of the "
                "teacher's classes are not known",
                field="teachers.classes",
                value=None,
                remedy="give them in the order of its logits, or a mapping of its classes to the task's",
            )
        return Alignment(tuple((index,) for index in range(width)), named=False)
    names = list(theirs) or [str(index) for index in range(width)]
    meant = {name: name for name in theirs if name in classes}
    meant |= _mapped(names, list(classes), mapping)
    sources = tuple(tuple(index for index, name in enumerate(names) if meant.get(name) == own) for own in classes)
    return Alignment(
        sources,
        tuple(own for own, source in zip(classes, sources, strict=True) if not source),
        tuple(name for name in names if name not in meant),
    )


def check_whole(alignment: Alignment, names: Sequence[str], targets: Targets) -> None:
    """Refuses what only classes can be: unknown to a teacher, or several that mean one.

    Args:
        alignment: of a teacher.
        names: of the task's outputs, K.
        targets: of the task.

    Raises:
        KdnasError: names the label or value that is not matched by exactly one of the teacher's answers.
    """
    if targets == "classes":
        return
    if alignment.untaught:
        raise KdnasError(
            f"the teacher answers for {len(names) - len(alignment.untaught)} of the task's {len(names)} {targets}",
            field="teachers.classes",
            value=listed(alignment.untaught),
            remedy=f"only classes may be unknown to a teacher: name its {targets} as the task does, in the order of "
            "its answers, or give a mapping",
        )
    for name, source in zip(names, alignment.sources, strict=True):
        if len(source) > 1:
            raise KdnasError(
                f"{len(source)} of the teacher's answers mean it",
                field="teachers.mapping",
                value=name,
                remedy=f"only classes are added up: map one answer to each of the {targets}",
            )


class Aligned(nn.Module):
    """A teacher that answers for the task's classes; its features stay as they are.

    Args:
        model: answers with logits `[B, J]`.
        alignment: of its classes.
    """

    judged: ClassVar[bool] = True  # its answers are about the task's own samples: right or wrong

    def __init__(self, model: nn.Module, alignment: Alignment) -> None:
        super().__init__()
        self.model, self.alignment = model, alignment
        self.taps: tuple[str, ...] = getattr(model, "taps", ())

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, K]`, `UNKNOWN` for a class that the teacher does not know."""
        return self._matched(self.model(x))

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `[B, K]` and the teacher's own activations, its own logits `[B, J]` among them."""
        logits, seen = self.model.forward_taps(x, names)  # type: ignore[operator]
        return self._matched(logits), seen

    def _matched(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        columns = [
            # The logarithm of the sum of the probabilities, but for the constant that all logits share.
            logits[:, list(source)].logsumexp(dim=1) if source else logits.new_full((len(logits),), UNKNOWN)
            for source in self.alignment.sources
        ]
        return torch.stack(columns, dim=1)


class Rescaled(nn.Module):
    """A teacher of values whose answers are standardised as the task's are; its features stay as they are.

    Args:
        model: answers with values `[B, K]`.
        given: mean and deviation by which its answers are standardised, a number a value; 0 and 1 for own units.
        wanted: those of the task.
    """

    def __init__(self, model: nn.Module, given: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.model = model
        self.taps: tuple[str, ...] = getattr(model, "taps", ())
        (mean, std), (to_mean, to_std) = (torch.tensor(part, dtype=torch.float64) for part in (given, wanted))
        self.scale, self.shift = (std / to_std).float(), ((mean - to_mean) / to_std).float()

    def forward(self, x: Tensor) -> Tensor:
        """Values `[B, K]`."""
        return self._rescaled(self.model(x))

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Values `[B, K]` and the teacher's own activations."""
        values, seen = self.model.forward_taps(x, names)  # type: ignore[operator]
        return self._rescaled(values), seen

    def _rescaled(self, values: Tensor) -> Tensor:
        return torch.addcmul(self.shift.to(values.device), values.float(), self.scale.to(values.device))


def speaks(model: nn.Module) -> bool:
    """Whether a teacher knows any class of the task's own samples, so that its answers can be right or wrong."""
    if getattr(model, "other_task", False):
        return False
    return not isinstance(model, Aligned) or (model.judged and model.alignment.speaks)


def agreeing(logits: Tensor, student: Tensor, temperature: float) -> Tensor:
    """The teachers' answers, agreeing with the student about the classes that they do not know.

    At this temperature a class that a teacher does not know has the probability that the student gives it; the rest is
    shared among the known classes as the teacher says. The divergence from the student is then that over the known
    classes, times the student's probability of them, and moves nothing else.

    Args:
        logits: `[T, B, K]`, `UNKNOWN` where a teacher says nothing.
        student: `[B, K]`, without gradient.
        temperature: above 0.
    """
    unknown = logits <= NO_ANSWER
    if not bool(unknown.any()):
        return logits
    mass = [(x / temperature).masked_fill(unknown, -torch.inf).logsumexp(dim=2, keepdim=True)
            for x in (logits, student.expand_as(logits))]  # fmt: skip
    shift = (temperature * (mass[0] - mass[1])).nan_to_num(0.0)  # it knows no class: both are -inf
    return torch.where(unknown, student + shift, logits)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _mapped(names: list[str], classes: list[str], mapping: Mapping[str | int, str | int]) -> dict[str, str]:
    found = {}
    for theirs, own in mapping.items():
        for value, known, whose in ((theirs, names, "teacher"), (own, classes, "task")):
            if str(value) not in known:
                raise KdnasError(
                    f"the {whose} has no such class",
                    field="teachers.mapping",
                    value=value,
                    remedy=f"the {whose}'s classes: {listed(known)}",
                )
        found[str(theirs)] = str(own)
    return found
