"""How does a run folder become one page that works offline?"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from kdnas_ray.analysis.gain import Gain, distillation_gain
from kdnas_ray.analysis.importance import importances
from kdnas_ray.analysis.pareto import pareto_front, rank_candidates
from kdnas_ray.config import SearchConfig
from kdnas_ray.finalists import read_retrained
from kdnas_ray.kept_config import run_config
from kdnas_ray.objectives import costs_of, number
from kdnas_ray.report.figures import curves_figure, importance_figure, pareto_figure
from kdnas_ray.report.words import architecture_words, count, interval, percent, points, recipe_words, search_words
from kdnas_ray.results import apart, beyond_size, headline, score, titled
from kdnas_ray.runs import read_calibration, read_config, read_jsonl, read_state, read_summary
from kdnas_ray.spent import profile
from search_spaces import KdnasError, Space, decode
from search_spaces.drawing import svg

RANKED = 20
REASONS = 20  # failures shown
FACTS = (
    "teacher",
    "best",
    "over_bounds",
    "kendall_tau",
    "kendall_tau_n",
    "finalists",
    "rungs",
    "rung_kendall_tau",
    "trust_warnings",
    "objectives",
    "constraints",
    "stream",
    "metric",
    "targets",
    "chance",
)


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


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("kdnas_ray", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "score": score,
        "points": points,
        "count": count,
        "interval": interval,
        "number": number,
    }
    return environment.get_template("report.html.jinja")


def _context(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    rows = read_jsonl(run / "candidates.jsonl")
    summary = read_summary(run) or _so_far(run, config, rows)
    chosen = _understood(run)
    if chosen and not summary.get("metric"):  # a run of an older version, or one that has not ended
        summary |= {"metric": chosen.task.metric_name, "targets": chosen.task.targets}
    facts = {name: summary.get(name) for name in FACTS}
    facts |= {"metric": facts["metric"] or "accuracy", "chance": facts["chance"] or 0.0}
    plain = facts["targets"] == "values"
    finalists = facts["finalists"] or []
    retrained = {row["id"]: row for row in finalists}
    ranked = rank_candidates(rows, facts["objectives"] or ["val_accuracy"])
    best = facts["best"]
    return {
        "name": run.resolve().name,
        "headline": headline(summary),
        **facts,
        "plain": plain,
        "titled": titled(summary),
        "apart": apart(facts["teacher"] or {}, str(facts["metric"])),
        **_gains(read_jsonl(run / "retrained.jsonl"), best, list(retrained)),
        **_figures(run, rows, facts),
        "matrices": _matrices(run, best) if facts["stream"] else [],
        "ranked": [{**row, "again": retrained.get(row["id"])} for row in ranked[:RANKED]],
        "ranked_in_all": len(ranked),
        "any_retrained": bool(retrained),
        "failed": (failed := [row for row in rows if row["state"] == "failed"])[:REASONS],
        "failed_in_all": len(failed),
        "calibration": read_calibration(run),
        "recipe": recipe_words(best["recipe"]) if best and summary.get("evaluator") != "table" else None,
        "more": beyond_size(facts["objectives"] or [], facts["constraints"] or {}),
        "front": [row["id"] for row in pareto_front(rows, facts["objectives"] or [])]
        if len(facts["objectives"] or []) > 1
        else [],
        "architecture": architecture_words(best["architecture"]) if best else None,
        "drawing": _drawing(chosen.space, best["architecture"]) if best and chosen else None,
        "facts": search_words(summary),
        "looked_up": summary.get("evaluator") == "table",
        "on_devices": any("/" in name for name in beyond_size(facts["objectives"] or [], facts["constraints"] or {})),
        "parts": (parts := profile(run)),
        "parts_s": sum(part.seconds for part in parts) or 1.0,
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        "plotly": Markup(get_plotlyjs()),  # the library's own code
    }


def _so_far(run: Path, config: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What can be said while the search has not written its summary: it still runs, or its driver was killed."""
    told: dict[str, Any] = {"objectives": ["val_accuracy"], "rungs": [], "seed": config.get("seed")}
    if chosen := _understood(run):
        told = {"objectives": chosen.objectives, "rungs": list(chosen.rungs()), "seed": chosen.seed}
    complete = [row for row in rank_candidates(rows, told["objectives"]) if row["state"] == "complete"]
    kept = ("id", "architecture", "recipe", "val_accuracy")
    tested = ("test_accuracy", "test_accuracy_std", "test_accuracy_without_kd", "test_accuracy_without_kd_std")
    states = {"completed": "complete", "pruned": "pruned", "failed": "failed", "rejected": "rejected"}
    counts = {name: sum(row["state"] == state for row in rows) for name, state in states.items()}
    state, teacher = read_state(run), run / "teacher.json"
    return {
        "status": "the search has not ended, or was killed: this page shows what is known so far",
        "trials": len(rows) - counts["rejected"],
        **counts,
        **{name: state.get(name) for name in ("wall_s", "search_wall_s", "workers", "started", "command")},
        "teacher": json.loads(teacher.read_text()) if teacher.exists() else None,
        "best": {**{name: complete[0][name] for name in kept}, **costs_of(complete[0]), **dict.fromkeys(tested)}
        if complete
        else None,
        **told,
    }


def _understood(run: Path) -> SearchConfig | None:
    """The run's configuration; None where another version wrote it, or it was edited by hand."""
    try:
        return run_config(run)
    except KdnasError:
        return None


def _drawing(space: Space, decisions: Mapping[str, Any]) -> Markup | None:
    """The architecture as an `<svg>` element; None where the space does not have it."""
    try:
        return Markup(svg(space, decode(space, decisions)))  # its texts are escaped there
    except KdnasError:
        return None


def _matrices(run: Path, best: dict[str, Any] | None) -> list[tuple[str, list[list[float]]]]:
    """Test accuracy on each group of a stream after each, mean over seeds, with and without distillation."""
    found = []
    for title, with_kd in (("with distillation", True), ("without", False)):
        own = [row for row in read_retrained(run) if best and row["id"] == best["id"] and row["with_kd"] == with_kd]
        if own:
            lines = zip(*(row["test_matrix"] for row in own), strict=True)
            found.append((title, [np.mean(line, axis=0).tolist() for line in lines]))
    return found


def _gains(
    retrained: Sequence[dict[str, Any]], best: dict[str, Any] | None, finalists: Sequence[str]
) -> dict[str, Any]:
    """Gain of distillation for the best student, and the mean over all finalists."""
    found = [gain for name in finalists if (gain := distillation_gain(retrained, name)) is not None]
    own: Gain | None = distillation_gain(retrained, best["id"]) if best else None
    return {"gain": own, "mean_gain": float(np.mean([gain.mean for gain in found])) if len(found) > 1 else None}


def _figures(run: Path, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    rungs, best = facts["rungs"] or [], facts["best"]
    found = importances(run, rungs)
    pictures: dict[str, Any] = dict.fromkeys(("pareto", "curves", "importance_figure"))
    trained = [row for row in rows if row["curve"] and row["state"] in ("complete", "pruned")]
    if trained:
        pictures["pareto"] = _drawn(
            "pareto",
            pareto_figure(
                rows, facts["finalists"] or [], facts["teacher"], facts["constraints"] or {}, facts["metric"]
            ),
        )
        pictures["curves"] = _drawn(
            "curves", curves_figure(trained, rungs, best["id"] if best else None, facts["metric"])
        )
    if found:
        pictures["importance_figure"] = _drawn("importance", importance_figure(found))
    return {**pictures, "importance": found}


def _drawn(name: str, figure: go.Figure) -> dict[str, Any]:
    # plotly writes "<", ">" and "/" of its JSON as \u003c, \u003e and \u002f: no text can end the script element.
    options = {"displayModeBar": False, "responsive": True}
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=options, div_id=name)
    return {"name": name, "views": list(figure.layout.meta or {}), "html": Markup(drawn)}
