"""Specification of `kdnas_ray.report.candidates`: the page's table says of each candidate what its line says."""

import json
import random

import pytest

from kdnas_ray.analysis.importance import Importances
from kdnas_ray.report.candidates import MOST_LINES, candidate_table, parallel_figure


def told(table: dict, place: int) -> dict:
    """What a table says of the candidate at this place."""
    found = {}
    for column in table["columns"]:
        if "numbers" in column:
            found[column["name"]] = column["numbers"][place]
        else:
            code = column["codes"][place] if column["codes"] else 0
            found[column["name"]] = column["values"][code] if code >= 0 else None
    return found


def test_table_when_read_back_then_holds_results_costs_decisions_and_recipe(row):
    rows = [row(0, "complete", [0.5, 0.75], params=1234), row(1, "pruned", [0.25])]
    rows[1]["architecture"] = {"width": 8, "extra": "new"}
    rows[1]["recipe"]["alpha"] = 0.25
    table = candidate_table(rows)
    assert (table["id"], table["state"], table["epochs"]) == (["c0000", "c0001"], ["complete", "stopped early"], [2, 1])
    first, second = told(table, 0), told(table, 1)
    assert (first["val_accuracy"], first["params"], first["width"], first["extra"]) == (0.75, 1234, 8, None)
    assert (first["alpha"], second["alpha"], second["extra"]) == (0.7, 0.25, "new")
    assert first["losses"] == "kd, weight 1 + hint at stage2, weight 0.5"
    assert first["temperature"] == "4 to 1, linear"
    assert "ensemble" not in first  # nobody chose it


def test_table_when_candidates_are_many_then_takes_little_room(row):
    draw = random.Random(0)
    rows = [row(number, "pruned", [draw.random()]) for number in range(2000)]
    for line in rows:
        line["recipe"] |= {"alpha": draw.random(), "learning_rate": draw.random()}
    table = candidate_table(rows)
    assert len(json.dumps(table, separators=(",", ":"))) < 120 * len(rows)
    assert told(table, 7)["alpha"] == pytest.approx(rows[7]["recipe"]["alpha"], rel=1e-3)


def varied(row, number: int = 6):
    rows = [row(index, "complete", [0.5 + index / 100], params=1000 * (index + 1)) for index in range(number)]
    for index, line in enumerate(rows):
        line["architecture"] = {"width": 4 * (1 + index % 3), "block": "ab"[index % 2], "same": 1}
    return rows


def test_parallel_when_drawn_then_decisions_that_explain_most_come_first_and_accuracy_last(row):
    found = Importances({"block": 0.7, "width": 0.3}, 9, 6)
    (lines,) = parallel_figure(varied(row), found).data
    assert [axis.label for axis in lines.dimensions] == ["block", "width", "parameters", "validation accuracy"]
    assert list(lines.dimensions[0].ticktext) == ["a", "b"]
    assert list(lines.dimensions[1].values) == [0, 1, 2, 0, 1, 2]


def test_parallel_when_few_are_complete_then_draws_those_stopped_early_too(row):
    rows = [line | {"state": "pruned"} for line in varied(row)]
    (lines,) = parallel_figure(rows, None).data
    assert len(lines.dimensions[-1].values) == 6


def test_parallel_when_candidates_are_very_many_then_draws_a_share(row):
    (lines,) = parallel_figure(varied(row, MOST_LINES + 100), None).data
    assert len(lines.dimensions[-1].values) == MOST_LINES


def test_parallel_when_no_decision_differs_then_there_is_none(row):
    assert parallel_figure([row(0, "complete", [0.5]), row(1, "complete", [0.6])], None) is None


def test_parallel_when_text_is_hostile_then_plotly_is_given_no_tag_of_it(row):
    rows = varied(row)
    for line in rows:
        line["architecture"] = {"<img src=x>": line["architecture"]["block"] + "<script>"}
    assert "<" not in json.dumps(parallel_figure(rows, None).to_plotly_json()["data"][0]["dimensions"], default=list)
