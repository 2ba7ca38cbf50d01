"""Specification of the digits task and of the table of tasks."""

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from search_spaces import KdnasError
from trainables.tasks import TASKS, DigitsTask


def test_digits_are_split_sixty_twenty_twenty_by_default():
    data = DigitsTask().load(0)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1079, 359, 359]
    assert data.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64


def test_digits_are_scikit_learns_scaled_to_255_with_their_own_labels():
    data = DigitsTask().load(0)
    known = {
        (image * (255 / 16)).round().astype(np.uint8).tobytes(): label for image, label in zip(*_raw(), strict=True)
    }
    for part in (data.train, data.validation, data.test):
        assert [known[image.tobytes()] for image in part.images] == part.labels.tolist()
    assert data.train.images.max() == 255


def test_digits_can_be_learned_from_train_and_recognised_in_test():
    data = DigitsTask().load(1)
    model = LogisticRegression(max_iter=300).fit(
        data.train.images.reshape(len(data.train), -1) / 255, data.train.labels
    )
    assert model.score(data.test.images.reshape(len(data.test), -1) / 255, data.test.labels) > 0.93


def test_digits_repeat_with_the_seed_and_differ_without():
    assert DigitsTask().load(4).digest() == DigitsTask().load(4).digest() != DigitsTask().load(5).digest()


def test_digits_refuse_shares_that_leave_nothing_to_train_on():
    with pytest.raises(KdnasError, match=r"task\.validation = 0\.6"):
        DigitsTask(validation=0.6, test=0.4).load(0)


def test_every_task_is_described_with_a_summary_a_source_and_its_options():
    for row in TASKS.describe():
        assert row["summary"].endswith(".")
        assert row["source"]
        documented = TASKS[row["name"]].__doc__
        assert all(f"{field.name}: " in documented for field in fields(TASKS[row["name"]]))


def test_tasks_load_no_data_library_when_only_imported():
    # Every Ray worker imports the tasks; these two cost it 1.1 s and 170 MB.
    code = "import sys, trainables.tasks; print({'sklearn', 'datasets'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def _raw() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return digits.images, digits.target
