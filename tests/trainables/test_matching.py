"""Specification of `trainables.matching`: which tap of the teacher a tap of the student meets."""

import pytest

from search_spaces import KdnasError
from trainables.matching import MATCHES

STUDENT = {"stage1": (4, 8, 8), "stage2": (8, 4, 4), "stage3": (8, 2, 2), "penultimate": (8,)}
TEACHER = {
    "block1": (16, 16, 16),
    "block2": (16, 8, 8),
    "block3": (32, 8, 8),
    "block4": (32, 4, 4),
    "block5": (64, 2, 2),
    "hidden": (64,),
    "penultimate": (32,),
}


def matched(name: str, tap: str, student: dict = STUDENT, teacher: dict = TEACHER) -> str:
    return MATCHES[name](tap, tuple(student), student, teacher)


def test_name_meets_the_tap_of_the_same_name():
    assert matched("name", "penultimate") == "penultimate"
    assert matched("name", "stage2", teacher=dict(reversed(STUDENT.items()))) == "stage2"


@pytest.mark.parametrize(
    ("tap", "partner"),
    [("stage1", "block1"), ("stage2", "block3"), ("stage3", "block5"), ("penultimate", "penultimate")],
)
def test_depth_meets_first_with_first_middle_with_middle_and_last_with_last_of_its_kind(tap, partner):
    assert matched("depth", tap) == partner


@pytest.mark.parametrize(("tap", "partner"), [("stage1", "a"), ("stage2", "b"), ("stage3", "d"), ("stage4", "e")])
def test_depth_rounds_the_share_of_the_way_to_the_nearest_tap(tap, partner):
    student = {f"stage{i}": (4, 4, 4) for i in range(1, 5)}
    teacher = dict.fromkeys("abcde", (8, 4, 4))
    assert matched("depth", tap, student, teacher) == partner


def test_depth_of_the_only_tap_of_its_kind_meets_the_last():
    student = {"stage1": (4, 4, 4), "penultimate": (8,)}
    assert matched("depth", "stage1", student) == "block5"
    assert matched("depth", "penultimate", student) == "penultimate"


def test_depth_meets_the_only_tap_of_the_teacher_from_everywhere():
    teacher = {"block1": (16, 8, 8), "penultimate": (32,)}
    assert {matched("depth", tap, teacher=teacher) for tap in ("stage1", "stage2", "stage3")} == {"block1"}


def test_depth_leaves_the_logits_of_both_models_out_of_the_way_from_first_to_last():
    student, teacher = STUDENT | {"logits": (10,)}, TEACHER | {"logits": (10,)}
    assert matched("depth", "penultimate", student, teacher) == "penultimate"


@pytest.mark.parametrize(
    ("tap", "partner"),
    [("stage1", "block3"), ("stage2", "block4"), ("stage3", "block5"), ("penultimate", "penultimate")],
)
def test_resolution_meets_the_deepest_tap_of_the_same_height_and_width(tap, partner):
    assert matched("resolution", tap) == partner


def test_resolution_meets_the_nearest_where_none_is_the_same():
    student = {"a": (4, 30, 30), "b": (4, 7, 7), "c": (4, 5, 5), "d": (4, 1, 1)}
    assert [matched("resolution", tap, student) for tap in student] == ["block1", "block3", "block4", "block5"]


def test_resolution_tells_a_square_map_from_a_flat_one_of_the_same_sum():
    teacher = {"square": (8, 4, 4), "flat": (8, 7, 1)}
    assert matched("resolution", "stage2", teacher=teacher) == "square"


@pytest.mark.parametrize("name", ["depth", "resolution"])
def test_logits_of_the_teacher_are_met_by_no_vector(name):
    assert matched(name, "penultimate", teacher={"hidden": (64,), "logits": (10,)}) == "hidden"


@pytest.mark.parametrize("name", ["depth", "resolution"])
@pytest.mark.parametrize("tap", ["stage1", "penultimate"])
def test_match_without_a_tap_of_the_kind_is_refused_and_names_what_the_bank_holds(name, tap):
    others = {held: shape for held, shape in TEACHER.items() if len(shape) != len(STUDENT[tap])}
    teacher = others | {"logits": (10,)}
    with pytest.raises(KdnasError, match="no tap of this kind") as caught:
        matched(name, tap, teacher=teacher)
    assert (caught.value.field, caught.value.value) == ("recipe.terms.tap", tap)
    assert all(held in caught.value.remedy for held in teacher)


def test_name_that_the_bank_does_not_hold_is_refused_and_names_what_it_holds():
    with pytest.raises(KdnasError, match="does not hold this tap") as caught:
        matched("name", "stage1")
    assert (caught.value.field, caught.value.value) == ("recipe.terms.tap", "stage1")
    assert all(held in caught.value.remedy for held in TEACHER)


@pytest.mark.parametrize("name", MATCHES)
def test_match_with_an_empty_bank_is_refused(name):
    with pytest.raises(KdnasError) as caught:
        matched(name, "stage1", teacher={})
    assert "none" in caught.value.remedy


def test_match_is_described_with_summary_and_source():
    for row in MATCHES.describe():
        assert row["summary"].endswith(".")
        assert row["source"]
