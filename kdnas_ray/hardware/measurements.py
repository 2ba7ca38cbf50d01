"""What is read and written when a device is learned from few measurements: tables, the list to measure, its results."""

import csv
import importlib.util
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kdnas_ray.hardware.devices import shipped
from kdnas_ray.hardware.few_shot import LEAST, Array, Known, known_devices
from kdnas_ray.hardware.measuring import onnx_bytes
from kdnas_ray.hardware.operators import operators
from kdnas_ray.hardware.roofline import latency_ms
from kdnas_ray.runs import check_creatable
from search_spaces import Architecture, KdnasError, Shape, Space, first_line, sample
from search_spaces.notation import notation, parse
from trainables.parquet import read_columns

ARCHITECTURE = "architecture"
LATENCY = "latency_ms"
FILES = "--onnx"  # where the folder of their files is named, for errors
MODELLED = 400  # architectures on which the shipped profiles are modelled where there is no table
CLASSES = 10  # of the modelled networks; the classifier hardly counts
ATTEMPTS = 20  # draws for each architecture wanted, before a space is taken to have no more


@dataclass(frozen=True)
class Table:
    """Other devices' latencies.

    Args:
        architectures: that were measured.
        log_latencies: logarithms of milliseconds, `[devices, architectures]`.
        devices: their names.
    """

    architectures: tuple[Architecture, ...]
    log_latencies: Array
    devices: tuple[str, ...]

    def known(self) -> Known:
        """What the devices have in common."""
        return known_devices(self.architectures, self.log_latencies)


def read_table(path: Path, space: Space) -> Table:
    """Every `latency_ms_<device>` column of a Parquet file, whose `architecture` is in the space's notation.

    Raises:
        KdnasError: it cannot be read, lacks a column, or a row is no architecture or has no positive latency.
    """
    import pyarrow.parquet

    field = "--tables"
    try:
        schema = pyarrow.parquet.read_schema(path)
        names = [name for name in schema.names if name.startswith(f"{LATENCY}_")]
        if ARCHITECTURE not in schema.names or not names:
            raise KdnasError(
                f"needs the columns `{ARCHITECTURE}` and `{LATENCY}_<device>`, one for each device",
                field=field,
                value=str(path),
                remedy=f"it has {', '.join(schema.names)}",
            )
        rows = read_columns(path, [ARCHITECTURE, *names], copies=4)
        latencies = np.array([rows[name].to_numpy() for name in names], float)
    except (OSError, ValueError, TypeError) as error:  # what Arrow raises is one of the first two
        raise KdnasError(f"cannot be read ({first_line(error)})", field=field, value=str(path)) from error
    wrong = np.argwhere(~(np.isfinite(latencies) & (latencies > 0)))
    if len(wrong):
        device, row = wrong[0]
        raise KdnasError(
            "is not a positive number",
            field=f"{field}, row {row + 1}, {names[device]}",
            value=float(latencies[device, row]),
            remedy="leave out the row or the column",
        )
    texts = rows[ARCHITECTURE].to_pylist()
    found = tuple(_parsed(space, str(text), f"{field}, row {row}") for row, text in enumerate(texts, start=1))
    if len(found) < LEAST:
        raise KdnasError("has too few architectures", field=field, value=len(found), remedy=f"at least {LEAST}")
    return Table(found, np.log(latencies), tuple(name.removeprefix(f"{LATENCY}_") for name in names))


def modelled_table(space: Space, shape: Shape, seed: int) -> Table:
    """FLOPs, parameters and the latency on every shipped profile, of random architectures of the space.

    Args:
        space: that they are drawn from.
        shape: channels, height and width of an input.
        seed: of the draw.
    """
    profiles = shipped()
    drawn = distinct(space, MODELLED, seed)
    costs = []
    for architecture in drawn:
        parts = operators(partial(space.build, architecture, shape, CLASSES), shape)
        macs = sum(operator.macs for operator in parts.each)
        costs.append([macs, parts.params, *(latency_ms(parts, profile) for profile in profiles.values())])
    logs = np.log(np.maximum(np.array(costs, float).T, 1e-9))  # no operation at all takes no time
    names = ("flops", "params", *profiles)
    differing = np.ptp(logs, axis=1) > 1e-6  # what is the same for all tells nothing
    kept = tuple(name for name, differs in zip(names, differing, strict=True) if differs)
    return Table(tuple(drawn), logs[differing], kept)


def distinct(space: Space, count: int, seed: int) -> list[Architecture]:
    """Different random architectures of a space; fewer than `count` where there are no more."""
    rng = random.Random(seed)
    found: dict[Architecture, None] = {}
    for _ in range(ATTEMPTS * count):
        found[sample(space, rng)] = None
        if len(found) == count:
            break
    return list(found)


def check_files(folder: Path) -> None:
    """Refuses a folder that `write_files` could not make.

    Raises:
        KdnasError: it holds something already or cannot be made, or what writes ONNX is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        remedy = 'pip install "kdnas_ray[export]"'
        raise KdnasError("needs onnx, not installed here", field=FILES, value=str(folder), remedy=remedy)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KdnasError("exists already", field=FILES, value=str(folder), remedy="choose another folder, or remove it")
    check_creatable(folder, FILES)


def write_files(folder: Path, space: Space, architectures: Iterable[Architecture], shape: Shape) -> list[Path]:
    """An ONNX file of each architecture with random weights, for one input: floating point `images [1, C, H, W]`.

    Args:
        folder: to create.
        space: of the architectures.
        architectures: to write, in this order.
        shape: channels, height and width of an input.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, architecture in enumerate(architectures, start=1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = space.build(architecture, shape, CLASSES).eval()
        paths.append(folder / f"{number:03}.onnx")
        paths[-1].write_bytes(onnx_bytes(network, torch.zeros(1, *shape)))
    return paths


def write_proposal(path: Path, space: Space, architectures: Iterable[Architecture], files: Sequence[Path] = ()) -> None:
    """A CSV file of architectures in the space's notation, with latencies to be filled in.

    Args:
        path: of the file.
        space: of the architectures.
        architectures: a row each.
        files: one of each architecture, for a column `file`; none without that column.

    Raises:
        KdnasError: it exists already, it might hold measurements; or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([ARCHITECTURE, LATENCY] + (["file"] if files else []))
            rows = [[notation(space, architecture), ""] for architecture in architectures]
            if files:
                rows = [[*row, str(file)] for row, file in zip(rows, files, strict=True)]
            writer.writerows(rows)
    except FileExistsError as error:
        remedy = "it may hold measurements: choose another file"
        raise KdnasError("exists already", field="--out", value=str(path), remedy=remedy) from error
    except OSError as error:
        problem = f"cannot be written ({first_line(error)})"
        raise KdnasError(problem, field="--out", value=str(path), remedy="choose another file") from error


def read_measurements(path: Path, space: Space) -> tuple[list[Architecture], list[float]]:
    """Architectures and their milliseconds from the columns `architecture` and `latency_ms` of a CSV file.

    Raises:
        KdnasError: names the row (the header is row 1) and what to do about it.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file, restkey="too many")
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problem = f"cannot be read ({first_line(error)})"
        remedy = "it is the CSV file that `kdnas device propose` wrote, filled in"
        raise KdnasError(problem, field="MEASUREMENTS", value=str(path), remedy=remedy) from error
    _check_columns(columns, path)
    seen: dict[Architecture, int] = {}
    latencies = []
    for number, row in rows:
        where = f"{path}, row {number}"
        if "too many" in row:
            raise KdnasError(
                "has more values than columns",
                field=where,
                remedy="put an architecture with a comma in quotes, write 1.5 and not 1,5",
            )
        text = (row[ARCHITECTURE] or "").strip()
        architecture = _parsed(space, text, where, "if it is of another space, name that: --space")
        if architecture in seen:
            raise KdnasError(
                f"the same architecture as in row {seen[architecture]}",
                field=where,
                value=row[ARCHITECTURE],
                remedy="keep one row, with the median of what was measured",
            )
        seen[architecture] = number
        latencies.append(_milliseconds(row[LATENCY], where))
    if len(latencies) < LEAST:
        raise KdnasError(
            "too few measurements to learn from",
            field=str(path),
            value=len(latencies),
            remedy=f"measure at least {LEAST}; 20 is a good number: `kdnas device propose`",
        )
    return list(seen), latencies


def _check_columns(columns: Sequence[str], path: Path) -> None:
    for wanted in (ARCHITECTURE, LATENCY):
        if columns.count(wanted) != 1:
            unitless = wanted == LATENCY and any(name.startswith("latency") for name in columns)
            hint = "a latency needs its unit: name the column latency_ms and give milliseconds; " if unitless else ""
            raise KdnasError(
                f"needs one column `{wanted}`",
                field=str(path),
                remedy=f"{hint}it has {', '.join(filter(None, columns)) or 'none'}",
            )


def _milliseconds(text: str | None, where: str) -> float:
    field = f"{where}, {LATENCY}"
    if not (text or "").strip():
        raise KdnasError("not measured", field=field, remedy="fill in milliseconds, or delete the row")
    try:
        value = float(str(text))
    except ValueError as error:
        remedy = "milliseconds as a plain number, such as 12.5"
        raise KdnasError("is not a number", field=field, value=text, remedy=remedy) from error
    if not (math.isfinite(value) and value > 0):
        raise KdnasError("is not a positive number", field=field, value=value, remedy="measure it again, or delete it")
    return value


def _parsed(space: Space, text: str, where: str, otherwise: str = "") -> Architecture:
    try:
        return parse(space, text)
    except KdnasError as error:
        raise KdnasError(
            f"no architecture of this space: {error.problem}",
            field=where,
            value=text,
            remedy="; ".join(filter(None, (error.remedy, otherwise))),
        ) from error
