"""Specification of `search_spaces.errors`."""

import pickle

import pytest

from search_spaces import KdnasError, RunError


def test_error_shows_field_value_problem_and_remedy():
    error = KdnasError("too small", field="space.stages", value=0, remedy="choose 1 or more")
    assert str(error) == "space.stages = 0: too small\n  choose 1 or more"
    assert (error.problem, error.field, error.value, error.remedy) == (
        "too small",
        "space.stages",
        0,
        "choose 1 or more",
    )


def test_error_shows_no_value_and_no_remedy_when_there_is_none():
    assert str(KdnasError("is required", field="task.path")) == "task.path: is required"


def test_error_quotes_words_and_shortens_long_values():
    assert str(KdnasError("unknown", field="space", value="resnte")) == "space = 'resnte': unknown"
    shown = str(KdnasError("too long", field="x", value=list(range(1000))))
    assert len(shown) < 140
    assert "…: too long" in shown


@pytest.mark.parametrize(("kind", "exit_code"), [(KdnasError, 2), (RunError, 1)])
def test_error_survives_pickling_between_processes(kind, exit_code):
    error = kind("too small", field="space.stages", value=[1, 2], remedy="more")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert again.exit_code == exit_code


def test_run_error_is_caught_as_a_kdnas_error():
    with pytest.raises(KdnasError):
        raise RunError("ended", field="search")
