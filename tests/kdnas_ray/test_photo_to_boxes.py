"""Specification of `kdnas_ray.photo_to_boxes`: an exported detector is used with NumPy, Pillow and ONNX Runtime."""

import ast
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from card_program import printed, program
from finished_runs import finish
from PIL import Image
from shapes import CLASSES, parquet, picture, pictures

from kdnas_ray import export, photo_to_boxes
from kdnas_ray.config import read
from trainables.box_files import Record, _decoded, _fit
from trainables.boxes import CANDIDATES, MOST, SAME, detections

HOW = {"height": 64, "width": 96, "threshold": 0.02, "iou": SAME, "candidates": CANDIDATES, "most": MOST}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fitted(photo: np.ndarray, how: dict) -> tuple[np.ndarray, tuple[float, float]]:
    """What the task makes of it, and how much x and y are scaled."""
    picture = np.zeros((3, how["height"], how["width"]), dtype=np.uint8)
    return picture, _fit(Image.fromarray(photo), picture)


def mapped(rows: np.ndarray, photo: np.ndarray, how: dict) -> np.ndarray:
    """Rows of `detections`, boxes in pixels of the photo."""
    rows, (x, y) = rows.copy(), fitted(photo, how)[1]
    rows[:, [2, 4]] = (rows[:, [2, 4]] / x).clip(0, photo.shape[1])
    rows[:, [3, 5]] = (rows[:, [3, 5]] / y).clip(0, photo.shape[0])
    return rows


@pytest.mark.parametrize(
    "size", [(64, 96), (30, 40), (200, 100), (101, 333), (1, 500), (45, 64)], ids=lambda size: "x".join(map(str, size))
)
def test_pixels_are_those_that_the_networks_were_trained_on(size):
    photo = noise(*size)
    found = photo_to_boxes.pixels(photo, HOW)
    assert found.dtype == np.uint8
    assert found.shape == (1, 3, 64, 96)
    assert np.array_equal(found[0], fitted(photo, HOW)[0])


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "I;16", "turned"])
def test_photo_is_read_as_the_task_reads_it(tmp_path, mode):
    image, path, more = Image.fromarray(noise(20, 30)), tmp_path / "a.png", {}
    if mode == "I;16":
        image = Image.fromarray(noise(20, 30)[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        image, more = image.convert("P"), {"transparency": 3}
    elif mode == "turned":
        more = {"exif": Image.Exif()}
        more["exif"][0x0112] = 6
    else:
        image = image.convert(mode)
    image.save(path, **more)
    found = photo_to_boxes.read(path)
    assert found.shape == ((30, 20, 3) if mode == "turned" else (20, 30, 3))
    assert np.array_equal(found, np.asarray(_decoded(Record("a", path, [], []))))


@pytest.mark.parametrize("photo", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_no_photo_is_refused(photo):
    with pytest.raises(ValueError, match=r"a photo is uint8 \[height, width, 3\]"):
        photo_to_boxes.pixels(photo, HOW)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_are_those_of_detections_in_pixels_of_the_photo(seed):
    rng = np.random.default_rng(seed)
    middle, side = rng.uniform(0, 64, (400, 2)), rng.uniform(2, 30, (400, 2))
    boxes = np.concatenate([middle - side / 2, middle + side / 2], axis=1)
    logits, centre = rng.normal(0, 2, (400, 3)), rng.normal(0, 2, (400, 1))
    answers = np.concatenate([logits, boxes, centre], axis=1).astype(np.float32)
    photo = noise(90, 250)
    (expected,) = detections(torch.from_numpy(answers)[None])
    found = photo_to_boxes.boxes(answers, photo, HOW)
    assert len(found) > 20
    np.testing.assert_allclose(found, mapped(expected, photo, HOW), rtol=1e-4, atol=1e-3)
    sure = photo_to_boxes.boxes(answers, photo, HOW | {"threshold": 0.6})
    assert np.array_equal(sure, found[found[:, 1] >= 0.6])


def test_nothing_is_found_where_nothing_is_sure():
    answers = np.full((16, 7), -1000, dtype=np.float32)
    assert photo_to_boxes.boxes(answers, noise(20, 20), HOW).shape == (0, 6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    settings = {
        "task": {
            "name": "detection", "path": parquet(folder / "shapes.parquet", pictures(24)), "classes": list(CLASSES),
            "size": [64, 64], "validation": 0.2,
        },
        "space": {"name": "detector", "stages": 3, "level": 2, "stem_widths": [8], "widths": [8], "depths": [1],
                  "kernels": [3], "blocks": ["basic"], "head_widths": [16], "head_depths": [1]},
        "teachers": [{"name": "classifier", "window": 24}],
        "recipes": "labels",
        "constraints": {},
        "tracking": {"enabled": False},
    }  # fmt: skip
    finish(folder / "run", read(settings), epochs=40)
    return folder / "run"


@pytest.mark.parametrize("form", ["onnx", "torch-export", "safetensors"])
def test_card_leads_from_a_photo_to_boxes(finished, form, tmp_path):
    taken = export.export(finished, form, out=tmp_path / form)
    how = json.loads((taken.folder / "about.json").read_text())["detection"]
    assert (how["height"], how["width"], how["threshold"], how["iou"]) == (64, 64, 0.3, SAME)
    card = (taken.folder / "README.md").read_text()
    for part in ("bilinear", "| threshold | 0.3 |", "| iou | 0.6 |"):
        assert part in card
    code = program(taken.folder)
    data, *_ = picture(np.random.default_rng(9), 100, 150)
    photo = np.asarray(Image.open(io.BytesIO(data)))
    Image.fromarray(photo).save(taken.folder / "photo.png")
    code = code.replace("photo.jpg", "photo.png").replace(
        'about["detection"])', 'about["detection"] | {"threshold": 0.02})'
    )
    output = printed(taken.folder, code, form)
    from trainables.loop import Normalise
    from trainables.model_files import load_student

    model, meta = load_student(finished / "best")
    with torch.inference_mode():
        answers = model(Normalise(meta["mean"], meta["std"])(torch.from_numpy(fitted(photo, how)[0])[None]))
    expected = mapped(detections(answers)[0], photo, how)
    lines = [re.fullmatch(r"(\w+) ([\d.]+) (\[.*\])", line) for line in output.splitlines()]
    found = [(CLASSES.index(line[1]), float(line[2]), *ast.literal_eval(line[3])) for line in lines if line]
    assert len(found) == len(lines) == len(expected) > 0
    np.testing.assert_allclose(found, expected, atol=0.2)


def test_a_classifier_needs_no_such_file(tmp_path):
    run = tmp_path / "run"
    finish(run, read({"space": {"name": "resnet", "stages": 2, "stem_widths": [4], "widths": [4], "depths": [1]}}))
    taken = export.export(run, "safetensors", out=tmp_path / "student")
    assert not (taken.folder / "photo_to_boxes.py").exists()
    assert "## From a photo to boxes" not in (taken.folder / "README.md").read_text()
