"""Specification: a small file that unpacks to more than the machine holds is refused, and the message names numbers."""

import io
import json
import resource
import struct
import wave
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from shapes import coco, pictures

from kdnas_ray.config import read_file
from kdnas_ray.hardware.lookup import find
from kdnas_ray.plain_yaml import MOST_NODES
from kdnas_ray.runs import read_config
from search_spaces import KdnasError, ResNetSpace
from trainables import parquet
from trainables.evaluators.table import Table, read_table
from trainables.model_files import load_student
from trainables.parquet import ROWS, held, read_columns, rows_at_once
from trainables.sound import MOST_BYTES, MOST_RATE, decode_wav
from trainables.tasks import DetectionTask, ImagesTask, SpeechTask
from trainables.tasks.base import Data, Split
from trainables.tasks.table import TableTask
from trainables.teachers.module import ModuleTeacher
from trainables.teachers.predictions import PredictionsTeacher

SMALL = 2**24  # what the machine of these tests holds, half of it


@pytest.fixture
def small_machine(monkeypatch) -> None:
    monkeypatch.setattr(parquet, "most_bytes", lambda: SMALL)


def png(width: int = 6, height: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def huge_png(side: int) -> bytes:
    """A PNG whose header promises `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 10**6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def stored(path: Path, columns: dict, **options) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd", **options)
    assert path.stat().st_size < SMALL / 10
    return path


def refusal(read) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(KdnasError) as caught:
        read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB
    return str(caught.value)


LARGE = b"\0" * 2**22


@pytest.mark.parametrize("rows", [4, 2000])
def test_images_when_a_few_kilobytes_unpack_to_more_than_memory_then_refused(tmp_path, small_machine, rows):
    each = LARGE if rows == 4 else LARGE[: 2**15]  # pages that are compressed; one value that is stored once
    columns = {"image": [{"bytes": each, "path": None}] * rows, "label": [0, 1] * (rows // 2)}
    path = stored(tmp_path / "images.parquet", columns)
    assert "its images unpack to more than 0.0168 GB" in refusal(lambda: ImagesTask(path).load(0))


def test_labels_when_they_unpack_to_more_than_memory_then_refused(tmp_path, small_machine):
    path = stored(tmp_path / "labels.parquet", {"image": [None] * 400_000, "label": [7] * 400_000})
    assert "its labels unpack to more" in refusal(lambda: ImagesTask(path).load(0))
    words = stored(tmp_path / "words.parquet", {"image": [None] * 4000, "label": ["a" * 10_000] * 4000})
    assert "its labels unpack to more" in refusal(lambda: ImagesTask(words).load(0))


def test_one_record_when_it_is_larger_than_memory_then_refused(tmp_path, small_machine):
    columns = {"image": [{"bytes": b"\0" * 2**25, "path": None}] * 2, "label": [0, 1]}
    path = stored(tmp_path / "images.parquet", columns)
    assert "its records unpack to more" in refusal(lambda: ImagesTask(path).load(0))


@pytest.mark.parametrize("kind", ["png", "pixels"])
def test_image_when_its_header_promises_too_many_pixels_then_refused(tmp_path, kind):
    data = huge_png(60_000 if kind == "pixels" else 8_000)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "data" / name / f"{number}.png").write_bytes(data)
    assert "an image may have 50,000,000 pixels" in refusal(lambda: ImagesTask(tmp_path / "data").load(0))


def test_boxes_when_one_image_has_millions_then_refused(tmp_path):
    image = {"bytes": png(), "path": None}
    boxes = pa.array([[[0.0, 0.0, 1.0, 1.0]] * 20_000], pa.list_(pa.list_(pa.float64())))
    path = stored(tmp_path / "boxes.parquet", {"image": [image], "boxes": boxes, "labels": [[0] * 20_000]})
    assert "has 20,000 boxes, more than 10,000" in refusal(lambda: DetectionTask(path).load(0))
    row = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 4, 4]}
    annotations = Path(coco(tmp_path / "coco", pictures(2), annotations=[row] * 10_001))
    assert "image 0 has 10,001 boxes, more than 10,000" in refusal(lambda: DetectionTask(annotations).load(0))


def test_annotations_when_their_file_is_larger_than_memory_then_refused_unread(tmp_path, small_machine):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(2**21)
    assert "its annotations unpack to more" in refusal(lambda: DetectionTask(path).load(0))
    assert "its entries unpack to more" in refusal(lambda: read_table(Table(path, metric="a"), ResNetSpace(), 1))


def test_tables_when_they_unpack_to_more_than_memory_then_refused(tmp_path, small_machine):
    numbers = stored(tmp_path / "table.parquet", {"a": [1.0] * 10**6, "target": [1.0] * 10**6})
    assert "its columns unpack to more" in refusal(lambda: TableTask(numbers).load(0))
    texts = stored(tmp_path / "results.parquet", {"architecture": ["a" * 10_000] * 1000, "a": [1.0] * 1000})
    assert "its columns unpack to more" in refusal(lambda: read_table(Table(texts, metric="a"), ResNetSpace(), 1))
    with (tmp_path / "table.csv").open("wb") as file:
        file.truncate(2**22)
    assert "its rows unpack to more" in refusal(lambda: TableTask(tmp_path / "table.csv").load(0))


def test_stored_answers_when_they_unpack_to_more_than_memory_then_refused(tmp_path, small_machine):
    columns = {"sample": ["0" * 16] * 1000, "logits": pa.array([[0.0] * 4000] * 1000, pa.list_(pa.float32()))}
    path = stored(tmp_path / "answers.parquet", columns)
    images = Split(np.zeros((4, 1, 4, 4), dtype=np.uint8), np.arange(4) % 2)
    data = Data(images, images, images, classes=("a", "b"), mean=(0.5,), std=(0.3,))
    assert "its columns unpack to more" in refusal(lambda: PredictionsTeacher(path).read(data))


def test_recordings_when_their_words_or_one_of_them_unpack_to_more_than_memory_then_refused(tmp_path, small_machine):
    words = stored(tmp_path / "a.parquet", {"audio": [b""] * 4000, "label": ["a" * 2000] * 4000})
    assert "its columns unpack to more" in refusal(lambda: SpeechTask(words).load(0))
    large = stored(tmp_path / "b.parquet", {"audio": [b"\0" * 2**25] * 2, "label": ["a", "b"]})
    assert "its records unpack to more" in refusal(lambda: SpeechTask(large).load(0))


@pytest.mark.parametrize("rate", [MOST_RATE + 1, 2**31 - 1])
def test_recording_when_its_rate_makes_windows_of_gigabytes_then_is_no_recording(rate):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\0\0" * 100)
    with pytest.raises(ValueError, match=r"at most 768,000 are possible"):
        decode_wav(buffer.getvalue())


def test_recording_when_its_file_is_sparse_and_huge_then_is_no_recording_and_is_not_read_whole(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "1.wav").open("wb") as file:
            file.truncate(2**40)
    assert f"it has more than {MOST_BYTES:,} bytes" in refusal(lambda: SpeechTask(tmp_path).load(0))


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))


def test_weights_when_their_archive_is_packed_then_refused(tmp_path):
    torch.save(net().state_dict(), tmp_path / "honest.pt")
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(tmp_path / "honest.pt") as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part) + b"\0" * 10**7 * part.filename.endswith("data/0"))
    images = Split(np.zeros((4, 1, 4, 4), dtype=np.uint8), np.arange(4) % 2)
    data = Data(images, images, images, classes=("a", "b"), mean=(0.5,), std=(0.3,))
    assert "it is packed" in refusal(lambda: ModuleTeacher(f"{__name__}:net", weights=packed).read(data))
    ModuleTeacher(f"{__name__}:net", weights=tmp_path / "honest.pt").read(data)


@pytest.mark.parametrize("header", [2**40, 2**63, 90_000_000])
def test_safetensors_when_its_header_promises_more_than_is_there_then_refused(tmp_path, header):
    meta = {"space": {"name": "resnet"}, "architecture": {}, "shape": [1, 8, 8], "classes": ["a"]}
    (tmp_path / "model.json").write_text(json.dumps(meta))
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", header) + b"{}")
    assert "no usable model here" in refusal(lambda: load_student(tmp_path))


def test_yaml_when_its_anchors_stand_for_billions_then_refused(tmp_path):
    lines = ["name: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    for name in ("config.yaml", "device.yaml"):
        (tmp_path / name).write_text("\n".join(lines))
    said = f"its anchors stand for more than {MOST_NODES:,} values"
    assert said in refusal(lambda: read_file(tmp_path / "config.yaml"))
    assert said in refusal(lambda: find(str(tmp_path / "device.yaml")))
    refusal(lambda: read_config(tmp_path))
    (tmp_path / "config.yaml").write_text("a: &a [*a]")  # one that holds itself
    assert said in refusal(lambda: read_file(tmp_path / "config.yaml"))


def test_parquet_when_records_are_small_then_many_are_read_at_once_and_nothing_is_lost(tmp_path):
    table = pa.table({"a": list(range(9000)), "b": [str(number) for number in range(9000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1000)
    assert read_columns(tmp_path / "a.parquet").equals(table)
    assert read_columns(tmp_path / "a.parquet", ["b"]).equals(table.select(["b"]))
    assert rows_at_once(pq.read_metadata(tmp_path / "a.parquet"), ROWS) == ROWS
    assert held(table.column("a")) == 9000 * (8 + 64)
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    assert read_columns(tmp_path / "empty.parquet", ["b"]).equals(table.slice(0, 0).select(["b"]))
