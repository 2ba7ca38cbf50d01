"""Specification of `kdnas_ray.report.comparison`: one page for several runs, whatever is known of them."""

import json

import pytest
import yaml
from report_runs import HOSTILE, wide_run

from kdnas_ray.config import read
from kdnas_ray.report.comparison import COLOURS, Side, fronts_figure, progress_figure, write_comparison
from search_spaces import KdnasError


def side(name, rows, **summary):
    return Side(name, COLOURS[0], "circle", summary, rows)


@pytest.fixture
def runs(tmp_path):
    for name, candidates in (("first", 20), ("second", 14)):
        wide_run(tmp_path / name, candidates)
    return [tmp_path / "first", tmp_path / "second"]


def test_page_when_written_then_shows_both_runs_and_where_they_differ(runs, tmp_path):
    config = yaml.safe_load((runs[1] / "config.yaml").read_text())
    (runs[1] / "config.yaml").write_text(yaml.safe_dump(config | {"seed": 5}))
    summary = json.loads((runs[1] / "summary.json").read_text())
    summary["best"] |= {
        "params": summary["best"]["params"] * 2,
        "test_accuracy": summary["best"]["test_accuracy"] - 0.05,
    }
    (runs[1] / "summary.json").write_text(json.dumps(summary))
    source = write_comparison(runs, tmp_path / "pages" / "both.html").read_text(encoding="utf8")
    assert "second: -5.00 points against first on test, 2.0 times more parameters" in source
    assert "the difference is more than the spread of their seeds" in source
    assert '<th scope="row" class="left">seed</th><td class="value">0</td><td class="value">5</td>' in source
    assert source.count("plotly.js v") == 1
    for name in ("size-chart", "progress-chart"):
        assert f'id="{name}"' in source


def test_page_when_text_is_hostile_then_holds_no_element_of_it(runs, tmp_path):
    for run in runs:
        lines = (run / "candidates.jsonl").read_text().replace("c0004", json.dumps(HOSTILE)[1:-1])
        (run / "candidates.jsonl").write_text(lines)
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"status": HOSTILE, "metric": HOSTILE}))
    odd = runs[0].rename(tmp_path / HOSTILE.replace("/", "⁄"))
    source = write_comparison([odd, runs[1]], tmp_path / "both.html").read_text(encoding="utf8")
    assert "<img" not in source.split('id="plotly"')[0]
    assert "<script>alert(1)" not in source


def test_page_when_nothing_is_known_of_a_run_then_is_whole(runs, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text(yaml.safe_dump(read({}).resolved()))
    source = write_comparison([empty, runs[0]], tmp_path / "both.html").read_text(encoding="utf8")
    assert "no candidate was trained in full yet" in source
    source = write_comparison([empty, empty], tmp_path / "both.html").read_text(encoding="utf8")
    assert source.count("Nothing to show") == 2


def test_page_when_the_file_cannot_be_one_then_refuses_before_it_reads(tmp_path):
    with pytest.raises(KdnasError, match="is an HTML file"):
        write_comparison([tmp_path, tmp_path], tmp_path / "page.pdf")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(KdnasError, match="is a folder"):
        write_comparison([tmp_path, tmp_path], tmp_path / "folder.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(KdnasError, match="cannot be created"):
        write_comparison([tmp_path, tmp_path], tmp_path / "file" / "page.html")


def test_progress_when_drawn_then_rises_only_when_a_candidate_that_was_trained_in_full_is_better(row):
    ends = [("complete", 0.5), ("pruned", 0.9), ("complete", 0.4), ("complete", 0.7), ("failed", None)]
    rows = [
        row(number, state, [] if score is None else [score]) | {"ended_s": 10.0 * (number + 1)}
        for number, (state, score) in enumerate(ends)
    ]
    figure = progress_figure([side("a", rows[::-1])])
    (line,) = figure.data
    assert (list(line.x), list(line.y)) == ([10, 40, 50], [0.5, 0.7, 0.7])
    assert figure.layout.meta["by candidate"][0] == {"x": [[1, 4, 5]]}


def test_fronts_when_drawn_then_hold_what_nothing_beats_and_the_teachers_line(row):
    rows = [
        row(0, "complete", [0.9], params=3000),
        row(1, "complete", [0.8], params=1000),
        row(2, "complete", [0.7], params=2000),
    ]
    figure = fronts_figure([side("a", rows, teacher={"val_accuracy": 0.95})])
    assert list(figure.data[0].x) == [1000, 3000]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.95]
