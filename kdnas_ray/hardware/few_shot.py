"""How fast is every architecture of a space on a device of which we know twenty measurements?

Devices resemble each other. The log latencies of the devices that are known, measured or modelled, are taken for draws
from one Gaussian process over architectures: its covariance is theirs, made smooth in the decisions and their pairs,
and a smooth function of how often each operation occurs. The new device is one more draw, conditioned on what was
measured of it. How noisy the measurements are and how much the second part counts are weighed by the likelihood of the
measurements; nothing else is learned from them. The architectures to measure are those after which the process would
know most about all others.

Everything that a prediction needs is a list of numbers, written as JSON or YAML.
"""

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.stats import norm, spearmanr

from kdnas_ray.hardware.devices import check_name
from kdnas_ray.parsing import Choice
from kdnas_ray.plain_yaml import load_yaml
from search_spaces import SPACES, Architecture, KdnasError, Shape, Space, first_line, sample
from search_spaces.notation import notation, parse
from search_spaces.registry import data_only

Array = NDArray[np.float64]

POOL = 1_000  # architectures that are enough to choose from
LEAST = 5  # measurements; fewer say nothing about their own noise
NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 0.6)  # variances of a measurement, relative to the process's own
FREEDOMS = (0.0, 0.03, 0.1, 0.3)  # weights of the covariance by counts beside the one by known devices
USUAL_NOISE, USUAL_FREEDOM = 0.1, 0.1  # before anything is measured
LENGTH = 3.2  # squared length of the covariance by counts, a count's variance being 1
OFFSET = 100.0  # variance of the process's mean: as good as unknown
PAIRS_UP_TO = 60  # columns; with more, pairs of decisions would be more numbers than there is data
RIDGE = 1e-3  # of the smoothing, relative to the number of architectures
FORMAT = "kdnas few-shot latency 1"
SPACE = Choice(SPACES, "space", "resnet")  # reads a space and its options, and writes them down


@dataclass(frozen=True)
class Column:
    """One number of an architecture.

    Args:
        decision: whose it is.
        choice: it is 1 where this was chosen; None for a number, scaled to 0 … 1.
        low: least number seen.
        high: largest number seen.
    """

    decision: str
    choice: str | None = None
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Known:
    """What is known of a space before a device is measured.

    Args:
        columns: numbers of an architecture, by which `describe` describes it.
        slopes: `[devices, features]`, standardised log latency of the known devices.
        offsets: `[devices]`, subtracted from it.
        centre: `[counts]`, mean of the counts.
        spread: `[counts]`, their standard deviation.
    """

    columns: tuple[Column, ...]
    slopes: Array
    offsets: Array
    centre: Array
    spread: Array


@dataclass(frozen=True)
class FewShot:
    """Latency on one device as a function of the architecture; every field is a plain number, text or list of them.

    Args:
        name: of the device.
        space: name of the space.
        options: of the space.
        columns: numbers of an architecture.
        intercept: log milliseconds.
        slopes: log milliseconds a feature, `[features]`.
        centre: mean of the counts.
        spread: their standard deviation.
        measured: standardised counts of the measured architectures, `[measured, counts]`.
        pull: log milliseconds that each of them adds next to itself, `[measured]`.
        shape: channels, height and width of an input; None where it is not known (`--tables`).
    """

    name: str
    space: str
    options: dict[str, Any]
    columns: tuple[Column, ...]
    intercept: float
    slopes: tuple[float, ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    measured: tuple[tuple[float, ...], ...]
    pull: tuple[float, ...]
    shape: Shape | None = None

    def its_space(self) -> Space:
        """The space whose architectures were measured."""
        space: Space = SPACE.parse({"name": self.space, **self.options})
        return space

    def latencies_ms(self, architectures: Sequence[Architecture]) -> Array:
        """Predicted milliseconds, `[architectures]`."""
        features, counts = describe(self.columns, architectures)
        near = _covariance((counts - np.array(self.centre)) / np.array(self.spread), np.array(self.measured))
        return np.exp(self.intercept + features @ np.array(self.slopes) + near @ np.array(self.pull))


@dataclass(frozen=True)
class Trust:
    """How well each measurement is predicted from the others.

    Args:
        measured: how many there are.
        spearman: rank correlation; None where the predictions are all the same.
        low: lower end of its 90 % interval; None with it.
        high: upper end.
        median_error: half are predicted better than this, relative to the measured.
    """

    measured: int
    spearman: float | None
    low: float | None
    high: float | None
    median_error: float


def columns_of(architectures: Sequence[Architecture]) -> tuple[Column, ...]:
    """Columns for every choice, and every number, that these architectures have, in the order of first sight."""
    choices: dict[tuple[str, str], None] = {}
    numbers: dict[str, tuple[float, float]] = {}
    for architecture in architectures:
        for name, value in architecture.decisions:
            if isinstance(value, (str, bool)):
                choices[name, str(value)] = None
            else:
                low, high = numbers.get(name, (value, value))
                numbers[name] = (min(low, value), max(high, value))
    varying = [Column(name, None, float(low), float(high)) for name, (low, high) in numbers.items() if high > low]
    return (*(Column(*pair) for pair in choices), *varying)


def describe(columns: Sequence[Column], architectures: Sequence[Architecture]) -> tuple[Array, Array]:
    """Features and counts of architectures.

    Features are the columns and, where there are at most `PAIRS_UP_TO`, products of two of them. Counts are how often
    each choice was taken, whatever the decision, and the numbers.

    Returns:
        `[architectures, features]` and `[architectures, counts]`.
    """
    places = {(column.decision, column.choice): index for index, column in enumerate(columns)}
    rows = np.zeros((len(architectures), len(columns)))
    for row, architecture in zip(rows, architectures, strict=True):
        for name, value in architecture.decisions:
            if isinstance(value, (str, bool)):
                place = places.get((name, str(value)))
                if place is not None:
                    row[place] = 1.0
            elif (name, None) in places:
                place = places[name, None]
                row[place] = (value - columns[place].low) / (columns[place].high - columns[place].low)
    groups = list(dict.fromkeys(column.choice or f"number {column.decision}" for column in columns))
    member = np.array([[(c.choice or f"number {c.decision}") == group for c in columns] for group in groups], float)
    counts = rows @ member.reshape(len(groups), len(columns)).T
    if len(columns) > PAIRS_UP_TO:
        return np.hstack([rows, counts, counts**2]), counts
    pairs = [
        (i, j)
        for i, j in itertools.combinations_with_replacement(range(len(columns)), 2)
        if columns[i].decision != columns[j].decision or columns[i].choice is None
    ]
    left, right = np.array(pairs, int).reshape(-1, 2).T
    return np.hstack([rows, rows[:, left] * rows[:, right]]), counts


def known_devices(architectures: Sequence[Architecture], log_latencies: Array) -> Known:
    """What devices have in common, made smooth: a table's own noise is no property of the next device.

    Args:
        architectures: that the devices were measured, or modelled, on; some hundreds at least.
        log_latencies: `[devices, architectures]`; the unit does not matter.

    Raises:
        KdnasError: a latency is missing or not finite, or a device takes the same time for everything.
    """
    log_latencies = np.asarray(log_latencies, float)
    if log_latencies.shape[-1] != len(architectures) or not np.isfinite(log_latencies).all():
        raise KdnasError(
            "every known device needs a positive latency of every architecture",
            field="tables",
            remedy="leave out rows or columns with gaps",
        )
    columns = columns_of(architectures)
    features, counts = describe(columns, architectures)
    slopes, offsets = _standard_slopes(features, log_latencies)
    spread = counts.std(axis=0)
    return Known(columns, slopes, offsets, counts.mean(axis=0), np.where(spread > 0, spread, 1.0))


def propose(known: Known, architectures: Sequence[Architecture], count: int) -> list[int]:
    """Which of the architectures to measure: those after which the process would know most about all of them.

    Greedy: the next is the one that lowers the sum of variances most.

    Source: Krause 2008, Near-Optimal Sensor Placements in Gaussian Processes (JMLR); Seo 2000, Gaussian Process
    Regression: Active Data Selection (ALC).

    Args:
        known: of the devices.
        architectures: to choose from; time and memory grow with the square of their number, 1,000 is plenty.
        count: how many.

    Raises:
        KdnasError: fewer than `LEAST`, or more than there are.
    """
    if not LEAST <= count <= len(architectures):
        raise KdnasError(
            "too few to learn from" if count < LEAST else f"there are only {len(architectures)} to choose from",
            field="count",
            value=count,
            remedy=f"{LEAST} to {len(architectures)}; 20 is a good number",
        )
    signals, counts = _standard(known, architectures)
    left = signals @ signals.T + USUAL_FREEDOM * _covariance(counts, counts)
    chosen: list[int] = []
    for _ in range(count):
        gain = (left**2).sum(axis=0) / (np.diag(left) + USUAL_NOISE)
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        chosen.append(best)
        left = left - np.outer(left[:, best], left[best]) / (left[best, best] + USUAL_NOISE)
    return chosen


def fit(
    known: Known,
    architectures: Sequence[Architecture],
    latencies_ms: Sequence[float],
    *,
    space: str,
    options: dict[str, Any] | None = None,
    name: str = "device",
    shape: Shape | None = None,
) -> FewShot:
    """Latency on the device of which these measurements are.

    Source: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, eq. 2.25 and 5.8 (with the
    process's variance put at its most likely value); averaged over noise and freedom by likelihood.

    Args:
        known: of other devices, or of models of some.
        architectures: that were measured.
        latencies_ms: milliseconds of each.
        space: name of their space, for the file.
        options: of the space.
        name: of the device.
        shape: channels, height and width of an input; None where it is not known.

    Raises:
        KdnasError: fewer than `LEAST`, a latency that is not a positive number, all the same, or an odd name.
    """
    check_name(name, "--name")
    values = np.asarray(latencies_ms, float)
    if len(values) < LEAST or len(values) != len(architectures):
        remedy = f"measure at least {LEAST} architectures, 20 is a good number"
        raise KdnasError("too few to learn from", field="measurements", value=len(values), remedy=remedy)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise KdnasError("a latency is not a positive number", field="latency_ms", value=values.min())
    logs = np.log(values)
    if np.ptp(logs) < 1e-9:
        remedy = "measure more finely, or architectures that differ more"
        raise KdnasError("all latencies are the same", field="latency_ms", value=values[0], remedy=remedy)
    signals, counts = _standard(known, architectures)
    intercept, weights, pull = _condition(signals, counts, logs)
    toward = signals.T @ weights / np.sqrt(len(known.slopes))
    return FewShot(
        name=name,
        space=space,
        options=dict(options or {}),
        columns=known.columns,
        intercept=float(intercept - toward @ known.offsets),
        slopes=tuple(map(float, toward @ known.slopes)),
        centre=tuple(map(float, known.centre)),
        spread=tuple(map(float, known.spread)),
        measured=tuple(tuple(map(float, row)) for row in counts),
        pull=tuple(map(float, pull)),
        shape=shape,
    )


def trust(known: Known, architectures: Sequence[Architecture], latencies_ms: Sequence[float]) -> Trust:
    """Each measurement predicted from the others.

    The interval of the rank correlation is by Fisher's transformation and so a rough one. The proposed architectures
    are extremes: they differ more than random ones, which makes them easier to rank, and the others say little about
    each of them, which makes them harder. On Samsung S7 in NAS-Bench-201 it said 0.94 with tables and 0.65 without
    where 0.92 and 0.91 were right.

    Source: Bonett and Wright 2000, Sample Size Requirements for Estimating Pearson, Kendall and Spearman Correlations
    (Psychometrika), eq. 3.

    Args:
        known: of other devices.
        architectures: that were measured.
        latencies_ms: milliseconds of each.
    """
    values = np.asarray(latencies_ms, float)
    signals, counts = _standard(known, architectures)
    predicted = np.empty(len(values))
    for out in range(len(values)):
        kept = np.arange(len(values)) != out
        intercept, weights, pull = _condition(signals[kept], counts[kept], np.log(values[kept]))
        near = _covariance(counts[out : out + 1], counts[kept])
        predicted[out] = np.exp(intercept + signals[out] @ (signals[kept].T @ weights) + (near @ pull)[0])
    error = float(np.median(np.abs(predicted - values) / values))
    if np.ptp(predicted) == 0:
        return Trust(len(values), None, None, None, error)
    rho = float(spearmanr(predicted, values).statistic)
    bounded = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    half = norm.ppf(0.95) * np.sqrt((1 + rho**2 / 2) / max(len(values) - 3, 1))
    return Trust(len(values), rho, float(np.tanh(bounded - half)), float(np.tanh(bounded + half)), error)


def trust_words(found: Trust) -> list[str]:
    """How far to trust a model, for a person to read."""
    error = f"half of them are predicted to within {100 * found.median_error:.0f} %"
    if found.spearman is None or found.low is None or found.high is None:
        return [
            f"Each of {found.measured} measurements predicted from the others: all the same; {error}.",
            "Do not rank by it: measure more architectures, each more often.",
        ]
    if found.low >= 0.8:
        verdict = "Good enough to rank architectures by; measure the finalists."
    elif found.low >= 0.5:
        verdict = "Tells slow from fast; measure what is close to your bound."
    else:
        verdict = "Not sure enough to rank by: measure more architectures, each more often, or give --tables."
    return [
        f"Each of {found.measured} measurements predicted from the others: Spearman {found.spearman:.2f} "
        f"(90 % interval {found.low:.2f} to {found.high:.2f}); {error}.",
        f"{verdict} Proposed architectures are extremes: over all others the agreement may be higher or lower.",
    ]


def save(model: FewShot, path: Path) -> None:
    """Write the model as YAML where the name ends in `.yaml` or `.yml`, else as JSON.

    Raises:
        KdnasError: it cannot be written.
    """
    plain = json.loads(json.dumps({"format": FORMAT, **asdict(model)}))
    as_yaml = path.suffix in (".yaml", ".yml")
    text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None) if as_yaml else json.dumps(plain, indent=1)
    try:
        path.write_text(text + "\n", encoding="utf8")
    except OSError as error:
        problem = f"cannot be written ({first_line(error)})"
        raise KdnasError(problem, field="--out", value=str(path), remedy="choose another file") from error


def holds_model(text: str) -> bool:
    """Whether a file's text is what `save` wrote, in either form."""
    return FORMAT in text.partition("columns")[0]


def load(path: Path, field: str = "model") -> FewShot:
    """The model in a file that `save` wrote.

    Args:
        path: of the file.
        field: where the user named it, for errors.

    Raises:
        KdnasError: it cannot be read, or holds something else.
    """
    remedy = "write one with `kdnas device fit`"
    try:
        text = path.read_text(encoding="utf8")
        data = json.loads(text) if path.suffix not in (".yaml", ".yml") else load_yaml(text)
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        problem = f"cannot be read ({first_line(error)})"
        raise KdnasError(problem, field=field, value=str(path), remedy=remedy) from error
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise KdnasError("is no model of few measurements", field=field, value=str(path), remedy=remedy)
    try:
        lists = {key: tuple(map(float, data[key])) for key in ("slopes", "centre", "spread", "pull")}
        nested = {
            "columns": tuple(Column(**column) for column in data["columns"]),
            "measured": tuple(tuple(map(float, row)) for row in data["measured"]),
            "shape": _sizes(data["shape"]) if data.get("shape") else None,
        }
        model = FewShot(**{**data, **lists, **nested})
        check_name(model.name, f"{field}.name")
        with data_only():
            space = model.its_space()
        if not np.isfinite(model.latencies_ms([sample(space, random.Random(0))])).all():
            raise ValueError("its numbers give no latency")
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise KdnasError(f"is damaged ({first_line(error)})", field=field, value=str(path), remedy=remedy) from error
    return model


def check_fits(model: FewShot, space: Space, shape: Shape) -> None:
    """Refuses a model of other networks than those that are to be judged.

    Args:
        model: of a device.
        space: of the architectures.
        shape: channels, height and width of an input.

    Raises:
        KdnasError: its measurements are of another space, of other options, or of another shape of input.
    """
    own, wanted = SPACE.dump(model.its_space()), SPACE.dump(space)
    for key in ("name", *own):
        if own[key] != wanted.get(key):
            raise KdnasError(
                f"was learned from other networks: space.{key} = {own[key]}, here {wanted.get(key)}",
                field="devices",
                value=model.name,
                remedy="give both the same space and options: `kdnas device fit` takes space.KEY=VALUE too",
            )
    if model.shape is not None and tuple(model.shape) != tuple(shape):
        theirs, ours = ("x".join(map(str, sizes)) for sizes in (model.shape, shape))
        raise KdnasError(
            f"was learned for inputs of {theirs}, here they are {ours}",
            field="devices",
            value=model.name,
            remedy=f"measure networks for {ours}: `kdnas device propose` and `fit` take --input {ours}",
        )


def predict(model_file: Path | str, architecture: Architecture | str) -> float:
    """Milliseconds that an architecture takes on the device of a model file.

    Args:
        model_file: as `save` wrote it.
        architecture: of the model's space, or its text in the space's notation.

    Raises:
        KdnasError: the file is no model, or the text no architecture of its space.
    """
    model = load(Path(model_file))
    space = model.its_space()
    wanted = parse(space, architecture) if isinstance(architecture, str) else architecture
    parse(space, notation(space, wanted))  # refuses what is not of the space
    return float(model.latencies_ms([wanted])[0])


def _sizes(found: Any) -> Shape:
    channels, height, width = found
    if not all(type(size) is int and size > 0 for size in found):
        raise ValueError("its shape is not three whole numbers")
    return channels, height, width


def _standard_slopes(features: Array, log_latencies: Array) -> tuple[Array, Array]:
    """Smooth log latency of each device as slopes `[devices, features]` and offsets, of mean 0 and variance 1.

    Raises:
        KdnasError: a device takes the same time for everything.
    """
    middle = features.mean(axis=0)
    centred = features - middle
    gram = centred.T @ centred + RIDGE * len(features) * np.eye(features.shape[1])
    targets = log_latencies - log_latencies.mean(axis=1, keepdims=True)
    slopes = np.linalg.solve(gram, centred.T @ targets.T).T
    spread = (slopes @ centred.T).std(axis=1, keepdims=True)
    if not (spread > 1e-9).all():
        raise KdnasError(
            "a device takes the same time for every architecture",
            field="tables",
            value=f"device {int(np.argmin(spread))}",
            remedy="leave it out",
        )
    slopes = slopes / spread
    return slopes, slopes @ middle


def _standard(known: Known, architectures: Sequence[Architecture]) -> tuple[Array, Array]:
    """Signals of the known devices `[architectures, devices]`, whose products are their covariance, and the counts."""
    features, counts = describe(known.columns, architectures)
    signals = (features @ known.slopes.T - known.offsets) / np.sqrt(len(known.slopes))
    return signals, (counts - known.centre) / known.spread


def _covariance(first: Array, second: Array) -> Array:
    """Covariance by counts `[first, second]`: near 1 where they are alike."""
    apart = ((first[:, None, :] - second[None]) ** 2).sum(axis=-1)
    return np.exp(-apart / (2 * LENGTH * max(first.shape[1], 1)))


def _condition(signals: Array, counts: Array, logs: Array) -> tuple[float, Array, Array]:
    """The process conditioned on log latencies `[n]`: intercept, weights `[n]` of signals, weights `[n]` of counts."""
    middle, scale = logs.mean(), logs.std() or 1.0
    targets = (logs - middle) / scale
    if not targets.any():  # all took the same time: nothing else is known, and no likelihood is there to weigh by
        return float(middle), np.zeros(len(logs)), np.zeros(len(logs))
    shared, near = signals @ signals.T, _covariance(counts, counts)
    likelihoods, found = [], []
    for noise, freedom in itertools.product(NOISES, FREEDOMS):
        covariance = OFFSET + shared + freedom * near + noise * np.eye(len(logs))
        factor = np.linalg.cholesky(covariance)
        weights = np.linalg.solve(factor.T, np.linalg.solve(factor, targets))
        likelihoods.append(-0.5 * len(logs) * np.log(targets @ weights) - np.log(np.diag(factor)).sum())
        found.append((OFFSET * weights.sum(), weights, freedom * weights))
    share = np.exp(np.array(likelihoods) - max(likelihoods))
    share /= share.sum()
    intercept, weights, pull = (
        sum(s * part for s, part in zip(share, parts, strict=True)) for parts in zip(*found, strict=True)
    )
    return float(middle + scale * intercept), scale * weights, scale * pull
