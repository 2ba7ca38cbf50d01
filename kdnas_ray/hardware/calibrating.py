"""What profile describes this machine, and how well does it predict networks that it has not seen?"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr
from torch import nn

from kdnas_ray.hardware.devices import EVERY, DeviceProfile
from kdnas_ray.hardware.measuring import ROUNDS, Latency, fastest, processor, timer
from kdnas_ray.hardware.operators import CONVOLUTIONS, Operator, Operators, operators
from kdnas_ray.hardware.roofline import latency_ms, moved_elements, padded_macs, started, variant
from search_spaces import SPACES, Architecture, KdnasError, Shape, Space, sample

SHAPE: Shape = (3, 32, 32)
CLASSES = 10
USUAL = ("resnet", "mobilenet", "nasbench201")  # spaces that differ in their operators
LAYOUTS = ((1, False), (4, False), (8, False), (16, False), (4, True), (8, True), (16, True))  # channels, blocked
FOLDS = 5
REWEIGHTED, EXACT = 15, 0.03  # rounds of reweighting; relative error below which all count alike
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
        spearman: rank correlation; None where there is none, as of one network.
        median_error: half of the networks are predicted better than this, relative to the measured.
    """

    networks: int
    spearman: float | None
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
    """Their operators and latencies on this machine.

    All are timed one after the other, `ROUNDS` times over, and of each the fastest median counts: bursts of what else
    runs on a machine outlast a measurement.
    """
    ready = []
    for number, (name, space, architecture) in enumerate(drawn, start=1):

        def build(space: Space = space, architecture: Architecture = architecture) -> nn.Module:
            return space.build(architecture, shape, CLASSES)

        ready.append((name, operators(build, shape), timer(build(), shape, runtime=runtime, threads=threads)))
        if number % 20 == 0:
            say(f"{number} networks built")
    rounds = []
    for number in range(1, ROUNDS + 1):
        rounds.append([time_it() for _, _, time_it in ready])
        say(f"{len(ready)} networks measured, round {number} of {ROUNDS}")
    best = [fastest(found) for found in zip(*rounds, strict=True)]
    return [Measured(name, network, latency) for (name, network, _), latency in zip(ready, best, strict=True)]


def fit_profile(measured: Sequence[Measured], name: str, runtime: str, threads: int = 1) -> DeviceProfile:
    """The profile under which the measured networks take as long as they did.

    Least relative errors with no time below 0 (`least_errors`): every variant of an operator has an overhead, a speed
    of computing and a bandwidth; computing and moving follow one another. Of several ways in which channels may be
    padded or blocked the one is taken that predicts best what a fit to other networks did not see.

    Args:
        measured: networks, some dozens of several spaces.
        name: of the profile.
        runtime: that they were measured on.
        threads: of one inference.

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
        processor=processor(),
        runtime=runtime,
        threads=threads,
    )
    tried = [replace(blank, channels=channels, blocked=blocked) for channels, blocked in LAYOUTS]
    return _fitted(measured, min(tried, key=lambda layout: _unseen_error(measured, layout)))


def agreement(profile: DeviceProfile, measured: Sequence[Measured]) -> Agreement:
    """How well a profile predicts what was measured."""
    return compare([latency_ms(found.network, profile) for found in measured], measured)


def compare(modelled: Sequence[float], measured: Sequence[Measured]) -> Agreement:
    """How well these milliseconds agree with what was measured."""
    true = np.array([found.latency.median_ms for found in measured])
    errors = np.abs(np.array(modelled) / true - 1)
    several = len(set(modelled)) > 1 and len(set(true)) > 1  # else ranks correlate with nothing
    spearman = float(spearmanr(modelled, true).statistic) if several else None
    return Agreement(len(true), spearman, float(np.median(errors)))


def _unseen_error(measured: Sequence[Measured], layout: DeviceProfile) -> float:
    """Median relative error on networks that the fit did not see, by cross-validation."""
    errors = []
    for fold in range(FOLDS):
        others = [found for place, found in enumerate(measured) if place % FOLDS != fold]
        profile = _fitted(others, layout)
        left_out = measured[fold::FOLDS]
        errors += [abs(latency_ms(found.network, profile) / found.latency.median_ms - 1) for found in left_out]
    return float(np.median(errors))


def _fitted(measured: Sequence[Measured], layout: DeviceProfile) -> DeviceProfile:
    each = [[(variant(op, layout), op) for op in started(found.network.each, layout)] for found in measured]
    ways = sorted({way for operators in each for way, _ in operators})
    computing = [way for way in ways if way.partition("/")[0] in COMPUTING]

    def features(operators: Sequence[tuple[str, Operator]]) -> list[float]:
        count, macs, moved = (dict.fromkeys(ways, 0.0) for _ in range(3))
        for way, op in operators:
            count[way] += 1
            macs[way] += padded_macs(op, layout) / 1e6
            moved[way] += moved_elements(op, layout) / 1e6
        return [1.0, *count.values(), *(macs[way] for way in computing), *moved.values()]

    times = np.array([found.latency.median_ms for found in measured])
    fixed, *values = least_errors(np.array([features(operators) for operators in each]), times)
    overheads, values = values[: len(ways)], values[len(ways) :]
    speeds = {way: 2e9 / ms if ms > 0 else FASTEST for way, ms in zip(computing, values, strict=False)}
    rates = {
        way: layout.element_bytes * 1e9 / ms if ms > 0 else FASTEST
        for way, ms in zip(ways, values[len(computing) :], strict=True)
    }
    peak, bandwidth = (
        max((speed for speed in known.values() if speed < FASTEST), default=FASTEST) for known in (speeds, rates)
    )
    # What took no time that can be told gets the largest known speed: a share is at most 1.
    # What no network had is taken for an average of what took time, not for nothing.
    usual_ms, usual_speed, usual_rate = (
        float(np.median(known)) if known else otherwise
        for known, otherwise in (
            ([ms for ms in overheads if ms > 0], 0.0),
            ([each for each in speeds.values() if each < FASTEST], peak),
            ([each for each in rates.values() if each < FASTEST], bandwidth),
        )
    )
    return replace(
        layout,
        flops_per_s=float(peak),
        bytes_per_s=float(bandwidth),
        fixed_us=1e3 * float(fixed),
        overhead_us={way: 1e3 * float(ms) for way, ms in zip(ways, overheads, strict=True)} | {EVERY: 1e3 * usual_ms},
        efficiency={way: min(1.0, float(speed / peak)) for way, speed in [*speeds.items(), (EVERY, usual_speed)]},
        streaming={way: min(1.0, float(rate / bandwidth)) for way, rate in [*rates.items(), (EVERY, usual_rate)]},
    )


def least_errors(features: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Weights of the features, none below 0, whose sums have the least relative errors.

    Least squares, reweighted so that large errors count by their size and not by its square: a measurement that was
    disturbed does not bend the fit.

    Source: Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23 (non-negative least squares); Holland
    and Welsch 1977, Robust Regression Using Iteratively Reweighted Least-Squares.

    Args:
        features: `[networks, features]`.
        times: `[networks]`, above 0.
    """
    relative, weights = features / times[:, None], np.ones(len(times))
    for _ in range(REWEIGHTED):
        found = nnls(relative * weights[:, None], weights)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(relative @ found - 1), EXACT))
    return found


def report(profile: DeviceProfile, unseen: Sequence[Measured]) -> list[dict[str, Any]]:
    """Agreement on networks that the profile was not fitted to: of all, and of each space."""
    rows = [("all", list(unseen))]
    rows += [(name, [found for found in unseen if found.space == name]) for name in {f.space: 0 for f in unseen}]
    return [
        {"space": name, "networks": found.networks, "spearman": found.spearman, "median_error": found.median_error}
        for name, group in rows
        for found in [agreement(profile, group)]
    ]
