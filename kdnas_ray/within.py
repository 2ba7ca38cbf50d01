"""Do the best candidates keep a latency bound on this very machine, measured and not only modelled?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kdnas_ray.config import SearchConfig
from kdnas_ray.environment import cache_folder
from kdnas_ray.hardware.devices import DeviceProfile
from kdnas_ray.hardware.lookup import by_name
from kdnas_ray.hardware.measuring import Latency, measure, processor, remembered
from kdnas_ray.prepare import Plan
from kdnas_ray.runs import append_jsonl, read_jsonl
from search_spaces import Architecture
from search_spaces.notation import canonical

MEASURED = "measured.jsonl"
Row = dict[str, Any]


def keeping(run: Path, made: Plan, rows: Sequence[Row], top: int, say: Callable[[str], None]) -> list[Row]:
    """The first `top` candidates that keep their latency bounds when they are measured.

    Only bounds on a profile that `kdnas device calibrate` made on a machine like this one can be measured: without any,
    the first `top`. Each measurement is one line of measured.jsonl.

    Args:
        run: its folder.
        made: the checked search.
        rows: candidates trained to the end, best first.
        top: how many are wanted.
        say: where it is told who breaks a bound.
    """
    bounds = _measurable(made.config, made.bounds)
    if not bounds or not rows:
        return list(rows[:top])
    known = {(row["id"], row["device"]): row["latency_ms"] for row in read_jsonl(run / MEASURED)}
    chosen: list[Row] = []
    broken = 0
    for row in rows:
        if len(chosen) == top:
            break
        over = []
        for profile, bound in bounds:
            key = row["id"], profile.name
            if key not in known:
                found = measured(made, Architecture.of(row["architecture"]), profile)
                facts = {"id": row["id"], "device": profile.name, "latency_ms": found.median_ms}
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


def measured(made: Plan, architecture: Architecture, profile: DeviceProfile) -> Latency:
    """Latency of an architecture of the search on this machine, as the profile was calibrated; remembered."""
    config, data = made.config, made.data

    def build() -> nn.Module:
        return config.space.build(architecture, data.shape, len(data.classes))

    settings: dict[str, Any] = {"runtime": profile.runtime, "batch": 1, "threads": profile.threads}
    facts = {
        "space": repr(config.space),
        "architecture": canonical(config.space, architecture),
        "shape": list(data.shape),
        "classes": len(data.classes),
    }
    cache = cache_folder(config.bank.cache)
    return remembered(cache, facts | settings, lambda: measure(build(), data.shape, **settings))


def _measurable(config: SearchConfig, bounds: Mapping[str, float]) -> list[tuple[DeviceProfile, float]]:
    """Profiles of this machine that bound the latency, each with its bound in milliseconds."""
    found = []
    for profile in by_name(config.devices).values():
        bound = bounds.get(f"latency_ms/{profile.name}")
        if bound is not None and isinstance(profile, DeviceProfile) and profile.processor == processor():
            found.append((profile, bound))
    return found
