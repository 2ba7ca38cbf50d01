"""Which sampler finds a good architecture with the fewest evaluations? Plain simulation on tables of real trainings.

Every sampler proposes one architecture after the other, the table answers with its accuracy at once, and the regret is
how far the best one found is below the best one there is, in points of accuracy: the mean over the seeds and its
standard error. `flops` takes the architectures by decreasing FLOPs (NAS-Bench-Macro) or, for want of FLOPs, by
decreasing count of 3x3 and then 1x1 convolutions (NAS-Bench-201), and so has no spread. `ms` is processor time a
proposal.

NAS-Bench-Macro: 6,561 networks of 8 layers on CIFAR-10, `mean_acc` of three trainings; differences under 0.15 are
noise of one training. NAS-Bench-201: 15,625 cells on CIFAR-100; searched by the validation accuracy after 12 epochs,
and what was found best by it is scored once by the test accuracy after 200.

    python benchmarks/strategies.py --table macro
    python benchmarks/strategies.py --table 201 --samplers evolution predictor:explore=1.0

With `--platform` every search is a whole one on the table evaluator: Ray, two workers, nobody stopped early; then `ms`
is wall time a candidate.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import optuna
import ray
from record import tell

from kdnas_ray import search
from kdnas_ray.config import read
from kdnas_ray.environment import TUNE_SETTINGS
from kdnas_ray.live import Narrator
from kdnas_ray.samplers import SAMPLERS, Around
from search_spaces import KdnasError, Suggests
from search_spaces.base import Architecture
from search_spaces.notation import notation

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
POINTS = (10, 30, 100, 300)
OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")


@dataclass(frozen=True)
class Table:
    """All architectures of a space: what the search sees of each, and what it is scored by."""

    name: str
    choices: tuple[Any, ...]
    seen: Mapping[tuple[Any, ...], float]
    scored: Mapping[tuple[Any, ...], float]
    size: Callable[[tuple[Any, ...]], Any]
    decisions: int

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        names = [f"d{i}" for i in range(self.decisions)]
        return Architecture.of({name: trial.suggest_categorical(name, self.choices) for name in names})


class NoRecipes:
    """A recipe space without a decision."""

    def suggest(self, trial: Suggests) -> None:
        """Nothing."""


@cache
def macro(data: Path) -> Table:
    """NAS-Bench-Macro.

    Source: Su 2021, Prioritized Architecture Sampling with Monto-Carlo Tree Search (NAS-Bench-Macro).
    """
    rows = json.loads((data / "nas_bench_macro" / "nas-bench-macro_cifar10.json").read_text())
    flops = {tuple(key): row["flops"] for key, row in rows.items()}
    seen = {tuple(key): row["mean_acc"] for key, row in rows.items()}
    return Table("macro", ("0", "1", "2"), seen, seen, flops.__getitem__, 8)


@cache
def cells(data: Path) -> Table:
    """NAS-Bench-201 on CIFAR-100.

    Source: Dong and Yang 2020, NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search.
    """
    import pyarrow.parquet

    columns = ["architecture", "cifar100_val_12", "cifar100_test_200"]
    rows = pyarrow.parquet.read_table(data / "nas_bench_201" / "nas_bench_201.parquet", columns=columns).to_pylist()
    keys = [tuple(re.findall(r"\|?([a-z0-9_]+)~", row["architecture"])) for row in rows]
    seen = {key: row["cifar100_val_12"] for key, row in zip(keys, rows, strict=True)}
    scored = {key: row["cifar100_test_200"] for key, row in zip(keys, rows, strict=True)}
    assert set(seen) == set(itertools.product(OPERATIONS, repeat=6))
    return Table("201", OPERATIONS, seen, scored, lambda key: (key.count(OPERATIONS[4]), key.count(OPERATIONS[3])), 6)


TABLES = {"macro": macro, "201": cells}


def regrets(table: Table, found: Sequence[tuple[Any, ...]], points: Sequence[int]) -> list[tuple[float, float]]:
    """After each number of evaluations: regret by what the search sees, and by what it is scored by."""
    rows = []
    for count in points:
        best = max(found[:count], key=table.seen.__getitem__)
        rows.append(
            (
                max(table.seen.values()) - table.seen[best],
                max(table.scored.values()) - table.scored[best],
            )
        )
    return rows


def searched(name: str, table: Table, evaluations: int, seed: int, workers: int) -> tuple[list[tuple[Any, ...]], float]:
    """What a sampler evaluates, in order, with `workers` out at a time; its processor seconds a proposal."""
    options, _, given = name.partition(":")
    settings = dict(pair.split("=") for pair in given.split(",")) if given else {}
    around = Around(table, NoRecipes(), lambda _: {"params": 1, "flops": 1}, lambda: [], 1)  # type: ignore[arg-type]
    made = SAMPLERS[options](**{key: json.loads(value) for key, value in settings.items()})
    study = optuna.create_study(direction="maximize", sampler=made.make(seed, lambda _: [0.0], around))
    found = []
    seconds = 0.0
    while len(found) < evaluations:
        asked = []
        for _ in range(workers):
            began = time.process_time()
            trial = study.ask()
            key = tuple(table.suggest(trial).values())
            seconds += time.process_time() - began
            asked.append((trial, key))
        for trial, key in asked:
            study.tell(trial, table.seen[key])
            found.append(key)
    return found, seconds / len(found)


def whole_search(
    name: str, table_name: str, data: Path, evaluations: int, seed: int
) -> tuple[list[tuple[Any, ...]], float]:
    """What a search through the whole platform evaluates, in the order in which it ended; its seconds a candidate."""
    sampler, _, given = name.partition(":")
    settings = {key: json.loads(value) for key, value in (pair.split("=") for pair in given.split(",") if given)}
    space, file, metric, test = {
        "macro": ("nasbench_macro", "nas_bench_macro/nas-bench-macro_cifar10.json", "mean_acc", "mean_acc"),
        "201": ("nasbench201", "nas_bench_201/nas_bench_201.parquet", "cifar100_val_12", "cifar100_test_200"),
    }[table_name]
    config = read(
        {
            "space": space,
            "evaluator": {"name": "table", "path": str(data / file), "metric": metric, "test": test},
            "sampler": {"name": sampler, **settings},
            "scheduler": {"name": "full", "max_epochs": 12},
            "budget": {"trials": evaluations},
            "resources": {"workers": 2},
            "tracking": {"enabled": False},
            "seed": seed,
        }
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        rows = search(config, Path(folder) / "run", Narrator()).candidates
    trained = [Architecture.of(row["architecture"]) for row in rows if row["state"] == "complete"]
    texts = [notation(config.space, architecture) for architecture in trained]
    found = [tuple(re.findall(r"\|?([a-z0-9_]+)~", text) or text) for text in texts]
    return found, (time.perf_counter() - began) / len(found)


def one(
    job: tuple[str, str, int], data: Path, evaluations: int, workers: int, platform: bool
) -> tuple[list[tuple[float, float]], float]:
    """Regrets of one seed and the processor seconds a proposal."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name, table_name, seed = job
    table = TABLES[table_name](data)
    if platform:
        found, seconds = whole_search(name, table_name, data, evaluations, seed)
    else:
        found, seconds = searched(name, table, evaluations, seed, workers)
    return regrets(table, found, [point for point in POINTS if point <= evaluations]), seconds


def row(name: str, columns: Sequence[str], points: Sequence[int], runs: Sequence[Any]) -> dict[str, Any]:
    """A line of the outcome: mean regrets and their standard errors by evaluations."""
    cells: dict[str, Any] = {"sampler": name}
    for index, column in enumerate(columns):
        for place, point in enumerate(points):
            values = [pairs[place][index] for pairs, _ in runs]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells[f"{column} {point}"] = f"{statistics.mean(values):.3f} ± {error:.3f}"
    return cells | {"ms": round(1000 * statistics.mean(seconds for _, seconds in runs), 1)}


def main() -> None:
    """Simulate, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--table", default="macro", choices=list(TABLES))
    parser.add_argument(
        "--samplers",
        nargs="+",
        default=[n for n in SAMPLERS if n not in ("gp", "advised")],
        help="`name` or `name:option=value,…`",
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--workers", type=int, default=1, help="proposals that are out at a time")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--platform", action="store_true", help="through Ray, two workers, on the table evaluator")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    points = [point for point in POINTS if point <= chosen.evaluations]
    table = TABLES[chosen.table](chosen.data)
    columns = ["regret"] if table.seen is table.scored else ["regret", "regret of the score"]
    biggest = sorted(table.seen, key=table.size, reverse=True)
    rows = [row("flops", columns, points, [(regrets(table, biggest, points), 0.0)])]
    settings = {"data": chosen.data, "evaluations": chosen.evaluations, "workers": chosen.workers}
    run = partial(one, **settings, platform=chosen.platform)
    if chosen.platform:
        os.environ.update(TUNE_SETTINGS)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with ProcessPoolExecutor(chosen.processes) as pool:
        each = map if chosen.platform else pool.map
        for name in chosen.samplers:
            try:
                runs = list(each(run, [(name, chosen.table, chosen.first_seed + seed) for seed in range(chosen.seeds)]))
            except KdnasError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            rows.append(row(name, columns, points, runs))
            print(rows[-1], file=sys.stderr, flush=True)
    facts = {"table": chosen.table, "seeds": chosen.seeds, "first_seed": chosen.first_seed, "workers": chosen.workers}
    tell(rows, chosen.out, **facts)


if __name__ == "__main__":
    main()
