"""Specification of `trainables.recipe`."""

import dataclasses
import json
import random

import optuna
import pytest

from search_spaces import KdnasError, sample
from trainables.recipe import (
    RECIPES,
    EveryRecipe,
    Recipe,
    SimpleRecipes,
    StandardRecipes,
    Temperature,
    Term,
    check_terms,
    suited,
)

OTHER = Recipe(
    alpha=0.4,
    temperature=Temperature("linear", 8.0, 2.0),
    terms=(Term("kd"), Term("hint", 0.5, "stage2")),
    learning_rate=0.05,
    weight_decay=0.0,
    batch_size=32,
)


@pytest.fixture(params=RECIPES)
def recipes(request):
    return RECIPES[request.param]()


def test_recipe_survives_json():
    for recipe in (Recipe(), OTHER, OTHER.without_teacher()):
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_recipe_without_teacher_keeps_everything_but_the_distillation():
    plain = OTHER.without_teacher()
    assert (plain.alpha, plain.terms) == (0.0, ())
    assert dataclasses.replace(plain, alpha=0.4, terms=OTHER.terms) == OTHER


def test_recipe_is_hashable_and_frozen():
    assert len({Recipe(), Recipe(), OTHER}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        OTHER.alpha = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"alpha": -0.1}, "recipe.alpha"),
        ({"alpha": 1.1}, "recipe.alpha"),
        ({"alpha": float("nan")}, "recipe.alpha"),
        ({"temperature": Temperature("constant", 0.0)}, "recipe.temperature.start"),
        ({"temperature": Temperature("linear", 3.0, -1.0)}, "recipe.temperature.end"),
        ({"temperature": Temperature("quadratic")}, "recipe.temperature.schedule"),
        ({"alpha_schedule": "quadratic"}, "recipe.alpha_schedule"),
        ({"final_alpha": 1.5}, "recipe.final_alpha"),
        ({"ensemble": "vote"}, "recipe.ensemble"),
        ({"teacher_shares": (0.0, 0.0)}, "recipe.teacher_shares"),
        ({"teacher_shares": (-1.0, 2.0)}, "recipe.teacher_shares"),
        ({"terms": (Term("kd", -1.0),)}, "recipe.terms.weight"),
        ({"terms": (Term("kd", float("nan")),)}, "recipe.terms.weight"),
        ({"learning_rate": 0.0}, "recipe.learning_rate"),
        ({"weight_decay": -1e-9}, "recipe.weight_decay"),
        ({"batch_size": 1}, "recipe.batch_size"),
    ],
)
def test_recipe_refuses_impossible_values_with_field_and_remedy(options, field):
    with pytest.raises(KdnasError) as caught:
        Recipe(**options)
    assert caught.value.field == field
    assert caught.value.remedy


def test_temperature_runs_from_start_to_end_when_linear_and_stays_when_constant():
    linear, constant = Temperature("linear", 8.0, 2.0), Temperature("constant", 8.0, 2.0)
    assert [linear.at(progress) for progress in (0.0, 0.25, 1.0)] == [8.0, 6.5, 2.0]
    assert [constant.at(progress) for progress in (0.0, 0.25, 1.0)] == [8.0, 8.0, 8.0]


def test_alpha_runs_from_alpha_to_final_alpha_as_its_schedule_says():
    fixed = Recipe(alpha=0.8, final_alpha=0.2)
    falling = Recipe(alpha=0.8, final_alpha=0.2, alpha_schedule="linear")
    assert [fixed.alpha_at(progress) for progress in (0.0, 0.5, 1.0)] == [0.8, 0.8, 0.8]
    assert [falling.alpha_at(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.8, 0.5, 0.2])
    assert falling.without_teacher().alpha_at(1.0) == 0


def test_alpha_by_size_is_a_power_of_the_size_and_never_raises_alpha():
    recipe = Recipe(alpha=0.8, alpha_by_size=0.5)
    assert recipe.alpha_at(0.0, 0.25) == pytest.approx(0.4)
    assert recipe.alpha_at(0.0, 4.0) == pytest.approx(0.8)
    assert Recipe(alpha=0.8).alpha_at(0.0, 0.25) == 0.8


def test_recipe_of_an_earlier_version_is_read_with_a_constant_alpha():
    old = {
        name: value for name, value in Recipe(0.4).to_json().items() if name not in ("alpha_schedule", "final_alpha")
    }
    assert Recipe.from_json(old) == Recipe(0.4)


def test_simple_recipes_draw_losses_and_alpha_schedules_from_the_choices_given():
    recipes = SimpleRecipes(
        losses=("kd", "dist"),
        hints=(True,),
        hint_losses=("attention", "similarity"),
        alpha_schedules=("constant", "cosine"),
    )
    drawn = [sample(recipes, random.Random(seed)) for seed in range(100)]  # type: ignore[arg-type]
    assert {tuple(term.loss for term in recipe.terms) for recipe in drawn} == {
        (first, second) for first in ("kd", "dist") for second in ("attention", "similarity")
    }
    assert {recipe.alpha_schedule for recipe in drawn} == {"constant", "cosine"}
    assert all(recipe.final_alpha == 0 for recipe in drawn if recipe.alpha_schedule == "constant")
    assert recipes.needed_losses() == ("attention", "similarity")


def test_recipe_space_suggests_what_optuna_recorded_when_it_is_replayed(recipes):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested = set()
    for _ in range(30):
        trial = study.ask()
        recipe = recipes.suggest(trial)
        assert recipes.suggest(optuna.trial.FixedTrial(trial.params)) == recipe
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert {term.tap for term in recipe.terms if term.tap} <= set(recipes.needed_taps())
        suggested.add(recipe)
        study.tell(trial, 0.0)
    assert len(suggested) == (30 if study.trials[0].params else 1)


def test_simple_recipes_stay_in_their_ranges():
    recipes = SimpleRecipes()
    drawn = [sample(recipes, random.Random(seed)) for seed in range(200)]  # type: ignore[arg-type]
    for recipe in drawn:
        assert 0.3 <= recipe.alpha <= 0.95
        assert 2 <= recipe.temperature.start <= 8
        assert 0.03 <= recipe.learning_rate <= 0.5
        assert 1e-5 <= recipe.weight_decay <= 2e-3
        assert recipe.temperature.end == (1.0 if recipe.temperature.schedule == "linear" else recipe.temperature.start)
    kinds = {(r.temperature.schedule, tuple((t.loss, t.tap) for t in r.terms)) for r in drawn}
    hints = [(("kd", None),), (("kd", None), ("hint", "stage2")), (("kd", None), ("hint", "stage3"))]
    assert kinds == {(schedule, terms) for schedule in ("constant", "linear") for terms in hints}


def test_simple_recipes_ask_nothing_when_every_range_is_one_value():
    fixed = SimpleRecipes(
        alpha=(0.5, 0.5),
        temperature=(4.0, 4.0),
        schedules=("linear",),
        hints=(True,),
        hint_weight=(2.0, 2.0),
        taps=("stage1",),
        learning_rate=(0.1, 0.1),
        weight_decay=(1e-4, 1e-4),
    )
    trial = optuna.trial.FixedTrial({})
    expected = Recipe(0.5, Temperature("linear", 4.0, 1.0), (Term("kd"), Term("hint", 2.0, "stage1")), 0.1, 1e-4, 64)
    assert fixed.suggest(trial) == expected
    assert trial.params == {}


def test_simple_recipes_need_no_tap_when_they_hold_no_hint():
    assert SimpleRecipes(hints=(False,)).needed_taps() == ()
    assert SimpleRecipes(hints=(False, True), taps=("stage1",)).needed_taps() == ("stage1",)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"alpha": (0.9, 0.1)}, "recipes.alpha"),
        ({"alpha": (-0.1, 0.5)}, "recipes.alpha"),
        ({"alpha": (0.5, 1.5)}, "recipes.alpha"),
        ({"temperature": (0.0, 2.0)}, "recipes.temperature"),
        ({"hint_weight": (0.0, 2.0)}, "recipes.hint_weight"),
        ({"learning_rate": (float("nan"), 1.0)}, "recipes.learning_rate"),
        ({"weight_decay": (0.0, 1e-3)}, "recipes.weight_decay"),
        ({"schedules": ("quadratic",)}, "recipes.schedules"),
        ({"alpha_schedules": ("quadratic",)}, "recipes.alpha_schedules"),
        ({"alpha_schedules": ()}, "recipes.alpha_schedules"),
        ({"final_alpha": (0.5, 1.5)}, "recipes.final_alpha"),
        ({"losses": ("hint",)}, "recipes.losses"),
        ({"losses": ()}, "recipes.losses"),
        ({"hint_losses": ("kd",)}, "recipes.hint_losses"),
        ({"ensembles": ("vote",)}, "recipes.ensembles"),
        ({"ensembles": ()}, "recipes.ensembles"),
        ({"schedules": ()}, "recipes.schedules"),
        ({"hints": ()}, "recipes.hints"),
        ({"taps": ()}, "recipes.taps"),
        ({"taps": ("stage2", "stage2")}, "recipes.taps"),
        ({"losses": ("kd", "kd")}, "recipes.losses"),
        ({"matches": ("depth",)}, "recipes.teacher_taps"),
        ({"matches": ("width",)}, "recipes.matches"),
        ({"weightings": ("luck",)}, "recipes.weightings"),
        ({"teacher_shares": ((0.0, 0.0),)}, "recipes.teacher_shares"),
        ({"teacher_shares": ((1.0, -1.0),)}, "recipes.teacher_shares"),
        ({"temperature": (1e-5, 2.0)}, "recipes.temperature"),
        ({"schedules": ("curriculum",), "final_temperature": 4.0}, "recipes.final_temperature"),
        ({"hint_losses": ("rkd_angle",), "batch_size": 512}, "recipes.batch_size"),
        ({"final_temperature": 0.0}, "recipes.final_temperature"),
        ({"batch_size": 1}, "recipes.batch_size"),
    ],
)
def test_simple_recipes_refuse_impossible_options_with_field_and_remedy(options, field):
    with pytest.raises(KdnasError) as caught:
        SimpleRecipes(**options)
    assert caught.value.field == field
    assert caught.value.remedy


def test_recipe_space_documents_its_source_and_every_option(recipes):
    text = type(recipes).__doc__
    assert "Source: " in text
    described = SimpleRecipes.__doc__ if "Args: as for `simple`." in text else text
    assert all(f"{field.name}: " in described for field in dataclasses.fields(recipes))


def test_recipes_suited_to_classes_are_as_they_were(recipes):
    assert suited(recipes, "classes") == recipes


def test_presets_suited_to_labels_or_values_keep_what_means_something_there():
    labels, values = (suited(StandardRecipes(), targets) for targets in ("labels", "values"))
    assert (labels.losses, values.losses) == (("binary_kd",), ("output_mse",))
    assert labels.hint_losses == values.hint_losses == ("hint", "similarity", "review")
    assert (labels.schedules, values.schedules) == (("constant", "linear", "cosine"), ("constant",))
    assert values.temperature[0] == values.temperature[1]
    every = suited(EveryRecipe(), "labels")
    assert every.ensembles == ("average", "random")
    assert "confidence" not in every.weightings
    assert "per_sample" not in every.schedules
    for space in (labels, values, every):
        targets = "values" if space is values else "labels"
        assert suited(space, targets) == space
        for seed in range(20):
            check_terms(sample(space, random.Random(seed)), targets)


@pytest.mark.parametrize(
    ("options", "field", "targets"),
    [
        ({"losses": ("kd", "dkd")}, "recipes.losses", "labels"),
        ({"losses": ("binary_kd",)}, "recipes.losses", "classes"),
        ({"hint_losses": ("contrastive",)}, "recipes.hint_losses", "values"),
        ({"ensembles": ("entropy",)}, "recipes.ensembles", "labels"),
        ({"weightings": ("confidence",)}, "recipes.weightings", "values"),
        ({"schedules": ("per_sample",)}, "recipes.schedules", "labels"),
        ({"schedules": ("linear",)}, "recipes.schedules", "values"),
    ],
)
def test_what_was_named_and_means_nothing_for_the_targets_is_refused(options, field, targets):
    with pytest.raises(KdnasError, match="means nothing") as caught:
        suited(SimpleRecipes(**options), targets)
    assert caught.value.field == field
    assert "choose among" in caught.value.remedy
