"""Search under a latency bound: does a sampler that learns of the bound find more than a filter afterwards?

NAS-Bench-201 on CIFAR-100 with latencies that its authors and others measured on real devices. For each device and
bound (a quantile of the device's latencies) a search sees the validation accuracy after 12 epochs, and what it finds
best within the bound is scored once by the test accuracy after 200. The regret is how far that is below the best there
is within the bound, in points.

- `aware`: samplers look ahead, and draw again where a proposal would break the bound; what they propose even so is not
  trained, costs no evaluation, and the sampler is told by how much it breaks the bound.
- `filter`: the sampler knows no bound; the best of what it trained that keeps the bound is taken.

`rejected` is the share of proposals that break the bound, of the first 50 and of the rest.

    python benchmarks/device_pareto.py
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet
from record import tell
from strategies import DATA, NoRecipes, Table, cells

from kdnas_ray.samplers import SAMPLERS, Around
from kdnas_ray.samplers.foresight import foreseeing

DEVICES = ("titanx_1", "pixel2", "essential_ph_1", "gold_6240", "eyeriss", "2080ti_32")
EARLY = 50  # proposals after which few should break the bound

Key = tuple[Any, ...]


@cache
def latencies(data: Path, device: str) -> Mapping[Key, float]:
    """Milliseconds of every architecture on a device."""
    file = data / "nas_bench_201" / "nas_bench_201.parquet"
    column = pyarrow.parquet.read_table(file, columns=[f"latency_ms_{device}"]).column(0).to_pylist()
    return dict(zip(cells(data).seen, column, strict=True))


def searched(
    sampler: str, table: Table, cost: Mapping[Key, float], bound: float, aware: bool, evaluations: int, seed: int
) -> tuple[Key | None, list[bool]]:
    """The best found that keeps the bound, and of each proposal whether it broke it."""
    known = {"params": 1, "flops": 1}
    within = (lambda architecture: cost[tuple(architecture.values())] / bound - 1) if aware else None
    around = Around(table, NoRecipes(), lambda _: known, lambda: [], 1, within)  # type: ignore[arg-type]
    constraints = (lambda trial: trial.user_attrs["excess"]) if aware else (lambda trial: [0.0])
    made = SAMPLERS[sampler]().make(seed, constraints, around)
    study = optuna.create_study(direction="maximize", sampler=foreseeing(made, seed, around) if aware else made)
    broken: list[bool] = []
    trained: list[Key] = []
    while len(trained) < evaluations and len(broken) < 20 * evaluations:
        trial = study.ask()
        key = tuple(table.suggest(trial).values())
        over = cost[key] / bound - 1
        trial.set_user_attr("excess", [over])
        broken.append(over > 0)
        if aware and over > 0:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        study.tell(trial, table.seen[key])
        trained.append(key)
    kept = [key for key in trained if cost[key] <= bound]
    return max(kept, key=table.seen.__getitem__, default=None), broken


def one(
    job: tuple[str, float, str, bool, int], data: Path, evaluations: int
) -> tuple[float | None, float | None, float, float]:
    """Regret of the score (None: nothing kept the bound), of what was seen, shares broken early and later."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device, quantile, sampler, aware, seed = job
    table, cost = cells(data), latencies(data, device)
    bound = statistics.quantiles(cost.values(), n=100)[round(100 * quantile) - 1]
    found, broken = searched(sampler, table, cost, bound, aware, evaluations, seed)
    within = [key for key in cost if cost[key] <= bound]
    early, late = broken[:EARLY], broken[EARLY:]
    shares = sum(early) / len(early), sum(late) / max(len(late), 1)
    if found is None:
        return None, None, *shares
    lost = [max(map(column.__getitem__, within)) - column[found] for column in (table.scored, table.seen)]
    return lost[0], lost[1], *shares


def row(device: str, quantile: float, sampler: str, aware: bool, runs: Sequence[Any]) -> dict[str, Any]:
    """A line of the outcome."""
    scored = [run[0] for run in runs if run[0] is not None]
    seen = [run[1] for run in runs if run[1] is not None]
    return {
        "device": device,
        "bound": f"{quantile:.0%} of networks",
        "sampler": sampler,
        "search": "aware" if aware else "filter",
        "regret": _spread(scored),
        "regret of validation": _spread(seen),
        "nothing found": len(runs) - len(scored),
        "rejected, first 50": f"{statistics.mean(run[2] for run in runs):.0%}",
        "rejected, later": f"{statistics.mean(run[3] for run in runs):.0%}",
    }


def main() -> None:
    """Simulate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--devices", nargs="+", default=list(DEVICES))
    parser.add_argument("--quantiles", nargs="+", type=float, default=[0.1, 0.3, 0.6])
    parser.add_argument("--samplers", nargs="+", default=["tpe", "evolution"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    lines = [
        (device, quantile, sampler, aware)
        for device in chosen.devices
        for quantile in chosen.quantiles
        for sampler in chosen.samplers
        for aware in (True, False)
    ]
    run = partial(one, data=chosen.data, evaluations=chosen.evaluations)
    with ProcessPoolExecutor(chosen.processes) as pool:
        jobs = [(*line, seed) for line in lines for seed in range(chosen.seeds)]
        runs = list(pool.map(run, jobs))
    rows = [row(*line, runs[i * chosen.seeds : (i + 1) * chosen.seeds]) for i, line in enumerate(lines)]
    tell(rows, chosen.out, seeds=chosen.seeds, evaluations=chosen.evaluations)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()
