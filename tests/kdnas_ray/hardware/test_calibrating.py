"""Specification of `kdnas_ray.hardware.calibrating` and `block_table`: a machine that is known is found again."""

import random
from dataclasses import replace

import pytest
import torch

from kdnas_ray.hardware.block_table import BlockTable
from kdnas_ray.hardware.calibrating import (
    SHAPE,
    USUAL,
    Measured,
    agreement,
    compare,
    draw_networks,
    fit_profile,
    measure_networks,
    report,
)
from kdnas_ray.hardware.devices import DeviceProfile, parse, write
from kdnas_ray.hardware.measuring import Latency
from kdnas_ray.hardware.microbenchmarks import input_shape, operator_ms
from kdnas_ray.hardware.operators import Operator, operators
from kdnas_ray.hardware.roofline import latency_ms, seconds, started
from search_spaces import KdnasError

MACHINE = DeviceProfile(
    "machine",
    flops_per_s=50e9,
    bytes_per_s=20e9,
    overhead_us={"default": 3.0, "conv": 5.0},
    efficiency={"default": 1.0, "conv": 0.5, "depthwise_conv": 0.1},
    channels=8,
    fixed_us=10.0,
    overlaps=False,
)


def networks(count: int, seed: int, noise: float = 0.0) -> list[Measured]:
    """Networks with the latencies that the machine would have."""
    rng, found = random.Random(seed), []
    for name, space, architecture in draw_networks(USUAL, count, seed):
        network = operators(lambda s=space, a=architecture: s.build(a, SHAPE, 10), SHAPE)
        true = latency_ms(network, MACHINE) * rng.gauss(1, noise)
        found.append(Measured(name, network, Latency(true, true, true, 20)))
    return found


def test_profile_when_fitted_to_a_known_machine_then_predicts_networks_it_has_not_seen():
    profile = fit_profile(networks(60, 0, noise=0.02), "here", "onnx")
    rows = report(profile, networks(30, 1))
    assert [row["space"] for row in rows] == ["all", *USUAL]
    assert rows[0]["networks"] == 30
    assert rows[0]["spearman"] > 0.99
    assert rows[0]["median_error"] < 0.03
    assert profile.channels == 8
    assert parse(write(profile), "profile") == profile


def test_profile_when_networks_are_few_then_is_refused():
    with pytest.raises(KdnasError, match="too few networks"):
        fit_profile(networks(19, 0), "here", "onnx")


def test_table_when_operators_are_known_then_sums_them_and_learns_what_a_call_takes():
    def alone(operator):
        return 1e3 * sum(seconds(operator, MACHINE)) / 2  # half of what it takes within a network

    table = BlockTable(MACHINE, alone)
    table.fit(networks(12, 0))
    unseen = networks(9, 1)
    assert table.weights == pytest.approx([2, 2, 0, 0.01], abs=1e-6)
    assert compare([table.latency_ms(found.network) for found in unseen], unseen).median_error < 1e-6


def test_agreement_when_every_latency_is_doubled_then_ranks_agree_and_errors_are_one_half():
    measured = networks(9, 0)
    slow = [replace(m, latency=replace(m.latency, median_ms=2 * m.latency.median_ms)) for m in measured]
    found = agreement(MACHINE, slow)
    assert (found.spearman, found.median_error) == (pytest.approx(1), pytest.approx(0.5))


def test_agreement_when_of_one_network_then_ranks_correlate_with_nothing():
    rows = report(MACHINE, networks(1, 0))
    assert [row["spearman"] for row in rows] == [None, None]
    assert rows[0]["median_error"] == pytest.approx(0)


def test_profile_when_a_kind_was_in_no_network_then_it_costs_what_is_usual():
    profile = fit_profile(networks(30, 0), "here", "onnx")
    assert "attention" not in profile.overhead_us
    overhead, own = seconds(Operator("attention", macs=10**6, params=0, reads=10**4, writes=10**4), profile)
    taken = [us for us in profile.overhead_us.values() if us > 0]
    assert min(taken) <= 1e6 * overhead <= max(taken)
    assert own > 0
    assert 0 < profile.efficiency["default"] <= 1
    assert 0 < profile.streaming["default"] <= 1


def test_operators_when_not_square_then_are_measured_with_both_sides():
    (tall,) = operators(lambda: torch.nn.Conv2d(2, 4, (3, 1), (2, 1), (1, 0)), (2, 8, 6)).each
    assert input_shape(tall) == (2, 8, 6)
    assert operator_ms(tall, runtime="eager") >= 0


def test_networks_when_measured_here_then_have_operators_and_a_latency():
    (found,) = measure_networks(draw_networks(["nasbench201"], 1, 0), runtime="eager", threads=1, say=print)
    assert found.latency.median_ms > 0
    assert found.network.macs > 0


def test_operators_when_measured_alone_then_every_kind_of_our_convolutional_spaces_can_be():
    kinds = {}
    for name, space, architecture in draw_networks(USUAL, 12, 0):
        network = operators(lambda s=space, a=architecture: s.build(a, SHAPE, 10), SHAPE)
        kinds |= {operator.kind: (name, operator) for operator in started(network.each, MACHINE)}
    for _, operator in kinds.values():
        assert input_shape(operator) is not None, operator
    assert operator_ms(kinds["conv"][1], runtime="eager") > 0


def test_spaces_when_unknown_then_are_refused():
    with pytest.raises(KdnasError, match="unknown space"):
        draw_networks(["resnet", "resnets"], 3, 0)
