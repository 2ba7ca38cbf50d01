"""Specification of `kdnas_ray.hardware.lookup`: profiles and models of few measurements, both devices of a search."""

import json
from pathlib import Path

import pytest

from kdnas_ray.config import read
from kdnas_ray.hardware.costs import cost_function
from kdnas_ray.hardware.devices import device
from kdnas_ray.hardware.few_shot import FewShot, fit, save
from kdnas_ray.hardware.lookup import by_name, find, own_names
from kdnas_ray.hardware.measurements import distinct, modelled_table
from kdnas_ray.prepare import plan
from search_spaces import KdnasError, NASBench201Space
from search_spaces.notation import notation

SPACE, SHAPE = NASBench201Space(), (1, 8, 8)
PROFILE = "name: mine\nflops_per_s: 1e9\nbytes_per_s: 1e9\n"
BIG = ["space=nasbench201", "devices=[phone.json]"]


@pytest.fixture(scope="module")
def model() -> FewShot:
    """A device on which 3x3 convolutions take 9 ms each, from 20 measurements."""
    measured = distinct(SPACE, 20, 3)
    milliseconds = [2 + 9 * notation(SPACE, cell).count("conv_3x3") for cell in measured]
    known = modelled_table(SPACE, SHAPE, seed=0).known()
    options = {"width": SPACE.width, "cells": SPACE.cells}
    return fit(known, measured, milliseconds, space="nasbench201", options=options, name="phone", shape=SHAPE)


@pytest.fixture
def folder(model, tmp_path, monkeypatch) -> Path:
    """Working folder with a profile and the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(PROFILE)
    for name in ("phone.json", "phone.yaml"):
        save(model, tmp_path / name)
    return tmp_path


def test_device_when_looked_for_then_is_a_profile_or_a_model(folder, model):
    assert find("npu-small") == device("npu-small")
    assert find("mine.yaml").name == "mine"
    assert find("phone.json") == find("phone.yaml") == find(str(folder / "phone.json")) == model
    assert list(by_name(["phone.json", "npu-small"])) == ["phone", "npu-small"]


def test_devices_when_two_have_one_name_then_are_refused(folder):
    Path("other.yaml").write_text(PROFILE.replace("mine", "phone"))
    for function in (by_name, own_names):
        with pytest.raises(KdnasError, match="two devices of one name"):
            function(["phone.json", "other.yaml"])


@pytest.mark.parametrize(
    "constraints",
    [{"latency_ms": 20}, {"latency_ms/phone": 20}, {"latency_ms": {"device": "phone.json", "max": 20}}],
)
def test_search_when_a_model_is_its_device_then_the_models_latency_is_bounded(folder, model, constraints):
    config = read({"space": "nasbench201", "devices": ["phone.json"], "constraints": constraints})
    assert config.devices == [str(folder / "phone.json")]
    assert read(config.resolved()) == config
    made = plan(config)
    for cell in distinct(SPACE, 20, 7):
        predicted = float(model.latencies_ms([cell])[0])
        assert made.costs(cell)["latency_ms/phone"] == pytest.approx(predicted)
        assert made.keeps(cell) == (predicted <= 20)


def test_constraint_when_its_device_is_a_file_alone_then_the_file_is_listed(folder):
    data = {"constraints": {"latency_ms": {"device": "mine.yaml", "max": 5}}}
    config = read({**data, "objectives": ["val_accuracy", "latency_ms/mine.yaml"]})
    assert config.devices == [str(folder / "mine.yaml")]
    assert list(config.constraints) == config.objectives[1:] == ["latency_ms/mine"]


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        (["constraints.memory_mb=3"], "memory_mb/phone", "has a profile"),
        (["objectives=[val_accuracy, memory_mb]"], "memory_mb/phone", "has a profile"),
        (["constraints.latency_ms.of_teacher=0.1"], "constraints.latency_ms/phone.of_teacher", "max"),
        (["constraints.latency_ms=20", "space.width=8"], "devices", "same space and options"),
        (["constraints.latency_ms=20", "space={name: resnet}"], "devices", "same space and options"),
        (["constraints.latency_ms=20", "task={name: digits}", "space.cells=2"], "devices", "same space"),
        (["constraints.latency_ms=0.1"], "constraints", "would do"),
    ],
)
def test_search_when_the_model_knows_nothing_of_it_then_says_what_would_work(folder, overrides, field, words):
    with pytest.raises(KdnasError) as caught:
        plan(read({}, [*BIG, *overrides]))
    assert caught.value.field == field
    assert words in caught.value.remedy


def test_model_when_inputs_are_of_another_shape_then_is_refused(model):
    with pytest.raises(KdnasError, match="inputs of 1x8x8, here they are 3x32x32") as caught:
        cost_function(SPACE, (3, 32, 32), 10, {"phone": model})
    assert "--input 3x32x32" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        {"slopes": ["fast"]},
        {"slopes": [1.0]},
        {"pull": None},
        {"intercept": "much"},
        {"intercept": float("nan")},
        {"measured": [[1.0]]},
        {"columns": [{"decision": "edge"}]},
        {"space": "nothing"},
        {"options": {"widht": 3}},
        {"options": 3},
        {"name": "../phone"},
        {"name": 3},
        {"shape": 3},
        {"shape": "1x8x8"},
        {"shape": [1, 8]},
        {"pull": [10**400]},
        {"more": 3},
    ],
)
def test_model_when_its_file_is_damaged_then_is_refused(folder, change):
    data = json.loads(Path("phone.json").read_text()) | change
    Path("phone.json").write_text(json.dumps(data))
    with pytest.raises(KdnasError) as caught:
        find("phone.json")
    assert caught.value.exit_code == 2
