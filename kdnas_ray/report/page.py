"""How does a run folder become one page that works offline?"""

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from kdnas_ray.analysis.importance import importances
from kdnas_ray.analysis.pareto import rank_candidates
from kdnas_ray.report.figures import curves_figure, importance_figure, pareto_figure
from kdnas_ray.results import headline
from kdnas_ray.runs import read_config, read_jsonl, read_summary

RANKED = 20


def write_report(run: Path) -> Path:
    """Write RUN/report.html from what the run folder holds now, and return its path.

    Raises:
        KdnasError: not a run folder.
    """
    config = read_config(run)
    page = _template().render(**_context(run, config))
    draft = run / ".report.html"
    draft.write_text(page, encoding="utf8")
    return draft.replace(run / "report.html")


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("kdnas_ray", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "count": _count}
    return environment.get_template("report.html.jinja")


def _context(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    rows, summary = read_jsonl(run / "candidates.jsonl"), read_summary(run)
    best, teacher = summary.get("best"), summary.get("teacher")
    finalists, rungs = summary.get("finalists") or [], summary.get("rungs") or []
    trained = [row for row in rows if row["curve"]]
    found = importances(run, rungs)
    retrained = {row["id"]: row for row in finalists}
    ranked = rank_candidates(rows, summary.get("objectives") or ["val_accuracy"])
    return {
        "name": run.resolve().name,
        "headline": headline(summary) if summary else "The search has not written its summary yet.",
        "summary": summary,
        "best": best,
        "teacher": teacher,
        "finalist": retrained.get(best["id"]) if best else None,
        "ranked": [{**row, "again": retrained.get(row["id"])} for row in ranked[:RANKED]],
        "ranked_in_all": len(ranked),
        "failed": [row for row in rows if row["state"] == "failed"],
        "seeds": (config.get("retrain") or {}).get("seeds", 1),
        "pareto": _drawn(pareto_figure(rows, finalists, teacher)) if trained else None,
        "curves": _drawn(curves_figure(trained, rungs, best["id"] if best else None)) if trained else None,
        "importance": found,
        "importance_figure": _drawn(importance_figure(found)) if found else None,
        "best_recipe": _readable(best["recipe"]) if best else None,
        "best_architecture": _readable(best["architecture"]) if best else None,
        "config": yaml.safe_dump(config, sort_keys=False),
        "plotly": Markup(get_plotlyjs()),  # the library's own code
    }


def _drawn(figure: go.Figure) -> Markup:
    # plotly writes "<" and ">" of its JSON as \u003c and \u003e, so no text can end the script element.
    options = {"displayModeBar": False, "responsive": True}
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=options))


def _readable(data: dict[str, Any]) -> str:
    return yaml.safe_dump(json.loads(json.dumps(data), parse_float=lambda text: float(f"{float(text):.4g}")),
                          sort_keys=False)  # fmt: skip


def _percent(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.2%}" + (f" ± {spread:.2%}" if spread is not None else "")


def _count(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
