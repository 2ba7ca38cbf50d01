"""Specification of `kdnas_ray.compare`: results side by side, and where the configurations differ."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from kdnas_ray.compare import compare, comparison_table, differences
from kdnas_ray.config import read
from search_spaces import KdnasError

SUMMARY = {
    "status": "finished", "trials": 1234, "completed": 5, "pruned": 6, "failed": 0, "rejected": 1,
    "search_wall_s": 12.5, "utilisation": 0.9, "kendall_tau": -0.5, "teacher": {"accuracy": 0.98, "params": 700_000},
    "best": {"id": "c0001", "val_accuracy": 0.96, "test_accuracy": 0.95, "test_accuracy_std": None,
             "test_accuracy_without_kd": 0.97, "params": 6960, "flops": 650_000},
}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """Makes a run folder with these overrides and this summary."""

    def make(name: str, overrides: tuple[str, ...] = (), summary: dict | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(read({}, overrides).resolved()))
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make


def printed(table) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=300)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_rows_when_compared_then_hold_results_and_none_where_not_known(made):
    first, second = compare([made("a", summary=SUMMARY), made("b")])
    assert list(first) == list(second)
    assert (first["trials"], first["best_params"], first["teacher_accuracy"]) == (1234, 6960, 0.98)
    assert first["best_test_accuracy_without_kd"] == 0.97
    assert first["best_test_accuracy_std"] is None
    assert {name for name, value in second.items() if value is not None} == {"run"}
    json.dumps([first, second], allow_nan=False)


def test_scores_when_they_are_of_numbers_then_are_no_percentages(made):
    told = SUMMARY | {"metric": "R2", "targets": "values"}
    rows = compare([made(name, summary=told) for name in "ab"])
    lines = printed(comparison_table(rows, {}))
    assert ["best", "test", "accuracy", "0.9500", "0.9500"] in lines
    assert ["utilisation", "90.00%", "90.00%"] in lines
    assert ["metric", "R2", "R2"] in lines


def test_rows_when_a_run_is_of_a_device_then_all_have_its_numbers(made):
    name = "latency_ms/npu-small"
    told = SUMMARY | {"constraints": {name: 0.5}, "best": SUMMARY["best"] | {name: 0.4}}
    first, second = compare([made("a", summary=told), made("b", summary=SUMMARY)])
    assert (first[f"best_{name}"], first[f"teacher_{name}"], second[f"best_{name}"]) == (0.4, None, None)
    assert ["best", name.replace("_", " ").split()[0], "ms/npu-small", "0.4", "–"] in printed(
        comparison_table([first, second], {})
    )


def test_differences_when_configurations_differ_then_are_dotted_keys_with_a_value_a_run(made):
    runs = [made("a"), made("b", ("budget.trials=7", "space.depths=[3]")), made("c", ("budget.trials=7",))]
    assert differences(runs) == {"budget.trials": [40, 7, 7], "space.depths": ["[1, 2]", "[3]", "[1, 2]"]}


def test_differences_when_a_key_is_missing_in_one_then_its_value_is_none(made):
    runs = [made("a"), made("b")]
    config = yaml.safe_load((runs[1] / "config.yaml").read_text())
    del config["seed"]
    (runs[1] / "config.yaml").write_text(yaml.safe_dump(config))
    assert differences(runs) == {"seed": [0, None]}


def test_differences_when_configurations_are_equal_then_are_empty(made):
    assert differences([made("a"), made("b")]) == {}


@pytest.mark.parametrize("number", [0, 1])
def test_compare_when_fewer_than_two_runs_are_given_then_refuses(made, number):
    with pytest.raises(KdnasError, match="at least two runs"):
        compare([made("a")][:number])


def test_compare_when_a_folder_is_no_run_then_names_it(made, tmp_path):
    for refuse in (compare, differences):
        with pytest.raises(KdnasError, match=r"(?s)nothing.*not a run folder"):
            refuse([made(refuse.__name__), tmp_path / "nothing"])


def test_table_when_printed_then_has_results_first_and_differences_below(made):
    runs = [made("a", summary=SUMMARY), made("b", ("seed=3",))]
    lines = printed(comparison_table(compare(runs), differences(runs)))
    assert lines[0] == [str(run) for run in runs]
    assert ["trials", "1,234", "–"] in lines
    assert ["best", "test", "accuracy", "95.00%", "–"] in lines
    assert ["kendall", "tau", "-0.50", "–"] in lines
    assert lines[-1] == ["seed", "0", "3"]


def test_table_when_text_looks_like_markup_then_shows_it_as_it_is(made):
    odd = "[bold]x[/bold]"
    runs = [made("[red]a", summary={"status": odd}), made("b")]
    (runs[1] / "config.yaml").write_text(yaml.safe_dump({"[link]": "[/dim]"}))
    lines = printed(comparison_table(compare(runs), differences(runs)))
    assert lines[0][0].endswith("[red]a")
    assert ["status", odd, "–"] in lines
    assert ["[link]", "None", "[/dim]"] in lines
