"""Specification of `kdnas_ray.analysis.importance`: what mattered, from a study that is only read."""

import random
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from kdnas_ray.analysis.importance import ENOUGH, importances
from kdnas_ray.study import FILE, open_study, read_trials

RUNGS = (1, 3)
RANGES = {"width": IntDistribution(1, 16), "noise": FloatDistribution(0.0, 1.0), "extra": FloatDistribution(0.0, 1.0)}


def study_of(run: Path, candidates: int, directions=("maximize",), accuracy=None, complete=1.0, seed=0) -> None:
    """A study whose candidates' accuracy follows `width`, hardly `noise`, and only some take `extra`."""
    generator = random.Random(seed)
    ways = [StudyDirection[direction.upper()] for direction in directions]
    study = open_study(run, RandomSampler(seed=0), [f"objective {index}" for index in range(len(ways))], ways)
    trials = []
    for number in range(candidates):
        params = {"width": generator.randint(1, 16), "noise": generator.random()}
        params |= {"extra": generator.random()} if number % 2 else {}
        value = accuracy(**params) if accuracy else 0.5 + params["width"] / 40 + params["noise"] / 1000
        whole = generator.random() < complete
        curve = [{"epoch": epoch, "val_accuracy": value} for epoch in range(1, 4 if whole else 2)]
        trials.append(
            optuna.create_trial(
                params=params,
                distributions={name: RANGES[name] for name in params},
                user_attrs={"curve": curve},
                values=[value] * len(directions) if whole else None,
                state=TrialState.COMPLETE if whole else TrialState.PRUNED,
            )
        )
    study.add_trials(trials)


def test_importances_when_one_decision_rules_then_it_comes_first_and_shares_sum_to_one(run):
    study_of(run, 40)
    found = importances(run, RUNGS)
    assert next(iter(found.shares)) == "width"
    assert found.shares["width"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert (found.epochs, found.candidates) == (3, 40)
    assert "extra" not in found.shares  # only some candidates take it


def test_importances_when_asked_twice_then_are_the_same(run):
    study_of(run, 30, accuracy=lambda **_: random.random())
    assert importances(run, RUNGS) == importances(run, RUNGS)


def test_importances_when_few_were_trained_in_full_then_rest_on_the_first_rung(run):
    study_of(run, 40, complete=0.3)
    found = importances(run, RUNGS)
    assert (found.epochs, found.candidates) == (1, 40)


def test_importances_when_there_are_several_objectives_then_speak_of_accuracy(run):
    study_of(run, ENOUGH, directions=("maximize", "minimize"))
    assert next(iter(importances(run, RUNGS).shares)) == "width"


@pytest.mark.parametrize("candidates", [0, 3])
def test_importances_when_too_few_candidates_are_known_then_are_none(run, candidates):
    study_of(run, candidates)
    assert importances(run, RUNGS) is None


def test_importances_when_all_candidates_are_equal_then_are_none(run):
    study_of(run, 10, accuracy=lambda **_: 0.5)
    assert importances(run, RUNGS) is None


@pytest.mark.parametrize("value", [None, float("nan")])
def test_importances_when_an_accuracy_is_not_a_number_then_that_candidate_is_left_out(run, value):
    study_of(run, 12, accuracy=lambda width, **_: value if width < 4 else width / 20, complete=0.0)
    assert importances(run, RUNGS).candidates < 12


def test_importances_when_candidates_are_very_many_then_look_at_some_over_the_whole_search(run, monkeypatch):
    monkeypatch.setattr("kdnas_ray.analysis.importance.MOST", 30)
    study_of(run, 90, complete=0.5)
    rows = [{"id": f"c{trial.number:04d}", "curve": trial.user_attrs["curve"]} for trial in read_trials(run)]
    found = importances(run, RUNGS, rows)
    assert (found.epochs, found.candidates) == (3, 30)
    assert next(iter(found.shares)) == "width"


def test_importances_when_there_is_no_study_then_are_none(run):
    assert importances(run, RUNGS) is None
    assert not (run / FILE).exists()


@pytest.mark.parametrize("content", [b"", b"not a journal " * 100, b"not a journal\n" * 100, b"[1]\n\xff\n"])
def test_importances_when_the_study_cannot_be_read_then_are_none_and_leave_it_alone(run, content):
    (run / FILE).write_bytes(content)
    assert importances(run, RUNGS) is None
    assert (run / FILE).read_bytes() == content


def test_importances_when_the_rungs_are_not_known_then_are_none(run):
    study_of(run, 10)
    assert importances(run, ()) is None


def test_importances_when_the_folder_has_an_odd_name_then_are_found(tmp_path):
    odd = tmp_path / "a?b=c&d %20#é"
    odd.mkdir()
    study_of(tmp_path, 20)
    (tmp_path / FILE).rename(odd / FILE)
    assert importances(odd, RUNGS) is not None


def test_importances_when_a_search_writes_meanwhile_then_read_without_hindering_it(run):
    study_of(run, 20)
    whole = (run / FILE).read_bytes()
    (run / FILE).write_bytes(whole + whole[:20])  # a line of which the beginning is written
    assert importances(run, RUNGS).candidates == 20
    assert (run / FILE).read_bytes() == whole + whole[:20]


def test_importances_when_computed_then_stay_silent_and_leave_optunas_settings(run, capfd):
    study_of(run, 20)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    filters = list(warnings.filters)
    capfd.readouterr()
    importances(run, RUNGS)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert warnings.filters == filters
    assert "".join(capfd.readouterr()) == ""
