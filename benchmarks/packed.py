"""Do students of one architecture train faster as one?

Eight students of one architecture, each with a recipe and a seed of its own, for a few epochs: one by one and as one
pack, in turn, round after round on fresh students; the median over the rounds of the processor seconds a step of all
eight. `largest difference` is that of any number of their curves between the two ways, relative to it. One torch
thread, the memory layout that is faster for single students here.

    python benchmarks/packed.py                                # 8x8 grey images, as digits
    python benchmarks/packed.py --shape 1 28 28 --samples 512
    python benchmarks/packed.py --shape 3 32 32 --samples 512
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from losses import CLASSES, make_bank
from record import tell

from search_spaces.resnet import build_resnet, resnet_architecture
from trainables.bank import Bank
from trainables.layout import channels_last_pays, to_channels_last
from trainables.loop import Normalise, Training, start, train
from trainables.packed import pays, train_packed
from trainables.recipe import Recipe, Temperature, Term
from trainables.tasks import DigitsTask
from trainables.tasks.base import Split

# Stem and widths of the stages, one basic block each.
NETWORKS = ((4, (4, 4, 8)), (4, (4, 8, 12)), (8, (8, 16, 16)), (8, (8, 16, 32)), (16, (16, 32, 64)))
KINDS = {"kd": (Term("kd"),), "kd + hint": (Term("kd"), Term("hint", tap="stage2"))}


def main() -> None:
    """Time every network and kind of recipe; print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 8, 8], metavar=("C", "H", "W"))
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bank = make_bank(tuple(chosen.shape), chosen.samples)
    rows = []
    for stem, widths in NETWORKS:
        for kind in KINDS:
            rows.append(compared(bank, stem, widths, kind, chosen.students, chosen.epochs, chosen.rounds))
            print(rows[-1], flush=True)
    tell(rows, chosen.out, shape=chosen.shape, samples=chosen.samples, students=chosen.students)


def compared(
    bank: Bank, stem: int, widths: tuple[int, ...], kind: str, students: int, epochs: int, rounds: int
) -> dict[str, object]:
    """One network and kind of recipe, both ways."""
    task, normalise = DigitsTask(), Normalise((0.5,) * bank.shape[0], (0.25,) * bank.shape[0])
    few = Split(bank.images[:64], bank.labels[:64])

    def build() -> torch.nn.Module:
        return build_resnet(resnet_architecture(stem, widths, (1,) * len(widths)), bank.shape, CLASSES)

    last = channels_last_pays(build, bank.shape, CLASSES, Recipe().batch_size)
    seconds: dict[str, list[float]] = {"single": [], "packed": []}
    for turn in range(rounds + 1):  # the first warms up
        single, packed = (begun(build, bank, kind, students, epochs, last) for _ in range(2))

        def one_by_one(trainings: Sequence[Training] = single) -> None:
            for training in trainings:
                train(training, bank, few, task, normalise, epochs)

        def as_one(trainings: Sequence[Training] = packed) -> None:
            train_packed(trainings, bank, few, task, normalise, epochs)

        for name, way in (("single", one_by_one), ("packed", as_one)):
            spent = timed(way)
            if turn:
                seconds[name].append(spent)
    steps = epochs * (len(bank) // Recipe().batch_size)
    alone, together = (1000 * median(seconds[name]) / steps for name in ("single", "packed"))
    return {
        "params": sum(weight.numel() for weight in single[0].model.parameters()),
        "recipe": kind,
        "layout": "channels last" if last else "contiguous",
        "ms one by one": alone,
        "ms packed": together,
        "ratio": together / alone,
        "auto packs": pays(packed[0], students, bank),
        "largest difference": max(
            abs(one[name] - other[name]) / max(abs(one[name]), 1e-9)
            for a, b in zip(single, packed, strict=True)
            for one, other in zip(a.curve, b.curve, strict=True)
            for name in ("train_loss", "val_loss")
        ),
    }


def begun(
    build: Callable[[], torch.nn.Module], bank: Bank, kind: str, students: int, epochs: int, last: bool
) -> list[Training]:
    """Students at their start, no two with the same recipe."""
    found = []
    for place in range(students):
        torch.manual_seed(place)
        model = to_channels_last(build()) if last else build()
        recipe = Recipe(
            alpha=0.3 + 0.6 * place / students,
            temperature=Temperature(start=1.0 + place),
            learning_rate=0.01 * (1 + place),
            terms=KINDS[kind],
        )
        found.append(start(model, recipe, bank, seed=place, total_epochs=epochs))
    return found


def timed(way: Callable[[], None]) -> float:
    """Processor seconds, which other work on the machine changes little."""
    begin = time.process_time()
    way()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
