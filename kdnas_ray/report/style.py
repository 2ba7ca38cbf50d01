"""How do the pictures of a page look, and which numbers stand on their axes?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

Row = Mapping[str, Any]

# The page gives text and grid the colours of its paper, light or dark; these are what stands without it.
INK = "#7d8794"  # legible on light and on dark paper
GRID = "rgba(125,135,148,0.20)"
ACCENT, FINAL, QUIET, TEACHER = "#2f7de1", "#e07b22", "#9aa4b1", "#c2405a"
LONGEST_LABEL = 40


def decades(values: Sequence[float]) -> dict[str, Any]:
    """Ticks of a logarithmic axis at 1, 3, 10, 30 …, or denser where the values lie within a decade or so."""
    positive = [value for value in values if value > 0]
    if not positive:
        return {}
    low, high = min(positive), max(positive)
    steps = (1, 3) if high > 20 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [round(step * 10.0**power, 6) for power in powers for step in steps]
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [short_number(tick) for tick in ticks]}


def short_number(value: float) -> str:
    """`12k` of 12,000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def around(values: Sequence[float], least: float = 0.01) -> list[float] | None:
    """Range of an axis of shares that holds the values with room around them."""
    if not values:
        return None
    margin = max(least, 0.15 * (max(values) - min(values)))
    return [max(min(values) - margin, -margin / 4), min(max(values) + margin, 1 + margin / 4)]


def shortened(name: str) -> str:
    """The name, cut where it is too long for a label."""
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def lay_out(figure: go.Figure, x: str, y: str) -> None:
    """Axes with these titles, the second of shares, and what all pictures have in common."""
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True}
    figure.update_layout(
        template="none",
        height=420,
        margin={"l": 56, "r": 16, "t": 24, "b": 84},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 12}},
        hoverlabel={"font": {"family": "system-ui, sans-serif", "size": 12}, "align": "left"},
        xaxis={"title": {"text": x, "font": {"size": 12}, "standoff": 8}, **axis},
        yaxis={"title": {"text": y, "font": {"size": 12}, "standoff": 8}, **axis, "tickformat": ".1~%"},
    )


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly over their order."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
