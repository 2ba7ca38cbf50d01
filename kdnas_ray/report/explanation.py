"""What does `RUN/explain` add to the page?

A JSON file there is one part: `title`, `sentences` (a list) and, where it has one, `figure` (a plotly figure as JSON)
with `words`, what a screen reader says of it. An HTML file is shown as it is in a frame that runs no script. Parts come
in the order of the files' names. Nothing else of the page depends on them. What `kdnas explain` wrote of a candidate
comes first: of the best one, or where that was not explained of the one explained last.
"""

import json
from pathlib import Path
from typing import Any

from kdnas_ray.report.pictures import Picture
from kdnas_ray.report.reason_parts import explained, read_explanation, shown

FOLDER = "explain"


def explanation(run: Path) -> list[dict[str, Any]]:
    """Parts of the explanation: `title`, `sentences`, `pictures`, `note` and `frame` (the text of a page, or None)."""
    found: list[dict[str, Any]] = []
    if (path := shown(run)) is not None and (data := read_explanation(path)) is not None:
        parts = explained(data)
        parts[0]["title"] = f"{data['candidate']}: {parts[0]['title'][0].lower()}{parts[0]['title'][1:]}"
        found += [{**part, "frame": None} for part in parts]
    for path in sorted((run / FOLDER).glob("*")):
        title = path.stem.replace("_", " ")
        if path.suffix == ".html":
            text = path.read_text(encoding="utf8")
            found.append({"title": title, "sentences": [], "pictures": [], "note": "", "frame": text})
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
    pictures = []
    if isinstance(figure, dict):
        words = str(data.get("words") or data.get("title") or "")
        pictures.append(Picture.of_json(f"explain-{path.stem}", figure, words))
    return {
        "title": data.get("title"),
        "sentences": list(map(str, data["sentences"])),
        "pictures": pictures,
        "note": "",
    }
