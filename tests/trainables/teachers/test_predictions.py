"""Specification of `trainables.teachers.predictions`: stored answers teach, each known by its image's content."""

import hashlib

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F

from search_spaces import KdnasError
from trainables import bank as banks
from trainables.opaque import params_of
from trainables.tasks import DigitsTask
from trainables.teachers import PredictionsTeacher, build_teacher, sample_ids, write_predictions


@pytest.fixture(scope="module")
def images(data):
    return np.concatenate([split.images for split in (data.train, data.validation, data.test)])


@pytest.fixture(scope="module")
def answers(images, teacher, normalise):
    with torch.inference_mode():
        return teacher.model(normalise(torch.from_numpy(images))).numpy()


@pytest.fixture
def stored(tmp_path, images, answers):
    write_predictions(tmp_path / "answers.parquet", sample_ids(images), answers)
    return tmp_path / "answers.parquet"


def table(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return PredictionsTeacher(path)


def refused(settings, data) -> KdnasError:
    with pytest.raises(KdnasError) as caught:
        build_teacher(settings, data)
    assert caught.value.field == "teachers.path"
    assert caught.value.remedy
    return caught.value


def test_sample_id_is_the_hash_of_the_pixels_wherever_the_sample_lies():
    images = np.arange(2 * 1 * 2 * 2, dtype=np.uint8).reshape(2, 1, 2, 2)
    assert sample_ids(images) == [hashlib.sha256(bytes(part)).hexdigest()[:16] for part in ([0, 1, 2, 3], [4, 5, 6, 7])]
    assert sample_ids(images[::-1]) == sample_ids(images)[::-1]
    first, second = (DigitsTask().load(seed) for seed in (0, 1))
    everything = [
        {name for split in (data.train, data.validation, data.test) for name in sample_ids(split.images)}
        for data in (first, second)
    ]
    assert everything[0] == everything[1]


def test_stored_answers_teach_as_the_teacher_that_gave_them(stored, data, task, teacher, normalise, get):
    found, _ = get(PredictionsTeacher(stored))
    assert found.val_accuracy == teacher.val_accuracy
    assert params_of(found.model) is None
    made = [
        banks.build(data.train, [model], normalise, augmentation=task.augmentation, views=1, seed=0)
        for model in (found.model, teacher.model)
    ]
    assert np.abs(made[0].logits.astype(float) - made[1].logits).max() < 0.01
    assert made[0].teacher_params == (0,)


def test_probabilities_are_answered_as_logits_with_that_softmax(images, answers, data, normalise, tmp_path):
    shares = F.softmax(torch.from_numpy(answers), dim=1)
    settings = table(tmp_path / "p.parquet", sample=sample_ids(images), probabilities=shares.double().tolist())
    model = build_teacher(settings, data)
    found = F.softmax(model(normalise(torch.from_numpy(data.train.images[:20]))), dim=1)
    torch.testing.assert_close(found, shares[:20], atol=1e-5, rtol=1e-4)


def test_digest_changes_with_the_content_of_the_file(stored, images, answers, get):
    first = get(PredictionsTeacher(stored))[0].digest
    assert get(PredictionsTeacher(stored))[0].digest == first
    write_predictions(stored, sample_ids(images), 2 * answers)
    assert get(PredictionsTeacher(stored))[0].digest != first


def test_missing_samples_are_counted_and_the_first_is_named(tmp_path, images, answers, data):
    ids = sample_ids(images)
    kept = [index for index, name in enumerate(ids) if name not in {ids[3], ids[401]}]
    write_predictions(tmp_path / "few.parquet", [ids[index] for index in kept], answers[kept])
    problem = refused(PredictionsTeacher(tmp_path / "few.parquet"), data).problem
    assert problem == (
        f"it has no answer for 1 of 400 training, 1 of 200 validation samples, the first of them {ids[3]}"
    )


def test_augmented_view_has_no_answer_and_the_message_says_what_to_do(stored, data, normalise):
    model = build_teacher(PredictionsTeacher(stored), data)
    moved = np.roll(data.train.images[:4], 1, axis=3)
    with pytest.raises(KdnasError, match="no stored answer for sample") as caught:
        model(normalise(torch.from_numpy(moved)))
    assert "bank.views=1" in caught.value.remedy


def test_equal_rows_may_come_twice_but_not_with_different_answers(tmp_path, images, answers, data):
    ids, twice = sample_ids(images), np.concatenate([answers, answers[:2]])
    write_predictions(tmp_path / "twice.parquet", [*ids, *ids[:2]], twice)
    build_teacher(PredictionsTeacher(tmp_path / "twice.parquet"), data)
    twice[-1] += 1
    write_predictions(tmp_path / "twice.parquet", [*ids, *ids[:2]], twice)
    assert f"sample {ids[1]} comes twice" in refused(PredictionsTeacher(tmp_path / "twice.parquet"), data).problem


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"sample": ["0" * 16]}, "its columns are sample"),
        ({"logits": [[1.0]]}, "its columns are logits"),
        ({"sample": ["a"], "logits": [[1.0]], "probabilities": [[1.0]]}, "its columns are"),
        ({"sample": ["no id"], "logits": [[1.0, 2.0]]}, "invalid literal"),
        ({"sample": ["f" * 17], "logits": [[1.0, 2.0]]}, ""),
        ({"sample": ["a", "b"], "logits": [[1.0, 2.0], [1.0]]}, "answers of different lengths: 1, 2"),
        ({"sample": ["a", "b"], "logits": [[1.0, 2.0], None]}, "rows without an answer"),
        ({"sample": ["a"], "logits": [[1.0, None]]}, "no finite number"),
        ({"sample": ["a"], "logits": [[1.0, float("nan")]]}, "no finite number"),
        ({"sample": ["a"], "logits": [["x", "y"]]}, ""),
        ({"sample": ["a"], "logits": [1.0]}, ""),
        ({"sample": ["a"], "probabilities": [[0.9, 0.9]]}, "do not sum to 1"),
        ({"sample": ["a"], "probabilities": [[1.5, -0.5]]}, "negative"),
    ],
)
def test_file_is_refused_with_the_reason(columns, problem, data, tmp_path):
    error = refused(table(tmp_path / "bad.parquet", **columns), data)
    assert error.problem.startswith("no usable predictions (")
    assert problem in error.problem


def test_file_is_refused_when_it_is_none(data, tmp_path):
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    for name in ("noise.parquet", "nothing.parquet"):
        refused(PredictionsTeacher(tmp_path / name), data)
