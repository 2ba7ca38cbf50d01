"""What does `RUN/explain` add to the page?

A JSON file there is one part: `title`, `sentences` (a list) and, where it has one, `figure` (a plotly figure as JSON)
with `words`, what a screen reader says of it. An HTML file is shown as it is in a frame that runs no script. Parts come
in the order of the files' names. Nothing else of the page depends on them.
"""

import json
from pathlib import Path
from typing import Any

from kdnas_ray.report.pictures import Picture

FOLDER = "explain"


def explanation(run: Path) -> list[dict[str, Any]]:
    """Parts of the explanation: `title`, `sentences`, `picture` (or None) and `frame` (the text of a page, or None)."""
    found: list[dict[str, Any]] = []
    for path in sorted((run / FOLDER).glob("*")):
        title = path.stem.replace("_", " ")
        if path.suffix == ".html":
            text = path.read_text(encoding="utf8")
            found.append({"title": title, "sentences": [], "picture": None, "frame": text})
        elif path.suffix == ".json" and (part := _read(path)):
            found.append({**part, "title": str(part.get("title") or title), "frame": None})
    return found


def _read(path: Path) -> dict[str, Any] | None:
    """A part; None where the file holds something else, as the raw numbers of one."""
    try:
        data = json.loads(path.read_text(encoding="utf8"))
    except ValueError:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("sentences"), list):
        return None
    figure = data.get("figure")
    picture = None
    if isinstance(figure, dict):
        picture = Picture.of_json(f"explain-{path.stem}", figure, str(data.get("words") or data.get("title") or ""))
    return {"title": data.get("title"), "sentences": list(map(str, data["sentences"])), "picture": picture}
