"""Which pictures does the report hold?

Text from data and configuration is escaped here: plotly reads some HTML in labels and hover texts.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from kdnas_ray.analysis.importance import Importances
from kdnas_ray.analysis.pareto import pareto_front

INK = "#7d8794"  # legible on light and on dark paper
GRID = "rgba(125,135,148,0.22)"
ACCENT, FINAL, QUIET, TEACHER = "#2f7de1", "#e07b22", "#9aa4b1", "#c2405a"
LONGEST_LABEL = 60


def pareto_figure(
    rows: Sequence[Mapping[str, Any]],
    finalists: Sequence[Mapping[str, Any]],
    teacher: Mapping[str, Any] | None,
) -> go.Figure:
    """Validation accuracy against parameters, switchable to FLOPs.

    Args:
        rows: lines of candidates.jsonl.
        finalists: of summary.json.
        teacher: of summary.json.
    """
    complete = [row for row in rows if row["state"] == "complete"]
    stopped = [row for row in rows if row["state"] == "pruned" and row["val_accuracy"] is not None]
    figure = go.Figure()
    by_size, by_flops = [], []

    def add(points: Sequence[Mapping[str, Any]], hover: Sequence[str], **style: Any) -> None:
        by_size.append([point["params"] for point in points])
        by_flops.append([point["flops"] for point in points])
        heights = [point["val_accuracy"] for point in points]
        figure.add_scatter(x=by_size[-1], y=heights, hovertext=hover, hoverinfo="text", **style)

    add(stopped, [_hover(row) for row in stopped], name="stopped early", mode="markers",
        marker={"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": QUIET}})  # fmt: skip
    add(complete, [_hover(row) for row in complete], name="complete", mode="markers",
        marker={"symbol": "circle", "size": 9, "color": ACCENT})  # fmt: skip
    front = sorted(pareto_front(rows, ["val_accuracy", "params"]), key=lambda row: row["params"])
    add(front, [_hover(row) for row in front], name="Pareto front (accuracy, parameters)", mode="lines",
        line={"color": ACCENT, "width": 1.5, "shape": "hv"})  # fmt: skip
    add(finalists, [f"{escape(row['id'])}, retrained<br>{row['val_accuracy']:.2%}" for row in finalists],
        name="retrained finalist", mode="markers",
        marker={"symbol": "diamond-open", "size": 12, "line": {"width": 2}, "color": FINAL})  # fmt: skip
    good = [row["val_accuracy"] for row in (*complete, *finalists)]
    if teacher:
        good.append(teacher["val_accuracy"])
        add([teacher], [f"teacher<br>{teacher['val_accuracy']:.2%}<br>{teacher['params']:,} parameters"],
            name="teacher", mode="markers", marker={"symbol": "star", "size": 14, "color": TEACHER})  # fmt: skip
    buttons = [
        {"label": label, "method": "update", "args": [{"x": values}, {"xaxis.title.text": title}]}
        for label, values, title in (("parameters", by_size, "parameters"), ("FLOPs", by_flops, "FLOPs for one input"))
    ]
    _style(figure, "parameters", "validation accuracy")
    if good:  # candidates stopped at the first rung would squeeze all others into one line
        margin = max(0.01, 0.5 * (max(good) - min(good)))
        figure.update_yaxes(range=[min(good) - margin, max(good) + margin])
    figure.update_layout(
        xaxis_type="log",
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, "x": 1, "xanchor": "right",
                      "y": 1.12, "yanchor": "bottom", "showactive": False}],
    )  # fmt: skip
    return figure


def curves_figure(rows: Sequence[Mapping[str, Any]], rungs: Sequence[int], best: str | None) -> go.Figure:
    """Validation accuracy by epoch of every candidate, with the rungs; the best stands out.

    Args:
        rows: lines of candidates.jsonl.
        rungs: epochs of the rungs, ascending.
        best: id of the best candidate.
    """
    figure = go.Figure()
    styles = {
        "stopped early": (QUIET, 1.0, 0.5, lambda row: row["state"] == "pruned"),
        "complete": (ACCENT, 1.3, 0.7, lambda row: row["state"] == "complete" and row["id"] != best),
        "best": (FINAL, 3.0, 1.0, lambda row: row["id"] == best),
    }
    for name, (colour, width, opacity, chosen) in styles.items():
        epochs: list[float | None] = []
        heights: list[float | None] = []
        texts: list[str | None] = []
        for row in rows:
            if row["curve"] and chosen(row):  # one trace for all, with gaps: a trace each is slow to draw
                epochs += [*(point["epoch"] for point in row["curve"]), None]
                heights += [*(point["val_accuracy"] for point in row["curve"]), None]
                texts += [*(escape(row["id"]) for _ in row["curve"]), None]
        figure.add_scatter(
            x=epochs, y=heights, text=texts, mode="lines", name=name, opacity=opacity,
            line={"color": colour, "width": width}, hovertemplate="%{text}<br>epoch %{x}: %{y:.2%}<extra></extra>",
        )  # fmt: skip
    for rung in rungs:
        figure.add_vline(x=rung, line={"color": INK, "width": 1, "dash": "dot"})
        figure.add_annotation(x=rung, y=1.0, yref="paper", yanchor="bottom", text=f"rung {rung}", showarrow=False)
    _style(figure, "epoch", "validation accuracy")
    return figure


def importance_figure(found: Importances) -> go.Figure:
    """Share of the variance of accuracy that each decision explains, largest on top."""
    shares = dict(list(found.shares.items())[:15])
    names = [escape(name if len(name) <= LONGEST_LABEL else name[:LONGEST_LABEL] + "…") for name in reversed(shares)]
    figure = go.Figure(
        go.Bar(x=list(reversed(shares.values())), y=names, orientation="h", marker={"color": ACCENT},
               hovertemplate="%{y}: %{x:.1%}<extra></extra>")
    )  # fmt: skip
    _style(figure, "share of the variance explained", "")
    figure.update_layout(height=90 + 24 * len(shares), yaxis_tickformat="", xaxis_tickformat=".0%")
    figure.update_yaxes(automargin=True)
    return figure


def _hover(row: Mapping[str, Any]) -> str:
    recipe = row["recipe"]
    losses = " + ".join(escape(str(term["loss"])) for term in recipe["terms"]) or "labels only"
    return (
        f"<b>{escape(row['id'])}</b><br>{row['val_accuracy']:.2%} after {row['epochs']} epochs<br>"
        f"{row['params']:,} parameters, {row['flops'] / 1e6:.2f} MFLOPs<br>"
        f"{losses}, alpha {recipe['alpha']:.2f}, T {recipe['temperature']['start']:.1f}, "
        f"learning rate {recipe['learning_rate']:.3f}"
    )


def _style(figure: go.Figure, x: str, y: str) -> None:
    figure.update_layout(
        template="none",
        height=440,
        margin={"l": 64, "r": 16, "t": 56, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"},
        xaxis={"title": {"text": x}, "gridcolor": GRID, "linecolor": GRID, "zeroline": False},
        yaxis={"title": {"text": y}, "gridcolor": GRID, "linecolor": GRID, "zeroline": False, "tickformat": ".0%"},
    )
