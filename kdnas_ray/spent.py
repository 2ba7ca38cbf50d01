"""Where did the wall time of a run go?

The driver times its phases into state.json. How the workers spent the search phase follows from what Ray Tune reports
of every step of a trial: what is neither starting, nor inside a step, is idle.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table as Grid

from kdnas_ray.runs import read_jsonl, read_state, require_run, write_state

WIDTH = 30  # of a bar on the terminal
# Phases outside the search phase, in the order in which they come.
BEFORE = {
    "data": "reading data, planning",
    "teacher": "training or reading the teachers",
    "bank": "asking them about every sample, or reading what they said",
    "ray": "starting Ray, filling its object store",
    "evaluator": "preparing a judge: shared weights, blocks",
}
AFTER = {
    "finalists": "retraining the best, with and without the teacher",
    "closing": "summary, report, waiting for MLflow",
}


@dataclass(frozen=True)
class Part:
    """A part of the wall time: its name, its seconds, and what was done in them."""

    name: str
    seconds: float
    what: str


@dataclass
class Work:
    """How the search phase went, in seconds summed over workers, and over the driver's own work beside them."""

    starting_s: float = 0.0
    steps_s: float = 0.0
    saving_s: float = 0.0
    training_s: float = 0.0
    sampling_s: float = 0.0
    writing_s: float = 0.0
    _workers: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Work":
        """What earlier sessions kept in state.json."""
        return cls(**state.get("work", {}))

    def to_json(self) -> dict[str, float]:
        """What state.json keeps."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}

    def stepped(self, worker: str, seconds: float, saving: float, training: float, since_handed: float) -> None:
        """A worker reported a step.

        Args:
            worker: host and process.
            seconds: the step took.
            saving: of these, for its checkpoint.
            training: of these, in the training loop; more where they are simulated.
            since_handed: ago the candidate was given to Ray Tune; a worker's first step waited for its start.
        """
        self.steps_s += seconds
        self.saving_s += saving
        self.training_s += min(training, seconds - saving)
        if worker not in self._workers:
            self._workers.add(worker)
            self.starting_s += max(0.0, since_handed - seconds)

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """The driver draws the next proposal."""
        begin = time.perf_counter()
        yield
        self.sampling_s += time.perf_counter() - begin

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The driver writes down what a worker reported."""
        begin = time.perf_counter()
        yield
        self.writing_s += time.perf_counter() - begin


@contextlib.contextmanager
def spending(run: Path, phase: str) -> Iterator[None]:
    """What happens inside counts for that phase of the run."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        spend(run, phase, time.perf_counter() - begin)


def spend(run: Path, phase: str, seconds: float) -> None:
    """Add to what a phase of the run took so far, over all sessions."""
    state = read_state(run)
    spent = state.get("spent", {})
    write_state(run, {**state, "spent": {**spent, phase: spent.get(phase, 0.0) + seconds}})


def profile(run: Path, rows: Sequence[Mapping[str, Any]] | None = None) -> list[Part]:
    """Parts of the run's wall time in the order in which they come; the search phase is divided among its workers.

    Args:
        run: its folder.
        rows: lines of candidates.jsonl, where they were read already.

    Raises:
        KdnasError: not a run folder.
    """
    require_run(run)
    state = read_state(run)
    spent = state.get("spent", {})
    parts = [Part(name, spent[name], what) for name, what in BEFORE.items() if name in spent]
    known = read_jsonl(run / "candidates.jsonl") if rows is None else rows
    parts += _search(state, sum(row["train_s"] for row in known))
    return parts + [Part(name, spent[name], what) for name, what in AFTER.items() if name in spent]


def sessions_said(run: Path) -> str:
    """Whose seconds the parts are, in a sentence; empty where one session ended in order."""
    state = read_state(run)
    sessions, killed = state.get("sessions", 1), state.get("killed", 0)
    if state.get("open"):
        return "The search runs, or was killed: its last seconds, and phases that have not ended, are not in here."
    if sessions == 1:
        return ""
    lost = f"; {killed} of them killed, whose last seconds and open phases are not in here" if killed else ""
    return f"Summed over {sessions} sessions of the run{lost}."


def profile_table(parts: list[Part]) -> Grid:
    """The parts with a bar each."""
    whole = sum(part.seconds for part in parts) or 1.0
    grid = Grid(box=None, pad_edge=False)
    for title, side in (("part", "left"), ("s", "right"), ("share", "right"), ("", "left"), ("what", "left")):
        grid.add_column(title, justify=side)  # type: ignore[arg-type]
    for part in parts:
        share = part.seconds / whole
        grid.add_row(part.name, f"{part.seconds:,.1f}", f"{share:.1%}", "█" * round(WIDTH * share), part.what)
    grid.add_row("in all", f"{whole:,.1f}", "", "", "")
    return grid


def _search(state: Mapping[str, Any], train_s: float) -> list[Part]:
    workers, wall_s, work = state.get("workers"), state.get("search_wall_s"), Work.of(state)
    if not workers or not wall_s:
        return []
    training = work.training_s or min(train_s, work.steps_s - work.saving_s)  # a run of an older version
    preparing = work.steps_s - work.saving_s - training
    # Before the first step all workers are starting, and none has said so yet.
    starting = work.starting_s if work.steps_s else workers * wall_s
    idle = max(0.0, workers * wall_s - starting - work.steps_s)
    busy = f"; meanwhile the driver drew proposals for {work.sampling_s:.1f} s and wrote for {work.writing_s:.1f} s"
    shares = (
        ("starting", starting, "a worker's process, until its first step begins"),
        ("training", training, "training loops of the candidates, their validation included"),
        ("preparing", preparing, "building networks, taking up checkpoints, waiting for the measuring slot"),
        ("saving", work.saving_s, "checkpoints at rungs"),
        ("idle", idle, "workers without a candidate" + busy),
    )
    return [Part(name, seconds / workers, what) for name, seconds, what in shares]
