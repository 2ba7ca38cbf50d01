"""Does a teacher help small networks to understand speakers that they never heard?

For each seed another speaker is the test split, the next one the validation split, and the others are trained on: a
wide TC-ResNet on the labels (the teacher), then each student twice from the same weights and equally long, on the
labels alone and by KD with the default recipe (alpha 0.7, temperature 3). Mean ± standard deviation of the test
accuracy over the seeds (so over speakers too); `gain` is the mean difference with the same seed, in points, with its
standard error. Nothing is selected: the last epoch counts, the validation split is not used, the test split is read
once for each row.

    python benchmarks/speech.py --data ../shared/data/spoken_digits/recordings.parquet
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import tell
from torch import nn

from search_spaces import SpeechSpace, decode
from trainables import bank as banks
from trainables.loop import Normalise, evaluate, start, train
from trainables.recipe import Recipe
from trainables.recordings import open_source
from trainables.tasks import SpeechTask

TEACHER = (64, 64, 96, 144)  # channels of stem and stages
STUDENTS = {"TC-ResNet": (16, 16, 24, 32), "TC-ResNet, narrow": (8, 8, 12, 16)}
TEACHER_RATE = 0.05  # learning rate; students have the default
ARMS = {"labels alone": Recipe().without_teacher(), "kd": Recipe()}


def main() -> None:
    """Train teachers and students; print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Parquet file with audio, label and speaker")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=27, help="of a student")
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    if not chosen.data.exists():
        sys.exit(f"--data = {chosen.data}: no data here; they come with the benchmarks only")
    torch.set_num_threads(1)
    found = [one(chosen.data, seed, chosen.epochs, chosen.teacher_epochs) for seed in chosen.seeds]
    names = {"teacher": TEACHER, **STUDENTS}
    rows = []
    for name, widths in names.items():
        row: dict[str, Any] = {"network": name, "parameters": f"{size(build(widths, (1, 40, 63), 10)):,}"}
        alone, kd = (np.array([scores.get((name, arm), np.nan) for scores in found]) for arm in ARMS)
        row |= {"labels alone": _spread(alone), "kd": _spread(kd), "gain": _gain(kd - alone)}
        rows.append(row)
    tell(rows, chosen.out, seeds=chosen.seeds, epochs=chosen.epochs, each=[_plain(scores) for scores in found])


def one(path: Path, seed: int, epochs: int, teacher_epochs: int) -> dict[tuple[str, str], float]:
    """Test accuracy of each network and way of training, with this seed."""
    speakers = sorted(set(open_source(SpeechTask(path)).speakers))
    test, validation = (speakers[(seed + step) % len(speakers)] for step in (0, 1))
    task = SpeechTask(path, test_speakers=(test,), validation_speakers=(validation,))
    data = task.load(seed)
    normalise, options = Normalise(data.mean, data.std), {"augmentation": task.augmentation, "views": 8, "seed": seed}

    def trained(widths: tuple[int, ...], bank: banks.Bank, recipe: Recipe, length: int) -> nn.Module:
        torch.manual_seed(seed)
        training = start(build(widths, data.shape, len(data.classes)), recipe, bank, seed=seed, total_epochs=length)
        train(training, bank, data.validation, task, normalise, length)
        return training.model.eval()

    def score(model: nn.Module) -> float:
        return evaluate(model, data.test, task, normalise)[1]

    alone = banks.without_teacher(data.train, **options)
    teacher = trained(TEACHER, alone, replace(ARMS["labels alone"], learning_rate=TEACHER_RATE), teacher_epochs)
    bank = banks.build(data.train, [teacher], normalise, **options)
    found = {("teacher", "labels alone"): score(teacher)}
    for name, widths in STUDENTS.items():
        for arm, recipe in ARMS.items():
            found[name, arm] = score(trained(widths, bank, recipe, epochs))
    print(f"seed {seed}, test speaker {test}: {_plain(found)}", file=sys.stderr, flush=True)
    return found


def build(widths: tuple[int, ...], shape: tuple[int, int, int], classes: int) -> nn.Module:
    """TC-ResNet with these channels of stem and stages, kernels of 9 frames, one block a stage."""
    space = SpeechSpace(stem_widths=widths[:1], widths=widths)
    decisions: dict[str, Any] = {"family": "tc_resnet", "stem.width": widths[0], "stem.stride": 1}
    for stage, width in enumerate(widths[1:], start=1):
        decisions |= {f"stage{stage}.depth": 1, f"stage{stage}.width": width, f"stage{stage}.time_kernel": 9}
        decisions |= {f"stage{stage}.stride": 2} if stage > 1 else {}
    return space.build(decode(space, decisions), shape, classes)


def size(model: nn.Module) -> int:
    """Parameters of the model."""
    return sum(part.numel() for part in model.parameters())


def _plain(scores: dict[tuple[str, str], float]) -> dict[str, float]:
    return {f"{name}, {arm}": round(score, 4) for (name, arm), score in scores.items()}


def _spread(values: np.ndarray) -> str | None:
    if np.isnan(values).any():
        return None
    return f"{100 * values.mean():.2f}" + (f" ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else "")


def _gain(apart: np.ndarray) -> str | None:
    if np.isnan(apart).any():
        return None
    error = f" ± {100 * apart.std(ddof=1) / len(apart) ** 0.5:.2f}" if len(apart) > 1 else ""
    return f"{100 * apart.mean():+.2f}{error}"


if __name__ == "__main__":
    main()
