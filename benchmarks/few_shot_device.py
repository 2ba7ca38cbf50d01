"""How well do 20 measurements, and tables of other devices, rank all architectures of a space on a device?

NAS-Bench-201: 15,625 cells with latencies on 21 devices. Each device is left out in turn; 20 cells are proposed and
"measured" (read from its column), the rest is predicted; Spearman over all other cells, mean over seeds. The seed draws
the 1,000 cells that the 20 are chosen from. Neither the choice of the 20 nor any setting sees the device's other
latencies.

- `flops`, `roofline`: those alone (`roofline` is the median over the shipped profiles, none of which is the device).
- `ridge`: ridge regression on the others' log latencies, 20 random cells.
- `random`: ours, 20 random cells. `ours`: the proposed 20. `modelled`: the proposed 20, models of latency in place of
  tables. `both`: tables and models.
- `no family`: ours without the same GPU (or processor family) at other batch sizes; `no twins`: without all devices
  that rank the cells as this one to Spearman 0.95.
- `ceiling`: what a perfect prediction would reach, for the noise of the device's own column. Cells whose edge 1 -> 2 is
  `none` are the same network with nodes 1 and 2 swapped: they were measured twice. The differences, over the square
  root of 2, are drawn as noise on top of a ridge regression on all cells (features and other devices).

    python benchmarks/few_shot_device.py --out few_shot.json
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from record import tell
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge, RidgeCV

from kdnas_ray.hardware.counting import count
from kdnas_ray.hardware.devices import shipped
from kdnas_ray.hardware.few_shot import Array, Known, describe, fit, known_devices, propose
from kdnas_ray.hardware.operators import operators
from kdnas_ray.hardware.roofline import latency_ms
from search_spaces import Architecture, NASBench201Space
from search_spaces.nasbench201 import OPERATIONS

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SPACE = NASBench201Space(width=16, cells=5)
MEASURED = 20
POOL = 1_000
DOUBTFUL = "pixel3"  # has implausible values under 1 ms
TWINS = 0.95


def table(data: Path) -> tuple[list[Architecture], dict[str, Array]]:
    """All cells, and the log latencies of each device."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(data / "nas_bench_201" / "nas_bench_201.parquet")
    names = [name for name in rows.column_names if name.startswith("latency_ms_")]
    cells = [SPACE.parse(text) for text in rows["architecture"].to_pylist()]
    return cells, {name.removeprefix("latency_ms_"): np.log(rows[name].to_numpy()) for name in names}


def modelled(cells: Sequence[Architecture]) -> dict[str, Array]:
    """Logarithms of FLOPs and of the latency on every shipped profile.

    Both are sums over edges: reckoned from the networks with one operation everywhere. All edges count, also those that
    lead nowhere, because the benchmark's networks compute them.
    """
    each = []
    for operation in OPERATIONS:
        cell = Architecture.of(dict.fromkeys(cells[0], operation))

        def build(cell: Architecture = cell) -> object:
            return SPACE.build(cell, (3, 32, 32), 10)

        parts = operators(build, (3, 32, 32))  # type: ignore[arg-type]
        flops = count(build, (3, 32, 32))["flops"]  # type: ignore[arg-type]
        each.append([flops, *(latency_ms(parts, profile) for profile in shipped().values())])
    costs = np.array(each)
    empty = costs[OPERATIONS.index("none")]
    often = np.array([[list(cell.values()).count(operation) for operation in OPERATIONS] for cell in cells])
    logs = np.log(empty + often @ (costs - empty) / len(cells[0]))
    return dict(zip(["flops", *shipped()], logs.T, strict=True))


def agreement(first: Array, second: Array) -> float:
    """Spearman."""
    return float(spearmanr(first, second).statistic)


def noise(cells: Sequence[Architecture], logs: Array) -> Array:
    """What one measurement is off, in log milliseconds, from cells that are the same network."""
    place = {tuple(cell.values()): index for index, cell in enumerate(cells)}
    differences = [
        logs[index] - logs[place[c10, c20, "none", c31, c30, c32]]
        for (c20, c10, c21, c30, c31, c32), index in place.items()
        if c21 == "none" and place[c10, c20, "none", c31, c30, c32] != index
    ]
    return np.array(differences) / np.sqrt(2)


def ceiling(cells: Sequence[Architecture], features: Array, others: Array, logs: Array, seed: int) -> float:
    """Spearman of a smooth latency with itself and the device's noise."""
    inputs = np.hstack([features, others.T])
    smooth = Ridge(10.0).fit((inputs - inputs.mean(axis=0)) / (inputs.std(axis=0) + 1e-9), logs)
    true = smooth.predict((inputs - inputs.mean(axis=0)) / (inputs.std(axis=0) + 1e-9))
    drawn = np.random.default_rng(seed).choice(noise(cells, logs), len(cells))
    return agreement(true, true + drawn)


def ranked(cells: Sequence[Architecture], logs: Array, prior: Known, seed: int, choose: bool) -> float:
    """Spearman of our predictions over all cells but the measured ones."""
    rng = np.random.default_rng(seed)
    pool = rng.choice(len(cells), POOL, replace=False)
    taken = pool[propose(prior, [cells[i] for i in pool], MEASURED)] if choose else pool[:MEASURED]
    model = fit(prior, [cells[i] for i in taken], np.exp(logs[taken]).tolist(), space="nasbench201")
    rest = np.setdiff1d(np.arange(len(cells)), taken)
    return agreement(model.latencies_ms(cells)[rest], logs[rest])


def ridge(logs: Array, known: Array, seed: int) -> float:
    """Spearman of ridge regression on 20 random cells."""
    taken = np.random.default_rng(seed).choice(len(logs), MEASURED, replace=False)
    inputs = ((known - known.mean(axis=1, keepdims=True)) / known.std(axis=1, keepdims=True)).T
    model = RidgeCV(np.logspace(-2, 3, 11)).fit(inputs[taken], logs[taken])
    rest = np.setdiff1d(np.arange(len(logs)), taken)
    return agreement(model.predict(inputs)[rest], logs[rest])


def family(name: str) -> str:
    """The device without its batch size or model number."""
    return name.rsplit("_", 1)[0]


def line(
    name: str, cells: Sequence[Architecture], devices: dict[str, Array], models: dict[str, Array], seeds: int
) -> dict[str, object]:
    """A row of the outcome: one device left out."""
    logs = devices[name]
    others = {other: values for other, values in devices.items() if other != name}
    models_only = np.stack(list(models.values()))

    def mean(score: Callable[[int], float]) -> float:
        return statistics.mean(score(seed) for seed in range(seeds))

    def ours(known: Sequence[Array], choose: bool = True) -> float:
        prior = known_devices(cells, np.stack(list(known)))
        return mean(lambda seed: ranked(cells, logs, prior, seed, choose))

    every = list(others.values())
    unlike = [values for values in every if agreement(values, logs) < TWINS]
    features, _ = describe(known_devices(cells, models_only).columns, cells)
    return {
        "device": name,
        "flops": agreement(models["flops"], logs),
        "roofline": statistics.median(agreement(models[profile], logs) for profile in shipped()),
        "ridge": mean(lambda seed: ridge(logs, np.stack(every), seed)),
        "random": ours(every, choose=False),
        "ours": ours(every),
        "modelled": ours(list(models_only)),
        "both": ours([*every, *models_only]),
        "no family": ours([values for other, values in others.items() if family(other) != family(name)]),
        "no twins": ours(unlike),
        "ceiling": ceiling(cells, features, np.stack(every), logs, 0),
    }


def summaries(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Median over the devices, and the worst but for the doubtful one."""
    columns = [column for column in rows[0] if column != "device"]
    sure = [row for row in rows if row["device"] != DOUBTFUL]
    return [
        {"device": "median"} | {c: statistics.median(float(str(row[c])) for row in rows) for c in columns},
        {"device": f"worst but {DOUBTFUL}"} | {c: min(float(str(row[c])) for row in sure) for c in columns},
    ]


def main() -> None:
    """Leave each device out, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--devices", nargs="+", help="only these are left out")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    cells, devices = table(chosen.data)
    models = modelled(cells)
    rows = [line(name, cells, devices, models, chosen.seeds) for name in chosen.devices or devices]
    tell(rows + summaries(rows), chosen.out, seeds=chosen.seeds, measured=MEASURED, pool=POOL)


if __name__ == "__main__":
    main()
