"""Specification of `kdnas_ray.session`: what surrounds the work on a run."""

import re

import pytest

from kdnas_ray import session
from kdnas_ray.config import read
from kdnas_ray.runs import read_state
from kdnas_ray.session import check_room, check_store, fast_ways, planned
from search_spaces import KdnasError, RunError

SMALL = {
    "space": {"stages": 2, "stem_widths": [2], "widths": [2], "depths": [1]},
    "constraints": {},
    "recipes": {"hints": [False]},
}


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (["resources.layout=contiguous", "resources.precision=float32"], (False, False)),
        (["resources.layout=channels_last", "resources.precision=bfloat16"], (True, True)),
    ],
)
def test_named_ways_are_taken_without_measuring(tmp_path, monkeypatch, named, expected):
    for measure in ("channels_last_pays", "bfloat16_pays"):
        monkeypatch.setattr(session, measure, lambda *_: pytest.fail("it was measured"))
    made = planned(read(SMALL, named))
    assert tuple(fast_ways(tmp_path, made).values()) == expected
    assert read_state(tmp_path) == {}


def test_ways_measured_once_are_kept_for_the_run(tmp_path, monkeypatch):
    made = planned(read(SMALL))
    first = fast_ways(tmp_path, made)
    assert list(first) == ["channels_last", "bfloat16"]
    for measure, way in (("channels_last_pays", "channels_last"), ("bfloat16_pays", "bfloat16")):
        monkeypatch.setattr(session, measure, lambda *_, found=first[way]: not found)
    assert fast_ways(tmp_path, made) == first


def test_bfloat16_is_measured_in_the_layout_that_was_chosen(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(session, "bfloat16_pays", lambda *given: asked.append(given[-1]) or True)
    assert fast_ways(tmp_path, planned(read(SMALL, ["resources.layout=channels_last"])))["bfloat16"]
    assert asked == [True]


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
