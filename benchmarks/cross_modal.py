"""What is a teacher worth that saw only images of digits to a student that hears them, by speakers never heard?

The teacher learns MNIST images alone (a seeded subset), once. For each seed another speaker of the spoken digits is the
test split, the next one the validation split, and of the recordings of the other three a share keeps its labels; the
others have none, so nobody in this comparison learns from them. One student (TC-ResNet, from the same weights, over
the same number of steps) learns from each share in each way:

- no teacher: the labels alone;
- label smoothing: the labels, smoothed by 0.1: what soft targets do without knowing anything;
- class means: KD from the mean of the teacher's softened answers about the class (`answers: class_mean`);
- paired KD: KD from its answer about a partner of the same class, another for each of 4 views;
- relations: similarity-preserving KD from the partners' last features;
- shared space: student and partners are brought together by class in a learned space (`shared_space`).

Alpha, temperature and weights are the defaults of KD (0.7, 3) and the published ones of the losses on features (alpha
0.5: labels and teacher alike). Nothing is selected: the last epoch counts, the validation split is not used, the test
split is read once for each training. A cell: test accuracy, mean ± standard deviation over the seeds (so over speakers
too), and in brackets the mean difference to no teacher with the same seed, in points, with its standard error.

    python benchmarks/cross_modal.py --images ../shared/data/mnist/train.parquet \\
        --speech ../shared/data/spoken_digits/recordings.parquet
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import tell
from speech import STUDENTS, build, size

from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.loop import Normalise, evaluate, start, train
from trainables.pairing import Paired
from trainables.recipe import Recipe, Term
from trainables.recordings import open_source
from trainables.tasks import ImagesTask, SpeechTask
from trainables.tasks.base import Split, keep_labels
from trainables.teachers import PairedTeacher, TrainedTeacher, obtain

TEACHER = TrainedTeacher(stem=16, widths=(16, 32, 64), depths=(1, 1, 1), epochs=5, learning_rate=0.05, views=4)
STUDENT = STUDENTS["TC-ResNet, narrow"]
HOP_MS = 32.0  # half as many columns as by default: half the time
VIEWS = 4
BATCH = 128
SHARES = (0.01, 0.05, 0.2, 1.0)
TAP = "penultimate"
# Name: the recipe, and what the paired teacher answers.
ARMS: dict[str, tuple[Recipe, str]] = {
    "no teacher": (Recipe().without_teacher(), "partner"),
    "label smoothing": (Recipe(terms=(Term("label_smoothing"),), alpha=1.0), "partner"),
    "class means": (Recipe(), "class_mean"),
    "paired KD": (Recipe(), "partner"),
    "relations": (Recipe(alpha=0.5, terms=(Term("similarity", tap=TAP),)), "partner"),
    "shared space": (Recipe(alpha=0.5, terms=(Term("shared_space", tap=TAP),)), "partner"),
}


def main() -> None:
    """Train the teacher once, then the students; print a row for each way to learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="Parquet file of images of digits")
    parser.add_argument("--speech", type=Path, required=True, help="Parquet file with audio, label and speaker")
    parser.add_argument("--subset", type=int, default=5000, help="images that the teacher learns from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the labels that are kept")
    parser.add_argument("--epochs", type=int, default=10, help="of a student")
    parser.add_argument("--cache", type=Path, help="folder that keeps the trained teacher")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    for option in ("images", "speech"):
        if not getattr(chosen, option).exists():
            sys.exit(f"--{option} = {getattr(chosen, option)}: no data here; they come with the benchmarks only")
    torch.set_num_threads(1)
    images = ImagesTask(chosen.images, subset=chosen.subset, augmentation=Augmentation(shift=2))  # no mirrored digits
    speakers = sorted(set(open_source(SpeechTask(chosen.speech)).speakers))
    task = SpeechTask(chosen.speech, hop_ms=HOP_MS)
    with tempfile.TemporaryDirectory() as scratch:
        teachers = taught(images, task, chosen.cache or Path(scratch))
    found = [one(task, speakers, teachers, seed, chosen.epochs, chosen.shares) for seed in chosen.seeds]
    rows = []
    for arm in ARMS:
        row: dict[str, Any] = {"labels kept": arm}
        for share in chosen.shares:
            scores = np.array([each[share, arm] for each in found])
            row[f"{share:.0%}"] = cell(scores, scores - [each[share, "no teacher"] for each in found])
        rows.append(row)
    each = [{f"{share:g} {arm}": round(score, 4) for (share, arm), score in scores.items()} for scores in found]
    say(f"student: {size(build(STUDENT, (1, 40, 32), 10)):,} parameters")
    tell(rows, chosen.out, seeds=chosen.seeds, epochs=chosen.epochs, subset=chosen.subset, each=each)


def taught(images: ImagesTask, task: SpeechTask, cache: Path) -> dict[str, Paired]:
    """The teacher of the images, as it answers for recordings in both ways."""
    data, found = task.load(0), {}
    for answers in ("partner", "class_mean"):
        settings = PairedTeacher(images, TEACHER, answers=answers)
        found[answers] = obtain(settings, data, task, seed=0, cache=cache, say=say).model
    return found


def one(
    task: SpeechTask,
    speakers: Sequence[str],
    teachers: dict[str, Paired],
    seed: int,
    epochs: int,
    shares: Sequence[float],
) -> dict[tuple[float, str], float]:
    """Test accuracy of each share and way to learn, with this seed."""
    begin = time.perf_counter()
    test, validation = (speakers[(seed + step) % len(speakers)] for step in (0, 1))
    task = replace(task, test_speakers=(test,), validation_speakers=(validation,))
    data = task.load(seed)
    normalise, found = Normalise(data.mean, data.std), {}
    unused = Split(data.validation.images[:2], data.validation.labels[:2])
    for share in shares:
        part = keep_labels(data.train, share, data.classes, seed)
        banks_of = {}
        for answers, teacher in teachers.items():
            teacher.seed = seed  # other partners for each seed, of the same teacher
            taps = (TAP,) if answers == "partner" else ()
            banks_of[answers] = banks.build(
                part, [teacher], normalise, augmentation=task.augmentation, views=VIEWS, seed=seed, taps=taps
            )
        for arm, (recipe, answers) in ARMS.items():
            torch.manual_seed(seed)
            student = build(STUDENT, data.shape, len(data.classes))
            own = replace(recipe, batch_size=BATCH)
            training = start(student, own, banks_of[answers], seed=seed, total_epochs=epochs)
            train(training, banks_of[answers], unused, task, normalise, epochs)
            found[share, arm] = evaluate(student.eval(), data.test, task, normalise)[1]
    scores = {f"{share:g} {arm}": round(score, 4) for (share, arm), score in found.items()}
    say(f"seed {seed}, test speaker {test}, {time.perf_counter() - begin:.0f} s: {scores}")
    return found


def say(line: str) -> None:
    """Beside the table, not in it."""
    print(line, file=sys.stderr, flush=True)


def cell(scores: np.ndarray, apart: np.ndarray) -> str:
    """Mean ± standard deviation in percent, and the mean difference ± standard error in points where there is one."""
    spread = f" ± {100 * scores.std(ddof=1):.1f}" if len(scores) > 1 else ""
    if not apart.any():
        return f"{100 * scores.mean():.1f}{spread}"
    error = f" ± {100 * apart.std(ddof=1) / len(apart) ** 0.5:.1f}" if len(apart) > 1 else ""
    return f"{100 * scores.mean():.1f}{spread} ({100 * apart.mean():+.1f}{error})"


if __name__ == "__main__":
    main()
