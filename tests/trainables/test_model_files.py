"""Specification of `trainables.model_files`."""

import json
import random
from dataclasses import asdict

import pytest
import torch

from search_spaces import SPACES, KdnasError, sample
from trainables.model_files import load_student, save_student


def saved(folder, name: str = "resnet"):
    """A network of this space with its meta data, written to the folder."""
    space = SPACES[name]()
    architecture = sample(space, random.Random(0))
    model = space.build(architecture, (1, 8, 8), 3)
    model(torch.rand(4, 1, 8, 8))  # statistics of batch norm other than the initial ones
    meta = {
        "space": {"name": name, **asdict(space)},
        "architecture": architecture.to_json(),
        "shape": [1, 8, 8],
        "classes": ["a", "b", "c"],
        "mean": [0.1],
        "std": [0.2],
    }
    save_student(folder, model, meta)
    return model, meta


@pytest.mark.parametrize("name", SPACES)
def test_student_is_read_back_with_its_weights_statistics_and_meta_data(tmp_path, name):
    model, meta = saved(tmp_path / "new" / "best", name)
    again, found = load_student(str(tmp_path / "new" / "best"))
    assert found == json.loads(json.dumps(meta))
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(images), model.eval()(images))


def test_student_trained_with_channels_last_is_read_back(tmp_path):
    model, meta = saved(tmp_path)
    save_student(tmp_path, model.to(memory_format=torch.channels_last), meta)
    state = load_student(tmp_path)[0].state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def _edited(**changes):
    def edit(folder):
        meta = json.loads((folder / "model.json").read_text()) | changes
        (folder / "model.json").write_text(json.dumps(meta))

    return edit


def _written(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "weights.safetensors").unlink(),
        lambda folder: (folder / "model.json").unlink(),
        _written("weights.safetensors", b""),
        _written("weights.safetensors", b"\x80\x04not safetensors"),
        _written("model.json", b"{"),
        _written("model.json", b"[]"),
        _written("model.json", b"\xff"),
        _edited(architecture={}),
        _edited(architecture=None),
        _edited(shape=[]),
        _edited(shape=None),
        _edited(shape=[3, 8, 8]),
        _edited(classes=["a"]),
        _edited(space={}),
        _edited(space={"name": "resnet", "no_such_option": 1}),
    ],
)
def test_load_raises_with_the_folder_when_a_file_is_missing_or_altered(tmp_path, damage):
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(KdnasError, match="no usable model here") as caught:
        load_student(tmp_path)
    assert (caught.value.field, caught.value.value) == ("path", str(tmp_path))
    assert caught.value.remedy


def test_load_raises_with_the_known_spaces_when_the_space_is_unknown(tmp_path):
    saved(tmp_path)
    _edited(space={"name": "darts9"})(tmp_path)
    with pytest.raises(KdnasError, match="darts9"):
        load_student(tmp_path)
