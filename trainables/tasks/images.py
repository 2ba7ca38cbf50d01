"""How does any image data set on disk (Parquet or image folder) become a task?

The reading goes through Hugging Face `datasets`, streamed: nothing is copied into its cache, and only the
records that are used get decoded. Its builders are used directly because `load_dataset` reports every load
to the network.
"""

import io
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image, ImageOps

from search_spaces import KdnasError, first_line
from trainables.augment import Augmentation
from trainables.parquet import ROW_BYTES, check_room, held, rows_at_once
from trainables.tasks.base import SPLIT_NAMES, AnyTargets, Data, Outputs, Split, assemble, choose, split, standardised
from trainables.tasks.targets import labels_of, numbers_of
from trainables.tasks.unlabelled import join

CROP_AND_FLIP = Augmentation(crop=2, flip=True)
MAX_PIXELS = 50_000_000
READ_ROWS = 1000
PYTHON_COPIES = 4  # numbers and short words take so much more as Python objects
# Formats that Pillow decodes by itself: some others start foreign programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class ImagesTask(AnyTargets):
    """Any image data set: a Parquet file, a folder of Parquet files, or a folder with a subfolder a class.

    Labels (tags) and values need Parquet: a list of names or numbers a sample, or a number (a list of equal length
    where there are several). The shares of labels and values in the splits are left to chance.

    Source: Lhoest et al. 2021, Datasets: A Community Library for NLP (Hugging Face `datasets`).

    Args:
        path: the Parquet file or the folder.
        test_path: where the test split is, if it is apart; `test` is then ignored.
        unlabelled: a Parquet file or a folder (with or without subfolders) of images that join the training split
            without a label: students learn of them what the teacher says; null for none.
        image_column: column of the images in Parquet.
        label_column: column of the labels in Parquet.
        targets: `classes` (one a sample), `labels` (any number: a list a sample) or `values` (numbers).
        size: side in pixels; images are resized by their shorter side and cut to the central square.
        subset: use so many samples of `path`, drawn with every class keeping its share.
        validation: share of the samples that candidates are compared on.
        test: share of the samples kept sealed for the finalists.
        augmentation: transforms that views of the training images are drawn from.
    """

    path: Path
    test_path: Path | None = None
    unlabelled: Path | None = None
    image_column: str = "image"
    label_column: str = "label"
    targets: Outputs = "classes"
    size: int | None = None
    subset: int | None = None
    validation: float = 0.1
    test: float = 0.2
    augmentation: Augmentation = CROP_AND_FLIP

    def __post_init__(self) -> None:
        for name in ("size", "subset"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KdnasError("must be positive", field=f"task.{name}", value=value, remedy="null leaves it out")

    def load(self, seed: int) -> Data:
        """The data, split by this seed.

        Raises:
            KdnasError: names the path, column or record that cannot be used.
        """
        source = _open(self.path, "task.path", self)
        labels, classes = _targets(source, self.targets)
        indices = self._chosen(labels, classes, seed)
        labels, records = labels[indices], list(_records(source, indices))
        test_labels, test_records = self._held_out(classes)
        # Decoded together: all must agree in size and in the number of channels.
        images = _decode([*records, *test_records, *self._without_labels()], self.size)
        own, rest = len(records), len(records) + len(test_records)
        test: float | Split = self.test if test_labels is None else Split(images[own:rest].copy(), test_labels)
        parts = split(images[:own], labels, classes, validation=self.validation, test=test, seed=seed)
        if self.unlabelled is not None:
            parts = join(parts, images[rest:], self.unlabelled)
        data = assemble(*parts, classes)
        return standardised(data) if self.targets == "values" else data

    def _held_out(self, classes: Sequence[str]) -> tuple[np.ndarray | None, list["_Record"]]:
        """Targets and stored images of a test split that lies apart."""
        if self.test_path is None:
            return None, []
        source = _open(self.test_path, "task.test_path", self)
        labels = _relabelled(source, *_targets(source, self.targets), classes)
        return labels, list(_records(source, np.arange(len(labels))))

    def _without_labels(self) -> list["_Record"]:
        if self.unlabelled is None:
            return []
        source = _open(self.unlabelled, "task.unlabelled", self, labelled=False)
        return list(_records(source, np.arange(_count(source))))

    def _chosen(self, labels: np.ndarray, classes: Sequence[str], seed: int) -> np.ndarray:
        if self.targets == "classes" and len(classes) < 2:
            raise KdnasError(
                f"all samples are of one class ({classes[0]!r})",
                field="task.path",
                value=str(self.path),
                remedy="at least two are needed; in an image folder each class has its own subfolder",
            )
        if self.subset is None:
            return np.arange(len(labels))
        if self.subset > len(labels):
            raise KdnasError(
                f"larger than the data ({len(labels)} samples)",
                field="task.subset",
                value=self.subset,
                remedy=f"at most {len(labels)}, or null for all",
            )
        indices = choose(labels, self.subset, seed)
        if self.targets != "classes":
            return indices
        counts, drawn = (np.bincount(part, minlength=len(classes)) for part in (labels, labels[indices]))
        needed = 3 if self.test_path is None else 2
        rarest = int(np.where(counts >= needed, drawn, len(labels)).argmin())
        if counts[rarest] >= needed > drawn[rarest]:
            raise KdnasError(
                f"leaves {drawn[rarest]} samples of class {classes[rarest]!r}, too few to be in every split",
                field="task.subset",
                value=self.subset,
                remedy=f"at least {-(-needed * len(labels) // counts[rarest])}, or null for all",
            )
        return indices


@dataclass(frozen=True)
class _Source:
    """Files of one data set, their columns, and where in the configuration they were named."""

    path: Path
    field: str
    folder: bool
    files: list[str]
    image_column: str
    label_column: str | None  # None where only images are read

    def refuse(self, problem: str, remedy: str = "") -> KdnasError:
        """The error that says so about this data set."""
        return KdnasError(problem, field=self.field, value=str(self.path), remedy=remedy)


class _Record(NamedTuple):
    """One image as it is stored, `{"bytes": …, "path": …}`, and its place in the data set."""

    number: int
    stored: dict[str, Any] | None
    source: _Source


def _open(path: Path, field: str, task: ImagesTask, *, labelled: bool = True) -> _Source:
    root = Path(path).expanduser()
    if not os.path.exists(root):
        remedy = "give a Parquet file or a folder on this machine"
        raise KdnasError("does not exist", field=field, value=str(path), remedy=remedy)
    folder = root.is_dir() and not any(root.glob("*.parquet"))
    if folder:
        found = (file for file in root.glob("*/**/*" if labelled else "**/*") if not file.name.startswith("."))
        files = [file for file in found if file.suffix.lower() in EXTENSIONS and file.is_file()]
    else:
        files = list(root.glob("*.parquet")) if root.is_dir() else [root]
    image, label = ("image", "label") if folder else (task.image_column, task.label_column)
    names = [str(file.absolute()) for file in sorted(files)]
    source = _Source(path, field, folder, names, image, label if labelled else None)
    if not files:
        where, remedy = ("subfolders with images", "an image folder has a subfolder a class; ") if labelled else (
            "images", "")  # fmt: skip
        raise source.refuse(
            f"holds neither Parquet files nor {where}", f"{remedy}images end in {', '.join(EXTENSIONS)}"
        )
    # Without this the test images of a data set that comes in splits would be trained on.
    parts = {file.relative_to(root).parts[0] if folder else file.stem.split("-")[0] for file in files}
    if len(parts) > 1 and parts <= set(SPLIT_NAMES):
        raise source.refuse(
            f"holds several splits ({', '.join(sorted(parts))})",
            "name the one to learn from in task.path and the one to test on in task.test_path"
            if labelled
            else "name the one to learn from",
        )
    if not folder:
        _check_columns(source)
    return source


def _count(source: _Source) -> int:
    """How many images there are, labels or not."""
    if source.folder:
        return len(source.files)
    count = sum(pyarrow.parquet.read_metadata(file).num_rows for file in source.files)
    _check_unpacked(source, ROW_BYTES * count, "its images")
    return count


def _check_columns(source: _Source) -> None:
    for file in source.files:
        try:
            known = pyarrow.parquet.read_schema(file).names
        except (pyarrow.ArrowException, OSError) as error:
            raise source.refuse(
                f"{Path(file).name} is not a readable Parquet file ({first_line(error)})",
                "it may be empty or cut short: fetch it again",
            ) from error
        for option in ("image_column", "label_column"):
            column = getattr(source, option)
            if column is not None and column not in known:
                raise KdnasError(
                    f"{Path(file).name} has no such column",
                    field=f"task.{option}",
                    value=column,
                    remedy=f"it has: {', '.join(known)}",
                )


def _stream(source: _Source, column: str, scratch: str) -> Any:
    """One column of the data set, undecoded, a `datasets.IterableDataset` that reads as it is iterated."""
    # Imported here: every Ray worker imports this module, only the driver reads data.
    from datasets import Image as ImageFeature
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.parquet.parquet import Parquet

    # The empty list stands for the files' fingerprints, which only a cache would need.
    files = DataFilesDict({"train": DataFilesList(source.files, [])})
    if source.folder:
        builder = ImageFolder(cache_dir=scratch, data_files=files, drop_labels=source.label_column is None)
    else:
        facts = map(pyarrow.parquet.read_metadata, source.files)
        step = min(rows_at_once(file, READ_ROWS, [column]) for file in facts)
        builder = Parquet(cache_dir=scratch, data_files=files, columns=[column], batch_size=step)
    stream = builder.as_streaming_dataset("train").select_columns([column])
    if column == source.image_column:
        stream = stream.cast_column(column, ImageFeature(decode=False))
    return stream.with_format("arrow")


def _chunks(source: _Source, column: str) -> Iterator[tuple[pyarrow.ChunkedArray, Any]]:
    """The column piece by piece, each with the column's feature."""
    try:
        with _quiet_scratch() as scratch:
            stream = _stream(source, column, scratch)
            for table in stream.iter(batch_size=READ_ROWS):
                yield table[column], stream.features[column]
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise source.refuse(
            f"column {column!r} cannot be read ({first_line(error)})", "the file may be damaged"
        ) from error


@contextmanager
def _quiet_scratch() -> Iterator[str]:
    """A folder for the lock files of `datasets`; meanwhile it logs nothing, for its errors are raised too."""
    from datasets import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            yield scratch
    finally:
        logging.set_verbosity(level)


def _targets(source: _Source, targets: Outputs) -> tuple[np.ndarray, list[str]]:
    """What is to be learned, `[N]` int64 or `[N, K]` float32, and the names of the outputs."""
    column, feature, values, total = str(source.label_column), None, [], 0
    for chunk, feature in _chunks(source, column):  # noqa: B007
        total += held(chunk, PYTHON_COPIES)
        _check_unpacked(source, total, "its labels")
        values += chunk.to_pylist()
    if not values:
        raise source.refuse("holds no samples")
    if targets == "classes":
        return _labels(source, feature, values)
    if source.folder:
        raise source.refuse(
            "an image folder gives every image one class, no labels or values",
            "put the images into a Parquet file with a column for them, or set task.targets to classes",
        )
    try:
        if targets == "values":
            return numbers_of(values, column)
        return labels_of(values, column, getattr(getattr(feature, "feature", None), "names", None))
    except ValueError as error:
        raise source.refuse(str(error), f"see task.targets, here {targets}") from error


def _labels(source: _Source, feature: Any, values: list[Any]) -> tuple[np.ndarray, list[str]]:
    """Labels `[N]` int64 and the names of the classes."""
    column = str(source.label_column)
    for number, value in enumerate(values):
        if not isinstance(value, (int, str)):
            kind = "no label" if value is None else f"a label of type {type(value).__name__}"
            raise source.refuse(
                f"record {number} has {kind} in column {column!r}",
                "labels are whole numbers, words or booleans",
            )
    declared = getattr(feature, "names", None)
    if declared is None:
        found, labels = np.unique(np.asarray(values), return_inverse=True)
        return labels.astype(np.int64), [str(name) for name in found.tolist()]
    labels = np.asarray(values, dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(declared)))
    if len(wrong):
        raise source.refuse(
            f"record {wrong[0]} has the label {labels[wrong[0]]} in column {column!r}, "
            f"but there are {len(declared)} classes"
        )
    return labels, list(declared)


def _relabelled(source: _Source, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Targets of the test split in the order of the training data's outputs."""
    if labels.ndim > 1:
        return _reordered(source, labels, names, classes)
    unknown = sorted({names[label] for label in np.unique(labels)} - set(classes))
    if unknown:
        raise source.refuse(
            f"holds classes that the training data lacks ({', '.join(unknown[:5])})",
            f"the training data has: {', '.join(classes[:20])}",
        )
    place = {name: index for index, name in enumerate(classes)}
    return np.array([place.get(name, -1) for name in names], dtype=np.int64)[labels]


def _reordered(source: _Source, targets: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Columns of `[N, K]` in the order of `classes`; 0 for a label that no test sample has."""
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise source.refuse(
            f"holds labels or values that the training data lacks ({', '.join(unknown[:5])})",
            f"the training data has: {', '.join(classes[:20])}",
        )
    found = np.zeros((len(targets), len(classes)), dtype=np.float32)
    found[:, [classes.index(name) for name in names]] = targets
    return found


def _records(source: _Source, indices: np.ndarray) -> Iterator[_Record]:
    """The stored images at `indices` (ascending); reading ends after the last of them."""
    start = total = 0
    if len(indices) == 0:
        raise source.refuse("holds no samples")
    for chunk, _ in _chunks(source, source.image_column):
        here = indices[(indices >= start) & (indices < start + len(chunk))]
        taken = chunk.take(pyarrow.array(here - start))
        total += held(taken)
        _check_unpacked(source, total, "its images")
        stored = taken.to_pylist()
        yield from (_Record(int(number), image, source) for number, image in zip(here, stored, strict=True))
        start += len(chunk)
        if start > indices[-1]:
            return


def _check_unpacked(source: _Source, total: int, what: str) -> None:
    try:
        check_room(total, what)
    except ValueError as error:
        raise source.refuse(str(error), "give fewer samples; a small file that unpacks to so much is damaged, or a trap"
                            ) from error  # fmt: skip


def _decode(records: Sequence[_Record], size: int | None) -> np.ndarray:
    """Images `[N, C, H, W]` uint8; one channel if all are grey, else three."""
    # Pillow warns of odd metadata, and of large images, which are bounded here.
    with warnings.catch_warnings(action="ignore"):
        height, width = _pixels(records[0], size).shape[:2]
        _check_memory(len(records), height, width)
        images, grey = np.empty((len(records), 3, height, width), dtype=np.uint8), True
        for index, record in enumerate(records):
            pixels = _pixels(record, size)
            if pixels.shape[:2] != (height, width):
                raise record.source.refuse(
                    f"images differ in size: record {records[0].number} has {height} x {width} pixels, "
                    f"record {record.number} has {pixels.shape[0]} x {pixels.shape[1]}",
                    f"task.size={min(height, width, *pixels.shape[:2])} makes them equal",
                )
            if pixels.ndim == 3 and grey:
                images[:index, 1:] = images[:index, :1]
                grey = False
            # A grey image among colours fills all three channels; while all are grey, the first is enough.
            images[index, : 1 if grey else 3] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return images[:, :1].copy() if grey else images


def _pixels(record: _Record, size: int | None) -> np.ndarray:
    """One decoded image, `[H, W]` if it is grey, else `[H, W, 3]`, uint8."""
    stored = record.stored or {}
    name = f"record {record.number}" + (f" ({stored['path']})" if stored.get("path") else "")
    data = stored.get("bytes")
    # A path may also be an address on the network: only what is a file here is opened.
    if data is None and not (stored.get("path") and Path(stored["path"]).is_file()):
        raise record.source.refuse(f"{name} holds no image")
    try:
        with Image.open(stored["path"] if data is None else io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            return np.asarray(_squared(eight_bits(image, size), size))
    except Image.DecompressionBombError as error:
        raise record.source.refuse(
            f"{name} is too large ({error})", f"an image may have {MAX_PIXELS:,} pixels: shrink or remove it"
        ) from error
    # A damaged file makes Pillow's decoders raise anything from struct.error to ZeroDivisionError.
    except Exception as error:
        raise record.source.refuse(f"{name} cannot be decoded ({first_line(error)})", "replace or remove it") from error


def eight_bits(image: Image.Image, size: int | None) -> Image.Image:
    """The image upright, in mode L or RGB."""
    if size is not None:
        # A JPEG can be decoded at a fraction of its size, never below the one asked for.
        image.draft(None, (size, size))
    image = ImageOps.exif_transpose(image) if image.getexif() else image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of type {image.mode}, not 8 or 16 bits")
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("L")
    # Palettes with transparency go through RGBA, as Pillow asks for.
    image = image.convert("RGBA") if "transparency" in image.info else image
    return image if image.mode == "RGB" else image.convert("RGB")


def _squared(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def _check_memory(count: int, height: int, width: int) -> None:
    needed, there = count * 3 * height * width, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there / 2:
        raise KdnasError(
            f"{count} images of {height} x {width} pixels take {needed / 1e9:.1f} GB; this machine has "
            f"{there / 1e9:.1f} GB",
            field="task.size",
            remedy="give a smaller task.size, or a task.subset",
        )
