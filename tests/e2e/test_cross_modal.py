"""Does a teacher of digits carry a search on tones, and do images without labels join one, from YAML to export?"""

import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from e2e.launch import config_file, kdnas, lines
from PIL import Image
from sklearn.datasets import load_digits
from tones import parquet, spoken

from trainables.tasks.base import choose

pytestmark = pytest.mark.slow
TEACHER = {"name": "trained", "stem": 8, "widths": [8, 16], "depths": [1, 1], "epochs": 4, "views": 2}
SHORT = {
    "budget": {"trials": 2},
    "retrain": {"top": 1, "epochs": 2, "seeds": 1},
    "constraints": {"params": 20000},
    "tracking": {"enabled": False},
}


@pytest.mark.parametrize("answers", ["partner", "class_mean"])
def test_teacher_of_images_carries_a_search_of_networks_that_hear(tmp_path, answers):
    recordings = parquet(tmp_path / "tones.parquet", spoken(8, classes=("0", "1")))
    changes = SHORT | {
        "task": {"name": "speech", "path": recordings, "mels": 12, "seconds": 0.4},
        "labels": 0.3,
        "teachers": [{"name": "paired", "task": "digits", "teacher": TEACHER, "answers": answers}],
        "space": {"name": "speech", "stem_widths": [8], "widths": [8, 12], "depths": [1]},
        "recipes": {
            "name": "simple", "batch_size": 16, "hints": [True], "taps": ["penultimate"],
            "hint_losses": ["similarity", "shared_space"], "learning_rate": [0.01, 0.05],
        },
    }  # fmt: skip
    done = kdnas("search", config_file(tmp_path, **changes), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on its own task; 14 of 48 training samples have a partner of their class; 34 have no label" in done.stdout
    assert "of other classes or another task" in done.stdout
    teacher = json.loads((tmp_path / "run" / "teacher.json").read_text())
    assert teacher["val_accuracy"] is None  # it says nothing of recordings that could be right or wrong
    assert teacher["params"] > 1000
    assert {row["state"] for row in lines(tmp_path / "run" / "candidates.jsonl")} <= {"complete", "pruned"}
    assert {row["with_kd"] for row in lines(tmp_path / "run" / "retrained.jsonl")} == {True, False}
    again = kdnas("resume", "run", "budget.trials=3", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "read from the cache" in again.stdout
    taken = kdnas("export", "run", "--out", "student", cwd=tmp_path)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert (tmp_path / "student" / "wav_to_pixels.py").exists()


def test_images_without_labels_join_a_search_through_the_teacher(tmp_path):
    digits = load_digits()
    images, labels = np.round(digits.images * 15.9).astype(np.uint8), digits.target

    def png(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    few = choose(labels, 200, 0)
    stored = [{"bytes": png(images[index]), "path": None} for index in few]
    pq.write_table(pa.table({"image": stored, "label": labels[few]}), tmp_path / "few.parquet")
    (tmp_path / "more").mkdir()
    for index in range(300):  # some of them are among the labelled ones
        (tmp_path / "more" / f"{index}.png").write_bytes(png(images[index]))
    changes = SHORT | {
        "task": {"name": "images", "path": "few.parquet", "unlabelled": "more", "augmentation": {"shift": 1}},
        "teachers": [TEACHER],
    }
    done = kdnas("search", config_file(tmp_path, **changes), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unlabelled images of more are in the validation or the test split" in done.stdout + done.stderr
    assert re.search(r"Training samples: \d+ labelled, \d+ unlabelled", done.stdout)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best"]["test_accuracy"] is not None
