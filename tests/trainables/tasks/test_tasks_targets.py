"""Specification of `trainables.tasks.targets`."""

import pytest

from trainables.tasks.targets import labels_of, numbers_of


def test_labels_become_0_or_1_in_the_order_of_their_names():
    found, names = labels_of([["cat", "dog"], [], ["ant"]], "tags")
    assert names == ["ant", "cat", "dog"]
    assert found.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert str(found.dtype) == "float32"


def test_whole_numbers_are_names_or_stand_for_declared_ones():
    assert labels_of([[7], [2, 7]], "tags")[1] == ["2", "7"]
    found, names = labels_of([[1], []], "tags", ["sea", "sky", "sun"])
    assert names == ["sea", "sky", "sun"]
    assert found.tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "declared", "problem"),
    [
        ([["a"], None], None, "record 1 has no list"),
        ([["a"], "a"], None, "record 1 has no list"),
        ([["a"], [1.5]], None, "record 1 has no list"),
        ([["a"], [1]], None, "names in some records"),
        ([[], []], None, "no record has a label"),
        ([[0], [3]], ["x", "y"], "record 1 has a label in column 'tags' beyond the 2 declared"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_by_record(rows, declared, problem):
    with pytest.raises(ValueError, match=problem):
        labels_of(rows, "tags", declared)


def test_values_keep_their_numbers_and_get_names():
    assert numbers_of([1, 2.5], "price")[0].tolist() == [[1.0], [2.5]]
    assert numbers_of([1, 2.5], "price")[1] == ["price"]
    found, names = numbers_of([[1, 2], [3, 4]], "corner")
    assert found.tolist() == [[1, 2], [3, 4]]
    assert names == ["corner[0]", "corner[1]"]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([1, None], "record 1 has something else"),
        ([1, "2"], "record 1 has something else"),
        ([1, float("nan")], "record 1 has something else"),
        ([[1, 2], [3]], "record 1 has 1 numbers in column 'x', record 0 2"),
        ([1, [2]], "record 1 has 1 numbers in column 'x', record 0 one"),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_record(rows, problem):
    with pytest.raises(ValueError, match=problem):
        numbers_of(rows, "x")
