"""Specification of `trainables.teachers.onnx_file`: a real ONNX file, run by ONNX Runtime, teaches."""

import importlib.util

import onnx
import pytest
import torch
from torch import nn

from kdnas_ray.hardware.costs import teacher_costs
from kdnas_ray.onnx_files import quietly, write_onnx
from search_spaces import KdnasError
from trainables import bank as banks
from trainables.opaque import params_of
from trainables.teachers import OnnxTeacher, build_teacher, check_taps


def refused(settings, data) -> KdnasError:
    with pytest.raises(KdnasError) as caught:
        build_teacher(settings, data)
    assert caught.value.remedy
    return caught.value


def exported(model, path, shape=(2, 1, 8, 8), dynamic=True):
    with quietly():
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        torch.onnx.export(model.eval(), (torch.zeros(shape),), dynamo=True, dynamic_shapes=shapes, verbose=False).save(
            str(path)
        )
    return path


def test_onnx_teacher_answers_like_the_network_it_was_made_of(float_onnx, teacher, data, get, normalise, task):
    found, said = get(OnnxTeacher(float_onnx))
    assert "class names are not known" in said[0]
    assert found.val_accuracy == teacher.val_accuracy
    images = normalise(torch.from_numpy(data.validation.images[:50]))
    torch.testing.assert_close(found.model(images), teacher.model(images), atol=1e-4, rtol=1e-4)
    assert found.meta == {}
    again, _ = get(OnnxTeacher(float_onnx))
    assert again.digest == found.digest


def test_bank_asks_an_onnx_teacher_about_every_view(float_onnx, teacher, data, task, normalise):
    model = build_teacher(OnnxTeacher(float_onnx), data)
    made = [
        banks.build(data.train, [one], normalise, augmentation=task.augmentation, views=2, seed=0)
        for one in (model, teacher.model)
    ]
    assert abs(made[0].logits.astype(float) - made[1].logits).max() < 0.01
    assert made[0].teacher_params == (params_of(model),)


def test_parameters_are_the_initialisers_and_flops_are_not_known(float_onnx, teacher, data):
    model = build_teacher(OnnxTeacher(float_onnx), data)
    own = sum(part.numel() for part in teacher.model.parameters())
    known = params_of(model)
    assert known is not None
    assert 0.9 * own < known < 1.2 * own  # batch normalisation is folded away or has its running numbers
    assert teacher_costs(model, data.shape, {}) == {"params": known}


def test_onnx_teacher_reads_pixels_and_class_names_of_our_own_exports(teacher, reversed_data, normalise, get, tmp_path):
    names = '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'
    path = tmp_path / "student.onnx"
    write_onnx(nn.Sequential(normalise, teacher.model), (1, 8, 8), path, {"classes": names})
    found, said = get(OnnxTeacher(path), data=reversed_data)
    assert found.val_accuracy == teacher.val_accuracy  # its classes were turned round by name
    assert "10 of the task's 10 classes are matched" in said[0]


def test_onnx_teacher_gets_raw_images_where_it_normalises_itself(teacher, data, normalise, get, tmp_path):
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = teacher.model

        def forward(self, x):
            return self.inner(normalise(255 * x))

    path = exported(Raw(), tmp_path / "raw.onnx")
    assert get(OnnxTeacher(path, normalise=False))[0].val_accuracy == teacher.val_accuracy
    assert get(OnnxTeacher(path))[0].val_accuracy < teacher.val_accuracy


def test_onnx_teacher_made_for_one_batch_size_answers_any(teacher, data, normalise, tmp_path):
    path = exported(teacher.model, tmp_path / "fixed.onnx", (4, 1, 8, 8), dynamic=False)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    model = build_teacher(OnnxTeacher(path), data)
    images = normalise(torch.from_numpy(data.validation.images[:9]))
    torch.testing.assert_close(model(images), teacher.model(images), atol=1e-4, rtol=1e-4)


def test_digest_changes_with_the_content_of_the_file(float_onnx, teacher, get, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(float_onnx.read_bytes())
    first = get(OnnxTeacher(float_onnx))[0].digest
    assert get(OnnxTeacher(copy))[0].digest == first
    proto = onnx.load(float_onnx)
    proto.doc_string = "changed"
    onnx.save(proto, copy)
    assert get(OnnxTeacher(copy))[0].digest != first


def test_onnx_teacher_has_no_taps_and_says_so(float_onnx, data):
    model = build_teacher(OnnxTeacher(float_onnx), data)
    with pytest.raises(KdnasError, match="answers with logits alone") as caught:
        check_taps(model, data.shape, ["stage2"])
    assert "recipes.hints" in caught.value.remedy


def test_onnx_teacher_is_refused_when_the_file_is_none(data, tmp_path):
    assert "cannot be read" in refused(OnnxTeacher(tmp_path / "no.onnx"), data).problem
    (tmp_path / "noise.onnx").write_bytes(b"not a model")
    error = refused(OnnxTeacher(tmp_path / "noise.onnx"), data)
    assert (error.field, error.value) == ("teachers.path", str(tmp_path / "noise.onnx"))
    assert "ONNX Runtime cannot load it" in error.problem


def test_onnx_teacher_is_refused_when_it_takes_other_images_or_answers_no_logits(data, float_onnx, tmp_path):
    wide = exported(
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(32, 10)), tmp_path / "w.onnx", (2, 3, 4, 4)
    )
    assert "does not take images of shape (2, 1, 8, 8)" in refused(OnnxTeacher(wide), data).problem
    flat = exported(nn.Linear(8, 10), tmp_path / "flat.onnx", (2, 8))
    assert "its inputs are" in refused(OnnxTeacher(flat), data).problem
    maps = exported(nn.Conv2d(1, 2, 3), tmp_path / "maps.onnx")
    assert "not with logits [2, classes]" in refused(OnnxTeacher(maps), data).problem
    assert refused(OnnxTeacher(float_onnx, output="nothing"), data).field == "teachers.output"


def test_onnx_teacher_names_the_extra_when_onnx_runtime_is_missing(float_onnx, data, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name))
    error = refused(OnnxTeacher(float_onnx), data)
    assert error.remedy == 'pip install "kdnas_ray[export]"'
