"""How does a run folder become one page that works offline?"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from kdnas_ray.analysis.gain import Gain, distillation_gain
from kdnas_ray.analysis.importance import importances
from kdnas_ray.analysis.pareto import pareto_front, rank_candidates
from kdnas_ray.config import SearchConfig
from kdnas_ray.finalists import read_retrained
from kdnas_ray.journal import unfinished
from kdnas_ray.kept_config import run_config
from kdnas_ray.objectives import costs_of, number
from kdnas_ray.report.candidates import candidate_table, parallel_figure
from kdnas_ray.report.explanation import explanation
from kdnas_ray.report.figures import (
    curves_drawn,
    curves_figure,
    importance_figure,
    marks_drawn,
    pareto_figure,
    pareto_words,
)
from kdnas_ray.report.judges import judges, judges_figure
from kdnas_ray.report.pictures import Picture, script_json
from kdnas_ray.report.rungs import rung_rows, survival_figure
from kdnas_ray.report.words import (
    architecture_words,
    count,
    interval,
    origin_words,
    percent,
    points,
    recipe_words,
    search_words,
)
from kdnas_ray.results import apart, beyond_size, headline, score, titled
from kdnas_ray.runs import read_calibration, read_config, read_jsonl, read_state, read_summary
from kdnas_ray.spent import profile
from search_spaces import KdnasError, Space, decode
from search_spaces.drawing import svg
from trainables.files import replace_text

RANKED = 20
REASONS = 20  # failures shown
DRAWN = 12  # architectures, as far as they are finalists, on the front or high in the ranking
SECTIONS = {
    "verdict": "Verdict",
    "size": "Size",
    "ranked": "Ranking",
    "best": "The best",
    "rungs": "Rungs",
    "learning": "Learning",
    "decisions": "Decisions",
    "mattered": "What mattered",
    "explanation": "Why",
    "trust": "Trust",
    "time": "Time",
    "search": "Search",
    "again": "Again",
}
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
    page = template("report.html.jinja").render(**_context(run, config))
    replace_text(run / "report.html", page)
    return run / "report.html"


def template(name: str) -> Template:
    """A page's template, whose texts are escaped."""
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
    return environment.get_template(name)


def library() -> Markup:
    """plotly.js, the library's own code."""
    return Markup(get_plotlyjs())


def _context(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    rows = read_jsonl(run / "candidates.jsonl")
    summary = read_summary(run) or _so_far(run, config, rows)
    chosen = _understood(run)
    if chosen and not summary.get("metric"):  # a run of an older version, or one that has not ended
        summary |= {"metric": chosen.task.metric_name, "targets": chosen.task.targets}
    facts = {name: summary.get(name) for name in FACTS}
    facts |= {"metric": facts["metric"] or "accuracy", "chance": facts["chance"] or 0.0}
    facts["least_tau"] = chosen.retrain.least_tau if chosen else None
    plain = facts["targets"] == "values"
    finalists = facts["finalists"] or []
    retrained = {row["id"]: row for row in finalists}
    ranked = rank_candidates(rows, facts["objectives"] or ["val_accuracy"])
    best, name = facts["best"], run.resolve().name
    front = pareto_front(rows, facts["objectives"] or ["val_accuracy"])
    shown = list(dict.fromkeys([*retrained, *(row["id"] for row in (*ranked[:RANKED], *front[:RANKED]))]))
    explained, parts = explanation(run), profile(run, rows)
    return {
        "name": name,
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
        "front": [row["id"] for row in front] if len(facts["objectives"] or []) > 1 else [],
        "first": best["id"] if best else shown[0] if shown else "",
        "pickable": shown,
        "table": script_json(candidate_table(ranked)),
        "drawings": _drawings(chosen, ranked, shown, best) if chosen else [],
        "explanation": explained,
        "architecture": architecture_words(best["architecture"]) if best else None,
        "sections": [
            (id, title)
            for id, title in SECTIONS.items()
            if {"explanation": bool(explained), "time": bool(parts)}.get(id, True)
        ],
        "drawing": _drawing(chosen.space, best["architecture"]) if best and chosen else None,
        "facts": search_words(summary),
        "looked_up": summary.get("evaluator") == "table",
        "on_devices": any("/" in name for name in beyond_size(facts["objectives"] or [], facts["constraints"] or {})),
        "parts": parts,
        "parts_s": sum(part.seconds for part in parts) or 1.0,
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        "plotly": library(),
        "command": summary.get("command") or None,
        "repeat": f"kdnas search {shlex.quote(f'{name}/config.yaml')} --out {shlex.quote(f'{name}-again')}",
        "origin": origin_words(summary),
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
        "unfinished": unfinished(run, [row["id"] for row in rows]),
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


def _drawings(
    chosen: SearchConfig, ranked: Sequence[dict[str, Any]], shown: Sequence[str], best: dict[str, Any] | None
) -> list[tuple[str, Markup]]:
    """Drawings of those that a reader is likely to look at, beside the best, which has its own place."""
    rows = {row["id"]: row for row in ranked}
    wanted = [name for name in shown[:DRAWN] if name in rows and not (best and name == best["id"])]
    found = [(name, _drawing(chosen.space, rows[name]["architecture"])) for name in wanted]
    return [(name, picture) for name, picture in found if picture is not None]


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
    rungs, best, metric = facts["rungs"] or [], facts["best"], facts["metric"]
    found = importances(run, rungs, rows)
    names = ("pareto", "curves", "survival", "parallel", "importance_figure", "judges")
    pictures: dict[str, Any] = dict.fromkeys(names)
    drawn = {"curves_drawn": 0, "curves_in_all": 0, "marks_drawn": 0}
    trained = [row for row in rows if row["curve"] and row["state"] in ("complete", "pruned")]
    if trained:
        finalists, bounds = facts["finalists"] or [], facts["constraints"] or {}
        figure = pareto_figure(rows, finalists, facts["teacher"], bounds, metric)
        pictures["pareto"] = Picture.of("pareto", figure, pareto_words(trained, facts["teacher"], metric))
        figure = curves_figure(trained, rungs, best["id"] if best else None, metric)
        pictures["curves"] = Picture.of("curves", figure, f"Validation {metric} of the candidates by epoch")
        chosen = curves_drawn(trained, best["id"] if best else None)
        drawn = {
            "curves_drawn": sum(map(len, chosen.values())) + bool(best),
            "curves_in_all": len(trained),
            "marks_drawn": sum(map(len, marks_drawn(rows).values())),
        }
        begun = [row for row in rows if row["state"] != "rejected"]
        words = ", ".join(f"{row.reached:,} after {row.epochs}" for row in rung_rows(begun, rungs))
        words = f"Candidates in training by epoch: {len(begun):,} at the start" + (f", {words}" if words else "")
        pictures["survival"] = Picture.of("survival", survival_figure(begun, rungs), words)
        if (
            known := parallel_figure([row for row in trained if row["val_accuracy"] is not None], found, metric)
        ) is not None:
            words = f"Decisions, size and validation {metric} of the candidates, a line each"
            pictures["parallel"] = Picture.of("parallel", known, words)
    if found:
        leading = ", ".join(f"{name} {share:.0%}" for name, share in list(found.shares.items())[:3])
        words = f"Share of the variance of {metric} by decision: {leading}"
        pictures["importance_figure"] = Picture.of("importance", importance_figure(found), words)
    if told := judges(facts, read_calibration(run)):
        words = "Kendall tau: " + "; ".join(f"{judge.label} {judge.tau:.2f}" for judge in told)
        pictures["judges"] = Picture.of("judges", judges_figure(told, facts["least_tau"]), words)
    return {
        **pictures,
        **drawn,
        "importance": found,
        "rung_rows": rung_rows([row for row in rows if row["state"] != "rejected"], rungs),
        "parallel_complete": sum(row["state"] == "complete" for row in trained) > 2,
    }
