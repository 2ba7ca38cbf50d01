"""Specification of `trainables.schedules`: every schedule runs from start to end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.schedules import SCHEDULES, between


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", (5.0, 5.0, 5.0, 5.0)),
        ("linear", (5.0, 4.0, 3.0, 1.0)),
        ("cosine", (5.0, 5 - 2 * (1 - math.sqrt(0.5)), 3.0, 1.0)),
    ],
)
def test_schedule_from_5_to_1_at_the_start_a_quarter_half_and_the_end(schedule, values):
    found = [between(schedule, 5.0, 1.0, progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx(values)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(start=st.floats(0.1, 10), end=st.floats(0.1, 10), progress=st.floats(0, 1))
def test_schedule_stays_between_start_and_end(schedule, start, end, progress):
    value = between(schedule, start, end, progress)
    assert min(start, end) - 1e-9 <= value <= max(start, end) + 1e-9


def test_schedules_are_described_with_their_source():
    assert all(row["summary"] and row["source"] for row in SCHEDULES.describe())
