"""What surrounds the work on a run: its data in Ray's object store, Ctrl-C in order."""

import contextlib
import random
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import torch

from kdnas_ray.adapter import Stop
from kdnas_ray.config import SearchConfig
from kdnas_ray.environment import ray_session
from kdnas_ray.live import Narrator
from kdnas_ray.prepare import RESERVE, Plan, needed_bytes, plan
from kdnas_ray.runs import read_state, write_state
from kdnas_ray.stream_search import StreamPlan, plan_stream
from kdnas_ray.table_search import plan_table
from search_spaces import KdnasError, RunError, sample
from trainables.bank import Bank
from trainables.checkpoints import Checkpoints, within
from trainables.distill import Shared
from trainables.evaluators import Table
from trainables.layout import bfloat16_pays, channels_last_pays
from trainables.online import online
from trainables.teachers import Teacher


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the run folder is complete and `kdnas resume` goes on."""


def planned(config: SearchConfig) -> Plan:
    """The checked search, on a stream, on a table or on data.

    Raises:
        KdnasError: it cannot work.
    """
    if config.resources.checkpoints is not None:
        Checkpoints(config.resources.checkpoints).check()
    if config.stream is not None:
        return plan_stream(config)
    return plan_table(config) if isinstance(config.evaluator, Table) else plan(config)


@contextlib.contextmanager
def in_store(
    run: Path, made: Plan, bank: Bank, teacher: Teacher | None, arm: Callable[[], Any]
) -> Iterator[tuple[Shared, ray.ObjectRef]]:
    """A Ray session; yields what every training reads, and the same in the object store.

    Args:
        run: the run folder.
        made: the plan.
        bank: what the teachers said.
        teacher: the first one, None where there is none.
        arm: puts this process's handlers of Ctrl-C and SIGTERM back, see `interrupts`.
    """
    config, data = made.config, made.data
    room = needed_bytes(bank, [data.validation.images, data.test.images])
    with ray_session(config.resources.workers, config.resources.cpu, room):
        check_store(room - RESERVE)
        if made.online and teacher is not None:
            bank = online(bank, teacher.model, made.online, mean=data.mean, std=data.std, pool=config.bank.pool)
        arm()  # again: Ray put its own handler of SIGTERM in place, which prints a stack of C++ calls
        fast = fast_ways(run, made)
        shared = Shared(
            bank=bank,
            validation=data.validation,
            task=config.task,
            space=config.space,
            mean=data.mean,
            std=data.std,
            classes=len(data.classes),
            rungs=config.rungs(),
            checkpoints=checkpoints_of(run, config).where,
            threads=max(1, int(config.resources.cpu)),
            device="cuda" if config.resources.gpu else "cpu",
            channels_last=fast["channels_last"],
            bfloat16=fast["bfloat16"],
            pack=config.resources.pack,
            rung_s=config.resources.rung_s,
            stream=made.stream if isinstance(made, StreamPlan) else None,
        )
        yield shared, ray.put(shared)


def checkpoints_of(run: Path, config: SearchConfig) -> Checkpoints:
    """Where the run's unfinished candidates lie; at a URL, which many runs share, in a folder of its own."""
    where, storage = config.resources.checkpoints, config.resources.storage
    if where is None and storage is not None:
        where = within(storage, "checkpoints")
    if where is None:
        return Checkpoints(str((run / "trials").resolve()))
    state = read_state(run)
    if "checkpoints" not in state:
        state["checkpoints"] = f"{run.resolve().name}-{uuid.uuid4().hex[:8]}"
        write_state(run, state)
    return Checkpoints(within(where, state["checkpoints"]))


def check_store(needed: int) -> None:
    """Refuses data that a node's object store has no room for: Ray would write it to disk and read it from there.

    Args:
        needed: bytes.

    Raises:
        RunError: the smallest store is smaller.
    """
    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]]
    if needed > min(stores):
        raise RunError(
            f"takes {needed / 1e6:,.0f} MB of object store, and a node of this Ray has {min(stores) / 1e6:,.0f}",
            field="bank",
            remedy=f"bank.max_bytes={int(min(stores) / 1.2)} bank.overflow=map leaves it on disk; or fewer views or "
            "taps, bank.top_k, or a larger --object-store-memory of `ray start`",
        )


@contextlib.contextmanager
def interrupts(stop: Stop, narrator: Narrator) -> Iterator[Callable[[], Any]]:
    """The first Ctrl-C or SIGTERM ends the work in order, the second at once; yields what arms that once more."""
    if threading.current_thread() is not threading.main_thread():
        yield dict
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.reason == "interrupt":
            raise KeyboardInterrupt
        stop.reason = "interrupt"
        narrator.say("Stopping: all candidates are kept as far as they came. Once more to stop at once.")

    def arm() -> dict[int, Any]:
        return {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}

    kept = arm()
    try:
        yield arm
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def fast_ways(run: Path, made: Plan) -> dict[str, bool]:
    """`channels_last` and `bfloat16` of `Shared`: as configured, or the faster, measured once a run.

    Resuming keeps what the run began with. On GPUs nothing is measured, for the driver's machine may have none.
    """
    resources, state = made.config.resources, read_state(run)
    named = {"channels_last": resources.layout, "bfloat16": resources.precision}
    measures: dict[str, Callable[..., bool]] = {"channels_last": channels_last_pays, "bfloat16": bfloat16_pays}
    ways: dict[str, bool] = {}
    for way, choice in named.items():
        if choice != "auto":
            ways[way] = choice == way
        elif way in state or resources.gpu:
            ways[way] = state.get(way, False)
        else:
            ways[way] = state[way] = _measured(made, measures[way], *ways.values())
            write_state(run, state)
    return ways


def _measured(made: Plan, pays: Callable[..., bool], *before: bool) -> bool:
    config, data = made.config, made.data
    architecture, classes = sample(config.space, random.Random(config.seed)), len(data.classes)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(config.resources.cpu)))
    try:
        return pays(
            lambda: config.space.build(architecture, data.shape, classes),
            data.shape,
            classes,
            config.recipes.batch_size,
            *before,
        )
    finally:
        torch.set_num_threads(threads)


def workers(config: SearchConfig) -> int:
    """Trials at once."""
    there = slots(config)
    return min(there, config.resources.workers or there)


def slots(config: SearchConfig) -> int:
    """Trials that Ray has room for.

    Raises:
        RunError: for none.
    """
    total = ray.cluster_resources()
    if (found := _room(config, total)) < 1:
        raise RunError(**_no_room(config, total))
    return found


def check_room(config: SearchConfig, total: Mapping[str, float] | None) -> None:
    """Refuses a search whose Ray has room for no trial, before any work.

    Args:
        total: what that Ray has; None where the search will start its own.

    Raises:
        KdnasError: there is no room.
    """
    if total is not None and _room(config, total) < 1:
        raise KdnasError(**_no_room(config, total))


def _room(config: SearchConfig, total: Mapping[str, float]) -> int:
    """Trials that fit into so many CPUs and GPUs."""
    wanted = {"CPU": config.resources.cpu, "GPU": config.resources.gpu}
    return min(int(total.get(name, 0) / each) for name, each in wanted.items() if each)


def _no_room(config: SearchConfig, total: Mapping[str, float]) -> dict[str, Any]:
    return {
        "problem": "no machine has room for one trial",
        "field": "resources",
        "value": {"cpu": config.resources.cpu, "gpu": config.resources.gpu},
        "remedy": f"Ray has CPU {total.get('CPU', 0):g}, GPU {total.get('GPU', 0):g}",
    }
