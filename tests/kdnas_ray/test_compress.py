"""Specification of `kdnas_ray.compress`: a teacher of the family, students of its kind, a bound."""

import dataclasses
import random

import pytest

from kdnas_ray.compress import amount, compression
from kdnas_ray.hardware.counting import count
from search_spaces import KdnasError, ResNetSpace, sample
from search_spaces.resnet import build_resnet, resnet_point
from trainables.model_files import save_student
from trainables.teachers import TrainedTeacher, network


def test_compression_when_a_network_of_the_family_then_the_teacher_is_it_and_students_surround_resnet18():
    config = compression("resnet152", "digits", width=8, params="100k")
    (teacher,) = config.teachers
    assert isinstance(teacher, TrainedTeacher)
    known = count(lambda: build_resnet(resnet_point("resnet152", 8), (1, 8, 8), 10), (1, 8, 8))
    assert count(lambda: network(teacher, (1, 8, 8), 10), (1, 8, 8)) == known
    assert {name: bound.max for name, bound in config.constraints.items()} == {"params": 100_000}
    point = resnet_point("resnet18", 8)
    assert point["stem.width"] in config.space.stem_widths
    assert all(point[f"stage{stage}.width"] in config.space.widths for stage in range(1, 5))
    assert point["stage1.depth"] in config.space.depths


def test_compression_when_a_latency_is_given_then_is_bounded_on_the_device():
    config = compression("resnet10", "digits", width=4, latency_ms=5, device="cortex-m7", overrides=("seed=3",))
    assert config.devices == ["cortex-m7"]
    assert config.constraints["latency_ms/cortex-m7"].max == 5
    assert config.constraints["params"].of_teacher == 1
    assert config.seed == 3


@pytest.mark.parametrize(("widths", "taps"), [((4, 4, 4, 4), 3), ((4, 4), 1), ((4,), 0)])
def test_compression_when_a_folders_teacher_has_fewer_stages_then_hints_are_at_those_it_has(tmp_path, widths, taps):
    space = ResNetSpace(stages=len(widths), stem_widths=(4,), widths=(4,), depths=(1,), kernels=(3,), blocks=("basic",))
    architecture = sample(space, random.Random(0))
    meta = {
        "space": {"name": "resnet", **dataclasses.asdict(space)},
        "architecture": architecture.to_json(),
        "shape": [1, 8, 8],
        "classes": [str(digit) for digit in range(10)],
    }
    save_student(tmp_path, space.build(architecture, (1, 8, 8), 10), meta)
    config = compression(str(tmp_path), "digits", params="1M")
    wanted = ("stage2", "stage3", "stage4")[:taps]
    assert config.recipes.taps[:taps] == wanted
    assert bool(taps) == (True in config.recipes.hints)


@pytest.mark.parametrize(
    ("text", "value"), [("11M", 11e6), ("250k", 250e3), (" 1.5m ", 1.5e6), ("11_000_000", 11e6), ("7", 7), ("2G", 2e9)]
)
def test_amount_when_written_short_then_is_understood(text, value):
    assert amount(text, "--target-params") == value


@pytest.mark.parametrize("text", ["", "M", "11 MB", "-3", "0", "1e6x", "nan"])
def test_amount_when_it_means_no_number_then_is_refused(text):
    with pytest.raises(KdnasError) as caught:
        amount(text, "--target-params")
    assert (caught.value.field, caught.value.exit_code) == ("--target-params", 2)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"teacher": "resnet18"}, "--target-params"),
        ({"teacher": "resnet20", "params": "1M"}, "--teacher"),
        ({"teacher": "resnet18", "latency_ms": 5}, "--device"),
        ({"teacher": ".", "params": "1M"}, "--teacher"),
        ({"teacher": "resnet18", "params": "1M", "width": 0}, "width"),
        ({"teacher": "resnet18", "params": "1M", "overrides": ("budget.trials=0",)}, "budget.trials"),
    ],
)
def test_compression_when_something_is_wrong_then_names_the_option(arguments, field):
    with pytest.raises(KdnasError) as caught:
        compression(arguments.pop("teacher"), "digits", **arguments)
    assert caught.value.field == field
