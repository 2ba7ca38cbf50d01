"""How long does a network take on this machine? Measured, alone, and remembered."""

import contextlib
import hashlib
import io
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdnas_ray.environment import versions
from kdnas_ray.runs import append_jsonl, read_jsonl
from search_spaces import KdnasError, Shape
from trainables.slot import exclusive

RUNTIMES = ("onnx", "eager", "compiled")
WARM_UP = 10  # inferences before any is timed
LEAST, SECONDS = 20, 0.3  # timed: so many inferences at least, and so long
ROUNDS = 3  # times that a network is measured of which the fastest median counts, where a decision hangs on it
LATENCIES = "latencies.jsonl"
CPU_INFO = Path("/proc/cpuinfo")
NAMELESS = ("Model", "CPU implementer", "CPU part")  # what ARM has there in place of a name


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference: the median, and the quartiles around it.

    Args:
        median_ms: half of the inferences were faster.
        low_ms: a quarter was faster.
        high_ms: three quarters were faster.
        runs: inferences timed.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


def measure(
    model: nn.Module, shape: Shape, *, runtime: str = "onnx", batch: int = 1, threads: int = 1, device: str = "cpu"
) -> Latency:
    """Latency of a network on this machine.

    Random inputs, warmed up. On CUDA by events on the stream, else by the clock around each inference.

    Args:
        model: the network; put into evaluation mode.
        shape: channels, height and width of an input.
        runtime: `onnx` (ONNX Runtime), `eager` or `compiled` (PyTorch).
        batch: inputs at a time.
        threads: of one inference.
        device: `cpu` or `cuda`; ONNX Runtime runs on the CPU here.

    Raises:
        KdnasError: unknown runtime, ONNX Runtime is not installed, or there is no such device.
    """
    return timer(model, shape, runtime=runtime, batch=batch, threads=threads, device=device)()


def timer(
    model: nn.Module, shape: Shape, *, runtime: str = "onnx", batch: int = 1, threads: int = 1, device: str = "cpu"
) -> Callable[[], Latency]:
    """The network made ready to be measured as often as one likes; arguments and errors as those of `measure`."""
    check_runtime(runtime)
    if device == "cuda" and not torch.cuda.is_available():
        raise KdnasError("there is no GPU that PyTorch can use", field="--on", value=device, remedy="choose cpu")
    model = model.eval().to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.rand(batch, *shape, device=device)
    infer = _on_onnx(model, images, threads) if runtime == "onnx" else _on_torch(model, images, runtime)

    def time_it() -> Latency:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                times = _timed(infer, device if runtime != "onnx" else "cpu")
        finally:
            torch.set_num_threads(before)
        low, median, high = np.percentile(1e3 * np.array(times), [25, 50, 75])
        return Latency(float(median), float(low), float(high), len(times))

    return time_it


def fastest(rounds: Iterable[Latency]) -> Latency:
    """The one with the least median: what else runs on a machine comes in bursts, and only ever adds time."""
    return min(rounds, key=lambda latency: latency.median_ms)


def check_runtime(runtime: str) -> None:
    """Refuses a runtime that there is not.

    Raises:
        KdnasError: it is unknown, or not installed.
    """
    if runtime not in RUNTIMES:
        raise KdnasError("unknown runtime", field="--runtime", value=runtime, remedy=f"known: {', '.join(RUNTIMES)}")
    if runtime == "onnx":
        try:
            import onnxruntime  # noqa: F401 (only whether it is there)
        except ImportError as error:
            raise KdnasError(
                "ONNX Runtime is not installed",
                field="--runtime",
                value=runtime,
                remedy='pip install "kdnas_ray[export]", or choose eager',
            ) from error


def check_measurable(devices: Mapping[str, Any], bounds: Container[str]) -> None:
    """Refuses bounds on this machine that cannot be measured on it.

    Args:
        devices: profiles and models by name.
        bounds: full names of what is bounded.

    Raises:
        KdnasError: the runtime of such a profile is not installed.
    """
    for name, profile in devices.items():
        if f"latency_ms/{name}" in bounds and getattr(profile, "processor", "") == processor():
            check_runtime(profile.runtime)


def remembered(
    folder: Path,
    facts: Mapping[str, Any],
    measuring: Callable[[], Latency],
    waiting: Callable[[], object] = lambda: None,
) -> Latency:
    """The latency of these facts on this machine, measured in its slot where it is not known.

    Args:
        folder: the cache.
        facts: all that decides it: architecture, shape, runtime, batch, threads.
        measuring: measures it.
        waiting: called while the slot is taken, see `exclusive`.
    """
    key = _key({**facts, **machine()})
    found = _known(folder, key)
    if found is None:
        with exclusive(waiting=waiting):
            found = _known(folder, key)  # another process may have measured it while this one waited
            if found is None:
                found = measuring()
                folder.mkdir(parents=True, exist_ok=True)
                append_jsonl(folder / LATENCIES, {"key": key, **facts, **machine(), "latency": asdict(found)})
    return found


def machine() -> dict[str, Any]:
    """What of this machine decides how fast a network is."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found = {"processor": processor(), "cores": os.cpu_count(), "gpu": gpu, "torch": versions().get("torch")}
    return found | {"onnxruntime": versions().get("onnxruntime")}


def processor() -> str:
    """Name of the processor; two that differ in speed must not have the same."""
    with contextlib.suppress(OSError):
        if name := _described(CPU_INFO.read_text()):
            return name
    return platform.processor() or platform.machine()


def onnx_bytes(model: nn.Module, images: torch.Tensor) -> bytes:
    """The network as ONNX for inputs of just this shape: to be timed, not to be kept (`kdnas export`)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, and thirty times faster
        torch.onnx.export(model, (images,), buffer, dynamo=False, input_names=["images"])  # type: ignore[arg-type]
    return buffer.getvalue()


def _on_onnx(model: nn.Module, images: torch.Tensor, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    model, images = model.cpu(), images.cpu()
    session = onnxruntime.InferenceSession(onnx_bytes(model, images), options, providers=["CPUExecutionProvider"])
    given = {"images": images.numpy()}
    return lambda: session.run(None, given)


def _on_torch(model: nn.Module, images: torch.Tensor, runtime: str) -> Callable[[], Any]:
    called: Any = torch.compile(model) if runtime == "compiled" else model
    return lambda: called(images)


def _timed(infer: Callable[[], Any], device: str) -> list[float]:
    for _ in range(WARM_UP):
        infer()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < LEAST or time.perf_counter() < end:
        times.append(_on_stream(infer) if device == "cuda" else _by_clock(infer))
    return times


def _by_clock(infer: Callable[[], Any]) -> float:
    began = time.perf_counter()
    infer()
    return time.perf_counter() - began


def _on_stream(infer: Callable[[], Any]) -> float:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    infer()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def _known(folder: Path, key: str) -> Latency | None:
    rows = read_jsonl(folder / LATENCIES)
    return next((Latency(**row["latency"]) for row in rows if row.get("key") == key), None)


def _described(cpu_info: str) -> str:
    lines = [line.partition(":") for line in cpu_info.splitlines()]
    found = {key.strip(): value.strip() for key, _, value in reversed(lines)}  # the first processor's
    names = [f"{name.removeprefix('CPU ')} {found[name]}" for name in NAMELESS if name in found]
    return found.get("model name") or (f"{platform.machine()}, {', '.join(names)}" if names else "")


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
