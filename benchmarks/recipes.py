"""Does each way of learning from a teacher help?

The same student, trained equally long on the labels alone, by KD, and by every other method, with the default weights
and no tuning: alpha 0.7, temperature 3, and for features KD with the method beside it. Mean and spread of the test
accuracy over the seeds; `gain` is the mean difference to the labels alone with the same seed, in points, with its
standard error. Nothing is selected, so the test split is read for every row.

`--shares` trains with part of the labels instead: without a teacher, and by KD where the teacher answers for all
samples. The teacher there saw all labels (a model that somebody else trained); the student never does.

    python benchmarks/recipes.py --task digits
    python benchmarks/recipes.py --task cifar10 --data ../shared/data/cifar10
    python benchmarks/recipes.py --task digits --shares 0.01 0.02 0.05 0.2 1
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import tell

from kdnas_ray.config import SearchConfig, read
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.bank import Bank
from trainables.loop import DivergedError, Normalise, evaluate, start, train
from trainables.losses import LOSSES
from trainables.recipe import Recipe, Temperature, Term
from trainables.tasks.base import Data, keep_labels
from trainables.teachers import obtain

TAPS = ("stage1", "stage2", "stage3", "penultimate")
ALONE = "labels alone"


@dataclass(frozen=True)
class Bench:
    """What every training shares."""

    config: SearchConfig
    data: Data
    bank: Bank
    architecture: Any
    epochs: int
    batch_size: int


def main() -> None:
    """Train every method with every seed; print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["digits", "cifar10"], default="digits")
    parser.add_argument("--data", type=Path, help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--only", nargs="+", help="methods, as the table names them")
    parser.add_argument("--shares", type=float, nargs="+")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    if chosen.task == "cifar10" and (chosen.data is None or not chosen.data.exists()):
        sys.exit(f"--data = {chosen.data}: no data here; CIFAR-10 comes with the benchmarks only, see --help")
    torch.set_num_threads(1)
    bench = prepare(chosen.task, chosen.data, chosen.epochs)
    with ProcessPoolExecutor(os.cpu_count(), initializer=begin, initargs=(bench,)) as pool:
        rows = shares(pool, chosen.shares, chosen.seeds) if chosen.shares else methods(pool, chosen.seeds, chosen.only)
    teacher = {"params": bench.bank.teacher_params[0]}
    tell(rows, chosen.out, task=chosen.task, epochs=bench.epochs, seeds=chosen.seeds, teacher=teacher)


def prepare(task: str, path: Path | None, epochs: int | None) -> Bench:
    """Data, a trained teacher and its bank."""
    if task == "digits":
        config, widths, length = read({}), (4, 8, 8), 27
    else:
        assert path is not None
        options = {
            "name": "images",
            "path": str(path / "train.parquet"),
            "test_path": str(path / "test.parquet"),
            "subset": 2500,
            "augmentation": {"crop": 2, "flip": True},
        }
        config, widths, length = read({"task": options}), (8, 16, 32), 15
    data = config.task.load(config.seed)
    with tempfile.TemporaryDirectory() as cache:
        teacher = obtain(config.teachers[0], data, config.task, seed=0, cache=Path(cache), say=_say)
    normalise = Normalise(data.mean, data.std)
    _, accuracy = evaluate(teacher.model, data.test, config.task, normalise)
    _say(f"Teacher: test accuracy {accuracy:.4f}")
    augmentation = config.task.augmentation
    bank = banks.build(data.train, [teacher.model], normalise, augmentation=augmentation, views=8, seed=0, taps=TAPS)
    architecture = resnet_architecture(widths[0], widths, (1, 1, 1))
    size = sum(p.numel() for p in build_resnet(architecture, data.shape, len(data.classes)).parameters())
    _say(f"Student: {size:,} parameters; teacher {bank.teacher_params[0]:,}")
    return Bench(config, data, bank, architecture, epochs or length, 64)


def recipes() -> dict[str, Recipe]:
    """Every method by name."""
    plain = Recipe()
    found = {ALONE: plain.without_teacher(), "kd": plain}
    for name, loss in LOSSES.items():
        if loss.reads == "logits":
            found[name] = replace(plain, terms=(Term(name),))
        else:
            tap = "penultimate" if loss.last else "stage2" if loss.feature else None
            found[f"kd + {name}"] = replace(plain, terms=(Term("kd"), Term(name, tap=tap)))
    for schedule in ("linear", "cosine", "per_sample", "curriculum"):
        found[f"kd, temperature {schedule}"] = replace(plain, temperature=Temperature(schedule))
    for weighting in ("confidence", "uncertainty", "meta"):
        found[f"kd, weighting {weighting}"] = replace(plain, weighting=weighting)
    found["kd, alpha 0.9 to 0 linear"] = replace(plain, alpha=0.9, alpha_schedule="linear")
    every = tuple(Term("hint", tap=tap) for tap in TAPS[:3])
    for weighting in ("fixed", "meta"):
        found[f"kd + hint at every tap, {weighting}"] = replace(plain, terms=(Term("kd"), *every), weighting=weighting)
    found["kd, mutual"] = replace(plain, mutual=1.0)
    return found


def methods(pool: ProcessPoolExecutor, seeds: list[int], only: list[str] | None) -> list[dict[str, Any]]:
    """A row a method."""
    chosen = {name: recipe for name, recipe in recipes().items() if only is None or name in (ALONE, *only)}
    jobs = {(name, seed): pool.submit(accuracy, recipe, seed, 1.0) for name, recipe in chosen.items() for seed in seeds}
    scores = {key: job.result() for key, job in jobs.items()}
    alone = np.array([scores[ALONE, seed][0] for seed in seeds])
    rows = []
    for name in chosen:
        own = np.array([scores[name, seed][0] for seed in seeds])
        rows.append({"method": name, **_spread("test", own), **_gain(own, alone), "s": scores_s(scores, name, seeds)})
    return rows


def shares(pool: ProcessPoolExecutor, wanted: list[float], seeds: list[int]) -> list[dict[str, Any]]:
    """A row a share of the labels."""
    kinds = {"alone": Recipe().without_teacher(), "kd": Recipe(), "kd, alpha 1": replace(Recipe(), alpha=1.0)}
    jobs = {
        (share, kind, seed): pool.submit(accuracy, recipe, seed, share)
        for share in wanted
        for kind, recipe in kinds.items()
        for seed in seeds
    }
    rows = []
    for share in wanted:
        row: dict[str, Any] = {"labels": f"{100 * share:g} %"}
        for kind in kinds:
            row |= _spread(kind, np.array([jobs[share, kind, seed].result()[0] for seed in seeds]))
        rows.append(row)
    return rows


def accuracy(recipe: Recipe, seed: int, share: float, architecture: Any = None) -> tuple[float, float]:
    """Test accuracy after a training of a residual student, and its seconds; NaN where it diverged."""
    bench, begin = BENCH[0], time.perf_counter()
    data, config = bench.data, bench.config
    labels = keep_labels(data.train, share, data.classes, seed).labels
    bank = replace(bench.bank, labels=labels)
    models = []
    for offset in (0, 1000):
        torch.manual_seed(seed + offset)
        models.append(build_resnet(architecture or bench.architecture, data.shape, len(data.classes)))
    normalise = Normalise(data.mean, data.std)
    training = start(models[0], recipe, bank, seed=seed, total_epochs=bench.epochs, peer=models[1])
    try:
        train(training, bank, data.validation, config.task, normalise, bench.epochs)
    except DivergedError:
        return float("nan"), time.perf_counter() - begin
    return evaluate(training.model, data.test, config.task, normalise)[1], time.perf_counter() - begin


def scores_s(scores: dict[tuple[str, int], tuple[float, float]], name: str, seeds: list[int]) -> float:
    """Mean seconds of a training."""
    return float(np.mean([scores[name, seed][1] for seed in seeds]))


BENCH: list[Bench] = []  # of this worker process


def begin(bench: Bench) -> None:
    """What a worker process does first."""
    torch.set_num_threads(1)
    BENCH.append(bench)


def _spread(name: str, values: np.ndarray) -> dict[str, str]:
    spread = f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return {name: f"{100 * values.mean():.2f}{spread}"}


def _gain(own: np.ndarray, alone: np.ndarray) -> dict[str, str]:
    apart = 100 * (own - alone)
    error = f" ± {apart.std(ddof=1) / len(apart) ** 0.5:.2f}" if len(apart) > 1 else ""
    return {"gain": f"{apart.mean():+.2f}{error}"}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
