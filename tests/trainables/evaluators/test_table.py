"""Specification of `trainables.evaluators.table`: every number comes from the table or is marked as simulated."""

import json
import random

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from search_spaces import Architecture, KdnasError, NASBench101Space, ResNetSpace, sample
from search_spaces.notation import canonical, notation
from trainables.evaluators.table import SharedTable, Table, TableTrial, read_table
from trainables.recipe import Recipe

SPACE = ResNetSpace(1, (4,), (1,), (4, 8), (1,), (3,), ("basic",))


def point(width: int) -> Architecture:
    return Architecture.of(
        {"stem.width": 4, "stage1.depth": 1, "stage1.width": width, "stage1.kernel": 3, "stage1.block": "basic"}
    )


NARROW, WIDE = point(4), point(8)
ENTRIES = {
    notation(SPACE, NARROW): {"early": 60.0, "late": 80.0, "test": 79.0, "three": [0.7, 0.8, 0.9], "whole": 0.5},
    notation(SPACE, WIDE): {"early": 50.0, "late": 90.0, "test": 88.0, "three": [0.6, 0.6, 0.6], "whole": 0.6},
}


@pytest.fixture
def table(tmp_path):
    def make(entries=ENTRIES, **options) -> Table:
        path = tmp_path / "table.json"
        path.write_text(json.dumps(entries))
        return Table(path, **{"metric": "late", **options})

    return make


def read(settings, epochs=12):
    return read_table(settings, SPACE, epochs)


def refused(settings, epochs=12) -> KdnasError:
    with pytest.raises(KdnasError) as caught:
        read(settings, epochs)
    assert caught.value.remedy
    return caught.value


def test_accuracy_in_percent_is_read_as_share_and_a_share_as_it_is(table):
    percent, share = read(table()), read(table(metric="whole"))
    assert percent.accuracy(percent.entry(SPACE, NARROW), "late") == 0.8
    assert share.accuracy(share.entry(SPACE, NARROW), "whole") == 0.5


def test_columns_of_one_table_are_in_percent_together(table):
    entries = {text: {"early": 0.9, "late": 70.0} for text in ENTRIES}
    curve = read(table(entries, rungs={1: "early", 12: "late"})).curve(notation(SPACE, WIDE), 0, 12)
    assert curve[0]["val_accuracy"] == pytest.approx(0.009)


@pytest.mark.parametrize("value", [-0.3, 5000.0])
def test_column_of_no_accuracies_is_refused(table, value):
    assert refused(table({text: {"late": value} for text in ENTRIES})).field == "evaluator.metric"


@pytest.mark.parametrize("value", ["12k", None, [1, 2]])
def test_cost_that_is_no_number_is_refused(table, value):
    error = refused(table({text: {"late": 1.0, "params": value} for text in ENTRIES}))
    assert "params" in error.problem


def test_architecture_that_stands_twice_is_refused(tmp_path):
    text = json.dumps(next(iter(ENTRIES)))
    (tmp_path / "twice.json").write_text("{" + f'{text}: {{"late": 0.9}}, {text}: {{"late": 0.1}}' + "}")
    assert "twice" in refused(Table(tmp_path / "twice.json", "late")).problem
    other = json.dumps(dict(reversed(json.loads(next(iter(ENTRIES))).items())))
    (tmp_path / "twice.json").write_text(json.dumps({next(iter(ENTRIES)): {"late": 0.9}, other: {"late": 0.1}}))
    assert "twice" in refused(Table(tmp_path / "twice.json", "late")).problem


def test_cell_is_found_under_the_name_of_one_that_builds_the_same_network(tmp_path):
    space = NASBench101Space(vertices=4, edges=6)
    drawn = [sample(space, random.Random(seed)) for seed in range(400)]
    classes = {}
    for architecture in drawn:
        classes.setdefault(canonical(space, architecture), notation(space, architecture))
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({text: {"late": 0.5} for text in classes.values()}))
    results = read_table(Table(path, "late"), space, 12)
    assert all(results.find(space, a) == classes[canonical(space, a)] for a in drawn)


def test_repeated_trainings_are_picked_by_the_seed_and_averaged_without_one(table):
    results = read(table(metric="three"))
    entry = results.entry(SPACE, NARROW)
    assert [results.accuracy(entry, "three", seed) for seed in (0, 1, 2, 3)] == [0.7, 0.8, 0.9, 0.7]
    assert results.accuracy(entry, "three") == pytest.approx(0.8)


def test_curve_ends_at_the_table_and_what_comes_before_is_marked(table):
    curve = read(table()).curve(notation(SPACE, WIDE), seed=1, epochs=12)
    assert [p["epoch"] for p in curve] == list(range(1, 13))
    assert curve[-1] == {"epoch": 12, "val_accuracy": 0.9}
    assert all(p["simulated"] == 1 for p in curve[:-1])
    assert 0.05 < curve[0]["val_accuracy"] < 0.5


def test_curve_between_two_budgets_lies_between_their_numbers(table):
    curve = read(table(rungs={12: "early", 200: "late"}), 200).curve(notation(SPACE, WIDE), 0, 200)
    assert curve[11]["val_accuracy"] == 0.5
    assert curve[199]["val_accuracy"] == 0.9
    # Half way on the logarithm: sqrt(12 * 200) = 48.99 epochs.
    assert curve[48]["val_accuracy"] == pytest.approx(0.7, abs=1e-3)
    assert [p["epoch"] for p in curve if "simulated" in p] == list(range(1, 12))


def test_early_epochs_are_poorer_judges_than_late_ones(table):
    entries = {text: dict.fromkeys(("late",), 80.0) for text in ENTRIES}
    results = read(table(entries))
    text = notation(SPACE, NARROW)
    spread = [
        np.ptp([results.curve(text, seed, 12)[epoch]["val_accuracy"] for seed in range(50)]) for epoch in (3, 8, 11)
    ]
    assert spread[0] > spread[1] > spread[2] == 0


def test_best_is_that_of_the_finalists_column(table):
    assert read(table(metric="early", test="test")).best()[0] == notation(SPACE, WIDE)
    assert read(table(metric="early")).best()[0] == notation(SPACE, NARROW)


def test_parquet_and_json_say_the_same(table, tmp_path):
    rows = [{"architecture": text, **entry} for text, entry in ENTRIES.items()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    assert read(Table(tmp_path / "table.parquet", "late")).entries == read(table()).entries


def test_architecture_may_be_written_with_its_decisions_in_another_order(table):
    other = {json.dumps(dict(reversed(json.loads(text).items()))): entry for text, entry in ENTRIES.items()}
    assert read(table(other)).entry(SPACE, WIDE)["late"] == 90.0


def test_architecture_that_the_table_lacks_is_named(table):
    results = read(table({notation(SPACE, NARROW): ENTRIES[notation(SPACE, NARROW)]}))
    with pytest.raises(KdnasError) as caught:
        results.entry(SPACE, WIDE)
    assert caught.value.value == notation(SPACE, WIDE)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"metric": "lat"}, "evaluator.metric"),
        ({"test": "tset"}, "evaluator.test"),
        ({"rungs": {6: "nothing", 12: "late"}}, "evaluator.rungs.6"),
    ],
)
def test_column_that_is_not_there_is_refused_with_those_that_are(table, options, field):
    error = refused(table(**options))
    assert error.field == field
    assert "early, late" in error.remedy


def test_entry_without_its_number_is_refused_by_name(table):
    whole, lacking = ENTRIES
    error = refused(table({whole: ENTRIES[whole], lacking: {"late": None}}))
    assert (error.field, error.value) == ("evaluator.metric", "late")
    assert lacking in error.problem


@pytest.mark.parametrize("bad", [float("nan"), True, "0.9", []])
def test_entry_that_is_no_number_is_refused(table, bad):
    assert refused(table({text: {"late": bad} for text in ENTRIES})).field == "evaluator.metric"


def test_table_of_another_space_is_refused(table):
    assert refused(table({"|none~0|": {"late": 1.0}})).value == "|none~0|"


@pytest.mark.parametrize("content", ["", "[1, 2]", "{}", '{"a": 3}', "{"])
def test_file_that_holds_no_table_is_refused(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    assert refused(Table(path, "late")).field == "evaluator.path"


def test_parquet_without_architectures_and_missing_files_are_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"late": [1.0]}), tmp_path / "table.parquet")
    assert "architecture" in refused(Table(tmp_path / "table.parquet", "late")).problem
    assert refused(Table(tmp_path / "nowhere.json", "late")).field == "evaluator.path"


def test_full_training_of_table_and_scheduler_have_to_agree(table):
    error = refused(table(rungs={6: "early", 12: "late"}), epochs=27)
    assert (error.field, error.value) == ("scheduler.max_epochs", 27)
    assert "scheduler.max_epochs=12" in error.remedy


@pytest.mark.parametrize(
    "options",
    [{"rungs": {0: "late"}}, {"epoch_s": 0.0}, {"shape": (0, 1, 1)}, {"classes": 1}],
)
def test_settings_that_make_no_sense_are_refused(table, options):
    with pytest.raises(KdnasError):
        table(**options)


def candidate(architecture: Architecture) -> dict:
    return {"id": "c0000", "architecture": architecture.to_json(), "recipe": Recipe().to_json(), "seed": 3}


def trial(results, config) -> TableTrial:
    made = object.__new__(TableTrial)  # Ray's constructor wants a logger
    made.setup(config, SharedTable(results, SPACE, (4, 12), epoch_s=2.0))
    return made


def test_trial_reports_each_rung_with_its_simulated_time(table):
    made = trial(read(table()), {"candidate": candidate(WIDE)})
    first, last = made.step(), made.step()
    assert (first["epoch"], len(first["curve"]), first["train_s"], first["done"]) == (4, 4, 8.0, False)
    assert (last["epoch"], last["val_accuracy"], last["train_s"], last["done"]) == (12, 0.9, 24.0, True)
    assert last["curve"][:4] == first["curve"]


def test_trial_goes_on_after_the_last_reported_rung_and_fails_where_the_table_has_a_hole(table):
    results = read(table({notation(SPACE, WIDE): ENTRIES[notation(SPACE, WIDE)]}))
    assert trial(results, {"candidate": candidate(WIDE), "reported": 4}).step()["epoch"] == 12
    assert notation(SPACE, NARROW) in trial(results, {"candidate": candidate(NARROW)}).step()["failure"]
