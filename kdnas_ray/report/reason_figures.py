"""Which pictures show why a candidate works? One for each part of an explanation, drawn from its raw numbers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kdnas_ray.analysis.effects import Effect, mean_effect
from kdnas_ray.analysis.explained import closeness
from kdnas_ray.analysis.pairs import by_architecture
from kdnas_ray.report.style import ACCENT, FINAL, INK, QUIET, TEACHER, lay_out, shortened

Found = Mapping[str, Any]
MOST_BARS = 12
MOST_NAMES = 12  # classes whose names stand beside their confusions
# Of stages and layers, told apart in light and dark, by most colour-blind eyes too.
COLOURS = ("#2f7de1", "#e07b22", "#1c9e77", "#c2405a", "#8a63d2", "#8c7a3d", "#3aa6b9", "#7d8794")
SIDES = {"with": "with distillation", "without": "without"}
SHADES = [[0, "rgba(47,125,225,0)"], [1, "rgba(47,125,225,1)"]]
ROW, TOP, FOOT = 26, 16, 58  # pixels of a bar, and above and below all of them


def decisions_figure(rows: Sequence[Found], noise: float) -> go.Figure:
    """Share of the variance of each decision, or pair of them, with its interval; a line where noise ends."""
    shown = list(rows)[:MOST_BARS][::-1]
    labels = [_label(row["name"]) for row in shown]
    figure = go.Figure(
        go.Bar(
            x=[row["value"] for row in shown],
            y=list(range(len(shown))),
            orientation="h",
            marker={"color": [ACCENT if row["low"] > noise else QUIET for row in shown]},
            error_x=_bars(shown),
            hovertext=[
                f"{_label(row['name'])}: {row['value']:.1%} ({row['low']:.1%} to {row['high']:.1%})" for row in shown
            ],
            hoverinfo="text",
        )
    )
    lay_out(figure, "share of the variance of accuracy", "")
    figure.add_vline(x=noise, line={"color": FINAL, "width": 1.5, "dash": "dash"})
    _rows(figure, labels)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    return figure


def effects_figure(groups: Mapping[str, Sequence[tuple[str, Effect]]], title: str, form: str) -> go.Figure:
    """Effects with their intervals, one below the other, by group; a line at zero.

    Args:
        groups: by the group's name, its effects with their names.
        title: of the axis.
        form: of its numbers, as d3 writes it.
    """
    figure = go.Figure()
    names = [name for rows in groups.values() for name, _ in rows][::-1]
    place = len(names)
    for colour, (group, rows) in zip(COLOURS, groups.items(), strict=False):
        places = [place - 1 - index for index in range(len(rows))]
        place -= len(rows)
        effects = [effect for _, effect in rows]
        if not effects:
            continue
        figure.add_scatter(
            x=[effect["value"] for effect in effects],
            y=places,
            mode="markers",
            name=escape(group, quote=False),
            marker={"color": colour, "size": 9},
            error_x=_bars(effects),
            hovertext=[f"{_label(name)}: {_effect_text(effect)}" for name, effect in rows],
            hoverinfo="text",
        )
    lay_out(figure, title, "")
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    _rows(figure, [_label(name) for name in names], legend=True)
    figure.update_xaxes(tickformat=form)
    return figure


def similarity_figure(lines: Sequence[Found]) -> go.Figure:
    """CKA between the layers of student and teacher at the end, with and without distillation, mean over seeds."""
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=list(SIDES.values()))
    for column, side in enumerate(SIDES, start=1):
        rows = [line["looks"][-1]["similarity"] for line in lines if line["variant"] == side]
        if not rows:
            continue
        own, theirs = list(rows[0]), list(next(iter(rows[0].values())))
        values = [[_mean([row[tap][name] for row in rows]) for tap in own] for name in theirs]
        figure.add_heatmap(
            x=list(map(_label, own)), y=list(map(_label, theirs)), z=values, row=1, col=column, zmin=0, zmax=1,
            colorscale=SHADES, showscale=False, xgap=2, ygap=2, texttemplate="%{z:.2f}",
            hovertemplate="student's %{x}, teacher's %{y}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
    _subplots(figure, "student", "teacher")
    return figure


def closeness_figure(lines: Sequence[Found]) -> go.Figure:
    """CKA of each layer with the teacher's closest one over the training; dashed without distillation."""
    figure = go.Figure()
    taps = list(_of(lines, "with")[0]["looks"][0]["similarity"])
    for colour, tap in zip(COLOURS * 9, taps, strict=False):
        for side, dash in (("with", "solid"), ("without", "dot")):
            own = _of(lines, side)
            if not own:
                continue
            looks = list(zip(*(line["looks"] for line in own), strict=True))
            figure.add_scatter(
                x=[at[0]["epoch"] for at in looks],
                y=[_mean([closeness(look["similarity"][tap]) for look in at]) for at in looks],
                mode="lines+markers",
                name=_label(tap),
                legendgroup=tap,
                showlegend=side == "with",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"size": 5},
                hovertemplate=f"{_label(tap)}, {SIDES[side]}, epoch %{{x}}: %{{y:.3f}}<extra></extra>",
            )
    lay_out(figure, "epoch (dotted: without distillation)", "CKA with the closest layer")
    figure.update_yaxes(tickformat=".1f", rangemode="tozero")
    return figure


def probes_figure(lines: Sequence[Found], teacher: Found | None) -> go.Figure:
    """Accuracy of a linear probe at each tap, with the range over seeds."""
    figure = go.Figure()
    for side, colour, shape in (("with", ACCENT, "circle"), ("without", FINAL, "diamond")):
        rows = [line["end"]["probes"] for line in _of(lines, side) if line["end"].get("probes")]
        if not rows:
            continue
        means = {tap: _mean([row[tap] for row in rows]) for tap in rows[0]}
        spread = [_range([row[tap] for row in rows], means[tap]) for tap in means]
        figure.add_scatter(
            x=list(map(_label, means)), y=list(means.values()), mode="lines+markers", name=f"student {SIDES[side]}",
            line={"color": colour, "width": 2}, marker={"size": 9, "symbol": shape},
            error_y={"type": "data", "symmetric": False, "thickness": 1.5, "width": 4,
                     "array": [high for _, high in spread], "arrayminus": [low for low, _ in spread]},
            hovertemplate="%{x}: %{y:.2%}<extra></extra>",
        )  # fmt: skip
    if teacher and teacher.get("probes"):
        figure.add_scatter(
            x=list(map(_label, teacher["probes"])), y=list(teacher["probes"].values()), mode="lines+markers",
            name="teacher", line={"color": TEACHER, "width": 1.5, "dash": "dash"}, marker={"size": 8, "symbol": "star"},
            hovertemplate="teacher's %{x}: %{y:.2%}<extra></extra>",
        )  # fmt: skip
    lay_out(figure, "layer", "validation accuracy of a linear probe")
    figure.update_xaxes(type="category")
    return figure


def gradients_figure(lines: Sequence[Found]) -> go.Figure:
    """Cosine with the labels and norm of each loss's gradient at each stage over the training, a view each."""
    own = _of(lines, "with")
    first = own[0]["looks"][0]["gradients"]
    looks = list(zip(*(line["looks"] for line in own), strict=True))

    def over(measure: Callable[[Found, int], float | None]) -> list[list[float | None]]:
        return [
            [_mean([measure(look["gradients"], stage) for look in at]) for at in looks]
            for stage in range(len(first["stages"]))
        ]

    terms = list(enumerate(first["terms"]))
    views = {"cosine": over(lambda g, s: g["distillation"]["cosines"][s])}
    if len(terms) > 2:
        views |= {f"cosine: {term}": over(partial(_cosine_of, index - 1)) for index, term in terms[1:]}
    views |= {f"norm: {term}": over(partial(_norm_of, index)) for index, term in terms}
    figure = go.Figure()
    epochs = [at[0]["epoch"] for at in looks]
    for colour, name, values in zip(COLOURS * 9, first["stages"], views["cosine"], strict=False):
        figure.add_scatter(
            x=epochs, y=values, mode="lines+markers", name=_label(name), line={"color": colour, "width": 2},
            marker={"size": 5}, hovertemplate=f"{_label(name)}, epoch %{{x}}: %{{y:.3g}}<extra></extra>",
        )  # fmt: skip
    lay_out(figure, "epoch", "cosine with the labels' gradient")
    figure.add_hline(y=0, line={"color": INK, "width": 1})
    figure.update_yaxes(tickformat=".2~g")
    figure.layout.meta = {
        _label(name): [
            {"y": values},
            {"yaxis.title.text": "norm" if name.startswith("norm") else "cosine with the labels' gradient",
             "yaxis.autorange": True},
        ]
        for name, values in views.items()
    }  # fmt: skip
    return figure


def shares_figure(stages: Mapping[str, Found]) -> go.Figure:
    """Each stage's share of the squared gradient norm of distillation and labels, with intervals over seeds."""
    figure = go.Figure()
    looks = {"distillation": ACCENT, "labels": FINAL, "labels alone": QUIET}
    titles = {"labels": "labels beside it", "labels alone": "labels, trained without distillation"}
    for kind, colour in looks.items():
        effects = [row["share"][kind] for row in stages.values()]
        if all(effect["value"] is None for effect in effects):
            continue
        figure.add_bar(
            x=list(map(_label, stages)), y=[effect["value"] for effect in effects], name=titles.get(kind, kind),
            marker={"color": colour}, error_y=_bars(effects), hovertemplate="%{x}: %{y:.1%}<extra></extra>",
        )  # fmt: skip
    lay_out(figure, "stage", "share of the squared gradient norm")
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(type="category")
    return figure


def confusion_figure(lines: Sequence[Found], teacher: Found) -> go.Figure | None:
    """Mean softened outputs off the diagonal of teacher and students; None where they were not kept."""
    names = teacher["classes"]
    found = {"teacher": [teacher.get("outputs")]}
    found |= {title: [line["end"].get("outputs") for line in _of(lines, side)] for side, title in SIDES.items()}
    if not all(rows and rows[0] for rows in found.values()):
        return None
    figure = make_subplots(cols=3, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=list(found))
    for column, rows in enumerate(found.values(), start=1):
        mean = np.mean(np.array(rows, dtype=float), axis=0)
        np.fill_diagonal(mean, np.nan)
        values = [[float(value) if np.isfinite(value) else None for value in row] for row in mean]
        # Each on its own scale: which classes are confused is compared, not how softly.
        figure.add_heatmap(
            z=values, row=1, col=column, zmin=0, colorscale=SHADES, showscale=False, xgap=1, ygap=1,
            hovertemplate="class %{y}, said %{x}: %{z:.4f}<extra></extra>",
        )  # fmt: skip
    _subplots(figure, "class said", "true class")
    figure.update_yaxes(autorange="reversed")
    if len(names) <= MOST_NAMES:
        ticks = {"tickvals": list(range(len(names))), "ticktext": list(map(_label, names))}
        figure.update_xaxes(**ticks)
        figure.update_yaxes(**ticks)
    return figure


def agreement_figure(lines: Sequence[Found], teacher: Found) -> go.Figure:
    """Agreement with the teacher against accuracy, a mark a seed."""
    figure = go.Figure()
    for side, colour, shape in (("with", ACCENT, "circle"), ("without", FINAL, "diamond")):
        ends = [line["end"] for line in _of(lines, side)]
        figure.add_scatter(
            x=[end["accuracy"] for end in ends], y=[end["agreement"] for end in ends], mode="markers",
            name=f"student {SIDES[side]}", marker={"size": 11, "color": colour, "symbol": shape},
            customdata=[end["calibration_error"] for end in ends],
            hovertemplate="accuracy %{x:.2%}, agreement %{y:.2%}<br>calibration error %{customdata:.2%}<extra></extra>",
        )  # fmt: skip
    lay_out(figure, "validation accuracy", "agreement with the teacher")
    figure.add_vline(x=teacher["accuracy"], line={"color": TEACHER, "width": 1, "dash": "dash"})
    figure.update_xaxes(tickformat=".1~%")
    return figure


def gap_figure(gains: Sequence[Found], form: str) -> go.Figure:
    """Gain of distillation of each architecture against its size, with intervals over seeds."""
    effects = [row["gain"] for row in gains]
    figure = go.Figure()
    figure.add_scatter(
        x=[row["traits"].get("params") for row in gains],
        y=[effect["value"] for effect in effects],
        mode="markers",
        marker={"size": 10, "color": ACCENT},
        error_y=_bars(effects),
        text=[escape(str(row["id"]), quote=False) for row in gains],
        hovertemplate="<b>%{text}</b><br>%{x:,} parameters: %{y:+.4f}<extra></extra>",
    )
    lay_out(figure, "parameters", "gain of distillation on validation")
    figure.add_hline(y=0, line={"color": INK, "width": 1})
    figure.update_yaxes(tickformat=form)
    figure.update_layout(height=380, margin={"b": 56})
    return figure


def terms_groups(found: Found) -> dict[str, list[tuple[str, Effect]]]:
    """Effects of distillation and its terms: of the candidate, in pairs of the search, of the retrained finalists."""
    name, search = found["candidate"], found["search"]
    own = [(f"{name}: {row['without']}", row["effect"]) for row in (found.get("effects") or {}).get("terms", ())]
    pairs = [(f"search: {row['term']}", row["effect"]) for row in search["pairs"]]
    # Of the candidate itself the search's trainings and these begin from the same seeds: they are no second witness.
    finalists = [(f"{row['id']} retrained", row["gain"]) for row in search["gains"] if not own or row["id"] != name]
    values = by_architecture(search["gains"])
    if len(values) > 1:
        finalists.append((f"mean of {len(values)} architectures", mean_effect([row["gain"] for row in values], most=1)))
    groups = {"trained for this page": own, "retrained by the search": finalists, "pairs of candidates": pairs}
    return {title: rows for title, rows in groups.items() if any(effect["value"] is not None for _, effect in rows)}


def _of(lines: Sequence[Found], variant: str) -> list[Found]:
    return [line for line in lines if line["variant"] == variant]


def _cosine_of(term: int, gradients: Found, stage: int) -> float | None:
    value: float | None = gradients["cosines"][term][stage]
    return value


def _norm_of(loss: int, gradients: Found, stage: int) -> float | None:
    value: float | None = gradients["norms"][loss][stage]
    return value


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _range(values: Sequence[float | None], mean: float | None) -> tuple[float, float]:
    there = [value for value in values if value is not None]
    return (mean - min(there), max(there) - mean) if there and mean is not None else (0.0, 0.0)


def _bars(effects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Error bars of effects with an interval."""

    def length(effect: Mapping[str, Any], side: str, sign: int) -> float:
        return 0.0 if effect[side] is None else sign * (effect[side] - effect["value"])

    return {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": INK,
        "array": [length(effect, "high", 1) for effect in effects],
        "arrayminus": [length(effect, "low", -1) for effect in effects],
    }  # fmt: skip


def _effect_text(effect: Effect) -> str:
    if effect["value"] is None:
        return "not known"
    if effect["low"] is None or effect["high"] is None:
        return f"{effect['value']:+.4f}, no interval"
    return f"{effect['value']:+.4f} ({effect['low']:+.4f} to {effect['high']:+.4f})"


def _label(name: str) -> str:
    return escape(shortened(str(name)), quote=False)


def _rows(figure: go.Figure, labels: Sequence[str], legend: bool = False) -> None:
    foot = FOOT + (44 if legend else 0)
    figure.update_layout(height=TOP + foot + ROW * max(len(labels), 2), margin={"t": TOP, "b": foot}, bargap=0.35)
    figure.update_yaxes(
        automargin=True, tickvals=list(range(len(labels))), ticktext=list(labels), showgrid=False,
        range=[-0.6, len(labels) - 0.4],
    )  # fmt: skip
    if legend:
        figure.update_layout(legend={"y": -(FOOT - 8) / (ROW * max(len(labels), 2))})


def _subplots(figure: go.Figure, x: str, y: str) -> None:
    titles = figure.layout.annotations
    lay_out(figure, x, y)
    figure.update_layout(annotations=[*titles], margin={"t": 40, "b": 60}, showlegend=False, height=360)
    figure.update_annotations(font={"size": 12})
    figure.update_xaxes(
        title={"text": x, "font": {"size": 12}, "standoff": 8}, showgrid=False, zeroline=False, automargin=True
    )
    figure.update_yaxes(showgrid=False, zeroline=False, automargin=True, tickformat="")
    figure.update_xaxes(tickformat="")
