"""Specification of `kdnas_ray.explain` where something cannot be looked at: it is said in a sentence, not an error."""

import io
import json
import random
import sys
import types

import numpy as np
import pytest
import yaml
from rich.console import Console

from kdnas_ray import search
from kdnas_ray.config import read
from kdnas_ray.explain import explain
from kdnas_ray.followed import looked_at, variants
from kdnas_ray.live import Narrator
from kdnas_ray.report.reasons import sentences
from kdnas_ray.runs import append_jsonl, read_jsonl
from search_spaces import KdnasError, sample
from trainables.candidate import Candidate
from trainables.recipe import Recipe, Term

SPACE = {"name": "resnet", "stages": 2, "stem_widths": [4], "widths": [4], "depths": [1]}
TEACHER = {"name": "trained", "stem": 4, "widths": [8, 8], "depths": [1, 1], "epochs": 1, "views": 1}


@pytest.fixture
def made(run, tmp_path):
    """Makes a run with one candidate of this recipe."""

    def make(recipe, **settings):
        cache = {"views": 1, "cache": str(tmp_path / "cache")}
        data = {"teachers": [TEACHER], "space": SPACE, "bank": cache, "resources": {"workers": 2}, **settings}
        config = read({**data, "tracking": {"enabled": False}}, [])
        (run / "config.yaml").write_text(yaml.safe_dump(config.resolved()))
        architecture = sample(config.space, random.Random(0))
        row = Candidate("c0000", architecture, recipe, 7).to_json() | {
            "state": "complete", "epochs": 1, "val_accuracy": 0.5, "params": 300, "flops": 1000, "reason": None,
            "curve": [{"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5}], "train_s": 1.0,
        }  # fmt: skip
        append_jsonl(run / "candidates.jsonl", row)
        return run

    return make


def quietly(run, *words, **options):
    console = Console(file=io.StringIO())
    return explain(run, *words, narrator=Narrator(console), **options)


def test_variants_are_the_recipe_without_a_teacher_and_without_each_term():
    recipe = Recipe(terms=(Term("kd"), Term("hint", 0.5, "stage2")))
    found = variants(recipe)
    assert list(found) == ["with", "without", "without kd", "without hint at stage2"]
    assert found["with"] == recipe
    assert found["without"] == recipe.without_teacher()
    assert found["without kd"].terms == (Term("hint", 0.5, "stage2"),)
    assert found["without kd"].alpha == recipe.alpha
    assert list(variants(Recipe())) == ["with", "without"]


def test_looks_are_spread_from_the_begin_to_the_end():
    assert looked_at(1) == [0, 1]
    assert looked_at(27) == [0, 4, 9, 14, 18, 22, 27]


def test_explain_when_there_is_no_such_candidate_or_option_then_refused(made):
    run = made(Recipe().without_teacher())
    with pytest.raises(KdnasError) as refused:
        quietly(run, "c0009")
    assert (refused.value.field, refused.value.value) == ("CANDIDATE", "c0009")
    with pytest.raises(KdnasError) as refused:
        quietly(run)  # it has no best one
    assert "no best candidate" in refused.value.problem
    for field, options in (("--seeds", {"seeds": 0}), ("--epochs", {"epochs": 0})):
        with pytest.raises(KdnasError) as refused:
            quietly(run, "c0000", **options)
        assert refused.value.field == field


def test_explain_when_the_candidate_learned_from_labels_alone_then_says_so_and_trains_nothing(made):
    run = made(Recipe().without_teacher())
    found = quietly(run, "c0000")
    assert found["sentences"]["terms"][0].startswith("This candidate learned from the labels alone")
    assert found["trainings"] == []
    assert "This candidate learned from the labels alone" in (run / "explain.html").read_text()
    assert json.loads((run / "explain" / "c0000.json").read_text()) == found
    assert "This candidate learned from the labels alone" in (run / "report.html").read_text()


@pytest.mark.usefixtures("one_ray")
def test_explain_when_results_are_of_a_table_then_says_so_and_tells_what_the_search_says(table_config, tmp_path):
    run = tmp_path / "run"
    search(table_config("sampler=random"), run, Narrator(Console(file=io.StringIO())))
    found = quietly(run)
    assert found["sentences"]["terms"][0].startswith("The results of this search were looked up in a table")
    # Of 24 candidates a few were proposed several times: they count once.
    trained = [row for row in read_jsonl(run / "candidates.jsonl") if row["curve"]]
    assert found["search"]["decisions"]["candidates"] == len(trained) == 24
    (said,) = found["sentences"]["decisions"]
    assert "(24 candidates)" in said
    assert found["search"]["decisions"]["decisions"][0]["name"] in said


@pytest.mark.usefixtures("one_ray")
def test_explain_when_the_teacher_has_no_layers_then_says_so_and_compares_the_rest(made, monkeypatch):
    answers = types.ModuleType("bright_answers")

    def ten(images):
        """Says that bright images are nines, not quite surely."""
        bright = images.mean(axis=(1, 2, 3))[:, None] / 255
        return np.concatenate([np.tile(1 - bright, 9), 3 * bright], axis=1).astype(np.float32)

    answers.ten = ten
    monkeypatch.setitem(sys.modules, "bright_answers", answers)
    teacher = {"name": "callable", "function": "bright_answers:ten"}
    recipes = {"name": "simple", "hints": [False]}
    run = made(Recipe(batch_size=256), teachers=[teacher], recipes=recipes, constraints={"params": 20000})
    found = quietly(run, "c0000", seeds=1, epochs=1)
    assert found["sentences"]["similarity"] == [
        "The teacher gives no inner features: there is nothing to compare layers with."
    ]
    assert found["effects"]["similarity"] is None
    assert found["effects"]["dark"]["agreement"]["n"] == 1
    assert found["effects"]["gradients"] is not None
    assert "one seed, so there is no interval and it may be chance" in found["sentences"]["terms"][0]


@pytest.mark.usefixtures("one_ray")
def test_explain_when_targets_are_values_then_says_so_and_compares_layers_and_gradients(made):
    settings = {
        "task": {"name": "examples.own_tasks:Diabetes"},
        "teachers": [{"name": "trained", "epochs": 1, "views": 1, "learning_rate": 0.03}],
        "space": {"name": "mlp", "widths": [4]},
    }
    run = made(Recipe(terms=(Term("output_mse"),), learning_rate=0.01), **settings)
    found = quietly(run, "c0000", seeds=2, epochs=2)
    assert found["sentences"]["dark"] == found["sentences"]["probes"]
    assert found["sentences"]["dark"][0].startswith("The targets are values, not classes")
    assert found["effects"]["gradients"]["cosine"]["n"] == 2
    assert "points" not in found["sentences"]["terms"][0]
    # Again: everything is kept, and one more seed is one more pair of trainings.
    assert len(read_jsonl(run / "explain" / "c0000.jsonl")) == 4
    again = quietly(run, "c0000", seeds=2, epochs=2)
    assert again["trainings"] == found["trainings"]
    assert len(read_jsonl(run / "explain" / "c0000.jsonl")) == 4
    assert sentences(again) == found["sentences"]
