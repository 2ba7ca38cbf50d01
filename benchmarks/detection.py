"""Does a classification teacher help a small detector of blood cells?

For each seed the training images are split anew; a classifier is trained on crops of the training split and laid over
its images as class maps. Then the same detector is trained from the same weights and equally long: on the boxes alone,
with the class maps (alpha 0.5, temperature 1), and with these and a hint between the maps at stride 4. AP50 and COCO
mAP on the test file in percent, mean ± standard deviation over the seeds; `gain` is the mean difference of AP50 to the
boxes alone with the same seed, in points, with its standard error. Nothing is selected: the last epoch counts, the
validation split is scored but not used, the test file is read once for each training.

`--share` keeps the boxes of a share of the training images. The teacher is trained on these alone; of the others the
detector learns the class maps, and without a teacher it sees the images with boxes more often instead: no step less.

    python benchmarks/detection.py --data ../shared/data/blood_cells
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import tell

from search_spaces import DetectorSpace, decode
from trainables import bank as banks
from trainables.loop import Normalise, start, train
from trainables.recipe import Recipe, Temperature, Term
from trainables.tasks import DetectionTask
from trainables.tasks.base import Split, keep_labels, known
from trainables.teachers import ClassifierTeacher, obtain

CLASSES = ("Platelets", "RBC", "WBC")
SIZE = (96, 128)
WIDTHS = (8, 8, 16, 24, 32)  # channels of stem and stages
ALONE = replace(Recipe().without_teacher(), optimizer="adamw", learning_rate=0.005, weight_decay=0.01, batch_size=16)
MAPS = replace(ALONE, alpha=0.5, temperature=Temperature(start=1.0), terms=(Term("kd"),))
HINT = Term("hint", 1.0, "stage2", "resolution")
ARMS = {"boxes alone": ALONE, "class maps": MAPS, "class maps and hint": replace(MAPS, terms=(*MAPS.terms, HINT))}
TEACHER = ClassifierTeacher(crops=2000, epochs=6)
VIEWS = 4


def main() -> None:
    """Train teachers and students; print a row for each way of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20, help="of a detector")
    parser.add_argument("--share", type=float, default=1.0, help="share of the training images whose boxes are known")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    if not chosen.data.exists():
        sys.exit(f"--data = {chosen.data}: no data here; they come with the benchmarks only")
    torch.set_num_threads(1)
    found = [one(chosen.data, seed, chosen.epochs, chosen.share) for seed in chosen.seeds]
    rows = []
    for arm in ARMS:
        own = {name: np.array([scores[arm][name] for scores in found]) for name in ("AP50", "COCO mAP")}
        row: dict[str, Any] = {"learned from": arm} | {name: _spread(values) for name, values in own.items()}
        apart = own["AP50"] - np.array([scores["boxes alone"]["AP50"] for scores in found])
        rows.append(row | {"gain in AP50": _gain(apart) if arm != "boxes alone" else None})
    tell(rows, chosen.out, seeds=chosen.seeds, epochs=chosen.epochs, share=chosen.share, each=found)


def one(folder: Path, seed: int, epochs: int, share: float) -> dict[str, dict[str, float]]:
    """Scores on the test file of each way of training, with this seed."""
    task = DetectionTask(folder / "train.parquet", folder / "test.parquet", classes=CLASSES, size=SIZE)
    data = task.load(seed)
    train_split = keep_labels(data.train, share, data.classes, seed)
    there = known(train_split.labels)
    boxed = replace(data, train=Split(train_split.images[there], train_split.labels[there]))
    normalise = Normalise(data.mean, data.std)
    with tempfile.TemporaryDirectory() as cache:
        teacher = obtain(TEACHER, boxed, task, seed=seed, cache=Path(cache), say=lambda line: None)
    options = {"augmentation": task.augmentation, "views": VIEWS, "seed": seed}
    bank = banks.build(train_split, [teacher.model], normalise, taps=("stage3", "class_map"), **options)
    found: dict[str, dict[str, float]] = {"teacher": {"accuracy on crops": teacher.val_accuracy}}
    for arm, recipe in ARMS.items():
        begin = time.perf_counter()
        torch.manual_seed(seed)
        student = build(data.shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        training = start(student, recipe, bank, seed=seed, total_epochs=epochs, targets="boxes")
        curve = train(training, bank, data.validation, task, normalise, epochs)
        student.eval()
        with torch.inference_mode():
            answers = student(normalise(torch.from_numpy(data.test.images)))
        found[arm] = task.scores(answers, torch.from_numpy(data.test.labels))
        found[arm] |= {"validation AP50": curve[-1]["val_accuracy"], "seconds": time.perf_counter() - begin}
        shown = {name: round(value, 4) for name, value in found[arm].items()}
        print(f"seed {seed}, {arm}: {shown}", file=sys.stderr, flush=True)
    return found


def build(shape: tuple[int, int, int]) -> torch.nn.Module:
    """The detector: four stages, boxes on a grid of stride 4."""
    space = DetectorSpace(level=2, stem_widths=WIDTHS[:1], widths=WIDTHS[1:], head_widths=(16,))
    decisions: dict[str, Any] = {"stem.width": WIDTHS[0], "head.width": 16, "head.depth": 1}
    for stage, width in enumerate(WIDTHS[1:], start=1):
        traits = {"depth": 1, "width": width, "kernel": 3, "block": "basic"}
        decisions |= {f"stage{stage}.{trait}": value for trait, value in traits.items()}
    return space.build(decode(space, decisions), shape, len(CLASSES))


def _spread(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f}" + (f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else "")


def _gain(apart: np.ndarray) -> str:
    error = f" ± {100 * apart.std(ddof=1) / len(apart) ** 0.5:.1f}" if len(apart) > 1 else ""
    return f"{100 * apart.mean():+.1f}{error}"


if __name__ == "__main__":
    main()
