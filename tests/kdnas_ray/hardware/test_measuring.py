"""Specification of `kdnas_ray.hardware.measuring`: real latencies, remembered, in a slot of their own."""

import re
import threading
import time

import pytest
import torch
from torch import nn

from kdnas_ray.hardware import measuring
from kdnas_ray.hardware.measuring import Latency, measure, processor, remembered
from kdnas_ray.runs import read_jsonl
from search_spaces import KdnasError

SHAPE = (3, 16, 16)


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.Flatten(), nn.ReLU()
    )


@pytest.mark.parametrize("runtime", ["onnx", "eager"])
def test_latency_when_the_network_does_a_hundred_times_the_work_then_is_longer(runtime):
    small, large = (measure(network(width), SHAPE, runtime=runtime) for width in (4, 128))
    assert 0 < small.low_ms <= small.median_ms <= small.high_ms
    assert large.median_ms > 2 * small.median_ms
    assert small.runs >= 20


def test_latency_when_measured_then_threads_and_random_numbers_stay_as_they_were():
    threads, model = torch.get_num_threads(), network(4)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    measure(model, SHAPE, runtime="eager", batch=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(1), expected)


def test_latency_when_known_then_is_not_measured_again_and_another_fact_is(tmp_path):
    calls: list[int] = []

    def count() -> Latency:
        calls.append(1)
        return Latency(float(len(calls)), 0.5, 2.0, 20)

    facts = {"architecture": "a", "shape": [3, 16, 16]}
    assert remembered(tmp_path, facts, count) == remembered(tmp_path, facts, count)
    assert remembered(tmp_path, {**facts, "architecture": "b"}, count).median_ms == 2.0
    assert len(calls) == 2


def test_latency_when_the_runtime_is_another_version_then_is_measured_again(tmp_path, monkeypatch):
    for number, version in enumerate(("1.22", "1.23", "1.23")):
        monkeypatch.setattr(measuring, "versions", lambda found=version: {"torch": "2", "onnxruntime": found})
        remembered(tmp_path, {"architecture": "a"}, lambda ms=float(number): Latency(ms, ms, ms, 20))
    assert len(read_jsonl(tmp_path / measuring.LATENCIES)) == 2


def test_slot_when_two_ask_for_the_same_then_the_second_waits_and_is_told_what_the_first_found(tmp_path):
    begun, threads, found = threading.Event(), [], []

    def ask(ms: float) -> None:
        def wait_for_it() -> Latency:
            begun.set()
            time.sleep(0.3)
            return Latency(ms, ms, ms, 20)

        found.append(remembered(tmp_path, {"architecture": "a"}, wait_for_it))

    for ms in (1.0, 2.0):
        threads.append(threading.Thread(target=ask, args=(ms,)))
        threads[-1].start()
        assert begun.wait(10)
    for thread in threads:
        thread.join(timeout=10)
    assert [latency.median_ms for latency in found] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name : Fast 9\n\nprocessor : 1\nmodel name : Slow 1\n", "Fast 9"),
        ("processor : 0\nCPU implementer : 0x41\nCPU part : 0xd08\n\nModel : Board 4\n", "Board 4.* 0x41.* 0xd08"),
        ("processor : 0\n", ""),
    ],
)
def test_processor_when_the_machine_does_not_name_it_then_is_told_apart_by_its_part(tmp_path, monkeypatch, text, name):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(measuring, "CPU_INFO", tmp_path / "cpuinfo")
    assert re.search(name, processor())
    assert processor()


@pytest.mark.parametrize(("options", "field"), [({"runtime": "tflite"}, "--runtime"), ({"device": "cuda"}, "--on")])
def test_latency_when_it_cannot_be_measured_then_says_why(options, field):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(KdnasError) as caught:
        measure(network(4), SHAPE, **{"runtime": "eager", **options})
    assert caught.value.field == field
