"""What the tests of the adapter share: a search without Ray, called as Ray Tune's loop calls it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from kdnas_ray.adapter import Stop, StudyAdapter
from kdnas_ray.journal import Journal, Progress
from kdnas_ray.runs import read_jsonl
from search_spaces import Architecture
from trainables.candidate import Candidate
from trainables.recipe import SimpleRecipes

RUNGS = (1, 3)


@dataclass(frozen=True)
class Widths:
    """A space of one decision, whose cost is known by hand."""

    largest: int = 10

    def suggest(self, trial: Any) -> Architecture:
        return Architecture.of({"width": trial.suggest_int("width", 1, self.largest)})

    def build(self, *_: Any) -> Any: ...
    def taps(self) -> tuple[str, ...]:
        return ()


def costs_of(architecture: Architecture) -> dict[str, int]:
    width = int(architecture["width"])
    return {"params": 100 * width, "flops": 1000 * width}


class Session:
    """One process of a search: an adapter on a study and a run folder that outlive it."""

    def __init__(self, run: Path, study: optuna.Study, objectives: Sequence[str], **options: Any) -> None:
        self.run, self.study, self.stop = run, study, Stop()
        self.progress = Progress(budget=options.get("trials", 4), rungs=RUNGS)
        self.journal = Journal(run, self.progress)
        self.adapter = StudyAdapter(
            study,
            journal=self.journal,
            stop=self.stop,
            objectives=objectives,
            **({"space": Widths(), "recipes": SimpleRecipes(), "costs": costs_of, "bounds": {}} | {"rungs": RUNGS}
               | {"trials": 4, "seed": 0} | options),
        )  # fmt: skip

    def ask(self, trial_id: str) -> Candidate:
        found = self.adapter.suggest(trial_id)
        assert isinstance(found, dict)
        self.reported, self.given = found["reported"], found
        return Candidate.from_json(found["candidate"])

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in read_jsonl(self.run / "candidates.jsonl")}

    def trial(self, number: int) -> optuna.trial.FrozenTrial:
        return self.study.trials[number]
