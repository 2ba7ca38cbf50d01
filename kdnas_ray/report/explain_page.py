"""How does the explanation of a candidate become a page of its own? `write_explanation(run, found)`."""

from pathlib import Path

from kdnas_ray.report.page import library, template
from kdnas_ray.report.reason_parts import Found, explained
from trainables.files import replace_text


def write_explanation(run: Path, found: Found) -> Path:
    """Write RUN/explain.html, a self-contained page, and return its path.

    Args:
        run: the run folder.
        found: what `kdnas_ray.explain.explain` found.
    """
    parts = explained(found)
    page = template("explain.html.jinja").render(
        sections=[(part["name"], part["short"]) for part in parts],
        run=run.resolve().name,
        found=found,
        parts=parts,
        plotly=library(),
    )
    replace_text(run / "explain.html", page)
    return run / "explain.html"
