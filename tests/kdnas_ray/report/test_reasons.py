"""Specification of `kdnas_ray.report.reasons`: a sentence says no more than the interval of its numbers allows."""

import re

import pytest
from explanations import explained, training
from hypothesis import given
from hypothesis import strategies as st

from kdnas_ray.analysis.effects import Effect, clear, mean_effect, rank_correlation
from kdnas_ray.report.reasons import POINTS, Unit, sentences, verdict

# What stands only in sentences that claim something.
CLAIMS = (
    "scores more", "scores less", "score more", "score less", "brought the student's", "better with distillation",
    "worse with distillation", "is better calibrated", "is worse calibrated", "distillation agree",
    "distillation fight",
    "they agree", "they fight", "confusions are", "says what its teacher says more", "says what its teacher says less",
    "accuracy rises", "accuracy falls", "gain by it", "lose by it", "the more an", "the less an", "spreads over more",
    "spreads over fewer",
)  # fmt: skip
DIFFERENCES = st.lists(st.floats(-0.3, 0.3).map(lambda value: round(value, 3)), min_size=1, max_size=5)


def claims(sentence: str) -> bool:
    open_ = sentence.startswith(("Whether", "At no layer", "Of ")) or "neither clearly" in sentence
    return not open_ and any(words in sentence for words in CLAIMS)


def trainings(differences, **measures):
    """Trainings with and without a teacher that differ in these measures by so much in each seed."""
    found = []
    for seed, difference in enumerate(differences, start=1):
        found.append(training("with", seed, **{name: start + difference for name, start in measures.items()}))
        found.append(training("without", seed, **measures))
    return found


@given(DIFFERENCES)
def test_sentences_claim_an_effect_only_where_its_interval_leaves_out_zero(differences):
    measures = {"accuracy": 0.5, "similarity": 0.6, "probe": 0.5, "likeness": 0.5, "error": 0.4, "agreement": 0.5}
    found = explained(trainings(differences, **measures))
    said, effects = sentences(found), found["effects"]
    parts = {
        "terms": (effects["terms"][0]["effect"], said["terms"][0]),
        "similarity": (effects["similarity"]["closeness"], said["similarity"][0]),
        "likeness": (effects["dark"]["likeness"], said["dark"][0]),
        "calibration": (effects["dark"]["calibration_error"], said["dark"][1]),
        "agreement": (effects["dark"]["agreement"], said["dark"][2]),
        "accuracy": (effects["dark"]["accuracy"], said["dark"][3]),
    }
    for effect, sentence in parts.values():
        assert claims(sentence) == clear(effect), sentence
        if not clear(effect):
            assert "which includes zero" in sentence or "no interval and it may be chance" in sentence
    probes = effects["probes"].values()
    assert any(map(claims, said["probes"])) == any(map(clear, probes))


@given(DIFFERENCES)
def test_sentence_on_gradients_says_agree_or_fight_only_where_the_interval_has_one_sign(cosines):
    lines = [training("with", seed, cosine=value) for seed, value in enumerate(cosines, start=1)]
    found = explained([*lines, training("without", 1)])
    effect, sentence = found["effects"]["gradients"]["cosine"], sentences(found)["gradients"][0]
    assert claims(sentence) == clear(effect)
    if clear(effect):
        assert ("agree;" in sentence) == (effect["low"] > 0)
        assert ("fight;" in sentence) == (effect["high"] < 0)


def test_sentences_say_the_numbers_that_they_rest_on():
    found = explained(trainings([0.02, 0.03, 0.025], accuracy=0.9))
    effect = found["effects"]["terms"][0]["effect"]
    sentence = sentences(found)["terms"][0]
    numbers = list(map(float, re.findall(r"[+-]\d+\.\d+", sentence)))
    assert numbers == [round(100 * effect[name], 2) for name in ("value", "low", "high")]
    assert sentence.startswith("With distillation c0007 scores more on validation")
    assert sentence.endswith("3 seeds).")


def test_verdict_when_the_effect_is_negative_or_unknown():
    words = ("up", "down", "open", POINTS)
    assert verdict(mean_effect([-0.02, -0.021]), *words).startswith("down: -2.05 points")
    assert verdict(mean_effect([]), *words) == "open: it was not measured"
    assert verdict(mean_effect([0.01]), *words).endswith("(one seed, so there is no interval and it may be chance)")
    assert "the same in all 3 seeds" in verdict(mean_effect([0.01] * 3), *words)


def test_unit_has_no_negative_zero():
    assert Unit(100, 2).number(-0.00001) == "+0.00"


def test_sentence_on_layers_names_one_only_where_all_seeds_agree():
    lines = trainings([0.1, 0.1, 0.12], similarity=0.5)
    rows = lines[0]["looks"][-1]["similarity"]["stage2"] = {"stage1": 0.9, "stage2": 0.1, "penultimate": 0.0}
    assert rows
    said = " ".join(sentences(explained(lines))["similarity"])
    assert "In all 3 seeds stage1 is most like the teacher's stage1" in said
    assert "Which of the teacher's layers stage2 is most like differs between seeds" in said


def test_sentence_on_decisions_names_those_above_the_noise_only():
    def row(name, low, value, high):
        return {"name": name, "value": value, "low": low, "high": high}

    rows = [row("alpha", 0.3, 0.5, 0.7), row("stage1.width", 0.05, 0.2, 0.4)]
    shares = {"epochs": 3, "candidates": 40, "noise": 0.2, "noise_of_pairs": 0.1, "decisions": rows, "pairs": []}
    search = {"decisions": shares, "rung": 3, "pairs": [], "gains": [], "gap": []}
    (said,) = sentences(explained([], search=search))["decisions"]
    assert "alpha explains 50 % (95 % interval 30 to 70 %)" in said
    assert "stage1.width" not in said
    shares["noise"] = 0.35
    (said,) = sentences(explained([], search=search))["decisions"]
    assert "no decision explains clearly more on its own than chance: the largest share is 50 %, of alpha" in said


def test_sentence_on_pairs_of_the_search_says_that_recipes_differ_otherwise():
    pairs = [{"term": "hint", "effect": mean_effect([0.02, 0.03, 0.025])}]
    search = {"decisions": None, "rung": 3, "pairs": pairs, "gains": [], "gap": []}
    said = sentences(explained([], search=search))["terms"][0]
    assert "with and without hint score more with it after 3 epochs" in said
    assert said.endswith("their recipes differ in other settings too.")


def test_sentence_on_capacity_when_few_or_unclear_or_clear():
    gains = [
        {"id": f"c{n}", "architecture": str(n), "gain": mean_effect([0.01 * n]), "without": 0.9, "traits": {}}
        for n in range(12)
    ]
    search = {"decisions": None, "rung": 3, "pairs": [], "gains": gains[:3], "gap": []}
    assert "3 of them were retrained with and without it" in sentences(explained([], search=search))["gap"][0]
    unclear = [{"trait": "params", "effect": rank_correlation([1, 2, 3, 4, 5, 6], [3, 1, 2, 6, 4, 5])}]
    said = sentences(explained([], search=search | {"gains": gains, "gap": unclear}))["gap"][0]
    assert "none clearly goes with the gain" in said
    steep = rank_correlation([float(n) for n in range(12)], [-float(n) for n in range(10)] + [-11.0, -10.0])
    said = sentences(explained([], search=search | {"gains": gains, "gap": [{"trait": "params", "effect": steep}]}))
    assert said["gap"][0].startswith("The larger params, the less an architecture gains by distillation")


def test_sentences_when_parts_are_lacking_then_the_reason_is_said():
    found = explained(trainings([0.1, 0.2], accuracy=0.5), lacking={"similarity": "No layers.", "dark": "No outputs."})
    found["effects"] |= {"similarity": None, "dark": None}
    said = sentences(found)
    assert said["similarity"] == ["No layers."]
    assert said["dark"] == ["No outputs."]
    said = sentences(explained([], lacking={"trainings": "Nothing was trained."}))
    assert said["terms"][0] == "Nothing was trained."
    assert "similarity" not in said


def test_sentences_when_trainings_diverged_then_that_is_said():
    lines = [*trainings([0.1, 0.2], accuracy=0.5), {"variant": "with", "seed": 9, "failure": "loss is nan"}]
    assert sentences(explained(lines))["terms"][0] == "1 of 5 trainings diverged and are left out."
    failed = [{"variant": name, "seed": 1, "failure": "loss is nan"} for name in ("with", "without")]
    said = sentences(explained(failed))
    assert said["terms"][0] == "2 of 2 trainings diverged and are left out."
    assert "gradients" not in said


@pytest.mark.parametrize("effect", [Effect(value=0.1, low=-0.1, high=0.3, n=3)])
def test_verdict_when_open_then_neither_more_nor_less_is_said(effect):
    said = verdict(effect, "it rises", "it falls", "it is open", POINTS)
    assert said == "it is open: +10.00 points (95 % interval -10.00 to +30.00, which includes zero; 3 seeds)"
