"""Specification of `kdnas_ray.table_search`: a whole search through Ray that trains nothing."""

import html
import json

import pytest

from kdnas_ray import search
from kdnas_ray.config import read
from kdnas_ray.driver import resume, retrain
from kdnas_ray.export import export
from kdnas_ray.live import Narrator
from kdnas_ray.runs import read_jsonl
from kdnas_ray.table_search import plan_table
from search_spaces import KdnasError
from search_spaces.notation import parse

pytestmark = pytest.mark.usefixtures("one_ray")


@pytest.fixture
def config(table_config):
    return table_config


@pytest.fixture
def table(table_file):
    return table_file


def test_search_finds_the_best_of_the_table_and_trains_nothing_twice(config, tmp_path):
    result = search(config("sampler=random", "scheduler={name: full, max_epochs: 5}"), tmp_path / "run", Narrator())
    rows = [row for row in result.candidates if row["state"] != "rejected"]
    assert len(rows) == 24  # each architecture of the space, once
    assert len({json.dumps(row["architecture"]) for row in rows}) == 24
    best = result.summary["best"]
    assert best["architecture"] == {
        "stem.width": 8, "stage1.depth": 2, "stage1.width": 16, "stage1.kernel": 3, "stage1.block": "basic",
    }  # fmt: skip
    assert (best["val_accuracy"], best["test_accuracy"], best["params"]) == (0.80, 0.79, 3200)
    assert result.summary["teacher"]["val_accuracy"] == 0.80
    assert result.summary["train_s"] == 24 * 5
    # Nothing was trained, and search and finalists read the same number.
    assert (result.summary["utilisation"], result.summary["kendall_tau"]) == (None, None)
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert "Recipe of" not in page
    assert "teacher's test accuracy" not in page
    assert "keeps 100.0% of the table's best test accuracy" in page
    assert "looked up in the table" in page
    with pytest.raises(KdnasError, match="looked up in a table"):
        export(tmp_path / "run", "onnx")
    with pytest.raises(KdnasError, match="nothing is trained"):
        retrain(tmp_path / "run", 3, Narrator())


@pytest.mark.slow
def test_search_when_resumed_goes_on_with_the_same_table(config, tmp_path):
    search(config("budget.trials=5"), tmp_path / "run", Narrator())
    resume(tmp_path / "run", ["budget.trials=9"], Narrator())
    rows = read_jsonl(tmp_path / "run" / "candidates.jsonl")
    assert sum(row["state"] in ("complete", "pruned") for row in rows) == 9
    assert {row["state"] for row in rows} <= {"complete", "pruned", "rejected"}


def test_plan_takes_costs_and_the_reference_from_the_table(config):
    made = plan_table(config(constraints={"params": {"of_teacher": 0.5}}))
    assert made.teacher_costs == {"params": 3200, "flops": 160}
    assert made.bounds == {"params": 1600}


def test_plan_when_no_architecture_keeps_the_bounds_then_says_so(config):
    with pytest.raises(KdnasError) as caught:
        plan_table(config(constraints={"params": 10}))
    assert caught.value.field == "constraints"


def test_plan_when_the_table_holds_nothing_of_the_space_then_says_so(config, table, tmp_path):
    (text, entry), *_ = json.loads(table.read_text()).items()
    (tmp_path / "one.json").write_text(json.dumps({text: entry}))
    with pytest.raises(KdnasError) as caught:
        plan_table(config(f"evaluator.path={tmp_path / 'one.json'}", "space.stem_widths=[8]", "space.widths=[8]"))
    assert caught.value.field == "evaluator.path"


@pytest.mark.slow
def test_search_when_the_table_is_incomplete_then_trains_what_it_holds_and_within_a_column_of_latencies(
    config, table, tmp_path
):
    entries = list(json.loads(table.read_text()).items())[::2]
    held = {text: entry | {"latency_ms_phone": 1.0 + index} for index, (text, entry) in enumerate(entries)}
    (tmp_path / "half.json").write_text(json.dumps(held))
    chosen = config(
        f"evaluator.path={tmp_path / 'half.json'}",
        "sampler=random",
        "scheduler={name: full, max_epochs: 5}",
        constraints={"latency_ms": {"device": "phone", "max": 8}},
    )
    assert plan_table(chosen).bounds == {"latency_ms/phone": 8.0, "unsupported/phone": 0.0, "unsupported/table": 0.0}
    result = search(chosen, tmp_path / "run", Narrator())
    trained = [row for row in result.candidates if row["state"] != "rejected"]
    assert {row["state"] for row in trained} == {"complete"}
    assert sorted(row["latency_ms/phone"] for row in trained) == [float(number) for number in range(1, 9)]


@pytest.mark.parametrize(("key", "value"), [("teachers", ["trained"]), ("recipes", "simple")])
def test_configuration_when_it_asks_a_table_for_distillation_then_is_refused(config, key, value):
    with pytest.raises(KdnasError) as caught:
        config(**{key: value})
    assert caught.value.field == key


def test_configuration_when_read_again_then_is_the_same(config):
    assert read(config().resolved()) == config()


def test_search_when_curves_are_extrapolated_then_stops_the_hopeless_and_a_resumed_one_goes_on_so(config, tmp_path):
    scheduler = {"name": "extrapolate", "max_epochs": 9, "grace_epochs": 2, "every_epochs": 1, "confidence": 0.3}
    result = search(config("sampler=random", "budget.trials=14", scheduler=scheduler), tmp_path / "run", Narrator())
    result = resume(tmp_path / "run", ["budget.trials=24"], Narrator())
    rows = [row for row in result.candidates if row["state"] != "rejected"]
    assert len(rows) == 24
    assert result.summary["best"]["val_accuracy"] == 0.80
    stopped = [row for row in rows if row["state"] == "pruned"]
    assert stopped
    assert {row["epochs"] for row in stopped} <= set(range(2, 9))
    assert any(row["state"] == "pruned" for row in rows[14:])


@pytest.mark.slow
def test_search_when_candidates_wait_at_rungs_then_only_the_best_go_on_and_a_resumed_one_goes_on_so(config, tmp_path):
    scheduler = {"name": "asha-promote", "max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3}
    search(config("sampler=random", "budget.trials=12", scheduler=scheduler), tmp_path / "run", Narrator())
    result = resume(tmp_path / "run", ["budget.trials=24"], Narrator())
    rows = [row for row in result.candidates if row["state"] != "rejected"]
    assert len(rows) == 24
    reached = [sum(row["epochs"] >= rung for row in rows) for rung in (1, 3, 9)]
    assert reached[0] == 24
    assert 1 <= reached[2] < reached[1] < 16  # a third each, a few more for those that were among few at first
    assert result.summary["best"]["val_accuracy"] == 0.80
    assert not any(row["reason"] for row in rows)


@pytest.mark.parametrize("value", [None, "absent"])
@pytest.mark.parametrize("place", [0, 1])
def test_plan_when_a_latency_is_missing_then_that_architecture_breaks_the_bound(config, table, tmp_path, place, value):
    """An empty cell of a Parquet table is a null, and the first line is like any other."""
    entries = {text: entry | {"latency_ms_phone": 1.0} for text, entry in json.loads(table.read_text()).items()}
    text = list(entries)[place]
    entries[text] = {name: found for name, found in entries[text].items() if name != "latency_ms_phone"}
    entries[text] |= {"latency_ms_phone": None} if value is None else {}
    (tmp_path / "gap.json").write_text(json.dumps(entries))
    chosen = config(
        f"evaluator.path={tmp_path / 'gap.json'}", constraints={"latency_ms": {"device": "phone", "max": 8}}
    )
    made = plan_table(chosen)
    assert [text for text in entries if not made.keeps(parse(chosen.space, text))] == [text]


@pytest.mark.parametrize("value", ["3 ms", [1.0, 2.0], float("nan"), -1.0, 0, True])
def test_plan_when_a_latency_is_no_positive_number_then_is_refused(config, table, tmp_path, value):
    entries = {text: entry | {"latency_ms_phone": 1.0} for text, entry in json.loads(table.read_text()).items()}
    list(entries.values())[3]["latency_ms_phone"] = value
    (tmp_path / "odd.json").write_text(json.dumps(entries))
    chosen = config(
        f"evaluator.path={tmp_path / 'odd.json'}", constraints={"latency_ms": {"device": "phone", "max": 8}}
    )
    with pytest.raises(KdnasError) as caught:
        plan_table(chosen)
    assert caught.value.field == "evaluator.path"


@pytest.mark.parametrize(
    "asked",
    [
        {"constraints": {"memory_mb": {"device": "phone", "max": 8}}},
        {"objectives": ["val_accuracy", "memory_mb/phone"], "sampler": "nsga2"},
    ],
)
def test_plan_when_memory_is_meant_on_a_column_of_latencies_then_is_refused(config, table, tmp_path, asked):
    entries = {text: entry | {"latency_ms_phone": 1.0} for text, entry in json.loads(table.read_text()).items()}
    (tmp_path / "phone.json").write_text(json.dumps(entries))
    with pytest.raises(KdnasError) as caught:
        plan_table(config(f"evaluator.path={tmp_path / 'phone.json'}", **asked))
    assert caught.value.field == "memory_mb/phone"


def test_search_when_latencies_to_be_optimised_are_missing_then_those_are_not_trained(config, table, tmp_path):
    entries = {text: entry | {"latency_ms_phone": 1.0} for text, entry in json.loads(table.read_text()).items()}
    for text in list(entries)[::3]:
        del entries[text]["latency_ms_phone"]
    (tmp_path / "gaps.json").write_text(json.dumps(entries))
    more = {"devices": ["phone"], "objectives": ["val_accuracy", "latency_ms"], "sampler": "random"}
    full = "scheduler={name: full, max_epochs: 5}"
    chosen = config(f"evaluator.path={tmp_path / 'gaps.json'}", full, "budget.trials=12", **more)
    result = search(chosen, tmp_path / "run", Narrator())
    trained = [row for row in result.candidates if row["state"] != "rejected"]
    assert [row["latency_ms/phone"] for row in trained] == [1.0] * 12
    rejected = [row["reason"] for row in result.candidates if row["state"] == "rejected"]
    assert set(rejected) <= {"the table does not hold it"} | {text for text in rejected if "not trained again" in text}
