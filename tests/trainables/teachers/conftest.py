"""A small float ONNX file and a way to ask for a teacher."""

import dataclasses
from pathlib import Path

import pytest
import torch

from kdnas_ray.onnx_files import quietly
from trainables.teachers import obtain


@pytest.fixture
def get(data, task, tmp_path):
    """The teacher for these settings, and what was said."""

    def get(settings, *, data=data):
        said: list[str] = []
        return obtain(settings, data, task, seed=0, cache=tmp_path / "cache", say=said.append), said

    return get


@pytest.fixture(scope="session")
def float_onnx(teacher, tmp_path_factory) -> Path:
    """The tiny teacher as an ONNX file of normalised images, any batch."""
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    with quietly():
        program = torch.onnx.export(
            teacher.model,
            (torch.zeros(2, 1, 8, 8),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    program.save(str(path))
    return path


@pytest.fixture(scope="session")
def reversed_data(data):
    """The same images, their classes in the opposite order."""
    last = len(data.classes) - 1
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    turned = {name: dataclasses.replace(part, labels=last - part.labels) for name, part in parts.items()}
    return dataclasses.replace(data, classes=data.classes[::-1], **turned)
