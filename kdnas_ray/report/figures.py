"""Which pictures does the report hold?

Text from data and configuration is escaped here: plotly reads some HTML in labels and hover texts.
A picture with several views keeps them in `layout.meta` as arguments of `Plotly.update`; the page has a
button for each. What a mark stands for is its text; the page shows that candidate beside the picture.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from kdnas_ray.analysis.importance import Importances
from kdnas_ray.analysis.pareto import pareto_front
from kdnas_ray.objectives import costs_of
from kdnas_ray.report.style import (
    ACCENT,
    FINAL,
    INK,
    QUIET,
    TEACHER,
    Row,
    around,
    decades,
    lay_out,
    short_number,
    shortened,
    spread,
)

MOST_MARKS = 2000  # of one kind
CROWD = 500  # candidates from which on marks are small
COSTS = {"params": "parameters", "flops": "FLOPs for one input"}
ON_DEVICE = {"latency_ms": "modelled milliseconds for one input", "memory_mb": "megabytes"}
MOST_BARS = 15
MOST_CURVES = {"stopped early": 200, "complete": 150}
MOST_POINTS = 100  # of one curve


def pareto_figure(
    rows: Sequence[Row],
    finalists: Sequence[Row],
    teacher: Row | None,
    bounds: Mapping[str, float] | None = None,
    metric: str = "accuracy",
) -> go.Figure:
    """Validation accuracy against parameters, with views against every other cost and of the students alone.

    Args:
        rows: lines of candidates.jsonl.
        finalists: of summary.json.
        teacher: of summary.json.
        bounds: largest allowed value of each constrained number, drawn as a line.
        metric: the task's, in words.
    """
    complete = [row for row in rows if row["state"] == "complete"]
    crowded, titles = len(rows) > CROWD, _titles(complete)
    drawn = marks_drawn(rows, titles)
    groups: list[tuple[Sequence[Row], dict[str, Any]]] = [
        (drawn["stopped early"], _marks("stopped early", "x-thin", 5 if crowded else 7, QUIET)),
        (drawn["complete"], _marks("complete", "circle", 6 if crowded else 9, ACCENT)),
    ]
    for cost in titles:
        front = sorted(pareto_front(rows, ["val_accuracy", cost]), key=lambda row: row[cost])
        line = {"color": ACCENT, "width": 1.5, "shape": "hv"}
        style = {"name": "Pareto front", "mode": "lines", "line": line, "visible": cost == "params", "meta": cost}
        groups.append((front, style | {"hoverinfo": "skip"}))  # its candidates have marks of their own
    groups.append((finalists, _marks("retrained", "diamond-open", 13, FINAL)))
    judges = [teacher] if teacher and teacher["val_accuracy"] is not None else []  # one of other classes has none
    starred = [row for row in judges if row.get("params") is not None]  # a teacher's size may not be known
    groups.append((starred, _marks("teacher", "star", 15, TEACHER)))
    figure = go.Figure()
    ends = [row["val_accuracy"] for row in (*complete, *finalists, *judges)] or [0.0, 1.0]
    for points, style in groups:
        across, heights = [point["params"] for point in points], [point["val_accuracy"] for point in points]
        if style["mode"] == "markers":
            style |= {"text": [escape(str(point.get("id", "teacher")), quote=False) for point in points]}
        figure.add_scatter(x=across, y=heights, **style)
    lay_out(figure, COSTS["params"], f"validation {metric}")
    figure.update_xaxes(type="log", **decades([point["params"] for points, _ in groups for point in points]))
    close = around([row["val_accuracy"] for row in (*complete, *finalists, *judges)])
    if close:  # candidates stopped at the first rung would squeeze all others into one line
        figure.update_yaxes(range=close)
    for judge in judges:
        figure.add_hline(y=judge["val_accuracy"], line={"color": TEACHER, "width": 1, "dash": "dash"}, opacity=0.6)
    for cost, bound in (bounds or {}).items():
        if cost in titles and bound:
            groups.append(([{cost: bound}] * 2, {}))
            line = {"color": FINAL, "width": 1.5, "dash": "dot"}
            style = {"name": f"at most {short_number(bound)}", "mode": "lines", "line": line, "meta": cost}
            x, y = [bound, bound], [min(ends), max(ends)]
            figure.add_scatter(x=x, y=y, visible=cost == "params", hoverinfo="name", **style)
    figure.layout.meta = _cost_views(
        titles, [points for points, _ in groups], [trace.meta for trace in figure.data], bool(judges)
    )
    return figure


def marks_drawn(rows: Sequence[Row], costs: Iterable[str] = COSTS) -> dict[str, list[Row]]:
    """Candidates that have a mark: where there are many, evenly over their accuracies, and all that are on a front.

    plotly could leave many marks to the graphics card, but builds programs from text for it, which the page forbids.
    """
    complete = [row for row in rows if row["state"] == "complete"]
    found = {}
    for name, members in (("stopped early", _stopped(rows)), ("complete", complete)):
        found[name] = spread(sorted(members, key=_accuracy), MOST_MARKS) if len(members) > MOST_MARKS else members
    there = {row["id"] for row in found["complete"]}
    for cost in costs if len(there) < len(complete) else ():
        found["complete"] += [row for row in pareto_front(rows, ["val_accuracy", cost]) if row["id"] not in there]
        there |= {row["id"] for row in found["complete"]}
    return found


def pareto_words(rows: Sequence[Row], teacher: Row | None, metric: str) -> str:
    """What the picture shows, for those who do not see it."""
    complete = [row for row in rows if row["state"] == "complete"]
    text = f"Validation {metric} against size of {len(rows):,} candidates, {len(complete):,} of them trained in full"
    if complete:
        sizes = [row["params"] for row in complete]
        best = max(row["val_accuracy"] for row in complete)
        text += f" with {min(sizes):,} to {max(sizes):,} parameters and up to {best:.2%}"
    if teacher and teacher.get("val_accuracy") is not None:
        text += f"; the teacher has {teacher['val_accuracy']:.2%}"
    return text


def curves_figure(rows: Sequence[Row], rungs: Sequence[int], best: str | None, metric: str = "accuracy") -> go.Figure:
    """Validation accuracy by epoch of every candidate, with the rungs; the best stands out.

    A second view shows the range in which the complete candidates end.

    Args:
        rows: lines of candidates.jsonl.
        rungs: epochs of the rungs, ascending.
        best: id of the best candidate.
        metric: the task's, in words.
    """
    figure = go.Figure()
    complete = [row for row in rows if row["state"] == "complete"]
    chosen = curves_drawn(rows, best)
    groups = {
        "stopped early": (QUIET, 1.0, 0.45, chosen["stopped early"]),
        "complete": (ACCENT, 1.3, 0.65, chosen["complete"]),
        "best": (FINAL, 3.0, 1.0, [row for row in rows if row["id"] == best]),
    }
    for name, (colour, width, opacity, members) in groups.items():
        line = {"color": colour, "width": width}
        figure.add_scatter(**_joined(members), opacity=opacity, line=line, legendgroup=name, showlegend=False)
        if members:  # a legend entry of its own, or it would be as faint as the curves
            entry = {"color": colour, "width": max(width, 2)}
            figure.add_scatter(x=[None], y=[None], mode="lines", line=entry, name=name, legendgroup=name)
    for rung in rungs:
        figure.add_vline(x=rung, line={"color": INK, "width": 1, "dash": "dot"})
        label = {"text": f"rung {rung}", "font": {"size": 11}}
        figure.add_annotation(x=rung, y=1.0, yref="paper", yanchor="bottom", showarrow=False, **label)
    lay_out(figure, "epoch", f"validation {metric}")
    whole = [point["val_accuracy"] for row in rows for point in row["curve"] if point["val_accuracy"] is not None]
    views = {"whole range": around(whole, 0.05), "where they end": around([row["val_accuracy"] for row in complete])}
    figure.layout.meta = {name: [{}, {"yaxis.range": limits}] for name, limits in views.items() if limits}
    return figure


def curves_drawn(rows: Sequence[Row], best: str | None) -> dict[str, list[Row]]:
    """Candidates whose curves are drawn beside the best one's: where there are many, evenly over their accuracies."""
    states = {"stopped early": "pruned", "complete": "complete"}
    found = {}
    for name, state in states.items():
        members = [row for row in rows if row["state"] == state and row["id"] != best]
        members.sort(key=lambda row: -(row["val_accuracy"] or 0.0))
        found[name] = spread(members, MOST_CURVES[name])
    return found


def importance_figure(found: Importances) -> go.Figure:
    """Share of the explained variance of accuracy that falls to each decision, largest on top."""
    shares = list(found.shares.items())[:MOST_BARS][::-1]
    bars = go.Bar(
        x=[share for _, share in shares],
        y=list(range(len(shares))),
        orientation="h",
        marker={"color": ACCENT},
        hovertext=[f"{escape(name, quote=False)}: {share:.1%}" for name, share in shares],
        hoverinfo="text",
    )
    figure = go.Figure(bars)
    lay_out(figure, "share of explained variance", "")
    labels = [escape(shortened(name), quote=False) for name, _ in shares]
    figure.update_layout(height=84 + 24 * len(shares), margin={"t": 8, "b": 52}, bargap=0.35)
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(automargin=True, tickvals=list(range(len(shares))), ticktext=labels, showgrid=False)
    return figure


def _accuracy(row: Row) -> float:
    return row["val_accuracy"]


def _stopped(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["state"] == "pruned" and row["val_accuracy"] is not None]


def _marks(name: str, symbol: str, size: int, colour: str) -> dict[str, Any]:
    line = {"width": 2 if symbol == "diamond-open" else 1.5, "color": colour} if symbol != "circle" else {"width": 0}
    marker = {"symbol": symbol, "size": size, "color": colour, "line": line}
    hover = "<b>%{text}</b><br>%{y:.2%}<br>%{x:,.4~s} %{xaxis.title.text}" + f"<extra>{name}</extra>"
    return {"name": name, "mode": "markers", "marker": marker, "hovertemplate": hover}


def _titles(rows: Sequence[Row]) -> dict[str, str]:
    """Axis title of every cost that all rows know; latency and memory once for each device."""
    found = dict(COSTS)
    for name in costs_of(rows[0]) if rows else ():
        kind, _, device = name.partition("/")
        if kind in ON_DEVICE and all(row.get(name) is not None for row in rows):
            found[name] = f"{ON_DEVICE[kind]} on {escape(device, quote=False)}"
    return found


def _cost_views(
    titles: Mapping[str, str], groups: Sequence[Sequence[Row]], only: Sequence[str | None], teacher: bool
) -> dict[str, Any]:
    """For each cost: x of every trace and which of them show (`only` names the fronts'); title and ticks."""
    views = {}
    for cost, title in titles.items():
        label = {"params": "parameters", "flops": "FLOPs"}.get(cost, cost.replace("/", " on "))
        values = [[point.get(cost) for point in points] for points in groups]
        shown = [name in (None, cost) for name in only]
        there = [x for group, seen in zip(values, shown, strict=True) for x in group if seen and x is not None]
        axis = {"xaxis.title.text": title, "xaxis.autorange": True, **_dotted(there)}
        views[label] = [{"x": values, "visible": shown}, axis]
    trained = [points for points in groups if points and "id" in points[0]]
    students = [point["params"] for points in trained for point in points if point["params"] > 0]
    if students and teacher:  # the teacher is so far off that it squeezes them
        data, axis = views["parameters"]
        room = 0.1 + 0.05 * math.log10(max(students) / min(students))
        limits = [math.log10(min(students)) - room, math.log10(max(students)) + room]
        views["students only"] = [data, {**axis, "xaxis.autorange": False, "xaxis.range": limits, **_dotted(students)}]
    return views


def _dotted(values: Sequence[float]) -> dict[str, Any]:
    return {f"xaxis.{name}": value for name, value in decades(values).items()}


def _joined(rows: Sequence[Row]) -> dict[str, Any]:
    """All curves as one trace with gaps: a trace each is slow to draw."""
    epochs: list[float | None] = []
    heights: list[float | None] = []
    texts: list[str | None] = []
    for row in rows:
        curve = spread(row["curve"], MOST_POINTS)
        epochs += [*(point["epoch"] for point in curve), None]
        heights += [*(point["val_accuracy"] for point in curve), None]
        texts += [*(escape(row["id"], quote=False) for _ in curve), None]
    template = "%{text}<br>epoch %{x}: %{y:.2%}<extra></extra>"
    return {"x": epochs, "y": heights, "text": texts, "mode": "lines", "hovertemplate": template}
