"""What does a step with each loss cost?

Cost: one epoch of the same student on the same batches with each recipe in turn, round after round, so that all meet
the same load; the median epoch over the rounds, as a ratio to KD alone and to training on the labels alone (the same
bank, no teacher read). The student is a small residual network, one torch thread; `--shape` sets the image size.

    python benchmarks/losses.py               # 8x8 grey images, as digits
    python benchmarks/losses.py --shape 3 32 32
"""

import argparse
import random
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from record import tell

from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.bank import Bank
from trainables.loop import Normalise, Training, start, train
from trainables.losses import LOSSES
from trainables.recipe import Recipe, Term
from trainables.tasks import DigitsTask
from trainables.tasks.base import Split

CLASSES = 10
LABELS = "labels alone"
TAPS = ("stage1", "stage2", "stage3", "penultimate")


def main() -> None:
    """Time every recipe in turn; print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 8, 8], metavar=("C", "H", "W"))
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bank = make_bank(tuple(chosen.shape), chosen.samples)
    recipes = {LABELS: Recipe().without_teacher()}
    for name, loss in LOSSES.items():
        tap = "penultimate" if loss.last else "stage2" if loss.feature else None
        terms = (Term(name),) if loss.reads == "logits" else (Term("kd"), Term(name, tap=tap))
        recipes[name] = Recipe(terms=terms)
    seconds = measure(recipes, bank, chosen.rounds)
    rows = [
        {
            "loss": name if name not in LOSSES or LOSSES[name].reads == "logits" else f"kd + {name}",
            "ms a step": 1000 * median(found) / (chosen.samples // Recipe().batch_size),
            "ratio to kd": median(found) / median(seconds["kd"]),
            "ratio to labels alone": median(found) / median(seconds[LABELS]),
        }
        for name, found in seconds.items()
    ]
    tell(rows, chosen.out, shape=chosen.shape, samples=chosen.samples, rounds=chosen.rounds)


def make_bank(shape: tuple[int, ...], samples: int) -> Bank:
    """A bank of random images and the answers of an untrained teacher: what a step costs does not depend on them."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (samples, *shape), dtype=np.uint8)
    torch.manual_seed(0)
    teacher = build_resnet(resnet_architecture(32, (32, 64, 128), (1, 1, 1)), shape, CLASSES)  # type: ignore[arg-type]
    split = Split(images, draw.integers(0, CLASSES, samples))
    normalise = Normalise((0.5,) * shape[0], (0.25,) * shape[0])
    augmentation = Augmentation(shift=1)
    return banks.build(split, [teacher], normalise, augmentation=augmentation, views=2, seed=0, taps=TAPS)


def measure(recipes: dict[str, Recipe], bank: Bank, rounds: int) -> dict[str, list[float]]:
    """Seconds of one epoch with each recipe, a value a round; the order is drawn anew each round."""
    shape = bank.images.shape[1:]
    normalise, task = Normalise((0.5,) * shape[0], (0.25,) * shape[0]), DigitsTask()
    few = Split(bank.images[:2], bank.labels[:2])
    trainings = {name: begin(recipe, bank, rounds + 1) for name, recipe in recipes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    rng = random.Random(0)
    for turn in range(rounds + 1):  # the first warms up
        for name in rng.sample(list(recipes), len(recipes)):
            before = time.perf_counter()
            train(trainings[name], bank, few, task, normalise, turn + 1)
            if turn:
                seconds[name].append(time.perf_counter() - before)
    return seconds


def begin(recipe: Recipe, bank: Bank, epochs: int) -> Training:
    """The same student for every recipe, hardly moved: diverging would change nothing but the numbers."""
    torch.manual_seed(0)
    model = build_resnet(resnet_architecture(8, (8, 16, 32), (1, 1, 1)), bank.images.shape[1:], CLASSES)
    slow = Recipe(**{**vars(recipe), "learning_rate": 1e-6})
    return start(model, slow, bank, seed=0, total_epochs=epochs)


if __name__ == "__main__":
    main()
