"""What does the knowledge bank cost: to build, and to take a batch from?

`build`: `trainables.bank.build` with V views against V bare passes of the same teacher (`model(normalise(images))` over
the images of the same views, transformed beforehand, in batches of the same size), taking turns in one process with one
torch thread; processor seconds. The ratio is that of neighbours in time; `ratio` is the median over the rounds. The
teacher is the default one, untrained: what a pass costs does not depend on its weights. `all taps` keeps every map.

`batch`: one epoch of students drawn from the default space, as the training loop runs it with the default recipe (KD on
the logits), and then the same batches alone. `share` is their part of the epoch, `transforms` what the epoch draws once
beside them. The first student is the smallest of the space, for which a batch weighs most.

    python benchmarks/bank.py build       # goal: ratio at most 1.1
    python benchmarks/bank.py batch       # goal: share below 2 %
    python benchmarks/bank.py build --settings digits --profile
"""

import argparse
import cProfile
import pstats
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from record import tell
from torch import Tensor, nn

from search_spaces import Architecture, ResNetSpace, sample
from search_spaces.resnet import resnet_architecture
from trainables import bank as banks
from trainables.augment import Augmentation, apply
from trainables.bank import INFERENCE_BATCH, Bank, fitting
from trainables.loop import Normalise, epoch_batches, start, train
from trainables.recipe import Recipe
from trainables.tasks import DigitsTask
from trainables.tasks.base import Split
from trainables.tasks.digits import SHIFT
from trainables.tasks.images import CROP_AND_FLIP
from trainables.teachers.trained import TrainedTeacher, network

CLASSES = 10
TAPS = ("stage1", "stage2", "stage3", "penultimate")
STUDENTS = 5  # drawn from the space, beside the smallest


@dataclass(frozen=True)
class Setting:
    """The size of a task: shape of an image, training samples, how views differ, how often which is measured."""

    shape: tuple[int, int, int]
    samples: int
    augmentation: Augmentation
    views: int
    rounds: int


SETTINGS = {
    "digits": Setting((1, 8, 8), 1437, SHIFT, views=8, rounds=9),
    "cifar": Setting((3, 32, 32), 4000, CROP_AND_FLIP, views=2, rounds=2),
}


def main() -> None:
    """Measure one of the two for each setting, print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "batch"))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--samples", type=int, help="instead of the setting's")
    parser.add_argument("--rounds", type=int, help="instead of the setting's")
    parser.add_argument("--profile", action="store_true", help="show where a build's time goes, with all taps")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in chosen.settings:
        setting = SETTINGS[name]
        split = made_up(setting.shape, chosen.samples or setting.samples)
        if chosen.profile:
            profile(setting, split)
            return
        measure = built if chosen.what == "build" else batches
        rows += [{"setting": name, **row} for row in measure(setting, split, chosen.rounds or setting.rounds)]
    tell(rows, chosen.out, what=chosen.what)


def made_up(shape: tuple[int, int, int], samples: int) -> Split:
    """Random images and labels: no cost depends on what they show."""
    drawn = np.random.default_rng(0)
    return Split(drawn.integers(0, 256, (samples, *shape), dtype=np.uint8), drawn.integers(0, CLASSES, samples))


def built(setting: Setting, split: Split, rounds: int) -> list[dict[str, Any]]:
    """Building with and without taps against bare passes: a row each."""
    model, normalise = teacher(setting.shape), normaliser(setting.shape)
    empty = banks.without_teacher(split, augmentation=setting.augmentation, views=setting.views, seed=0)
    images = torch.from_numpy(split.images)
    views = [apply(images, empty.transforms(view)) for view in range(setting.views)]
    ways = {
        "logits": lambda: build(setting, split, model, ()),
        "logits and all taps": lambda: build(setting, split, model, TAPS),
    }
    bare(model, normalise, [view[:INFERENCE_BATCH] for view in views])  # warms up
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        passes = [timed(lambda: bare(model, normalise, views))]
        for way, call in ways.items():
            seconds[way].append(timed(call))
            passes.append(timed(lambda: bare(model, normalise, views)))
            # The passes just before and just after: a machine that slows down slows both sides.
            ratios[way].append(seconds[way][-1] / (sum(passes[-2:]) / 2))
    return [
        {
            "kept": way,
            "samples": len(split),
            "views": setting.views,
            "rounds": rounds,
            "build s a view": median(seconds[way]) / setting.views,
            "ratio": median(ratios[way]),
            "least": min(ratios[way]),
            "most": max(ratios[way]),
        }
        for way in ways
    ]


def batches(setting: Setting, split: Split, rounds: int) -> list[dict[str, Any]]:
    """What part of a student's epoch its batches take: a row for each student."""
    bank = build(setting, split, teacher(setting.shape), ())
    return [{"student": name, **student_row(setting, bank, architecture, rounds)} for name, architecture in students()]


def student_row(setting: Setting, bank: Bank, architecture: Architecture, rounds: int) -> dict[str, Any]:
    """Epochs of one student, and their batches alone after each; the first, on view 0, only warms up."""
    torch.manual_seed(0)
    model = ResNetSpace().build(architecture, setting.shape, CLASSES)
    slow = Recipe(**{**vars(Recipe()), "learning_rate": 1e-6})  # diverging would change nothing but the numbers
    training = start(model, slow, bank, seed=0, total_epochs=rounds + 1)
    few = Split(bank.images[:2], bank.labels[:2])
    normalise, task = normaliser(setting.shape), DigitsTask()
    shares, draws, steps, takes = [], [], [], []
    for epoch in range(rounds + 1):
        view = 1 + epoch % (bank.views - 1) if bank.views > 1 else 0
        indices = epoch_batches(training, bank)
        clock = [time.perf_counter()]
        train(training, bank, few, task, normalise, training.epoch + 1)
        clock.append(time.perf_counter())
        transforms = bank.transforms(view)
        clock.append(time.perf_counter())
        for chosen in indices:
            bank.batch(chosen, view, transforms)
        clock.append(time.perf_counter())
        whole, drawing, taking = np.diff(clock).tolist()
        if epoch:
            shares.append(taking / whole)
            draws.append(drawing / whole)
            steps.append(1000 * whole / len(indices))
            takes.append(1000 * taking / len(indices))
    return {
        "parameters": sum(part.numel() for part in model.parameters()),
        "rounds": rounds,
        "ms a step": median(steps),
        "ms a batch": median(takes),
        "share": f"{median(shares):.2%}",
        "transforms": f"{median(draws):.2%}",
    }


def students() -> Iterator[tuple[str, Architecture]]:
    """The smallest network of the default space, and some drawn from it."""
    space, rng = ResNetSpace(), random.Random(0)
    least = (min(space.widths),) * space.stages
    yield "smallest", resnet_architecture(min(space.stem_widths), least, (1,) * space.stages, block="separable")
    for number in range(1, STUDENTS + 1):
        yield f"drawn {number}", sample(space, rng)


def teacher(shape: tuple[int, int, int]) -> nn.Module:
    """The default teacher before its training."""
    torch.manual_seed(0)
    return network(TrainedTeacher(), shape, CLASSES).eval()


def normaliser(shape: tuple[int, int, int]) -> Normalise:
    """As any task's."""
    return Normalise((0.5,) * shape[0], (0.25,) * shape[0])


def build(setting: Setting, split: Split, model: nn.Module, taps: tuple[str, ...]) -> Bank:
    """The bank as a search builds it."""
    views, augmentation = setting.views, setting.augmentation
    normalise = normaliser(setting.shape)
    return banks.build(split, [model], normalise, augmentation=augmentation, views=views, seed=0, taps=taps)


def bare(model: nn.Module, normalise: nn.Module, views: list[Tensor]) -> None:
    """The teacher's answers, thrown away."""
    size = fitting(INFERENCE_BATCH, tuple(views[0].shape[1:]))
    with torch.inference_mode():
        for images in views:
            for first in range(0, len(images), size):
                model(normalise(images[first : first + size]))


def timed(call: Callable[[], Any]) -> float:
    """Processor seconds of one call, which do not count what else this machine does."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def profile(setting: Setting, split: Split) -> None:
    """Print the functions in which a build spends its time."""
    model = teacher(setting.shape)
    profiler = cProfile.Profile()
    profiler.runcall(build, setting, split, model, TAPS)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
