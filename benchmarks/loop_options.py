"""Do channels_last, bfloat16 and `torch.compile` pay in the training loop, and from how many steps on?

The same student under KD from a bank, one torch thread, through the loop as it stands; each way has its own copy and
trains an epoch in turn, round after round; the fastest epoch of each counts, as a ratio to plain float32. For
`compiled` the seconds of its first two epochs beyond its later ones are what compiling costs, and `pays after` is the
number of steps that win them back. Torch keeps what it compiled; `TORCHINDUCTOR_FORCE_DISABLE_CACHES=1` in later runs.

    python benchmarks/loop_options.py
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from record import tell
from torch import nn

from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.bank import Bank
from trainables.layout import to_channels_last
from trainables.loop import Normalise, Training, start, train
from trainables.recipe import Recipe
from trainables.tasks import DigitsTask
from trainables.tasks.base import Split

CLASSES = 10
SAMPLES = 512
# name: shape, stem and stage channels
STUDENTS = {
    "4 thousand parameters, 8x8": ((1, 8, 8), 4, (4, 8, 16)),
    "78 thousand, 8x8": ((1, 8, 8), 16, (16, 32, 64)),
    "14 thousand, 32x32": ((3, 32, 32), 8, (8, 16, 24)),
    "78 thousand, 32x32": ((3, 32, 32), 16, (16, 32, 64)),
}
WAYS = ("float32", "channels_last", "bfloat16", "compiled")


def main() -> None:
    """Time every way on every student; print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in chosen.students for row in measure(name, chosen.ways, chosen.rounds)]
    tell(rows, chosen.out, samples=SAMPLES, rounds=chosen.rounds)


def measure(name: str, ways: list[str], rounds: int) -> list[dict[str, object]]:
    """A row for each way of one student."""
    shape, stem, stages = STUDENTS[name]
    bank = make_bank(shape)
    trainings = {way: begin(way, shape, stem, stages, bank, rounds + 2) for way in ways}
    params = sum(part.numel() for part in trainings["float32"].model.parameters())
    normalise, task = Normalise((0.5,) * shape[0], (0.25,) * shape[0]), DigitsTask()
    few = Split(bank.images[:2], bank.labels[:2])
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rng = random.Random(0)
    for turn in range(rounds + 2):  # the first two warm up: the last batch has another size, and is compiled too
        for way in rng.sample(ways, len(ways)):
            before = time.perf_counter()
            train(trainings[way], bank, few, task, normalise, turn + 1)
            seconds[way].append(time.perf_counter() - before)
    steps = SAMPLES // Recipe().batch_size
    plain = min(seconds["float32"][2:]) / steps
    rows = []
    for way in ways:
        step = min(seconds[way][2:]) / steps
        extra = sum(seconds[way][:2]) - 2 * steps * step
        gain = plain - step
        rows.append(
            {
                "student": name,
                "parameters": params,
                "way": way,
                "ms a step": 1000 * step,
                "ratio": step / plain,
                "compiling s": extra if way == "compiled" else None,
                "pays after steps": round(extra / gain) if way == "compiled" and gain > 0 else None,
            }
        )
    return rows


def make_bank(shape: tuple[int, int, int]) -> Bank:
    """A bank of random images and the answers of an untrained teacher: what a step costs does not depend on them."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (SAMPLES, *shape), dtype=np.uint8)
    torch.manual_seed(0)
    teacher = build_resnet(resnet_architecture(32, (32, 64, 128), (1, 1, 1)), shape, CLASSES)
    split = Split(images, draw.integers(0, CLASSES, SAMPLES))
    normalise = Normalise((0.5,) * shape[0], (0.25,) * shape[0])
    return banks.build(split, [teacher], normalise, augmentation=Augmentation(shift=1), views=2, seed=0, taps=())


def begin(
    way: str, shape: tuple[int, int, int], stem: int, stages: tuple[int, ...], bank: Bank, epochs: int
) -> Training:
    """The student of that way, hardly moved: diverging would change nothing but the numbers."""
    torch.manual_seed(0)
    model: nn.Module = build_resnet(resnet_architecture(stem, stages, (1, 1, 1)), shape, CLASSES)
    if way in ("channels_last", "compiled"):  # compiled ones choose that layout themselves
        model = to_channels_last(model)
    if way == "compiled":
        model.compile()
    slow = Recipe(**{**vars(Recipe()), "learning_rate": 1e-6})
    return start(model, slow, bank, seed=0, total_epochs=epochs, bfloat16=way == "bfloat16")


if __name__ == "__main__":
    main()
