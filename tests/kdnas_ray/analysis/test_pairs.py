"""Specification of `kdnas_ray.analysis.pairs`."""

import pytest

from kdnas_ray.analysis.effects import clear
from kdnas_ray.analysis.pairs import by_architecture, capacity_gap, gains, term_pairs


def candidate(number, architecture, losses, *accuracies, state="complete", params=1000):
    return {
        "id": f"c{number:04d}",
        "architecture": architecture,
        "recipe": {"terms": [{"loss": loss} for loss in losses]},
        "state": state,
        "curve": [{"val_accuracy": value} for value in accuracies],
        "params": params,
        "flops": 10 * params,
    }


def trained(number, seed, with_kd, accuracy):
    return {"id": f"c{number:04d}", "seed": seed, "with_kd": with_kd, "val_accuracy": accuracy}


def identity(row):
    return str(row["architecture"])


def test_term_pairs_take_the_mean_of_each_side_of_each_architecture():
    rows = [
        candidate(0, {"width": 4}, ["kd", "hint"], 0.5, 0.9),
        candidate(1, {"width": 4}, ["kd"], 0.4, 0.1, state="pruned"),
        candidate(2, {"width": 4}, ["kd"], 0.2),
        candidate(3, {"width": 8}, ["kd", "hint"], 0.7),
        candidate(4, {"width": 8}, ["kd"], 0.6),
        candidate(5, {"width": 16}, ["kd"], 0.1),  # never tried with a hint
        candidate(6, {"width": 8}, ["kd", "hint"], state="failed"),
    ]
    (found,) = term_pairs(rows, 1, identity)
    assert found["term"] == "hint"
    assert found["effect"]["n"] == 2
    assert found["effect"]["value"] == pytest.approx(((0.5 - 0.3) + (0.7 - 0.6)) / 2)


def test_term_pairs_when_every_architecture_was_tried_one_way_then_none():
    rows = [candidate(0, {"width": 4}, ["kd"], 0.5), candidate(1, {"width": 8}, ["kd", "hint"], 0.5)]
    assert term_pairs(rows, 1, identity) == []


def test_gains_compare_seed_by_seed_on_validation():
    rows = [
        candidate(0, {"width": 4, "block": "basic", "skip": True}, ["kd"], 0.5),
        candidate(1, {"width": 8}, ["kd"], 1),
    ]
    lines = [
        trained(0, 1, True, 0.9), trained(0, 1, False, 0.8), trained(0, 2, True, 0.7), trained(0, 2, False, 0.7),
        trained(1, 1, True, 0.9),
    ]  # fmt: skip
    (found,) = gains(lines, rows, identity)
    assert found["gain"]["value"] == pytest.approx(0.05)
    assert found["gain"]["n"] == 2
    assert found["without"] == pytest.approx(0.75)
    assert found["traits"] == {"params": 1000, "flops": 10000, "width": 4}


def test_capacity_gap_when_small_networks_gain_most_then_parameters_say_so():
    rows = [
        candidate(number, {"width": number // 2 * 2, "depth": number % 2}, ["kd"], 0.5, params=100 + number)
        for number in range(12)
    ]
    lines = []
    for number in range(12):
        for seed in (1, 2):
            lines += [trained(number, seed, True, 0.9 - 0.01 * number), trained(number, seed, False, 0.5)]
    lines[0]["val_accuracy"] -= 0.1  # else the order is perfect, which has no interval
    found = capacity_gap(gains(lines, rows, identity))
    by_trait = {row["trait"]: row["effect"] for row in found}
    assert set(by_trait) == {"params", "flops", "width", "depth"}
    assert found[-1]["trait"] == "depth"
    assert by_trait["params"]["value"] < -0.7
    assert clear(by_trait["params"])
    assert not clear(by_trait["depth"])


def test_capacity_gap_when_architectures_are_few_then_nothing_is_said():
    rows = [candidate(number, {"width": number}, ["kd"], 0.5, params=100 + number) for number in range(4)]
    lines = [trained(number, 1, kd, 0.5 + 0.1 * kd * number) for number in range(4) for kd in (True, False)]
    assert capacity_gap(gains(lines, rows, identity)) == []


def test_by_architecture_takes_candidates_of_one_architecture_together():
    rows = [candidate(number, {"width": width}, ["kd"], 0.5) for number, width in enumerate((4, 8, 4))]
    lines = [trained(n, 1, kd, 0.5 + kd * gain) for n, gain in enumerate((0.1, 0.2, 0.4)) for kd in (True, False)]
    found = by_architecture(gains(lines, rows, identity))
    assert [row["gain"] for row in found] == [pytest.approx(0.25), pytest.approx(0.2)]
    assert [row["traits"]["width"] for row in found] == [4, 8]
