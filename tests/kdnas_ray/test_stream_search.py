"""Specification of `kdnas_ray.stream_search`: what is refused before any work, and what is told at the end."""

import numpy as np
import pytest
from PIL import Image

from kdnas_ray.config import read
from kdnas_ray.prepare import load_data
from kdnas_ray.session import planned
from kdnas_ray.stream_search import StreamPlan, announcement, headline
from search_spaces import KdnasError

SMALL = {
    "stream": {"groups": 5, "memory": 50},
    "space": {"stages": 1, "widths": [4, 8], "depths": [1, 2], "kernels": [3], "blocks": ["basic"]},
    "recipes": {"taps": ["stage1"]},
    "scheduler": {"max_epochs": 10},
}


def test_plan_when_all_fits_then_numbers_classes_by_group_and_bounds_the_final_size():
    groups = [[3, 1], [0, 2, 4], [5, 6, 7, 8, 9]]
    config = read(
        {**SMALL, "stream": {"groups": groups}, "scheduler": {"max_epochs": 9}, "constraints": {"params": 900}}
    )
    made = planned(config)
    assert isinstance(made, StreamPlan)
    assert made.data.classes[:2] == ("3", "1")
    assert made.stream.groups == (2, 3, 5)
    assert made.bounds == {"params": 900}
    assert "3, 1; 0, 2, 4" in announcement(made)


@pytest.mark.parametrize("groups", [{"groups": 5, "shuffled": True}, {"groups": [[3, 1], [0, 2, 4, 5, 6, 7, 8, 9]]}])
def test_data_when_loaded_again_for_an_export_then_are_those_that_students_learned(groups):
    config = read({**SMALL, "stream": groups})
    made = planned(config)
    again = load_data(config)
    assert again.classes == made.data.classes == tuple(name for group in made.groups for name in group)
    assert again.classes != config.task.load(config.seed).classes
    assert again.digest() == made.data.digest()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"labels": 0.5}, "labels"),
        ({"task": "examples.own_tasks:Diabetes"}, "task"),
        ({"scheduler": {"name": "extrapolate", "max_epochs": 10}}, "scheduler"),
        ({"space": "nasbench201", "evaluator": "supernet"}, "evaluator"),
        ({"space": "detector", "stream": {"groups": 5, "memory": 0}, "recipes": "labels"}, "space"),
        ({"recipes": {"taps": ["stage1"], "batch_size": 1000}}, "recipes.batch_size"),
        ({"recipes": {"taps": ["stage1"], "alpha_by_size": 0.5}}, "recipes.alpha_by_size"),
        ({"prefilter": "params"}, "prefilter"),
        ({"retrain": {"generations": 2}}, "retrain.generations"),
        ({"retrain": {"epochs": 7}}, "retrain.epochs"),
        ({"bank": {"top_k": 2}}, "bank.top_k"),
        ({"bank": {"max_bytes": 10**9}}, "bank.max_bytes"),
        ({"recipes": {"taps": ["stage1"], "mutual": [0, 1]}}, "recipes.mutual"),
        ({"recipes": {"taps": ["stage1"], "hint_losses": ["reused_classifier"]}}, "recipes.hint_losses"),
        ({"recipes": {"taps": ["stage7"]}}, "recipes.taps"),
        ({"objectives": ["val_accuracy", "synflow"]}, "objectives"),
        ({"constraints": {"params": {"of_teacher": 0.1}}}, "constraints.params.of_teacher"),
        ({"constraints": {"params": 10}}, "constraints"),
        ({"stream": {"groups": 5, "memory": 5}}, "stream.memory"),
        ({"stream": {"groups": [[0, 1], [2, 3]]}}, "stream.groups"),
        ({"stream": {"groups": 5, "grow": True}, "space": "mobilenet", "recipes": "labels"}, "stream.grow"),
        ({"stream": {"groups": 5, "grow": True}, "space": {"depths": [1]}}, "space.depths"),
    ],
)
def test_plan_when_something_does_not_fit_then_is_refused_by_name(changes, field):
    with pytest.raises(KdnasError) as refused:
        planned(read({**SMALL, **changes}))
    assert refused.value.field == field


def test_plan_when_some_images_have_no_label_then_names_where_they_come_from(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("a", "b", "c", "d", "../more"):
        (tmp_path / "own" / kind).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / kind / f"{number}.png")
    task = {"name": "images", "path": str(tmp_path / "own"), "unlabelled": str(tmp_path / "more")}
    with pytest.raises(KdnasError) as refused:
        planned(read({**SMALL, "task": task, "stream": {"groups": 2}}))
    assert refused.value.field == "task.unlabelled"
    assert refused.value.value == str(tmp_path / "more")


def test_headline_when_retrained_then_says_what_is_left_of_earlier_groups_with_and_without_distillation():
    best = {
        "id": "c0003", "params": 6960, "val_accuracy": 0.8, "test_accuracy": 0.75, "test_accuracy_without_kd": 0.7,
        "test_old_accuracy": 0.7, "test_old_accuracy_std": 0.02, "test_old_accuracy_without_kd": 0.6,
        "test_forgetting": 0.1, "test_forgetting_without_kd": 0.3,
    }  # fmt: skip
    text = headline(best)
    assert "still knows 70.00% ± 2.00% (without 60.00%) of the earlier groups' test samples" in text
    assert "forgetting: 10.00 points (without 30.00 points)" in text
    assert "cost" not in text
    assert "Distillation cost 20.0 points on the earlier groups." in headline(best | {"test_old_accuracy": 0.4})


def test_headline_when_nothing_was_retrained_then_speaks_of_validation():
    assert "80.00% on validation" in headline({"id": "c0003", "params": 6960, "val_accuracy": 0.8})
