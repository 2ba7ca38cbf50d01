"""Does what a search selects keep its latency bound on this machine, when it is measured afterwards?

First the machine is calibrated, as by `kdnas device calibrate`, on networks of the task's own shape. Then whole
searches on scikit-learn's digits under a bound on that profile, each with another seed and another bound (a quantile of
the modelled latencies of random networks). Of each the selected student, and the one that the search would have
selected by the model alone (the first of its ranking), are measured anew: several rounds, the fastest median.

    python benchmarks/bound_kept.py
"""

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record import tell

from kdnas_ray import search
from kdnas_ray.config import read
from kdnas_ray.hardware import calibrating
from kdnas_ray.hardware.calibrating import agreement, draw_networks, fit_profile, measure_networks
from kdnas_ray.hardware.costs import cost_function
from kdnas_ray.hardware.devices import write
from kdnas_ray.hardware.lookup import by_name
from kdnas_ray.live import Narrator
from search_spaces import SPACES, Architecture, sample

SHAPE, CLASSES = (1, 8, 8), 10
QUANTILES = (0.2, 0.35, 0.5, 0.65)


def main() -> None:
    """Calibrate, search, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--space", default="resnet")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    settings: dict[str, Any] = {"runtime": "onnx", "threads": 1, "shape": SHAPE, "say": print}
    seen, unseen = (
        measure_networks(draw_networks(calibrating.USUAL, count, seed), **settings)
        for count, seed in ((90, 0), (60, 1))
    )
    profile = fit_profile(seen, "here", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "here.yaml"
        file.write_text(write(profile), encoding="utf8")
        modelled = _modelled(chosen.space, str(file))
        rows = []
        for run in range(chosen.runs):
            bound = float(np.quantile(modelled, QUANTILES[run % len(QUANTILES)]))
            rows.append(_searched(chosen.space, str(file), bound, chosen.trials, run, Path(folder) / f"run{run}"))
            print(rows[-1], flush=True)
    found = agreement(profile, unseen)
    tell(
        [
            {
                "selected by": name,
                "runs": len(rows),
                "bound kept": sum(row[name] <= row["bound"] for row in rows),
                "within 2 % of it": sum(row[name] <= 1.02 * row["bound"] for row in rows),
                "median of latency / bound": f"{np.median([row[name] / row['bound'] for row in rows]):.2f}",
            }
            for name in ("measured finalists", "model alone")
        ],
        chosen.out,
        spearman=round(found.spearman, 3),
        median_error=round(found.median_error, 3),
        refused=sum(row["refused"] for row in rows),
    )


def _modelled(space: str, device: str) -> list[float]:
    costs, rng = cost_function(SPACES[space](), SHAPE, CLASSES, by_name([device])), random.Random(0)
    return [costs(sample(SPACES[space](), rng))["latency_ms/here"] for _ in range(100)]


def _searched(space: str, device: str, bound: float, trials: int, seed: int, folder: Path) -> dict[str, float]:
    config = read(
        {
            "space": space,
            "devices": [device],
            "constraints": {"latency_ms": bound},
            "budget": {"trials": trials},
            "retrain": {"top": 1, "seeds": 1},
            "tracking": {"enabled": False},
            "seed": seed,
        }
    )
    result = search(config, folder, Narrator())
    ranked = {row["id"]: row for row in result.ranking}
    names = {"measured finalists": result.summary["best"]["id"], "model alone": result.ranking[0]["id"]}
    drawn = [(space, config.space, Architecture.of(ranked[name]["architecture"])) for name in names.values()]
    found = measure_networks(drawn, runtime="onnx", threads=1, shape=SHAPE, say=lambda text: None)
    times = {who: row.latency.median_ms for who, row in zip(names, found, strict=True)}
    measured = (folder / "measured.jsonl").read_text().splitlines()
    return {"bound": bound, "refused": len(measured) - len(result.finalists), **times}


if __name__ == "__main__":
    main()
