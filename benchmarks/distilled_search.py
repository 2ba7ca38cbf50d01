"""Does distillation make the search itself shorter?

Architectures are drawn from the NAS-Bench-101 space, made narrow, and trained on a part of CIFAR-10. Truth is the mean
accuracy on test images after full training with KD and a feature hint, over seeds that no judge saw. A judge sees the
validation images only and orders all architectures; its choice is the first, or the best of its first three after their
full training. The table says what each judge costs in processor seconds (one thread), relative to training every
candidate in full on the labels, and how far its choice is below the best there is, in points.

- `labels, e epochs`, `distilled, e epochs`: validation accuracy after e epochs of one training on the labels alone, or
  with KD and a feature hint. Each training is cut short from one full schedule, as ASHA does it.
- `blocks`: sum of the losses of blocks distilled one by one; every block is trained once, however many networks use it.
- proxies: one batch, no training.

    python benchmarks/distilled_search.py --data ../shared/data/cifar10
"""

import argparse
import os
import random
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

from kdnas_ray.analysis.trust import Figure, agreement
from kdnas_ray.config import SearchConfig, read
from kdnas_ray.prefilter import make_probe, proxy_score
from search_spaces import Architecture, NASBench101Space, sample
from search_spaces.notation import canonical
from trainables import bank as banks
from trainables.candidate import Candidate, build_model
from trainables.distill import Shared
from trainables.evaluators.blocks import Blocks, block_keys, train_block
from trainables.loop import Normalise, evaluate, start, train
from trainables.proxies import PROXIES
from trainables.recipe import Recipe, Term
from trainables.tasks.base import Split
from trainables.teachers import obtain

SPACE = NASBench101Space(width=8, cells=1)
DISTILLED = Recipe(terms=(Term("kd"), Term("hint", tap="stage2")), learning_rate=0.05)
LABELS = DISTILLED.without_teacher()
TAPS = ("stage1", "stage2", "stage3", "penultimate")
BLOCKS = Blocks(epochs=2, learning_rate=0.02)
JUDGES = ("params", *PROXIES)  # that train nothing


@dataclass(frozen=True)
class Bench:
    """What every training shares."""

    shared: Shared
    test: Split
    epochs: int


_BENCH: Bench


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--architectures", type=int, default=60)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--test", type=int, default=4000, help="test images")
    parser.add_argument("--seeds", type=int, default=3, help="full trainings that make the truth")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bench = prepare(chosen.data, chosen.samples, chosen.epochs, chosen.test)
    architectures = distinct(chosen.architectures)
    with ProcessPoolExecutor(os.cpu_count(), initializer=_begin, initargs=(bench,)) as pool:
        truths = [pool.submit(_train, a, DISTILLED, 1 + s) for a in architectures for s in range(chosen.seeds)]
        curves = {
            name: [pool.submit(_train, a, recipe, 0, validate=True) for a in architectures]
            for name, recipe in (("labels", LABELS), ("distilled", DISTILLED))
        }
        blocks = pool.submit(_blocks, architectures)
        proxies = {name: pool.submit(_proxy, name, architectures) for name in JUDGES}
        finals = np.array([job.result()[0][-1] for job in truths]).reshape(len(architectures), chosen.seeds)
        truth = finals.mean(axis=1)
        whole = sum(job.result()[1] for job in curves["labels"])
        full = np.mean([job.result()[1] for job in truths])
        known: dict[str, tuple[list[float], float]] = {}
        for name, jobs in curves.items():
            for epoch in range(1, chosen.epochs + 1):
                scores = [job.result()[0][epoch - 1] for job in jobs]
                spent = sum(job.result()[1] for job in jobs) * epoch / chosen.epochs
                known[f"{name}, {epoch} epochs"] = (scores, spent)
        for name, job in {"blocks": blocks, **proxies}.items():
            known[name] = job.result()
    rows = [judged(name, *found, truth, whole, full) for name, found in known.items()]
    spread = float(finals.std(axis=1, ddof=1).mean()) if chosen.seeds > 1 else None
    facts: dict[str, Any] = {"architectures": len(architectures), "epochs": chosen.epochs, "samples": chosen.samples}
    facts |= {"best": float(truth.max()), "median": float(np.median(truth)), "spread_over_seeds": spread}
    tell(rows, chosen.out, **facts, truth=truth.tolist(), scores={name: found[0] for name, found in known.items()})


def judged(
    name: str, scores: list[float], seconds: float, truth: np.ndarray, whole: float, full: float
) -> dict[str, Any]:
    """A line: what the judge costs and how good its choice is, with 95 % intervals over the architectures.

    Args:
        name: of the judge.
        scores: of each architecture, more is better.
        seconds: spent on them.
        truth: accuracy of each architecture.
        whole: seconds of training all of them in full on the labels.
        full: seconds of one full training with distillation.
    """
    found = agreement(scores, truth.tolist())
    return {
        "judge": name,
        "cost": f"{seconds / whole:.3f}",
        "tau": _interval(found["tau"], 1, 2),
        "choice below the best": _interval(found["regret_1"], 100, 1),
        "cost with 3 trained": f"{(seconds + 3 * full) / whole:.3f}",
        "best of 3 below the best": _interval(found["regret_3"], 100, 1),
    }


def _interval(figure: Figure, scale: float, digits: int) -> str:
    value, low, high = (scale * (figure[part] or 0.0) for part in ("value", "low", "high"))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def prepare(path: Path, samples: int, epochs: int, test: int) -> Bench:
    """Data, a trained teacher, its bank with features."""
    options = {
        "name": "images",
        "path": str(path / "train.parquet"),
        "test_path": str(path / "test.parquet"),
        "subset": samples,
        "validation": 0.3,
        "augmentation": {"crop": 2, "flip": True},
    }
    config: SearchConfig = read({"task": options, "teachers": [{"name": "trained", "epochs": 16}]})
    data = config.task.load(config.seed)
    with tempfile.TemporaryDirectory() as cache:
        teacher = obtain(config.teachers[0], data, config.task, seed=0, cache=Path(cache), say=_say)
    normalise, augmentation = Normalise(data.mean, data.std), config.task.augmentation
    bank = banks.build(data.train, [teacher.model], normalise, augmentation=augmentation, views=6, seed=0, taps=TAPS)
    shared = Shared(
        bank, data.validation, config.task, SPACE, data.mean, data.std, len(data.classes), (epochs,), "nowhere"
    )
    some = np.random.default_rng(0).permutation(len(data.test))[:test]
    return Bench(shared, Split(data.test.images[some], data.test.labels[some]), epochs)


def distinct(count: int) -> list[Architecture]:
    """Random architectures that build different networks."""
    rng, found = random.Random(0), {}
    while len(found) < count:
        architecture = sample(SPACE, rng)
        found.setdefault(canonical(SPACE, architecture), architecture)
    return list(found.values())


def _begin(bench: Bench) -> None:
    global _BENCH
    _BENCH = bench
    torch.set_num_threads(1)


def _train(architecture: Architecture, recipe: Recipe, seed: int, validate: bool = False) -> tuple[list[float], float]:
    """Validation accuracy after every epoch, or the accuracy on the test images at the end; seconds of training."""
    shared, epochs = _BENCH.shared, _BENCH.epochs
    model = build_model(SPACE, architecture, shared.bank.shape, shared.classes, seed)
    training = start(model, recipe, shared.bank, seed=seed, total_epochs=epochs)
    normalise = Normalise(shared.mean, shared.std)
    began = time.process_time()
    curve = train(training, shared.bank, shared.validation, shared.task, normalise, epochs)
    seconds = time.process_time() - began
    if validate:
        return [point["val_accuracy"] for point in curve], seconds
    return [evaluate(model, _BENCH.test, shared.task, normalise)[1]], seconds


def _blocks(architectures: list[Architecture]) -> tuple[list[float], float]:
    shared, settings = _BENCH.shared, replace(BLOCKS, taps=TAPS[:3])
    began, losses = time.process_time(), {}
    scores = []
    for architecture in architectures:
        own = block_keys(SPACE, architecture, shared.bank.shape, shared.classes, settings.taps)
        for index, key in enumerate(own):
            if key not in losses:
                losses[key] = train_block(shared, settings, architecture, index, 0)[0]
        scores.append(-sum(losses[key] for key in own))
    return scores, time.process_time() - began


def _proxy(name: str, architectures: list[Architecture]) -> tuple[list[float], float]:
    shared, began = _BENCH.shared, time.process_time()
    if name == "params":
        models = (build_model(SPACE, a, shared.bank.shape, shared.classes, 0) for a in architectures)
        return [float(sum(p.numel() for p in model.parameters())) for model in models], time.process_time() - began
    probe = make_probe(shared, 64, 0)
    candidates = [Candidate("c", architecture, DISTILLED, 0) for architecture in architectures]
    return [proxy_score(name, shared, candidate, probe) for candidate in candidates], time.process_time() - began


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
