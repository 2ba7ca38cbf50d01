"""Can this search work at all? Everything that can be refused is refused here, before any work starts."""

import itertools
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from torch import nn

from kdnas_ray.config import Resources, SearchConfig
from kdnas_ray.environment import cache_folder
from kdnas_ray.feasible import check_constraints
from kdnas_ray.hardware.costs import Costs, cost_function, missing_function, teacher_costs
from kdnas_ray.hardware.lookup import Device, by_name
from kdnas_ray.hardware.measuring import check_measurable
from kdnas_ray.hardware.stages import mean_shares, worthwhile
from kdnas_ray.mirror import fetch_bank, store_bank
from kdnas_ray.objectives import SIZES, excess, limits, number
from kdnas_ray.runs import check_creatable
from kdnas_ray.samplers import Around
from kdnas_ray.stream_settings import groups_of
from kdnas_ray.suits import check_kind, check_labels, check_targets
from kdnas_ray.teacher_checks import check_teachers, check_views
from search_spaces import Architecture, KdnasError, RunError, Shape, first_line, sample, tap_shapes
from search_spaces.notation import canonical
from trainables import bank as banks
from trainables.augment import check_fits
from trainables.bank import Bank, pooled
from trainables.evaluators import Table
from trainables.loop import Normalise
from trainables.mapped import build_mapped, load_mapped
from trainables.proxies import PROXIES
from trainables.proxies.base import trunk_tap
from trainables.stream import ordered
from trainables.tasks.base import Data, keep_labels, known
from trainables.teachers import Teacher, build_teacher, check_taps, obtain, read_teacher
from trainables.terms import read_of

RESERVE = 256 * 2**20  # bytes of object store beside bank and splits
TRIED = 20  # architectures by which a space shows that it can be drawn from
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A configuration that was checked against its data and its teacher.

    Args:
        config: the configuration.
        data: the task's data.
        teacher_costs: numbers of the first teacher, as `costs`.
        bounds: largest allowed value of each constrained number.
        taps: teacher taps that the bank must hold.
        online: shapes of the teacher taps that are computed when they are needed, because the bank has no room.
        mapped: the bank stays in files, because it has no room in memory.
        costs: numbers of an architecture known before training, by full name, remembered.
        devices: profiles and models by name, as they were when the search was checked.
        missing: what the devices lack for an architecture, by name.
        tap_shares: mean share of a device's time that goes to the stage of each tap; empty where no recipe asks.
    """

    config: SearchConfig
    data: Data
    teacher_costs: Costs
    bounds: dict[str, float]
    taps: tuple[str, ...]
    online: dict[str, tuple[int, ...]]
    mapped: bool
    costs: Callable[[Architecture], Costs]
    devices: Mapping[str, Device]
    missing: Callable[[Architecture], Mapping[str, tuple[str, ...]]]
    tap_shares: Mapping[str, float]

    def keeps(self, architecture: Architecture) -> bool:
        """Whether it keeps all bounds."""
        return self.excess(architecture) <= 0

    def excess(self, architecture: Architecture) -> float:
        """How far it exceeds its worst bound, relative to it; at most 0 where it keeps all."""
        return max(excess(self.costs(architecture), self.bounds).values(), default=0.0)

    def identity(self, architecture: Architecture) -> str:
        """Text that is the same for architectures whose results are the same."""
        return canonical(self.config.space, architecture)


def plan(config: SearchConfig) -> Plan:
    """The checked search.

    Raises:
        KdnasError: data, teacher, space, recipes or constraints do not fit together.
    """
    check_resources(config.resources)
    check_creatable(cache_folder(config.bank.cache), "bank.cache")
    check_kind(config)
    data = load_data(config)
    shape, classes = data.shape, len(data.classes)
    check_fits(config.task.augmentation, *shape[1:])
    _check_batch(config, data)
    check_views(config)
    model, *others = [_built(config, index, data) for index in range(len(config.teachers))]  # all must fit
    check_space(config.space, shape, classes, config.seed)
    check_teachers(config, [model, *others], whole=bool(known(data.train.labels).all()))
    _check_earlier(config)
    check_prefilter(config)
    check_targets(config)
    devices = by_name(config.devices)
    tap_shares: dict[str, float] = {}
    if getattr(config.recipes, "tap_share", 0) > 0:
        tap_shares = mean_shares(config.space, shape, classes, devices, config.seed)
        config = config.model_copy(update={"recipes": worthwhile(config.recipes, tap_shares)})
    getattr(config.evaluator, "check", lambda space: None)(config.space)
    needed = tuple(config.recipes.needed_taps()) + tuple(getattr(config.evaluator, "needed_taps", tuple)())
    proxies = [*config.objectives, config.prefilter.judge if config.prefilter else ""]
    if any("taps" in PROXIES[name].needs for name in proxies if name in PROXIES):
        needed += (trunk_tap(getattr(model, "taps", ())),)
    asking = "recipes.teacher_taps" if getattr(config.recipes, "teacher_taps", ()) else "recipes.taps"
    found = check_taps(model, shape, needed, asking)
    taps = tuple(tap for tap in getattr(model, "taps", needed) if tap in needed)  # from input to output
    teacher_shapes = {tap: pooled(found[tap], config.bank.pool) for tap in taps}
    online, mapped = _check_bank(config, data, teacher_shapes)
    _check_student_taps(config, data, teacher_shapes)
    _check_classifiers(config, data, model)
    check_measurable(devices, config.constraints)
    reference = teacher_costs(model, shape, devices)
    bounds = limits(config.constraints, reference)
    costs = cost_function(config.space, shape, classes, devices)
    rng = random.Random(config.seed)
    shares = ", ".join(
        f"{name}: {bound.of_teacher:g} of the teacher's {number(reference[name])}"
        for name, bound in config.constraints.items()
        if bound.of_teacher is not None
    )
    missing = missing_function(config.space, shape, classes, devices)
    check_constraints(lambda: sample(config.space, rng), costs, bounds, shares, missing)
    check_sampler(config, costs)
    return Plan(
        config, data, reference, bounds, () if online else taps, online, mapped, costs, devices, missing, tap_shares
    )


def check_space(space: Any, shape: Shape, classes: int, seed: int) -> None:
    """Tries a user's own space: some architectures drawn, and one of them built.

    Raises:
        KdnasError: `suggest` or `build` raises something else.
    """
    rng, method, architecture = random.Random(seed), "suggest", None
    try:
        for _ in range(TRIED):
            architecture = sample(space, rng)
        method = "build"
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            space.build(architecture, shape, classes)
    except KdnasError:
        raise
    except Exception as error:
        raise KdnasError(
            f"{type(space).__name__}.{method} raises {type(error).__name__} ({first_line(error)})",
            field="space",
            value=dict(architecture) if architecture is not None and method == "build" else type(space).__name__,
            remedy="mend the space; `--debug` shows where",
        ) from error


def check_prefilter(config: SearchConfig) -> None:
    """Refuses a judge that this search does not have.

    Raises:
        KdnasError: the evaluator judges nothing, or there are no samples to score on.
    """
    if config.prefilter is None:
        return
    judge, evaluator = config.prefilter.judge, config.evaluator
    if judge == "evaluator" and not getattr(evaluator, "judges", False):
        raise KdnasError(
            "this evaluator judges nothing before training",
            field="prefilter.judge",
            value=judge,
            remedy="choose evaluator=supernet or evaluator=blocks, or a proxy of `kdnas list proxies`",
        )
    if judge in PROXIES and isinstance(evaluator, Table):
        raise KdnasError(
            "a table has no samples to score networks on",
            field="prefilter.judge",
            value=judge,
            remedy=f"choose {' or '.join(SIZES)}",
        )


def check_sampler(config: SearchConfig, costs: Callable[[Architecture], Costs]) -> None:
    """Refuses a sampler that cannot work on this space, or whose package is not installed."""
    around = Around(config.space, config.recipe_space, costs, list, config.scheduler.max_epochs)
    config.sampler.make(config.seed, lambda trial: [0.0], around)


def load_data(config: SearchConfig) -> Data:
    """The task's data with as many training labels as the configuration leaves; in a stream classes by group.

    Raises:
        KdnasError: the data cannot be read, a class keeps no label, or the groups of a stream do not fit.
    """
    data = config.task.load(config.seed)
    check_labels(config, data)
    data = replace(data, train=keep_labels(data.train, config.labels, data.classes, config.seed))
    if config.stream is None:
        return data
    if not known(data.train.labels).all():
        raise KdnasError(
            "the group of a sample without label is not known",
            field="task.unlabelled",
            value=str(getattr(config.task, "unlabelled", None)),
            remedy="leave it out",
        )
    return ordered(data, groups_of(config.stream, data, config.seed))


def _built(config: SearchConfig, index: int, data: Data) -> nn.Module:
    try:
        return build_teacher(config.teachers[index], data, config.task.targets)
    except KdnasError as error:
        key = error.field.removeprefix("teachers").lstrip(".")
        field = ".".join(part for part in ("teachers", str(index), key) if part)
        raise KdnasError(error.problem, field=field, value=error.value, remedy=error.remedy) from error


def knowledge(made: Plan, run: Path, say: Say) -> tuple[list[Teacher], Bank]:
    """The trained teachers and their bank, from the run folder or the cache where they are known already."""
    teachers = obtain_teachers(made, run, say)
    return teachers, ask(made, teachers, say)


def obtain_teachers(made: Plan, run: Path, say: Say) -> list[Teacher]:
    """The trained teachers, from the run folder or the cache where they are known already."""
    config, data = made.config, made.data
    labelled = int(known(data.train.labels).sum())
    if labelled < len(data.train):
        say(f"Training samples: {labelled:,} labelled, {len(data.train) - labelled:,} unlabelled")
    cache = cache_folder(config.bank.cache)
    teachers: list[Teacher] = []
    for index, settings in enumerate(config.teachers):
        previous, seed = (teachers[-1] if teachers else None), config.seed + index
        teachers.append(
            _own_teacher(teacher_folder(run, index), say)
            or obtain(settings, data, config.task, seed=seed, cache=cache, say=say, previous=previous)
        )
    return teachers


def ask(made: Plan, teachers: Sequence[Teacher], say: Say) -> Bank:
    """What the teachers say of every sample, from the cache where it is known."""
    config, data, cache = made.config, made.data, cache_folder(made.config.bank.cache)
    augmentation, views = config.task.augmentation, config.bank.views
    digests = [teacher.digest for teacher in teachers]
    key = banks.digest(
        digests, data.digest(), augmentation, views, config.seed, made.taps, config.bank.pool, config.bank.top_k
    )
    folder = cache / "banks" / (f"{key}-mapped" if made.mapped else key)
    load = load_mapped if made.mapped else banks.load
    storage = config.resources.storage
    fetch_bank(storage, folder, say)
    if folder.exists():
        try:
            bank = load(folder, data.train, augmentation=augmentation, seed=config.seed)
            say(f"Knowledge bank: {views} views of {len(bank):,} samples, read from the cache")
            return bank
        except KdnasError as error:
            say(f"{error.problem}; computing it again.")
    whom = "the teacher" if len(teachers) == 1 else f"{len(teachers)} teachers"
    say(f"Knowledge bank: asking {whom} about {views} views of {len(data.train):,} samples")
    build = partial(
        banks.build,
        data.train,
        [teacher.model for teacher in teachers],
        Normalise(data.mean, data.std),
        augmentation=augmentation,
        views=views,
        seed=config.seed,
        taps=made.taps,
        pool=config.bank.pool,
        top_k=config.bank.top_k,
        on_view=lambda view: say(f"Knowledge bank: view {view + 1} of {views}"),
    )
    if made.mapped:
        try:
            build_mapped(folder, build)
        except OSError as error:
            raise RunError(
                f"the bank cannot be written ({first_line(error)})",
                field="bank.cache",
                value=str(cache),
                remedy="choose a folder on a disk with room for it",
            ) from error
        store_bank(storage, folder, say)
        return load_mapped(folder, data.train, augmentation=augmentation, seed=config.seed)
    bank = build()
    try:
        banks.save(bank, folder)
    except OSError as error:
        say(f"The knowledge bank cannot be kept in the cache ({first_line(error)}); the next search computes it again.")
    store_bank(storage, folder, say)
    return bank


def teacher_folder(run: Path, index: int) -> Path:
    """Where the run keeps its copy of teacher number `index`: `teacher`, `teacher2`, …"""
    return run / ("teacher" if index == 0 else f"teacher{index + 1}")


def _own_teacher(folder: Path, say: Say) -> Teacher | None:
    """The teacher of an earlier session of this run, if there is one that can be used."""
    if not (folder / "teacher.json").exists():
        return None
    try:
        return read_teacher(folder)
    except KdnasError as error:
        say(f"The run's copy of its teacher cannot be used ({error.problem}).")
        return None


def check_folder(run: Path) -> None:
    """Refuses a run folder that exists or cannot be made."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise KdnasError(
            "the run folder exists already",
            field="--out",
            value=str(run),
            remedy=f"choose another folder, or go on with `kdnas resume {run}`",
        )
    check_creatable(run, "--out")


def free_folder(now: datetime) -> Path:
    """The run folder of a search that names none: by the time, and a number where another has that already."""
    name = Path("runs") / now.strftime("%Y-%m-%d-%H%M%S")
    others = (Path(f"{name}-{n}") for n in itertools.count(2))
    return next(path for path in itertools.chain([name], others) if not path.exists())


def _check_bank(
    config: SearchConfig, data: Data, taps: dict[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Shapes of the taps that are computed online, and whether the bank stays in files."""
    settings, classes = config.bank, len(data.classes)
    if settings.top_k is not None and settings.top_k > classes:
        raise KdnasError(
            f"there are {classes} classes",
            field="bank.top_k",
            value=settings.top_k,
            remedy=f"choose 2 to {classes}, or null to keep all logits",
        )
    parts = banks.sizes(
        settings.views, len(config.teachers), len(data.train), classes, taps, top_k=settings.top_k
    )  # fmt: skip
    needed = sum(parts.values())
    if settings.max_bytes is not None and needed > settings.max_bytes:
        if settings.overflow == "online" and parts["logits"] <= settings.max_bytes:
            return taps, False
        if settings.overflow == "map" and settings.top_k is None:
            return {}, True
        listed = ", ".join(f"{name} {size:,}" for name, size in parts.items())
        raise KdnasError(
            f"the bank would take {needed:,} bytes",
            field="bank.max_bytes",
            value=settings.max_bytes,
            remedy=f"it holds {listed}: name fewer recipes.taps, lower bank.views or bank.pool, "
            "set bank.top_k, or bank.overflow to online or (without top_k) map",
        )
    return {}, False


def _check_student_taps(config: SearchConfig, data: Data, teacher: dict[str, tuple[int, ...]]) -> None:
    if not teacher:
        return
    students = config.space.taps()
    shapes = tap_shapes(any_student(config, data), data.shape, list(students))
    for term in getattr(config.recipes, "needed_terms", tuple)():
        if term.tap is not None and term.tap not in students:
            raise KdnasError(
                "the students have no such tap",
                field="recipes.taps",
                value=term.tap,
                remedy=f"their taps: {', '.join(students)}",
            )
        try:
            read_of(term, shapes, teacher)
        except KdnasError as error:
            value = term.tap or list(config.recipes.taps)
            raise KdnasError(error.problem, field="recipes.taps", value=value, remedy=error.remedy) from error


def _check_classifiers(config: SearchConfig, data: Data, teacher: nn.Module) -> None:
    if "reused_classifier" not in getattr(config.recipes, "needed_losses", tuple)():
        return
    for whose, model in (("teacher", teacher), ("students", any_student(config, data))):
        head = getattr(model, "classifier", None)
        if not isinstance(head, nn.Linear) or head.bias is None:
            raise KdnasError(
                f"the {whose} need a linear layer `classifier` with a bias over the features `penultimate`",
                field="recipes.hint_losses",
                value="reused_classifier",
                remedy="leave it out, or use networks of our spaces",
            )


def any_student(config: SearchConfig, data: Data) -> nn.Module:
    """A network of the space with fresh weights."""
    architecture = sample(config.space, random.Random(config.seed))
    with torch.random.fork_rng(devices=[]):
        return config.space.build(architecture, data.shape, len(data.classes))


def check_resources(resources: Resources) -> None:
    """Refuses more than this machine has for one trial."""
    # A cluster may be larger than this machine.
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        return
    for name, there in (("cpu", os.cpu_count() or 1), ("gpu", torch.cuda.device_count())):
        wanted = getattr(resources, name)
        if wanted > there:
            raise KdnasError(
                f"no room for one trial: this machine has {there}",
                field=f"resources.{name}",
                value=wanted,
                remedy=f"choose at most {there}",
            )
    cores = os.cpu_count() or 1
    if (resources.workers or 1) * resources.cpu > 4 * cores:
        raise KdnasError(
            f"this machine has {cores} cores",
            field="resources.workers",
            value=resources.workers,
            remedy=f"choose at most {4 * cores / resources.cpu:.0f}, or null for as many as there is room for",
        )


def _check_earlier(config: SearchConfig) -> None:
    runs = getattr(config.sampler, "warm_start", ())
    if runs:
        from kdnas_ray.samplers.advised import read_searches

        read_searches(runs)


def _check_batch(config: SearchConfig, data: Data) -> None:
    size: Any = getattr(config.recipes, "batch_size", 0)
    if size > len(data.train):
        raise KdnasError(
            f"larger than the training split of {len(data.train)} samples",
            field="recipes.batch_size",
            value=size,
            remedy="choose a smaller batch",
        )


def needed_bytes(bank: Bank, others: Sequence[Any]) -> int:
    """Room in the object store for the bank and what travels beside it, with a reserve."""
    return int(1.2 * (bank.nbytes + sum(array.nbytes for array in others))) + RESERVE
