"""What profile describes this machine, and how well does it predict networks that it has not seen?"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr
from torch import nn

from kdnas_ray.hardware.devices import DeviceProfile
from kdnas_ray.hardware.measuring import Latency, measure, processor
from kdnas_ray.hardware.operators import CONVOLUTIONS, Operators, operators
from kdnas_ray.hardware.roofline import latency_ms, padded_macs, started
from search_spaces import SPACES, Architecture, KdnasError, Shape, Space, sample

SHAPE: Shape = (3, 32, 32)
CLASSES = 10
USUAL = ("resnet", "mobilenet", "nasbench201")  # spaces that differ in their operators
PADDINGS = (1, 4, 8, 16)  # multiples of channels that are tried
COMPUTING = (*CONVOLUTIONS, "linear", "matmul", "attention")
FASTEST = 1e15  # operations a second of a kind whose computing takes no time that can be told

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """A network and how long it took."""

    space: str
    network: Operators
    latency: Latency


@dataclass(frozen=True)
class Agreement:
    """How well modelled latencies agree with measured ones.

    Args:
        networks: how many were compared.
        spearman: rank correlation.
        median_error: half of the networks are predicted better than this, relative to the measured.
    """

    networks: int
    spearman: float
    median_error: float


def draw_networks(names: Sequence[str], count: int, seed: int) -> list[tuple[str, Space, Architecture]]:
    """Random architectures of spaces, as many of each as can be."""
    unknown = [name for name in names if name not in SPACES]
    if unknown:
        raise KdnasError("unknown space", field="--spaces", value=unknown[0], remedy=f"known: {', '.join(SPACES)}")
    rng, spaces = random.Random(seed), [(name, SPACES[name]()) for name in names]
    return [(name, space, sample(space, rng)) for name, space in (spaces[i % len(spaces)] for i in range(count))]


def measure_networks(
    drawn: Iterable[tuple[str, Space, Architecture]], *, runtime: str, threads: int, shape: Shape = SHAPE, say: Say
) -> list[Measured]:
    """Their operators and latencies on this machine."""
    found = []
    for number, (name, space, architecture) in enumerate(drawn, start=1):

        def build(space: Space = space, architecture: Architecture = architecture) -> nn.Module:
            return space.build(architecture, shape, CLASSES)

        found.append(Measured(name, operators(build, shape), measure(build(), shape, runtime=runtime, threads=threads)))
        if number % 20 == 0:
            say(f"{number} networks measured")
    return found


def fit_profile(measured: Sequence[Measured], name: str, runtime: str) -> DeviceProfile:
    """The profile under which the measured networks take as long as they did.

    Least squares of relative errors with no time below 0: every kind of operator has an overhead and a speed of
    computing, and all share one bandwidth; computing and moving follow one another. Of several multiples to which
    channels may be padded the one that fits best is taken.

    Source: Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23 (non-negative least squares).

    Args:
        measured: networks, some dozens of several spaces.
        name: of the profile.
        runtime: that they were measured on, for the summary.

    Raises:
        KdnasError: there are too few.
    """
    if len(measured) < 20:
        raise KdnasError("too few networks to fit a profile to", field="--networks", value=len(measured), remedy="20")
    blank = DeviceProfile(
        name,
        flops_per_s=FASTEST,
        bytes_per_s=FASTEST,
        summary=f"{processor()}, {runtime}, calibrated on {len(measured)} networks",
        overlaps=False,
    )
    fits = [_fitted(measured, replace(blank, channels=channels)) for channels in PADDINGS]
    return min(fits, key=lambda profile: agreement(profile, measured).median_error)


def agreement(profile: DeviceProfile, measured: Sequence[Measured]) -> Agreement:
    """How well a profile predicts what was measured."""
    return compare([latency_ms(found.network, profile) for found in measured], measured)


def compare(modelled: Sequence[float], measured: Sequence[Measured]) -> Agreement:
    """How well these milliseconds agree with what was measured."""
    true = np.array([found.latency.median_ms for found in measured])
    errors = np.abs(np.array(modelled) / true - 1)
    return Agreement(len(true), float(spearmanr(modelled, true).statistic), float(np.median(errors)))


def _fitted(measured: Sequence[Measured], blank: DeviceProfile) -> DeviceProfile:
    kinds = sorted({op.kind for found in measured for op in started(found.network, blank)})
    computing = [kind for kind in kinds if kind in COMPUTING]

    def features(network: Operators) -> list[float]:
        each = list(started(network, blank))
        counts = [float(sum(op.kind == kind for op in each)) for kind in kinds]
        work = [sum(padded_macs(op, blank.channels) for op in each if op.kind == kind) / 1e6 for kind in computing]
        return [1.0, *counts, *work, sum(op.elements for op in each) / 1e6]

    times = np.array([found.latency.median_ms for found in measured])
    table = np.array([features(found.network) for found in measured]) / times[:, None]
    fixed, *values = nnls(table, np.ones(len(times)))[0]
    overheads = values[: len(kinds)]
    per_mac = values[len(kinds) : len(kinds) + len(computing)]  # milliseconds of a million multiply-adds
    speeds = {kind: 2e9 / ms if ms > 0 else FASTEST for kind, ms in zip(computing, per_mac, strict=True)}
    peak = max((float(speed) for speed in speeds.values() if speed < FASTEST), default=FASTEST)
    return replace(
        blank,
        flops_per_s=peak,
        bytes_per_s=float(blank.element_bytes * 1e9 / values[-1]) if values[-1] > 0 else FASTEST,
        fixed_us=1e3 * float(fixed),
        overhead_us={kind: 1e3 * float(ms) for kind, ms in zip(kinds, overheads, strict=True)},
        efficiency={kind: min(1.0, float(speed / peak)) for kind, speed in speeds.items()},
    )


def report(profile: DeviceProfile, unseen: Sequence[Measured]) -> list[dict[str, Any]]:
    """Agreement on networks that the profile was not fitted to: of all, and of each space."""
    rows = [("all", list(unseen))]
    rows += [(name, [found for found in unseen if found.space == name]) for name in {f.space: 0 for f in unseen}]
    return [
        {"space": name, "networks": found.networks, "spearman": found.spearman, "median_error": found.median_error}
        for name, group in rows
        for found in [agreement(profile, group)]
    ]
