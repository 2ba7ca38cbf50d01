"""What are images without labels worth that join the training through the teacher?

scikit-learn's digits as a user would have them: a Parquet file of 160 labelled scans (144 to train on, a tenth of all
but the test split), a folder of the 1,277 others without labels, and a test split of 360. A small residual network
learns from the same weights, over as many steps:

- labels alone, the 144;
- KD, labelled: from the teacher too, about the 144;
- KD, with unlabelled: from the teacher about all, `task.unlabelled`.

The teacher is one that learned the 144 labels, as a user has it who has nothing else, or one that learned all 1,437, as
it may come from elsewhere. Mean ± standard deviation of the test accuracy over the seeds (data, teacher and student);
`gain`: the mean difference between the last two with the same seed, in points, with its standard error. Nothing is
selected: the last epoch counts, and the test split is read once for each training.

    python benchmarks/unlabelled.py
"""

import argparse
import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from cross_modal import cell
from PIL import Image
from record import tell
from torch import nn

from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.loop import Normalise, evaluate, start, train
from trainables.recipe import Recipe
from trainables.tasks import ImagesTask
from trainables.tasks.base import Split, choose

LABELLED, TEST = 160, 360
TEACHER, STUDENT = (32, 32, 64), (4, 4, 8)  # stem, and stages of one block
SHIFT = Augmentation(shift=1)


def main() -> None:
    """Train teachers and students; print a row for each teacher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=12, help="of a student and of a teacher, over as many steps")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = [one(seed, chosen.epochs) for seed in chosen.seeds]
    rows = []
    for whose in ("144 labels", "1,437 labels"):
        row: dict[str, Any] = {"teacher learned": whose}
        for arm in ("teacher", "labels alone", "KD, labelled", "KD, with unlabelled"):
            scores = np.array([each[whose, arm] for each in found])
            row[arm] = cell(scores, np.zeros(1))
        apart = np.array([each[whose, "KD, with unlabelled"] - each[whose, "KD, labelled"] for each in found])
        row["gain"] = f"{100 * apart.mean():+.1f} ± {100 * apart.std(ddof=1) / len(apart) ** 0.5:.1f}"
        rows.append(row)
    tell(rows, chosen.out, seeds=chosen.seeds, epochs=chosen.epochs, each=[plain(scores) for scores in found])


def one(seed: int, epochs: int) -> dict[tuple[str, str], float]:
    """Test accuracy of each teacher and its students, with this seed."""
    with tempfile.TemporaryDirectory() as folder:
        task, everything = write(Path(folder), seed)
        data = task.load(seed)
        only = replace(task, unlabelled=None).load(seed)
        whole = everything.load(seed)
    normalise, found = Normalise(data.mean, data.std), {}

    def trained(widths: tuple[int, ...], bank: banks.Bank, recipe: Recipe, length: int) -> nn.Module:
        torch.manual_seed(seed)
        model = build_resnet(resnet_architecture(widths[0], widths[1:], (1, 1)), data.shape, len(data.classes))
        training = start(model, recipe, bank, seed=seed, total_epochs=length)
        train(training, bank, data.validation, task, normalise, length)
        return training.model.eval()

    def bank(split: Split, *teachers: nn.Module) -> banks.Bank:
        return banks.build(split, teachers, normalise, augmentation=SHIFT, views=8, seed=seed)

    def score(model: nn.Module) -> float:
        return evaluate(model, data.test, task, normalise)[1]

    labels = Recipe().without_teacher()
    alone = score(trained(STUDENT, bank(data.train), labels, epochs))
    more = round(epochs * len(data.train) / len(only.train))  # as many samples, with fewer different ones
    for whose, split in (("144 labels", data.train), ("1,437 labels", whole.train)):
        teacher = trained(TEACHER, bank(split), labels, epochs)
        found[whose, "teacher"] = score(teacher)
        found[whose, "labels alone"] = alone
        found[whose, "KD, labelled"] = score(trained(STUDENT, bank(only.train, teacher), Recipe(), more))
        found[whose, "KD, with unlabelled"] = score(trained(STUDENT, bank(data.train, teacher), Recipe(), epochs))
    print(f"seed {seed}: {plain(found)}", file=sys.stderr, flush=True)
    return found


def write(folder: Path, seed: int) -> tuple[ImagesTask, ImagesTask]:
    """The files, and the task with few labels and unlabelled images, and the one with all labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target
    test = choose(labels, TEST, seed)
    others = np.setdiff1d(np.arange(len(labels)), test)
    few = others[choose(labels[others], LABELLED, seed)]
    for name, indices in (("test", test), ("few", few), ("all", others)):
        pictures = [{"bytes": png(images[index]), "path": None} for index in indices]
        pq.write_table(pa.table({"image": pictures, "label": labels[indices]}), folder / f"{name}.parquet")
    (folder / "unlabelled").mkdir()
    for index in np.setdiff1d(others, few):
        (folder / "unlabelled" / f"{index}.png").write_bytes(png(images[index]))
    task = ImagesTask(folder / "few.parquet", test_path=folder / "test.parquet", augmentation=SHIFT)
    everything = replace(task, path=folder / "all.parquet")
    return replace(task, unlabelled=folder / "unlabelled"), everything


def plain(scores: dict[tuple[str, str], float]) -> dict[str, float]:
    """The scores under names of text."""
    return {", ".join(names): round(score, 4) for names, score in scores.items()}


def png(image: np.ndarray) -> bytes:
    """A grey picture `[H, W]` uint8 as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
