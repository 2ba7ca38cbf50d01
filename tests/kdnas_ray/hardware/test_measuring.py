"""Specification of `kdnas_ray.hardware.measuring`: real latencies, remembered, in a slot of their own."""

import pytest
import torch
from torch import nn

from kdnas_ray.hardware.measuring import Latency, measure, remembered
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

    def measuring() -> Latency:
        calls.append(1)
        return Latency(float(len(calls)), 0.5, 2.0, 20)

    facts = {"architecture": "a", "shape": [3, 16, 16]}
    assert remembered(tmp_path, facts, measuring) == remembered(tmp_path, facts, measuring)
    assert remembered(tmp_path, {**facts, "architecture": "b"}, measuring).median_ms == 2.0
    assert len(calls) == 2


@pytest.mark.parametrize(("options", "field"), [({"runtime": "tflite"}, "--runtime"), ({"device": "cuda"}, "--on")])
def test_latency_when_it_cannot_be_measured_then_says_why(options, field):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(KdnasError) as caught:
        measure(network(4), SHAPE, **{"runtime": "eager", **options})
    assert caught.value.field == field
