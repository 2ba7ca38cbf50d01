"""What is written down while a search runs, so that nothing computed is ever lost?

`candidates.jsonl` gets one whole line as each candidate ends, `tracking.jsonl` every event for MLflow,
`state.json` the time spent. The Optuna study holds what is still running.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdnas_ray import tracking
from kdnas_ray.objectives import LEARNED
from kdnas_ray.runs import append_jsonl, read_jsonl, read_state, write_state
from kdnas_ray.spent import Work
from trainables.candidate import Candidate
from trainables.checkpoints import Checkpoints
from trainables.loop import Point

SAVE_S = 1.0  # at most so much of a killed session's time is not counted
ENDED = ("complete", "pruned", "failed", "rejected")


@dataclass
class Progress:
    """Where a search stands; the live panel draws it."""

    budget: int | None
    rungs: tuple[int, ...]
    workers: int = 1
    teacher_accuracy: float | None = None
    running: int = 0
    waiting: int = 0  # at a rung, where nobody is stopped at once
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDED, 0))
    reached: dict[int, int] = field(default_factory=dict)
    stopped: dict[int, int] = field(default_factory=dict)
    best: tuple[float, str, int] | None = None
    begin: float = field(default_factory=time.perf_counter)
    ended_before: int = 0
    wall_budget_s: float | None = None

    @property
    def trained(self) -> int:
        """Candidates that ended after training: complete, pruned or failed."""
        return sum(self.ended.values()) - self.ended["rejected"]


def given_numbers(run: Path, names: Iterable[str]) -> set[int]:
    """The numbers that candidates of the run were given: no others may get them.

    Args:
        run: its folder; what was begun and did not end is told by its checkpoints and by what MLflow is told.
        names: of those that ended.
    """
    begun = [record["id"] for record in read_jsonl(run / tracking.OUTBOX) if record.get("type") == "candidate_started"]
    folders = [path.name for path in (run / "trials").glob("c*")]
    return {int(name[1:]) for name in (*names, *begun, *folders) if name[1:].isdigit()}


def unfinished(run: Path, ended: Iterable[str]) -> dict[str, Any] | None:
    """Candidates that were begun and go on when the run is resumed; None where there are none.

    Args:
        run: its folder.
        ended: names of those that ended.

    Returns:
        `candidates`, how many; `at_a_rung`, how many of them were told a result; `best` of those, None where there are
        none: `id`, `epoch` and `val_accuracy`.
    """
    known, begun, last = set(ended), set(), dict[str, dict[str, Any]]()
    for record in read_jsonl(run / tracking.OUTBOX):
        if record.get("type") == "candidate_started" and record["id"] not in known:
            begun.add(record["id"])
        elif record.get("type") == "rung" and record["id"] in begun:
            last[record["id"]] = record["curve"][-1]
    if not begun:
        return None
    best = max(last, key=lambda name: last[name]["val_accuracy"], default=None)
    found = {name: last[best][name] for name in ("epoch", "val_accuracy")} | {"id": best} if best else None
    return {"candidates": len(begun), "at_a_rung": len(last), "best": found}


class Journal:
    """Writes down every event of the search phase of one run.

    Args:
        run: the run folder.
        progress: kept up to date for the live panel.
        checkpoints: of candidates that did not end; in the run folder where none are given.
    """

    def __init__(self, run: Path, progress: Progress, checkpoints: Checkpoints | None = None) -> None:
        self.run, self.progress = run, progress
        self.checkpoints = checkpoints or Checkpoints(str(run / "trials"))
        self.rows: dict[str, dict[str, Any]] = {}
        state = read_state(run)
        self._earlier_s, self.work = state.get("search_wall_s", 0.0), Work.of(state)
        self._begin, self._saved = time.perf_counter(), -math.inf
        self._costs: dict[str, Mapping[str, float]] = {}
        self._started_s: dict[str, float] = {}
        self._handed_s: dict[str, float] = {}  # the last time, where a candidate is handed out again
        self._trained_s: dict[str, float] = {}
        self._sent: dict[str, int] = {}
        self._last_step: dict[str, tuple[Any, Any]] = {}
        for row in read_jsonl(run / "candidates.jsonl"):
            self._count(row)
            self._reached_before(row["epochs"])
        progress.ended_before = progress.trained

    def search_s(self) -> float:
        """Seconds of the search phase so far, over all sessions."""
        return self._earlier_s + time.perf_counter() - self._begin

    def started(self, candidate: Candidate, costs: Mapping[str, float], reported: int = 0) -> None:
        """A candidate was handed to Ray Tune; `reported` epochs of it were written down in an earlier session."""
        self._costs[candidate.id], self._handed_s[candidate.id] = costs, self.search_s()
        self._started_s.setdefault(candidate.id, self.search_s())
        self.progress.running += 1
        if candidate.id in self._sent:  # its worker died and it goes on in another
            return
        self._sent[candidate.id] = reported
        self._reached_before(reported)
        if reported == 0:
            data = candidate.to_json()
            params = {**data["architecture"], **flat(data["recipe"]), "seed": candidate.seed}
            record = {"type": "candidate_started", "params": params, "metrics": dict(costs), **data}
            tracking.append(self.run, record)

    def rung(self, candidate: Candidate, curve: Sequence[Point]) -> None:
        """A candidate reached a rung; only epochs that are new are sent on."""
        known = self._sent[candidate.id]
        new = [point for point in curve if point["epoch"] > known]
        if not new:
            return
        epoch = int(new[-1]["epoch"])
        self._sent[candidate.id] = epoch
        self.progress.reached[epoch] = self.progress.reached.get(epoch, 0) + 1
        tracking.append(self.run, {"type": "rung", "id": candidate.id, "epoch": epoch, "curve": new})

    def ended(
        self,
        candidate: Candidate,
        state: str,
        curve: Sequence[Point],
        train_s: float,
        reason: str | None = None,
    ) -> dict[str, Any]:
        """A candidate ended; returns its line in candidates.jsonl."""
        learned = {name: curve[-1][name] for name in LEARNED if curve and name in curve[-1]}
        row = candidate.to_json() | {
            "state": state,
            "epochs": len(curve),
            "val_accuracy": None,
            **learned,
            **self._costs.get(candidate.id, {}),
            "curve": list(curve),
            "reason": reason,
            "train_s": train_s,
            "started_s": self._started_s.get(candidate.id),
            "ended_s": self.search_s(),
        }
        append_jsonl(self.run / "candidates.jsonl", row)
        self.progress.running -= 1
        self._count(row)
        tracking.append(self.run, self._end_record(row))
        if time.perf_counter() - self._saved > SAVE_S:
            self.save_time()
        self.checkpoints.drop(candidate.id)
        return row

    def stepped(self, candidate: Candidate, result: Mapping[str, Any]) -> None:
        """A worker reported a step of a candidate; `result` as Ray Tune hands it on."""
        step = result.get("trial_id"), result.get("training_iteration")
        if "time_this_iter_s" in result and self._last_step.get(candidate.id) != step:  # Tune may tell the last again
            self._last_step[candidate.id] = step
            worker, saving = f"{result['hostname']}:{result['pid']}", result.get("save_s", 0.0)
            ago = self.search_s() - self._handed_s[candidate.id]
            trained = result.get("train_s", 0.0)
            new = max(0.0, trained - self._trained_s.get(candidate.id, 0.0))
            self._trained_s[candidate.id] = trained
            self.work.stepped(worker, result["time_this_iter_s"], saving, new, ago)

    def rejected(self, candidate: Candidate, costs: Mapping[str, float], reason: str) -> None:
        """A candidate was not trained; the reason says why (a constraint, a judge, trained already)."""
        now = self.search_s()
        row = candidate.to_json() | {
            "state": "rejected",
            "epochs": 0,
            "val_accuracy": None,
            **costs,
            "curve": [],
            "reason": reason,
            "train_s": 0.0,
            "started_s": now,
            "ended_s": now,
        }
        append_jsonl(self.run / "candidates.jsonl", row)
        self._count(row)

    def sweep(self) -> None:
        """Delete checkpoints of candidates that ended: a worker of a killed session may have written one since."""
        for folder in (self.run / "trials").glob("c*"):
            if folder.name in self.rows:
                self.checkpoints.drop(folder.name)

    def suspended(self) -> None:
        """A candidate was interrupted: it stays open and goes on later."""
        self.progress.running -= 1

    def save_time(self) -> None:
        """Keep the time spent, so that a killed session counts too."""
        self._saved = time.perf_counter()
        times = {"search_wall_s": self.search_s(), "work": self.work.to_json()}
        write_state(self.run, {**read_state(self.run), **times})

    def _end_record(self, row: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("id", "state", "epochs", "val_accuracy", "reason")
        progress = self.progress
        so_far = {
            "best_val_accuracy": progress.best[0] if progress.best else None,
            "rejected": progress.ended["rejected"],
        }
        return {
            "type": "candidate_ended",
            **{key: row[key] for key in kept},
            "candidates": progress.trained,
            "progress": so_far,
        }

    def _reached_before(self, epochs: int) -> None:
        for rung in self.progress.rungs:
            if rung <= epochs:
                self.progress.reached[rung] = self.progress.reached.get(rung, 0) + 1

    def _count(self, row: dict[str, Any]) -> None:
        self.rows[row["id"]] = row
        progress = self.progress
        progress.ended[row["state"]] += 1
        if row["state"] == "pruned":
            progress.stopped[row["epochs"]] = progress.stopped.get(row["epochs"], 0) + 1
        if row["state"] == "complete":
            found = (row["val_accuracy"], row["id"], row["params"])
            if progress.best is None or (found[0], -found[2]) > (progress.best[0], -progress.best[2]):
                progress.best = found


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested data as one level with dotted keys."""
    if isinstance(data, Mapping):
        items = [(str(key), value) for key, value in data.items()]
    elif isinstance(data, (list, tuple)) and data and isinstance(data[0], Mapping):
        items = [(str(index), value) for index, value in enumerate(data)]
    else:
        return {prefix: json.dumps(data) if isinstance(data, (list, tuple)) else data}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{prefix}.{key}" if prefix else key)
    return found
