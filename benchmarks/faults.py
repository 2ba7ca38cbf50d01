"""What does a fault cost a search: does it survive, is a candidate lost, how long until the next result?

Each try is a small search on digits of its own, in processes of its own (`FAULTS` lists how each is hurt). Seconds run
from the fault to the next result, a rung or an end, that is written down in the run folder; where the search itself
ended, they go on through `kdnas resume`, begun as soon as the search was gone. One worker, so that the next result is
that of the candidate that was hit, or the one after it. `survived` counts tries after which every candidate has one
line, none has two and `kdnas doctor` finds nothing; `candidates lost` are those without a line and failed ones, except
one a try where the fault is the candidate's own (a hang, memory).
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from nodes import Cluster, Machine, Node, cluster
from record import tell

from kdnas_ray.doctor import examine
from kdnas_ray.runs import read_jsonl

ROOT = Path(__file__).resolve().parents[1]
TRIALS = 5
RUNG_S = 10
PATIENCE_S = 300.0
LOOK_S = 0.02
SEARCH: dict[str, Any] = {
    "teachers": [{"name": "trained", "stem": 8, "widths": [16, 32], "depths": [1, 1], "epochs": 2, "views": 1}],
    "space": {"name": "resnet", "stages": 2, "stem_widths": [4, 8], "widths": [4, 8], "depths": [1]},
    "recipes": {"name": "simple", "hints": [False]},
    "scheduler": {"name": "asha", "max_epochs": 9, "grace_epochs": 3, "reduction_factor": 3},
    "sampler": "random",
    "constraints": {},
    "budget": {"trials": TRIALS},
    "resources": {"workers": 1, "layout": "contiguous"},
    "retrain": {"top": 0},
    "bank": {"views": 1},
    "tracking": {"enabled": False},
}


@dataclass
class Try:
    """One search that is hurt.

    Args:
        folder: for everything of it.
        env: of its processes.
        own: candidates that the fault itself ends.
        found: what the doctor found, where he was asked already.
        process: that works on the run now.
    """

    folder: Path
    env: dict[str, str]
    own: int = 0
    found: list[str] | None = None
    process: subprocess.Popen[bytes] | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    def kdnas(self, *words: str) -> subprocess.Popen[bytes]:
        """Start it; what it prints goes to a file."""
        with (self.folder / "out").open("ab") as out:
            command = [sys.executable, "-m", "kdnas_ray", *words]
            self.process = subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=out, stderr=out)
        self.processes.append(self.process)
        return self.process

    def search(self, **changes: Any) -> None:
        """Start the search."""
        config = SEARCH | changes | {"resources": SEARCH["resources"] | changes.get("resources", {})}
        (self.folder / "kdnas.yaml").write_text(yaml.safe_dump(config))
        self.kdnas("search", "kdnas.yaml", "--out", "run")

    def results(self) -> int:
        """Rungs and ends that are written down."""
        return sum(row["type"] in ("rung", "candidate_ended") for row in read_jsonl(self.run / "tracking.jsonl"))

    def until(self, holds: Callable[[], Any]) -> float:
        """Wait for it; returns when it held."""
        assert self.process is not None
        end = time.time() + PATIENCE_S
        while not holds():
            if self.process.poll() is not None or time.time() > end:
                if holds():
                    break
                raise TimeoutError((self.folder / "out").read_text()[-2000:])
            time.sleep(LOOK_S)
        return time.time()

    def next_result(self) -> float:
        """When the next result is there."""
        known = self.results()
        return self.until(lambda: self.results() > known)

    def resumed(self) -> float:
        """When a resume has its first result, begun when the process on the run is gone."""
        assert self.process is not None
        self.process.wait(PATIENCE_S)
        known = self.results()
        self.kdnas("resume", "run")
        return self.until(lambda: self.results() > known)


def in_worker(fault: str, own: int = 0, **resources: Any) -> Callable[[Try], float]:
    """What a worker does to itself, see `faulty`."""

    def hurt(tried: Try) -> float:
        tried.own = own
        task = {"name": "benchmarks.faulty:Faulty", "fault": fault, "folder": str(tried.folder), "after": 80}
        tried.search(task=task, resources=resources)
        marker = tried.folder / f"{fault}-0"
        tried.until(marker.exists)
        return tried.next_result() - marker.stat().st_mtime

    return hurt


def driver_killed(tried: Try) -> float:
    """`kill -9` of the search; what Ray leaves running ends by itself."""
    tried.search()
    tried.until(lambda: tried.results() >= 2)
    assert tried.process is not None
    tried.process.kill()
    begin = time.time()
    return tried.resumed() - begin


def raylet_killed(tried: Try) -> float:
    """`kill -9` of the search's own raylet."""
    tried.search()
    tried.until(lambda: tried.results() >= 2)
    assert tried.process is not None
    children = psutil.Process(tried.process.pid).children(recursive=True)
    next(child for child in children if child.name() == "raylet").kill()
    begin = time.time()
    return tried.resumed() - begin


@contextlib.contextmanager
def ray_of(tried: Try) -> Iterator[Cluster]:
    """A cluster that the try's search runs on."""
    (folder := tried.folder / "ray").mkdir()
    with cluster(folder) as made:
        tried.env |= made.key | {"RAY_ADDRESS": f"127.0.0.1:{made.port}"}
        yield made
        if tried.process is not None:
            tried.process.wait(PATIENCE_S)


def machine_killed(tried: Try) -> float:
    """`kill -9` of all processes of the one machine of three that trains."""
    with ray_of(tried) as made:
        head = made.head(Machine(), 0)
        nodes = [made.worker(head, Machine(), 1) for _ in range(2)]
        tried.search()

        def training() -> Node | None:
            return next((node for node in nodes if node.named("Trainable")), None)

        tried.until(lambda: tried.results() >= 2 and training())
        node = training()
        assert node is not None
        begin = time.time()
        node.kill()
        return tried.next_result() - begin


def head_killed(tried: Try) -> float:
    """`kill -9` of all processes of the head; a new one is started on its port when the search has ended."""
    with ray_of(tried) as made:
        head = made.head(Machine(), 1)
        tried.search()
        tried.until(lambda: tried.results() >= 2)
        begin = time.time()
        head.kill()
        assert tried.process is not None
        tried.process.wait(PATIENCE_S)
        made.head(Machine(), 1)
        return tried.resumed() - begin


@contextlib.contextmanager
def tracking_server(tried: Try, port: int) -> Iterator[str]:
    """An MLflow on this machine, with its address; killed when the context ends."""
    store = f"sqlite:///{tried.folder / 'mlflow.db'}"
    words = ("-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port), "--workers", "1")
    with (tried.folder / "server").open("a") as log:
        server = psutil.Popen([sys.executable, *words], cwd=tried.folder, stdout=log, stderr=log)
    try:
        end = time.time() + PATIENCE_S
        while time.time() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(LOOK_S)
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in [*server.children(recursive=True), server]:
            process.kill()
        server.wait(30)


def mlflow_killed(tried: Try) -> float:
    """`kill -9` of the tracking server; when the search is over, it is started again and told."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tracking_server(tried, port) as uri:
        tried.search(tracking={"uri": uri})
        tried.until(lambda: tried.results() >= 2)
    took = -time.time() + tried.next_result()
    assert tried.process is not None
    tried.process.wait(PATIENCE_S)
    with tracking_server(tried, port):
        tried.kdnas("sync", "run").wait(PATIENCE_S)
        tried.found = findings(tried.run)
    return took


FAULTS: dict[str, Callable[[Try], float]] = {
    "worker killed in a step": in_worker("kill"),
    "worker killed in a save": in_worker("kill_in_save"),
    "worker told to go": in_worker("told_to_go"),
    f"training hangs (rung_s={RUNG_S})": in_worker("hang", own=1, rung_s=RUNG_S),
    "memory exhausted": in_worker("out_of_memory", own=1),
    "driver killed, then resume": driver_killed,
    "raylet killed, then resume": raylet_killed,
    "machine of a cluster killed": machine_killed,
    "head killed, then resume": head_killed,
    "MLflow killed, back after the search": mlflow_killed,
}


def findings(run: Path) -> list[str]:
    """What the doctor finds, in words."""
    return [f"{finding.where}: {finding.what}" for finding in examine(run)]


def tries(name: str, count: int, folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """One line of the table."""
    seconds, survived, lost = [], 0, 0
    for number in range(count):
        tried = Try(folder / f"{list(FAULTS).index(name)}-{number}", dict(env))
        tried.folder.mkdir()
        try:
            seconds.append(FAULTS[name](tried))
            assert tried.process is not None
            tried.process.wait(PATIENCE_S)
            rows = [row for row in read_jsonl(tried.run / "candidates.jsonl") if row["state"] != "rejected"]
            names, failed = {row["id"] for row in rows}, sum(row["state"] == "failed" for row in rows)
            found = findings(tried.run) if tried.found is None else tried.found
            lost += (missing := TRIALS - len(names) + failed - tried.own)
            survived += len(rows) == len(names) and missing == 0 and not found
            print(f"{name}: {seconds[-1]:.1f} s, {missing} lost, doctor: {found}", file=sys.stderr, flush=True)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            print(f"{name}: {error}", file=sys.stderr)
        finally:
            for process in tried.processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    for child in psutil.Process(process.pid).children(recursive=True):
                        child.kill()
                process.kill()
                process.wait(30)
    return {
        "fault": name,
        "tried": count,
        "survived": survived,
        "candidates lost": lost,
        "seconds to the next result": statistics.median(seconds) if seconds else None,
        "least": min(seconds, default=None),
        "most": max(seconds, default=None),
    }


def main() -> None:
    """Hurt searches and tell what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of faults")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    names = [name for name in FAULTS if not given.only or any(part in name for part in given.only)]
    with tempfile.TemporaryDirectory(prefix="kdnas-faults-") as folder:
        env = {"KDNAS_CACHE": str(Path(folder) / "cache"), **kept, "PYTHONPATH": str(ROOT)}
        tell([tries(name, given.tries, Path(folder), env) for name in names], given.out)


if __name__ == "__main__":
    main()
