"""Specification of `kdnas_ray.analysis.explained`, on trainings whose numbers are chosen by hand."""

import numpy as np
import pytest
from explanations import training

from kdnas_ray.analysis.effects import mean_effect
from kdnas_ray.analysis.explained import effects, similarity_effects


def test_effects_of_terms_are_differences_between_the_same_seeds():
    lines = [
        training("with", 1, accuracy=0.9),
        training("with", 2, accuracy=0.8),
        training("without", 1, accuracy=0.7),
        training("without", 2, accuracy=0.75),
        training("without kd", 1, accuracy=0.85),
        training("without kd", 3, accuracy=0.1),
        {"variant": "with", "seed": 4, "failure": "loss is nan"},
    ]
    whole, term = effects(lines)["terms"]
    assert whole["without"] == "distillation"
    assert whole["effect"] == mean_effect([0.9 - 0.7, 0.8 - 0.75], most=1)
    assert (term["without"], term["effect"]["n"]) == ("kd", 1)
    assert term["effect"]["value"] == pytest.approx(0.05)


def test_effects_of_several_terms_have_wider_intervals_than_each_alone():
    lines = [training(name, seed, accuracy=0.8 + 0.01 * seed * (name == "with"))
             for name in ("with", "without", "without kd", "without hint") for seed in (1, 2, 3)]  # fmt: skip
    whole, *terms = effects(lines)["terms"]
    for term in terms:
        assert term["effect"]["value"] == whole["effect"]["value"]
        assert term["effect"]["high"] - term["effect"]["low"] > whole["effect"]["high"] - whole["effect"]["low"]


def test_similarity_when_layers_are_alike_then_each_resembles_its_own():
    lines = [training("with", seed, similarity=0.6 + 0.01 * seed) for seed in (1, 2, 3)]
    lines += [training("without", seed, similarity=0.4) for seed in (1, 2, 3)]
    found = similarity_effects(lines)
    assert found["mean"] == {"with": pytest.approx(0.62), "without": pytest.approx(0.4)}
    assert found["closeness"]["value"] == pytest.approx(0.22)
    for tap in ("stage1", "stage2"):
        assert found["layers"][tap]["resembles"]["with"] == [tap] * 3


def test_similarity_when_the_teacher_has_no_layers_then_none():
    lines = [training("with", 1), training("without", 1)]
    for line in lines:
        for look in line["looks"]:
            look["similarity"] = {}
    assert similarity_effects(lines) is None
    assert effects(lines)["similarity"] is None


def test_gradients_are_means_over_looks_then_over_seeds():
    lines = [training("with", 1, cosine=0.2), training("with", 2, cosine=0.4), training("without", 1)]
    lines[0]["looks"][1]["gradients"] = training("with", 1, cosine=0.6)["looks"][0]["gradients"]
    found = effects(lines)["gradients"]
    assert found["cosine"]["value"] == pytest.approx(np.mean([(0.2 + 0.6) / 2, 0.4]))
    shares = [found["stages"][name]["share"]["distillation"]["value"] for name in ("stem", "stage1", "classifier")]
    assert shares == pytest.approx([1 / 21, 4 / 21, 16 / 21])
    assert found["stages"]["stem"]["share"]["labels alone"]["value"] == pytest.approx(1 / 3)
    assert found["strongest"] == ["classifier", "classifier"]
    assert found["depth"]["value"] == pytest.approx(2 - 3)


def test_effects_when_nothing_was_trained_or_targets_are_no_classes_then_parts_are_none():
    assert effects([]) == {"terms": [], "similarity": None, "probes": None, "gradients": None, "dark": None}
    lines = [training("with", 1), training("without", 1)]
    for line in lines:
        line["end"] = {}
    found = effects(lines)
    assert found["probes"] is None
    assert found["dark"] is None
    assert found["gradients"] is not None
