"""Specification of `kdnas_ray.analysis.pareto`, against brute force and by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdnas_ray.analysis.pareto import front_numbers, pareto_front, rank_candidates

VALUES = st.integers(1, 3).flatmap(
    lambda objectives: arrays(float, st.tuples(st.integers(0, 14), st.just(objectives)), elements=st.integers(0, 4))
)


def dominates(first: np.ndarray, second: np.ndarray) -> bool:
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def row(name: str, accuracy: float, params: int, state: str = "complete", epochs: int = 27) -> dict:
    return {
        "id": name,
        "val_accuracy": accuracy,
        "params": params,
        "flops": 10 * params,
        "state": state,
        "epochs": epochs,
    }


def names(rows: list[dict]) -> str:
    return "".join(row["id"] for row in rows)


@given(VALUES)
def test_front_numbers_when_compared_with_brute_force_then_agree(values):
    # The number of a row's front is the length of the longest chain of rows, each dominating the next, above it.
    above = [[other for other in range(len(values)) if dominates(values[other], values[i])] for i in range(len(values))]

    def depth(i: int) -> int:
        return max((depth(other) + 1 for other in above[i]), default=0)

    assert front_numbers(values) == [depth(i) for i in range(len(values))]


def test_front_numbers_when_there_is_nothing_then_are_none():
    assert front_numbers(np.empty((0, 2))) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=12))
def test_pareto_front_when_compared_with_brute_force_then_agrees(points):
    rows = [row(str(number), accuracy / 5, params) for number, (accuracy, params) in enumerate(points)]
    expected = {
        here["id"]
        for here in rows
        if not any(
            other["val_accuracy"] >= here["val_accuracy"]
            and other["params"] <= here["params"]
            and (other["val_accuracy"], other["params"]) != (here["val_accuracy"], here["params"])
            for other in rows
        )
    }
    front = pareto_front(rows, ["val_accuracy", "params"])
    assert {found["id"] for found in front} == expected
    accuracies = [found["val_accuracy"] for found in front]
    assert accuracies == sorted(accuracies, reverse=True)


def test_pareto_front_when_candidates_are_not_complete_then_leaves_them_out():
    rows = [row("a", 0.9, 10), row("b", 0.99, 1, "pruned"), row("c", 0.99, 1, "failed"), row("d", 0.8, 5)]
    assert names(pareto_front(rows, ["val_accuracy", "params"])) == "ad"


def test_ranking_when_there_is_one_objective_then_is_by_accuracy_then_size_then_name():
    rows = [row("d", 0.8, 5), row("c", 0.9, 20), row("b", 0.9, 10), row("a", 0.9, 20)]
    assert names(rank_candidates(rows, ["val_accuracy"])) == "bacd"


def test_ranking_when_stopped_early_then_comes_after_the_complete_and_by_rung_reached():
    rows = [
        row("a", 0.99, 1, "pruned", 3),
        row("b", 0.95, 1, "pruned", 9),
        row("c", 0.5, 1),
        row("d", 0.97, 1, "pruned", 9),
        row("e", 0.9, 1, "failed"),
        row("f", 0.9, 1, "rejected"),
    ]
    assert names(rank_candidates(rows, ["val_accuracy"])) == "cdba"


def test_ranking_when_a_candidate_ended_before_its_first_epoch_then_is_left_out():
    rows = [row("a", 0.5, 1), row("b", 0.0, 1, "pruned", 0) | {"val_accuracy": None}]
    assert names(rank_candidates(rows, ["val_accuracy"])) == "a"


def test_ranking_when_there_are_two_objectives_then_the_front_comes_first():
    rows = [row("a", 0.9, 100), row("b", 0.85, 200), row("c", 0.5, 1), row("d", 0.7, 50), row("e", 0.6, 60)]
    # Front: a, d, c (best accuracy first); second front: b and e, each beaten by one of the first.
    assert names(rank_candidates(rows, ["val_accuracy", "params"])) == "adcbe"
    assert names(rank_candidates(rows, ["val_accuracy"])) == "abdec"
