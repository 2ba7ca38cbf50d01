"""Specification of foreign teachers where targets are labels or values, and where the inputs are a table."""

import os
import sys
from dataclasses import dataclass

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch import nn

from kdnas_ray.onnx_files import quietly
from kdnas_ray.teacher_samples import write_samples
from search_spaces import KdnasError
from search_spaces.registry import imported
from trainables import bank as banks
from trainables.alignment import Rescaled
from trainables.augment import Augmentation
from trainables.loop import Normalise
from trainables.model_files import more_meta, save_student
from trainables.tasks.base import AnyTargets, Data, assemble, split, standardised
from trainables.teachers import (
    CallableTeacher,
    FolderTeacher,
    HuggingFaceTeacher,
    ModuleTeacher,
    OnnxTeacher,
    PredictionsTeacher,
    TrainedTeacher,
    network,
    obtain,
    sample_ids,
    write_predictions,
)

NAMES = ("total", "first")
NONE = Augmentation()
CODE = """
import numpy as np
import torch
from torch import nn

seen = []

def values(images):
    seen.append(images)
    rows = images.reshape(len(images), -1).astype(float)
    return np.stack([rows.sum(axis=1), rows[:, 0]], axis=1)

def turned(images): return values(images)[:, ::-1]
def labels(images): return values(images) - [384.0, 96.0]
def one(images): return values(images)[:, :1]

def module(): return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
"""


@dataclass(frozen=True)
class Sums(AnyTargets):
    """The sum of four numbers and the first of them, as values or as labels (above the middle)."""

    targets: str = "values"
    table: bool = False
    augmentation: Augmentation = NONE

    def load(self, seed: int) -> Data:
        rng = np.random.default_rng(seed)
        shape = (60, 4, 1, 1) if self.table else (60, 1, 2, 2)
        inputs = rng.normal(300, 50, shape).astype(np.float32) if self.table else rng.integers(0, 192, shape, np.uint8)
        rows = inputs.reshape(60, 4).astype(np.float32)
        found = np.stack([rows.sum(axis=1), rows[:, 0]], axis=1)
        if self.targets == "labels":
            found = (found > [384, 96]).astype(np.float32)
        data = assemble(*split(inputs, found, NAMES, validation=0.3, test=0.2, seed=seed), NAMES)
        return standardised(data) if self.targets == "values" else data


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Import path of one of the user's functions."""
    name = f"answers_{os.getpid()}_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield lambda function: f"{name}:{function}"
    sys.modules.pop(name, None)


@pytest.fixture
def get(tmp_path):
    def get(settings, task, data=None):
        said: list[str] = []
        data = data or task.load(0)
        return obtain(settings, data, task, seed=0, cache=tmp_path / "cache", say=said.append), said

    return get


def refused(get, settings, task, field) -> KdnasError:
    with pytest.raises(KdnasError) as caught:
        get(settings, task)
    assert caught.value.field == field
    assert caught.value.remedy
    return caught.value


def test_values_of_a_function_are_read_in_their_own_units(own, get):
    task = Sums()
    teacher, said = get(CallableTeacher(own("values")), task)
    assert teacher.val_accuracy == pytest.approx(1)
    assert "its names of values are not known" in said[0]
    assert "in the values' own units" in said[0]
    data = task.load(0)
    bank = banks.build(data.train, [teacher.model], Normalise(data.mean, data.std), augmentation=NONE, views=1, seed=0)
    np.testing.assert_allclose(bank.logits[0, 0], data.train.labels, atol=2e-3)


def test_values_are_matched_by_name_and_mapping(own, get):
    for settings in (
        CallableTeacher(own("turned"), classes=("first", "total")),
        CallableTeacher(own("turned"), classes=("start", "total"), mapping={"start": "first"}),
        CallableTeacher(own("turned"), mapping={0: "first", 1: "total"}),
    ):
        assert get(settings, Sums())[0].val_accuracy == pytest.approx(1)


def test_labels_of_a_function_are_taken_in_order_or_by_name(own, get):
    plain = get(CallableTeacher(own("labels")), Sums("labels"))[0]
    assert plain.val_accuracy == 1
    assert not isinstance(plain.model, Rescaled)
    turned, said = get(CallableTeacher(own("labels"), classes=NAMES[::-1]), Sums("labels"))
    images = torch.zeros(2, 1, 2, 2)
    assert torch.equal(turned.model(images), plain.model(images).flip(1))
    assert "2 of the task's 2 labels are matched" in said[0]


@pytest.mark.parametrize("targets", ["labels", "values"])
def test_what_only_classes_can_be_is_refused(own, get, targets):
    task = Sums(targets)
    unknown = refused(get, CallableTeacher(own("one"), classes=("first",)), task, "teachers.classes")
    assert unknown.problem == f"the teacher answers for 1 of the task's 2 {targets}"
    assert unknown.value == "total"
    wrong = CallableTeacher(own("values"), classes=("cat", "dog"))
    assert f"0 of the task's 2 {targets}" in refused(get, wrong, task, "teachers.classes").problem
    summed = CallableTeacher(own("values"), mapping={0: "total", 1: "total"})
    assert refused(get, summed, task, "teachers.classes").value == "first"
    refused(get, CallableTeacher(own("one")), task, "teachers.classes")


def test_several_answers_for_one_label_are_refused(own, get):
    path = own("values").replace(":values", ":three")
    with open(f"{path.partition(':')[0]}.py", "a") as file:
        file.write("def three(images): return np.concatenate([values(images), one(images)], axis=1)\n")
    settings = CallableTeacher(path, mapping={0: "total", 1: "first", 2: "total"})
    assert "2 of the teacher's answers" in refused(get, settings, Sums("labels"), "teachers.mapping").problem


def saved(folder, task, data):
    settings = TrainedTeacher(stem=4, widths=(4,), depths=(1,))
    model = network(settings, data.shape, len(data.classes)).eval()
    meta = {
        "space": {"name": "resnet", "stages": 1},
        "architecture": settings.architecture().to_json(),
        "shape": list(data.shape),
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        **more_meta(task.targets, data),
    }
    save_student(folder, model, meta)
    return model


def test_values_of_a_folder_are_standardised_anew_where_its_data_were_others(tmp_path, get):
    task = Sums()
    theirs, data = task.load(1), task.load(0)
    model = saved(tmp_path / "same", task, data)
    assert get(FolderTeacher(tmp_path / "same"), task)[0].meta  # kept as a network of ours
    other = saved(tmp_path / "other", task, theirs)
    teacher, said = get(FolderTeacher(tmp_path / "other"), task)
    assert said == []
    assert teacher.meta == {}
    images = torch.randn(5, 1, 2, 2)
    with torch.inference_mode():
        own_units = other(images) * torch.tensor(theirs.target_std) + torch.tensor(theirs.target_mean)
        found = teacher.model(images) * torch.tensor(data.target_std) + torch.tensor(data.target_mean)
        logits, seen = teacher.model.forward_taps(images, ("stage1",))
        torch.testing.assert_close(seen["stage1"], other.forward_taps(images, ("stage1",))[1]["stage1"])
        torch.testing.assert_close(logits, teacher.model(images))
    torch.testing.assert_close(found, own_units.float(), rtol=1e-4, atol=1e-2)
    assert type(model) is type(other)


@pytest.mark.parametrize("targets", ["labels", "values"])
def test_teacher_of_other_targets_is_refused(tmp_path, get, targets):
    other = Sums({"labels": "values", "values": "labels"}[targets])
    saved(tmp_path / "other", other, other.load(0))
    problem = refused(get, FolderTeacher(tmp_path / "other"), Sums(targets), "teachers").problem
    assert problem == f"it answers for {other.targets}, the task's targets are {targets}"


@pytest.mark.parametrize("targets", ["labels", "values"])
def test_stored_logits_teach_labels_and_values_and_probabilities_do_not(tmp_path, own, get, targets):
    task = Sums(targets)
    data = task.load(0)
    images = np.concatenate([part.images for part in (data.train, data.validation, data.test)])
    write_predictions(tmp_path / "p.parquet", sample_ids(images), imported(own(targets), "function")(images))
    assert get(PredictionsTeacher(tmp_path / "p.parquet"), task)[0].val_accuracy == pytest.approx(1)
    columns = {"sample": sample_ids(images), "probabilities": [[0.5, 0.5]] * len(images)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "q.parquet")
    error = refused(get, PredictionsTeacher(tmp_path / "q.parquet"), task, "teachers")
    assert "`logits`" in error.remedy


def test_function_and_module_read_a_table(own, get):
    task = Sums(table=True)
    data = task.load(0)
    teacher, _ = get(CallableTeacher(own("values")), task)
    asked = sys.modules[own("x").partition(":")[0]].seen[-1]
    assert asked.dtype == np.float32
    assert asked.shape[1:] == (4, 1, 1)
    assert teacher.val_accuracy == pytest.approx(1, abs=1e-4)
    inputs = Normalise(data.mean, data.std)(torch.from_numpy(data.validation.images))
    teacher.model(inputs)
    np.testing.assert_allclose(sys.modules[own("x").partition(":")[0]].seen[-1], data.validation.images, rtol=1e-5)
    assert get(ModuleTeacher(own("module")), task)[0].model(inputs).shape == (len(inputs), 2)


class Summing(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        rows = x.flatten(1).float()
        return torch.stack([rows.sum(dim=1), rows[:, 0]], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_onnx_file_of_a_tables_own_numbers_is_read_and_one_of_bytes_refused(tmp_path, get, dtype):
    path = tmp_path / "sums.onnx"
    with quietly():
        program = torch.onnx.export(
            Summing(dtype).eval(),
            (torch.zeros(2, 4, 1, 1, dtype=dtype),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    program.save(str(path))
    settings, task = OnnxTeacher(path, normalise=False), Sums(table=True)
    if dtype == torch.uint8:
        assert "reads bytes" in refused(get, settings, task, "teachers.path").problem
    else:
        assert get(settings, task)[0].val_accuracy == pytest.approx(1, abs=1e-4)


def test_teachers_of_images_are_refused_for_a_table(tmp_path, get):
    task = Sums(table=True)
    for settings in (PredictionsTeacher(tmp_path / "p.parquet"), HuggingFaceTeacher(str(tmp_path))):
        error = refused(get, settings, task, "teachers.name")
        assert "numbers of a table" in error.problem
    with pytest.raises(KdnasError, match="no picture") as caught:
        write_samples(tmp_path / "samples.parquet", task.load(0))
    assert caught.value.field == "task"
