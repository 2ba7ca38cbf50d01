"""Specification of `kdnas_ray.session`: what surrounds the work on a run."""

import re

import pytest

from kdnas_ray import session
from kdnas_ray.config import read
from kdnas_ray.runs import read_state
from kdnas_ray.session import channels_last, check_store, planned
from search_spaces import RunError

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


def test_bank_that_no_object_store_has_room_for_is_refused_with_what_would_work(one_ray):
    check_store(2**28)
    with pytest.raises(RunError, match="bank: takes 1,000,000 MB of object store") as refused:
        check_store(10**12)
    (said,) = re.findall(r"bank.max_bytes=(\d+) bank.overflow=map", str(refused.value))
    made = read({}, [f"bank.max_bytes={said}", "bank.overflow=map"])
    assert 2**28 < made.bank.max_bytes < 2**29
