"""Which images does a teacher elsewhere have to answer, and how are its answers told apart?"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from kdnas_ray.config import SearchConfig
from search_spaces import KdnasError, first_line
from trainables.tasks.base import Data
from trainables.teachers import sample_ids

PARAMS = 20_000  # a bound in numbers, where the configuration has a share of the teacher's, which has no size


def search_with_answers(config: SearchConfig, settings: Sequence[str]) -> list[str]:
    """The words of a command that searches with stored answers as the teacher, and is not refused for that.

    Answers are known of images as they are (no views), have no features (no hints) and no size (no bound that is a
    share of the teacher's).

    Args:
        config: what the settings mean.
        settings: a configuration file and overrides, which are kept.
    """
    words = [word for word in settings if not word.startswith(("teachers", "bank.views="))] + ["bank.views=1"]
    if any(getattr(config.recipes, "hints", ())):
        words.append("recipes.hints=false")
    if any(bound.of_teacher is not None for bound in config.constraints.values()):
        kept = {name: bound.max for name, bound in config.constraints.items() if bound.max is not None}
        words.append(f"constraints={json.dumps({'params': PARAMS} | kept)}")
    return ["kdnas", "search", *words, "teachers=[{name: predictions, path: answers.parquet}]"]


def write_samples(path: Path, data: Data) -> int:
    """Write every image of the three splits once, as a task sees it; returns how many there are.

    The columns: `sample` (its id, see `trainables.teachers.sample_ids`), `split`, and `image`, a PNG as the Hugging
    Face hub stores it. Labels are left out: those of the test split are sealed.

    Args:
        path: the Parquet file; must not exist.
        data: the task's data.

    Raises:
        KdnasError: the file exists or cannot be written, or the images are neither grey nor in three colours.
    """
    if path.exists():
        raise KdnasError("exists already", field="--out", value=str(path), remedy="choose another file")
    if data.train.images.dtype != np.uint8:
        raise KdnasError(
            "a row of a table is no picture",
            field="task",
            value=data.shape,
            remedy="stored answers are for images: choose a teacher that can be asked, such as callable or onnx",
        )
    if data.shape[0] not in (1, 3):
        raise KdnasError(
            f"an image of {data.shape[0]} channels is no picture",
            field="task",
            value=data.shape,
            remedy="in Python, trainables.teachers.sample_ids gives the ids of a split's images",
        )
    rows: dict[str, dict[str, Any]] = {}
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        for sample, image in zip(sample_ids(split.images), split.images, strict=True):
            rows.setdefault(sample, {"sample": sample, "split": name, "image": {"bytes": _png(image), "path": None}})
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("sample", pyarrow.string()), ("split", pyarrow.string()), ("image", kind)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows.values()), schema), path)
    except OSError as error:
        raise KdnasError(
            f"cannot be written ({first_line(error)})", field="--out", value=str(path), remedy="choose another file"
        ) from error
    return len(rows)


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()
