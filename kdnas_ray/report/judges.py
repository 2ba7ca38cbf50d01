"""How well does each cheap judge agree with the truth? Kendall tau of each, as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from kdnas_ray.report.style import ACCENT, FINAL, INK, lay_out, shortened

AGAINST = {"search": "the end of the search", "retrained": "full retraining"}


@dataclass(frozen=True)
class Judge:
    """Kendall tau of a judge.

    Args:
        label: who judges.
        against: what it is compared with.
        tau: -1 to 1.
        low, high: bounds of its 95 % interval; None where it is not known.
        n: candidates.
    """

    label: str
    against: str
    tau: float
    n: int
    low: float | None = None
    high: float | None = None


def judges(summary: Mapping[str, Any], calibration: Mapping[str, Any]) -> list[Judge]:
    """All judges of a run of which Kendall tau is known.

    Args:
        summary: `kendall_tau`, `kendall_tau_n` and `rung_kendall_tau`.
        calibration: content of calibration.json.
    """
    found = []
    for row in summary.get("rung_kendall_tau") or ():
        label = f"after {row['epochs']} epoch{'s' * (row['epochs'] > 1)}"
        for name, against in AGAINST.items():
            if row[f"tau_{name}"] is not None:
                found.append(Judge(label, against, row[f"tau_{name}"], row[f"n_{name}"]))
    if summary.get("kendall_tau") is not None:
        found.append(
            Judge("ranking of the search", AGAINST["retrained"], summary["kendall_tau"], summary["kendall_tau_n"])
        )
    for judge in calibration.get("judges") or ():
        tau = judge["tau"]
        if tau["value"] is not None:
            found.append(Judge(judge["label"], "calibration", tau["value"], judge["n"], tau["low"], tau["high"]))
    return found


def judges_figure(found: Sequence[Judge], least: float | None = None) -> go.Figure:
    """Kendall tau of each judge with its interval, the last on top; `least` is where trust begins."""
    figure = go.Figure()
    labels = list(dict.fromkeys(judge.label for judge in found))[::-1]
    looks = {
        "calibration": (ACCENT, "circle"),
        AGAINST["retrained"]: (FINAL, "diamond"),
        AGAINST["search"]: (INK, "square"),
    }
    for against, (colour, symbol) in looks.items():
        own = [judge for judge in found if judge.against == against]
        if not own:
            continue
        bars = {
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 4,
            "array": [judge.high - judge.tau if judge.high is not None else 0 for judge in own],
            "arrayminus": [judge.tau - judge.low if judge.low is not None else 0 for judge in own],
        }  # fmt: skip
        figure.add_scatter(
            x=[judge.tau for judge in own], y=[labels.index(judge.label) for judge in own], mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10}, error_x=bars if against == "calibration" else None,
            name=f"against {against}" if against != "calibration" else "calibration: against full training",
            text=[f"{escape(judge.label, quote=False)}: {judge.tau:.2f}, n = {judge.n}" for judge in own],
            hovertemplate="%{text}",
        )  # fmt: skip
    if least is not None:
        figure.add_vline(x=least, line={"color": INK, "width": 1, "dash": "dot"})
        note = {"text": f"retrain.least_tau {least:g}", "font": {"size": 11}}
        figure.add_annotation(x=least, y=1.0, yref="paper", yanchor="bottom", showarrow=False, **note)
    lay_out(figure, "Kendall tau", "")
    lowest = min([0.0, *(judge.low if judge.low is not None else judge.tau for judge in found)])
    figure.update_layout(height=150 + 34 * len(labels), margin={"b": 90})
    figure.update_xaxes(range=[lowest - 0.05, 1.05])
    figure.update_yaxes(
        tickvals=list(range(len(labels))), ticktext=[escape(shortened(label), quote=False) for label in labels],
        range=[-0.6, len(labels) - 0.4], showgrid=False, tickformat="",
    )  # fmt: skip
    return figure
