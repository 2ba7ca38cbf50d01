"""How does a plotly figure get into a page? As JSON that the page's own script draws when it is scrolled to."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

HEIGHT = 420


@dataclass(frozen=True)
class Picture:
    """A figure, ready for the page.

    Args:
        name: id of its element.
        words: what it shows, for those who do not see it.
        views: names of its views.
        height: pixels.
        json: of the figure, safe inside a script element.
    """

    name: str
    words: str
    views: tuple[str, ...]
    height: int
    json: Markup

    @classmethod
    def of(cls, name: str, figure: go.Figure, words: str) -> "Picture":
        """A figure that was made here."""
        return cls.of_json(name, json.loads(figure.to_json()), words)

    @classmethod
    def of_json(cls, name: str, figure: Mapping[str, Any], words: str) -> "Picture":
        """A figure as plotly writes it, `data` and `layout`."""
        layout = figure.get("layout") or {}
        views = layout.get("meta") if isinstance(layout.get("meta"), dict) else {}
        return cls(
            name=re.sub(r"[^\w-]", "-", name),
            words=words,
            views=tuple(views or ()),
            height=int(layout.get("height") or HEIGHT),
            json=script_json({"data": figure.get("data") or [], "layout": layout}),
        )


def script_json(data: Any) -> Markup:
    """JSON that no text inside can end the script element of."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
