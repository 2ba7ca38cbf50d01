"""Specification of `kdnas_ray.samplers.advised`: what finished candidates say about the recipes of new ones."""

import dataclasses
import json

import numpy as np
import optuna
import pytest

from kdnas_ray.samplers import SAMPLERS, Around
from kdnas_ray.samplers.advised import RecipeModel, draw_recipes, read_searches, recipe_features
from search_spaces import KdnasError, ResNetSpace
from trainables.recipe import Recipe, SimpleRecipes, StandardRecipes, Term

RECIPES = StandardRecipes()


def costs(architecture) -> dict[str, int]:
    width = int(architecture["stem.width"])
    return {"params": 100 * width, "flops": 1000 * width}


def merit(recipe: Recipe) -> float:
    """A made-up law: little temperature and DKD help."""
    return 0.9 - 0.02 * recipe.temperature.start + 0.05 * (recipe.terms[0].loss == "dkd")


def rows(count: int, seed: int, shift: float = 0.0) -> list[dict]:
    found = []
    for index, (recipe, _) in enumerate(draw_recipes(RECIPES, count, seed)):
        accuracy = shift + merit(recipe)
        cost = {"params": 100 * (index % 5 + 1), "flops": 1000}
        curve = [{"epoch": epoch, "val_accuracy": accuracy} for epoch in range(1, 28)]
        state = {"id": f"c{index:04d}", "state": "complete", "epochs": 27, "val_accuracy": accuracy, "curve": curve}
        found.append(state | cost | {"recipe": recipe.to_json()})
    return found


def proposals(tmp_path, count: int, earlier: list[list[dict]], own: list[dict] = (), **options) -> list[Recipe]:
    runs = []
    for index, search in enumerate(earlier):
        run = tmp_path / f"run{index}"
        run.mkdir()
        (run / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in search))
        runs.append(run)
    space = ResNetSpace()
    around = Around(space, RECIPES, costs, lambda: list(own), 27)
    settings = SAMPLERS["advised"](warm_start=tuple(runs), **options)
    study = optuna.create_study(direction="maximize", sampler=settings.make(0, lambda _: [0.0], around))
    found = []
    for _ in range(count):
        trial = study.ask()
        space.suggest(trial)
        found.append(RECIPES.suggest(trial))
        study.tell(trial, 0.5)
    return found


def test_model_orders_recipes_it_has_not_seen_as_the_searches_it_saw_would():
    model = RecipeModel(seed=0)
    model.fit([rows(80, 1), rows(80, 2, shift=-0.4)])  # two searches at very different levels
    fresh = [recipe for recipe, _ in draw_recipes(RECIPES, 60, 3)]
    predicted = model.predict(fresh, {"params": 250, "flops": 1000}, 27)
    assert np.corrcoef(predicted, [merit(recipe) for recipe in fresh])[0, 1] > 0.8


def test_recipes_learned_from_earlier_runs_are_better_than_random_ones(tmp_path):
    advised = proposals(tmp_path, 15, [rows(80, 1)], explore=0.0)
    chance = [merit(recipe) for recipe, _ in draw_recipes(RECIPES, 200, 9)]
    assert np.mean([merit(recipe) for recipe in advised]) > np.quantile(chance, 0.8)


def test_recipes_are_learned_from_this_search_too(tmp_path):
    advised = proposals(tmp_path, 10, [], own=rows(60, 1), explore=0.0)
    chance = [merit(recipe) for recipe, _ in draw_recipes(RECIPES, 200, 9)]
    assert np.mean([merit(recipe) for recipe in advised]) > np.quantile(chance, 0.8)


def test_recipes_are_random_until_enough_candidates_have_ended_and_where_exploring(tmp_path):
    for options in ({"own": rows(5, 1)}, {"own": rows(60, 1), "explore": 1.0}):
        temperatures = [recipe.temperature.start for recipe in proposals(tmp_path, 30, [], **options)]
        assert np.std(temperatures) > 1


def stopped_early(row: dict) -> dict:
    return row | {"state": "pruned", "epochs": 3, "curve": row["curve"][:3]}


def test_losers_of_a_rung_are_not_taken_for_as_good_as_its_winners():
    best = np.quantile([row["val_accuracy"] for row in rows(200, 1)], 0.67)
    search = [row if row["val_accuracy"] > best else stopped_early(row) for row in rows(200, 1)]
    model = RecipeModel(seed=0)
    model.fit([search])
    fresh = [recipe for recipe, _ in draw_recipes(RECIPES, 60, 3)]
    predicted = model.predict(fresh, {"params": 250, "flops": 1000}, 3)
    assert np.corrcoef(predicted, [merit(recipe) for recipe in fresh])[0, 1] > 0.8


def test_every_decision_of_a_recipe_is_seen():
    base = Recipe(terms=(Term("kd"), Term("hint", 1.0, "stage2")), teacher_shares=(1.0, 0.0))
    hint = base.terms[1]
    others = [
        dataclasses.replace(base, terms=(base.terms[0], dataclasses.replace(hint, match="depth"))),
        dataclasses.replace(base, terms=(base.terms[0], dataclasses.replace(hint, tap="stage1"))),
        dataclasses.replace(base, teacher_shares=(0.0, 1.0)),
    ]
    seen = [recipe_features(recipe, {"params": 1, "flops": 1}, 3) for recipe in (base, *others)]
    assert all(found != seen[0] for found in seen[1:])


def test_rows_that_were_never_trained_teach_nothing():
    model = RecipeModel(seed=0)
    model.fit([[row | {"state": "rejected", "val_accuracy": None} for row in rows(40, 1)]])
    assert model.rows == 0


UNREADABLE = '{"state": "complete", "recipe": {"alpha": 0.5}, "curve": [1]}\n'


@pytest.mark.parametrize("content", [None, "", '{"state": "rejected"}\n', '{"a": 1}\n', UNREADABLE])
def test_warm_start_from_a_folder_without_trained_candidates_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "candidates.jsonl").write_text(content)
    with pytest.raises(KdnasError) as caught:
        read_searches([tmp_path])
    assert caught.value.field == "sampler.warm_start"
    assert caught.value.remedy


def test_drawn_recipes_come_back_from_their_decisions():
    for recipe, params in draw_recipes(SimpleRecipes(), 5, 0):
        assert SimpleRecipes().suggest(optuna.trial.FixedTrial(params)) == recipe
    assert dataclasses.is_dataclass(recipe)
