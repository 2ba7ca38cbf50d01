"""Which images with which boxes does a Parquet file or a COCO JSON file hold, and how do they become arrays?"""

import io
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from PIL import Image

from search_spaces import KdnasError, first_line
from trainables.parquet import check_room, rows_at_once
from trainables.tasks.base import SPLIT_NAMES
from trainables.tasks.images import FORMATS, MAX_PIXELS, eight_bits

READ_ROWS = 64
ROUNDING = 1.0  # pixels that a box may reach beyond its image
SHOWN = 3  # records named in a message
MOST_BOXES = 10_000  # of one image
JSON_COPIES = 16  # a file of annotations as Python objects
NUMBERED = 1000  # classes that are known by number alone
# What a record of a column is, by its type.
NEEDED: dict[type, str] = {bytes: "images, as bytes or struct(bytes, path)", list: "a list for each image"}


class Columns(Protocol):
    """How the files are read: options of the task, see `DetectionTask`."""

    @property
    def image_column(self) -> str:
        """Column of the images in Parquet."""

    @property
    def box_column(self) -> str:
        """Column of the boxes in Parquet."""

    @property
    def label_column(self) -> str:
        """Column of the boxes' classes in Parquet."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for those of the files."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that images are brought to, pixels."""

    @property
    def most_bad(self) -> float:
        """Share of images, and of boxes, that may be unusable."""


class Record(NamedTuple):
    """One image as it is stored: `boxes` are (x0, y0, x1, y1) in its own pixels, `labels` words or numbers.

    `size` is the width and height that its annotation says, None where it says none.
    """

    name: str
    stored: bytes | Path | None
    boxes: list[Any]
    labels: list[Any]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Boxed:
    """Images and their boxes.

    Args:
        images: `[N, 3, H, W]` uint8.
        labels: `[N, M, 5]` float32, rows of (class, x0, y0, x1, y1) in pixels of these images, NaN where none is.
        classes: names in the order of the classes.
        remarks: what was left out or mended, for people.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass
class _Bad:
    """What could not be used, of how many."""

    what: str
    total: int = 0
    found: list[str] = field(default_factory=list)

    def check(self, most: float, path: Path, option: str) -> tuple[str, ...]:
        """A remark, or a refusal where it is more than the share `most`."""
        if not self.found:
            return ()
        first = "; ".join(self.found[:SHOWN])
        said = f"{len(self.found)} of {self.total} {self.what} cannot be used as they are: {first}"
        if len(self.found) > most * self.total:
            share = math.ceil(1000 * len(self.found) / max(self.total, 1)) / 1000
            mend = f", or set task.most_bad={share:g}" if share <= 0.5 else ""
            raise refusal(f"{said}; more than task.most_bad = {most:g}", option, str(path), f"mend them{mend}")
        return (f"{path}: {said}",)


def read_boxed(path: Path, images: Path | None, columns: Columns, option: str, known: Sequence[str] = ()) -> Boxed:
    """All images of a data set, fitted into one size, with their boxes.

    Args:
        path: Parquet file, folder of them, COCO JSON file, or folder with one JSON file.
        images: folder of the images that a JSON file names; None for its own.
        columns: how to read.
        option: of the task that named `path`, for messages.
        known: classes that the data must keep to, those of the training data; empty to find them.

    Raises:
        KdnasError: names the path, column, record or class that cannot be used.
    """
    total, names, records = _opened(Path(path).expanduser(), images, columns, option)
    if not total:
        raise refusal("holds no images", option, str(path))
    _check_memory(total, columns.size)
    pictures = np.zeros((total, 3, *columns.size), dtype=np.uint8)
    damaged, wrong = _Bad("images", total), _Bad("boxes")
    rows: list[list[tuple[Any, ...]]] = []
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of odd metadata
        for record in records:
            try:
                image = _decoded(record)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                damaged.found.append(f"{record.name} ({first_line(error)})")
                continue
            scale = _fit(image, pictures[len(rows)])
            rows.append(_usable(record, image.size, scale, wrong))
    remarks = (*damaged.check(columns.most_bad, path, option), *wrong.check(columns.most_bad, path, option))
    found, places, more = _classes(
        [row[0] for part in rows for row in part], names, columns.classes, known, path, option
    )
    labels = np.full((len(rows), max([1, *map(len, rows)]), 5), np.nan, dtype=np.float32)
    for index, part in enumerate(rows):
        kept = [(places[row[0]], *row[1:]) for row in part if row[0] in places]
        if kept:
            labels[index, : len(kept)] = kept
    return Boxed(pictures[: len(rows)], labels, found, (*remarks, *more))


def refusal(problem: str, option: str, value: object, remedy: str = "") -> KdnasError:
    """The error that says so about this option of the task."""
    return KdnasError(problem, field=f"task.{option}", value=value, remedy=remedy)


def _opened(
    root: Path, images: Path | None, columns: Columns, option: str
) -> tuple[int, Mapping[Any, str], Iterator[Record]]:
    """How many images there are, names of classes that the files give themselves, and the records."""
    if not root.exists():
        raise refusal("does not exist", option, str(root), "give a Parquet file, a COCO JSON file or a folder of these")
    files = sorted([*root.glob("*.parquet")] or [*root.glob("*.json")]) if root.is_dir() else [root]
    if not files:
        raise refusal("holds neither Parquet files nor a COCO JSON file", option, str(root))
    if files[0].suffix == ".json":
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise refusal(f"holds several JSON files ({names})", option, str(root), "name the one to read")
        return _coco(files[0], images, option)
    parts = {file.stem.split("-")[0] for file in files}
    if len(parts) > 1 and parts <= set(SPLIT_NAMES):
        remedy = "name the one to learn from in task.path and the one to test on in task.test_path"
        raise refusal(f"holds several splits ({', '.join(sorted(parts))})", option, str(root), remedy)
    wanted = [(name, getattr(columns, name)) for name in ("image_column", "box_column", "label_column")]
    total = 0
    for file in files:
        try:
            facts = pyarrow.parquet.read_metadata(file)
        except (pyarrow.ArrowException, OSError) as error:
            problem = f"{file.name} is not a readable Parquet file ({first_line(error)})"
            raise refusal(problem, option, str(root), "it may be empty or cut short: fetch it again") from error
        total += facts.num_rows
        there = facts.schema.to_arrow_schema().names
        for name, column in wanted:
            if column not in there:
                raise refusal(f"{file.name} has no such column", name, column, f"it has: {', '.join(there)}")
    return total, {}, _parquet(files, [column for _, column in wanted], option, root)


def _parquet(files: Sequence[Path], columns: Sequence[str], option: str, root: Path) -> Iterator[Record]:
    number = 0
    for file in files:
        try:
            opened = pyarrow.parquet.ParquetFile(file)
            for batch in opened.iter_batches(rows_at_once(opened.metadata, READ_ROWS, columns), columns=list(columns)):
                _check_lists(batch, number)
                for image, boxes, labels in zip(*(batch[column].to_pylist() for column in columns), strict=True):
                    stored = image if isinstance(image, dict) else {"bytes": image}
                    path, data = stored.get("path"), stored.get("bytes")
                    for name, value, kind in zip(columns, (data, boxes, labels), (bytes, list, list), strict=True):
                        if not isinstance(value, (kind, type(None))):
                            problem = f"record {number} has {type(value).__name__} in column {name!r}"
                            raise refusal(f"{file.name}: {problem}", option, str(root), f"it holds {NEEDED[kind]}")
                    # A path may also be an address on the network: only what is a file here is opened.
                    if data is None and isinstance(path, str) and Path(path).is_file():
                        data = Path(path)
                    name = f"record {number}" + (f" ({path})" if path else "")
                    yield Record(name, data, boxes or [], labels or [])
                    number += 1
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise refusal(f"{file.name} cannot be read ({first_line(error)})", option, str(root)) from error


def _check_lists(batch: pyarrow.RecordBatch, number: int) -> None:
    """Before they become Python objects, which are ten times larger."""
    for column in batch.columns:
        if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
            longest = pyarrow.compute.max(pyarrow.compute.list_value_length(column)).as_py()
            if (longest or 0) > MOST_BOXES:
                raise ValueError(f"record {number} or a later one has {longest:,} boxes, more than {MOST_BOXES:,}")


def _coco(file: Path, images: Path | None, option: str) -> tuple[int, dict[Any, str], Iterator[Record]]:
    """Source: Lin 2014, Microsoft COCO: Common Objects in Context (the format of the annotations)."""
    try:
        check_room(JSON_COPIES * file.stat().st_size, "its annotations")
        data = json.loads(file.read_text(encoding="utf8"))
        names = {int(row["id"]): str(row["name"]) for row in data["categories"]}
        pictures = {row["id"]: row for row in data["images"]}
        for key, unique in (("images", pictures), ("categories", names)):
            if len(unique) < len(data[key]):
                raise ValueError(f"two of its {key} have one id")
        boxes: dict[Any, list[tuple[list[float], int]]] = {key: [] for key in pictures}
        for number, row in enumerate(data["annotations"]):
            if row.get("iscrowd"):  # a region, not one object
                continue
            if row["image_id"] not in pictures or row["category_id"] not in names:
                wrong = "image_id" if row["image_id"] not in pictures else "category_id"
                raise ValueError(f"annotation {number} has the {wrong} {row[wrong]!r}, which is not there")
            x, y, width, height = map(float, row["bbox"])
            boxes[row["image_id"]].append(([x, y, x + width, y + height], row["category_id"]))
        for key, own in boxes.items():
            if len(own) > MOST_BOXES:
                raise ValueError(f"image {key!r} has {len(own):,} boxes, more than {MOST_BOXES:,}")
        sized = {key: (int(row["width"]), int(row["height"])) for key, row in pictures.items() if "width" in row}
        files = {key: str(row["file_name"]) for key, row in pictures.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problem = f"is not a COCO annotation file ({type(error).__name__}: {first_line(error)})"
        raise refusal(problem, option, str(file), "it has images, annotations and categories") from error
    folder = Path(images).expanduser() if images is not None else file.parent
    records = (
        Record(files[key], folder / files[key], [box for box, _ in own], [kind for _, kind in own], sized.get(key))
        for key, own in boxes.items()
    )
    return len(pictures), names, records


def _decoded(record: Record) -> Image.Image:
    """The image in mode RGB.

    Raises:
        ValueError: it cannot be used; Pillow raises OSError and DecompressionBombError too.
    """
    if record.stored is None:
        raise ValueError("there is no image")
    if isinstance(record.stored, Path) and not record.stored.is_file():
        raise ValueError(f"no such file: {record.stored}")
    source = record.stored if isinstance(record.stored, Path) else io.BytesIO(record.stored)
    with Image.open(source, formats=FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels")
        try:
            image = eight_bits(opened, None).convert("RGB")
        # A damaged file makes Pillow's decoders raise anything from struct.error to ZeroDivisionError.
        except Exception as error:
            raise ValueError(f"cannot be decoded: {first_line(error)}") from error
    if record.size not in (None, image.size):
        raise ValueError(f"it has {image.width} x {image.height} pixels, its annotation says {record.size}")
    if len(record.boxes) != len(record.labels):
        raise ValueError(f"it has {len(record.boxes)} boxes and {len(record.labels)} labels")
    return image


def _fit(image: Image.Image, picture: np.ndarray) -> tuple[float, float]:
    """Write the image into the upper left of `picture` `[3, H, W]`, as large as fits; how much x and y were scaled."""
    _, height, width = picture.shape
    scale = min(width / image.width, height / image.height)
    size = (max(round(scale * image.width), 1), max(round(scale * image.height), 1))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR) if size != image.size else image)
    picture[...] = 0
    picture[:, : size[1], : size[0]] = pixels.transpose(2, 0, 1)
    return size[0] / image.width, size[1] / image.height


def _usable(record: Record, size: tuple[int, int], scale: tuple[float, float], bad: _Bad) -> list[tuple[Any, ...]]:
    """Rows of (class as the file has it, x0, y0, x1, y1), scaled, inside the image; what is wrong goes to `bad`."""
    found: list[tuple[Any, ...]] = []
    bad.total += len(record.boxes)
    for number, (box, label) in enumerate(zip(record.boxes, record.labels, strict=True)):
        try:
            corners = [float(side) for side in box]
            (x0, y0, x1, y1), finite = corners, all(map(math.isfinite, corners))
        except (TypeError, ValueError):
            finite = False
        problem = ""
        if not finite:
            problem = "is no box of four numbers"
        elif not isinstance(label, (int, str)) or isinstance(label, bool):
            problem = f"has the class {label!r}"
        elif x1 <= x0 or y1 <= y0:
            problem = "has no area"
        elif x1 <= 0 or y1 <= 0 or x0 >= size[0] or y0 >= size[1]:
            problem = "lies outside the image"
        if not problem:
            if max(-x0, -y0, x1 - size[0], y1 - size[1]) > ROUNDING:
                bad.found.append(f"{record.name}: box {number} {list(box)} reaches beyond the image and is cut")
            x0, x1 = (min(max(x, 0.0), size[0]) * scale[0] for x in (x0, x1))
            y0, y1 = (min(max(y, 0.0), size[1]) * scale[1] for y in (y0, y1))
            found.append((label, x0, y0, x1, y1))
            continue
        bad.found.append(f"{record.name}: box {number} {box} {problem} and is left out")
    return found


def _classes(
    seen: Sequence[Any],
    names: Mapping[Any, str],
    wanted: Sequence[str],
    known: Sequence[str],
    path: Path,
    option: str,
) -> tuple[tuple[str, ...], dict[Any, int], tuple[str, ...]]:
    """Names of the classes, the class of every label that a file uses, and what a user should know of it."""
    kinds = {type(label) for label in seen}
    if len(kinds) > 1:
        raise refusal("classes are words for some boxes, numbers for others", option, str(path))
    if not seen:
        raise refusal("holds no usable box", option, str(path))
    used = sorted(set(seen))
    numbered = not names and kinds == {int}
    if numbered:  # numbers stand for the names in their order
        called = {label: str(label) for label in sorted({*range(min(used[-1] + 1, NUMBERED)), *used})}
        if wanted:
            if not 0 <= used[0] <= used[-1] < len(wanted):
                beyond = next(label for label in used if not 0 <= label < len(wanted))
                problem = f"{path} has boxes of class {beyond}, and there are {len(wanted)} names"
                raise refusal(problem, "classes", list(wanted), "name every class, in the order of their numbers")
            called = dict(enumerate(wanted))
        elif used[0] < 0:
            raise refusal(f"holds a box of class {used[0]}", option, str(path), "numbers of classes start at 0")
    else:
        called = {label: names.get(label, str(label)) for label in (names or used)}
    if len(set(called.values())) < len(called):
        raise refusal("two classes have one name", option, str(path), "give every class its own")
    there = {called[label] for label in used}
    remarks: list[str] = []
    order = list(known) or list(wanted) or [name for name in called.values() if name in there]
    empty = [name for name in order if name not in there]
    if empty and not known:
        raise refusal(f"class {empty[0]!r} has no box in {path}", "classes", list(wanted), "leave it out")
    extra = sorted(there - set(order))
    if extra and not wanted:
        problem = f"holds boxes of classes that the training data lacks ({', '.join(extra[:5])})"
        raise refusal(problem, option, str(path), f"the training data has: {', '.join(order[:20])}")
    if extra:
        remarks.append(f"{path}: boxes of other classes are left out ({', '.join(extra[:5])})")
    silent = [name for name in called.values() if name not in there and name not in order]
    if silent and not wanted and not known:
        remarks.append(f"{path}: no box is of {', '.join(silent[:5])}; left out")
    place = {name: index for index, name in enumerate(order)}
    return tuple(order), {label: place[called[label]] for label in used if called[label] in place}, tuple(remarks)


def _check_memory(count: int, size: tuple[int, int]) -> None:
    needed, there = count * 3 * math.prod(size), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there / 2:
        problem = f"{count} images take {needed / 1e9:.1f} GB; this machine has {there / 1e9:.1f} GB"
        raise refusal(problem, "size", list(size), "choose a smaller size, or fewer images")
