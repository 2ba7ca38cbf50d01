"""Specification of `kdnas_ray.report.explain_page`, `reason_parts` and `reason_figures`."""

import json
import os

import pytest
from explanations import explained, training

from kdnas_ray.analysis.effects import mean_effect
from kdnas_ray.report import write_explanation
from kdnas_ray.report.explanation import explanation
from kdnas_ray.report.reason_figures import confusion_figure, decisions_figure, gradients_figure, terms_groups
from kdnas_ray.report.reason_parts import TITLES, shown
from kdnas_ray.report.reason_parts import explained as parts_of

ODD = "</script><b>dog & 'cat'</b>"


@pytest.fixture
def found():
    lines = [training(name, seed, accuracy=0.9 + 0.01 * seed) for name in ("with", "without") for seed in (1, 2)]
    rows = [
        {"name": "alpha", "low": 0.3, "value": 0.5, "high": 0.7},
        {"name": ODD, "low": 0, "value": 0.1, "high": 0.2},
    ]
    shares = {"epochs": 3, "candidates": 40, "noise": 0.2, "noise_of_pairs": 0.1, "decisions": rows, "pairs": rows}
    gains = [
        {
            "id": f"c{n}",
            "architecture": str(n),
            "gain": mean_effect([0.01 * n, 0.02]),
            "traits": {"params": n},
            "without": 0,
        }
        for n in range(3)
    ]
    search = {"decisions": shares, "rung": 3, "pairs": [], "gains": gains, "gap": []}
    return explained(lines, search=search)


def test_every_part_has_its_title_sentences_and_pictures(found):
    parts = parts_of(found)
    assert [part["title"] for part in parts] == list(TITLES.values())
    counts = {part["name"]: len(part["pictures"]) for part in parts}
    assert counts == {
        "terms": 1, "similarity": 2, "probes": 1, "gradients": 2, "dark": 2, "decisions": 1, "pairs": 1, "gap": 1,
    }  # fmt: skip
    for part in parts:
        assert part["sentences"]
        assert all(picture.words for picture in part["pictures"])


def test_page_holds_all_parts_and_no_text_ends_its_script(found, run):
    found["teacher"]["classes"] = [ODD, "dog", "frog"]
    page = write_explanation(run, found).read_text()
    for title in TITLES.values():
        assert title.replace("'", "&#39;") in page
    assert ODD not in page
    assert page.count("data-chart role") == 11


def test_report_shows_the_best_candidates_explanation_else_the_latest(found, run):
    (run / "explain").mkdir()
    for age, name in ((30, "c0001"), (20, "c0002"), (10, "c0003")):
        path = run / "explain" / f"{name}.json"
        path.write_text(json.dumps(found | {"candidate": name}))
        os.utime(path, (10**9 - age, 10**9 - age))
    assert shown(run).stem == "c0003"
    (run / "summary.json").write_text(json.dumps({"best": {"id": "c0001"}}))
    assert shown(run).stem == "c0001"
    titles = [part["title"] for part in explanation(run)]
    assert titles[0] == "c0001: what distillation brought"
    assert len(titles) == len(TITLES)
    for path in (run / "explain").glob("*.json"):
        path.write_text(json.dumps({"format": 99}))
    assert explanation(run) == []


def test_decisions_figure_is_grey_where_noise_is_not_exceeded(found):
    rows = found["search"]["decisions"]["decisions"]
    bars = decisions_figure(rows, 0.2).data[0]
    assert list(bars.x) == [0.1, 0.5]  # the largest on top
    assert bars.marker.color[0] != bars.marker.color[1]
    assert len(set(decisions_figure(rows, 0.4).data[0].marker.color)) == 1


def test_gradients_figure_has_a_view_for_cosine_and_each_norm(found):
    figure = gradients_figure(found["trainings"])
    assert list(figure.layout.meta) == ["cosine", "norm: labels", "norm: kd"]
    assert [trace.name for trace in figure.data] == ["stem", "stage1", "classifier"]
    data, _ = figure.layout.meta["norm: kd"]
    assert data["y"] == [[1, 1], [2, 2], [4, 4]]


def test_confusion_figure_leaves_the_diagonal_out(found):
    figure = confusion_figure(found["trainings"], found["teacher"])
    teacher = figure.data[0].z
    assert [teacher[place][place] for place in range(3)] == [None] * 3
    assert teacher[0][1] == 0.2
    found["teacher"]["outputs"] = None
    assert confusion_figure(found["trainings"], found["teacher"]) is None


def test_terms_leave_out_the_searchs_own_trainings_of_the_candidate(found):
    found["candidate"] = "c1"
    groups = terms_groups(found)
    assert [name for name, _ in groups["retrained by the search"]] == [
        "c0 retrained", "c2 retrained", "mean of 3 architectures",
    ]  # fmt: skip
