"""Does a search of a task that a user wrote into a file of the working folder run, and can its student be used?"""

import json

import numpy as np
import pytest
from e2e.launch import SMALL, config_file, kdnas

OWN = '''
from dataclasses import dataclass

import numpy as np

from trainables.augment import Augmentation
from trainables.tasks.base import Regression, assemble, split, standardised

NONE = Augmentation()


@dataclass(frozen=True)
class Squares(Regression):
    """How wide and how tall is a grey square on black, in pixels?"""

    samples: int = 240
    augmentation: Augmentation = NONE

    def load(self, seed):
        rng = np.random.default_rng(seed)
        sizes, names = rng.integers(1, 9, (self.samples, 2)).astype(np.float32), ["wide", "tall"]
        images = np.zeros((self.samples, 1, 8, 8), dtype=np.uint8)
        for image, (wide, tall) in zip(images, sizes.astype(int)):
            image[0, :tall, :wide] = 200
        return standardised(assemble(*split(images, sizes, names, validation=0.2, test=0.2, seed=seed), names))
'''


@pytest.mark.slow
def test_own_task_in_the_working_folder_is_searched_and_its_student_exported(tmp_path):
    (tmp_path / "squares.py").write_text(OWN)
    path = config_file(
        tmp_path,
        task={"name": "squares:Squares", "samples": 400},
        teachers=[SMALL["teachers"][0] | {"learning_rate": 0.03}],
        recipes={"name": "simple", "taps": ["stage2"], "learning_rate": [0.01, 0.05]},
        scheduler={"name": "full", "max_epochs": 12},
        budget={"trials": 2},
        retrain={"top": 1, "seeds": 1},
        labels=0.5,
        tracking={"enabled": False},
    )
    done = kdnas("search", path, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validation R²" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task"] == "squares:Squares"
    assert summary["best"]["val_accuracy"] > 0.3
    assert summary["best"]["recipe"]["terms"][0]["loss"] == "output_mse"

    onnxruntime = pytest.importorskip("onnxruntime")
    done = kdnas("export", "run", "--out", "file", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    images = np.full((2, 1, 8, 8), 200, dtype=np.uint8)
    images[0, 0, 2:] = images[0, 0, :, 2:] = 0
    (answers,) = onnxruntime.InferenceSession(tmp_path / "file" / "student.onnx").run(None, {"pixels": images})
    assert (answers[1] - answers[0] > 1.5).all()  # 6 pixels, which is 2.6 deviations
    assert 2 < answers.mean() < 8  # pixels: standardised values have mean 0


def test_what_is_no_task_is_refused_before_any_work(tmp_path):
    (tmp_path / "squares.py").write_text("class Squares:\n    pass\n")
    done = kdnas("search", "task=squares:Squares", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "is no task: it is no dataclass" in done.stderr
    assert not (tmp_path / "run").exists()
