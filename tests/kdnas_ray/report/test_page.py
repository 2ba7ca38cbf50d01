"""Specification of `kdnas_ray.report`: one page, whatever the run folder holds, that runs no text of the data."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from report_runs import HOSTILE, TEACHER, retrained, summarise

from kdnas_ray.analysis.importance import Importances
from kdnas_ray.config import read
from kdnas_ray.report import write_report
from kdnas_ray.report.figures import curves_figure, importance_figure, pareto_figure
from kdnas_ray.report.words import architecture_words, duration, origin_words, recipe_words, search_words
from kdnas_ray.runs import append_jsonl, read_jsonl
from search_spaces import Architecture, KdnasError

SECTIONS = ("Accuracy against size", "Learning curves by rung", "Ranking", "The best candidate", "Who was stopped when",
            "Decisions side by side", "How far to trust the ranking", "What mattered", "The search",
            "Do it again")  # fmt: skip


class Page(HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf8"))


def test_report_when_the_run_is_finished_then_shows_every_section_filled(finished):
    page = page_of(finished)
    for section in SECTIONS:
        assert section in page.text
    for phrase in ("c0001 keeps", "500.0×", "+3.00 ± 0.12 points", "mean gain is +2.50 points", "Recipe of c0001",
                   "n = 2 finalists", "kdnas search c.yaml", "torch 9.9", "3 min 20 s in all",
                   "96.10% ± 0.10%"):  # fmt: skip
        assert phrase in page.text
    assert "Nothing to" not in page.text
    drawn = {attributes.get("id") for tag, attributes in page.elements if tag == "div"}
    assert {"pareto", "curves"} <= drawn


def test_report_when_a_ranking_is_not_to_be_trusted_then_warns(finished):
    assert 'class="warning"' not in write_report(finished).read_text()
    summarise(finished, trust_warnings=["The ranking <b>agrees</b> too little."])
    assert (
        '<p class="warning">The ranking &lt;b&gt;agrees&lt;/b&gt; too little.</p>' in write_report(finished).read_text()
    )


def test_report_when_written_then_asks_nothing_of_the_network(finished):
    source = write_report(finished).read_text(encoding="utf8")
    page = Page(source)
    assert not {tag for tag, _ in page.elements} & {"link", "iframe", "object", "embed", "base", "img"}
    assert not [attributes for _, attributes in page.elements if {"src", "srcset"} & set(attributes)]
    assert {attributes["href"][0] for _, attributes in page.elements if "href" in attributes} == {"#"}
    assert "default-src 'none'" in source  # so the browser would refuse whatever was overlooked
    assert source.count("plotly.js v") == 1
    style = re.search(r"<style>(.*?)</style>", source, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_report_when_written_again_then_replaces_the_old_one_in_one_step(finished):
    first = write_report(finished)
    before = first.read_text(encoding="utf8")
    assert first == finished / "report.html"
    assert write_report(finished).read_text(encoding="utf8") == before
    assert not (finished / ".report.html").exists()


def test_report_when_the_folder_is_no_run_then_refuses(tmp_path):
    with pytest.raises(KdnasError, match="not a run folder"):
        write_report(tmp_path)


def test_report_when_text_is_hostile_then_shows_it_and_runs_nothing_of_it(finished, row, tmp_path):
    safe = page_of(finished)
    lines = [json.loads(line) for line in (finished / "candidates.jsonl").read_text().splitlines()]
    (finished / "candidates.jsonl").unlink()
    for line in lines:
        if line["state"] == "failed":
            line["reason"] = HOSTILE
        line["recipe"]["terms"][1] |= {"loss": HOSTILE, "tap": HOSTILE}
        line["architecture"][f"stage1.{HOSTILE}"] = HOSTILE
        append_jsonl(finished / "candidates.jsonl", line)
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["task"]["classes"] = [HOSTILE]
    (finished / "config.yaml").write_text(yaml.safe_dump(config))
    summarise(finished, command=HOSTILE, versions={HOSTILE: HOSTILE}, status=HOSTILE, constraints={HOSTILE: 1})
    renamed = finished.rename(tmp_path / HOSTILE.replace("/", "⁄"))
    page = page_of(renamed)
    assert [tag for tag, _ in page.elements if tag in ("script", "img")] == [
        tag for tag, _ in safe.elements if tag in ("script", "img")
    ]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert (
        page.text.count("onerror=alert(2)") >= 7
    )  # title, headings, reason, recipe, architecture, facts, configuration
    assert "{{ 7*7 }}" in page.text


def test_figures_when_text_is_hostile_then_plotly_is_given_no_tag_of_it(row):
    line = row(0, "complete", [0.5, 0.9]) | {"id": HOSTILE}
    line["recipe"]["terms"][0]["loss"] = HOSTILE
    shares = Importances({HOSTILE: 0.6, "b": 0.4}, 3, 9)
    finalist = {"id": HOSTILE, "val_accuracy": 0.9, "params": 10, "flops": 10}
    figures = pareto_figure([line], [finalist], None), curves_figure([line], [1, 2], HOSTILE), importance_figure(shares)
    for figure in figures:
        told = figure.to_plotly_json()
        shown = [told["layout"].get("yaxis", {}).get("ticktext"), [trace.get("name") for trace in told["data"]]]
        shown += [[trace.get("hovertext"), trace.get("text")] for trace in told["data"]]
        assert not re.search(r"<(script|img|/script)", json.dumps(shown, default=list))
        page = Page(figure.to_html(full_html=False, include_plotlyjs=False))
        assert [tag for tag, _ in page.elements] == ["div", "div", "script"]


@pytest.mark.parametrize(
    "missing",
    [
        ["summary.json"],
        ["summary.json", "retrained.jsonl"],
        ["summary.json", "retrained.jsonl", "teacher.json", "state.json"],
        ["summary.json", "retrained.jsonl", "candidates.jsonl"],
        ["retrained.jsonl"],
        ["candidates.jsonl"],
        ["summary.json", "retrained.jsonl", "candidates.jsonl", "teacher.json", "state.json"],
    ],
)
def test_report_when_files_are_missing_then_is_whole_all_the_same(finished, missing):
    for name in missing:
        (finished / name).unlink()
    text = page_of(finished).text
    for section in SECTIONS:
        assert section in text


def test_report_when_nothing_happened_yet_then_each_empty_section_says_why(configured):
    text = page_of(configured).text
    for reason in ("No candidate was trained in full yet", "no candidate has reached its first rung", "Nothing to rank",
                   "None yet", "at least two retrained finalists", "at least four candidates"):  # fmt: skip
        assert reason in text


def test_report_when_the_metric_is_another_then_names_it_and_shows_plain_numbers(finished):
    summarise(finished, metric="R²", targets="values", chance=0.1)
    source = write_report(finished).read_text(encoding="utf8")
    text = Page(source).text
    assert "test R²; its teacher 0.980." in text
    assert "validation R²" in text
    assert "keeps" not in text
    assert "test accuracy kept" not in text


def test_report_when_the_search_still_runs_then_shows_the_best_so_far(searched):
    text = page_of(searched).text
    assert "c0000 reaches 95.00% on validation" in text
    assert "Not retrained yet" in text
    assert "this page shows what is known so far" in text
    assert "candidates trained 6 in full 3 stopped early 2 failed 1 proposed and not trained" in text
    assert "test without KD" not in text


def test_report_when_the_summary_holds_little_then_is_whole(searched):
    (searched / "summary.json").write_text('{"status": "failed", "trials": 3}')
    text = page_of(searched).text
    assert "No candidate was trained in full yet" in text
    assert "status failed" in text


def test_report_when_the_configuration_is_of_another_version_then_is_whole(searched):
    (searched / "config.yaml").write_text("unheard_of: 1\n")
    assert "c0000 reaches" in page_of(searched).text


def test_report_when_only_candidates_stopped_early_are_known_then_draws_them(configured, row):
    append_jsonl(configured / "candidates.jsonl", row(0, "pruned", [0.4]))
    page = page_of(configured)
    assert "None yet: no candidate was trained in full" in page.text
    assert "pareto" in {attributes.get("id") for _, attributes in page.elements}


def test_report_when_the_only_candidate_is_complete_then_is_whole(configured, row):
    append_jsonl(configured / "candidates.jsonl", row(0, "complete", [0.4] * 9))
    assert "Recipe of c0000" in page_of(configured).text


def complete_with(run: Path, row, space: dict, architecture: dict) -> None:
    config = read({"space": space, "scheduler": {"max_epochs": 9}}).resolved()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    append_jsonl(run / "candidates.jsonl", row(0, "complete", [0.4] * 9) | {"architecture": architecture})


def test_report_when_a_candidate_is_complete_then_holds_the_drawing_of_the_best(configured, row):
    space = {"name": "resnet", "stages": 1, "widths": [24]}
    decisions = {"stem.width": 8, "stage1.depth": 1, "stage1.width": 24, "stage1.kernel": 3, "stage1.block": "basic"}
    complete_with(configured, row, space, decisions)
    page = page_of(configured)
    assert [attributes["role"] for tag, attributes in page.elements if tag == "svg"] == ["img"]
    assert "ResNetSpace" in page.text
    assert "width 24" in page.text  # in the drawing: in the table, name and value are in cells of their own


def test_report_when_the_drawing_holds_hostile_text_then_shows_it_and_runs_nothing_of_it(configured, row, monkeypatch):
    monkeypatch.setattr("kdnas_ray.report.page.decode", lambda space, decisions: Architecture.of(decisions))
    complete_with(configured, row, {"name": "resnet"}, {f"{HOSTILE}.{HOSTILE}": HOSTILE})
    page = page_of(configured)
    drawn = [tag for tag, _ in page.elements if tag in ("svg", "img")]
    assert drawn == ["svg"]
    assert not [script for script in page.scripts if script == "alert(1)"]
    assert page.text.count("onerror=alert(2)") >= 4  # group, decision and value in the drawing, and the table


@pytest.mark.parametrize("decisions", [{"stem.width": 5}, {"stem.width": [1]}, {}])
def test_report_when_the_space_does_not_have_the_best_then_draws_nothing(configured, row, decisions):
    complete_with(configured, row, {"name": "resnet"}, decisions)
    assert "svg" not in {tag for tag, _ in page_of(configured).elements}


def test_report_when_a_proxy_is_an_objective_then_ranks_by_the_front_and_draws_accuracy_against_size(searched):
    config = read({"objectives": ["val_accuracy", "synflow"], "sampler": "nsga2"}).resolved()
    (searched / "config.yaml").write_text(yaml.safe_dump(config))
    rows = read_jsonl(searched / "candidates.jsonl")
    (searched / "candidates.jsonl").unlink()
    for line, synflow in zip(rows, (1.0, 2.0, 3.0, 9.0, 9.0, 9.0, None), strict=True):
        append_jsonl(searched / "candidates.jsonl", line | ({} if synflow is None else {"synflow": synflow}))
    page = page_of(searched)
    assert {"pareto", "curves"} <= {attributes.get("id") for _, attributes in page.elements}
    # More is better: none of the three complete ones is beaten in both, accuracy decides among them.
    text = page.text
    assert text.index("1 c0000 complete") < text.index("2 c0001 complete") < text.index("3 c0002 complete")


def test_report_when_several_objectives_are_searched_then_ranks_by_their_front(searched):
    config = read({"objectives": ["val_accuracy", "params"], "sampler": "nsga2"}).resolved()
    (searched / "config.yaml").write_text(yaml.safe_dump(config))
    text = page_of(searched).text
    # c0002 is beaten in both by c0001
    assert text.index("1 c0000 complete") < text.index("2 c0001 complete") < text.index("3 c0002 complete")
    assert "On the Pareto front of val_accuracy, params among those trained in full, the most accurate first: " in text
    assert page_of(searched).text.count(" yes ") >= 1


def test_report_when_distillation_hurts_then_says_so(finished):
    (finished / "retrained.jsonl").unlink()
    for seed in range(3):
        append_jsonl(finished / "retrained.jsonl", retrained("c0000", seed, True, 0.9, 0.90 + 0.001 * seed))
        append_jsonl(finished / "retrained.jsonl", retrained("c0000", seed, False, 0.9, 0.95))
    summarise(finished)
    page = page_of(finished)
    assert "-4.90 ± 0.25 points" in page.text
    assert ("b", {"class": "bad"}) in page.elements


def test_report_when_the_gain_is_within_chance_then_does_not_praise_it(finished):
    (finished / "retrained.jsonl").unlink()
    for seed, score in enumerate((0.90, 0.95, 0.91)):
        append_jsonl(finished / "retrained.jsonl", retrained("c0000", seed, True, 0.9, score))
        append_jsonl(finished / "retrained.jsonl", retrained("c0000", seed, False, 0.9, 0.91))
    summarise(finished)
    page = page_of(finished)
    assert "The interval includes zero: no clear effect" in page.text
    assert not {attributes.get("class") for _, attributes in page.elements} & {"good", "bad"}


def test_report_when_there_is_a_single_seed_then_says_that_it_carries_no_spread(finished):
    (finished / "retrained.jsonl").unlink()
    append_jsonl(finished / "retrained.jsonl", retrained("c0000", 0, True, 0.9, 0.93))
    append_jsonl(finished / "retrained.jsonl", retrained("c0000", 0, False, 0.9, 0.91))
    summarise(finished)
    page = page_of(finished)
    assert "+2.00 points" in page.text
    assert "this difference carries no spread and may be chance" in page.text
    assert "single training seed" in page.text
    assert ("b", {"class": "good"}) not in page.elements


def test_report_when_the_comparison_without_kd_is_not_done_then_shows_no_gain(finished):
    (finished / "retrained.jsonl").unlink()
    append_jsonl(finished / "retrained.jsonl", retrained("c0000", 0, True, 0.9, 0.93))
    summarise(finished)
    assert "from distillation" not in page_of(finished).text


def test_pareto_when_drawn_then_kinds_differ_in_shape_and_the_front_follows_the_cost(row):
    rows = [
        row(0, "complete", [0.9], params=1000, flops=9000),
        row(1, "complete", [0.8], params=2000, flops=3000),
        row(2, "pruned", [0.3], params=500, flops=500),
    ]
    final = [{"id": "c0000", "val_accuracy": 0.92, "params": 1000, "flops": 9000}]
    figure = pareto_figure(rows, final, TEACHER)
    traces = {(trace.name, trace.meta): trace for trace in figure.data}
    symbols = [trace.marker.symbol for trace in figure.data if trace.mode == "markers"]
    assert len(symbols) == len(set(symbols)) == 4
    assert figure.layout.xaxis.type == "log"
    assert list(traces["Pareto front", "params"].x) == [1000]
    assert list(traces["Pareto front", "flops"].y) == [0.8, 0.9]
    views = figure.layout.meta
    assert list(views) == ["parameters", "FLOPs", "students only"]
    data, axis = views["FLOPs"]
    assert data["x"][1] == [9000, 3000]
    assert [
        shown for shown, trace in zip(data["visible"], figure.data, strict=True) if trace.name == "Pareto front"
    ] == [
        False,
        True,
    ]
    assert axis["xaxis.title.text"] == "FLOPs for one input"
    low, high = views["students only"][1]["xaxis.range"]
    assert 10**low < 500 < 2000 < 10**high < TEACHER["params"]


@pytest.mark.parametrize("known", [{}, {"params": 500_000}])
def test_report_when_the_teachers_size_is_not_known_then_gives_the_students(finished, row, known):
    teacher = {"name": "predictions", "val_accuracy": 0.99, "accuracy": 0.98, **known}
    figure = pareto_figure([row(0, "complete", [0.9])], [], teacher)
    (star,) = [trace for trace in figure.data if trace.name == "teacher"]
    assert list(star.x) == list(known.values())
    summary = json.loads((finished / "summary.json").read_text())
    (finished / "summary.json").write_text(json.dumps({**summary, "teacher": teacher}))
    text = page_of(finished).text
    assert "those of its teacher are not known" in text
    assert ("how many its teacher has is not known" in text) == (not known)


def test_report_when_the_teacher_knows_other_classes_then_no_accuracy_of_it_is_told(finished, row):
    teacher = TEACHER | {"val_accuracy": None, "accuracy": None}
    figure = pareto_figure([row(0, "complete", [0.9])], [], teacher)
    assert [list(trace.x) for trace in figure.data if trace.name == "teacher"] == [[]]
    summary = json.loads((finished / "summary.json").read_text())
    (finished / "summary.json").write_text(json.dumps({**summary, "teacher": teacher}))
    text = page_of(finished).text
    assert "its teacher knows none of the task's classes; its features alone taught" in text
    assert "of the teacher's test accuracy kept" not in text


def test_pareto_when_candidates_are_very_many_then_marks_a_share_and_all_of_the_front(row, monkeypatch):
    monkeypatch.setattr("kdnas_ray.report.figures.MOST_MARKS", 10)
    rows = [row(number, "complete", [0.5 + number / 1000], params=1000 + number) for number in range(100)]
    rows += [row(200 + number, "pruned", [number / 1000], params=100) for number in range(100)]
    rows[33]["params"] = rows[34]["params"] = 1  # both on a front: the second is more accurate, the first cheaper
    rows[33]["flops"] = 1
    stopped, complete = pareto_figure(rows, [], None).data[:2]
    assert len(stopped.x) == 10
    assert {"c0034", "c0099", "c0000"} <= set(complete.text)
    assert len(complete.text) == len(set(complete.text)) < 100
    assert {"scatter"} == {trace.type for trace in pareto_figure(rows, [], None).data}


def test_pareto_when_hovered_then_a_mark_names_its_candidate(row):
    trace = pareto_figure([row(0, "complete", [0.9])], [], None).data[1]
    assert list(trace.text) == ["c0000"]
    assert "%{text}" in trace.hovertemplate


def test_curves_when_drawn_then_rungs_are_lines_and_the_best_is_bold(row):
    rows = [row(0, "complete", [0.1, 0.5, 0.9]), row(1, "pruned", [0.2]), row(2, "complete", [0.1, 0.4, 0.8])]
    figure = curves_figure(rows, [1, 3], "c0000")
    curves = {trace.legendgroup: trace for trace in figure.data if trace.showlegend is False}
    assert curves["best"].line.width > curves["complete"].line.width
    assert curves["stopped early"].opacity < curves["complete"].opacity < curves["best"].opacity
    assert list(curves["best"].y) == [0.1, 0.5, 0.9, None]
    assert list(curves["complete"].text) == ["c0002", "c0002", "c0002", None]
    assert [line.x0 for line in figure.layout.shapes] == [1, 3]
    assert [note.text for note in figure.layout.annotations] == ["rung 1", "rung 3"]


def test_importances_when_drawn_then_the_largest_is_on_top_and_equal_short_names_stay_apart():
    long = "x" * 60
    figure = importance_figure(Importances({long + "a": 0.5, long + "b": 0.3, "c": 0.2}, 3, 50))
    assert list(figure.data[0].x) == [0.2, 0.3, 0.5]
    assert len(set(figure.data[0].y)) == 3
    assert figure.layout.yaxis.ticktext[0] == "c"


def test_recipe_when_said_then_reads_as_a_sentence_would(candidate):
    assert recipe_words(candidate().recipe.to_json() | {"new": {"part": None}})[:6] == [
        ("loss", "0.7 × distillation + 0.3 × labels (alpha 0.7)"),
        ("distillation", "kd, weight 1"),
        ("", "hint at stage2, weight 0.5"),
        ("temperature", "4 to 1, linear"),
        ("learning rate", "0.1"),
        ("weight decay", "0.0005"),
    ]
    assert recipe_words(candidate().recipe.to_json() | {"new": {"part": None}})[-1] == ("new.part", "–")


def test_architecture_when_said_then_is_a_table_of_its_parts():
    titles, body = architecture_words({"stem.width": 4, "stage1.width": 8, "stage1.kernel": 3, "depth": 2})
    assert titles == ["part", "width", "kernel", "choice"]
    assert body == [["stem", "4", "", ""], ["stage1", "8", "3", ""], ["depth", "", "", "2"]]


def test_facts_when_a_bound_is_a_fraction_then_is_told_exactly():
    bounds = {"latency_ms/npu-small": 0.5, "params": 6960.0, "unsupported/npu-small": 0.0}
    told = dict(search_words({"constraints": bounds}))
    assert told == {"at most, latency_ms/npu-small": "0.5", "at most, params": "6,960"}


def test_facts_when_little_is_known_then_leaves_the_rest_out():
    assert search_words({}) == []
    assert origin_words({}) == []
    told = {"failed": 2, "wall_s": None, "seed": 0, "git_commit": None}
    assert (search_words(told), origin_words(told)) == ([("failed", "2")], [("seed", "0")])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.2 s"), (119.0, "119.0 s"), (200.0, "3 min 20 s"), (7260.0, "2 h 1 min")]
)
def test_duration_when_said_then_uses_fitting_units(seconds, text):
    assert duration(seconds) == text


def test_report_when_there_is_an_explanation_then_has_a_section_for_it_and_none_otherwise(finished):
    assert "Why it works" not in page_of(finished).text
    (finished / "explain").mkdir()
    (finished / "explain" / "numbers.json").write_text("[1, 2]")
    (finished / "explain" / "broken.json").write_text("{")
    assert "Why it works" not in page_of(finished).text
    part = {"title": HOSTILE, "sentences": [HOSTILE], "figure": {"data": [{"type": "bar", "text": [HOSTILE]}]}}
    (finished / "explain" / "a.json").write_text(json.dumps(part))
    (finished / "explain" / "b.html").write_text(HOSTILE)
    page = page_of(finished)
    assert "Why it works" in page.text
    assert [attributes["sandbox"] for tag, attributes in page.elements if tag == "iframe"] == [None]
    assert "alert(1)" not in page.scripts
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_report_when_finished_then_says_how_to_do_it_again(finished):
    text = page_of(finished).text
    assert "kdnas search run/config.yaml --out run-again" in text
    assert "seed 7" in text


def test_report_when_a_candidate_was_stopped_then_the_rungs_tell_where(finished):
    text = page_of(finished).text
    assert "3 epochs 5 2 60.00% c0003 , 40.00%" in text.replace("  ", " ")
