"""Specification of `kdnas_ray.teacher_samples`: every image once, exactly, with the id that its answer is found by."""

import io

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from kdnas_ray.config import read
from kdnas_ray.teacher_samples import search_with_answers, write_samples
from search_spaces import KdnasError
from trainables.tasks.base import Data, Split
from trainables.teachers import sample_ids


def data_of(channels: int) -> Data:
    images = np.random.default_rng(0).integers(0, 256, (7, channels, 5, 4), dtype=np.uint8)
    images[6] = images[0]  # the same image in two splits
    parts = [
        Split(images[part], np.zeros(len(images[part]), np.int64)) for part in (slice(3), slice(3, 5), slice(5, 7))
    ]
    return Data(*parts, ("a", "b"), (0.5,) * channels, (1.0,) * channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_when_written_then_the_pictures_are_the_images_themselves(tmp_path, channels):
    data = data_of(channels)
    assert write_samples(tmp_path / "new" / "samples.parquet", data) == 6
    rows = pyarrow.parquet.read_table(tmp_path / "new" / "samples.parquet").to_pylist()
    assert [row["split"] for row in rows] == ["train"] * 3 + ["validation"] * 2 + ["test"]
    for row, image in zip(rows, [*data.train.images, *data.validation.images, data.test.images[0]], strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        found = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
        assert np.array_equal(found, image)
        assert sample_ids(found[None]) == [row["sample"]]


def test_samples_when_they_cannot_be_written_then_says_why(tmp_path):
    (tmp_path / "there").touch()
    for path, data, field in (
        (tmp_path / "there", data_of(1), "--out"),
        (tmp_path / "there" / "samples.parquet", data_of(1), "--out"),
        (tmp_path / "new", data_of(2), "task"),
    ):
        with pytest.raises(KdnasError) as caught:
            write_samples(path, data)
        assert caught.value.field == field
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], ["bank.views=1", "recipes.hints=false", 'constraints={"params": 20000}']),
        (["bank.views=3", "seed=2", "recipes=labels"],
         ["seed=2", "recipes=labels", "bank.views=1", 'constraints={"params": 20000}']),
        (["constraints={params: 900, flops: 5000000}"],
         ["constraints={params: 900, flops: 5000000}", "bank.views=1", "recipes.hints=false"]),
        (["constraints={params: {of_teacher: 0.1}, flops: 5000000}"],
         ["constraints={params: {of_teacher: 0.1}, flops: 5000000}", "bank.views=1", "recipes.hints=false",
          'constraints={"params": 20000, "flops": 5000000.0}']),
    ],
    ids=["defaults", "own_settings", "numbers", "shares"],
)  # fmt: skip
def test_command_keeps_settings_and_adds_what_stored_answers_need(settings, words):
    found = search_with_answers(read({}, settings), settings)
    assert found == ["kdnas", "search", *words, "teachers=[{name: predictions, path: answers.parquet}]"]
    assert read({}, found[2:]).bank.views == 1
