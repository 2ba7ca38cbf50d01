"""Which share of the workers' time goes into training, and into nothing else?

A search runs (`kdnas search`, MLflow on, no finalists). Then the same training loops run bare: the candidates that it
trained, each for the epochs that it had, by `trainables.loop.train` in plain processes, as many as the search had
workers, 1 torch thread each; no Ray, Optuna, MLflow, checkpoints. Each process opens the bank once and takes the next
candidate when it is done with one; only the seconds inside `train` count, not building the network.

`utilisation` = bare seconds, summed / (workers x wall time of the search phase). The search phase begins when the
first proposal is about to be made (Ray runs, the bank lies in its store) and ends with the last candidate, the start
of the first workers included. `in the search` is the sum of the same loops as the search itself timed them: what it
has above the bare sum, the loops lost to processes beside them on the same cores.

    python benchmarks/utilisation.py digits      # 200 candidates; goal: at least 0.8
    python benchmarks/utilisation.py long-rungs  # rungs of 2 s and more; goal: at least 0.90
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from record import tell

SETTINGS = {
    "digits": ["budget.trials=200"],
    "long-rungs": ["budget.trials=30", "scheduler.max_epochs=81", "scheduler.grace_epochs=20"],
}


def main() -> None:
    """Search, repeat the loops bare, print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    overrides = [*SETTINGS[chosen.setting], "retrain.top=0", *chosen.set]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "kdnas_ray", "search", *overrides, "--out", "run"]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)
        summary, state = (json.loads((run / name).read_text()) for name in ("summary.json", "state.json"))
        rows = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
        trained = sorted((row for row in rows if row["epochs"]), key=lambda row: row["started_s"])
        bare = sum(run_bare(run, trained, summary["workers"], state["channels_last"]))
    rungs = rung_seconds(trained, summary["rungs"])
    available = summary["workers"] * summary["search_wall_s"]
    row = {
        "setting": chosen.setting,
        "candidates": len(trained),
        "rung s, median": median(rungs),
        "rung s, shortest": min(rungs),
        "workers": summary["workers"],
        "search phase s": summary["search_wall_s"],
        "bare s": bare,
        "in the search s": summary["train_s"],
        "utilisation": bare / available,
        "loops in the search / (workers x wall)": summary["train_s"] / available,
    }
    tell([row], chosen.out, overrides=overrides)


def run_bare(run: Path, rows: Sequence[dict[str, Any]], workers: int, channels_last: bool) -> list[float]:
    """Seconds inside the training loop of each candidate, trained again in plain processes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_open, initargs=(run, channels_last)) as pool:
        return pool.map(_train, rows, chunksize=1)


def rung_seconds(rows: Sequence[dict[str, Any]], rungs: Sequence[int]) -> list[float]:
    """Seconds of every rung that was trained; the epochs of a candidate are taken as equally long."""
    return [
        row["train_s"] / row["epochs"] * (high - low)
        for row in rows
        for low, high in pairwise([0, *rungs])
        if high <= row["epochs"]
    ]


def _open(run: Path, channels_last: bool) -> None:
    """Once a process: the bank, from the cache where the search left it."""
    global shared
    import torch

    from kdnas_ray.config import read
    from kdnas_ray.prepare import knowledge, plan
    from kdnas_ray.runs import read_config
    from trainables.distill import Shared

    made = plan(read(read_config(run)))
    _, bank = knowledge(made, run, lambda text: None)
    torch.set_num_threads(1)
    data, config = made.data, made.config
    shared = Shared(
        bank=bank,
        validation=data.validation,
        task=config.task,
        space=config.space,
        mean=data.mean,
        std=data.std,
        classes=len(data.classes),
        rungs=config.scheduler.rungs(),
        checkpoints=str(run),
        channels_last=channels_last,
    )


def _train(row: dict[str, Any]) -> float:
    from trainables.candidate import Candidate
    from trainables.distill import open_training
    from trainables.loop import Normalise, train

    training = open_training(shared, Candidate.from_json(row), shared.rungs[-1])
    normalise = Normalise(shared.mean, shared.std)
    train(training, shared.bank, shared.validation, shared.task, normalise, row["epochs"])
    return training.train_s


if __name__ == "__main__":
    main()
