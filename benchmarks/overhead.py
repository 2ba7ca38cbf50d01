"""What does a candidate cost beside its training?

A search on a table, which trains nothing, with everything else on: Ray Tune with two workers, the study and the run
folder on disk, MLflow on SQLite, ASHA, counting of parameters and FLOPs. The table holds all 62,208 networks of a space
of small residual networks, with accuracies that are made up, as nothing here depends on them. `ms a trial` is the time
from the first candidate's end to the last one's by the number between them (starting workers is left out); `first`,
`last`: the same within the first and the last thousand. Beside it, in the same call, the floor that Ray Tune sets: the
same trainable, reused actors, nothing but Ray's own random variants, no logger, no snapshot.

    python benchmarks/overhead.py --trials 1000
    python benchmarks/overhead.py --trials 10000
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune
from record import tell

from kdnas_ray.environment import TUNE_SETTINGS

WORKERS = 2
RUNGS = (12, 48)
CHOICES = {"depths": (1, 2, 3), "widths": (4, 6, 8, 12, 16, 20, 24, 32), "kernels": (3, 5)}
BLOCKS = ("basic", "bottleneck", "separable")
STEMS = (4, 8, 16)


def main() -> None:
    """Search the table, run the floor, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--floor", type=int, default=1000, help="trials of the floor; 0 for none")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        table.write_text(json.dumps(made_up()))
        rows = [searched(table, sampler, chosen.trials) for sampler in chosen.samplers]
    if chosen.floor:
        rows.append(floor(chosen.floor))
    tell(rows, chosen.out, trials=chosen.trials, workers=WORKERS)


def made_up() -> dict[str, dict[str, float]]:
    """An accuracy at each rung for every network of the space."""
    traits = [(f"stage{stage}.{trait[:-1]}", choices) for stage in (1, 2) for trait, choices in CHOICES.items()]
    names = ["stem.width", *(name for name, _ in traits), "stage1.block", "stage2.block"]
    everything = itertools.product(STEMS, *(choices for _, choices in traits), BLOCKS, BLOCKS)
    draw = random.Random(0)
    table = {}
    for decisions in everything:
        last = draw.uniform(0.5, 1.0)
        entry = {f"at_{RUNGS[0]}": draw.uniform(0.8, 1.0) * last, f"at_{RUNGS[1]}": last}
        table[json.dumps(dict(zip(names, decisions, strict=True)))] = entry
    return table


def settings(table: Path, workers: int, trials: int) -> dict[str, Any]:
    """A search on the table, with the default sampler."""
    return {
        "space": {"name": "resnet", "stages": 2, "stem_widths": STEMS, "blocks": BLOCKS, **CHOICES},
        "evaluator": {
            "name": "table",
            "path": str(table),
            "metric": f"at_{RUNGS[1]}",
            "rungs": {str(rung): f"at_{rung}" for rung in RUNGS},
            "shape": (1, 8, 8),
        },
        "scheduler": {"name": "asha", "max_epochs": RUNGS[-1], "grace_epochs": RUNGS[0], "reduction_factor": 4},
        "budget": {"trials": trials},
        "resources": {"workers": workers},
        "retrain": {"top": 0},
    }


def searched(table: Path, sampler: str, trials: int) -> dict[str, Any]:
    """One search as a user starts it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kdnas.json").write_text(json.dumps(settings(table, WORKERS, trials) | {"sampler": sampler}))
        command = [sys.executable, "-m", "kdnas_ray", "search", "kdnas.json", "--out", "run"]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        begun = time.perf_counter()
        with (
            subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=environment) as process,
            memory_of(process.pid) as peak,
        ):
            process.wait()
        if process.returncode:
            sys.exit(process.returncode)
        whole = time.perf_counter() - begun
        lines = (Path(folder) / "run" / "candidates.jsonl").read_text().splitlines()
        ended = [row["ended_s"] for row in map(json.loads, lines) if row["state"] != "rejected"]
    return {
        "what": f"search, {sampler}",
        "trials": len(ended),
        "proposals": len(lines),
        "ms a trial": pace(ended),
        "first thousand": pace(ended[:1000]),
        "last thousand": pace(ended[-1000:]),
        "whole command s": whole,
        "driver, largest MB": max(peak) / 2**20,
    }


def pace(ended: list[float]) -> float:
    """Milliseconds between one end and the next, on average."""
    return 1000 * (ended[-1] - ended[0]) / (len(ended) - 1)


@contextlib.contextmanager
def memory_of(pid: int) -> Iterator[list[int]]:
    """Resident bytes of a process, every half second."""
    seen, over = [0], threading.Event()

    def watch() -> None:
        process = psutil.Process(pid)
        while not over.wait(0.5):
            with contextlib.suppress(psutil.Error):
                seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


class Nothing(tune.Trainable):
    """Reports two rungs and keeps nothing."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        return {"val_accuracy": 0.5, "done": self.iteration == len(RUNGS) - 1}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass


class Ends(tune.Callback):
    """Notes when each trial ends."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.ended.append(time.perf_counter())


def floor(trials: int) -> dict[str, Any]:
    """Ray Tune alone."""
    os.environ.update(TUNE_SETTINGS)
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    ends, begun = Ends(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(Nothing, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True, max_concurrent_trials=WORKERS),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[ends]),
        ).fit()
    whole = time.perf_counter() - begun
    ray.shutdown()
    return {
        "what": "Ray Tune alone",
        "trials": len(ends.ended),
        "proposals": len(ends.ended),
        "ms a trial": pace(ends.ended),
        "first thousand": pace(ends.ended[:1000]),
        "last thousand": pace(ends.ended[-1000:]),
        "whole command s": whole,
        "driver, largest MB": psutil.Process().memory_info().rss / 2**20,
    }


if __name__ == "__main__":
    main()
