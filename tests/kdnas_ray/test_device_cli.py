"""Specification of what is typed about devices: printed lines, and one clear message with exit code 2 for bad input.

`kdnas device propose` and `fit` with their CSV files: `hardware/test_measurements.py`.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdnas_ray import cli
from kdnas_ray.hardware import calibrating, measurements
from kdnas_ray.hardware.devices import DeviceProfile, device, shipped
from kdnas_ray.hardware.measuring import Latency

PROFILE = "name: mine\nflops_per_s: 1e9\nbytes_per_s: 1e9\n"
WITHIN = "constraints={latency_ms: {device: DEVICE, max: MOST}}"
ONE_STAGE = ["space.stages=1", "recipes.hints=false"]
LEAST = ["--networks", "20", "--unseen", "10"]


@pytest.fixture
def kdnas(monkeypatch, capsys, tmp_path):
    """Runs `kdnas` with these words in a folder that holds mine.yaml; gives exit code, output and error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    Path("mine.yaml").write_text(PROFILE)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kdnas", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return call


def assert_refused(answer: tuple[int, str, str], *parts: str) -> None:
    code, out, err = answer
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def within(name: str, most: object) -> str:
    return WITHIN.replace("DEVICE", name).replace("MOST", str(most))


def test_list_when_asked_then_has_a_line_for_each_profile(kdnas):
    code, out, _ = kdnas("device", "list")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [[name, p.dtype] for name, p in shipped().items()]
    code, out, _ = kdnas("device", "list", "--json")
    assert {row["name"]: row["summary"] for row in json.loads(out)} == {n: p.summary for n, p in shipped().items()}


def test_show_when_given_a_name_or_a_file_then_prints_what_can_be_read_again(kdnas):
    for name in ("npu-small", "mine.yaml"):
        code, out, err = kdnas("device", "show", name)
        assert (code, err) == (0, "")
        Path("again.yaml").write_text(out)
        assert device("again.yaml") == device(name)
        above = dict(zip(out.splitlines()[1:], out.splitlines(), strict=False))
        keys = [line for line in above if re.match(r"\w+:", line)]
        assert [line.partition(":")[0] for line in keys] == [field.name for field in dataclasses.fields(DeviceProfile)]
        assert all(above[line].startswith("# ") for line in keys)


def test_show_when_a_summary_has_several_lines_then_can_be_read_again(kdnas):
    Path("odd.yaml").write_text(PROFILE + "summary: \"fast: # yes\\n  name: no\\n# 'quoted'\"\n")
    Path("again.yaml").write_text(kdnas("device", "show", "odd.yaml")[1])
    assert device("again.yaml") == device("odd.yaml")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["none.yaml", "cannot be read", "npu-small"]),
        (b"\xff\xfe\x00", ["cannot be read"]),
        (b"\x00", ["not valid YAML"]),
        (b"", ["holds no keys", "flops_per_s"]),
        (PROFILE + "speed: 3\n", ["speed", "something unknown", "keys of: name"]),
        (PROFILE + "5: 3\n", ["= 5", "something unknown"]),
        (PROFILE + "name: twice\n", ["comes twice"]),
        (PROFILE + "channels: .nan\n", ["devices.channels = nan", "whole number"]),
        (PROFILE + "runtime: tflite\n", ["devices.runtime = 'tflite'", "known: onnx"]),
        (PROFILE + "channels: 2.5\n", ["devices.channels = 2.5", "whole number"]),
        (PROFILE + "overhead_us: {conv: .nan}\n", ["devices.overhead_us.conv = nan", "0 or more"]),
        (PROFILE + "fixed_us: -3\n", ["devices.fixed_us = -3", "0 or more"]),
        (PROFILE + "fixed_us: 3 us\n", ["devices.fixed_us = '3 us'", "its unit is part of the key's name"]),
        (PROFILE.replace("bytes_per_s: 1e9", "bytes_per_s: 0"), ["devices.bytes_per_s = 0", "above 0"]),
        (PROFILE.replace("bytes_per_s: 1e9", "bytes_per_s: .inf"), ["devices.bytes_per_s = inf", "above 0"]),
        (PROFILE.replace("mine", "mine.yaml"), ["devices.name = 'mine.yaml'", "letters"]),
    ],
)
def test_show_when_the_file_is_no_profile_then_names_the_key_and_what_to_do(kdnas, content, parts):
    if content is not None:
        Path("none.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(kdnas("device", "show", "none.yaml"), *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["show", "npu-smal"], ["'npu-smal'", "did you mean 'npu-small'"]),
        (["show", "."], ["'.'", "unknown device"]),
        (["show", "mine"], ["'mine'", "unknown device", "did you mean 'mine.yaml'?", "kdnas device fit"]),
        (["show", "done.csv"], ["'done.csv'", "no profile", "kdnas device fit"]),
        (["propose", "resnet", "--out", "done.csv"], ["--out = 'done.csv'", "exists already"]),
        (["propose", "resnet", "--onnx", "full"], ["--onnx = 'full'", "exists already", "another folder"]),
        (["calibrate", "--out", "mine.yaml"], ["--out = 'mine.yaml'", "exists already", "another file"]),
        (["calibrate", "--out", "here.txt"], ["--out = 'here.txt'", "ends in .yaml"]),
        (["calibrate", "--out", "a b.yaml"], ["--out = 'a b'", "letters"]),
        (["calibrate", "--out", "mine.yaml/here.yaml"], ["--out", "is a file", "another folder"]),
        (["calibrate", "--runtime", "tflite"], ["--runtime = 'tflite'", "known: onnx"]),
        (["calibrate", "--spaces", "resnet,nothing"], ["--spaces = 'nothing'", "known: resnet"]),
        (["fit", "m.csv", "--space", "resnet", "--name", "../phone"], ["--name = '../phone'", "letters"]),
        (["fit", "m.csv", "--space", "resnet", "--name", "phone.json"], ["--name", "ending of a file"]),
        (["fit", "m.csv", "--space", "resnet", "--out", "mine.yaml"], ["--out = 'mine.yaml'", "exists already"]),
        (["fit", "m.csv", "--space", "resnet", "--out", "phone.csv"], ["--out = 'phone.csv'", "phone.json"]),
        (["propose", "resnet", "--input", "3x32x²"], ["--input = '3x32x²'", "3x32x32"]),
        (["propose", "resnet", "--input", "3x32x9999"], ["--input", "between 1 and 1024"]),
    ],
)
def test_device_when_an_argument_is_wrong_then_names_it_and_what_to_do(kdnas, monkeypatch, words, parts):
    Path("done.csv").write_text("architecture,latency_ms\n")
    Path("full").mkdir()
    Path("full/mine").touch()
    monkeypatch.setattr(measurements, "modelled_table", None)  # refused before any work
    assert_refused(kdnas("device", *words), *parts)
    assert Path("mine.yaml").read_text() == PROFILE


@pytest.mark.parametrize("words", [["--networks", "19"], ["--unseen", "3"], ["--threads", "0"], ["--networks", "many"]])
def test_calibrate_when_a_number_is_too_small_then_exits_with_2(kdnas, words):
    assert kdnas("device", "calibrate", *words)[0] == 2


def test_calibrate_when_networks_are_measured_then_writes_a_profile_and_says_how_good_it_is(kdnas, monkeypatch):
    def timer(model: Any, *_: Any, **settings: Any) -> Callable[[], Latency]:
        assert settings == {"runtime": "eager", "threads": 2}
        took = 0.05 + 1e-5 * sum(parameter.numel() for parameter in model.parameters())
        return lambda: Latency(took, took, took, 20)

    monkeypatch.setattr(calibrating, "timer", timer)
    words = ["--runtime", "eager", "--threads", "2", "--spaces", "resnet, nasbench201", *LEAST]
    code, out, _ = kdnas("device", "calibrate", *words, "--out", "new/here.yaml")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["all", "resnet", "nasbench201", "new/here.yaml"]
    assert device("new/here.yaml").name == "here"
    code, out, _ = kdnas("device", "calibrate", *words, "--out", "there.yaml", "--json")
    assert json.loads(out)["unseen"][0]["networks"] == 10


def test_calibrate_when_a_space_has_one_network_then_it_has_no_rank_correlation(kdnas, monkeypatch):
    def timer(model: Any, *_: Any, **settings: Any) -> Callable[[], Latency]:
        took = 0.05 + 1e-5 * sum(parameter.numel() for parameter in model.parameters())
        return lambda: Latency(took, took, took, 20)

    one = [{"space": "resnet", "networks": 1, "spearman": None, "median_error": 0.25}]
    monkeypatch.setattr(calibrating, "timer", timer)
    monkeypatch.setattr(calibrating, "report", lambda profile, unseen: one)
    words = ["device", "calibrate", "--runtime", "eager", "--spaces", "nasbench201", *LEAST]
    _, out, _ = kdnas(*words, "--out", "a.yaml")
    assert out.splitlines()[0] == "resnet          1 networks not seen: Spearman –, median error 25.0%"
    _, out, _ = kdnas(*words, "--out", "b.yaml", "--json")
    assert json.loads(out)["unseen"] == one


@pytest.mark.slow
def test_calibrate_when_this_machine_is_measured_then_its_profile_tells_fast_from_slow(kdnas):
    code, out, _ = kdnas("device", "calibrate", "--runtime", "eager", *LEAST, "--json")
    assert code == 0
    assert json.loads(out)["unseen"][0]["spearman"] > 0.5
    code, out, _ = kdnas("latency", "resnet", "--runtime", "none", "--device", "this-machine.yaml")
    assert "this-machine, modelled: " in out


def test_latency_when_devices_are_named_then_has_a_line_for_each(kdnas):
    words = ["latency", "vit_tiny", "--runtime", "none", "--device", "npu-small", "--device", "mine.yaml"]
    code, out, _ = kdnas(*words)
    assert code == 0
    assert [line.partition(",")[0] for line in out.splitlines()[1:]] == ["npu-small", "mine"]
    assert "it lacks matmul" in out.splitlines()[1]
    assert set(json.loads(kdnas(*words, "--json")[1])["devices"]) == {"npu-small", "mine"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["latency", "resnets"], ["space = 'resnets'", "known: resnet"]),
        (["latency", "."], ["RUN = '.'", "no best student"]),
        (["latency", "resnet", "--device", "tpu"], ["'tpu'", "known: cortex-m7"]),
        (["latency", "resnet", "--device", "mine.yaml", "--device", "too.yaml"], ["'mine'", "two devices of one name"]),
        (["latency", "resnet", "--shape", "3x32"], ["--shape = '3x32'", "3x32x32"]),
        (["latency", "resnet", "--runtime", "tflite"], ["--runtime = 'tflite'", "known: onnx", "none"]),
        (["latency", ".", "--shape", "3x8x8"], ["--shape = '3x8x8'", "leave it out"]),
        (["latency", "resnet", "{}"], ["architecture", "missing"]),
        (["compress", "--teacher", "resnet18"], ["--target-params", "how small?"]),
        (["compress", "--teacher", "vgg", "--target-params", "1M"], ["--teacher = 'vgg'", "resnet152"]),
        (["compress", "--teacher", "resnet18", "--target-params", "1 MB"], ["'1 MB'", "11M"]),
        (["compress", "--teacher", "resnet18", "--latency-ms", "5"], ["--device", "kdnas device list"]),
        (["compress", "--teacher", "resnet18", "--latency-ms", "5", "--device", "tpu"], ["'tpu'", "known: "]),
        (["compress", "--teacher", "resnet18", "--latency-ms", "0", "--device", "mine.yaml"], ["more than 0"]),
        (
            ["compress", "--teacher", "resnet10", "--latency-ms", "3ms", "--device", "mine.yaml"],
            ["--latency-ms = '3ms'", "milliseconds", "--latency-ms 3"],
        ),
        (
            ["compress", "--teacher", "resnet10", "--width", "4", "--target-params", "10"],
            ["--target-params = 10", "--target-params 1", "would do"],
        ),
        (["config", "constraints.latency_ms=5ms", "devices=[mine.yaml]"], ["= '5ms'", "give a number"]),
        (["config", "constraints.latency_ms=5"], ["constraints.latency_ms = 5", "on which device?"]),
        (["config", "constraints.latency_ms=-5", "devices=[mine.yaml]"], ["= -5", "more than 0"]),
        (["config", "constraints.latency_ms=.inf", "devices=[mine.yaml]"], ["= inf", "finite number"]),
        (["config", "devices=[5]"], ["devices.0 = 5", "give a text"]),
        (["config", "devices=[mine.yaml, too.yaml]"], ["'mine'", "two devices of one name", "`name`"]),
        (
            ["search", *ONE_STAGE, within("npu-small", 1e-4)],
            ["the closest: latency_ms/npu-small", "would do"],
        ),
        (
            ["search", *ONE_STAGE, within("lacking.yaml", 5)],
            ["devices = 'lacking'", "lacking cannot run linear", "another device"],
        ),
        (
            ["search", *ONE_STAGE, within("full.yaml", 5)],
            ["devices = 'full'", "full has not enough memory", "smaller choices"],
        ),
    ],
)
def test_bound_or_device_when_wrong_then_is_refused_before_any_work(kdnas, words, parts):
    Path("too.yaml").write_text(PROFILE.replace("bytes_per_s: 1e9", "bytes_per_s: 2e9"))
    Path("lacking.yaml").write_text(PROFILE.replace("mine", "lacking") + "lacks: [linear]\n")
    Path("full.yaml").write_text(PROFILE.replace("mine", "full") + "memory_bytes: 9\n")
    assert_refused(kdnas(*words), *parts)
