"""How far can the judges of a run be trusted? A sample of its candidates, early-stopped ones too, trained in full."""

import difflib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.table import Table as Grid

from kdnas_ray.adapter import Stop
from kdnas_ray.analysis.trust import LEAST, TOP, agreement
from kdnas_ray.config import Prefilter, SearchConfig
from kdnas_ray.environment import logs_to
from kdnas_ray.evaluation import prepare_evaluator
from kdnas_ray.finalists import Job, as_they_end, retrain_epochs, retraining_seed, train_in_full
from kdnas_ray.kept_config import run_config
from kdnas_ray.live import Narrator
from kdnas_ray.objectives import SIZES
from kdnas_ray.prefilter import make_judge
from kdnas_ray.prepare import Plan, knowledge
from kdnas_ray.report import write_report
from kdnas_ray.report.words import interval
from kdnas_ray.runs import append_jsonl, lock, read_jsonl
from kdnas_ray.session import Interrupted, in_store, interrupts, planned
from kdnas_ray.table_search import TablePlan
from search_spaces import Architecture, KdnasError
from trainables.candidate import Candidate
from trainables.distill import Shared
from trainables.evaluators import Table
from trainables.evaluators.base import Prepared
from trainables.files import replace_text
from trainables.proxies import PROXIES

FEW = 8  # candidates below which a bootstrap interval is far too narrow
DEFAULT = ("params", "flops", "synflow", "naswot")
Row = dict[str, Any]
Scores = dict[str, dict[str, float]]  # by judge, then by candidate


def calibrate(
    run: Path | str,
    sample: int = 12,
    judges: Sequence[str] = (),
    tau: float = 0.3,
    narrator: Narrator | None = None,
) -> dict[str, Any]:
    """Train a sample of the run's candidates in full and compare every judge with the result.

    Trainings are kept in calibration.jsonl and never repeated; finalists' trainings of the same seed count too. Writes
    calibration.json and the report anew.

    Args:
        run: its folder.
        sample: how many candidates, spread evenly over the ranks after the first rung.
        judges: beside the rungs: names of proxies, `params`, `flops`, `evaluator`, or `all`; none for the usual ones.
        tau: a judge that decided who is trained, and whose interval ends below, gets a warning.
        narrator: where progress is told; the terminal when None.

    Returns:
        The content of calibration.json: `truth`, `epochs`, `sample`, `failed`, `judges` (each with `name`, `label`,
        `cost_s`, and the figures of `analysis.trust.agreement`), `warnings`, and the `candidates` with their scores.

    Raises:
        KdnasError: not a run folder, nothing to calibrate on, or a judge that this run does not have.
        RunError: a training failed.
        Interrupted: Ctrl-C or SIGTERM; calling again goes on.
    """
    run, narrator = Path(run), narrator or Narrator()
    config = run_config(run)
    if config.stream is not None:
        raise KdnasError("not of a search on a stream", field="RUN", value=str(run), remedy="its rungs are groups")
    _check_options(sample, tau)
    names = _chosen_judges(config, judges)
    rungs = config.scheduler.rungs()
    _ranked(run, rungs[0], config.seed)  # refused before data are read
    made = planned(config)
    names = _without_features(names, made, judges)
    stop = Stop()
    with lock(run), logs_to(run / "search.log"), interrupts(stop, narrator) as arm:
        known = {row["id"] for row in _trained(run, config) if "failure" not in row}
        chosen = stratified(_ranked(run, rungs[0], config.seed), sample, known)
        begin = time.perf_counter()
        for row in chosen:  # parameters and FLOPs in one go, and remembered: measured before anybody asks for them
            made.costs(Architecture.of(row["architecture"]))
        counting_s = (time.perf_counter() - begin) / len(chosen)
        try:
            measure = _from_table if isinstance(made, TablePlan) else _by_training
            scores, costs, truths = measure(run, made, chosen, names, narrator, stop, arm)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            raise Interrupted(str(run)) from None
        costs |= {name: counting_s for name in SIZES if name in costs}
        found = _summary(config, chosen, scores, costs, truths, tau)
        replace_text(run / "calibration.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
        write_report(run)
    return found


def stratified(ranked: Sequence[Row], size: int, known: set[str]) -> list[Row]:
    """So many candidates, one of each of `size` neighbourhoods of the ranking; trained ones are preferred.

    Args:
        ranked: candidates with a random `priority`, best first.
        size: how many; all of them where there are fewer.
        known: ids of those that were trained for an earlier calibration.
    """
    strata = np.array_split(np.arange(len(ranked)), min(size, len(ranked)))
    return [
        min((ranked[place] for place in stratum), key=lambda row: (row["id"] not in known, row["priority"]))
        for stratum in strata
    ]


def calibration_table(found: Mapping[str, Any]) -> Grid:
    """A line a judge for the terminal."""
    grid = Grid(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("judge", "n", "Kendall tau", "Spearman", *(f"regret@{k}" for k in TOP), "s a candidate"):
        grid.add_column(title, justify="left" if title == "judge" else "right", no_wrap=True)
    for judge in found["judges"]:
        figures = [interval(judge[name]) for name in ("tau", "spearman")]
        regrets = [interval(judge[f"regret_{k}"], share=True) for k in TOP]
        grid.add_row(judge["label"], str(judge["n"]), *figures, *regrets, f"{judge['cost_s']:.3g}")
    return grid


def _check_options(sample: int, tau: float) -> None:
    if sample < LEAST:
        raise KdnasError(
            "too few to compare rankings", field="--sample", value=sample, remedy=f"choose {LEAST} or more"
        )
    if not -1 <= tau <= 1:
        raise KdnasError("not a Kendall tau", field="--tau", value=tau, remedy="choose -1 to 1")


def _chosen_judges(config: SearchConfig, judges: Sequence[str]) -> list[str]:
    """Names of the judges beside the rungs.

    Raises:
        KdnasError: one that this run does not have.
    """
    own = ["evaluator"] if getattr(config.evaluator, "judges", False) else []
    there = [*SIZES, *([] if isinstance(config.evaluator, Table) else PROXIES), *own]
    if "all" in judges:
        return there
    if not judges:
        sieve = [config.prefilter.judge] if config.prefilter else []
        return [name for name in dict.fromkeys((*DEFAULT, *sieve, *own)) if name in there]
    for name in judges:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise KdnasError(
                "this run has no such judge",
                field="--judges",
                value=name,
                remedy=f"{hint}known: {', '.join(there)}, or all (the rungs are always there)",
            )
    return list(dict.fromkeys(judges))


def _without_features(names: Sequence[str], made: Plan, asked: Sequence[str]) -> list[str]:
    """The judges without those that read features of the teacher, where this run keeps none."""
    if made.taps or made.online:
        return list(names)
    lacking = [name for name in names if name in PROXIES and "taps" in PROXIES[name].needs]
    for name in lacking:
        if name in asked:
            raise KdnasError(
                "it reads inner features of the teacher, and this run keeps none",
                field="--judges",
                value=name,
                remedy="leave it out, or search with recipes.hints=[true]",
            )
    return [name for name in names if name not in lacking]


def _ranked(run: Path, rung: int, seed: int) -> list[Row]:
    """Candidates that reached the first rung, best there first; equal ones in random order.

    Raises:
        KdnasError: too few to compare.
    """
    rows = [row for row in read_jsonl(run / "candidates.jsonl") if row["state"] in ("complete", "pruned")]
    # The priority depends on the candidate alone: a sample stays the same while the run or the calibration goes on.
    rows = [row | {"priority": random.Random(f"{seed} {row['id']}").random()} for row in rows if _at(row, rung)]
    if len(rows) < LEAST:
        raise KdnasError(
            f"{len(rows)} of its candidates reached the first rung; comparing rankings takes {LEAST}",
            field="RUN",
            value=str(run),
            remedy=f"train more: `kdnas resume {run} budget.trials=…`",
        )
    return sorted(rows, key=lambda row: (-row["curve"][rung - 1]["val_accuracy"], row["priority"]))


def _at(row: Row, epoch: int) -> bool:
    return len(row["curve"]) >= epoch


def _from_table(
    run: Path, made: TablePlan, chosen: Sequence[Row], names: Sequence[str], narrator: Narrator, *_: Any
) -> tuple[Scores, dict[str, float], dict[str, float]]:
    """Scores and costs of the judges and the truth, all looked up."""
    results, column = made.results, list(made.results.columns.values())[-1]
    candidates = [Candidate.from_json(row) for row in chosen]
    truths = {
        candidate.id: results.accuracy(results.entry(made.config.space, candidate.architecture), column)
        for candidate in candidates
    }
    scores, costs = _scored(candidates, names, made, None, Prepared(), narrator.say)
    return scores, costs, truths


def _by_training(
    run: Path,
    made: Plan,
    chosen: Sequence[Row],
    names: Sequence[str],
    narrator: Narrator,
    stop: Stop,
    arm: Callable[[], Any],
) -> tuple[Scores, dict[str, float], dict[str, float]]:
    """Scores and costs of the judges, and the truth by training."""

    def say(text: str) -> None:
        narrator.say(text)
        if stop.reason == "interrupt":
            raise KeyboardInterrupt

    candidates = [Candidate.from_json(row) for row in chosen]
    teachers, bank = knowledge(made, run, say)
    with in_store(run, made, bank, teachers[0], arm) as (shared, reference):
        prepared = Prepared()
        if "evaluator" in names:
            prepared = prepare_evaluator(run, made, shared, reference, say, stop)
        say(f"Judges: scoring {len(candidates)} candidates by {', '.join(names)}")
        scores, costs = _scored(candidates, names, made, shared, prepared, say)
        _train(run, made, reference, candidates, say, stop)
    if stop.reason == "interrupt":
        raise KeyboardInterrupt
    wanted = {(candidate.id, retraining_seed(candidate, 0)) for candidate in candidates}
    rows = [row for row in (*_trained(run, made.config), *_finalists(run, made.config)) if "failure" not in row]
    return scores, costs, {row["id"]: row["val_accuracy"] for row in rows if (row["id"], row["seed"]) in wanted}


def _scored(
    candidates: Sequence[Candidate],
    names: Sequence[str],
    made: Plan,
    shared: Shared | None,
    prepared: Prepared,
    say: Callable[[str], None],
) -> tuple[Scores, dict[str, float]]:
    """Scores by every judge, and its seconds a candidate (without what an evaluator's preparation took)."""
    scores: Scores = {}
    costs: dict[str, float] = {}
    settings = made.config.prefilter or Prefilter()
    for name in names:
        judge = make_judge(name, settings.batch_size, made, shared, prepared)
        begin = time.perf_counter()
        try:
            found = judge(candidates)
        except KdnasError as error:  # such as naswot on networks without an activation
            say(f"{name} is left out: {error.problem}")
            continue
        costs[name] = (time.perf_counter() - begin) / len(candidates)
        scores[name] = dict(zip((candidate.id for candidate in candidates), found, strict=True))
    return scores, costs


def _train(
    run: Path,
    made: Plan,
    shared: ray.ObjectRef,
    candidates: Sequence[Candidate],
    say: Callable[[str], None],
    stop: Stop,
) -> None:
    """Train in full who was not yet, from fresh weights and a retraining seed; a line each in calibration.jsonl."""
    config, epochs = made.config, retrain_epochs(made.config)
    done = {(row["id"], row["seed"]) for row in (*_trained(run, config), *_finalists(run, config))}
    jobs = [Job(candidate, retraining_seed(candidate, 0), 0, True) for candidate in candidates]
    jobs = [job for job in jobs if (job.candidate.id, job.seed) not in done]
    if not jobs:
        return
    say(f"Calibration: training {len(jobs)} of {len(candidates)} candidates in full, {epochs} epochs")
    resources = config.resources
    remote = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=2)(_train_one)
    waiting = {remote.remote(shared, job, epochs): [job] for job in jobs}
    for number, ([job], [row]) in enumerate(as_they_end(waiting, stop, f"kdnas calibrate {run}"), start=1):
        append_jsonl(run / "calibration.jsonl", row)
        failed = f", {job.candidate.id} failed: {row['failure']}" if "failure" in row else ""
        narrated = f"Calibration: {number} of {len(jobs)} trained{failed}"
        if stop.reason != "interrupt":
            say(narrated)


def _train_one(shared: Shared, job: Job, epochs: int) -> list[Row]:
    return [train_in_full(shared, job, epochs)[0]]


def _trained(run: Path, config: SearchConfig) -> list[Row]:
    """Lines of calibration.jsonl of today's length of a full training."""
    return [row for row in read_jsonl(run / "calibration.jsonl") if row["epochs"] == retrain_epochs(config)]


def _finalists(run: Path, config: SearchConfig) -> list[Row]:
    """Lines of retrained.jsonl that are what a calibration would train too."""
    rows = read_jsonl(run / "retrained.jsonl")
    same = (retrain_epochs(config), True, 1)
    return [row for row in rows if (row["epochs"], row["with_kd"], row.get("generations", 1)) == same]


def _summary(
    config: SearchConfig,
    chosen: Sequence[Row],
    scores: Scores,
    costs: Mapping[str, float],
    truths: Mapping[str, float],
    tau: float,
) -> dict[str, Any]:
    rungs = config.scheduler.rungs()
    all_scores, all_costs, labels = dict[str, dict[str, float]](), dict[str, float](), dict[str, str]()
    for rung in rungs:
        at = {row["id"]: row for row in chosen if _at(row, rung)}
        reached = {name: row["curve"][rung - 1]["val_accuracy"] for name, row in at.items()}
        if isinstance(config.evaluator, Table) and all(truths[name] == value for name, value in reached.items()):
            continue  # a number of the table compared with itself says nothing
        name = f"rung_{rung}"
        all_scores[name], labels[name] = reached, f"after {rung} epoch{'s' * (rung > 1)}"
        seconds = [rung * row["train_s"] / len(row["curve"]) for row in at.values()]
        all_costs[name] = float(np.mean(seconds)) if seconds else 0.0
    all_scores, all_costs = all_scores | scores, all_costs | dict(costs)
    judges = []
    for name, values in all_scores.items():
        both = [candidate for candidate in values if candidate in truths]
        compared = agreement([values[c] for c in both], [truths[c] for c in both], config.seed)
        judges.append({"name": name, "label": labels.get(name, name), "cost_s": all_costs[name], **compared})
    return {
        "truth": "table" if isinstance(config.evaluator, Table) else "trained",
        "epochs": rungs[-1] if isinstance(config.evaluator, Table) else retrain_epochs(config),
        "sample": len(chosen),
        "failed": [row["id"] for row in chosen if row["id"] not in truths],
        "stopped_early": sum(row["state"] == "pruned" for row in chosen),
        "tau": tau,
        "judges": judges,
        "warnings": [*_few(len(chosen)), *_warnings(config, judges, tau)],
        "candidates": [
            {
                "id": row["id"],
                "accuracy": truths.get(row["id"]),
                "scores": {name: _finite(values.get(row["id"])) for name, values in all_scores.items()},
            }
            for row in chosen
        ],
    }


def _warnings(config: SearchConfig, judges: Sequence[Row], tau: float) -> list[str]:
    """A sentence for each judge that decided who is trained though it surely agrees too little with the truth."""
    rungs = config.scheduler.rungs()
    decided = {}
    if len(rungs) > 1:
        decided[f"rung_{rungs[0]}"] = "The judge that stopped candidates, accuracy", "stopped: a later first rung"
    if config.prefilter:
        decided[config.prefilter.judge] = "The judge that chose whom to train,", "left out: another judge"
    found = []
    for judge in judges:
        high = judge["tau"]["high"]
        if judge["name"] in decided and high is not None and high < tau:
            who, remedy = decided[judge["name"]]
            found.append(
                f"{who} {judge['label']}, agrees with full training to a Kendall tau of {judge['tau']['value']:.2f} "
                f"(at most {high:.2f}, asked for {tau:g}). Good candidates may have been {remedy} may find better ones."
            )
    return found


def _few(sample: int) -> list[str]:
    if sample >= FEW:
        return []
    return [
        f"{sample} candidates only: intervals from so few are too narrow and the figures hints; train more "
        "(`--sample 12`, after `kdnas resume RUN budget.trials=…` where the run has no more)."
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
