"""Specification of `kdnas_ray.session`: what surrounds the work on a run."""

import re

import pytest

from kdnas_ray import session
from kdnas_ray.config import read
from kdnas_ray.runs import read_state
from kdnas_ray.session import channels_last, check_room, check_store, planned
from search_spaces import KdnasError, RunError

SMALL = {
    "space": {"stages": 2, "stem_widths": [2], "widths": [2], "depths": [1]},
    "constraints": {},
    "recipes": {"hints": [False]},
}


@pytest.mark.parametrize(("layout", "expected"), [("contiguous", False), ("channels_last", True)])
def test_a_named_layout_is_taken_without_measuring(tmp_path, monkeypatch, layout, expected):
    monkeypatch.setattr(session, "channels_last_pays", lambda *_: pytest.fail("it was measured"))
    assert channels_last(tmp_path, planned(read(SMALL, [f"resources.layout={layout}"]))) is expected
    assert read_state(tmp_path) == {}


def test_a_layout_measured_once_is_kept_for_the_run(tmp_path, monkeypatch):
    made = planned(read(SMALL))
    first = channels_last(tmp_path, made)
    monkeypatch.setattr(session, "channels_last_pays", lambda *_: not first)
    assert channels_last(tmp_path, made) is first


@pytest.mark.parametrize(
    ("total", "wanted", "fits"),
    [
        (None, {"cpu": 64}, True),  # the search starts its own Ray, and other checks know this machine
        ({"CPU": 2.0}, {"cpu": 2}, True),
        ({"CPU": 2.0}, {"cpu": 4}, False),
        ({"CPU": 2.0}, {"gpu": 1}, False),
        ({"CPU": 2.0, "GPU": 1.0}, {"gpu": 0.5}, True),
        ({}, {}, False),
    ],
)
def test_room_that_a_cluster_does_not_have_is_refused_as_bad_input(total, wanted, fits):
    config = read({"resources": wanted})
    if fits:
        check_room(config, total)
        return
    with pytest.raises(KdnasError, match="no machine has room for one trial") as refused:
        check_room(config, total)
    assert refused.value.exit_code == 2
    assert not isinstance(refused.value, RunError)


def test_bank_that_no_object_store_has_room_for_is_refused_with_what_would_work(one_ray):
    check_store(2**28)
    with pytest.raises(RunError, match="bank: takes 1,000,000 MB of object store") as refused:
        check_store(10**12)
    (said,) = re.findall(r"bank.max_bytes=(\d+) bank.overflow=map", str(refused.value))
    made = read({}, [f"bank.max_bytes={said}", "bank.overflow=map"])
    assert 2**28 < made.bank.max_bytes < 2**29
