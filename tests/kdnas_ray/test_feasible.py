"""Specification of `kdnas_ray.feasible`: bounds that nothing keeps are refused with what would do."""

import pytest
from sessions import costs_of

from kdnas_ray.feasible import NoneKeeps, check_constraints
from search_spaces import Architecture


def test_check_constraints_when_some_architecture_keeps_them_then_is_silent():
    widths = iter([9, 8, 3])
    check_constraints(lambda: Architecture.of({"width": next(widths)}), costs_of, {"params": 300.0})
    check_constraints(lambda: Architecture.of({"width": 9}), costs_of, {})


def test_check_constraints_when_none_does_then_names_the_closest_in_the_worst_number():
    widths = iter([9, 5, 4, 6] * 50)
    with pytest.raises(NoneKeeps) as caught:
        check_constraints(lambda: Architecture.of({"width": next(widths)}), costs_of, {"params": 390, "flops": 2000})
    assert caught.value.tight == {"params": (390, 400), "flops": (2000, 4000)}
    assert caught.value.exit_code == 2
    assert "none of 200 architectures" in caught.value.problem
    assert caught.value.problem.endswith("the closest: params 400 (at most 390), flops 4,000 (at most 2,000)")
    assert caught.value.value == {"params": 390, "flops": 2000}


@pytest.mark.parametrize(("lacks", "remedy"), [("gelu", "choices that it can run"), ("memory", "smaller choices")])
def test_check_constraints_when_the_device_lacks_something_then_names_it_and_no_other_bound(lacks, remedy):
    def costs(architecture: Architecture) -> dict[str, float]:
        return {"latency_ms/mine": 1.0, "unsupported/mine": 1.0}

    bounds = {"latency_ms/mine": 5.0, "unsupported/mine": 0.0}
    with pytest.raises(NoneKeeps) as caught:
        check_constraints(
            lambda: Architecture.of({"width": 3}), costs, bounds, missing=lambda architecture: {"mine": (lacks,)}
        )
    error = caught.value
    assert (error.field, error.value, error.tight) == ("devices", "mine", {})
    assert lacks in error.problem
    assert "latency" not in str(error)
    assert remedy in error.remedy
