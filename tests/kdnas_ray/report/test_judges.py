"""Specification of `kdnas_ray.report.judges`: every Kendall tau that is known, and no other."""

from kdnas_ray.report.judges import Judge, judges, judges_figure

SUMMARY = {
    "kendall_tau": 0.8, "kendall_tau_n": 5,
    "rung_kendall_tau": [
        {"epochs": 1, "tau_search": 0.25, "n_search": 9, "tau_retrained": None, "n_retrained": 1},
        {"epochs": 9, "tau_search": None, "n_search": 9, "tau_retrained": 0.5, "n_retrained": 5},
    ],
}  # fmt: skip
CALIBRATION = {
    "judges": [
        {"label": "<b>synflow", "n": 12, "tau": {"value": 0.4, "low": 0.1, "high": 0.6}},
        {"label": "unknown", "n": 2, "tau": {"value": None, "low": None, "high": None}},
    ]
}


def test_judges_when_some_taus_are_not_known_then_are_left_out():
    assert judges(SUMMARY, CALIBRATION) == [
        Judge("after 1 epoch", "the end of the search", 0.25, 9),
        Judge("after 9 epochs", "full retraining", 0.5, 5),
        Judge("ranking of the search", "full retraining", 0.8, 5),
        Judge("<b>synflow", "calibration", 0.4, 12, 0.1, 0.6),
    ]
    assert judges({}, {}) == []


def test_figure_when_drawn_then_has_a_row_for_each_judge_and_bars_where_an_interval_is_known():
    figure = judges_figure(judges(SUMMARY, CALIBRATION), 0.3)
    traces = {trace.name: trace for trace in figure.data}
    measured = traces["calibration: against full training"]
    assert (measured.error_x.array[0], measured.error_x.arrayminus[0]) == (0.6 - 0.4, 0.4 - 0.1)
    assert list(traces["against full retraining"].x) == [0.5, 0.8]
    labels = ["&lt;b&gt;synflow", "ranking of the search", "after 9 epochs", "after 1 epoch"]
    assert list(figure.layout.yaxis.ticktext) == labels
    assert [shape.x0 for shape in figure.layout.shapes] == [0.3]
