"""What does the earlier self teach a network whose classes come in groups of two, and what do memory and growth add?

Five groups of two classes each, in an order drawn from the seed; images of 16 x 16; one residual network (1, 1 and
2 blocks in its three stages, the same size everywhere), the same epochs a group. Rows are ways to learn the stream:

- fine-tuning: the labels of each group alone;
- rehearsal: and a memory of `memory` samples of earlier groups (herding);
- LwF: KD from the earlier self at temperature 2, as heavy as the labels (the paper's lambda 1, here alpha 0.2,
  because our KD has the factor T^2), no memory; LwF + memory: both;
- + features: and attention maps of the last stage (weight 1 of the usual one);
- + WA: weight alignment after each group, with and without KD; growing: begins with one block a stage;
- all at once: every class from the start, as many epochs, so as many steps as the whole stream without memory.

Settings are those of the papers or the defaults and the same for all rows (benchmarks/README.md tells of the one that
was corrected after a first attempt): nothing is selected, the last epoch counts, and the test split is read for each
row alone. Mean ± standard deviation over seeds, in percent:
average accuracy over the groups after the last one, the mean of it after each group (incremental), accuracy on the
earlier groups, forgetting (Chaudhry 2018). `old, KD gain` is the mean difference to the row without KD of the same
memory, alignment and size (fine-tuning, rehearsal, rehearsal + WA), seed by seed, with its standard error, in points.

    python benchmarks/incremental.py mnist --data ../shared/data/mnist --seeds 0 1 2 3 4
    python benchmarks/incremental.py cifar10 --data ../shared/data/cifar10 --seeds 0 1 2
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import tell

from search_spaces import ResNetSpace
from search_spaces.resnet import resnet_architecture
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.candidate import Candidate
from trainables.distill import Shared, open_training
from trainables.incremental import learn_all
from trainables.loop import Normalise, evaluate, train
from trainables.recipe import Recipe, Temperature, Term
from trainables.stream import SeenClasses, Stream, ordered
from trainables.tasks import ImagesTask
from trainables.tasks.base import Split, choose

GROUPS = (2, 2, 2, 2, 2)
WIDTHS, DEPTHS = (8, 16, 32), (1, 1, 2)
SIDE = 16  # pixels
VIEWS = 4
TESTED = 2_000  # test samples, the same for all rows
SETTINGS: dict[str, dict[str, Any]] = {
    "mnist": {"subset": 2_000, "memory": 200, "epochs": 6, "augmentation": Augmentation(shift=1)},
    "cifar10": {"subset": 2_500, "memory": 300, "epochs": 6, "augmentation": Augmentation(crop=2, flip=True)},
}
ALONE = Recipe(learning_rate=0.05, batch_size=32).without_teacher()
KD = Recipe(alpha=0.2, temperature=Temperature("constant", 2.0), learning_rate=0.05, batch_size=32)
BOTH = dataclasses.replace(KD, terms=(Term("kd"), Term("attention", tap="stage3")))


def aligned(recipe: Recipe, **more: Any) -> Recipe:
    """The recipe with weight alignment."""
    return dataclasses.replace(recipe, weight_alignment=True, **more)


# Name: recipe, whether there is a memory, and the row that differs by the lack of KD alone.
ARMS: dict[str, tuple[Recipe, bool, str | None]] = {
    "fine-tuning": (ALONE, False, None),
    "rehearsal": (ALONE, True, None),
    "rehearsal + WA": (aligned(ALONE), True, None),
    "LwF": (KD, False, "fine-tuning"),
    "LwF + memory": (KD, True, "rehearsal"),
    "LwF + memory + features": (BOTH, True, "rehearsal"),
    "LwF + memory + WA": (aligned(KD), True, "rehearsal + WA"),
    "LwF + memory + WA, growing": (aligned(KD, grow=True), True, None),
}
JOINT = "all at once"
COLUMNS = {
    "test_accuracy": "average accuracy",
    "test_incremental_accuracy": "incremental",
    "test_old_accuracy": "earlier groups",
    "test_forgetting": "forgetting",
}


def main() -> None:
    """Train every row with every seed; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(SETTINGS))
    parser.add_argument("--data", type=Path, required=True, help="folder of train.parquet and test.parquet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of a group")
    parser.add_argument("--subset", type=int, help="training samples drawn")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    if not chosen.data.exists():
        sys.exit(f"--data = {chosen.data}: no data here; they come with the benchmarks only")
    given = {name: getattr(chosen, name) for name in ("epochs", "subset") if getattr(chosen, name)}
    settings = SETTINGS[chosen.name] | given
    torch.set_num_threads(1)
    found = [one(chosen.data, settings, seed) for seed in chosen.seeds]
    rows = []
    for name in [*ARMS, JOINT]:
        row: dict[str, Any] = {"data": chosen.name, "way": name}
        for key, title in COLUMNS.items():
            row[title] = _spread([scores[name].get(key) for scores in found])
        against = ARMS[name][2] if name in ARMS else None
        gain = [scores[name]["test_old_accuracy"] - scores[against]["test_old_accuracy"] for scores in found if against]
        row["old, KD gain"] = _gain(gain) if gain else None
        rows.append(row)
    facts = {name: value for name, value in settings.items() if name != "augmentation"}
    tell(rows, chosen.out, seeds=chosen.seeds, **facts, each=found)


def one(folder: Path, settings: dict[str, Any], seed: int) -> dict[str, dict[str, Any]]:
    """Measures of every row with this seed."""
    task = ImagesTask(
        folder / "train.parquet",
        test_path=folder / "test.parquet",
        size=SIDE,
        subset=settings["subset"],
        validation=0.05,
        augmentation=settings["augmentation"],
    )
    data = task.load(seed)
    order = np.random.default_rng(seed).permutation(len(data.classes)).reshape(len(GROUPS), -1)
    kept = choose(data.test.labels, TESTED, seed)
    data = dataclasses.replace(data, test=Split(data.test.images[kept], data.test.labels[kept]))
    data = ordered(data, [[data.classes[index] for index in group] for group in order])
    shared = Shared(
        bank=banks.without_teacher(data.train, augmentation=task.augmentation, views=VIEWS, seed=seed),
        validation=data.validation,
        task=task,
        space=ResNetSpace(),
        mean=data.mean,
        std=data.std,
        classes=len(data.classes),
        rungs=(settings["epochs"] * len(GROUPS),),
        checkpoints="",
        channels_last=True,
    )
    architecture = resnet_architecture(8, WIDTHS, DEPTHS)
    architecture = type(architecture).of({**architecture, "stem.stride": 2})
    found: dict[str, dict[str, Any]] = {}
    for name, (recipe, remembers, _) in ARMS.items():
        begin = time.perf_counter()
        stream = Stream(GROUPS, settings["memory"] if remembers else 0)
        here = dataclasses.replace(shared, stream=stream)
        _, found[name] = learn_all(here, Candidate("c0000", architecture, recipe, seed), shared.rungs[-1], data.test)
        _tell(seed, name, found[name], begin)
    begin, stream, normalise = time.perf_counter(), Stream(GROUPS), Normalise(data.mean, data.std)
    training = open_training(shared, Candidate("c0000", architecture, ALONE, seed), settings["epochs"])
    train(training, shared.bank, data.validation, task, normalise, settings["epochs"])
    whole = SeenClasses(task, stream, len(GROUPS))
    each = [
        evaluate(training.model, stream.part(data.test, group), whole, normalise)[1] for group in range(len(GROUPS))
    ]
    found[JOINT] = {"test_accuracy": float(np.mean(each)), "test_old_accuracy": float(np.mean(each[:-1]))}
    _tell(seed, JOINT, found[JOINT], begin)
    return found


def _tell(seed: int, name: str, scores: dict[str, Any], begin: float) -> None:
    kept = {key: round(scores[key], 4) for key in COLUMNS if key in scores}
    print(f"seed {seed}, {name}: {kept}, {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)


def _spread(values: list[float | None]) -> str | None:
    known = [100 * value for value in values if value is not None]
    if not known:
        return None
    return f"{np.mean(known):.1f}" + (f" ± {np.std(known, ddof=1):.1f}" if len(known) > 1 else "")


def _gain(apart: list[float]) -> str:
    error = f" ± {100 * np.std(apart, ddof=1) / len(apart) ** 0.5:.1f}" if len(apart) > 1 else ""
    return f"{100 * np.mean(apart):+.1f}{error}"


if __name__ == "__main__":
    main()
