"""Which share of the workers' time goes into training, and into nothing else?

A search runs; then the same training loops (the same candidates, each for the epochs it had) run bare: plain PyTorch
in as many processes as the search had workers, without Ray, Optuna or MLflow, each taking the next candidate when it
is done. The figure: seconds inside the bare loops, summed, over workers x wall time of the search phase.

    python benchmarks/utilisation.py digits      # 200 candidates, rungs of a second and less
    python benchmarks/utilisation.py long-rungs  # rungs of two seconds and more
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

SETTINGS = {
    "digits": ["budget.trials=200"],
    "long-rungs": ["budget.trials=30", "scheduler.max_epochs=81", "scheduler.grace_epochs=20"],
}


def main() -> None:
    """Search, repeat the loops bare, print a row for the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides")
    chosen = parser.parse_args()
    overrides = [*SETTINGS[chosen.setting], "retrain.top=0", *chosen.set]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["KDNAS_CACHE"] = str(work / "cache")
        command = [sys.executable, "-m", "kdnas_ray", "search", *overrides, "--out", "run"]
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((work / "run" / "summary.json").read_text())
        rows = [json.loads(line) for line in (work / "run" / "candidates.jsonl").read_text().splitlines()]
        trained = sorted((row for row in rows if row["epochs"]), key=lambda row: row["started_s"])
        state = json.loads((work / "run" / "state.json").read_text())
        bare = run_bare(work / "run", trained, summary["workers"], state["channels_last"])
    rung_s = [row["train_s"] * summary["rungs"][0] / row["epochs"] for row in trained]
    available = summary["workers"] * summary["search_wall_s"]
    row = {
        "setting": chosen.setting,
        "candidates": len(trained),
        "first_rung_s": round(median(rung_s), 2),
        "bare_s": round(sum(bare), 1),
        "in_search_s": round(summary["train_s"], 1),
        "workers_x_wall_s": round(available, 1),
        "bare/available": round(sum(bare) / available, 3),
        "in_search/available": round(summary["utilisation"], 3),
    }
    print("| " + " | ".join(row) + " |")
    print("| " + " | ".join(str(value) for value in row.values()) + " |")


def run_bare(run: Path, rows: list[dict[str, Any]], workers: int, channels_last: bool) -> list[float]:
    """Seconds inside the training loop of each candidate, trained again in plain processes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_open, initargs=(run, channels_last)) as pool:
        return pool.map(_train, rows, chunksize=1)


def _open(run: Path, channels_last: bool) -> None:
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
        bank=bank, validation=data.validation, task=config.task, space=config.space, mean=data.mean, std=data.std,
        classes=len(data.classes), rungs=config.scheduler.rungs(), checkpoints=str(run), channels_last=channels_last,
    )  # fmt: skip


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
