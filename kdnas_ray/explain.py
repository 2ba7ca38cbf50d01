"""Why does a candidate work? It is trained again, with and without the teacher, and looked at on the way.

Validation data alone are compared: the test split stays sealed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from torch import nn

from kdnas_ray import tracking
from kdnas_ray.adapter import Stop
from kdnas_ray.analysis.dark_knowledge import mean_outputs
from kdnas_ray.analysis.explained import effects
from kdnas_ray.analysis.interactions import decision_shares
from kdnas_ray.analysis.pairs import capacity_gap, gains, term_pairs
from kdnas_ray.config import SearchConfig
from kdnas_ray.environment import logs_to
from kdnas_ray.finalists import as_they_end, read_retrained, retrain_epochs, retraining_seed
from kdnas_ray.followed import Job, Reference, compare_with, follow, judged, matrix, probes, variants
from kdnas_ray.kept_config import run_config
from kdnas_ray.live import Narrator
from kdnas_ray.prepare import Plan, knowledge
from kdnas_ray.report import write_explanation, write_report
from kdnas_ray.report.reason_parts import FOLDER, FORMAT
from kdnas_ray.report.reasons import sentences
from kdnas_ray.runs import append_jsonl, lock, read_jsonl, read_summary
from kdnas_ray.session import Interrupted, in_store, interrupts, planned
from search_spaces import Architecture, KdnasError
from search_spaces.notation import canonical
from trainables.alignment import NO_ANSWER, speaks
from trainables.candidate import Candidate, checked_id
from trainables.distill import Shared
from trainables.evaluators import Table
from trainables.files import replace_text
from trainables.loop import Normalise
from trainables.pairing import Paired
from trainables.teachers import Teacher

SEEDS = 3
Row = dict[str, Any]
Say = Callable[[str], None]


def explain(
    run: Path | str,
    candidate: str | None = None,
    *,
    seeds: int = SEEDS,
    epochs: int | None = None,
    narrator: Narrator | None = None,
) -> dict[str, Any]:
    """Train a candidate again with and without the teacher and without each term, and compare what came of it.

    Trainings are kept in RUN/explain/CANDIDATE.jsonl and never repeated. Writes RUN/explain/CANDIDATE.json (the raw
    numbers), RUN/explain.html, and the report anew.

    Args:
        run: its folder.
        candidate: its id; the best when None.
        seeds: trainings of each variant of the recipe.
        epochs: length of each; that of a full retraining when None.
        narrator: where progress is told; the terminal when None.

    Returns:
        The content of the JSON file: `candidate` and its `recipe`, `metric`, `search` (what the whole search says),
        `teacher` (what was seen of it), `trainings` (lines of `followed.follow`), their `effects`, `lacking` (what
        could not be looked at, by part, with the reason in a sentence) and the `sentences` of each part.

    Raises:
        KdnasError: not a run folder, no such candidate, or impossible options.
        RunError: a training failed.
        Interrupted: Ctrl-C or SIGTERM; calling again goes on.
    """
    run, narrator = Path(run), narrator or Narrator()
    config = run_config(run)
    _check(seeds, epochs)
    row = _candidate(run, candidate)
    chosen, length = Candidate.from_json(row), epochs or retrain_epochs(config)
    reason = _untrainable(config, chosen)
    found = _begun(config, row, seeds, length)
    made = None if reason else planned(config)
    stop = Stop()
    with lock(run), logs_to(run / "search.log"), interrupts(stop, narrator) as arm:
        narrator.say("Asking the search: decisions, pairs of candidates, gains of the finalists")
        found["search"] = _of_search(run, config)
        if made is None:
            found["lacking"]["trainings"] = reason
        else:
            try:
                found |= _by_training(run, made, chosen, seeds, length, narrator, stop, arm)
            except KeyboardInterrupt:
                raise Interrupted(str(run)) from None
        found["effects"] = effects(found["trainings"])
        found["sentences"] = sentences(found)
        path = run / FOLDER / f"{chosen.id}.json"
        path.parent.mkdir(exist_ok=True)
        replace_text(path, json.dumps(found, indent=1, allow_nan=False) + "\n")
        write_explanation(run, found)
        write_report(run)
    _tell(run, config, chosen.id, narrator.say)
    return found


def _begun(config: SearchConfig, row: Row, seeds: int, epochs: int) -> dict[str, Any]:
    """What is known before anything is trained."""
    return {
        "format": FORMAT,
        "candidate": row["id"],
        "recipe": row["recipe"],
        "metric": config.task.metric_name,
        "targets": config.task.targets,
        "seeds": seeds,
        "epochs": epochs,
        "teacher": None,
        "trainings": [],
        "lacking": {},
    }


def _check(seeds: int, epochs: int | None) -> None:
    for field, value in (("--seeds", seeds), ("--epochs", epochs)):
        if value is not None and value < 1:
            raise KdnasError("too few", field=field, value=value, remedy="choose 1 or more")


def _candidate(run: Path, name: str | None) -> Row:
    rows = {row["id"]: row for row in read_jsonl(run / "candidates.jsonl")}
    best = read_summary(run).get("best") or {}
    wanted = name or best.get("id")
    if wanted not in rows:
        raise KdnasError(
            "no such candidate" if name else "it has no best candidate yet",
            field="CANDIDATE",
            value=name,
            remedy=f"one id of the {len(rows)} in {run / 'candidates.jsonl'}",
        )
    return rows[wanted]


def _tell(run: Path, config: SearchConfig, name: str, say: Say) -> None:
    """Give page and numbers to the run in MLflow; what keeps them from it is said, and `kdnas sync` tries again."""
    if not config.tracking.enabled or not (run / tracking.OUTBOX).exists():
        return
    files = ["explain.html", f"{FOLDER}/{name}.json", "report.html"]
    tracking.append(run, {"type": "explained", "candidate": name, "artifacts": files})
    try:
        tracking.sync(run, config.tracking)
    except KdnasError as error:
        say(f"MLflow does not have it yet: {error.problem}; send it later: kdnas sync {run}")


def _untrainable(config: SearchConfig, candidate: Candidate) -> str | None:
    """Why the candidate cannot be trained with and without a teacher; None where it can."""
    if isinstance(config.evaluator, Table):
        return "The results of this search were looked up in a table: there is no network to look at."
    if config.stream is not None:
        return "On a stream of classes each network is taught by the one before it: this is not looked at here."
    if not candidate.recipe.terms:
        return "This candidate learned from the labels alone: there is no distillation to explain."
    return None


def _of_search(run: Path, config: SearchConfig) -> dict[str, Any]:
    """What the candidates of the search and its finalists say, without any training."""
    rungs, rows = config.rungs(), read_jsonl(run / "candidates.jsonl")

    def identity(row: Any) -> str:
        return canonical(config.space, Architecture.of(row["architecture"]))

    found = gains(read_retrained(run), rows, identity)

    return {
        "decisions": decision_shares(run, rungs, config.seed),
        "rung": rungs[0],
        "pairs": term_pairs(rows, rungs[0], identity),
        "gains": found,
        "gap": capacity_gap(found),
    }


def _by_training(
    run: Path,
    made: Plan,
    candidate: Candidate,
    seeds: int,
    epochs: int,
    narrator: Narrator,
    stop: Stop,
    arm: Callable[[], Any],
) -> dict[str, Any]:
    """The parts of `explain` that need trainings."""

    def say(text: str) -> None:
        narrator.say(text)
        if stop.reason == "interrupt":
            raise KeyboardInterrupt

    teachers, bank = knowledge(made, run, say)
    with in_store(run, made, bank, teachers[0], arm) as (shared, reference):
        teacher, lacking, yard = _reference(made, teachers, candidate, shared)
        _train(run, made, reference, yard, _jobs(candidate, seeds), epochs, say, stop)
    if stop.reason == "interrupt":
        raise KeyboardInterrupt
    wanted = {(job.variant, job.candidate.seed) for job in _jobs(candidate, seeds)}
    lines = [line for line in _kept(run, candidate.id, epochs) if (line["variant"], line["seed"]) in wanted]
    return {"teacher": teacher, "trainings": lines, "lacking": lacking}


def _reference(
    made: Plan, teachers: Sequence[Teacher], candidate: Candidate, shared: Shared
) -> tuple[dict[str, Any], dict[str, str], Reference]:
    """What was seen of the teacher, what is lacking and why, and what students are compared with."""
    config, validation = made.config, made.data.validation
    normalise, classes = Normalise(made.data.mean, made.data.std), config.task.targets == "classes"
    model, lacking = _shown(teachers[0].model)
    temperature = candidate.recipe.temperature.start
    try:
        yard = compare_with(
            model, validation, normalise, speaks=classes and speaks(teachers[0].model), temperature=temperature,
            classes=classes,
        )  # fmt: skip
    except KdnasError as error:
        lacking = dict.fromkeys(
            ("similarity", "dark"), f"The teacher cannot be asked about validation samples: {error.problem}."
        )
        yard = Reference({}, None, temperature, classes)
    if yard.logits is not None and bool((yard.logits <= NO_ANSWER).any()):
        lacking["dark"] = "The teacher does not know all classes: its confusions are not those of the task."
        yard = replace(yard, logits=None)
    if not yard.kernels:
        lacking.setdefault(
            "similarity", "The teacher gives no inner features: there is nothing to compare layers with."
        )
    if not classes:
        words = (
            f"The targets are {config.task.targets}, not classes: there are no confusions, no calibration of classes"
        )
        lacking["dark"] = lacking["probes"] = f"{words} and no linear probes."
    elif yard.logits is None:
        lacking.setdefault(
            "dark", "The teacher says nothing of validation samples: there is nothing to inherit from it."
        )
    facts: dict[str, Any] = {
        "taps": list(yard.kernels),
        "classes": list(made.data.classes),
        "temperature": temperature,
        "teachers": len(teachers),
    }
    if yard.logits is not None:
        labels = np.asarray(validation.labels[: len(yard.logits)])
        facts |= judged(yard.logits, labels) | {"outputs": matrix(mean_outputs(yard.logits, labels, temperature))}
    if model is not None and classes and yard.kernels:
        facts["probes"] = probes(model, shared.bank, validation, normalise, list(yard.kernels))
    return facts, lacking, yard


def _shown(model: nn.Module) -> tuple[nn.Module | None, dict[str, str]]:
    """The teacher, where it can be shown the task's own samples; else None and why."""
    if isinstance(model, Paired) or getattr(model, "other_task", False):
        reason = "The teacher is of another task and cannot be shown these samples."
        return None, {"similarity": reason, "dark": reason}
    return model.eval(), {}


def _jobs(candidate: Candidate, seeds: int) -> list[Job]:
    return [
        Job(name, replace(candidate, recipe=recipe, seed=retraining_seed(candidate, repeat)), repeat)
        for repeat in range(seeds)
        for name, recipe in variants(candidate.recipe).items()
    ]


def _train(
    run: Path,
    made: Plan,
    shared: ray.ObjectRef,
    yard: Reference,
    jobs: Sequence[Job],
    epochs: int,
    say: Say,
    stop: Stop,
) -> None:
    """Train what was not trained yet; a line each in RUN/explain/CANDIDATE.jsonl."""
    name = jobs[0].candidate.id
    done = {(line["variant"], line["seed"]) for line in _kept(run, name, epochs)}
    open_ = [job for job in jobs if (job.variant, job.candidate.seed) not in done]
    if not open_:
        return
    kinds = len({job.variant for job in jobs})
    say(f"Explaining {name}: {len(open_)} trainings of {epochs} epochs, {kinds} variants of its recipe")
    (run / FOLDER).mkdir(exist_ok=True)
    resources, compared = made.config.resources, ray.put(yard)
    remote = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=2)(_follow)
    waiting = {remote.remote(shared, compared, job, epochs): [job] for job in open_}
    for number, ([job], [line]) in enumerate(as_they_end(waiting, stop, f"kdnas explain {run} {name}"), start=1):
        append_jsonl(_lines(run, name), line)
        failed = f", {job.variant} failed: {line['failure']}" if "failure" in line else ""
        if stop.reason != "interrupt":
            say(f"Explaining: {number} of {len(open_)} trained{failed}")


def _follow(shared: Shared, reference: Reference, job: Job, epochs: int) -> list[Row]:
    return [follow(shared, reference, job, epochs)]


def _kept(run: Path, name: str, epochs: int) -> list[Row]:
    return [line for line in read_jsonl(_lines(run, name)) if line["epochs"] == epochs]


def _lines(run: Path, name: str) -> Path:
    return run / FOLDER / f"{checked_id(name)}.jsonl"
