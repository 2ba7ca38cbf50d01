"""Does one driver keep many workers busy?

A search on a table whose trainings sleep: everything that the product does runs (Ray Tune, the adapter, the study and
the run folder on disk, MLflow on SQLite, ASHA, TPE), but a rung costs no processor, only `--rung-s` seconds, give or
take half of them, as the candidate's seed says. So many more workers than cores can be had, each a process of Ray, four
on each node of a cluster that is imitated on this machine.

From the moment when the last worker has begun until the first candidate that need not sleep, `asleep`: `utilisation` is
the seconds slept by (workers x wall), `results a s` the rungs that were reported, `driver cores` the processor time of
the driver, all its threads, by the wall, `driver ms a result` by the rungs. Then the same search goes on without sleep
for `--fast` more candidates; `fast`, from a tenth of them on: as many results a second as the driver takes here.
`phase: ms a trial` is the driver's processor time of the whole search by its candidates, starting included. Raylets,
workers and the sender to MLflow share the same cores, so a driver that waits for its turn looks worse than it is.

Below: the driver's time for a result without sleep, on average and, where it grows with the workers, along that line,
and what follows for more workers: a driver is one interpreter, which fills about one core.

    python benchmarks/growth.py --rung-s 5
    python benchmarks/growth.py --rung-s 1 --workers 2 4 --fast 50   # a trial of the script
"""

import argparse
import contextlib
import io
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from overhead import made_up, settings
from ray.cluster_utils import Cluster
from record import tell
from rich.console import Console

from kdnas_ray import driver
from kdnas_ray.config import read
from kdnas_ray.environment import TUNE_SETTINGS
from kdnas_ray.live import Narrator
from trainables.evaluators.table import SharedTable, TableTrial

NODE = 4  # workers of a node
LOOK_S = 0.1
WANTED = (128, 512)  # workers to extrapolate to


class Sleeper(TableTrial):
    """A trial of the table that takes its time, where its candidate is among the first."""

    rung_s = 0.0
    first = 0
    log = ""

    def setup(self, config: dict[str, Any], shared: SharedTable) -> None:
        """Called once an actor."""
        self.file = Path(self.log) / f"{os.getpid()}"
        super().setup(config, shared)

    def step(self) -> dict[str, Any]:
        """Sleep, look up; when, is written beside the search, not into it."""
        begin, sleeps = time.time(), int(self.candidate.id[1:]) < self.first
        if sleeps:
            time.sleep(self.rung_s * random.Random(self.candidate.seed + self.rung).uniform(0.5, 1.5))
        with self.file.open("a") as file:
            file.write(f"{begin} {time.time()} {int(sleeps)}\n")
        return super().step()


def main() -> None:
    """Search with more and more workers; print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rung-s", type=float, default=5.0, help="mean seconds of a rung")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=4, help="candidates of each worker that sleep")
    parser.add_argument("--fast", type=int, default=250, help="candidates that do not")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    os.environ.update(TUNE_SETTINGS)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        table.write_text(json.dumps(made_up()))
        for workers in chosen.workers:
            row = searched(table, workers, chosen.rounds * workers, chosen.fast, chosen.rung_s)
            rows.append(row)
            print(f"{workers} workers: {row['whole s']:.0f} s", file=sys.stderr)
    tell(rows, chosen.out, rung_s=chosen.rung_s)
    if len(rows) > 1:
        tell(extrapolated(rows, chosen.rung_s), None)


def searched(table: Path, workers: int, slow: int, fast: int, rung_s: float) -> dict[str, Any]:
    """One search on a cluster of its own."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, cluster(workers, folder):
        log = Path(folder) / "log"
        log.mkdir()
        Sleeper.rung_s, Sleeper.first, Sleeper.log = rung_s, slow, str(log)
        driver.TableTrial = Sleeper  # type: ignore[misc]
        tracking = {"tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}}
        config = read(settings(table, workers, slow + fast) | tracking, [])
        with processor_time() as used:
            driver.search(config, Path(folder) / "run", Narrator(Console(file=io.StringIO())))
        state = json.loads((Path(folder) / "run" / "state.json").read_text())
        steps = [np.loadtxt(file, ndmin=2) for file in log.iterdir()]
    trace, every = np.array(used), np.concatenate(steps)
    asleep = every[:, 2] == 1
    start, quick = float(max(times[0, 0] for times in steps)), float(every[~asleep, 0].min())
    ended = float(every[:, 1].max())
    awake = np.sort(every[~asleep, 1])
    slept = float((every[asleep, :2].clip(start, quick) @ [-1, 1]).sum())
    at_work = driver_in(trace, every[:, 1], start, quick)
    at_full = driver_in(trace, every[:, 1], float(awake[len(awake) // 10]), float(awake[-1]))
    phase = np.diff(np.interp([ended - state["search_wall_s"], ended], *trace.T))[0]
    return {
        "workers": workers,
        "began": len(steps),
        "candidates": slow + fast,
        "asleep s": quick - start,
        "utilisation": slept / (workers * (quick - start)),
        **{f"asleep: {name}": value for name, value in at_work.items()},
        **{f"fast: {name}": value for name, value in at_full.items()},
        "phase: ms a trial": 1000 * float(phase) / (slow + fast),
        "phase s": state["search_wall_s"],
        "sampling s": state["work"]["sampling_s"],
        "writing s": state["work"]["writing_s"],
        "whole s": time.perf_counter() - begin,
    }


def driver_in(trace: np.ndarray, ends: np.ndarray, since: float, until: float) -> dict[str, float]:
    """What the driver did between two times of day.

    Args:
        trace: rows of (time of day, processor seconds).
        ends: time of day of each result.
        since: the first.
        until: the second.
    """
    wall, results = until - since, int(((ends > since) & (ends <= until)).sum())
    spent = float(np.diff(np.interp([since, until], *trace.T))[0])
    return {
        "results a s": results / wall,
        "driver cores": spent / wall,
        "driver ms a result": 1000 * spent / results if results else 0.0,
    }


@contextlib.contextmanager
def cluster(workers: int, folder: str) -> Iterator[None]:
    """Nodes of four workers each, and this process as their driver."""
    # Else the file by which a plain `ray.init()` finds a running Ray would lead others on this machine to this one.
    os.environ["RAY_TMPDIR"] = folder
    nodes = Cluster()
    try:
        for first in range(0, workers, NODE):
            size = min(NODE, workers - first)
            nodes.add_node(num_cpus=size, include_dashboard=False, object_store_memory=2**27)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="WARNING")
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()


@contextlib.contextmanager
def processor_time() -> Iterator[list[tuple[float, float]]]:
    """Time of day and processor seconds of this process, again and again."""
    seen: list[tuple[float, float]] = []
    over, process = threading.Event(), psutil.Process()

    def watch() -> None:
        while not over.wait(LOOK_S):
            used = process.cpu_times()
            seen.append((time.time(), used.user + used.system))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def extrapolated(rows: list[dict[str, Any]], rung_s: float) -> list[dict[str, Any]]:
    """What more workers would ask of the driver, which one interpreter keeps to about one core."""
    costs = [row["fast: driver ms a result"] for row in rows]
    slope, constant = (float(value) for value in np.polyfit([row["workers"] for row in rows], costs, 1))
    lines = {"mean of the rows": (float(np.mean(costs)), 0.0)}
    if slope > 0:
        lines["line through the rows"] = (constant, slope)
    found = []
    for name, (level, rising) in lines.items():
        # workers / rung_s x (level + rising x workers) ms a second fill one core.
        most = max(root.real for root in np.roots([rising, level, -1000 * rung_s]))
        found += [
            {
                "ms a result": name,
                "workers": workers,
                "results a s wanted": workers / rung_s,
                "driver ms a result": level + rising * workers,
                "driver cores": (level + rising * workers) * workers / rung_s / 1000,
                "workers that fill one core": round(float(most)),
            }
            for workers in WANTED
        ]
    return found


if __name__ == "__main__":
    main()
