"""How do several runs stand beside each other? One page: `write_comparison(runs, path)`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from kdnas_ray.analysis.gain import distillation_gain
from kdnas_ray.analysis.pareto import pareto_front
from kdnas_ray.compare import compare, differences, said
from kdnas_ray.report.page import library, template
from kdnas_ray.report.pictures import Picture
from kdnas_ray.report.style import Row, around, decades, lay_out
from kdnas_ray.report.words import points
from kdnas_ray.results import score
from kdnas_ray.runs import check_creatable, read_jsonl, read_summary
from search_spaces.errors import KdnasError
from trainables.files import replace_text

COLOURS = ("#2f7de1", "#e07b22", "#1f9d6a", "#a65bd0", "#c2405a", "#8a7a2b")
SYMBOLS = ("circle", "square", "triangle-up", "cross", "pentagon", "hexagon")
SECTIONS = {"verdict": "Verdict", "size": "Size", "progress": "Progress", "results": "Results", "settings": "Settings"}


@dataclass(frozen=True)
class Side:
    """What the page shows of one run."""

    name: str
    colour: str
    symbol: str
    summary: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def plain(self) -> bool:
        """Its scores are no shares of 1."""
        return self.summary.get("targets") == "values"


def write_comparison(runs: Sequence[Path], path: Path) -> Path:
    """Write a self-contained page that shows two or more runs side by side, and return its path.

    Raises:
        KdnasError: fewer than two runs, a folder that no search made, or a file that cannot be written.
    """
    if path.suffix != ".html":
        raise KdnasError("the page is an HTML file", field="--out", value=str(path), remedy="name it ….html")
    if path.is_dir():
        raise KdnasError("is a folder", field="--out", value=str(path), remedy="name a file in it")
    check_creatable(path.parent, "--out")
    rows, differing = compare(runs), differences(runs)
    sides = _sides(runs)
    page = template("comparison.html.jinja").render(
        sections=list(SECTIONS.items()),
        sides=[
            {"name": side.name, "colour": side.colour, **_verdict(side, run)}
            for side, run in zip(sides, runs, strict=True)
        ],
        sentences=[_sentence(sides[0], side) for side in sides[1:] if _scored(side) and _scored(sides[0])],
        metrics=sorted({str(side.summary.get("metric") or "accuracy") for side in sides}),
        size=_size(sides),
        progress=_progress(sides),
        results=[
            (name.replace("_", " "), [said(name, row[name], row["targets"] == "values") for row in rows])
            for name in rows[0]
            if name != "run" and any(row[name] is not None for row in rows)
        ],
        differing=[(name, [str(value) for value in values]) for name, values in differing.items()],
        plotly=library(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, page)
    return path


def fronts_figure(sides: Sequence[Side]) -> go.Figure:
    """The Pareto front of accuracy and parameters of each run, its retrained candidates, and its teacher."""
    figure = go.Figure()
    heights, across = [], []
    for side in sides:
        front = sorted(pareto_front(side.rows, ["val_accuracy", "params"]), key=lambda row: row["params"])
        finalists, teacher = side.summary.get("finalists") or [], side.summary.get("teacher") or {}
        name, group = escape(side.name, quote=False), {"legendgroup": side.name}
        hover = "<b>%{text}</b> of " + name + "<br>%{y:.2%}<br>%{x:,} parameters<extra></extra>"
        marker, line = {"color": side.colour, "symbol": side.symbol}, {"color": side.colour, "shape": "hv", "width": 2}
        figure.add_scatter(
            x=[row["params"] for row in front], y=[row["val_accuracy"] for row in front], name=name, line=line,
            mode="lines+markers", marker={**marker, "size": 7}, hovertemplate=hover,
            text=[escape(row["id"], quote=False) for row in front], **group,
        )  # fmt: skip
        figure.add_scatter(
            x=[row["params"] for row in finalists], y=[row["val_accuracy"] for row in finalists], mode="markers",
            marker={**marker, "symbol": "diamond-open", "size": 13, "line": {"width": 2}}, showlegend=False,
            text=[escape(row["id"], quote=False) + ", retrained," for row in finalists], hovertemplate=hover, **group,
        )  # fmt: skip
        heights += [row["val_accuracy"] for row in (*front, *finalists)]
        across += [row["params"] for row in (*front, *finalists)]
        if teacher.get("val_accuracy") is not None:
            line = {"color": side.colour, "width": 1, "dash": "dash"}
            figure.add_hline(y=teacher["val_accuracy"], line=line, opacity=0.7)
            heights.append(teacher["val_accuracy"])
    lay_out(figure, "parameters", "validation accuracy")
    figure.update_xaxes(type="log", **decades(across))
    if heights:
        figure.update_yaxes(range=around(heights))
    return figure


def progress_figure(sides: Sequence[Side]) -> go.Figure:
    """Best validation accuracy so far among candidates trained in full, by the time of the search and by candidates."""
    last = max((row["ended_s"] for side in sides for row in side.rows if row.get("ended_s") is not None), default=0)
    scale, unit = (3600, "hours") if last > 2 * 3600 else (60, "minutes") if last > 120 else (1, "seconds")
    figure = go.Figure()
    times: list[list[float]] = []
    numbers: list[list[int]] = []
    for side in sides:
        at = _best_so_far(side.rows)
        times.append([round(ended_s / scale, 3) for ended_s, _, _ in at])
        numbers.append([number for _, number, _ in at])
        figure.add_scatter(
            x=times[-1], y=[best for _, _, best in at], mode="lines+markers", name=escape(side.name, quote=False),
            marker={"color": side.colour, "symbol": side.symbol, "size": 6}, hovertemplate="%{x:,.4~g}: %{y:.2%}",
            line={"color": side.colour, "shape": "hv", "width": 2},
        )  # fmt: skip
    ends = [best for side in sides for _, _, best in _best_so_far(side.rows)]
    lay_out(figure, f"{unit} of the search", "best validation accuracy so far")
    figure.update_yaxes(range=around(ends))
    titles = {"by time": f"{unit} of the search", "by candidate": "candidates that have ended"}
    figure.layout.meta = {
        name: [{"x": across}, {"xaxis.title.text": title, "xaxis.autorange": True}]
        for (name, title), across in zip(titles.items(), (times, numbers), strict=True)
    }
    return figure


def _best_so_far(rows: Sequence[Row]) -> list[tuple[float, int, float]]:
    """Seconds, number of candidates that had ended, and the best accuracy: at each improvement and at the end."""
    ended = [row for row in rows if row["state"] != "rejected" and row.get("ended_s") is not None]
    ended.sort(key=lambda row: row["ended_s"])
    found: list[tuple[float, int, float]] = []
    for number, row in enumerate(ended, start=1):
        if row["state"] == "complete" and (not found or row["val_accuracy"] > found[-1][2]):
            found.append((row["ended_s"], number, row["val_accuracy"]))
    return [*found, (ended[-1]["ended_s"], len(ended), found[-1][2])] if found else []


def _sides(runs: Sequence[Path]) -> list[Side]:
    short = [run.resolve().name for run in runs]
    names = short if len(set(short)) == len(short) else list(map(str, runs))
    return [
        Side(
            name,
            COLOURS[place % len(COLOURS)],
            SYMBOLS[place % len(SYMBOLS)],
            read_summary(run),
            read_jsonl(run / "candidates.jsonl"),
        )
        for place, (run, name) in enumerate(zip(runs, names, strict=True))
    ]


def _verdict(side: Side, run: Path) -> dict[str, Any]:
    """What a tile says: the best student's score, what it stands for, its size, and the gain of distillation."""
    best = side.summary.get("best")
    metric = side.summary.get("metric") or "accuracy"
    if not best:
        return {
            "value": "–",
            "spread": None,
            "what": "no candidate was trained in full yet",
            "size": None,
            "gain": None,
        }
    tested = best.get("test_accuracy") is not None
    chosen = "test_accuracy" if tested else "val_accuracy"
    spread = best.get(f"{chosen}_std")
    gain = distillation_gain(read_jsonl(run / "retrained.jsonl"), best["id"])
    return {
        "value": score(best[chosen], None, side.plain),
        "spread": None if spread is None else score(spread, None, side.plain),
        "what": f"{'test' if tested else 'validation'} {metric} of {best['id']}",
        "size": f"{best['params']:,} parameters, {best['flops'] / 1e6:,.2f} MFLOPs",
        "gain": gain,
        "plain": side.plain,
    }


def _scored(side: Side) -> bool:
    return (side.summary.get("best") or {}).get("test_accuracy") is not None


def _sentence(first: Side, other: Side) -> str:
    """How the best student of a run compares with that of the first."""
    mine, theirs = other.summary["best"], first.summary["best"]
    gap, ratio = mine["test_accuracy"] - theirs["test_accuracy"], theirs["params"] / mine["params"]
    size = "as many parameters" if ratio == 1 else f"{ratio:.1f} times fewer parameters" if ratio > 1 else ""
    size = size or f"{1 / ratio:.1f} times more parameters"
    spreads = [best.get("test_accuracy_std") for best in (mine, theirs)]
    unit = "" if other.plain else " points"
    text = f"{other.name}: {points(gap, other.plain)}{unit} against {first.name} on test, {size}"
    if None in spreads:
        return f"{text}; of one seed, so it may be chance."
    within = abs(gap) <= sum(spreads)
    return f"{text}; the difference is {'no more' if within else 'more'} than the spread of their seeds."


def _size(sides: Sequence[Side]) -> Picture | None:
    if not any(row["state"] == "complete" for side in sides for row in side.rows):
        return None
    words = "; ".join(f"{side.name}: {len(pareto_front(side.rows, ['val_accuracy', 'params']))}" for side in sides)
    return Picture.of(
        "size-chart", fronts_figure(sides), f"Pareto fronts of accuracy and size, candidates on each: {words}"
    )


def _progress(sides: Sequence[Side]) -> Picture | None:
    if not any(row["state"] == "complete" and row.get("ended_s") is not None for side in sides for row in side.rows):
        return None
    return Picture.of("progress-chart", progress_figure(sides), "Best validation accuracy so far of each run over time")
