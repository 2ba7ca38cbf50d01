"""Does a hint pay where the device spends its time?

Random residual students, each trained by KD alone and by KD with a hint at one of its stages, with the same seeds.
`gain` is the mean difference in test accuracy that the hint makes, in points with its standard error; `share` the part
of the modelled latency that the stage takes on each device, mean over the students. Spearman is that of share and gain
over all pairs of student and stage, with a bootstrap interval over the students. Nothing is selected, so the test split
is read for every row.

    python benchmarks/taps.py --task digits
    python benchmarks/taps.py --task cifar10 --data ../shared/data/cifar10
"""

import argparse
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import recipes
import torch
from record import tell
from scipy.stats import spearmanr

from kdnas_ray.hardware.devices import device
from kdnas_ray.hardware.stages import stages, tap_shares
from search_spaces import Architecture, sample
from search_spaces.resnet import ResNetSpace
from trainables.recipe import Recipe, Term

DEVICES = ("npu-small", "cortex-m7", "gpu-bandwidth", "server-cpu")
STAGES = ("stage1", "stage2", "stage3")


def main() -> None:
    """Train every student with every hint; print a row a stage, and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["digits", "cifar10"], default="digits")
    parser.add_argument("--data", type=Path, help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--students", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    if chosen.task == "cifar10" and (chosen.data is None or not chosen.data.exists()):
        sys.exit(f"--data = {chosen.data}: no data here; CIFAR-10 comes with the benchmarks only, see --help")
    torch.set_num_threads(1)
    bench = recipes.prepare(chosen.task, chosen.data, chosen.epochs)
    space, rng = ResNetSpace(), random.Random(0)
    students = [sample(space, rng) for _ in range(chosen.students)]
    hints = {None: Recipe(), **{tap: replace(Recipe(), terms=(Term("kd"), Term("hint", tap=tap))) for tap in STAGES}}
    with ProcessPoolExecutor(os.cpu_count(), initializer=recipes.begin, initargs=(bench,)) as pool:
        jobs = {
            (student, tap, seed): pool.submit(_trained, student, recipe, seed)
            for student in students
            for tap, recipe in hints.items()
            for seed in chosen.seeds
        }
        scores = {key: job.result() for key, job in jobs.items()}
    gains = np.array(
        [
            [
                [100 * (scores[student, tap, seed] - scores[student, None, seed]) for seed in chosen.seeds]
                for tap in STAGES
            ]
            for student in students
        ]
    ).mean(axis=2)  # [students, stages]
    shape, classes = bench.data.shape, len(bench.data.classes)
    shares = {name: _shares(space, students, shape, classes, name) for name in DEVICES}
    rows: list[dict[str, Any]] = []
    for index, tap in enumerate(STAGES):
        error = gains[:, index].std(ddof=1) / len(students) ** 0.5
        row = {"hint at": tap, "gain": f"{gains[:, index].mean():+.2f} ± {error:.2f}"}
        rows.append(row | {name: f"{100 * share[:, index].mean():.0f} %" for name, share in shares.items()})
    rows.append(
        {"hint at": "Spearman", "gain": ""} | {name: _correlation(share, gains) for name, share in shares.items()}
    )
    tell(rows, chosen.out, task=chosen.task, epochs=bench.epochs, seeds=chosen.seeds, students=len(students))


def _trained(student: Architecture, recipe: Recipe, seed: int) -> float:
    return recipes.accuracy(recipe, seed, 1.0, student)[0]


def _shares(space: ResNetSpace, students: list[Architecture], shape: Any, classes: int, name: str) -> np.ndarray:
    """`[students, stages]`."""
    found = [tap_shares(stages(space, student, shape, classes), device(name)) for student in students]
    return np.array([[shares[tap] for tap in STAGES] for shares in found])


def _correlation(shares: np.ndarray, gains: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(gains), len(gains)) for _ in range(1000)]
    drawn = [spearmanr(shares[draw].ravel(), gains[draw].ravel()).statistic for draw in draws]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{spearmanr(shares.ravel(), gains.ravel()).statistic:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    main()
