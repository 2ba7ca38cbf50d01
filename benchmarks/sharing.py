"""How much memory does one more worker cost, and does it depend on the size of the bank?

Real Ray workers with the real trainable train a step on a bank of the given size (noise: only its size matters here).
A worker's proportional memory (PSS) divides a shared page among those who map it, so the sum over all workers and
Ray's daemons is what the machine really holds. The figure: that sum with k workers minus that with k - 1.

    python benchmarks/sharing.py --bank-mb 500
    python benchmarks/sharing.py --bank-mb 50
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import psutil
import ray
from ray import tune

from kdnas_ray.config import read
from search_spaces import Architecture
from search_spaces.resnet import resnet_architecture
from trainables.augment import Augmentation
from trainables.bank import Bank
from trainables.candidate import Candidate
from trainables.distill import Distill, Shared
from trainables.recipe import Recipe
from trainables.tasks.base import Split

SIDE, CLASSES, WORKERS = 32, 10, 4


def main() -> None:
    """Start one worker after another, print a row for the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank-mb", type=int, default=500)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = int(chosen.bank_mb * 1.5e6) + 2**28
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, object_store_memory=store)
        bank = noise_bank(chosen.bank_mb * 10**6)
        size = bank.nbytes
        reference = ray.put(shared_with(bank, folder))
        del bank
        architecture = resnet_architecture(8, (8, 16), (1, 1))
        sums, actors = [], []
        trainable = tune.with_parameters(Distill, shared=reference)
        for number in range(WORKERS):
            actors.append(ray.remote(num_cpus=1)(trainable).remote(config=candidate(architecture, number)))
            ray.get(actors[-1].train.remote())
            sums.append(total_pss([ray.get(actor.__ray_call__.remote(_pid)) for actor in actors]))
        further = [(b - a) / 1e6 for a, b in itertools.pairwise(sums)]
        print("| bank MB | first worker and daemons MB | each further worker MB |")
        print(f"| {size / 1e6:.0f} | {sums[0] / 1e6:.0f} | {', '.join(f'{mb:.0f}' for mb in further)} |")
        ray.shutdown()


def noise_bank(size: int) -> Bank:
    """A bank of `size` bytes: images and two views of logits."""
    n = size // (3 * SIDE * SIDE + 2 * 2 * CLASSES)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 3, SIDE, SIDE), dtype=np.uint8)
    logits = rng.normal(size=(2, 1, n, CLASSES)).astype(np.float16)
    return Bank(images, rng.integers(0, CLASSES, n), logits, {}, Augmentation(crop=2, flip=True), 0)


def shared_with(bank: Bank, folder: str) -> Shared:
    """What trials read, with one epoch as the only rung. Every page of the bank is read in it."""
    config = read({}, ["space.stages=2", "recipes.taps=[stage2]"])
    validation = Split(bank.images[:64].copy(), bank.labels[:64].copy())
    return Shared(bank=bank, validation=validation, task=config.task, space=config.space, mean=(0.5,) * 3,
                  std=(0.3,) * 3, classes=CLASSES, rungs=(1,), checkpoints=str(Path(folder)))  # fmt: skip


def candidate(architecture: Architecture, number: int) -> dict:
    """A trial's configuration."""
    return {"candidate": Candidate(f"c{number:04d}", architecture, Recipe(batch_size=4096), number).to_json()}


def total_pss(workers: list[int]) -> int:
    """Proportional memory of these workers and of Ray's raylet (which holds the object store), in bytes."""
    daemons = [p.pid for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
    return sum(psutil.Process(pid).memory_full_info().pss for pid in [*workers, *daemons])


def _pid(_actor: object) -> int:
    import os

    return os.getpid()


if __name__ == "__main__":
    main()
