"""Specification of `kdnas_ray.hardware.roofline`: times by hand, and what a device lacks."""

from dataclasses import replace

import pytest

from kdnas_ray.hardware.devices import DeviceProfile, shipped
from kdnas_ray.hardware.operators import Operator, Operators
from kdnas_ray.hardware.roofline import bottleneck, latency_ms, memory_bytes, padded_macs, unsupported

CONV = Operator("conv", macs=1_000_000, params=2_000, reads=3_000, writes=5_000, shape=(10, 20, 3, 1, 1, 16))
RELU = Operator("relu", macs=0, params=0, reads=5_000, writes=5_000)
LINEAR = Operator("linear", macs=5_000, params=5_500, reads=100, writes=50, shape=(1, 100, 50))
NETWORK = Operators((CONV, RELU, LINEAR), params=7_500, peak=8_000)
DEVICE = DeviceProfile("d", flops_per_s=1e9, bytes_per_s=1e8, overhead_us={"default": 10.0})


def test_latency_when_reckoned_by_hand_then_agrees():
    conv = max(2e6 / 1e9, 4 * 10_000 / 1e8)  # computing
    linear = max(1e4 / 1e9, 4 * 5_650 / 1e8)  # moving
    assert latency_ms(NETWORK, DEVICE) == pytest.approx(1e3 * (conv + linear + 2 * 10e-6))
    alone = replace(DEVICE, fused=False)
    assert latency_ms(NETWORK, alone) == pytest.approx(latency_ms(NETWORK, DEVICE) + 1e3 * (4e-4 + 10e-6))


@pytest.mark.parametrize(
    ("change", "milliseconds"),
    [
        ({"fixed_us": 500.0}, +0.5),
        ({"efficiency": {"conv": 0.5}}, +2.0),
        ({"overhead_us": {"default": 10.0, "conv": 60.0}}, +0.05),
        ({"cache_bytes": 30_000, "cache_bytes_per_s": 1e9}, -0.9 * 0.226),  # the linear layer fits, the convolution not
        ({"channels": 16}, 2.0 * (1.6 * 1.6 - 1)),  # 10 and 20 channels become 16 and 32
    ],
)
def test_latency_when_one_number_changes_then_changes_by_what_it_means(change, milliseconds):
    assert latency_ms(NETWORK, replace(DEVICE, **change)) == pytest.approx(latency_ms(NETWORK, DEVICE) + milliseconds)


def test_padding_when_channels_are_whole_multiples_then_adds_nothing():
    assert padded_macs(replace(CONV, shape=(16, 32, 3, 1, 1, 16)), replace(DEVICE, channels=16)) == CONV.macs
    assert padded_macs(RELU, replace(DEVICE, channels=16)) == 0


@pytest.mark.parametrize(
    ("change", "what"),
    [({}, "compute"), ({"flops_per_s": 1e12}, "memory"), ({"overhead_us": {"default": 5_000.0}}, "overhead")],
)
def test_bottleneck_when_one_thing_is_slow_then_is_it(change, what):
    assert bottleneck(NETWORK, replace(DEVICE, **change)) == what


def test_memory_when_the_type_is_smaller_then_is_less_and_too_much_is_unsupported():
    assert memory_bytes(NETWORK, DEVICE) == 4 * 15_500
    small = replace(DEVICE, dtype="int8", memory_bytes=15_500.0, lacks=("gelu", "linear"))
    assert memory_bytes(NETWORK, small) == 15_500
    assert unsupported(NETWORK, small) == ("linear",)
    assert unsupported(NETWORK, replace(small, memory_bytes=15_499.0)) == ("linear", "memory")


@pytest.mark.parametrize("profile", shipped().values(), ids=lambda profile: profile.name)
def test_latency_when_the_network_is_larger_then_is_longer_on_every_device(profile):
    twice = Operators(tuple(replace(o, macs=2 * o.macs, reads=2 * o.reads) for o in NETWORK.each), 7_500, 8_000)
    assert 0 < latency_ms(NETWORK, profile) <= latency_ms(twice, profile)
