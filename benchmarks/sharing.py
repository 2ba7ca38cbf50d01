"""How much memory does one more worker cost the machine, and does that depend on the size of the bank?

Real Ray workers hold the real trainable and train on a bank of the given size (noise: only its size matters here), one
worker after another. A bank's memory is mostly tapped features, so few samples fill it; every worker trains as many
epochs as there are views, so it has read every page before anything is measured.

What is summed is the proportional memory (PSS, /proc/PID/smaps_rollup) of all who map the bank: the workers, the raylet
(the object store is part of it) and the driver (which put the bank there). PSS divides a shared page among those who
map it, so this sum counts the bank once however many they are, and its growth from k - 1 to k workers is what the
k-th costs the machine. Left out, the driver would take its share of the bank with it, and a further worker would seem
to cost a part of the bank. `of it bank` is the growth of shared memory alone: about 0 when nothing is copied there.

    python benchmarks/sharing.py                # 500 and 50 MB; goal: under 250 MB each, for both
"""

import argparse
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune
from record import tell

from kdnas_ray.config import read
from kdnas_ray.environment import ray_session
from search_spaces.resnet import resnet_architecture
from trainables.augment import Augmentation
from trainables.bank import Bank
from trainables.candidate import Candidate
from trainables.distill import Distill, Shared
from trainables.recipe import Recipe, Term
from trainables.tasks.base import Split

SIDE, CLASSES, VIEWS = 32, 10, 4
TAP = (64, 16, 16)  # channels, height, width of the teacher's second stage


def main() -> None:
    """Start one worker after another for each bank, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank-mb", type=int, nargs="+", default=[500, 50])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    rows = []
    for size in chosen.bank_mb:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(size, chosen.workers, folder))
    tell(rows, chosen.out)


def measure(bank_mb: int, workers: int, folder: str) -> dict[str, Any]:
    """Growth of the proportional memory with each worker."""
    with ray_session(workers, 1, int(bank_mb * 1.2e6) + 2**28):
        shared = ray.put(shared_with(noise_bank(bank_mb * 10**6), folder))
        actor = ray.remote(num_cpus=1)(tune.with_parameters(Distill, shared=shared))
        actors, pids, sums = [], [], []
        for number in range(workers):
            actors.append(actor.remote(config=configuration(number)))
            result = ray.get(actors[-1].train.remote())
            assert result.get("epoch") == VIEWS, result
            pids.append(result["pid"])
            sums.append(proportional([os.getpid(), *raylets(), *pids]))
        alone = [proportional([pid])["Pss"] for pid in pids]
    further = [{kind: b[kind] - a[kind] for kind in a} for a, b in pairwise(sums)]
    return {
        "bank MB": bank_mb,
        "first worker, raylet and driver MB": round(sums[0]["Pss"]),
        "further workers MB": ", ".join(f"{growth['Pss']:.0f}" for growth in further),
        "of it bank MB": ", ".join(f"{growth['Pss_Shmem']:.0f}" for growth in further),
        "of it private MB": ", ".join(f"{growth['Pss_Anon']:.0f}" for growth in further),
        f"PSS of each of {workers} workers MB": ", ".join(f"{pss:.0f}" for pss in alone),
    }


def noise_bank(size: int) -> Bank:
    """A bank of `size` bytes: images, logits and one tap."""
    sample = 3 * SIDE * SIDE + 8 + VIEWS * 2 * (CLASSES + int(np.prod(TAP)))
    n = size // sample
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 3, SIDE, SIDE), dtype=np.uint8)
    logits = rng.normal(size=(VIEWS, 1, n, CLASSES)).astype(np.float16)
    tap = np.empty((VIEWS, n, *TAP), dtype=np.float16)
    tap[:] = rng.random((n, *TAP), dtype=np.float32)
    labels = rng.integers(0, CLASSES, n)
    return Bank(images, labels, logits, {"stage2": tap}, Augmentation(crop=2, flip=True), 0)


def shared_with(bank: Bank, folder: str) -> Shared:
    """What trials read. The only rung comes after as many epochs as there are views."""
    config = read({}, ["space.stages=2", "recipes.taps=[stage2]"])
    return Shared(
        bank=bank,
        validation=Split(bank.images[:64].copy(), bank.labels[:64].copy()),
        task=config.task,
        space=config.space,
        mean=(0.5,) * 3,
        std=(0.3,) * 3,
        classes=CLASSES,
        rungs=(VIEWS,),
        checkpoints=folder,
    )


def configuration(number: int) -> dict[str, Any]:
    """A trial's configuration: a small student that reads logits and tap."""
    architecture = resnet_architecture(8, (8, 16), (1, 1))
    recipe = Recipe(terms=(Term("kd"), Term("hint", 1.0, "stage2")), learning_rate=0.01)
    return {"candidate": Candidate(f"c{number:04d}", architecture, recipe, number).to_json()}


def proportional(pids: list[int]) -> dict[str, float]:
    """Proportional memory of these processes in MB: in all, private, of files (libraries), of shared memory."""
    found = dict.fromkeys(("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem"), 0.0)
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, amount = line.partition(":")
            if name in found:
                found[name] += int(amount.split()[0]) * 1024 / 1e6
    return found


def raylets() -> list[int]:
    """The raylet that this process started."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = {int(pid) for file in children for pid in file.read_text().split()}
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet"]


if __name__ == "__main__":
    main()
