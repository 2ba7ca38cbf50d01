"""Is what does not fit a task's kind of target refused, with what would?"""

from pathlib import Path

import pytest
from shapes import CLASSES, parquet, pictures

from kdnas_ray.config import read
from kdnas_ray.driver import planned
from search_spaces import KdnasError


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> dict:
    path = parquet(tmp_path_factory.mktemp("shapes") / "shapes.parquet", pictures(24))
    return {"name": "detection", "path": path, "classes": list(CLASSES), "size": [64, 64], "validation": 0.2}


def plan(task: dict, **changes):
    recipes = {"batch_size": 8, "taps": ["stage2"]}
    given = {"task": task, "teachers": ["classifier"], "space": {"name": "detector", "level": 2}, "recipes": recipes}
    return planned(read({**given, "constraints": {"params": 200_000}, **changes}))


def test_detection_with_its_space_and_teacher_is_accepted_and_asks_the_bank_for_class_maps(task):
    made = plan(task)
    assert made.taps == ("stage2", "class_map")
    assert made.config.recipes.losses == ("class_maps",)
    assert made.config.recipes.temperature == (1.0, 1.0)


def test_recipes_without_hints_ask_for_class_maps_alone(task):
    assert plan(task, recipes={"batch_size": 8, "hints": [False]}).taps == ("class_map",)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"space": "resnet"}, "space"),
        ({"teachers": ["trained"]}, "teachers.0.name"),
        ({"teachers": ["classifier", "classifier"]}, "teachers"),
        ({"evaluator": "blocks"}, "evaluator"),
        ({"retrain": {"generations": 2}}, "retrain.generations"),
        ({"bank": {"top_k": 2}}, "bank.top_k"),
        ({"objectives": ["val_accuracy", "snip"]}, "objectives"),
        ({"recipes": {"losses": ["dkd"], "batch_size": 8}}, "recipes.losses"),
        ({"recipes": {"mutual": [1.0], "batch_size": 8}}, "recipes.mutual"),
        ({"recipes": {"hint_losses": ["reused_classifier"], "batch_size": 8}}, "recipes.taps"),
        ({"recipes": {"weightings": ["confidence"], "batch_size": 8}}, "recipes.weightings"),
    ],
)
def test_what_needs_classes_is_refused_for_boxes(task, changes, field):
    with pytest.raises(KdnasError) as caught:
        plan(task, **changes)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"space": "detector"}, "space"),
        ({"teachers": ["classifier"]}, "teachers.0.name"),
        ({"recipes": {"losses": ["class_maps"]}}, "recipes.losses"),
    ],
)
def test_what_is_for_boxes_is_refused_for_classes(changes, field):
    with pytest.raises(KdnasError) as caught:
        planned(read(changes))
    assert caught.value.field == field


def test_missing_file_is_refused_before_anything_else_is_read(task):
    with pytest.raises(KdnasError, match="does not exist"):
        plan({**task, "path": str(Path("nowhere.parquet"))})
