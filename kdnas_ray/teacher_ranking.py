"""Which size of teacher teaches a student best? The capacity gap, measured: bigger is not always better."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from kdnas_ray.config import SearchConfig
from kdnas_ray.environment import cache_folder
from kdnas_ray.feasible import check_constraints
from kdnas_ray.hardware.costs import Costs, cost_function, teacher_costs
from kdnas_ray.hardware.lookup import by_name
from kdnas_ray.objectives import excess, limits
from kdnas_ray.prepare import load_data
from kdnas_ray.runs import check_creatable
from search_spaces import Architecture, KdnasError, RunError, sample
from trainables import bank as banks
from trainables.augment import check_fits
from trainables.bank import Bank
from trainables.candidate import build_model
from trainables.loop import DivergedError, Normalise, start, train
from trainables.recipe import Recipe
from trainables.tasks.base import Data
from trainables.teachers import TEACHERS, TrainedTeacher, build_teacher, obtain

EXAMPLE = "for example --widths 8,16,32,64"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Taught:
    """A teacher and what the student learned from it.

    Args:
        width: channels of the teacher's first stage.
        params: the teacher's parameters.
        teacher_accuracy: the teacher's validation accuracy, 0 to 1.
        val_accuracies: the student's validation accuracy of each seed, 0 to 1.
    """

    width: int
    params: int
    teacher_accuracy: float
    val_accuracies: tuple[float, ...]

    @property
    def val_accuracy(self) -> float:
        """The student's mean validation accuracy over the seeds."""
        return float(np.mean(self.val_accuracies))


@dataclass(frozen=True)
class TeacherRanking:
    """What `rank_teachers` measured.

    Args:
        architecture: the student, the same for every teacher.
        student_params: its parameters.
        epochs: length of each of its trainings.
        teachers: one row a teacher, smallest first.
        without_teacher: its validation accuracy of each seed when trained on the labels alone, 0 to 1.
    """

    architecture: Architecture
    student_params: int
    epochs: int
    teachers: tuple[Taught, ...]
    without_teacher: tuple[float, ...]

    @property
    def best(self) -> Taught:
        """The teacher of the best student; of equal ones the smallest."""
        return max(self.teachers, key=lambda row: row.val_accuracy)

    def gain(self, row: Taught) -> float:
        """How much more accurate the student is than without a teacher."""
        return row.val_accuracy - float(np.mean(self.without_teacher))

    def to_json(self) -> dict[str, Any]:
        """Plain nested dictionary, accuracies with mean and spread."""
        return {
            "student": {"architecture": self.architecture.to_json(), "params": self.student_params},
            "epochs": self.epochs,
            "seeds": len(self.without_teacher),
            "teachers": [
                asdict(row)
                | {
                    "val_accuracy": row.val_accuracy,
                    "val_accuracy_std": _spread(row.val_accuracies),
                    "gain": self.gain(row),
                    "best": row is self.best,
                }
                for row in self.teachers
            ],
            "without_teacher": {
                "val_accuracies": self.without_teacher,
                "val_accuracy": float(np.mean(self.without_teacher)),
                "val_accuracy_std": _spread(self.without_teacher),
            },
            "biggest_is_best": self.best is self.teachers[-1],
        }


def parse_widths(text: str) -> tuple[int, ...]:
    """The widths in `8,16,32`, ascending, each once.

    Raises:
        KdnasError: there is none, or one is no whole number from 1 up.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise KdnasError("there is none", field="--widths", value=text, remedy=EXAMPLE)
    for word in words:
        if not (word.isascii() and word.isdecimal()) or int(word) < 1:
            raise KdnasError("widths are whole numbers from 1 up", field="--widths", value=word, remedy=EXAMPLE)
    return tuple(sorted({int(word) for word in words}))


def scaled(teacher: TrainedTeacher, width: int) -> TrainedTeacher:
    """The teacher with `width` channels in its first stage, stem and other stages in proportion."""
    share = width / teacher.widths[0]
    stem, *widths = (max(1, round(share * part)) for part in (teacher.stem, *teacher.widths))
    return replace(teacher, stem=stem, widths=tuple(widths))


def rank_teachers(
    config: SearchConfig, widths: Sequence[int], *, epochs: int | None = None, seeds: int = 3, say: Say
) -> TeacherRanking:
    """Teachers of these widths, each with what one fixed student learned from it by the default recipe.

    The student is the first architecture drawn with the configuration's seed that keeps the constraints, shares of a
    teacher meaning the largest. Every student of a seed begins with the same weights and sees the same batches.

    Source: Cho and Hariharan 2019, On the Efficacy of Knowledge Distillation, figure 2; Mirzadeh 2020, figure 2.

    Args:
        config: task, space, constraints, bank, seed, and the first teacher, whose shape is scaled.
        widths: channels of the first stage of each teacher, at least 1, ascending.
        epochs: length of a student's training; None for the scheduler's max_epochs. A teacher's is its own.
        seeds: students of each teacher.
        say: told in one line what is being done.

    Raises:
        KdnasError: the first teacher is not one to be trained, no student keeps the constraints, or what the
            configuration names does not fit together.
    """
    teacher = config.teachers[0]
    if not isinstance(teacher, TrainedTeacher):
        raise KdnasError(
            "only a teacher that is trained here comes in several widths",
            field="teachers.0",
            value=TEACHERS.name_of(teacher),
            remedy="choose `trained`, with its widths and depths",
        )
    check_creatable(cache := cache_folder(config.bank.cache), "bank.cache")
    data = load_data(config)
    check_fits(config.task.augmentation, *data.shape[1:])
    pool = [scaled(teacher, width) for width in widths]
    costs = [teacher_costs(build_teacher(settings, data), data.shape, by_name(config.devices)) for settings in pool]
    architecture, student_params = _student(config, data, costs[-1])
    epochs = epochs or config.scheduler.max_epochs
    normalise = Normalise(data.mean, data.std)
    augmentation, views = config.task.augmentation, config.bank.views

    def accuracies(bank: Bank, recipe: Recipe, whose: str) -> tuple[float, ...]:
        found = []
        for seed in range(config.seed, config.seed + seeds):
            model = build_model(config.space, architecture, data.shape, len(data.classes), seed)
            training = start(model, recipe, bank, seed=seed, total_epochs=epochs, targets=config.task.targets)
            try:
                curve = train(training, bank, data.validation, config.task, normalise, epochs)
            except DivergedError as error:
                raise RunError(
                    f"a student {whose} cannot be trained ({error})",
                    field="seed",
                    value=seed,
                    remedy="choose a lower recipes.learning_rate",
                ) from error
            found.append(curve[-1]["val_accuracy"])
            say(f"Student {whose}: seed {seed}, validation accuracy {found[-1]:.4f}")
        return tuple(found)

    rows = []
    for width, settings, cost in zip(widths, pool, costs, strict=True):
        say(f"Teacher of width {width}, {cost['params']:,} parameters")
        known = obtain(settings, data, config.task, seed=config.seed, cache=cache, say=say)
        bank = banks.build(
            data.train, [known.model], normalise, augmentation=augmentation, views=views, seed=config.seed
        )
        taught = accuracies(bank, Recipe(), f"of the teacher {width} wide")
        rows.append(Taught(width, int(cost["params"]), known.val_accuracy, taught))
    bank = banks.without_teacher(data.train, augmentation=augmentation, views=views, seed=config.seed)
    alone = accuracies(bank, Recipe().without_teacher(), "without a teacher")
    return TeacherRanking(architecture, student_params, epochs, tuple(rows), alone)


def ranking_table(found: TeacherRanking) -> Table:
    """A row a teacher, smallest first, the best one marked; the last row is the student alone."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    titles = ("width", "teacher's parameters", "teacher's validation", "student's validation", "gain by the teacher")
    for title in (*titles, ""):
        table.add_column(title, justify="right" if title else "left")
    helped = found.gain(found.best) > 0
    for row in found.teachers:
        best = helped and row is found.best
        table.add_row(
            str(row.width),
            f"{row.params:,}",
            f"{row.teacher_accuracy:.2%}",
            _accuracy(row.val_accuracies),
            f"{100 * found.gain(row):+.2f} points",
            "← best" if best else "",
            style="bold" if best else "",
        )
    alone = ("without a teacher", "") if helped else ("without a teacher ← best", "bold")
    table.add_row("–", "–", "–", _accuracy(found.without_teacher), "", alone[0], style=alone[1])
    return table


def verdict(found: TeacherRanking) -> str:
    """Whether the biggest teacher is the best, in a line, and how sure that is."""
    best, biggest = found.best, found.teachers[-1]
    student = f"this student of {found.student_params:,} parameters"
    if len(found.teachers) == 1:
        return f"One teacher alone shows no capacity gap for {student}: name more widths."
    if found.gain(best) <= 0:
        return (
            f"No teacher made {student} better than it is without one; the one of width {best.width} comes closest "
            f"({100 * found.gain(best):+.2f} points)."
        )
    if best is biggest:
        return f"The biggest teacher is the best for {student}: no sign of a capacity gap up to width {best.width}."
    ahead = np.subtract(best.val_accuracies, biggest.val_accuracies)  # seed by seed
    gap, spread = float(ahead.mean()), _spread(ahead)
    if gap == 0:
        return f"The biggest teacher is no better for {student} than the one of width {best.width}."
    sure = "" if spread is None else f" ± {100 * spread:.2f}"
    ahead_by = f"width {best.width} is {100 * gap:.2f}{sure} points ahead of width {biggest.width}"
    if spread is None:
        return f"For {student} {ahead_by}; one seed cannot tell a capacity gap from chance: name more."
    if gap <= spread:
        return f"For {student} {ahead_by}, within the spread over seeds: more of them would tell."
    return f"The biggest teacher is not the best for {student}: {ahead_by} (capacity gap)."


def _student(config: SearchConfig, data: Data, reference: Costs) -> tuple[Architecture, int]:
    bounds = limits(config.constraints, reference)
    costs = cost_function(config.space, data.shape, len(data.classes), by_name(config.devices))

    def draws() -> Callable[[], Architecture]:
        rng = random.Random(config.seed)
        return lambda: sample(config.space, rng)

    check_constraints(draws(), costs, bounds)  # so the search below ends
    draw = draws()
    while True:
        found = costs(architecture := draw())
        if all(over <= 0 for over in excess(found, bounds).values()):
            return architecture, int(found["params"])


def _spread(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _accuracy(values: Sequence[float]) -> str:
    spread = _spread(values)
    return f"{np.mean(values):.2%}" + ("" if spread is None else f" ± {spread:.2%}")
