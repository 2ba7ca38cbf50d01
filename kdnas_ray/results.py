"""What came out of a run? Its summary and ranking, read from the run folder alone."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table as Grid

from kdnas_ray import stream_search
from kdnas_ray.analysis.correlation import kendall_tau, rung_taus
from kdnas_ray.analysis.pareto import pareto_front, rank_candidates
from kdnas_ray.environment import git_commit, versions
from kdnas_ray.finalists import finalists, read_retrained
from kdnas_ray.journal import unfinished
from kdnas_ray.objectives import SIZES, UNSUPPORTED, costs_of, number
from kdnas_ray.prepare import Plan
from kdnas_ray.runs import read_config, read_jsonl, read_state, read_summary, read_teacher_facts
from kdnas_ray.within import over_bounds
from trainables.evaluators import Table
from trainables.files import replace_text
from trainables.limits import HANGING
from trainables.loop import Normalise, evaluate
from trainables.model_files import load_student
from trainables.teachers import build_teacher

HARDLY = 0.1  # a teacher of labels, values or boxes that scores less has learned next to nothing
SPEAKING = 5  # candidates from which on a Kendall tau is worth a warning


@dataclass(frozen=True)
class SearchResult:
    """A run folder, read on demand."""

    run: Path

    @property
    def summary(self) -> dict[str, Any]:
        """Content of summary.json."""
        return read_summary(self.run)

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Lines of candidates.jsonl, in the order in which the candidates ended."""
        return read_jsonl(self.run / "candidates.jsonl")

    @property
    def ranking(self) -> list[dict[str, Any]]:
        """Candidates, best first; complete ones before those stopped early."""
        return rank_candidates(self.candidates, read_config(self.run)["objectives"])

    @property
    def finalists(self) -> list[dict[str, Any]]:
        """Retrained candidates, best first, with test accuracy with and without KD."""
        return finalists(self.run)


def write_summary(run: Path, made: Plan) -> dict[str, Any]:
    """Write summary.json from what the run folder holds now, and return it."""
    config, state = made.config, read_state(run)
    rows = read_jsonl(run / "candidates.jsonl")
    ranked = rank_candidates(rows, config.objectives)
    counts = {name: sum(row["state"] == name for row in rows) for name in ("complete", "pruned", "failed", "rejected")}
    train_s = sum(row["train_s"] for row in rows)
    workers, search_s = state.get("workers"), state.get("search_wall_s", 0.0)
    over = over_bounds(run, made)
    best = finalists(run)
    resolved = config.resolved()
    looked_up = isinstance(config.evaluator, Table)
    summary = {
        "status": state.get("status"),
        "trials": counts["complete"] + counts["pruned"] + counts["failed"],
        "completed": counts["complete"],
        "pruned": counts["pruned"],
        "failed": counts["failed"],
        "rejected": counts["rejected"],
        "unfinished": None if state.get("status") == "finished" else unfinished(run, [row["id"] for row in rows]),
        "wall_s": state.get("wall_s"),
        "search_wall_s": search_s,
        "train_s": train_s,
        "workers": workers,
        "utilisation": train_s / (workers * search_s) if workers and search_s and not looked_up else None,
        "teacher": _teacher(run, made),
        "best": _best(best, ranked, over),
        "finalists": best,
        "over_bounds": sorted(over),
        **(trust := _trust(run, rows, best, config.rungs(), looked_up)),
        "trust_warnings": trust_warnings(trust, config.retrain.least_tau),
        "rungs": list(config.rungs()),
        "objectives": config.objectives,
        "constraints": made.bounds,
        "ranking": [row["id"] for row in ranked],
        "front": [row["id"] for row in pareto_front(rows, config.objectives)],
        **{name: resolved[name]["name"] for name in ("task", "space", "sampler", "scheduler", "evaluator")},
        "prefilter": config.prefilter.judge if config.prefilter else None,
        "data": made.data.digest(),
        "versions": versions(),
        "git_commit": git_commit(),
        "cores": os.cpu_count(),
        "metric": config.task.metric_name,
        "targets": config.task.targets,
        "chance": guessing(config.task.targets, len(made.data.classes)),
        **stream_search.facts(made),
        "seed": config.seed,
        "started": state.get("started"),
        "command": state.get("command"),
    }
    replace_text(run / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def failures(result: SearchResult) -> str:
    """How many candidates failed, and why where they hung, in one line; empty where none did."""
    failed = [row for row in result.candidates if row["state"] == "failed"]
    if not failed:
        return ""
    hanging = sum((row["reason"] or "").startswith(HANGING) for row in failed)
    limit = read_config(result.run)["resources"].get("rung_s")
    why = f", {hanging} of them hung (resources.rung_s={limit:g})" if hanging and limit else ""
    where = "search.log says where they stood" if why else "candidates.jsonl says why"
    return f"{len(failed)} failed{why}: {where}"


def end_record(run: Path, status: str) -> dict[str, Any]:
    """The event that closes a search in MLflow."""
    summary = read_summary(run)
    best = summary.get("best") or {}
    metrics = {
        name: summary.get(name)
        for name in (
            "trials",
            "completed",
            "pruned",
            "failed",
            "rejected",
            "wall_s",
            "utilisation",
            "kendall_tau",
        )
    }
    of_stream = [name for name in best if name.startswith(stream_search.MEASURES) and not name.endswith("_std")]
    for name in ("val_accuracy", "test_accuracy", "test_accuracy_without_kd", "params", "flops", *of_stream):
        metrics[f"best_{name}"] = best.get(name)
    for name in ("accuracy", "params", "flops"):
        metrics[f"teacher_{name}"] = (summary.get("teacher") or {}).get(name)
    return {
        "type": "search_ended",
        "status": {"finished": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED"),
        "metrics": {name: value for name, value in metrics.items() if value is not None},
        "tags": {"kdnas.status": status, "kdnas.best": str(best.get("id"))},
        "artifacts": ["report.html", "summary.json", "config.yaml", "candidates.jsonl"],
    }


def beyond_size(objectives: Sequence[str], constraints: Iterable[str]) -> list[str]:
    """Full names of what a search optimises or bounds beside accuracy, parameters and FLOPs."""
    known = ("val_accuracy", *SIZES)
    return [
        name
        for name in dict.fromkeys((*objectives, *constraints))
        if name not in known and not name.startswith(UNSUPPORTED)
    ]


def ranking_table(result: SearchResult, top: int = 10) -> Grid:
    """The best candidates as a table for the terminal."""
    table = Grid(box=None, header_style="bold", padding=(0, 2, 0, 0))
    retrained = {row["id"]: row for row in result.finalists}
    objectives = read_config(result.run)["objectives"]
    more = beyond_size(objectives, result.summary.get("constraints", ()))
    several = len(objectives) > 1
    front = {row["id"] for row in pareto_front(result.candidates, objectives)} if several else set()
    plain = result.summary.get("targets") == "values"
    columns = ["", "candidate", "epochs", f"validation{titled(result.summary)}", "parameters", "MFLOPs", *more]
    columns += ["front"] if front else []
    scores = ["val_accuracy", "test_accuracy", "test_accuracy_without_kd"]
    if retrained:
        columns += ["retrained", "test", "test without KD"]
    if result.summary.get("stream") and retrained:
        columns += ["old groups", "old groups without KD"]
        scores += ["test_old_accuracy", "test_old_accuracy_without_kd"]
    for title in columns:
        table.add_column(title, justify="left" if title == "candidate" else "right", no_wrap=True)
    for place, row in enumerate(result.ranking[:top], start=1):
        again = retrained.get(row["id"], {})
        cells = [
            str(place),
            row["id"],
            str(row["epochs"]),
            score(row["val_accuracy"], None, plain),
            f"{row['params']:,}",
            f"{row['flops'] / 1e6:.2f}",
            *(number(row[name]) if name in row else "–" for name in more),
        ]
        if front:
            cells.append("yes" if row["id"] in front else "")
        if retrained:
            cells += [score(again.get(name), again.get(f"{name}_std"), plain) for name in scores]
        table.add_row(*cells)
    return table


def titled(summary: dict[str, Any]) -> str:
    """What a column of scores adds to its title: the task's metric, where it is not accuracy."""
    metric = summary.get("metric") or "accuracy"
    return "" if metric == "accuracy" else f" {metric}"


def headline(summary: dict[str, Any]) -> str:
    """The result in one or two sentences, and one for each number on a device."""
    best, teacher = summary.get("best"), summary.get("teacher")
    if best and summary.get("stream"):
        return " ".join([stream_search.headline(best), *_on_devices(summary, best, {})])
    if not best or not teacher:
        if over := len(summary.get("over_bounds") or ()):
            return f"No candidate is known to keep the latency bounds: measured on this machine, {over} break one."
        return " ".join(["No candidate was trained in full yet.", *_going_on(summary)])
    return " ".join([_kept(summary, best, teacher), *_on_devices(summary, best, teacher), *_going_on(summary)])


def _going_on(summary: dict[str, Any]) -> list[str]:
    """What `kdnas resume` goes on with."""
    if not (open_ := summary.get("unfinished")):
        return []
    number, best = open_["candidates"], open_["best"]
    plain = summary.get("targets") == "values"
    reached = (
        f", the best of them with {score(best['val_accuracy'], None, plain)} on validation after epoch"
        f" {best['epoch']:.0f}"
        if best
        else ""
    )
    who = "1 candidate is" if number == 1 else f"{number:,} candidates are"
    return [f"{who} unfinished{reached}; `kdnas resume` goes on."]


def _on_devices(summary: dict[str, Any], best: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    bounds, found = summary.get("constraints") or {}, []
    for name in beyond_size(summary.get("objectives") or [], bounds):
        plain, _, device = name.partition("/")
        if not device or name not in best:
            continue
        unit = "ms" if plain == "latency_ms" else "MB"
        most = f" of at most {number(bounds[name])}" if name in bounds else ""
        theirs = f", its teacher {number(teacher[name])}" if teacher.get(name) is not None else ""
        found.append(f"On {device}, modelled: {number(best[name])}{most} {unit}{theirs}.")
    return found


def _kept(summary: dict[str, Any], best: dict[str, Any], teacher: dict[str, Any]) -> str:
    metric, plain = summary.get("metric") or "accuracy", summary.get("targets") == "values"
    named = "" if metric == "accuracy" else f"{metric} "
    whose = "the table's best" if summary.get("evaluator") == "table" else "its teacher"
    size, than = _smaller(best, teacher, whose)
    own, theirs = best.get("test_accuracy"), teacher.get("accuracy")
    if own is None:
        return f"{best['id']} reaches {named}{score(best['val_accuracy'], None, plain)} on validation, {size}{than}."
    reached, at = f"{named}{score(own, None, plain)}", score(theirs, None, plain)
    if theirs is None:
        text = f"{best['id']} reaches {reached} on test, {size}{than}; {apart(teacher, metric)}."
    elif theirs <= (summary.get("chance") or 0.0):
        text = (
            f"{best['id']} reaches {reached} on test, {size}{than}; its teacher is hardly better than guessing ({at})."
        )
    elif metric != "accuracy":
        text = f"{best['id']}: {reached} on test, {whose} {at}, {size}{than}."
    elif own > theirs:
        text = f"{best['id']} is more accurate than {whose} ({reached} against {at}), {size}."
    else:
        of = f"{whose}'s" if whose == "its teacher" else whose
        text = f"{best['id']} keeps {own / theirs:.1%} of {of} test accuracy ({reached} of {at}), {size}."
    without = best.get("test_accuracy_without_kd")
    if without is not None:
        text += f" The same student without KD: {score(without, None, plain)}."
    return text


def apart(teacher: dict[str, Any], metric: str) -> str:
    """Why a teacher without a score of its own has none, and what of it taught."""
    name = str(teacher.get("name", ""))
    if name.startswith("paired"):
        return "its teacher knows another task; its answers for samples of the same class taught"
    if name == "classifier":
        return f"its teacher classifies crops, so there is no {metric} of its own to compare with"
    return "its teacher knows none of the task's classes; its features alone taught"


def guessing(targets: str, classes: int) -> float:
    """Score up to which a teacher is hardly better than guessing."""
    return min(1.5 / classes, 1 / classes + 0.05) if targets == "classes" else HARDLY


def _smaller(best: dict[str, Any], teacher: dict[str, Any], whose: str) -> tuple[str, str]:
    """How much smaller the student is, and than `whose`; its own size where its teacher's is not known."""
    other_input = str(teacher.get("name", "")).startswith("paired")  # FLOPs for one input would not compare
    names = ("params",) if other_input else ("params", "flops")
    known = [name for name in names if teacher.get(name) is not None]
    words = {"params": ("smaller", "larger", ""), "flops": ("fewer", "more", " FLOPs")}
    parts = [_times(teacher[name] / best[name], *words[name][:2]) + words[name][2] for name in known]
    if not parts:
        return f"with {best['params']:,} parameters (its teacher's are not known)", ""
    return " and ".join(parts), f" than {whose}"


def _times(ratio: float, less: str, more: str) -> str:
    return f"{ratio:.1f} times {less}" if ratio >= 1 or not ratio else f"{1 / ratio:.1f} times {more}"


def trust_warnings(trust: dict[str, Any], least: float) -> list[str]:
    """A sentence for every ranking that agrees too little with the one after it; small numbers are left out.

    Args:
        trust: `kendall_tau`, `kendall_tau_n` and `rung_kendall_tau` of the summary.
        least: Kendall tau below which a ranking is not trusted (`retrain.least_tau`).
    """
    found = []
    tau, n = trust["kendall_tau"], trust["kendall_tau_n"]
    if tau is not None and n >= SPEAKING and tau < least:
        found.append(
            f"The ranking of the search agrees with the one after retraining to a Kendall tau of {tau:.2f} only "
            f"({n} finalists; retrain.least_tau is {least:g}): others may be better than those retrained."
        )
    for row in trust["rung_kendall_tau"][:-1]:  # at the last rung nobody is stopped
        epochs = f"{row['epochs']} epoch{'s' * (row['epochs'] > 1)}"
        figures = (("full retraining", "retrained"), ("the end of the search", "search"))
        for against, name in figures:
            tau, n = row[f"tau_{name}"], row[f"n_{name}"]
            if tau is not None and n >= SPEAKING and tau < least:
                found.append(
                    f"Accuracy after {epochs}, by which candidates were stopped, agrees with {against} "
                    f"to a Kendall tau of {tau:.2f} only ({n} candidates; retrain.least_tau is {least:g}): good ones "
                    "may have been stopped."
                )
                break
    return found


def _best(best: list[dict[str, Any]], ranked: list[dict[str, Any]], over: set[str]) -> dict[str, Any] | None:
    """The best finalist; before there is one the best candidate that was not seen to break a bound (`over`)."""
    rows = {row["id"]: row for row in ranked}
    complete = [row for row in ranked if row["state"] == "complete" and row["id"] not in over]
    if not best and not complete:
        return None
    row = rows[best[0]["id"]] if best else complete[0]
    kept = {name: row[name] for name in ("id", "architecture", "recipe", "val_accuracy")} | costs_of(row)
    measured = best[0] if best else {}
    names = ["test_accuracy", "test_accuracy_std", "test_accuracy_without_kd", "test_accuracy_without_kd_std"]
    names += [name for name in measured if name.startswith(stream_search.MEASURES)]
    return (
        kept
        | {name: measured.get(name) for name in names}
        | ({"retrained_val_accuracy": measured["val_accuracy"]} if measured else {})
    )


def _trust(
    run: Path, rows: list[dict[str, Any]], best: list[dict[str, Any]], rungs: tuple[int, ...], looked_up: bool
) -> dict[str, Any]:
    tau = kendall_tau([row["search_val_accuracy"] for row in best], [row["val_accuracy"] for row in best])
    if looked_up:  # both are the same number of the table
        tau = None
    return {
        "kendall_tau": tau,
        "kendall_tau_n": len(best),
        "rung_kendall_tau": rung_taus(rows, rungs, [] if looked_up else read_retrained(run)),
    }


def _teacher(run: Path, made: Plan) -> dict[str, Any] | None:
    facts = read_teacher_facts(run)
    if not facts:
        return None
    if "accuracy" not in facts and (run / "retrained.jsonl").exists():
        # The teacher meets the test split at the same moment as the finalists: after the search.
        folder = run / "teacher"
        settings, targets = made.config.teachers[0], made.config.task.targets
        model = load_student(folder)[0] if folder.exists() else build_teacher(settings, made.data, targets)
        with torch.random.fork_rng(devices=[]):
            normalise = Normalise(made.data.mean, made.data.std)
            _, facts["accuracy"] = evaluate(model, made.data.test, made.config.task, normalise)
        replace_text(run / "teacher.json", json.dumps(facts, indent=2) + "\n")
    return facts


def score(value: float | None, spread: float | None = None, plain: bool = False) -> str:
    """A score in percent, or as a `plain` number, with its spread where there is one; a dash for None."""
    if value is None or np.isnan(value):
        return "–"
    form = ".3f" if plain else ".2%"
    return f"{value:{form}}" + (f" ± {spread:{form}}" if spread is not None else "")
