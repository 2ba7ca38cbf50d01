"""How well do zero-cost proxies rank untrained networks of NAS-Bench-201 by the accuracy they reach when trained?

A random sample of the benchmark's 15,625 networks (width 16, 5 cells a stage, PyTorch's default initialisation) is
scored by every proxy on one batch of CIFAR-10's training images, and the ranking compared with the table's test
accuracy after 200 epochs on CIFAR-10. `params` and `flops` are what any proxy has to beat. Edges that lead nowhere are
not built (see `NASBench201Space`), so they count in no score. The teacher that DisWOT asks for is random, as in its
paper: a ResNet-56.

`low` and `high` are the ends of a 95 % interval (bootstrap over networks), `CPU s` the mean time of one network.

    python benchmarks/proxies.py --data ../shared/data --out proxies.json
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet  # type: ignore[import-untyped]
import torch
from record import tell
from scipy import stats

from kdnas_ray.hardware.counting import count
from search_spaces.nasbench201 import NASBench201Space
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables.loop import Normalise
from trainables.proxies import PROXIES, Probe
from trainables.tasks.images import ImagesTask

SHAPE, CLASSES = (3, 32, 32), 10
TARGET = "cifar10_test_200"
# Spearman on NAS-Bench-201, CIFAR-10, against validation accuracy after full training.
PUBLISHED = {
    "naswot": 0.79,
    "jacob_cov": 0.77,
    "params": 0.74,
    "synflow": 0.74,
    "flops": 0.71,
    "snip": 0.61,
    "grad_norm": 0.61,
    "grasp": 0.54,
    "fisher": 0.51,
}


def main() -> None:
    """Score every network, print a row for each proxy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of nas_bench_201 and cifar10")
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=list(PROXIES), metavar="PROXY")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end with fewer networks after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    for part in ("nas_bench_201/nas_bench_201.parquet", "cifar10/train.parquet"):
        if not (chosen.data / part).exists():
            raise SystemExit(f"{chosen.data / part} is not there; name the folder with --data")
    texts, accuracy = sample(chosen.data, chosen.networks, chosen.seed)
    probe = probe_of(chosen.data, chosen.batch, chosen.seed)
    scores, seconds = score(texts, chosen.proxies, probe, chosen.seed, chosen.minutes)
    scored = len(scores["params"])
    texts, accuracy = texts[:scored], accuracy[:scored]
    rows = [row(name, np.array(values), accuracy, float(np.mean(seconds[name]))) for name, values in scores.items()]
    rows.sort(key=lambda found: -found["spearman"])
    tell(rows, chosen.out, batch=chosen.batch, architectures=texts, scores=scores, **{TARGET: accuracy.tolist()})


def sample(data: Path, networks: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts of random architectures and their accuracies `[networks]`; a smaller sample starts a larger one."""
    table = pyarrow.parquet.read_table(data / "nas_bench_201/nas_bench_201.parquet", columns=["architecture", TARGET])
    table = table.take(np.random.default_rng(seed).permutation(len(table))[:networks])
    return table["architecture"].to_pylist(), table[TARGET].to_numpy()


def probe_of(data: Path, batch: int, seed: int) -> Probe:
    """One batch of training images, with what a random teacher says about it."""
    found = ImagesTask(data / "cifar10/train.parquet", subset=2 * batch, validation=0.1, test=0.1).load(seed)
    images = Normalise(found.mean, found.std)(torch.from_numpy(np.array(found.train.images[:batch])))
    torch.manual_seed(seed)
    teacher = build_resnet(resnet_architecture(16, (16, 32, 64), (9, 9, 9)), SHAPE, CLASSES)
    with torch.no_grad():
        logits, taps = teacher.forward_taps(images, ("stage3", "penultimate"))
    return Probe(images, torch.from_numpy(np.array(found.train.labels[:batch])), logits, taps)


def score(
    texts: list[str], proxies: list[str], probe: Probe, seed: int, minutes: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Scores and CPU seconds `{proxy: [networks]}`."""
    space = NASBench201Space(width=16, cells=5)
    scores: dict[str, list[float]] = {name: [] for name in (*proxies, "params", "flops")}
    seconds: dict[str, list[float]] = {name: [] for name in scores}
    end = time.monotonic() + 60 * minutes
    for number, text in enumerate(texts):
        architecture = space.parse(text)
        torch.manual_seed(seed + number)
        model = space.build(architecture, SHAPE, CLASSES)
        for name in proxies:
            begin = time.process_time()
            scores[name].append(PROXIES[name](model, probe))
            seconds[name].append(time.process_time() - begin)
        begin = time.process_time()
        counts = count(lambda known=architecture: space.build(known, SHAPE, CLASSES), SHAPE)  # type: ignore[misc]
        for name, value in counts.items():
            scores[name].append(value)
            seconds[name].append(time.process_time() - begin)
        if time.monotonic() > end:
            break
    return scores, seconds


def row(name: str, values: np.ndarray, accuracy: np.ndarray, seconds: float) -> dict[str, Any]:
    """Rank correlations of one proxy."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(0, len(values), len(values)) for _ in range(1000))
    low, high = np.percentile([stats.spearmanr(values[i], accuracy[i])[0] for i in draws], [2.5, 97.5])
    return {
        "proxy": name,
        "n": len(values),
        "spearman": float(stats.spearmanr(values, accuracy)[0]),
        "low": float(low),
        "high": float(high),
        "published": PUBLISHED.get(name, ""),
        "kendall tau": float(stats.kendalltau(values, accuracy)[0]),
        "CPU s": seconds,
    }


if __name__ == "__main__":
    main()
