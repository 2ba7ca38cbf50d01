"""What is known of every candidate, small enough that a page holds ten thousand of them?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kdnas_ray.analysis.importance import Importances
from kdnas_ray.journal import flat
from kdnas_ray.objectives import costs_of
from kdnas_ray.report.style import Row, decades, lay_out, shortened, spread
from kdnas_ray.report.words import TRAINING, term_words
from trainables.recipe import Recipe

FEW = 64  # different numbers of a decision up to which it is kept as a choice
MOST_LINES = 600
MOST_AXES = 8
TOLD = ("alpha", *TRAINING)  # of a recipe, whatever it is
USUAL = {name: value for name, value in flat(Recipe().to_json()).items() if name not in TOLD}
SCALE = [[0.0, "#b9c3cf"], [0.5, "#2f7de1"], [1.0, "#e07b22"]]


def candidate_table(rows: Sequence[Row]) -> dict[str, Any]:
    """Candidates by column, for the page's own script.

    Returns:
        `id`, `state` and `epochs`, lists; `columns`, each with `name`, `group` (`result`, `cost`, `architecture` or
        `recipe`) and either `numbers`, or `values` (the different ones) and `codes` (places in them, -1 for none).
    """
    columns: dict[tuple[str, str], list[Any]] = {}
    for index, row in enumerate(rows):
        for group, name, value in _facts(row):
            column = columns.setdefault((group, name), [])
            column.extend([None] * (index - len(column)))
            column.append(value)
    for column in columns.values():
        column.extend([None] * (len(rows) - len(column)))
    return {
        "id": [row["id"] for row in rows],
        "state": ["complete" if row["state"] == "complete" else "stopped early" for row in rows],
        "epochs": [row["epochs"] for row in rows],
        "columns": [
            {"group": group, "name": name, **_packed(values)}
            for (group, name), values in columns.items()
            if group != "recipe" or name not in USUAL or any(value != USUAL[name] for value in values)
        ],
    }


def parallel_figure(rows: Sequence[Row], found: Importances | None, metric: str = "accuracy") -> go.Figure | None:
    """Every candidate as a line through its decisions, its parameters and its accuracy; None where nothing differs.

    Those trained in full are drawn, or all where these are fewer than three; the decisions that explain most come
    first.

    Args:
        rows: lines of candidates.jsonl with an accuracy.
        found: importances of the decisions.
        metric: the task's, in words.
    """
    complete = [row for row in rows if row["state"] == "complete"]
    drawn = spread(complete if len(complete) > 2 else list(rows), MOST_LINES)
    told = [{**row["architecture"], **flat(row["recipe"])} for row in drawn]
    names = [name for name in dict.fromkeys(name for one in told for name in one) if _differs(name, told)]
    if found:
        names.sort(key=lambda name: -found.shares.get(name, 0.0))
    if not names or len(drawn) < 2:
        return None
    axes = [_axis(name, [one.get(name) for one in told]) for name in names[:MOST_AXES]]
    sizes = np.log10([max(row["params"], 1) for row in drawn])
    marks = decades([row["params"] for row in drawn])
    ticks = [
        (math.log10(tick), text)
        for tick, text in zip(marks.get("tickvals", []), marks.get("ticktext", []), strict=True)
        if sizes.min() <= math.log10(tick) <= sizes.max()
    ]
    axes.append({"label": "parameters", "values": sizes.round(4).tolist(), "tickvals": [tick for tick, _ in ticks],
                 "ticktext": [text for _, text in ticks]})  # fmt: skip
    scores = [row["val_accuracy"] for row in drawn]
    axes.append({"label": f"validation {metric}", "values": scores, "tickformat": ".1~%"})
    figure = go.Figure()
    lay_out(figure, "", "")
    line = {"color": scores, "colorscale": SCALE, "cmin": float(np.quantile(scores, 0.05)), "cmax": max(scores)}
    figure.add_parcoords(dimensions=axes, line=line, labelangle=-12, labelside="top")
    figure.update_layout(margin={"l": 70, "r": 70, "t": 84, "b": 24})
    return figure


def _facts(row: Row) -> Iterator[tuple[str, str, Any]]:
    yield "result", "val_accuracy", row["val_accuracy"]
    for name, value in costs_of(row).items():
        yield "cost", name, value
    for name, value in row["architecture"].items():
        yield "architecture", name, value
    recipe = dict(row["recipe"])
    terms, temperature = recipe.pop("terms", ()), recipe.pop("temperature", None)
    yield "recipe", "losses", " + ".join(term_words(term) for term in terms) or "labels only"
    if temperature:
        start, end, schedule = temperature["start"], temperature["end"], temperature["schedule"]
        steady = schedule == "constant"
        yield "recipe", "temperature", f"{start:.3g}" if steady else f"{start:.3g} to {end:.3g}, {schedule}"
    for name, value in flat(recipe).items():
        yield "recipe", name, value


def _packed(values: Sequence[Any]) -> dict[str, Any]:
    different = list(dict.fromkeys(value for value in values if value is not None and _hashable(value)))
    if len(different) > FEW and all(isinstance(value, (int, float)) or value is None for value in values):
        return {"numbers": [float(f"{value:.4g}") if isinstance(value, float) else value for value in values]}
    places = {value: place for place, value in enumerate(different)}
    codes = [places.get(value, -1) if _hashable(value) else -1 for value in values]
    return {"values": [value if isinstance(value, (int, float)) else str(value) for value in different],
            "codes": [] if len(different) == 1 and -1 not in codes else codes}  # fmt: skip


def _hashable(value: Any) -> bool:
    return not isinstance(value, (list, dict))


def _differs(name: str, told: Sequence[Mapping[str, Any]]) -> bool:
    return len({str(one.get(name)) for one in told}) > 1


def _axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    label = escape(shortened(name), quote=False)
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > 6:
        return {"label": label, "values": [float(f"{value:.4g}") for value in numbers], "tickformat": ".4~g"}
    known = len(numbers) == len(values)
    choices = sorted(set(numbers)) if known else sorted({str(value) for value in values})
    places = {choice: place for place, choice in enumerate(choices)}
    return {
        "label": label,
        "values": [places[value if known else str(value)] for value in values],
        "tickvals": list(range(len(choices))),
        "ticktext": [escape(shortened(str(choice)), quote=False) for choice in choices],
        "range": [-0.1, len(choices) - 0.9],
    }
