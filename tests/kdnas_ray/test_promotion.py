"""Specification of `kdnas_ray.promotion`: who goes on from a rung, as in the published algorithm."""

import pytest

from kdnas_ray.promotion import Ladder, group

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
    found = ladder.promotable()
    return found[0][0] if found else None


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
    assert ladder.promotable() == [["c2", "c3", "c0"]]
    ladder.leave("c3", curve(1, 0.4))
    assert ladder.promotable() == [["c2", "c0"]]
    assert ladder.promotable(factor=1.0) == [["c2", "c0", "c4", "c1", "c5"]]


def test_one_that_is_told_twice_counts_once():
    ladder = Ladder(RUNGS, 3.0)
    for _ in range(3):
        ladder.reached("c0", curve(1, 0.5))
    ladder.wait("c1", curve(1, 0.9))
    assert ladder.promotable() == []


OF = {"a1": "A", "a2": "A", "a3": "A", "b1": "B", "b2": "B", "c1": "C"}


@pytest.mark.parametrize(
    ("rungs", "most", "patient", "expected"),
    [
        ([["b1", "a1", "a2"]], 4, False, ["a1", "a2"]),  # the larger one, though another has the best
        ([["b1", "a1"]], 4, False, ["b1"]),  # of equals the better one
        ([["b1", "a1"]], 4, True, []),  # less than half a group waits for more of its kind
        ([["b1", "a1", "a2"]], 4, True, ["a1", "a2"]),
        ([["c1"], ["a1", "a2", "a3"]], 6, True, ["a1", "a2", "a3"]),  # of a lower rung, where it is large enough
        ([["c1"], ["a1", "a2"]], 2, True, ["a1", "a2"]),
        ([["b1"], ["a1"]], 4, False, ["b1"]),  # of equals that of the higher rung
        ([["a1", "a2", "a3"]], 2, False, ["a1", "a2"]),
        ([["b1", "a1", "c1", "a2"]], 1, True, ["b1"]),  # where nothing is packed the best, at once
        ([["b1", "a1", "c1", "b2", "a2", "a3"]], 3, True, ["a1", "a2", "a3"]),
        ([], 4, False, []),
    ],
)
def test_group_that_goes_on_has_one_architecture_and_is_as_large_as_may_be(rungs, most, patient, expected):
    assert group(rungs, OF, most, patient) == expected


def test_group_when_many_wait_then_is_not_held_back():
    of = {f"c{number}": number for number in range(8)}
    assert group([list(of)], of, 4, True) == ["c0"]
    assert group([list(of)[:7]], of, 4, True) == []
