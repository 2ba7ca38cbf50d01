"""Pictures made for tests: bright squares and discs on noise, with their boxes."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("disc", "square")
Row = tuple[bytes, list[list[float]], list[Any]]


def picture(rng: np.random.Generator, height: int, width: int, objects: int = 2) -> Row:
    """(PNG, boxes, classes) of one picture; objects do not overlap, each class comes."""
    pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    cells = rng.permutation(4)[:objects]  # a quarter of the picture each
    boxes, labels = [], []
    y, x = np.mgrid[:height, :width] + 0.5
    for number, cell in enumerate(cells):
        kind, side = number % 2, int(rng.integers(height // 4, height // 3))
        left = (cell % 2) * width // 2 + int(rng.integers(1, width // 2 - side))
        top = (cell // 2) * height // 2 + int(rng.integers(1, height // 2 - side))
        inside = (x > left) & (x < left + side) & (y > top) & (y < top + side)
        if kind == 0:
            inside = (x - left - side / 2) ** 2 + (y - top - side / 2) ** 2 < (side / 2) ** 2
        pixels[inside] = (230, 90, 60) if kind == 0 else (60, 90, 230)
        boxes.append([float(left), float(top), float(left + side), float(top + side)])
        labels.append(kind)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), boxes, labels


def pictures(count: int, height: int = 64, width: int = 64, seed: int = 0) -> list[Row]:
    """`count` pictures of two objects each."""
    rng = np.random.default_rng(seed)
    return [picture(rng, height, width) for _ in range(count)]


def parquet(path: Path, rows: list[Row], **names: str) -> str:
    """A Parquet file of (image, boxes, classes); `names` rename its columns."""
    columns = {
        names.get("image", "image"): [
            stored if isinstance(stored, dict) else {"bytes": stored, "path": f"{number}.png"}
            for number, (stored, _, _) in enumerate(rows)
        ],
        names.get("boxes", "boxes"): pa.array([boxes for _, boxes, _ in rows], pa.list_(pa.list_(pa.float64()))),
        names.get("labels", "labels"): [labels for _, _, labels in rows],
    }
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return str(path)


def coco(folder: Path, rows: list[Row], **changes: Any) -> str:
    """A COCO JSON file with its images beside it; `changes` replace parts of the JSON. Its first category is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(("shapes", *CLASSES))],
    }
    for number, (stored, boxes, labels) in enumerate(rows):
        (folder / f"{number}.png").write_bytes(stored)
        width, height = Image.open(io.BytesIO(stored)).size
        data["images"].append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
            row = {"id": len(data["annotations"]), "image_id": number, "category_id": label + 1, "iscrowd": 0}
            data["annotations"].append(row | {"bbox": [x0, y0, x1 - x0, y1 - y0]})
    path = folder / "_annotations.coco.json"
    path.write_text(json.dumps(data | changes))
    return str(path)
