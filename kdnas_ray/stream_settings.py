"""How is a stream of class groups configured, and what of it does a search decide?"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from search_spaces import KdnasError, Suggests
from trainables.alignment import listed
from trainables.recipe import Recipe, SimpleRecipes
from trainables.tasks.base import Data

# Distillation says nothing of earlier classes against newer ones, which the labels alone teach: with the weights that
# suit one fixed task (alpha 0.3 to 0.95, the factor T^2 on top) small networks never learn to tell them apart.
USUAL = {"alpha": (0.05, 0.5), "temperature": (1.0, 4.0)}


class StreamSettings(BaseModel):
    """Classes that come in groups: each group is learned after the one before it, taught by the student's earlier self.

    A list of several values is a decision of the search.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    groups: int | list[list[str | int]] = 5
    """How many groups of (as far as possible) equally many classes, or the groups as lists of class names."""
    shuffled: bool = False
    """Groups by number take the classes in an order drawn from the seed, not in the task's order."""
    memory: int = Field(strict=True, default=200, ge=0)
    """Training samples of earlier groups that are kept in all, equally many a class; 0 for none."""
    exemplars: list[Literal["herding", "random"]] = Field(default=["herding"], min_length=1)
    """How they are chosen: nearest to the mean feature of their class (iCaRL), or at random."""
    weight_alignment: list[bool] = Field(default=[False, True], min_length=1)
    """Whether newer classes' weights are scaled to the length of earlier ones' after each group (WA)."""
    grow: list[bool] = Field(default=[False], min_length=1)
    """Whether a network of space resnet starts with one block a stage and gains the others with later groups."""

    @field_validator("exemplars", "weight_alignment", "grow", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @field_validator("groups", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        listed = isinstance(value, list) and all(isinstance(group, list) for group in value)
        if not (whole or listed):
            remedy = "give a whole number, or a list of lists of classes: [[0, 1], [2, 3]]"
            raise KdnasError("invalid value", field="stream.groups", value=value, remedy=remedy)
        count = value if whole else len(value)
        if count < 2:
            raise KdnasError("a stream has two groups or more", field="stream.groups", value=value, remedy="5 is usual")
        return value

    @property
    def count(self) -> int:
        """How many groups."""
        return self.groups if isinstance(self.groups, int) else len(self.groups)

    def rungs(self, epochs: Sequence[int]) -> tuple[int, ...]:
        """The scheduler's rungs, each moved to the end of the group that it falls into.

        Raises:
            KdnasError: the last of them does not divide among the groups.
        """
        each = self.epochs_each(epochs[-1], "scheduler.max_epochs")
        return tuple(dict.fromkeys(each * math.ceil(rung / each) for rung in epochs))

    def epochs_each(self, total: int, field: str) -> int:
        """Epochs of one group.

        Raises:
            KdnasError: the total does not divide among the groups.
        """
        if total % self.count:
            below = total // self.count * self.count
            raise KdnasError(
                f"epochs are those of all {self.count} groups together and are shared equally among them",
                field=field,
                value=total,
                remedy=f"choose {' or '.join(str(n) for n in (below, below + self.count) if n)}",
            )
        return total // self.count


@dataclass(frozen=True)
class StreamRecipes:
    """A recipe space with the decisions of a stream.

    Args:
        recipes: the recipe space.
        stream: what there is to decide.
    """

    recipes: Any
    stream: StreamSettings

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        return self.recipes.batch_size

    def suggest(self, trial: Suggests) -> Recipe:
        """The recipe that the trial's suggestions describe."""
        recipe, stream = self.recipes.suggest(trial), self.stream
        found = {name: _choose(trial, name, getattr(stream, name)) for name in ("weight_alignment", "grow")}
        if stream.memory:
            found["exemplars"] = _choose(trial, "exemplars", stream.exemplars)
        return dataclasses.replace(recipe, **found)

    def needed_taps(self) -> tuple[str, ...]:
        """Taps that some recipe reads."""
        return tuple(self.recipes.needed_taps())


def lighter(recipes: Any) -> Any:
    """A preset with the ranges that suit a stream, where the user gave none; other recipe spaces as they are."""
    if not isinstance(recipes, SimpleRecipes):
        return recipes
    defaults = {field.name: field.default for field in dataclasses.fields(recipes)}
    changes: dict[str, Any] = {name: usual for name, usual in USUAL.items() if getattr(recipes, name) == defaults[name]}
    return dataclasses.replace(recipes, **changes)


def split_classes(settings: StreamSettings, classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Names of the classes of each group, where the classes stand in the order of the groups."""
    groups = settings.groups
    if isinstance(groups, int):
        return tuple(tuple(str(name) for name in part) for part in np.array_split(np.array(classes), groups))
    return tuple(tuple(str(name) for name in group) for group in groups)


def groups_of(settings: StreamSettings, data: Data, seed: int) -> tuple[tuple[str, ...], ...]:
    """Names of the classes of each group.

    Raises:
        KdnasError: names the group and the class that is unknown, comes twice, comes in no group, or has no samples.
    """
    classes = list(data.classes)
    if isinstance(settings.groups, int):
        if settings.groups > len(classes) // 2:
            raise KdnasError(
                f"the task has {len(classes)} classes, and a group has two or more",
                field="stream.groups",
                value=settings.groups,
                remedy=f"choose 2 to {len(classes) // 2}, or name the groups as lists of classes",
            )
        order = np.random.default_rng(seed).permutation(len(classes)) if settings.shuffled else range(len(classes))
        groups = split_classes(settings, [classes[index] for index in order])
    else:
        groups = split_classes(settings, classes)
        _check_named(groups, classes)
    _check_samples(groups, data)
    return groups


def _check_named(groups: Sequence[Sequence[str]], classes: Sequence[str]) -> None:
    place: dict[str, int] = {}
    for number, group in enumerate(groups):
        field = f"stream.groups.{number}"
        if not group or (number == 0 and len(group) < 2):
            need = "two classes or more: with one there is nothing to tell apart" if number == 0 else "a class or more"
            raise KdnasError(f"the group needs {need}", field=field, value=list(group), remedy="move a class here")
        for name in group:
            if name not in classes:
                remedy = f"the task's classes: {listed(classes)}"
                raise KdnasError("the task has no such class", field=field, value=name, remedy=remedy)
            if name in place:
                where = "in this group" if place[name] == number else f"stands in group {place[name]} already"
                raise KdnasError(f"the class comes twice ({where})", field=field, value=name, remedy="name it once")
            place[name] = number
    left = [name for name in classes if name not in place]
    if left:
        raise KdnasError(
            f"{len(left)} of the task's classes stand in no group",
            field="stream.groups",
            value=listed(left),
            remedy="put each class into a group",
        )


def _check_samples(groups: Sequence[Sequence[str]], data: Data) -> None:
    splits = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = {name: np.bincount(split.labels, minlength=len(data.classes)) for name, split in splits.items()}
    for number, group in enumerate(groups):
        for name in group:
            missing = [split for split, count in counts.items() if not count[data.classes.index(name)]]
            if missing:
                raise KdnasError(
                    f"class {name!r} of this group has no samples in the {missing[0]} split",
                    field=f"stream.groups.{number}",
                    value=name,
                    remedy="add samples, or leave the class out of the data",
                )


def _choose(trial: Suggests, name: str, choices: Sequence[Any]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, tuple(choices))
