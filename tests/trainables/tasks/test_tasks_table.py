"""Specification of `trainables.tasks.table`."""

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from search_spaces import KdnasError
from trainables.loop import Normalise
from trainables.tasks import TableTask

ROWS = 60


@pytest.fixture
def table(tmp_path):
    """Writes a table of two inputs, a missing one among them, and these further columns; returns the file."""

    def write(name="table.parquet", **more):
        rng = np.random.default_rng(0)
        columns = {"age": rng.normal(1000, 5, ROWS), "size": rng.integers(0, 9, ROWS), **more}
        columns["age"][3] = np.nan
        path = tmp_path / name
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(pyarrow.table(columns), path)
        else:
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return path

    return write


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_values_of_a_table_are_standardised_like_their_inputs(table, name):
    task = TableTask(table(name, target=np.arange(ROWS) * 2.0 + 100))
    data = task.load(0)
    assert data.shape == (2, 1, 1)
    assert data.classes == ("target",)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [36, 12, 12]
    assert data.train.images.dtype == data.train.labels.dtype == np.float32
    inputs = Normalise(data.mean, data.std)(torch.from_numpy(data.train.images))
    assert inputs.mean(dim=0).abs().max() < 1e-3
    assert inputs.std(dim=0, correction=0) == pytest.approx(1, abs=1e-3)
    whole = np.concatenate([part.labels for part in (data.train, data.validation, data.test)])
    assert sorted((whole * data.target_std + data.target_mean)[:, 0].round().tolist()) == list(range(100, 220, 2))


def test_several_targets_are_left_out_of_the_inputs(table):
    data = TableTask(table(a=np.arange(ROWS), b=-np.arange(ROWS)), target=("a", "b")).load(0)
    assert data.classes == ("a", "b")
    assert data.shape == (2, 1, 1)
    assert np.allclose(data.train.labels[:, 0], -data.train.labels[:, 1], atol=1e-5)


def test_classes_and_labels_come_from_one_column(table):
    task = TableTask(table(kind=["x", "y", "z"] * (ROWS // 3)), target=("kind",), targets="classes")
    data = task.load(0)
    assert data.classes == ("x", "y", "z")
    assert np.bincount(data.train.labels).tolist() == [12, 12, 12]
    tags = TableTask(table("t.csv", tags=["a; b", "", "b"] * (ROWS // 3)), target=("tags",), targets="labels").load(0)
    assert tags.classes == ("a", "b")
    assert {tuple(row) for row in tags.train.labels} == {(1, 1), (0, 0), (0, 1)}


def test_a_test_table_that_lies_apart_is_put_in_the_order_of_the_training_classes(table):
    path = table(kind=["x", "y", "z"] * (ROWS // 3))
    other = table("test.parquet", kind=["z", "y"] * (ROWS // 2))
    data = TableTask(path, target=("kind",), targets="classes", test_path=other).load(0)
    assert data.test.labels.tolist() == [2, 1] * (ROWS // 2)
    assert not np.isnan(data.test.images).any()


@pytest.mark.parametrize(
    ("options", "more", "problem"),
    [
        ({"target": ("none",)}, {}, "task.target = 'none': the file has no such column"),
        ({"columns": ("none",)}, {"target": range(ROWS)}, "task.columns = 'none': the file has no such column"),
        ({}, {"target": range(ROWS), "word": ["a"] * ROWS}, "'word' holds string, not numbers"),
        ({}, {"target": [None] * ROWS}, "record 0 has something else than finite numbers"),
        ({}, {"target": range(ROWS), "far": [float("inf")] * ROWS}, "row 0 of column 'far' is infinite"),
        ({"targets": "classes"}, {"target": [1.5] * ROWS}, "row 0 has no class"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(table, options, more, problem):
    with pytest.raises(KdnasError, match=problem):
        TableTask(table(**more), **options).load(0)


def test_a_file_that_is_missing_or_no_table_is_refused(tmp_path):
    with pytest.raises(KdnasError, match="is no file"):
        TableTask(tmp_path / "none.csv").load(0)
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(KdnasError, match="cannot be read"):
        TableTask(tmp_path / "broken.parquet").load(0)
    with pytest.raises(KdnasError, match="labels lie in one column"):
        TableTask(tmp_path / "x.csv", target=("a", "b"), targets="labels")
