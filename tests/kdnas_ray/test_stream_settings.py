"""Specification of `kdnas_ray.stream_settings`: groups, rungs, decisions, and refusals that name group and class."""

import random

import numpy as np
import pytest

from kdnas_ray.config import read
from kdnas_ray.stream_settings import groups_of
from search_spaces import KdnasError, sample
from trainables.tasks.base import Data, Split

NAMES = ("ape", "bee", "cat", "dog", "elk")


def data(missing: int | None = None) -> Data:
    whole = Split(np.zeros((5, 1, 1, 1), dtype=np.uint8), np.arange(5))
    kept = whole.labels != (-1 if missing is None else missing)
    part = Split(whole.images[kept], whole.labels[kept])
    return Data(whole, part, whole, NAMES, (0.5,), (0.5,))


def settings(**stream):
    return read({"stream": stream, "scheduler": {"name": "full", "max_epochs": 30}}).stream


def test_groups_when_given_by_number_then_share_the_classes_in_their_order():
    assert groups_of(settings(groups=2), data(), 0) == (("ape", "bee", "cat"), ("dog", "elk"))


def test_groups_when_shuffled_then_follow_the_seed():
    shuffled = settings(groups=2, shuffled=True)
    first, again, other = (groups_of(shuffled, data(), seed) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(name for group in first for name in group) == sorted(NAMES)


def test_groups_when_given_by_name_then_come_as_they_are_written():
    groups = [["elk", "ape"], ["dog"], ["bee", "cat"]]
    assert groups_of(settings(groups=groups), data(), 0) == (("elk", "ape"), ("dog",), ("bee", "cat"))


@pytest.mark.parametrize(
    ("groups", "field", "value", "problem"),
    [
        ([["ape", "bee"], ["cat", "dog"]], "stream.groups", "elk", "stand in no group"),
        ([["ape", "bee"], ["cat", "cow", "dog", "elk"]], "stream.groups.1", "cow", "no such class"),
        ([["ape", "bee"], ["cat", "ape", "dog", "elk"]], "stream.groups.1", "ape", "stands in group 0 already"),
        ([["ape", "bee"], ["cat", "dog", "elk", "elk"]], "stream.groups.1", "elk", "comes twice"),
        ([["ape", "bee"], [], ["cat", "dog", "elk"]], "stream.groups.1", [], "a class or more"),
        ([["ape"], ["bee", "cat", "dog", "elk"]], "stream.groups.0", ["ape"], "two classes or more"),
        (3, "stream.groups", 3, "the task has 5 classes"),
    ],
)
def test_groups_when_wrong_then_the_error_names_group_and_class(groups, field, value, problem):
    with pytest.raises(KdnasError) as refused:
        groups_of(settings(groups=groups), data(), 0)
    assert (refused.value.field, refused.value.value) == (field, value)
    assert problem in refused.value.problem


def test_groups_when_a_class_has_no_samples_in_a_split_then_the_error_names_group_and_class():
    with pytest.raises(KdnasError) as refused:
        groups_of(settings(groups=2), data(missing=3), 0)
    assert refused.value.field == "stream.groups.1"
    assert refused.value.value == "dog"
    assert "validation split" in refused.value.problem


def test_rungs_when_within_a_group_then_move_to_its_end():
    config = read({"stream": {"groups": 5}, "scheduler": {"max_epochs": 30, "grace_epochs": 3}})
    assert config.scheduler.rungs() == (3, 9, 27, 30)
    assert config.rungs() == (6, 12, 30)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scheduler": {"max_epochs": 27}}, "scheduler.max_epochs"),
        ({"stream": {"groups": 1}}, "stream.groups"),
        ({"stream": {"groups": 5, "memory": -1}}, "stream.memory"),
        ({"stream": {"groups": 5, "exemplars": ["best"]}}, "stream.exemplars.0"),
        ({"stream": {"grups": 5}}, "stream.grups"),
        ({"teachers": ["trained"]}, "teachers"),
    ],
)
def test_stream_when_impossible_then_the_configuration_is_refused(changes, field):
    with pytest.raises(KdnasError) as refused:
        read({"stream": {"groups": 5}, "scheduler": {"max_epochs": 30}, **changes})
    assert refused.value.field == field


def test_forgetting_when_there_is_no_stream_then_is_no_objective():
    with pytest.raises(KdnasError, match="nothing is forgotten"):
        read({"objectives": ["val_accuracy", "forgetting"]})


def test_configuration_when_written_and_read_again_then_is_the_same():
    config = read({"stream": {"groups": [["0", 1], [2, 3]]}, "scheduler": {"max_epochs": 10}})
    assert config.teachers == []
    assert read(config.resolved()).resolved() == config.resolved()


def test_ranges_when_none_are_given_then_are_lighter_than_for_a_fixed_task():
    stream = {"stream": {"groups": 5}, "scheduler": {"max_epochs": 10}}
    assert read(stream).recipes.alpha == (0.05, 0.5)
    assert read({**stream, "recipes": {"alpha": [0.6, 0.7]}}).recipes.alpha == (0.6, 0.7)
    assert read({}).recipes.alpha == (0.3, 0.95)


def test_recipes_when_the_stream_lists_several_values_then_decide_among_them():
    config = read(
        {"stream": {"groups": 5, "exemplars": ["herding", "random"], "grow": True}, "scheduler": {"max_epochs": 10}}
    )
    drawn = [sample(config.recipe_space, random.Random(seed)) for seed in range(30)]
    assert {recipe.exemplars for recipe in drawn} == {"herding", "random"}
    assert {recipe.weight_alignment for recipe in drawn} == {False, True}
    assert {recipe.grow for recipe in drawn} == {True}


@pytest.mark.parametrize("groups", [True, None, 2.5, "5", [0, 1], [[0, 1], 2], {"a": 1}])
def test_groups_when_neither_a_number_nor_lists_then_are_refused(groups):
    with pytest.raises(KdnasError) as refused:
        settings(groups=groups)
    assert refused.value.field == "stream.groups"
