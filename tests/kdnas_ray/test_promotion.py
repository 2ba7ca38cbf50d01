"""Specification of `kdnas_ray.promotion`: who goes on from a rung, as in the published algorithm."""

import pytest

from kdnas_ray.promotion import Ladder

RUNGS = (1, 3, 9)


def curve(epochs: int, value: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, "val_accuracy": value} for epoch in range(1, epochs + 1)]


def at_first_rung(*values: float) -> dict[str, list[dict[str, float]]]:
    return {f"c{index}": curve(1, value) for index, value in enumerate(values)}


def promotable(curves, waiting, rungs, factor):
    """Who goes on next, of candidates as they stand."""
    ladder = Ladder(rungs, factor)
    for name, known in curves.items():
        ladder.reached(name, known)
    for name in waiting:
        ladder.wait(name, curves[name])
    return next(iter(ladder.next()), None)


@pytest.mark.parametrize(("count", "expected"), [(0, None), (2, None), (3, "c2"), (5, "c4")])
def test_only_the_best_third_of_those_that_reached_a_rung_goes_on(count, expected):
    curves = at_first_rung(*(0.1 * index for index in range(count)))
    assert promotable(curves, list(curves), RUNGS, 3.0) == expected


def test_one_that_went_on_already_takes_its_place_among_the_best():
    curves = at_first_rung(0.1, 0.2, 0.3) | {"gone": curve(3, 0.9)}
    assert promotable(curves, ["c0", "c1", "c2"], RUNGS, 3.0) is None
    assert promotable(curves, ["c0", "c1", "c2"], RUNGS, 2.0) == "c2"


def test_one_that_runs_is_not_handed_out_twice():
    curves = at_first_rung(0.1, 0.2, 0.3)
    assert promotable(curves, ["c0", "c1"], RUNGS, 3.0) is None


def test_the_highest_rung_comes_first():
    curves = at_first_rung(0.9, 0.8, 0.7) | {f"h{index}": curve(3, 0.1 * index) for index in range(3)}
    assert promotable(curves, list(curves), RUNGS, 3.0) == "h2"


def test_nobody_goes_on_from_the_last_rung():
    curves = {f"c{index}": curve(9, 0.5) for index in range(5)}
    assert promotable(curves, list(curves), RUNGS, 1.0) is None


def test_equals_go_on_in_the_order_in_which_they_began():
    curves = at_first_rung(0.5, 0.5, 0.5)
    assert promotable(curves, list(curves), RUNGS, 3.0) == "c0"


def test_all_who_may_go_on_are_named_best_first():
    ladder = Ladder(RUNGS, 2.0)
    for name, known in at_first_rung(0.3, 0.1, 0.5, 0.4, 0.2, 0.0).items():
        ladder.wait(name, known)
    assert ladder.next() == ["c2", "c3", "c0"]
    ladder.leave("c3", curve(1, 0.4))
    assert ladder.next() == ["c2", "c0"]
    assert ladder.next(factor=1.0) == ["c2", "c0", "c4", "c1", "c5"]


def test_one_that_is_told_twice_counts_once():
    ladder = Ladder(RUNGS, 3.0)
    for _ in range(3):
        ladder.reached("c0", curve(1, 0.5))
    ladder.wait("c1", curve(1, 0.9))
    assert ladder.next() == []
