"""How good are the best candidates really? Trained in full from scratch, with and without KD, scored on test."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from torch import nn

from kdnas_ray import tracking
from kdnas_ray.adapter import Stop, candidate_seed
from kdnas_ray.analysis.pareto import rank_candidates
from kdnas_ray.config import SearchConfig
from kdnas_ray.objectives import costs_of
from kdnas_ray.prepare import Plan
from kdnas_ray.runs import append_jsonl, read_jsonl
from kdnas_ray.session import workers
from kdnas_ray.stream_search import MEASURES, StreamPlan
from kdnas_ray.within import keeping
from search_spaces import SPACES, RunError
from trainables import packed, slot
from trainables.candidate import Candidate, checked_id
from trainables.distill import Shared, open_training, taught_by_itself
from trainables.files import whole_folder
from trainables.incremental import learn_all
from trainables.loop import DivergedError, Normalise, evaluate, train
from trainables.losses.reuse import settle
from trainables.model_files import more_meta, save_student
from trainables.tasks.base import Split

SEED_OFFSET = 1_000_000  # retraining seeds never meet a candidate's search seed


class HasCandidate(Protocol):
    """A job that trains a candidate."""

    @property
    def candidate(self) -> Candidate:
        """Who is trained."""


Work = TypeVar("Work", bound=HasCandidate)


@dataclass(frozen=True)
class Job:
    """One retraining: a candidate, a seed (the `repeat`-th), with or without the teacher."""

    candidate: Candidate
    seed: int
    repeat: int
    with_kd: bool

    @property
    def key(self) -> tuple[str, int, bool]:
        """What makes it the same job in another session."""
        return self.candidate.id, self.seed, self.with_kd


def retrain(run: Path, made: Plan, shared: ray.ObjectRef, top: int, say: Callable[[str], None], stop: Stop) -> None:
    """Retrain the best `top` candidates; jobs done in an earlier session are not repeated.

    Each result is one line of retrained.jsonl; the best student lies in `best/` afterwards.

    Raises:
        RunError: a retraining failed.
    """
    config = made.config
    epochs = retrain_epochs(config)
    rows = rank_candidates(read_jsonl(run / "candidates.jsonl"), config.objectives)
    complete = [row for row in rows if row["state"] == "complete"]
    chosen = [Candidate.from_json(row) for row in keeping(run, made, complete, top, say, stop)]
    done = {
        (row["id"], row["seed"], row["with_kd"])
        for row in read_jsonl(run / "retrained.jsonl")
        if (row["epochs"], row.get("generations", 1)) == (epochs, config.retrain.generations)
    }
    jobs = [job for job in _jobs(chosen, config.retrain.seeds) if job.key not in done]
    if jobs:
        say(f"Retraining the best {len(chosen)} in full, {epochs} epochs, with and without KD: {len(jobs)} trainings")
        _run_jobs(run, made, shared, jobs, epochs, say, stop)
    if stop.reason != "interrupt":
        keep_best(run)


def retrain_epochs(config: SearchConfig) -> int:
    """Length of a retraining in epochs."""
    return config.retrain.epochs or config.scheduler.max_epochs


def retraining_seed(candidate: Candidate, repeat: int) -> int:
    """Seed of the candidate's `repeat`-th full training."""
    return candidate_seed(candidate.seed, SEED_OFFSET + repeat)


def read_retrained(run: Path) -> list[dict[str, Any]]:
    """Lines of retrained.jsonl of the longest training there is: only equal lengths can be compared.

    Trainings that diverged are left out.
    """
    rows = [row for row in read_jsonl(run / "retrained.jsonl") if "failure" not in row]
    longest = max((_length(row) for row in rows), default=(0, 0))
    return [row for row in rows if _length(row) == longest]


def _length(row: dict[str, Any]) -> tuple[int, int]:
    return row.get("generations", 1), row["epochs"]


def finalists(run: Path) -> list[dict[str, Any]]:
    """Retrained candidates, best first by validation accuracy with KD (mean over seeds), then by size.

    Each row: id, the numbers known before training (`params`, `flops`, …), and mean and spread (`_std`, None for a
    single seed) over seeds of `val_accuracy`, `test_accuracy` and `test_accuracy_without_kd`; in a stream also of
    `MEASURES`, with and without KD. Selection never looks at the test split.
    """
    rows = {row["id"]: row for row in read_jsonl(run / "candidates.jsonl")}
    retrained = read_retrained(run)
    found = []
    for name in dict.fromkeys(row["id"] for row in retrained):
        own = [row for row in retrained if row["id"] == name]
        with_kd = [row for row in own if row["with_kd"]]
        without = [row for row in own if not row["with_kd"]]
        if not with_kd or name not in rows:
            continue
        found.append(
            {
                "id": name,
                **costs_of(rows[name]),
                "search_val_accuracy": rows[name]["val_accuracy"],
                **_mean_and_spread("val_accuracy", [row["val_accuracy"] for row in with_kd]),
                **_mean_and_spread("test_accuracy", [row["test_accuracy"] for row in with_kd]),
                **_mean_and_spread("test_accuracy_without_kd", [row["test_accuracy"] for row in without]),
                **_of_stream(with_kd, without),
            }
        )
    return sorted(found, key=lambda row: (-row["val_accuracy"], row["params"], row["id"]))


def _of_stream(with_kd: Sequence[dict[str, Any]], without: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Mean and spread of what is measured in a stream beside accuracy; nothing where there is none."""
    found: dict[str, float | None] = {}
    for name in MEASURES:
        if name not in with_kd[0]:
            continue
        found |= _mean_and_spread(name, [row[name] for row in with_kd])
        found |= _mean_and_spread(f"{name}_without_kd", [row[name] for row in without])
    return found


def keep_best(run: Path) -> None:
    """Put the best retrained student (its first seed) into `best/`, unless it is there already or none is known."""
    ranked = finalists(run)
    if not ranked:
        return
    name = ranked[0]["id"]
    source, first = kept_student(run, name)
    row = next(row for row in read_jsonl(run / "candidates.jsonl") if row["id"] == name)
    content = json.dumps(row | {"retrained": first}) + "\n"
    there = run / "best" / "candidate.json"
    if not source.exists() or (there.exists() and there.read_text() == content):
        return
    with whole_folder(run / "best") as draft:
        shutil.copytree(source, draft, dirs_exist_ok=True)
        for part in ("architecture", "recipe"):
            (draft / f"{part}.json").write_text(json.dumps(row[part], indent=2) + "\n")
        (draft / "candidate.json").write_text(content)
    tracking.append(run, {"type": "best", "folder": "best", "candidate": name})


def kept_student(run: Path, finalist: str) -> tuple[Path, dict[str, Any]]:
    """Folder of a finalist's student (its first seed), and the line of the training it is from."""
    rows = [row for row in read_retrained(run) if row["id"] == finalist and row["with_kd"]]
    first = min(rows, key=lambda row: row["repeat"])
    return run / "finalists" / _folder_name(
        finalist, first["seed"], first["epochs"], first.get("generations", 1)
    ), first


def _folder_name(candidate: str, seed: int, epochs: int, generations: int) -> str:
    return f"{checked_id(candidate)}-{seed}-{epochs}" + (f"-generation{generations}" if generations > 1 else "")


def _jobs(chosen: Sequence[Candidate], seeds: int) -> list[Job]:
    return [
        Job(candidate, retraining_seed(candidate, index), index, with_kd)
        for candidate in chosen
        for index in range(seeds)
        for with_kd in (True, False)
    ]


def _run_jobs(
    run: Path,
    made: Plan,
    shared: ray.ObjectRef,
    jobs: Sequence[Job],
    epochs: int,
    say: Callable[[str], None],
    stop: Stop,
) -> None:
    resources = made.config.resources
    # The test split travels only now, when the search is over.
    test = ray.put(made.data.test)
    remote = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=2)(_retrain)
    meta = {
        "space": {"name": SPACES.name_of(made.config.space), **asdict(made.config.space)},
        "shape": list(made.data.shape),
        "classes": list(made.data.classes),
        "mean": list(made.data.mean),
        "std": list(made.data.std),
        "task": made.config.resolved()["task"]["name"],
        **more_meta(made.config.task.targets, made.data),
    }
    generations, folder = made.config.retrain.generations, str((run / "finalists").resolve())
    alone = generations > 1 or resources.pack == "never" or isinstance(made, StreamPlan)
    groups = [[job] for job in jobs] if alone else _groups(jobs, workers(made.config))
    waiting = {remote.remote(shared, test, group, epochs, generations, folder, meta): group for group in groups}
    done = 0
    for group, rows in as_they_end(waiting, stop, f"kdnas resume {run}"):
        for job, row in zip(group, rows, strict=True):
            append_jsonl(run / "retrained.jsonl", row)
            if "failure" in row:
                kd = "with" if job.with_kd else "without"
                say(f"Retraining {row['id']} {kd} KD, seed {row['seed']}, failed: {row['failure']}")
                continue
            kept = ("id", "repeat", "with_kd", "val_accuracy", "test_accuracy", *MEASURES)
            tracking.append(run, {"type": "retrained", **{key: row[key] for key in kept if key in row}})
        done += len(group)
        say(f"Retraining: {done} of {len(jobs)} done")


def _groups(jobs: Sequence[Job], workers: int) -> list[list[Job]]:
    """Seeds of one candidate that train as one; no more at a time than leaves every worker something to do."""
    size = math.ceil(len(jobs) / workers)
    alike: dict[tuple[str, bool], list[Job]] = {}
    for job in jobs:
        alike.setdefault((job.candidate.id, job.with_kd), []).append(job)
    return [group[begin : begin + size] for group in alike.values() for begin in range(0, len(group), size)]


def as_they_end(
    waiting: dict[ray.ObjectRef, list[Work]], stop: Stop, again: str
) -> Iterator[tuple[list[Work], list[dict[str, Any]]]]:
    """Jobs with their answers in the order in which they end; on an interrupt the rest is given up.

    Args:
        waiting: jobs by the reference of their answers, one each; emptied.
        stop: asked between answers.
        again: command that tries what failed once more.

    Raises:
        RunError: a job failed.
    """
    try:
        while waiting and stop.reason != "interrupt":
            ready, _ = ray.wait(list(waiting), timeout=0.5)
            for reference in ready:
                jobs = waiting.pop(reference)
                try:
                    rows = ray.get(reference)
                except RayError as error:
                    raise RunError(
                        f"retraining failed ({str(error).strip().splitlines()[-1]})",
                        field="candidate",
                        value=jobs[0].candidate.id,
                        remedy=f"`{again}` tries it again",
                    ) from error
                yield jobs, rows
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _retrain(
    shared: Shared, test: Split, jobs: Sequence[Job], epochs: int, generations: int, folder: str, meta: dict[str, Any]
) -> list[dict[str, Any]]:
    """Trains the jobs, keeps the students that learned from the teacher, and scores all on test; a line each."""
    if shared.stream is not None:
        trained = [_along_stream(shared, test, job, epochs) for job in jobs]
    else:
        together = _train_as_one(shared, jobs, epochs) if len(jobs) > 1 else None
        found = together or [train_in_full(shared, job, epochs, generations) for job in jobs]
        trained = [(row, model, _scores(shared, model, test)) for row, model in found]
    rows = []
    for job, (row, model, scores) in zip(jobs, trained, strict=True):
        rows.append(row | scores)
        if model is not None and job.with_kd:
            settle(model)
            architecture = job.candidate.architecture.to_json()
            place = Path(folder) / _folder_name(job.candidate.id, job.seed, epochs, generations)
            save_student(place, model, meta | {"architecture": architecture})
    return rows


def _scores(shared: Shared, model: nn.Module | None, test: Split) -> dict[str, Any]:
    if model is None:
        return {"test_accuracy": None}
    return {"test_accuracy": evaluate(model, test, shared.task, Normalise(shared.mean, shared.std))[1]}


def _train_as_one(
    shared: Shared, jobs: Sequence[Job], epochs: int
) -> list[tuple[dict[str, Any], nn.Module | None]] | None:
    """What `train_in_full` says of each, from one training of all; None where they are better trained one by one."""
    torch.set_num_threads(shared.threads)
    trainings = [open_training(shared, _retrained(job), epochs) for job in jobs]
    try:
        with slot.training():
            if not packed.wanted(shared.pack, trainings[0], len(trainings), shared.bank):
                return None
            normalise = Normalise(shared.mean, shared.std)
            failed = packed.train_packed(trainings, shared.bank, shared.validation, shared.task, normalise, epochs)
    except packed.UnpackableError:
        return None
    found: list[tuple[dict[str, Any], nn.Module | None]] = []
    for place, (job, training) in enumerate(zip(jobs, trainings, strict=True)):
        facts = _line(job, epochs, 1)
        if place in failed:
            found.append((facts | {"failure": str(failed[place]), "val_accuracy": None}, None))
            continue
        kept = {"val_accuracy": training.curve[-1]["val_accuracy"], "train_s": training.train_s}
        found.append((facts | kept | {"curve": training.curve}, training.model))
    return found


def _retrained(job: Job) -> Candidate:
    recipe = job.candidate.recipe if job.with_kd else job.candidate.recipe.without_teacher()
    return Candidate(job.candidate.id, job.candidate.architecture, recipe, job.seed)


def _along_stream(
    shared: Shared, test: Split, job: Job, epochs: int
) -> tuple[dict[str, Any], nn.Module | None, dict[str, Any]]:
    """One training through all groups: its line, the network (None where it diverged), and its scores on test."""
    torch.set_num_threads(shared.threads)
    line = _line(job, epochs, 1)
    try:
        with slot.training():
            course, scores = learn_all(shared, _retrained(job), epochs, test)
    except DivergedError as error:
        return line | {"failure": str(error), "val_accuracy": None}, None, {"test_accuracy": None}
    end = course.curve[-1]
    kept = {"val_accuracy": end["val_accuracy"], "forgetting": end["forgetting"], "train_s": course.train_s}
    return line | kept | {"curve": course.curve}, course.model, scores


def _line(job: Job, epochs: int, generations: int) -> dict[str, Any]:
    return {
        "id": job.candidate.id,
        "seed": job.seed,
        "repeat": job.repeat,
        "with_kd": job.with_kd,
        "epochs": epochs,
        "generations": generations,
    }


def train_in_full(
    shared: Shared, job: Job, epochs: int, generations: int = 1
) -> tuple[dict[str, Any], nn.Module | None]:
    """One training from fresh weights: its line and the trained network, None where it diverged.

    Args:
        shared: what every training reads.
        job: who is trained, from which seed, with or without the teacher.
        epochs: length.
        generations: trainings one after another, each taught by the one before it.
    """
    torch.set_num_threads(shared.threads)
    candidate = _retrained(job)
    normalise = Normalise(shared.mean, shared.std)
    training = open_training(shared, candidate, epochs)
    facts = _line(job, epochs, generations)
    try:
        with slot.training():
            curve = train(training, shared.bank, shared.validation, shared.task, normalise, epochs)
        train_s = training.train_s
        for generation in range(1, generations if job.with_kd else 1):
            again = taught_by_itself(shared, training.model)
            heir = replace(
                candidate, recipe=candidate.recipe.for_own_answers(), seed=candidate_seed(candidate.seed, generation)
            )
            training = open_training(again, heir, epochs)
            with slot.training():
                curve = train(training, again.bank, shared.validation, shared.task, normalise, epochs)
            train_s += training.train_s
    except DivergedError as error:  # one training's fault, and the same each time
        return facts | {"failure": str(error), "val_accuracy": None}, None
    return facts | {"val_accuracy": curve[-1]["val_accuracy"], "train_s": train_s, "curve": curve}, training.model


def _mean_and_spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {name: None, f"{name}_std": None}
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {name: float(np.mean(values)), f"{name}_std": spread}
