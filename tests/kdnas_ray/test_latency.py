"""Specification of `kdnas_ray.latency`: a space's architecture or a run's best student, measured and modelled."""

import json

import numpy as np
import pytest
import yaml

from kdnas_ray import latency as module
from kdnas_ray.hardware.few_shot import fit, known_devices, save
from kdnas_ray.hardware.measurements import distinct
from kdnas_ray.hardware.measuring import Latency
from kdnas_ray.hardware.operators import operators
from kdnas_ray.latency import candidate_of, latency, means_run, read_shape
from kdnas_ray.runs import append_jsonl
from search_spaces import Architecture, KdnasError, NASBench201Space

CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"


def test_latency_when_of_an_architecture_then_is_modelled_for_each_device():
    found = latency(
        "nasbench201", [CELL, "space.width=8"], shape="3x16x16", devices=["npu-small", "cortex-m7"], runtime="none"
    )
    space = NASBench201Space(width=8)
    network = operators(lambda: space.build(space.parse(CELL), (3, 16, 16), 10), (3, 16, 16))
    assert (found["architecture"], found["params"], found["macs"]) == (CELL, network.params, network.macs)
    assert set(found["devices"]) == {"npu-small", "cortex-m7"}
    assert found["devices"]["cortex-m7"]["latency_ms"] > found["devices"]["npu-small"]["latency_ms"] > 0
    assert found["measured"] is None


def test_latency_when_measured_then_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path))
    settings = {"shape": "1x8x8", "runtime": "eager"}
    first = latency("nasbench201", [CELL], **settings)
    assert first["measured"]["median_ms"] > 0
    assert latency("nasbench201", [CELL], **settings) == first


def test_latency_when_it_differs_in_classes_only_then_is_measured_anew(tmp_path, monkeypatch):
    asked = []

    def remembered(folder, facts, measuring, waiting):
        asked.append(facts)
        return Latency(1.0, 1.0, 1.0, 20)

    monkeypatch.setattr(module, "remembered", remembered)
    space, _ = module.chosen_architecture("nasbench201", [CELL], 0)
    for classes in (10, 100):
        monkeypatch.setattr(module, "_space", lambda *words, n=classes: (space, space.parse(CELL), (1, 8, 8), n))
        latency("nasbench201", [CELL], runtime="eager")
    assert asked[0] != asked[1]


def test_latency_when_of_several_inputs_then_is_modelled_for_as_many():
    one, many = (
        latency("nasbench201", [CELL], devices=["npu-small"], runtime="none", batch=batch) for batch in (1, 16)
    )
    assert one["macs"] == many["macs"]  # of one input
    assert one["devices"]["npu-small"]["latency_ms"] < many["devices"]["npu-small"]["latency_ms"]


def test_latency_when_of_several_inputs_then_a_model_of_measurements_refuses(tmp_path):
    space = NASBench201Space()
    drawn = distinct(space, 60, 0)
    known = known_devices(drawn, np.log([[1.0 + space.notation(cell).count("3x3") for cell in drawn]]))
    save(fit(known, drawn[:9], range(1, 10), space="nasbench201", name="phone"), tmp_path / "phone.json")
    settings = {"devices": [str(tmp_path / "phone.json")], "runtime": "none"}
    assert latency("nasbench201", [CELL], **settings)["devices"]["phone"]["latency_ms"] > 0
    with pytest.raises(KdnasError) as caught:
        latency("nasbench201", [CELL], batch=2, **settings)
    assert caught.value.field == "--batch"


@pytest.mark.parametrize(
    ("what", "words", "options", "field"),
    [
        ("resnets", [], {}, "space"),
        ("runs/resnet", [], {}, "RUN|SPACE"),
        ("resnet", [], {"shape": "32x32"}, "--shape"),
        ("resnet", [], {"shape": "3x0x32"}, "--shape"),
        ("resnet", [], {"shape": "3x9999x32"}, "--shape"),
        ("resnet", [], {"devices": ["tpu"]}, "devices"),
        ("nasbench201", [CELL, CELL], {}, "ARCHITECTURE"),
        ("nasbench201", ["|none~0|"], {}, "architecture"),
        ("resnet", ["space.widths=[0]"], {}, "space.widths"),
        ("resnet", [], {"runtime": "tflite"}, "--runtime"),
        (".", [], {}, "RUN"),
        (".", ["c0001"], {}, "ARCHITECTURE"),
    ],
)
def test_latency_when_something_is_wrong_then_names_it(what, words, options, field):
    with pytest.raises(KdnasError) as caught:
        latency(what, words, **{"runtime": "none", **options})
    assert (caught.value.field, caught.value.exit_code) == (field, 2)


def test_candidate_when_of_a_run_then_is_the_one_named_or_the_best(run, row):
    (run / "config.yaml").write_text(yaml.safe_dump({"space": {"name": "resnet", "stages": 1}}))
    for number in (0, 1):
        append_jsonl(run / "candidates.jsonl", row(number, "complete", [0.5]) | {"architecture": {"width": number}})
    (run / "summary.json").write_text(json.dumps({"best": {"id": "c0001"}}))
    assert candidate_of(run, ["c0000"])[1] == Architecture.of({"width": 0})
    space, architecture = candidate_of(run, [])
    assert (space.stages, architecture) == (1, Architecture.of({"width": 1}))


@pytest.mark.parametrize("words", [[], ["c0009"], ["c0000", "c0000"]])
def test_candidate_when_the_run_has_no_such_then_is_refused(run, row, words):
    (run / "config.yaml").write_text(yaml.safe_dump({"space": {"name": "resnet"}}))
    append_jsonl(run / "candidates.jsonl", row(0, "complete", [0.5]))
    with pytest.raises(KdnasError) as caught:
        candidate_of(run, words)
    assert caught.value.field == "CANDIDATE"


def test_space_when_a_folder_has_its_name_then_is_still_the_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nasbench201").mkdir()
    assert not means_run("nasbench201")
    assert latency("nasbench201", [CELL], runtime="none")["architecture"] == CELL
    (tmp_path / "nasbench201" / "config.yaml").write_text("space: resnet")
    assert means_run("nasbench201")


def test_latency_when_the_cache_cannot_be_written_then_says_so_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(module, "operators", None)
    with pytest.raises(KdnasError) as caught:
        latency("nasbench201", [CELL], runtime="eager")
    assert (caught.value.field, caught.value.exit_code) == ("KDNAS_CACHE", 2)


def test_shape_when_written_with_crosses_then_is_read():
    assert read_shape("3x224x160") == (3, 224, 160)
