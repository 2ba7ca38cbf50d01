"""Do the best candidates keep a latency bound on this very machine, measured and not only modelled?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kdnas_ray.adapter import Stop
from kdnas_ray.environment import cache_folder
from kdnas_ray.hardware.devices import DeviceProfile
from kdnas_ray.hardware.measuring import ROUNDS, Latency, fastest, processor, remembered, timer
from kdnas_ray.prepare import Plan
from kdnas_ray.runs import append_jsonl, read_jsonl
from kdnas_ray.session import Interrupted
from search_spaces import Architecture
from search_spaces.notation import canonical
from trainables.slot import told_once

MEASURED = "measured.jsonl"
KEY = ("id", "device", "processor", "runtime", "threads")  # of a line: all that decides what it says
Row = dict[str, Any]


def keeping(run: Path, made: Plan, rows: Sequence[Row], top: int, say: Callable[[str], None], stop: Stop) -> list[Row]:
    """The first `top` candidates that keep their latency bounds when they are measured.

    Only bounds on a profile that `kdnas device calibrate` made on a machine like this one can be measured: without any,
    the first `top`. Each measurement is one line of measured.jsonl.

    Args:
        run: its folder.
        made: the checked search.
        rows: candidates trained to the end, best first.
        top: how many are wanted.
        say: where it is told who breaks a bound.
        stop: asked between measurements, and while one waits.

    Raises:
        Interrupted: `stop` said so; what was measured is kept.
    """
    bounds = _measurable(made)
    if not bounds or not rows:
        return list(rows[:top])
    known, waits = _known(run), told_once(say)

    def go_on() -> None:
        if stop.reason == "interrupt":
            raise Interrupted(str(run))

    def waiting() -> None:
        waits()
        go_on()

    chosen: list[Row] = []
    broken = 0
    for row in rows:
        if len(chosen) == top:
            break
        over = []
        for profile, bound in bounds:
            key = _key(row["id"], profile)
            if key not in known:
                go_on()
                found = measured(made, Architecture.of(row["architecture"]), profile, waiting)
                facts = dict(zip(KEY, key, strict=True)) | {"latency_ms": found.median_ms}
                modelled = {"modelled_ms": row.get(f"latency_ms/{profile.name}")}
                append_jsonl(run / MEASURED, facts | modelled | asdict(found))
                known[key] = found.median_ms
            if known[key] > bound:
                over.append(f"{known[key]:.3g} ms on {profile.name} (at most {bound:.3g})")
        if over:
            broken += 1
            say(f"{row['id']} is no finalist: measured, it takes {', '.join(over)}")
        else:
            chosen.append(row)
    if len(chosen) < min(top, len(rows)):
        say(f"{broken} of {len(rows)} candidates break a latency bound when measured; {len(chosen)} are left")
    return chosen


def over_bounds(run: Path, made: Plan) -> set[str]:
    """Ids of candidates that broke a latency bound when they were measured for this run."""
    known = _known(run)
    bounds = _measurable(made) if known else []
    return {
        key[0] for key, ms in known.items() for profile, bound in bounds if key == _key(key[0], profile) and ms > bound
    }


def measured(
    made: Plan, architecture: Architecture, profile: DeviceProfile, waiting: Callable[[], object] = lambda: None
) -> Latency:
    """Latency of an architecture of the search on this machine, as the profile was calibrated; remembered.

    The fastest median of `ROUNDS`, as in calibration: one disturbed measurement must not decide for good.
    """
    config, data = made.config, made.data

    def build() -> nn.Module:
        return config.space.build(architecture, data.shape, len(data.classes))

    def measuring() -> Latency:
        time_it = timer(build(), data.shape, **settings)
        return fastest(time_it() for _ in range(ROUNDS))

    settings: dict[str, Any] = {"runtime": profile.runtime, "batch": 1, "threads": profile.threads}
    facts = {
        "rounds": ROUNDS,
        "space": repr(config.space),
        "architecture": canonical(config.space, architecture),
        "shape": list(data.shape),
        "classes": len(data.classes),
    }
    cache = cache_folder(config.bank.cache)
    return remembered(cache, facts | settings, measuring, waiting)


def _known(run: Path) -> dict[tuple[Any, ...], float]:
    return {tuple(row.get(name) for name in KEY): row["latency_ms"] for row in read_jsonl(run / MEASURED)}


def _key(candidate: str, profile: DeviceProfile) -> tuple[Any, ...]:
    return candidate, profile.name, profile.processor, profile.runtime, profile.threads


def _measurable(made: Plan) -> list[tuple[DeviceProfile, float]]:
    """Profiles of this machine that bound the latency, each with its bound in milliseconds."""
    found = []
    for profile in made.devices.values():
        bound = made.bounds.get(f"latency_ms/{profile.name}")
        if bound is not None and isinstance(profile, DeviceProfile) and profile.processor == processor():
            found.append((profile, bound))
    return found
