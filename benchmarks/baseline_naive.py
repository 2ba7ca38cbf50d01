"""How much sooner does our search have what a first attempt with Ray Tune ends with?

Naive is what a user would first write, and no slower than that: a Ray Tune *function* trainable, the teacher beside
the student on every batch (`no_grad`), augmentation on the fly, a fresh actor a trial (Tune's default), Ray's own
`OptunaSearch` (TPE) and `ASHAScheduler`, a report every epoch, `MLflowLoggerCallback` on SQLite, Tune's default
loggers. Ours is `kdnas search` with `retrain.top=0`, its bank not built yet.

The same on both sides: data, teacher and its weights, architecture and recipe space (through their `suggest`), losses,
optimiser, learning rate schedule, ASHA rungs, number of trained candidates, 2 at once, 1 torch thread each.
Constraint: a proposal that is too large is told to Optuna as 0 and naive's searcher samples again at once, so that
(as in ours) it costs naive neither a trial nor an actor. Batches are gathered by index, without a DataLoader.

Clocks start when each search's process is started: imports, data, Ray, MLflow, for ours also the bank, are inside;
training the teacher is outside on both sides (it lies in KDNAS_CACHE). Naive's stops when `Tuner.fit` returns, ours
when the line of the first complete candidate (trained to the last rung) at least as accurate as naive's best complete
one is written; both accuracies are of the last epoch, on validation. `ratio` divides the two. `ratio search phase`
starts the clocks when the first proposal is about to be made. `ratio to naive's best` stops naive's clock when its best
candidate was done, as if one could know.
Which side finds the better candidate among equally many is a toss-up, so ours goes on after as many candidates as naive
had, up to `--factor` times as many: what counts is the time until it has the accuracy. `ours same number s` is when it
had trained as many as naive. A ratio of `none`: ours never got there; the median counts that as infinite.

    python benchmarks/baseline_naive.py --task digits --seeds 0 1 2
    python benchmarks/baseline_naive.py --task cifar10 --data ../shared/data/cifar10
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from optuna.samplers import TPESampler
from optuna.trial import FixedTrial
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from record import tell

from kdnas_ray.config import SearchConfig, read
from kdnas_ray.environment import cache_folder
from kdnas_ray.hardware.counting import count, count_model
from kdnas_ray.objectives import limits
from trainables import bank as banks
from trainables.augment import apply, draw
from trainables.bank import Batch
from trainables.candidate import build_model
from trainables.loop import WARMUP, Normalise, Training, evaluate, start
from trainables.losses import LOSSES, Answer
from trainables.tasks.base import Data, Split
from trainables.teachers import obtain

WORKERS = 2
SETTINGS = {
    "digits": [],
    "cifar10": [
        "task.name=images",
        "task.subset=2500",
        "task.validation=0.25",
        "teachers=[{name: trained, stem: 48, widths: [48, 96, 192], epochs: 10, views: 5}]",
        "bank.views=4",
        "space.stem_strides=[1, 2]",
        "constraints={flops: {of_teacher: 0.004}}",
        "scheduler.grace_epochs=1",
        "scheduler.max_epochs=9",
    ],
}
TRIALS = {"digits": 40, "cifar10": 24}


def main() -> None:
    """Run both searches for every seed, alternating which comes first; print a row a seed and the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=SETTINGS, default="digits")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data/cifar10")
    parser.add_argument("--trials", type=int, help=f"candidates to train (default: {TRIALS})")
    parser.add_argument("--factor", type=int, default=3, help="ours may train so many times naive's candidates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, for both sides")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--naive", type=Path, help=argparse.SUPPRESS)  # the naive side, in a process of its own
    chosen = parser.parse_args()
    if chosen.naive is not None:
        naive_search(read({}, chosen.set), chosen.naive)
        return
    trials = chosen.trials or TRIALS[chosen.task]
    overrides = [*SETTINGS[chosen.task], f"budget.trials={trials}"]
    if chosen.task == "cifar10":
        file = chosen.data.resolve() / "train.parquet"
        if not file.exists():
            print(f"Skipped: there is no {file}. Give its folder with --data.")
            return
        overrides.append(f"task.path={file}")
    rows = []
    for turn, seed in enumerate(chosen.seeds):
        both = [*overrides, f"resources.workers={WORKERS}", f"seed={seed}", *chosen.set]
        with tempfile.TemporaryDirectory() as work:
            found = compare(both, Path(work), trials, chosen.factor, naive_first=turn % 2 == 0)
            rows.append({"task": chosen.task, "seed": seed, **found})
        print(rows[-1], file=sys.stderr, flush=True)
    tell([*rows, median_row(rows)] if len(rows) > 1 else rows, chosen.out, overrides=[*overrides, *chosen.set])


def compare(overrides: list[str], work: Path, trials: int, factor: int, naive_first: bool) -> dict[str, Any]:
    """Both searches, one after the other, and when ours had the naive one's best."""
    prepare_teacher(overrides, work / "cache")
    sides = {
        "naive": lambda: run_naive(overrides, work),
        "ours": lambda: run_ours([*overrides, f"budget.trials={factor * trials}"], work, trials),
    }
    found = {name: sides[name]() for name in sorted(sides, reverse=not naive_first)}
    naive, ours = found["naive"], found["ours"]
    reached = next((done for done in ours["complete"] if done["accuracy"] >= naive["best"]), None)
    whole = None if reached is None else reached["whole_s"]
    return {
        "naive s": naive["whole_s"],
        "naive search phase s": naive["search_s"],
        "naive best": naive["best"],
        "naive's best done s": naive["best_s"],
        "ours same number s": ours["same_s"],
        "ours reached s": whole,
        "ours reached after": None if reached is None else reached["candidates"],
        "ratio": _ratio(whole, naive["whole_s"]),
        "ratio search phase": _ratio(reached and reached["search_s"], naive["search_s"]),
        "ratio to naive's best": _ratio(whole, naive["best_s"]),
    }


def median_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of every column over the seeds; one that was never reached counts as infinite."""
    found: dict[str, Any] = {"task": rows[0]["task"], "seed": "median"}
    for name in list(rows[0])[2:]:
        middle = statistics.median(math.inf if row[name] is None else row[name] for row in rows)
        found[name] = middle if math.isfinite(middle) else None
    return found


def prepare_teacher(overrides: list[str], cache: Path) -> None:
    """Fill `cache` with the trained teacher and nothing else: each repetition of ours builds its bank."""
    config = read({}, overrides)
    kept = cache_folder(None)
    data = config.task.load(config.seed)
    obtain(config.teachers[0], data, config.task, seed=config.seed, cache=kept, say=lambda text: None)
    shutil.copytree(kept / "teachers", cache / "teachers")


def run_ours(overrides: list[str], work: Path, trials: int) -> dict[str, Any]:
    """Our search: when each complete candidate was done, its accuracy, and when `trials` candidates had ended."""
    command = [sys.executable, "-m", "kdnas_ray", "search", *overrides, "retrain.top=0", "--out", "run"]
    begin, _ = _run(command, work)
    # Events of the run carry the time of day, candidates the seconds since the search phase began.
    events = [json.loads(line) for line in (work / "run/tracking.jsonl").read_text().splitlines()]
    written = {event["id"]: event["time_ms"] / 1000 for event in events if event["type"] == "candidate_ended"}
    rows = [json.loads(line) for line in (work / "run/candidates.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["state"] != "rejected"]
    complete = [
        {
            "accuracy": row["val_accuracy"],
            "whole_s": written[row["id"]] - begin,
            "search_s": row["ended_s"],
            "candidates": number,
        }
        for number, row in enumerate(trained, start=1)
        if row["state"] == "complete"
    ]
    return {"complete": complete, "same_s": written[trained[trials - 1]["id"]] - begin}


def run_naive(overrides: list[str], work: Path) -> dict[str, Any]:
    """The naive search: its seconds, its best complete candidate and when that was done."""
    outcome = work / "naive.json"
    begin, _ = _run([sys.executable, __file__, "--naive", str(outcome), "--set", *overrides], work)
    facts = json.loads(outcome.read_text())
    best, best_at = max(facts["complete"], default=(0.0, facts["returned"]))
    return {
        "whole_s": facts["returned"] - begin,
        "search_s": facts["search_s"],
        "best": best,
        "best_s": best_at - begin,
    }


def _run(command: list[str], work: Path) -> tuple[float, float]:
    """Time of day before and after the command."""
    environment = {**os.environ, "KDNAS_CACHE": str(work / "cache")}
    environment.pop("MLFLOW_TRACKING_URI", None)  # both write to SQLite in the working folder
    begin = time.time()
    with (work / "output.txt").open("wb") as output:
        code = subprocess.run(command, cwd=work, env=environment, stdout=output, stderr=output).returncode
    end = time.time()
    if code:
        sys.exit(f"{' '.join(command)} failed with {code}:\n{(work / 'output.txt').read_text()[-3000:]}")
    return begin, end


def _ratio(part: float | None, whole: float) -> float | None:
    return None if part is None else part / whole


# ---- The naive side: what a user would first write -------------------------------------------------------------------


@dataclass(frozen=True)
class Proposals:
    """Define-by-run space of candidates for `OptunaSearch`: an architecture and a recipe."""

    config: SearchConfig

    def __call__(self, trial: Any) -> None:
        self.config.space.suggest(trial)
        self.config.recipes.suggest(trial)


@dataclass(frozen=True)
class Fits:
    """Whether a proposal keeps the constraints."""

    config: SearchConfig
    shape: tuple[int, int, int]
    classes: int
    bounds: dict[str, float]

    def __call__(self, params: dict[str, Any]) -> bool:
        architecture = self.config.space.suggest(FixedTrial(params))
        costs = count(lambda: self.config.space.build(architecture, self.shape, self.classes), self.shape)
        return all(costs[name] <= bound for name, bound in self.bounds.items())


class SmallOnly(OptunaSearch):
    """`OptunaSearch` that samples again where a candidate is too large, without spending a trial on it."""

    fits: Fits

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        while True:
            params = super().suggest(trial_id)
            if self.fits(params):
                return params
            self._ot_study.tell(self._ot_trials.pop(trial_id), 0.0)


def naive_search(config: SearchConfig, outcome: Path) -> None:
    """Search, and write to `outcome` how long it took and how good it got."""
    data = config.task.load(config.seed)
    teacher = obtain(config.teachers[0], data, config.task, seed=config.seed, cache=cache_folder(None), say=print).model
    classes = len(data.classes)
    bounds = limits(config.constraints, count_model(teacher, data.shape))

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False)
    begin = time.perf_counter()
    searcher = SmallOnly(Proposals(config), metric="val_accuracy", mode="max", sampler=TPESampler(seed=config.seed))
    searcher.fits = Fits(config, data.shape, classes, bounds)
    asha = config.scheduler
    tuner = tune.Tuner(
        tune.with_parameters(naive_trainable, config=config, data=data, classes=classes, teacher=teacher),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=ASHAScheduler(
                time_attr="epoch",
                metric="val_accuracy",
                mode="max",
                max_t=asha.max_epochs,
                grace_period=asha.grace_epochs,
                reduction_factor=asha.reduction_factor,
            ),
            num_samples=config.budget.trials,
            max_concurrent_trials=WORKERS,
        ),
        run_config=tune.RunConfig(
            name="naive",
            storage_path=str(Path("ray").resolve()),
            callbacks=[MLflowLoggerCallback(tracking_uri="sqlite:///naive.db", experiment_name="naive")],
        ),
    )
    results = tuner.fit()
    search_s, returned = time.perf_counter() - begin, time.time()
    if results.errors:
        raise results.errors[0]
    last = [result.metrics for result in results if result.metrics and "epoch" in result.metrics]
    complete = [(m["val_accuracy"], m["timestamp"]) for m in last if m["epoch"] == asha.max_epochs]
    facts = {"complete": complete, "trials": len(last), "search_s": search_s, "returned": returned}
    outcome.write_text(json.dumps(facts))


def naive_trainable(
    params: dict[str, Any], config: SearchConfig, data: Data, classes: int, teacher: torch.nn.Module
) -> None:
    """Train one candidate, the teacher beside it on every batch.

    Nothing here may be called `data.classes`: cloudpickle would take it for the module `torch.classes`, and fail.
    """
    torch.set_num_threads(1)
    recipe = config.recipes.suggest(FixedTrial(params))
    architecture = config.space.suggest(FixedTrial(params))
    student = build_model(config.space, architecture, data.shape, classes, config.seed)
    normalise, task, epochs = Normalise(data.mean, data.std), config.task, config.scheduler.max_epochs
    taps = tuple({term.tap for term in recipe.terms if term.tap})
    # Our `start` makes the projectors, so that they are the same; it wants a bank: one of two images.
    two = Split(data.train.images[:2], data.train.labels[:2])
    tiny = banks.build(two, [teacher], normalise, augmentation=task.augmentation, views=1, seed=0, taps=taps)
    training = start(student, recipe, tiny, seed=config.seed, total_epochs=epochs)
    optimizer = torch.optim.SGD(
        [*student.parameters(), *training.projectors.parameters()],
        lr=recipe.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    images, labels = torch.tensor(data.train.images), torch.tensor(data.train.labels)
    step, steps = 0, epochs * max(1, len(images) // recipe.batch_size)
    teacher.eval()
    for epoch in range(1, epochs + 1):
        student.train()
        for indices in torch.tensor_split(torch.randperm(len(images)), steps // epochs):
            views = draw(task.augmentation, len(indices), *data.shape[1:], config.seed, step + 1)
            batch_images = apply(images[indices], views)
            with torch.no_grad():
                answers, features = teacher.forward_taps(normalise(batch_images), taps)
            batch = Batch(batch_images, labels[indices], answers, features, indices)
            loss = naive_loss(training, batch, normalise, task, step / max(1, steps - 1))
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_share(step / max(1, steps - 1))
            optimizer.step()
            step += 1
        loss_now, accuracy = evaluate(student, data.validation, task, normalise)
        tune.report({"epoch": epoch, "val_accuracy": accuracy, "val_loss": loss_now, "train_loss": loss.item()})


def naive_loss(training: Training, batch: Batch, normalise: Normalise, task: Any, progress: float) -> torch.Tensor:
    """The recipe's loss, `alpha * KD + (1 - alpha) * CE`."""
    recipe = training.recipe
    logits, seen = training.model.forward_taps(normalise(batch.images), tuple(batch.taps))
    soft = torch.zeros(())
    for index, term in enumerate(recipe.terms):
        ours, theirs = logits, batch.logits
        if term.tap is not None:
            ours, theirs = training.projectors[str(index)](seen[term.tap], batch.taps[term.tap])
        student, teacher = Answer(logits, ours), Answer(batch.logits, theirs)
        temperature = recipe.temperature.at(progress)
        soft = soft + term.weight * LOSSES[term.loss].function(student, teacher, batch.labels, temperature)
    return recipe.alpha * soft + (1 - recipe.alpha) * task.loss(logits, batch.labels)


def learning_rate_share(progress: float) -> float:
    """Linear rise, then a cosine to 0: the schedule of `trainables.loop`."""
    if progress < WARMUP:
        return max(progress, 0.01) / WARMUP
    return 0.5 * (1 + float(np.cos(np.pi * (progress - WARMUP) / (1 - WARMUP))))


if __name__ == "__main__":
    main()
