"""How long do a space's architecture, or a run's best student, take: measured here, and modelled for a device?"""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kdnas_ray.config import read
from kdnas_ray.environment import cache_folder
from kdnas_ray.hardware.few_shot import FewShot, check_fits
from kdnas_ray.hardware.lookup import Device, by_name
from kdnas_ray.hardware.measuring import check_runtime, measure, remembered
from kdnas_ray.hardware.operators import Operators, operators
from kdnas_ray.hardware.roofline import bottleneck, latency_ms, memory_bytes, unsupported
from kdnas_ray.kept_config import run_config
from kdnas_ray.runs import check_creatable, read_jsonl, read_summary
from search_spaces import SPACES, Architecture, KdnasError, Shape, Space, sample
from search_spaces.notation import canonical, notation, parse
from trainables.model_files import load_student, space_of
from trainables.slot import told_once

MOST_SIDE = 1024  # pixels


def latency(
    what: str,
    words: Sequence[str],
    *,
    shape: str = "3x32x32",
    devices: Sequence[str] = (),
    runtime: str = "onnx",
    batch: int = 1,
    threads: int = 1,
    seed: int = 0,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Latency of one network.

    Args:
        what: a run folder, whose best student is meant, or the name of a space.
        words: of a space: an architecture in its notation (a random one without) and `space.key=value`.
        shape: channels x height x width of an input, for a space.
        devices: for which to model it as well.
        runtime: to measure on, see `measure`; `none` to model only.
        batch: inputs at a time.
        threads: of one inference.
        seed: of a random architecture.
        say: told when the measurement has to wait for the machine.

    Returns:
        `architecture`, `shape`, `params`, `macs`, `measured` (milliseconds: median_ms, low_ms, high_ms; None where not
        asked for) and for each of `devices` its `latency_ms`, `memory_mb`, `bottleneck` and `unsupported` operators
        (a model of few measurements knows the latency only: the others are None and empty).

    Raises:
        KdnasError: unknown space, run, architecture, device or runtime.
    """
    cache = cache_folder(None)
    if runtime != "none":
        check_runtime(runtime)
        check_creatable(cache, "KDNAS_CACHE")
    known = by_name(devices)
    space, architecture, sizes, classes = (
        _run(Path(what), words) if means_run(what) else _space(what, words, shape, seed)
    )

    for name, one in known.items():
        if isinstance(one, FewShot):
            check_fits(one, space, sizes)
            if batch > 1:
                remedy = "leave out --batch, or --device"
                raise KdnasError(f"{name} was measured for one input", field="--batch", value=batch, remedy=remedy)

    def build() -> nn.Module:
        return space.build(architecture, sizes, classes)

    network = operators(build, sizes)
    measured = None
    if runtime != "none":
        facts = {
            "space": repr(space),
            "architecture": canonical(space, architecture),
            "shape": list(sizes),
            "classes": classes,
            "runtime": runtime,
            "batch": batch,
            "threads": threads,
        }
        measured = asdict(
            remembered(
                cache,
                facts,
                lambda: measure(build(), sizes, runtime=runtime, batch=batch, threads=threads),
                told_once(say),
            )
        )
    batched = network if batch == 1 else operators(build, sizes, batch)
    return {
        "architecture": notation(space, architecture),
        "shape": list(sizes),
        "params": network.params,
        "macs": network.macs,
        "measured": measured,
        "devices": {name: _on(one, batched, architecture) for name, one in known.items()},
    }


def means_run(what: str) -> bool:
    """Whether a word that may name a space means a run folder: a folder that is only called like a space is none."""
    folder = Path(what)
    return folder.is_dir() and (what not in SPACES or (folder / "config.yaml").is_file())


def read_shape(text: str, field: str = "--shape") -> Shape:
    """Channels, height and width of `3x32x32`; commas serve as well.

    Raises:
        KdnasError: it is not written so, or too large.
    """
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise KdnasError("is no shape", field=field, value=text, remedy="channels x height x width: 3x32x32")
    sizes = tuple(int(part) for part in parts)
    if min(sizes) < 1 or max(sizes) > MOST_SIDE:
        raise KdnasError("sizes lie between 1 and 1024", field=field, value=text, remedy="for example 3x224x224")
    return sizes[0], sizes[1], sizes[2]


def _on(device: Device, network: Operators, architecture: Architecture) -> dict[str, Any]:
    if isinstance(device, FewShot):
        milliseconds = float(device.latencies_ms([architecture])[0])
        return {"latency_ms": milliseconds, "memory_mb": None, "bottleneck": None, "unsupported": []}
    return {
        "latency_ms": latency_ms(network, device),
        "memory_mb": memory_bytes(network, device) / 1e6,
        "bottleneck": bottleneck(network, device),
        "unsupported": list(unsupported(network, device)),
    }


def _run(run: Path, words: Sequence[str]) -> tuple[Space, Any, Shape, int]:
    if words:
        raise KdnasError(
            "of a run, its best student is meant",
            field="ARCHITECTURE",
            value=" ".join(words),
            remedy=f"leave it out; if {str(run)!r} is to be a space, work in a folder that holds none of that name",
        )
    best = run / "best"
    if not best.is_dir():
        raise KdnasError(
            "holds no best student",
            field="RUN",
            value=str(run),
            remedy=f"a search ends with one: `kdnas retrain {run}`",
        )
    _, meta = load_student(best)
    space, architecture = space_of(meta)
    return space, architecture, tuple(meta["shape"]), len(meta["classes"])


def _space(name: str, words: Sequence[str], shape: str, seed: int) -> tuple[Space, Any, Shape, int]:
    return *chosen_architecture(name, words, seed), read_shape(shape), 10


def chosen_architecture(name: str, words: Sequence[str], seed: int) -> tuple[Space, Architecture]:
    """A space and an architecture of it, as they are named on the command line.

    Args:
        name: of the space.
        words: an architecture in its notation (a random one without) and `space.key=value`.
        seed: of a random architecture.

    Raises:
        KdnasError: unknown space or option, or no such architecture.
    """
    if "/" in name:
        raise KdnasError("no such run folder", field="RUN|SPACE", value=name, remedy=f"or a space: {', '.join(SPACES)}")
    texts = [word for word in words if not word.startswith("space.")]
    if len(texts) > 1:
        raise KdnasError(
            "more than one architecture",
            field="ARCHITECTURE",
            value=" ".join(texts),
            remedy="quote it; an option of the space is space.key=value",
        )
    space = read({"space": name}, [word for word in words if word.startswith("space.")]).space
    return space, parse(space, texts[0]) if texts else sample(space, random.Random(seed))


def candidate_of(run: Path, words: Sequence[str]) -> tuple[Space, Architecture]:
    """The space of a run and the architecture of one of its candidates.

    Args:
        run: its folder.
        words: the candidate's id; none for the best.

    Raises:
        KdnasError: not a run folder, or no such candidate.
    """
    space, rows = run_config(run).space, {row["id"]: row for row in read_jsonl(run / "candidates.jsonl")}
    best = read_summary(run).get("best")
    name = words[0] if words else best and best["id"]
    if len(words) > 1 or name not in rows:
        raise KdnasError(
            "no such candidate",
            field="CANDIDATE",
            value=" ".join(words) or None,
            remedy=f"one id of the {len(rows)} in {run / 'candidates.jsonl'}",
        )
    return space, Architecture.of(rows[name]["architecture"])
