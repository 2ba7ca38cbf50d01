"""Do teachers that are no PyTorch networks carry a whole search: an ONNX file, stored predictions, a function?"""

import json

import numpy as np
import pytest
import torch
from e2e.launch import config_file, kdnas, lines
from e2e.test_own_task import OWN
from torch import nn

from kdnas_ray.onnx_files import write_onnx
from trainables.loop import Normalise
from trainables.tasks import DigitsTask
from trainables.teachers import TrainedTeacher, sample_ids, train_teacher, write_predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher_files(tmp_path_factory):
    """A folder with one small teacher in both forms."""
    folder, task = tmp_path_factory.mktemp("teachers"), DigitsTask()
    data = task.load(0)
    settings = TrainedTeacher(stem=8, widths=(8, 16), depths=(1, 1), epochs=3, views=2)
    model = train_teacher(settings, data, task, seed=0, say=lambda line: None).model
    whole = nn.Sequential(Normalise(data.mean, data.std), model).eval()
    write_onnx(whole, data.shape, folder / "teacher.onnx", {"classes": json.dumps(data.classes)})
    images = np.concatenate([split.images for split in (data.train, data.validation, data.test)])
    with torch.inference_mode():
        write_predictions(folder / "answers.parquet", sample_ids(images), whole(torch.from_numpy(images)))
    return folder


@pytest.mark.parametrize(
    ("name", "file", "views", "known"),
    [("onnx", "teacher.onnx", 2, {"params"}), ("predictions", "answers.parquet", 1, set())],
)
def test_search_with_a_teacher_from_a_file_ends_with_a_report_and_can_be_resumed(
    teacher_files, tmp_path, name, file, views, known
):
    changes = {
        "teachers": [{"name": name, "path": str(teacher_files / file)}],
        "recipes": {"name": "simple", "hints": [False]},
        "constraints": {"params": 5000},
        "bank": {"views": views, "cache": str(tmp_path / "cache")},
        "budget": {"trials": 2},
        "retrain": {"top": 1, "epochs": 2, "seeds": 1},
        "tracking": {"enabled": False},
    }
    done = kdnas("search", config_file(tmp_path, **changes), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["teacher"]["accuracy"] > 0.8
    assert {"params", "flops"} & set(summary["teacher"]) == known
    assert summary["best"]["test_accuracy"] is not None
    assert "not known" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "teacher").exists()
    again = kdnas("resume", "run", "budget.trials=3", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "read from the cache" in again.stdout
    assert len([row for row in lines(tmp_path / "run" / "candidates.jsonl") if row["state"] != "rejected"]) == 3


def test_function_that_answers_values_in_their_own_units_carries_a_search(tmp_path):
    answers = "\n\ndef sizes(images):\n    lit = images[:, 0] > 100\n"
    answers += "    return np.stack([lit.any(axis=1).sum(axis=1), lit.any(axis=2).sum(axis=1)], axis=1)\n"
    (tmp_path / "squares.py").write_text(OWN + answers)
    changes = {
        "task": {"name": "squares:Squares", "samples": 400},
        "teachers": [{"name": "callable", "function": "squares:sizes"}],
        "recipes": {"name": "simple", "hints": [False], "learning_rate": [0.01, 0.05]},
        "scheduler": {"name": "full", "max_epochs": 12},
        "constraints": {"params": 5000},
        "budget": {"trials": 2},
        "retrain": {"top": 1, "seeds": 1},
        "labels": 0.1,
        "tracking": {"enabled": False},
    }
    done = kdnas("search", config_file(tmp_path, **changes), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validation R² 1.0000" in done.stdout
    assert "in the values' own units" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["teacher"]["accuracy"] == pytest.approx(1)
    assert summary["best"]["test_accuracy"] > 0.5
