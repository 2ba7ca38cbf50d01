"""Specification of `kdnas_ray.calibrate`, on searches of a table: nothing is trained, the truth is known."""

import io
import json
import shutil

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy import stats

from kdnas_ray import search
from kdnas_ray.calibrate import calibrate, calibration_table, stratified
from kdnas_ray.config import read
from kdnas_ray.live import Narrator
from kdnas_ray.report import write_report
from kdnas_ray.runs import append_jsonl, read_jsonl
from search_spaces import KdnasError

pytestmark = pytest.mark.usefixtures("one_ray")


@pytest.fixture(scope="module")
def searched(table_config, tmp_path_factory):
    """Run folder of a search on a table with early stopping."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    narrator = Narrator(Console(file=io.StringIO(), soft_wrap=True, highlight=False))
    scheduler = {"name": "asha", "max_epochs": 3, "grace_epochs": 1, "reduction_factor": 1.5}
    search(table_config("sampler=random", "retrain.least_tau=1", scheduler=scheduler), folder, narrator)
    (folder / "said").write_text(narrator.console.file.getvalue())
    return folder


def judge_of(found, name):
    return next(judge for judge in found["judges"] if judge["name"] == name)


def test_search_when_a_rung_agrees_with_the_end_less_than_asked_then_warns_at_its_end(searched):
    warnings = json.loads((searched / "summary.json").read_text())["trust_warnings"]
    assert "Accuracy after 1 epoch, by which candidates were stopped, agrees with the end of the search" in warnings[0]
    assert (searched / "said").read_text().endswith(f"Warning: {' '.join(warnings)}\n")
    assert warnings[0] in (searched / "report.html").read_text()


def test_calibrate_when_the_run_is_on_a_table_then_looks_the_truth_up(searched, table_file):
    found = calibrate(searched, 8, narrator=Narrator())
    assert (found["truth"], found["sample"], found["failed"]) == ("table", 8, [])
    assert found["stopped_early"] > 0
    # The last rung is the truth itself.
    assert [judge["name"] for judge in found["judges"]] == ["rung_1", "rung_2", "params", "flops"]
    rows = {row["id"]: row for row in read_jsonl(searched / "candidates.jsonl")}
    known = {entry["acc"] for entry in json.loads(table_file.read_text()).values()}
    for candidate in found["candidates"]:
        row = rows[candidate["id"]]
        assert round(100 * candidate["accuracy"]) in known
        assert candidate["scores"]["params"] == row["params"]
        assert candidate["scores"]["rung_1"] == row["curve"][0]["val_accuracy"]
        if row["state"] == "complete":
            assert candidate["accuracy"] == row["val_accuracy"]
    assert not (searched / "calibration.jsonl").exists()


def test_calibrate_figures_when_computed_with_scipy_from_what_is_written_then_agree(searched):
    found = calibrate(searched, 10, ["flops"], narrator=Narrator())
    assert json.loads((searched / "calibration.json").read_text()) == found
    for judge in found["judges"]:
        pairs = [
            (candidate["scores"][judge["name"]], candidate["accuracy"])
            for candidate in found["candidates"]
            if candidate["scores"][judge["name"]] is not None
        ]
        assert judge["n"] == len(pairs)
        if len(pairs) < 4:
            assert judge["tau"]["value"] is None
            continue
        scores, truths = map(list, zip(*pairs, strict=True))
        assert judge["tau"]["value"] == pytest.approx(stats.kendalltau(scores, truths).statistic)
        assert judge["spearman"]["value"] == pytest.approx(stats.spearmanr(scores, truths).statistic)
        assert judge["tau"]["low"] <= judge["tau"]["value"] <= judge["tau"]["high"]
        assert judge["cost_s"] >= 0
    assert judge_of(found, "rung_2")["cost_s"] == pytest.approx(2)  # a second an epoch


def test_calibrate_when_the_first_rung_is_a_bad_judge_then_warns_in_result_table_and_report(searched, tmp_path):
    run = shutil.copytree(searched, tmp_path / "run")
    rows = read_jsonl(run / "candidates.jsonl")
    (run / "candidates.jsonl").unlink()
    for row in rows:
        if row["curve"]:
            row["curve"][0]["val_accuracy"] = 1 - row["params"] / 10_000
            append_jsonl(run / "candidates.jsonl", row)
    found = calibrate(run, 24, narrator=Narrator())
    assert judge_of(found, "rung_1")["tau"]["high"] < 0.3
    (warning,) = found["warnings"]
    assert "stopped candidates" in warning
    page = write_report(run).read_text()
    assert warning in page
    assert 'id="calibration"' in page
    assert "on 24 candidates" in page
    assert [str(cell) for cell in calibration_table(found).columns[0].cells][:2] == ["after 1 epoch", "after 2 epochs"]
    assert calibrate(run, 24, tau=-1, narrator=Narrator())["warnings"] == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"sample": 3}, "--sample"),
        ({"tau": 1.5}, "--tau"),
        ({"judges": ["prams"]}, "--judges"),
        ({"judges": ["synflow"]}, "--judges"),  # a table has no samples to score on
        ({"judges": ["evaluator"]}, "--judges"),
        ({}, "RUN"),
    ],
)
def test_calibrate_when_it_cannot_work_then_names_field_and_remedy(run, table_config, row, arguments, field):
    (run / "config.yaml").write_text(yaml.safe_dump(table_config().resolved()))
    append_jsonl(run / "candidates.jsonl", row(0, "complete", [0.5] * 27))
    append_jsonl(run / "candidates.jsonl", row(1, "rejected", []))
    with pytest.raises(KdnasError) as caught:
        calibrate(run, **arguments)
    assert caught.value.field == field
    assert caught.value.remedy


def test_calibrate_when_the_folder_is_no_run_then_is_refused(tmp_path):
    with pytest.raises(KdnasError, match="not a run folder"):
        calibrate(tmp_path)


def test_calibrate_when_features_are_asked_for_that_the_run_does_not_keep_then_is_refused(run, row):
    config = read({"recipes": {"hints": [False]}, "bank": {"cache": str(run / "cache")}})
    (run / "config.yaml").write_text(yaml.safe_dump(config.resolved()))
    for number in range(4):
        append_jsonl(run / "candidates.jsonl", row(number, "pruned", [0.1, 0.2, 0.3]))
    with pytest.raises(KdnasError) as caught:
        calibrate(run, judges=["diswot"])
    assert (caught.value.field, caught.value.value) == ("--judges", "diswot")


def test_judge_when_it_cannot_score_these_networks_then_is_left_out_with_its_reason(searched, monkeypatch, capsys):
    def refusing(name, *_):
        def judge(candidates):
            if name == "flops":
                raise KdnasError("there is nothing to count", field="proxy")
            return [1.0 * index for index in range(len(candidates))]

        return judge

    monkeypatch.setattr("kdnas_ray.calibrate.make_judge", refusing)
    found = calibrate(searched, 6, narrator=Narrator())
    assert [judge["name"] for judge in found["judges"]] == ["rung_1", "rung_2", "params"]
    assert "flops is left out: there is nothing to count" in capsys.readouterr().out


def ranked(n):
    rng = np.random.default_rng(0)
    return [{"id": f"c{place}", "priority": float(rng.random())} for place in range(n)]


def test_sample_when_drawn_then_every_part_of_the_ranking_takes_part_once():
    found = stratified(ranked(12), 4, set())
    assert [int(row["id"][1:]) // 3 for row in found] == [0, 1, 2, 3]


def test_sample_when_some_were_trained_already_then_takes_these():
    assert [row["id"] for row in stratified(ranked(8), 4, {"c0", "c3", "c5", "c6"})] == ["c0", "c3", "c5", "c6"]


def test_sample_when_it_is_larger_than_the_run_then_is_all_of_it():
    assert stratified(ranked(5), 12, set()) == ranked(5)
