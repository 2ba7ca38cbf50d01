"""Specification of `kdnas_ray.results`: summary, ranking and headline come from the run folder alone."""

import io
import json
from dataclasses import replace

import pytest
import torch
import yaml
from rich.console import Console

from kdnas_ray.config import read
from kdnas_ray.hardware.devices import device
from kdnas_ray.hardware.measuring import processor
from kdnas_ray.prepare import Plan, plan
from kdnas_ray.results import SearchResult, end_record, guessing, headline, ranking_table, trust_warnings, write_summary
from kdnas_ray.runs import append_jsonl, read_summary, write_state
from kdnas_ray.within import MEASURED
from trainables.model_files import save_student
from trainables.teachers import build_teacher

SUMMARY = {
    "teacher": {"accuracy": 0.98, "params": 696_042, "flops": 13_000_000},
    "best": {"id": "c0003", "params": 6960, "flops": 650_000, "val_accuracy": 0.95, "test_accuracy": 0.97,
             "test_accuracy_without_kd": 0.94},
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Plan:
    """A checked search with a teacher that costs nothing to build."""
    return plan(
        read(
            {
                "teachers": [{"stem": 4, "widths": [4], "depths": [1]}],
                "space": {"stages": 1, "widths": [2], "stem_widths": [2], "depths": [1], "kernels": [3]},
                "recipes": {"hints": [False]},
                "scheduler": {"max_epochs": 3, "grace_epochs": 1},
                "constraints": {},
            }
        )
    )


@pytest.fixture
def filled(run, row, made):
    """A run folder after a search of six candidates and the retraining of three."""
    (run / "config.yaml").write_text(yaml.safe_dump(made.config.resolved()))
    for number, (state, accuracies, params) in enumerate(
        [
            ("complete", [0.5, 0.6, 0.90], 2000),
            ("pruned", [0.4], 1000),
            ("complete", [0.6, 0.7, 0.95], 3000),
            ("failed", [], 1000),
            ("complete", [0.3, 0.8, 0.95], 2500),
            ("rejected", [], 9000),
        ]
    ):
        append_jsonl(run / "candidates.jsonl", row(number, state, accuracies, params, 100 * params))
    # Retrained: c0004 turns out best, c0002 second, c0000 third; with KD better than without.
    for name, val, test in (("c0002", 0.94, 0.93), ("c0004", 0.96, 0.95), ("c0000", 0.92, 0.96)):
        for with_kd in (True, False):
            less = 0 if with_kd else 0.02
            append_jsonl(
                run / "retrained.jsonl",
                {"id": name, "seed": 1, "repeat": 0, "with_kd": with_kd, "epochs": 6, "val_accuracy": val - less,
                 "test_accuracy": test - less, "train_s": 1.0, "curve": []},
            )  # fmt: skip
    write_state(run, {"search_wall_s": 4.0, "wall_s": 9.0, "workers": 2, "status": "finished", "started": "now"})
    return run


def printed(table) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_summary_when_written_then_holds_what_machines_rely_on(filled, made):
    write_summary(filled, made)
    summary = read_summary(filled)
    counts = {name: summary[name] for name in ("trials", "completed", "pruned", "failed", "rejected")}
    assert counts == {"trials": 5, "completed": 3, "pruned": 1, "failed": 1, "rejected": 1}
    assert summary["train_s"] == 6.0
    assert summary["wall_s"] == 9.0
    assert summary["workers"] == 2
    assert summary["utilisation"] == pytest.approx(6.0 / (2 * 4.0))
    assert summary["seed"] == 0
    assert {"python", "torch", "ray", "optuna"} <= set(summary["versions"])
    best = summary["best"]
    assert best["id"] == "c0004"
    assert best["val_accuracy"] == 0.95
    assert best["test_accuracy"] == pytest.approx(0.95)
    assert best["test_accuracy_without_kd"] == pytest.approx(0.93)
    assert {"architecture", "recipe", "params", "flops"} <= set(best)
    # Search: c0002 = c0004 > c0000; retrained: c0004 > c0002 > c0000. Two pairs agree, one is tied in the first.
    assert summary["kendall_tau"] == pytest.approx(2 / (3 * 2) ** 0.5)
    assert summary["kendall_tau_n"] == 3
    assert summary["ranking"] == ["c0004", "c0002", "c0000", "c0001"]
    assert not (filled / ".summary.json").exists()


def test_summary_when_nothing_happened_yet_then_is_whole_and_empty(run, made):
    summary = write_summary(run, made)
    assert (summary["trials"], summary["train_s"], summary["utilisation"]) == (0, 0, None)
    assert summary["best"] is summary["teacher"] is summary["kendall_tau"] is None
    assert headline(summary) == "No candidate was trained in full yet."
    json.dumps(summary, allow_nan=False)


def test_best_when_nothing_was_retrained_then_is_the_best_complete_candidate(filled, made):
    (filled / "retrained.jsonl").unlink()
    best = write_summary(filled, made)["best"]
    assert (best["id"], best["test_accuracy"], best["test_accuracy_without_kd"]) == ("c0004", None, None)


def test_best_when_candidates_break_a_latency_bound_then_is_none_of_them(filled, made, tmp_path):
    (filled / "retrained.jsonl").unlink()
    here = replace(device("server-cpu"), name="here", processor=processor())
    bound = replace(made, bounds={"latency_ms/here": 2.0}, devices={"here": here})

    def measured(name: str, milliseconds: float) -> None:
        facts = {"device": "here", "processor": processor(), "runtime": here.runtime, "threads": here.threads}
        append_jsonl(filled / MEASURED, {"id": name, **facts, "latency_ms": milliseconds})

    measured("c0004", 2.5)
    measured("c0002", 1.5)
    assert write_summary(filled, bound)["best"]["id"] == "c0002"
    measured("c0002", 2.1)
    measured("c0000", 2.2)
    summary = write_summary(filled, bound)
    assert summary["best"] is None
    assert summary["over_bounds"] == ["c0000", "c0002", "c0004"]
    assert headline(summary).endswith("measured on this machine, 3 break one.")


def test_teacher_when_the_search_is_not_over_then_never_meets_the_test_split(filled, made):
    teacher = build_teacher(made.config.teachers[0], made.data)
    with torch.no_grad():  # answers "3" whatever it sees
        teacher.classifier.weight.zero_()
        teacher.classifier.bias.copy_(torch.eye(10)[3])
    meta = {"space": {"name": "resnet", "stages": 1}, "shape": [1, 8, 8], "classes": list(made.data.classes)}
    from search_spaces.resnet import resnet_architecture

    save_student(filled / "teacher", teacher, meta | {"architecture": resnet_architecture(4, (4,), (1,)).to_json()})
    (filled / "teacher.json").write_text(json.dumps({"name": "trained", "params": 1, "flops": 2}))
    kept = (filled / "retrained.jsonl").read_bytes()
    (filled / "retrained.jsonl").unlink()
    assert "accuracy" not in write_summary(filled, made)["teacher"]
    (filled / "retrained.jsonl").write_bytes(kept)
    threes = float((made.data.test.labels == 3).mean())
    assert write_summary(filled, made)["teacher"]["accuracy"] == pytest.approx(threes)
    assert json.loads((filled / "teacher.json").read_text())["accuracy"] == pytest.approx(threes)


def test_result_when_read_then_ranks_candidates_and_finalists(filled):
    result = SearchResult(filled)
    assert [row["id"] for row in result.ranking] == ["c0004", "c0002", "c0000", "c0001"]
    assert [row["id"] for row in result.finalists] == ["c0004", "c0002", "c0000"]
    assert len(result.candidates) == 6
    assert result.summary == {}


def test_table_when_retrained_then_shows_test_accuracy_with_and_without_kd(filled):
    rows = printed(ranking_table(SearchResult(filled), top=3))
    assert len(rows) == 4
    assert rows[1] == ["1", "c0004", "3", "95.00%", "2,500", "0.25", "96.00%", "95.00%", "93.00%"]
    assert rows[3][1] == "c0000"


def test_table_when_not_retrained_then_leaves_those_columns_out(filled):
    (filled / "retrained.jsonl").unlink()
    rows = printed(ranking_table(SearchResult(filled)))
    assert "KD" not in rows[0]
    assert rows[-1] == ["4", "c0001", "1", "40.00%", "1,000", "0.10"]


def test_table_when_the_search_has_several_objectives_then_shows_them_and_the_front(filled, made):
    objectives = ["val_accuracy", "latency_ms/npu-small"]
    (filled / "config.yaml").write_text(yaml.safe_dump(made.config.resolved() | {"objectives": objectives}))
    rows = [json.loads(line) for line in (filled / "candidates.jsonl").read_text().splitlines()]
    latencies = {"c0000": 0.25, "c0002": 0.5, "c0004": 0.75}
    told = [row | {objectives[1]: latencies.get(row["id"], 1.0)} for row in rows]
    (filled / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    (filled / "retrained.jsonl").unlink()
    title, *body = printed(ranking_table(SearchResult(filled)))
    assert title[-2:] == [objectives[1], "front"]
    # c0004 is slower than c0002 and no better.
    assert {line[1]: line[6:] for line in body} == {
        "c0002": ["0.5", "yes"], "c0000": ["0.25", "yes"], "c0004": ["0.75"], "c0001": ["1"],
    }  # fmt: skip


def test_table_when_several_seeds_were_trained_then_shows_the_spread(filled):
    for val, test in ((0.98, 0.97),):
        append_jsonl(
            filled / "retrained.jsonl",
            {"id": "c0004", "seed": 2, "repeat": 1, "with_kd": True, "epochs": 6, "val_accuracy": val,
             "test_accuracy": test, "train_s": 1.0, "curve": []},
        )  # fmt: skip
    rows = printed(ranking_table(SearchResult(filled)))
    assert rows[1][6:9] == ["97.00%", "±", "1.41%"]  # 96 and 98: deviation sqrt(2)


def test_headline_when_everything_is_known_then_says_accuracy_kept_and_times_smaller():
    assert headline(SUMMARY) == (
        "c0003 keeps 99.0% of its teacher's test accuracy (97.00% of 98.00%), 100.0 times smaller and 20.0 times "
        "fewer FLOPs. The same student without KD: 94.00%."
    )


def test_headline_when_a_device_bounds_then_says_what_of_it_is_used_and_what_the_teacher_takes():
    name = "latency_ms/npu-small"
    told = {**SUMMARY, "constraints": {name: 0.5, "unsupported/npu-small": 0.0}, "objectives": ["val_accuracy"]}
    told |= {"best": SUMMARY["best"] | {name: 0.402}, "teacher": SUMMARY["teacher"] | {name: 0.505}}
    assert headline(told).endswith(" On npu-small, modelled: 0.402 of at most 0.5 ms, its teacher 0.505.")
    told |= {"constraints": {}, "objectives": ["val_accuracy", name], "teacher": SUMMARY["teacher"]}
    assert headline(told).endswith(" On npu-small, modelled: 0.402 ms.")


def test_headline_when_not_retrained_then_speaks_of_validation():
    best = SUMMARY["best"] | {"test_accuracy": None}
    told = {**SUMMARY, "best": best}
    assert headline(told).startswith("c0003 reaches 95.00% on validation, 100.0 times smaller")
    unmeasured = {name: value for name, value in SUMMARY["teacher"].items() if name != "accuracy"}
    assert headline({**told, "teacher": unmeasured}) == headline(told)


def test_headline_when_the_teachers_size_is_not_known_then_gives_the_students():
    teacher = {"name": "predictions", "val_accuracy": 0.98, "accuracy": 0.98}
    text = headline({**SUMMARY, "teacher": teacher})
    assert text.startswith("c0003 keeps 99.0% of its teacher's test accuracy (97.00% of 98.00%), with ")
    assert "(its teacher's are not known)" in text
    best = SUMMARY["best"] | {"test_accuracy": None}
    assert "its teacher's are not known" in headline({**SUMMARY, "teacher": teacher, "best": best})
    assert "hardly better than guessing (0.00%)" in headline({**SUMMARY, "teacher": teacher | {"accuracy": 0.0}})
    other = headline({**SUMMARY, "teacher": SUMMARY["teacher"] | {"accuracy": None}})
    assert "reaches 97.00% on test" in other
    assert (
        "fewer FLOPs than its teacher; its teacher knows none of the task's classes; its features alone taught."
        in other
    )
    some = headline({**SUMMARY, "teacher": teacher | {"params": SUMMARY["teacher"]["params"]}})
    assert "100.0 times smaller." in some


@pytest.mark.parametrize(
    ("changed", "teacher", "said"),
    [
        ({"metric": "R²", "targets": "values"}, {}, "c0003: R² 0.970 on test, its teacher 0.980, 100.0 times smaller"),
        ({"metric": "AP50", "targets": "boxes"}, {}, "c0003: AP50 97.00% on test, its teacher 98.00%, 100.0 times"),
        ({"metric": "AP50"}, {"accuracy": None, "name": "classifier"}, "crops, so there is no AP50 of its own to"),
        ({}, {"accuracy": None, "name": "paired, trained"}, "its answers for samples of the same class taught."),
        ({"chance": 0.15}, {"accuracy": 0.078}, "its teacher is hardly better than guessing (7.80%)."),
        ({}, {"accuracy": 0.91}, "c0003 is more accurate than its teacher (97.00% against 91.00%), 100.0 times"),
    ],
)
def test_headline_when_no_share_of_an_accuracy_can_be_kept_then_says_what_is_true(changed, teacher, said):
    text = headline({**SUMMARY, **changed, "teacher": SUMMARY["teacher"] | teacher})
    assert said in text
    assert "keeps" not in text
    assert ("FLOPs" in text) is not teacher.get("name", "").startswith("paired")


def test_headline_when_the_comparison_without_kd_is_missing_then_leaves_it_out():
    best = SUMMARY["best"] | {"test_accuracy_without_kd": None}
    assert "without KD" not in headline({**SUMMARY, "best": best})


@pytest.mark.parametrize(
    ("status", "mlflow_status"), [("finished", "FINISHED"), ("interrupted", "KILLED"), ("failed", "FAILED")]
)
def test_end_record_when_sent_to_mlflow_then_holds_status_and_known_metrics_only(run, status, mlflow_status):
    (run / "summary.json").write_text(json.dumps({**SUMMARY, "trials": 5, "kendall_tau": None}))
    record = end_record(run, status)
    assert record["status"] == mlflow_status
    assert record["metrics"]["best_test_accuracy"] == 0.97
    assert record["metrics"]["teacher_accuracy"] == 0.98
    assert record["metrics"]["trials"] == 5
    assert "kendall_tau" not in record["metrics"]
    assert record["tags"] == {"kdnas.status": status, "kdnas.best": "c0003"}


def test_end_record_when_there_is_no_summary_then_is_whole(run):
    assert end_record(run, "failed")["metrics"] == {}


def trust(tau, n, rungs):
    names = ("epochs", "tau_search", "n_search", "tau_retrained", "n_retrained")
    taus = [dict(zip(names, rung, strict=True)) for rung in rungs]
    return {"kendall_tau": tau, "kendall_tau_n": n, "rung_kendall_tau": taus}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (trust(0.29, 5, []), ["ranking of the search"]),
        (trust(0.30, 5, []), []),
        (trust(-1.0, 4, []), []),  # too few to say
        (trust(None, 9, []), []),
        (trust(0.9, 9, [(1, 0.1, 8, 0.9, 9), (3, None, 8, 0.0, 9)]), ["after 1 epoch,"]),  # nobody stops at 3
        (trust(0.9, 9, [(1, 0.1, 8, 0.2, 9), (3, 0.9, 8, 0.0, 9), (9, None, 8, 0.9, 9)]),
         ["full retraining to a Kendall tau of 0.20", "after 3 epochs"]),
    ],
)  # fmt: skip
def test_warnings_when_a_ranking_of_five_or_more_agrees_too_little_then_name_it(found, told):
    warnings = trust_warnings(found, 0.3)
    assert len(warnings) == len(told)
    assert all(part in warning for part, warning in zip(told, warnings, strict=True))


def test_summary_when_there_are_few_finalists_then_warns_of_nothing(filled, made):
    assert write_summary(filled, made)["trust_warnings"] == []


@pytest.mark.parametrize(("classes", "guess"), [(2, 0.55), (10, 0.15), (1000, 0.0015)])
def test_guessing_when_there_are_few_classes_then_is_near_chance(classes, guess):
    assert guessing("classes", classes) == pytest.approx(guess)
