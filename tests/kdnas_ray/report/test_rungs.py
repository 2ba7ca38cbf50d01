"""Specification of `kdnas_ray.report.rungs`: everybody who began is counted once."""

from kdnas_ray.report.rungs import Rung, rung_rows, survival_figure

RUNGS = (1, 3, 9)


def of(row, *ends):
    """Rows of candidates that ended so: state and number of epochs."""
    return [
        row(number, state, [0.1 * number] * epochs) | {"ended_s": 10.0 * number}
        for number, (state, epochs) in enumerate(ends, start=1)
    ]


def test_rungs_when_candidates_ended_at_them_then_each_is_counted_where_it_did(row):
    rows = of(row, ("pruned", 1), ("pruned", 1), ("pruned", 3), ("failed", 2), ("complete", 9), ("failed", 0))
    assert rung_rows(rows, RUNGS) == [
        Rung(1, 5, 2, 1, ("c0002", 0.2)),
        Rung(3, 2, 1, 0, ("c0003", 0.30000000000000004)),
        Rung(9, 1, 0, 0, None),
    ]


def test_rungs_when_time_ran_out_between_two_then_count_for_the_earlier(row):
    assert [found.stopped for found in rung_rows(of(row, ("pruned", 5)), RUNGS)] == [0, 1, 0]


def test_rungs_when_there_are_none_then_there_is_no_row(row):
    assert rung_rows(of(row, ("complete", 9)), ()) == []


def test_survival_when_drawn_then_falls_after_each_rung(row):
    figure = survival_figure(of(row, ("pruned", 1), ("pruned", 3), ("complete", 9), ("complete", 9)), RUNGS)
    line = figure.data[0]
    assert (list(line.x), list(line.y)) == ([0, 1, 3, 9], [4, 4, 3, 2])
    assert list(figure.data[1].text) == ["−1", "−1", ""]


def test_survival_when_seen_over_time_then_all_have_ended_in_some_way(row):
    rows = of(row, ("pruned", 1), ("failed", 2), ("pruned", 3), ("complete", 9), ("failed", 0))
    figure = survival_figure(rows, RUNGS)
    last = {trace.name: trace.y[-1] for trace in figure.data[2:]}
    assert last == {"complete": 1, "stopped after 3 epochs": 1, "stopped after 1 epoch": 1, "failed": 2}
    assert {tuple(view[0]["visible"]) for view in figure.layout.meta.values()} == {
        (True, True, False, False, False, False),
        (False, False, True, True, True, True),
    }


def test_survival_when_times_are_not_known_then_has_one_view(row):
    rows = [line | {"ended_s": None} for line in of(row, ("pruned", 1), ("complete", 9))]
    figure = survival_figure(rows, RUNGS)
    assert len(figure.data) == 2
    assert figure.layout.meta is None
