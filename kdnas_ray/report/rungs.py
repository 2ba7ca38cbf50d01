"""Who was stopped when? Rungs as rows of a table, and as a picture of how many were still in training."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kdnas_ray.report.style import ACCENT, INK, TEACHER, Row, lay_out

TIMES = 200  # at which the view over time is drawn
GREYS = ("#c3cad3", "#9aa4b1", "#77828f", "#5b6571")


@dataclass(frozen=True)
class Rung:
    """What happened at a rung.

    Args:
        epochs: trained by then.
        reached: candidates that got there.
        stopped: candidates that ended here though others went on.
        failed: candidates that failed after it and before the next.
        best_stopped: id and validation accuracy of the best among the stopped; None for none.
    """

    epochs: int
    reached: int
    stopped: int
    failed: int
    best_stopped: tuple[str, float] | None


def rung_rows(rows: Sequence[Row], rungs: Sequence[int]) -> list[Rung]:
    """One row a rung; whoever ended between two rungs counts for the earlier.

    Args:
        rows: lines of candidates.jsonl.
        rungs: their epochs, ascending.
    """
    found = []
    for rung, following in itertools.pairwise([*rungs, sys.maxsize]):
        here = [row for row in rows if rung <= row["epochs"] < following]
        stopped = [row for row in here if row["state"] == "pruned"]
        known = [row for row in stopped if row["val_accuracy"] is not None]
        best = max(known, key=lambda row: row["val_accuracy"], default=None)
        found.append(
            Rung(
                epochs=rung,
                reached=sum(row["epochs"] >= rung for row in rows),
                stopped=len(stopped),
                failed=sum(row["state"] == "failed" for row in here),
                best_stopped=(best["id"], best["val_accuracy"]) if best else None,
            )
        )
    return found


def survival_figure(rows: Sequence[Row], rungs: Sequence[int]) -> go.Figure:
    """Candidates still in training by epoch; a second view shows how they ended over the time of the search.

    Args:
        rows: lines of candidates.jsonl, of candidates that were trained.
        rungs: epochs of the rungs, ascending.
    """
    figure = go.Figure()
    epochs = np.array([row["epochs"] for row in rows])
    steps = [0, *sorted(set(epochs.tolist()) - {0})]
    left = [int((epochs >= step).sum()) for step in steps]
    line = {"shape": "vh", "color": ACCENT, "width": 2}
    hover = "epoch %{x}: %{y:,} in training<extra></extra>"
    figure.add_scatter(
        x=steps, y=left, mode="lines", line=line, fill="tozeroy", fillcolor="rgba(47,125,225,0.14)",
        hovertemplate=hover, name="in training", showlegend=False,
    )  # fmt: skip
    stops = rung_rows(rows, rungs)
    labels = [f"−{row.stopped:,}" if row.stopped else "" for row in stops]
    figure.add_scatter(
        x=[row.epochs for row in stops], y=[row.reached for row in stops], text=labels, mode="markers+text",
        textposition="top right", marker={"color": ACCENT, "size": 7}, showlegend=False,
        hovertemplate="rung at epoch %{x}: %{y:,} reached it, %{text} stopped<extra></extra>",
    )  # fmt: skip
    over_time, unit = _over_time(rows, rungs)
    for trace in over_time:
        figure.add_scatter(**trace)
    lay_out(figure, "epoch", "candidates in training")
    figure.update_yaxes(tickformat=",", rangemode="tozero", range=[0, 1.12 * max(left)])
    figure.update_xaxes(range=[0, 1.06 * max(steps[-1], 1)])
    if over_time:
        count = len(figure.data)
        whole = {"xaxis.autorange": True, "xaxis.title.text": unit, "yaxis.title.text": "candidates that have ended",
                 "yaxis.autorange": True}  # fmt: skip
        first = {"xaxis.title.text": "epoch", "xaxis.range": [0, 1.06 * max(steps[-1], 1)],
                 "yaxis.range": [0, 1.12 * max(left)], "yaxis.title.text": "candidates in training"}  # fmt: skip
        figure.layout.meta = {
            "by epoch": [{"visible": [index < 2 for index in range(count)]}, first],
            "over time": [{"visible": [index >= 2 for index in range(count)]}, whole],
        }
    return figure


def _over_time(rows: Sequence[Row], rungs: Sequence[int]) -> tuple[list[dict[str, Any]], str]:
    """Traces of how many had ended in which way by then, one on another, and the unit of their time."""
    timed = [row for row in rows if row.get("ended_s") is not None]
    if len(timed) < 2:
        return [], ""
    last = max(row["ended_s"] for row in timed)
    scale, unit = (3600, "hours") if last > 2 * 3600 else (60, "minutes") if last > 120 else (1, "seconds")
    times = np.linspace(0, last, TIMES)
    colours = {"complete": ACCENT}
    ways: dict[str, list[float]] = {"complete": []}
    for index, rung in enumerate(reversed(rungs)):
        name = f"stopped after {rung} epoch{'s' * (rung > 1)}"
        ways[name], colours[name] = [], GREYS[min(index, len(GREYS) - 1)]
    ways["failed"], colours["failed"] = [], TEACHER
    for row in timed:
        reached = [rung for rung in rungs if rung <= row["epochs"]]
        stopped = f"stopped after {reached[-1]} epoch{'s' * (reached[-1] > 1)}" if reached else "failed"
        ways[stopped if row["state"] == "pruned" else row["state"]].append(row["ended_s"])
    return [
        {
            "x": (times / scale).round(3).tolist(),
            "y": np.searchsorted(np.sort(ends), times, side="right").tolist(),
            "name": name,
            "mode": "lines",
            "stackgroup": "ended",
            "visible": False,
            "line": {"width": 0.5, "color": colours.get(name, INK)},
            "hovertemplate": "%{y:,}",
        }
        for name, ends in ways.items()
        if ends
    ], f"{unit} of the search"
