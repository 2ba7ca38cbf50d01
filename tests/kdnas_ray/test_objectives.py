"""Specification of `kdnas_ray.objectives`: directions, bounds, and how far a bound is exceeded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_ray.config import Bound
from kdnas_ray.objectives import CONSTRAINABLE, MEMORY, OBJECTIVES, UNSUPPORTED, excess, limits, over_text
from search_spaces import KdnasError
from trainables.proxies import PROXIES

POSITIVE = st.floats(1e-3, 1e12)


def test_objectives_when_listed_then_only_those_that_the_architecture_decides_can_be_bounded():
    assert {name: (o.maximise, o.needs_data) for name, o in OBJECTIVES.items()} == {
        "val_accuracy": (True, True),
        "params": (False, False),
        "flops": (False, False),
        "latency_ms": (False, False),
        "memory_mb": (False, False),
        "forgetting": (False, True),
        **dict.fromkeys(PROXIES, (True, True)),
    }
    assert CONSTRAINABLE == ["params", "flops", "latency_ms", "memory_mb"]


@pytest.mark.parametrize(
    ("bound", "limit"),
    [
        (Bound(max=500), 500),
        (Bound(of_teacher=0.1), 100),
        (Bound(max=500, of_teacher=0.1), 100),
        (Bound(max=50, of_teacher=0.1), 50),
        (Bound(of_teacher=2), 2000),
    ],
)
def test_limit_when_bounds_are_given_then_is_the_tighter_one(bound, limit):
    assert limits({"params": bound}, {"params": 1000, "flops": 7}) == {"params": pytest.approx(limit)}


def test_limit_when_the_teacher_has_none_of_it_then_asks_for_a_number():
    with pytest.raises(KdnasError) as caught:
        limits({"params": Bound(of_teacher=0.1)}, {"params": 0, "flops": 7})
    assert caught.value.field == "constraints.params.of_teacher"
    assert "constraints.params.max" in caught.value.remedy


def test_limit_when_the_teachers_number_is_not_known_then_says_so_and_asks_for_a_number():
    with pytest.raises(KdnasError, match="the params of this teacher are not known") as caught:
        limits({"params": Bound(of_teacher=0.01)}, {})
    assert caught.value.field == "constraints.params.of_teacher"
    assert "constraints.params.max=" in caught.value.remedy
    assert limits({"params": Bound(max=5)}, {}) == {"params": 5}


def test_limits_when_nothing_is_constrained_then_are_empty():
    assert limits({}, {"params": 1000}) == {}
    assert excess({"params": 1000}, {}) == {}


def test_excess_when_half_too_much_then_is_one_half():
    bounds = {"params": 100.0, "flops": 10.0}
    assert excess({"params": 150, "flops": 5}, bounds) == {"params": 0.5, "flops": -0.5}


@given(cost=POSITIVE, bound=POSITIVE)
def test_excess_when_compared_then_is_positive_exactly_where_the_bound_is_broken(cost, bound):
    assert (excess({"params": cost}, {"params": bound})["params"] > 0) == (cost / bound > 1)
    assert excess({"params": bound}, {"params": bound})["params"] == 0


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ({"mine": ("hardswish", "norm")}, "mine cannot run hardswish, norm"),
        ({"mine": (MEMORY,)}, "mine has not enough memory for it"),
        ({"mine": ("hardswish", MEMORY)}, "mine cannot run hardswish, mine has not enough memory for it"),
        (None, "mine lacks 2 of its operators, or the memory for it"),
    ],
)
def test_over_text_when_a_device_lacks_something_then_says_what_where_it_is_known(missing, text):
    name = f"{UNSUPPORTED}/mine"
    assert over_text({name: 2.0, "params": 5}, {name: 0.0, "params": 9}, missing) == text
