"""Does a search of a task that a user wrote into a file of the working folder run, and what is left can be used?"""

import json

import numpy as np
import pytest
from e2e.launch import SMALL, config_file, kdnas

OWN = '''
from dataclasses import dataclass

import numpy as np

from trainables.augment import Augmentation
from trainables.tasks.base import {base}, assemble, split, standardised

NONE = Augmentation()


@dataclass(frozen=True)
class Squares({base}):
    """Grey squares on black."""

    samples: int = 240
    augmentation: Augmentation = NONE

    def load(self, seed):
        rng = np.random.default_rng(seed)
        wide, tall = rng.integers(1, 9, (2, self.samples))
        images = np.zeros((self.samples, 1, 8, 8), dtype=np.uint8)
        for image, w, t in zip(images, wide, tall):
            image[0, :t, :w] = 200
        {targets}
        return {assembled}
'''
TASKS = {
    "Regression": (
        'targets, names = np.stack([wide, tall], axis=1).astype(np.float32), ["wide", "tall"]',
        "standardised(assemble(*split(images, targets, names, validation=0.2, test=0.2, seed=seed), names))",
    ),
    "MultiLabel": (
        'targets, names = np.stack([wide > 4, tall > 4], axis=1).astype(np.float32), ["wide", "tall"]',
        "assemble(*split(images, targets, names, validation=0.2, test=0.2, seed=seed), names)",
    ),
}


@pytest.mark.parametrize("base", TASKS)
def test_own_task_in_the_working_folder_is_searched_and_its_student_exported(base, tmp_path):
    targets, assembled = TASKS[base]
    (tmp_path / "squares.py").write_text(OWN.format(base=base, targets=targets, assembled=assembled))
    path = config_file(
        tmp_path,
        task={"name": "squares:Squares", "samples": 600},
        teachers=[SMALL["teachers"][0] | {"learning_rate": 0.03}],
        recipes={"name": "simple", "taps": ["stage2"], "learning_rate": [0.01, 0.05]},
        budget={"trials": 3},
        retrain={"top": 1, "seeds": 1},
        labels=0.5,
        tracking={"enabled": False},
    )
    done = kdnas("search", path, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task"] == "squares:Squares"
    assert summary["best"]["val_accuracy"] > 0.5
    own_kd = {"Regression": "output_mse", "MultiLabel": "binary_kd"}[base]
    assert summary["best"]["recipe"]["terms"][0]["loss"] == own_kd

    done = kdnas("export", "run", "--out", "file", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    onnxruntime = pytest.importorskip("onnxruntime")
    sizes = np.array([(wide, tall) for wide in range(1, 9) for tall in range(1, 9)])
    images = np.zeros((64, 1, 8, 8), dtype=np.uint8)
    for image, (wide, tall) in zip(images, sizes, strict=True):
        image[0, :tall, :wide] = 200
    (answers,) = onnxruntime.InferenceSession(tmp_path / "file" / "student.onnx").run(None, {"pixels": images})
    if base == "Regression":  # in pixels, not in standard deviations
        assert np.abs(answers - sizes).mean() < 1.5
    else:
        assert ((answers > 0) == (sizes > 4)).mean() > 0.75


def test_what_is_no_task_is_refused_before_any_work(tmp_path):
    (tmp_path / "squares.py").write_text("class Squares:\n    pass\n")
    done = kdnas("search", "task=squares:Squares", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "is no task: it is no dataclass" in done.stderr
    assert not (tmp_path / "run").exists()
