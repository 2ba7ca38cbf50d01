"""What would a user pick instead, and how long does it take for the same candidates?

All train the same list: `--architectures` drawn from the search's own space (within its bounds), each with `--recipes`
recipes of its own recipe space, same initial weights and order of samples; 2 workers, 1 torch thread each, rungs of
successive halving at 3, 9 and 27 epochs, factor 3. Teacher and knowledge bank are computed beforehand and read from
KDNAS_CACHE or a file: every contestant has cached logits. No sampler's time is inside: candidates are replayed.

- `ours`: `kdnas search`, a sampler that replays the list, scheduler asha, MLflow on.
- `ours-packed`: the same with `recipes_each` at `--recipes`; two rows, schedulers asha-promote and asha.
- `optuna`: Optuna alone: two processes on one SQLite study, `SuccessiveHalvingPruner`, reports at the rungs.
- `ray`: Ray Tune alone, as documented: a function that reports every epoch, `ASHAScheduler`, `with_parameters`.
- `syne-tune`: local backend, stopping ASHA, a report every epoch, looks for reports twice a second;
  `syne-tune-default`: looks every 5 s, as it does unless told otherwise.

Those that are not ours train by `trainables.loop.train`, the loop of our own workers.

`wall s` runs from the moment workers are started (their processes, imports and reading of the bank are inside) until
the last epoch of the last candidate. Outside are what comes before (imports of the main process, data, `ray.init`,
creating the study) and after (ours: the report, MLflow's rest); `whole s` is all of it, from start to end of the
process. `train s`: inside training loops, summed over workers; `utilisation` = train / (2 x wall). The halving rules
differ in detail (who goes on while few are known; Syne Tune's candidates train on until the decision reaches them), so
do `epochs`, hence `ms an epoch` = wall / epochs. `best`: of those trained to the last rung.

    python benchmarks/against.py --what ours ours-packed optuna ray
    python benchmarks/against.py --task cifar10 --candidates 24
    python -m venv syne && syne/bin/pip install torch==2.13.0
    syne/bin/pip install syne-tune safetensors pyarrow pillow
    python benchmarks/against.py --syne-python syne/bin/python
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing heavy up here: each of Syne Tune's trials is a process that runs this file, in an environment without Ray.

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
RUNGS = ["scheduler.grace_epochs=3", "scheduler.max_epochs=27", "scheduler.reduction_factor=3"]
ARCHITECTURES = {"digits": 25, "cifar10": 5}
WHAT = ("ours", "ours-packed", "optuna", "ray", "syne-tune", "syne-tune-default")
POLICIES = {"ours": ("asha",), "ours-packed": ("asha-promote", "asha")}
POLL_S = {"syne-tune": 0.5, "syne-tune-default": 5.0}


@dataclass(frozen=True)
class Common:
    """What contestants that are not ours read.

    Args:
        bank, validation, task, space, recipes, mean, std, channels_last: as in a search.
        outputs: number of classes; by that name cloudpickle would take it for the module `torch.classes`.
        rungs: epochs, ascending.
        listed: candidates with their decisions under `params`, as JSON.
    """

    bank: Any
    validation: Any
    task: Any
    space: Any
    recipes: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool
    outputs: int
    rungs: tuple[int, ...]
    listed: list[dict[str, Any]]


def main() -> None:
    """Draw the candidates, let each contestant train them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=ARCHITECTURES, default="digits")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/cifar10")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT[:5]))
    parser.add_argument("--architectures", type=int, help=f"default: {ARCHITECTURES}")
    parser.add_argument("--recipes", type=int, default=8, help="for each architecture")
    parser.add_argument("--candidates", type=int, help="only so many of the list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--syne-python", default="syne/bin/python", help="Python that has Syne Tune")
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, for all")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    for name in ("contestant", "work", "number"):  # a contestant, in a process of its own
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    chosen, _ = parser.parse_known_args()  # Syne Tune adds an option of its own
    if chosen.contestant is not None:
        CONTESTANTS[chosen.contestant](chosen.contestant, Path(chosen.work), chosen.number)
        return

    from baseline_naive import SETTINGS
    from record import tell

    overrides = [*SETTINGS[chosen.task], *RUNGS, f"resources.workers={WORKERS}", f"seed={chosen.seed}", *chosen.set]
    if chosen.task == "cifar10":
        file = chosen.data.resolve() / "train.parquet"
        if not file.exists():
            print(f"Skipped: there is no {file}. Give its folder with --data.")
            return
        overrides.append(f"task.path={file}")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        architectures = chosen.architectures or ARCHITECTURES[chosen.task]
        common = prepare(overrides, architectures, chosen.recipes, chosen.candidates, work)
        overrides.append(f"resources.layout={'channels_last' if common.channels_last else 'contiguous'}")
        overrides.append("resources.precision=float32")
        rows = []
        for what in chosen.what:
            python = Path(chosen.syne_python if what in POLL_S else sys.executable)
            if not python.exists():
                print(f"Left out {what}: there is no {python}.", file=sys.stderr)
                continue
            if what in POLICIES:
                each = chosen.recipes if what == "ours-packed" else 1
                found = [run_ours(f"{what}, {name}", name, each, overrides, work, common) for name in POLICIES[what]]
            else:
                found = [run_other(what, python, work, common)]
            rows += found
            print(*found, sep="\n", file=sys.stderr, flush=True)
    alone = next((row["wall s"] for row in rows if row["contestant"] == "optuna"), None)
    rows = [{**row, "of optuna's wall": alone and row["wall s"] / alone} for row in rows]
    print(f"{len(common.listed)} candidates of {chosen.task}:\n")
    tell(rows, chosen.out, task=chosen.task, candidates=len(common.listed), overrides=overrides)


def prepare(overrides: list[str], architectures: int, recipes: int, limit: int | None, work: Path) -> Common:
    """Train the teacher, ask it, draw the candidates; kept in `work` too."""
    import torch

    from kdnas_ray.adapter import candidate_seed
    from kdnas_ray.config import read
    from kdnas_ray.prepare import knowledge, plan
    from kdnas_ray.samplers.base import Draft, from_unit
    from kdnas_ray.session import fast_ways
    from trainables.candidate import Candidate

    torch.set_num_threads(1)
    made = plan(read({}, overrides))
    _, bank = knowledge(made, work, lambda text: None)
    config, data, rng = made.config, made.data, random.Random(f"against {made.config.seed}")

    def draft() -> Draft:
        return Draft(lambda name, distribution: from_unit(distribution, rng.random()))

    drawn: dict[str, tuple[Any, dict[str, Any]]] = {}
    while len(drawn) < architectures:
        one = draft()
        architecture = config.space.suggest(one)
        if made.keeps(architecture):
            drawn.setdefault(made.identity(architecture), (architecture, one.params))
    listed: list[dict[str, Any]] = []
    for architecture, decisions in drawn.values():
        for _ in range(recipes):
            one, number = draft(), len(listed)
            recipe = config.recipe_space.suggest(one)
            candidate = Candidate(f"c{number:04d}", architecture, recipe, candidate_seed(config.seed, number))
            listed.append({**candidate.to_json(), "params": {**decisions, **one.params}})
    common = Common(
        bank=bank,
        validation=data.validation,
        task=config.task,
        space=config.space,
        recipes=config.recipe_space,
        mean=data.mean,
        std=data.std,
        channels_last=fast_ways(work, made)["channels_last"],
        outputs=len(data.classes),
        rungs=config.rungs(),
        listed=listed[:limit],
    )
    torch.save(common, work / "common.pt")
    (work / "listed.json").write_text(json.dumps(common.listed))
    return common


def load(work: Path) -> Common:
    """What `prepare` kept."""
    import torch

    return torch.load(work / "common.pt", weights_only=False)


def run_ours(title: str, scheduler: str, each: int, overrides: list[str], work: Path, common: Common) -> dict[str, Any]:
    """A row for our search."""
    folder = work / title.replace(", ", "-")
    folder.mkdir()
    own = [
        f"sampler={{name: 'against:Replay', file: '{work / 'listed.json'}'}}",
        f"scheduler.name={scheduler}",
        f"recipes_each={each}",
        f"budget.trials={len(common.listed)}",
        "retrain.top=0",
    ]
    whole_s = run([sys.executable, "-m", "kdnas_ray", "search", *overrides, *own, "--out", "run"], folder)
    rows = [json.loads(line) for line in (folder / "run/candidates.jsonl").read_text().splitlines()]
    kept = [{name: row[name] for name in ("id", "architecture", "recipe", "seed")} for row in rows]
    asked = [{name: value for name, value in row.items() if name != "params"} for row in common.listed]
    if sorted(kept, key=lambda row: row["id"]) != asked:
        raise AssertionError(f"{title}: not the candidates of the list")
    ended = [{**row, "at": row["ended_s"]} for row in rows]
    return row_of(title, ended, 0.0, whole_s, common)


def run_other(what: str, python: Path, work: Path, common: Common) -> dict[str, Any]:
    """A row for another contestant."""
    folder = work / what
    (folder / "lines").mkdir(parents=True)
    whole_s = run([str(python), str(Path(__file__).resolve()), "--contestant", what, "--work", str(work)], folder)
    ended = []
    for candidate in common.listed:
        # A killed process may leave a line unfinished.
        whole = (folder / "lines" / f"{candidate['id']}.jsonl").read_text().rpartition("\n")[0]
        ended.append(json.loads(whole.splitlines()[-1]))
    return row_of(what, ended, float((folder / "begin").read_text()), whole_s, common)


def run(command: list[str], folder: Path) -> float:
    """Seconds that the command took, run in the folder."""
    begin = time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        code = subprocess.run(command, cwd=folder, stdout=output, stderr=output).returncode
    if code:
        sys.exit(f"{' '.join(command)} failed with {code}:\n{(folder / 'output.txt').read_text()[-3000:]}")
    return time.perf_counter() - begin


def row_of(title: str, ended: list[dict[str, Any]], begin: float, whole_s: float, common: Common) -> dict[str, Any]:
    """The numbers of one contestant; `ended` holds the last that is known of each candidate."""
    wall, train_s = max(one["at"] for one in ended) - begin, sum(one["train_s"] for one in ended)
    complete = [one["val_accuracy"] for one in ended if one["epochs"] == common.rungs[-1]]
    epochs = sum(one["epochs"] for one in ended)
    return {
        "contestant": title,
        "wall s": wall,
        "train s": train_s,
        "utilisation": train_s / (WORKERS * wall),
        "best": max(complete, default=None),
        "trained in full": len(complete),
        "epochs": epochs,
        "ms an epoch": 1000 * wall / epochs,
        "whole s": whole_s,
    }


# ---- Ours: a sampler by import path ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """Proposes the candidates of a file in their order.

    Args:
        file: written by `prepare`.
    """

    file: str

    def make(self, seed: int, constraints: Any, around: Any = None) -> Any:
        """The Optuna sampler."""
        from kdnas_ray.samplers.base import Planner, Point

        decisions = [row["params"] for row in json.loads(Path(self.file).read_text())]

        class InOrder(Planner):  # a planner, or random draws that keep the bounds would take its architectures' place
            def plan(self, history: Any, rng: random.Random) -> Point:
                raise NotImplementedError("each decision is known")

            def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
                return decisions[trial.number][param_name]

        return InOrder(seed, constraints, around)


# ---- The others: each in a process of its own ------------------------------------------------------------------------


def trained(common: Common, listed: dict[str, Any], lines: Path, epochs: Iterable[int]) -> Iterator[float]:
    """Trains a candidate, and says its validation accuracy after each of `epochs`; writes a line down for each."""
    import torch

    from trainables.candidate import Candidate, build_model
    from trainables.layout import to_channels_last
    from trainables.loop import DivergedError, Normalise, start, train

    torch.set_num_threads(1)
    candidate, bank, normalise = Candidate.from_json(listed), common.bank, Normalise(common.mean, common.std)
    # As `trainables.distill.open_training`, whose module needs Ray.
    model = build_model(common.space, candidate.architecture, bank.shape, common.outputs, candidate.seed)
    model = to_channels_last(model) if common.channels_last else model
    training = start(model, candidate.recipe, bank, seed=candidate.seed, total_epochs=common.rungs[-1])
    with (lines / f"{candidate.id}.jsonl").open("a") as file:
        for epoch in epochs:
            try:
                accuracy = train(training, bank, common.validation, common.task, normalise, epoch)[-1]["val_accuracy"]
            except DivergedError:
                accuracy = 0.0
            said = {"epochs": training.epoch, "val_accuracy": accuracy, "train_s": training.train_s, "at": time.time()}
            file.write(json.dumps(said) + "\n")
            file.flush()
            yield accuracy
            if training.epoch < epoch:
                return


def optuna_main(what: str, work: Path, number: None) -> None:
    """Optuna alone: fill the study, start its workers."""
    import optuna

    study = optuna.create_study(storage=f"sqlite:///{work / what}/study.db", study_name="alone", direction="maximize")
    for listed in load(work).listed:
        study.enqueue_trial(listed["params"])
    (work / what / "begin").write_text(repr(time.time()))
    command = [sys.executable, __file__, "--contestant", "optuna-worker", "--work", str(work)]
    workers = [subprocess.Popen(command) for _ in range(WORKERS)]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        sys.exit("a worker failed")


def optuna_worker(what: str, work: Path, number: None) -> None:
    """One of its processes."""
    import optuna

    common = load(work)

    def objective(trial: optuna.Trial) -> float:
        if trial.number >= len(common.listed):  # nothing of the list is left
            trial.study.stop()
            raise optuna.TrialPruned
        listed = common.listed[trial.number]
        architecture, recipe = common.space.suggest(trial), common.recipes.suggest(trial)
        assert architecture.to_json() == listed["architecture"]
        assert recipe.to_json() == listed["recipe"]
        accuracy = 0.0
        rungs = common.rungs
        for rung, accuracy in zip(rungs, trained(common, listed, work / "optuna/lines", rungs), strict=False):
            trial.report(accuracy, rung)
            if rung < rungs[-1] and trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=common.rungs[0], reduction_factor=3)
    study = optuna.load_study(study_name="alone", storage=f"sqlite:///{work}/optuna/study.db", pruner=pruner)
    study.optimize(objective)


def ray_main(what: str, work: Path, number: None) -> None:
    """Ray Tune alone."""
    import ray
    from ray import tune

    common, lines = load(work), work / what / "lines"
    last = common.rungs[-1]

    def train_one(config: dict[str, Any], common: Common) -> None:
        for accuracy in trained(common, common.listed[config["number"]], lines, range(1, last + 1)):
            tune.report({"val_accuracy": accuracy})

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False)
    asha = tune.schedulers.ASHAScheduler(
        time_attr="training_iteration", grace_period=common.rungs[0], reduction_factor=3, max_t=last
    )
    tuner = tune.Tuner(
        tune.with_parameters(train_one, common=common),
        param_space={"number": tune.grid_search(list(range(len(common.listed))))},
        tune_config=tune.TuneConfig(metric="val_accuracy", mode="max", scheduler=asha),
        run_config=tune.RunConfig(storage_path=str(work / what / "results")),
    )
    (work / what / "begin").write_text(repr(time.time()))
    tuner.fit()


def syne_main(what: str, work: Path, number: None) -> None:
    """Syne Tune."""
    os.environ["SYNETUNE_FOLDER"] = str(work / what / "results")
    from syne_tune import Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import randint
    from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving
    from syne_tune.optimizer.schedulers.searchers.last_value_multi_fidelity_searcher import (
        LastValueMultiFidelitySearcher,
    )

    class InOrder(LastValueMultiFidelitySearcher):
        def suggest(self, **further: Any) -> dict[str, Any] | None:
            return self._next_points_to_evaluate()

    common = load(work)
    last = len(common.listed) - 1
    space = {"number": randint(0, last), "contestant": f"{what}-trial", "work": str(work)}
    points = [{"number": number} for number in range(last + 1)]
    asha = AsynchronousSuccessiveHalving(
        space,
        metric="val_accuracy",
        do_minimize=False,
        searcher=InOrder(space, points_to_evaluate=points),
        time_attr="epoch",
        grace_period=common.rungs[0],
        reduction_factor=3,
        max_t=common.rungs[-1],
    )
    tuner = Tuner(
        LocalBackend(entry_point=__file__),
        asha,
        stop_criterion=lambda status: False,  # it ends with the list
        n_workers=WORKERS,
        sleep_time=POLL_S[what],
    )
    (work / what / "begin").write_text(repr(time.time()))
    tuner.run()


def syne_trial(what: str, work: Path, number: str) -> None:
    """One of its trials."""
    from syne_tune import Reporter

    common, report = load(work), Reporter()
    epochs, lines = range(1, common.rungs[-1] + 1), work / what.removesuffix("-trial") / "lines"
    for epoch, accuracy in zip(epochs, trained(common, common.listed[int(number)], lines, epochs), strict=False):
        report(epoch=epoch, val_accuracy=accuracy)


CONTESTANTS = {
    "optuna": optuna_main,
    "optuna-worker": optuna_worker,
    "ray": ray_main,
    "syne-tune": syne_main,
    "syne-tune-default": syne_main,
    "syne-tune-trial": syne_trial,
    "syne-tune-default-trial": syne_trial,
}

if __name__ == "__main__":
    main()
