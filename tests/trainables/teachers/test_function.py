"""Specification of `trainables.teachers.function`: a Python function of pixels teaches."""

import os
import sys

import numpy as np
import pytest
import torch

from search_spaces import KdnasError
from trainables.opaque import params_of
from trainables.teachers import CallableTeacher, build_teacher

CODE = """
import numpy as np

seen = []

def answer(images):
    seen.append(images)
    return images.reshape(len(images), -1)[:, 10:20].astype(float)

def doubled(images):
    return 2 * answer(images)

def three(images): return np.zeros((len(images), 3))
def one_row(images): return np.zeros((1, 10))
def text(images): return "a cat"
def breaks(images): return {}["no such key"]
def quits(images): raise SystemExit(3)
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Settings for one of the user's functions, in a folder from which the user works."""
    name = f"functions_{os.getpid()}_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield lambda function, **options: CallableTeacher(f"{name}:{function}", **options)
    sys.modules.pop(name, None)


def test_function_is_asked_about_the_very_pixels(own, get, data, normalise):
    settings = own("answer")
    teacher, said = get(settings)
    images = data.train.images[:7]
    answers = teacher.model(normalise(torch.from_numpy(images)))
    asked = sys.modules[settings.function.partition(":")[0]].seen[-1]
    assert asked.dtype == np.uint8
    assert np.array_equal(asked, images)
    assert np.array_equal(answers.numpy(), images.reshape(7, -1)[:, 10:20].astype(np.float32))
    assert (teacher.name, teacher.meta) == (settings.function, {})
    assert params_of(teacher.model) is None
    assert "class names are not known" in said[0]


def test_digest_repeats_and_changes_with_what_is_answered(own, get):
    assert get(own("answer"))[0].digest == get(own("answer"))[0].digest != get(own("doubled"))[0].digest


def test_classes_may_be_named_and_mapped(own, get, data):
    names = [str(name) for name in range(9, -1, -1)]
    plain, (turned, _) = get(own("answer"))[0], get(own("answer", classes=tuple(names)))
    images = torch.zeros(2, 1, 8, 8)
    assert torch.equal(turned.model(images), plain.model(images).flip(1))
    partial, said = get(own("three", mapping={0: "4", 1: "7"}))
    assert partial.model.alignment.sources[4] == (0,)
    assert "it teaches nothing about 0, 1, 2, 3, 5 and 3 more" in said[0]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("nothing", "cannot be imported"),
        ("number", "it is a int, not a function"),
        ("three", "answers with 3 logits, the task has 10 classes"),
        ("one_row", r"answers 2 images with shape \(1, 10\)"),
        ("text", "not with logits"),
        ("breaks", "raises KeyError"),
        ("quits", "raises SystemExit"),
    ],
)
def test_function_is_refused_with_the_reason(own, data, function, problem):
    with pytest.raises(KdnasError, match=problem) as caught:
        build_teacher(own(function), data)
    assert caught.value.remedy
    assert caught.value.field in ("teachers.function", "teachers.classes")
