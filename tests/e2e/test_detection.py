"""Does a detector come out of a whole search, with a classification teacher and without, and leave as ONNX?"""

from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import CLASSES, parquet, pictures

from kdnas_ray import search
from kdnas_ray.config import read
from kdnas_ray.export import export
from kdnas_ray.live import Narrator
from kdnas_ray.runs import read_jsonl
from trainables.boxes import detections

pytestmark = pytest.mark.slow


def settings(folder: Path, **changes) -> dict:
    path = folder / "shapes.parquet"
    if not path.exists():
        parquet(path, pictures(30))
    return {
        "task": {"name": "detection", "path": str(path), "classes": list(CLASSES), "size": [64, 64], "validation": 0.2},
        "teachers": [
            {"name": "classifier", "stem": 8, "widths": [8, 12, 16], "depths": [1, 1, 1], "epochs": 2, "crops": 200,
             "window": 24, "views": 1}
        ],
        "bank": {"views": 2, "cache": str(folder / "cache")},
        "space": {"name": "detector", "stages": 3, "level": 2, "stem_widths": [8], "widths": [8, 16], "depths": [1],
                  "kernels": [3], "blocks": ["basic", "separable"], "head_widths": [16], "head_depths": [1]},
        "recipes": {"name": "simple", "optimizer": "adamw", "learning_rate": [0.005, 0.01], "batch_size": 8,
                    "alpha": [0.3, 0.6], "taps": ["stage2"], "teacher_taps": ["stage3"], "matches": ["resolution"]},
        "scheduler": {"name": "asha", "max_epochs": 2, "grace_epochs": 1, "reduction_factor": 2},
        "constraints": {"params": 40_000},
        "budget": {"trials": 2},
        "resources": {"workers": 2},
        "retrain": {"top": 1, "epochs": 10, "seeds": 1},
        "tracking": {"enabled": False},
        **changes,
    }  # fmt: skip


def test_search_with_a_classification_teacher_ends_in_a_detector_that_onnx_runtime_runs(tmp_path, one_ray):
    said: list[str] = []
    narrator = Narrator()
    narrator.say = said.append  # type: ignore[method-assign]
    run = tmp_path / "run"
    summary = search(read(settings(tmp_path)), run, narrator).summary
    assert summary["failed"] == 0
    assert summary["best"]["test_accuracy"] > 0.1
    assert summary["best"]["test_accuracy_without_kd"] > 0.1
    assert any("another task" in line for line in said)
    losses = {term["loss"] for row in read_jsonl(run / "candidates.jsonl") for term in row["recipe"]["terms"]}
    assert "class_maps" in losses
    assert losses <= {"class_maps", "hint"}
    temperatures = {row["recipe"]["temperature"]["start"] for row in read_jsonl(run / "candidates.jsonl")}
    assert temperatures == {1.0}

    made = export(run, "onnx")
    assert made.about["parity"]["agreement"] >= 0.999
    assert made.about["output"]["shape"] == ["batch", 256, 7]
    card = (made.folder / "README.md").read_text()
    assert "centre-ness" in card
    assert "AP50" in card
    import onnxruntime

    session = onnxruntime.InferenceSession(made.folder / "student.onnx", providers=["CPUExecutionProvider"])
    data = read(settings(tmp_path)).task.load(0)
    (answers,) = session.run(None, {"pixels": data.test.images})
    assert len(detections(torch.from_numpy(answers))) == len(data.test)
    assert np.isfinite(answers).all()


def test_search_on_the_labels_alone_needs_no_class_maps(tmp_path, one_ray):
    changes = {"recipes": {"name": "labels", "optimizer": "adamw", "learning_rate": 0.01, "batch_size": 8}}
    summary = search(read(settings(tmp_path, **changes)), tmp_path / "run", Narrator()).summary
    assert summary["failed"] == 0
    assert summary["best"]["test_accuracy"] > 0.2
