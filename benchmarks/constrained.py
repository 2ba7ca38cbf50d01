"""What does a search gain by knowing its latency bound, against filtering what a search without it found?

Whole searches on scikit-learn's digits with equally many trained candidates. `aware` has the bound as a constraint,
`filter` none; of both only candidates that keep the bound count. The hypervolume is the area between the accuracies and
latencies of the best and the corner (accuracy 0, latency at the bound), as a share of the whole area: 1 would be a
network without errors that takes no time. `within` is the share of trained candidates that keep the bound; `rejected`
are shares of all proposals, of the first 50 and of the rest.

    python benchmarks/constrained.py
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from record import tell

from kdnas_ray import search
from kdnas_ray.config import SearchConfig, read
from kdnas_ray.live import Narrator

EARLY = 50

Row = Mapping[str, Any]


def configured(
    device: str, bound: float, aware: bool, sampler: str, trials: int, epochs: int, seed: int
) -> SearchConfig:
    """A search for accurate and fast students."""
    return read(
        {
            "objectives": ["val_accuracy", "latency_ms"],
            "devices": [device],
            "constraints": {"latency_ms": bound} if aware else {},
            "sampler": sampler,
            "budget": {"trials": trials},
            "scheduler": {"name": "asha", "max_epochs": epochs},
            "retrain": {"top": 0},
            "tracking": {"enabled": False},
            "seed": seed,
        }
    )


def hypervolume(rows: Sequence[Row], name: str, bound: float) -> float:
    """Share of the area accuracy 0 to 1 times latency 0 to `bound` that some row dominates."""
    covered, best, last = 0.0, 0.0, 0.0
    for row in sorted((row for row in rows if row[name] <= bound), key=lambda row: row[name]):
        covered += best * (row[name] - last)
        best, last = max(best, row["val_accuracy"]), row[name]
    return (covered + best * (bound - last)) / bound


def searched(config: SearchConfig, bound: float) -> dict[str, float]:
    """Hypervolume and shares of one search."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        rows = search(config, Path(folder) / "run", Narrator()).candidates
    name = f"latency_ms/{config.devices[0]}"
    trained = [row for row in rows if row["state"] in ("complete", "pruned")]
    asked = sorted(rows, key=lambda row: row["id"])
    broken = [row["state"] == "rejected" and "not trained again" not in row["reason"] for row in asked]
    return {
        "hypervolume": hypervolume([row for row in trained if row["state"] == "complete"], name, bound),
        "within": sum(row[name] <= bound for row in trained) / len(trained),
        "early": sum(broken[:EARLY]) / len(broken[:EARLY]),
        "late": sum(broken[EARLY:]) / max(len(broken[EARLY:]), 1),
    }


def main() -> None:
    """Search, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cortex-m7")
    parser.add_argument("--bound", type=float, default=10.0, help="milliseconds")
    parser.add_argument("--samplers", nargs="+", default=["nsga2", "tpe"])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=27, help="of a candidate that is not stopped")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    found: dict[tuple[str, bool], list[dict[str, float]]] = {}
    for seed in range(chosen.seeds):
        for sampler, aware in itertools.product(chosen.samplers, (True, False)):
            config = configured(chosen.device, chosen.bound, aware, sampler, chosen.trials, chosen.epochs, seed)
            found.setdefault((sampler, aware), []).append(run := searched(config, chosen.bound))
            print(f"seed {seed}, {sampler}, {'aware' if aware else 'filter'}: {run}", file=sys.stderr, flush=True)
    rows = []
    for (sampler, aware), runs in found.items():
        volumes = [run["hypervolume"] for run in runs]
        error = statistics.stdev(volumes) / len(volumes) ** 0.5 if len(volumes) > 1 else 0.0
        rows.append(
            {
                "sampler": sampler,
                "search": "aware" if aware else "filter",
                "hypervolume": f"{statistics.mean(volumes):.3f} ± {error:.3f}",
                "within": f"{statistics.mean(run['within'] for run in runs):.0%}",
                "rejected, first 50": f"{statistics.mean(run['early'] for run in runs):.0%}",
                "rejected, later": f"{statistics.mean(run['late'] for run in runs):.0%}",
            }
        )
    facts = {name: getattr(chosen, name) for name in ("device", "bound", "trials", "epochs", "seeds")}
    tell(rows, chosen.out, **facts)


if __name__ == "__main__":
    main()
