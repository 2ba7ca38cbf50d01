"""How does a search run on a stream of class groups? Planned and told here; proposed and scheduled like any other."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from kdnas_ray.config import SearchConfig
from kdnas_ray.feasible import check_constraints
from kdnas_ray.hardware.costs import cost_function, missing_function
from kdnas_ray.hardware.lookup import by_name
from kdnas_ray.hardware.measuring import check_measurable
from kdnas_ray.objectives import limits
from kdnas_ray.prepare import Plan, any_student, check_resources, check_sampler, check_space, load_data
from kdnas_ray.schedulers import Extrapolate
from kdnas_ray.stream_settings import StreamSettings, split_classes
from kdnas_ray.suits import check_kind
from search_spaces import KdnasError, ResNetSpace, sample, tap_shapes
from trainables.alignment import listed
from trainables.augment import check_fits
from trainables.evaluators import Scratch
from trainables.incremental import FEATURES
from trainables.proxies import PROXIES
from trainables.stream import Stream
from trainables.tasks.base import Data
from trainables.terms import read_of

# What the headline and the tables say of a finalist; each also `_without_kd` and with its spread.
MEASURES = ("test_old_accuracy", "test_forgetting", "test_incremental_accuracy")


@dataclass(frozen=True)
class StreamPlan(Plan):
    """A checked search on a stream; each student's own earlier self is its teacher.

    Args:
        stream: groups and memory.
        groups: names of the classes of each group.
    """

    stream: Stream
    groups: tuple[tuple[str, ...], ...]


def plan_stream(config: SearchConfig) -> StreamPlan:
    """The checked search.

    Raises:
        KdnasError: groups, memory, space, recipes or constraints do not fit together, or something is asked for that
            has no meaning in a stream.
    """
    settings = config.stream
    assert settings is not None
    check_resources(config.resources)
    _refuse(config, settings)
    check_kind(config)
    data = load_data(config)
    groups = split_classes(settings, data.classes)
    _check_batch(config, data, groups)
    shape, classes = data.shape, len(data.classes)
    if 0 < settings.memory < classes:
        raise KdnasError(
            f"fewer than one sample for each of the {classes} classes",
            field="stream.memory",
            value=settings.memory,
            remedy=f"choose {classes} or more, or 0 for none",
        )
    check_fits(config.task.augmentation, *shape[1:])
    check_space(config.space, shape, classes, config.seed)
    _check_students(config, any_student(config, data), shape)
    devices = by_name(config.devices)
    check_measurable(devices, config.constraints)
    bounds = limits(config.constraints, {})
    costs = cost_function(config.space, shape, classes, devices)
    rng = random.Random(config.seed)
    missing = missing_function(config.space, shape, classes, devices)
    check_constraints(lambda: sample(config.space, rng), costs, bounds, missing=missing)
    check_sampler(config, costs)
    stream = Stream(tuple(len(group) for group in groups), settings.memory, config.bank.pool)
    return StreamPlan(config, data, {}, bounds, (), {}, False, costs, devices, missing, {}, stream, groups)


def announcement(made: StreamPlan) -> str:
    """The stream in a line."""
    shown = "; ".join(", ".join(group) for group in made.groups)
    memory = f"a memory of {made.stream.memory} samples" if made.stream.memory else "no memory"
    return f"Stream: {len(made.groups)} groups ({shown}), {memory}; each student is taught by its earlier self"


def facts(made: Plan) -> dict[str, Any]:
    """What summary.json says of the stream; nothing where there is none."""
    if not isinstance(made, StreamPlan):
        return {}
    return {"stream": {"groups": [list(group) for group in made.groups], "memory": made.stream.memory}}


def headline(best: Mapping[str, Any]) -> str:
    """What is left of the earlier groups with and without distillation, in some sentences.

    Args:
        best: of summary.json.
    """
    size = f"{best['id']}, {best['params']:,} parameters"
    if best.get("test_old_accuracy") is None:
        return f"{size}: average accuracy {best['val_accuracy']:.2%} on validation after the last group."

    def pair(name: str) -> str:
        without = best.get(f"{name}_without_kd")
        return _spread(best, name) + (
            f" (without {_spread(best, name + '_without_kd')})" if without is not None else ""
        )

    lost = best.get("test_old_accuracy_without_kd", best["test_old_accuracy"]) or 0.0
    cost = lost - best["test_old_accuracy"]
    harm = f" Distillation cost {100 * cost:.1f} points on the earlier groups." if cost > 0 else ""
    return (
        f"{size}, with distillation still knows {pair('test_old_accuracy')} of the earlier groups' test samples. "
        f"Average accuracy over all groups: {pair('test_accuracy')}; forgetting: {pair('test_forgetting')}.{harm}"
    )


def _spread(row: Mapping[str, Any], name: str) -> str:
    spread = row.get(f"{name}_std")
    if "forgetting" in name:  # a difference of accuracies
        return f"{100 * row[name]:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "") + " points"
    return f"{row[name]:.2%}" + (f" ± {spread:.2%}" if spread is not None else "")


def _refuse(config: SearchConfig, settings: StreamSettings) -> None:
    """What means nothing in a stream, or is not built for it."""
    own = "a student of a stream is taught by its own earlier self"
    grow = any(settings.grow) and not isinstance(config.space, ResNetSpace)
    losses: Sequence[str] = getattr(config.recipes, "needed_losses", tuple)()
    mutual, shares = (getattr(config.recipes, name, ()) for name in ("mutual", "teacher_shares"))
    wrong: Sequence[tuple[bool, str, Any, str, str]] = (
        (config.task.targets != "classes", "task", config.task.targets, "a stream is of classes", "leave stream out"),
        (config.labels < 1, "labels", config.labels, "the group of a sample without label is not known", "labels=1"),
        (
            not isinstance(config.evaluator, Scratch),
            "evaluator",
            type(config.evaluator).__name__,
            "its weights have seen the classes of all groups",
            "evaluator=scratch",
        ),
        (
            isinstance(config.scheduler, Extrapolate),
            "scheduler",
            "extrapolate",
            "average accuracy falls as groups come: no curve of learning says where it will end",
            "scheduler=asha or full",
        ),
        (config.prefilter is not None, "prefilter", "set", "not with a stream", "leave it out"),
        (config.retrain.generations > 1, "retrain.generations", config.retrain.generations, own, "leave it at 1"),
        (any(mutual), "recipes.mutual", list(mutual), "not with a stream", "recipes.mutual=0"),
        (bool(shares), "recipes.teacher_shares", "set", own, "leave it out"),
        (
            "reused_classifier" in losses,
            "recipes.hint_losses",
            "reused_classifier",
            "the earlier self has no classifier for the new classes",
            "leave it out",
        ),
        (
            max(getattr(config.recipes, "alpha_by_size", (0.0,))) > 0,
            "recipes.alpha_by_size",
            list(getattr(config.recipes, "alpha_by_size", ())),
            "the earlier self is as large as the student",
            "recipes.alpha_by_size=0",
        ),
        (
            getattr(config.recipes, "tap_share", 0) > 0,
            "recipes.tap_share",
            getattr(config.recipes, "tap_share", 0),
            "taps are not chosen by their share of time in a stream",
            "name those worth a hint in recipes.taps",
        ),
        (config.bank.top_k is not None, "bank.top_k", config.bank.top_k, "all logits are kept", "leave it out"),
        (
            config.bank.max_bytes is not None,
            "bank.max_bytes",
            config.bank.max_bytes,
            "a stream keeps the answers to one group at a time, and not in the object store",
            "leave it out; bank.pool and bank.views make them smaller",
        ),
        (
            grow,
            "stream.grow",
            settings.grow,
            "only networks of the space resnet can gain blocks that change nothing at first",
            "space=resnet, or stream.grow=false",
        ),
    )
    for holds, field, value, problem, remedy in wrong:
        if holds:
            raise KdnasError(problem, field=field, value=value, remedy=remedy)
    proxies = [name for name in config.objectives if name in PROXIES]
    if proxies:
        remedy = "val_accuracy, forgetting, params, flops, or a number on a device"
        raise KdnasError("not with a stream", field="objectives", value=proxies[0], remedy=remedy)
    if isinstance(config.space, ResNetSpace) and any(settings.grow) and max(config.space.depths) < 2:
        raise KdnasError(
            "every stage has one block: there is none to come later",
            field="space.depths",
            value=list(config.space.depths),
            remedy="offer depths of 2 or more, or stream.grow=false",
        )
    if config.retrain.epochs is not None:
        settings.epochs_each(config.retrain.epochs, "retrain.epochs")


def _check_batch(config: SearchConfig, data: Data, groups: Sequence[Sequence[str]]) -> None:
    """Refuses a batch that some group does not fill, with the memory where there is one."""
    sizes = np.bincount(np.repeat(np.arange(len(groups)), [len(group) for group in groups])[data.train.labels])
    sizes[1:] += config.stream.memory if config.stream else 0
    size: Any = getattr(config.recipes, "batch_size", 0)
    if size > sizes.min():
        raise KdnasError(
            f"larger than the {sizes.min()} training samples of group {sizes.argmin()}",
            field="recipes.batch_size",
            value=size,
            remedy=f"at most {sizes.min()}",
        )


def _check_students(config: SearchConfig, student: nn.Module, shape: tuple[int, int, int]) -> None:
    """Refuses networks without what the stream reads of them, and hints at taps that they do not have."""
    settings, taps = config.stream, config.space.taps()
    assert settings is not None
    if settings.memory and "herding" in settings.exemplars and FEATURES not in taps:
        remedy = f"stream.exemplars=random, or a space with that tap (its taps: {listed(taps)})"
        raise KdnasError(f"chosen by the tap {FEATURES!r}", field="stream.exemplars", value="herding", remedy=remedy)
    if any(settings.weight_alignment) and not isinstance(getattr(student, "classifier", None), nn.Linear):
        raise KdnasError(
            "the networks need a linear layer `classifier`",
            field="stream.weight_alignment",
            value=settings.weight_alignment,
            remedy="stream.weight_alignment=false, or a space of ours",
        )
    shapes = tap_shapes(student, shape, list(taps))
    for term in getattr(config.recipes, "needed_terms", tuple)():
        term = replace(term, match="name") if term.tap in taps else term
        if term.tap is not None and term.tap not in taps:
            remedy = f"their taps: {listed(taps)}"
            raise KdnasError("the students have no such tap", field="recipes.taps", value=term.tap, remedy=remedy)
        try:
            read_of(term, shapes, shapes)
        except KdnasError as error:
            raise KdnasError(error.problem, field="recipes.taps", value=term.tap, remedy=error.remedy) from error
