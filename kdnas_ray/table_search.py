"""How does a search run on a table of results? Planned and ended here; proposed, scheduled and told like any other."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdnas_ray import tracking
from kdnas_ray.adapter import check_constraints
from kdnas_ray.analysis.pareto import rank_candidates
from kdnas_ray.config import SearchConfig
from kdnas_ray.hardware.costs import Costs, cost_function
from kdnas_ray.hardware.lookup import by_name
from kdnas_ray.objectives import UNSUPPORTED, limits
from kdnas_ray.prepare import Plan, check_prefilter, check_sampler
from kdnas_ray.runs import append_jsonl, read_jsonl, read_teacher_facts
from search_spaces import Architecture, KdnasError, sample
from search_spaces.notation import notation, parse
from trainables.evaluators.table import COSTS, Results, SharedTable, Table, read_table
from trainables.files import replace_text

MISSING = f"{UNSUPPORTED}/table"  # 1 for an architecture that an incomplete table does not hold
TRIED = 200  # random architectures of which the table must hold one


@dataclass(frozen=True)
class TablePlan(Plan):
    """A checked search on a table; the table's best architecture stands where others have a teacher.

    Args:
        results: the table.
    """

    results: Results

    def identity(self, architecture: Architecture) -> str:
        """What the table calls it: two lines of a table are two results, though their networks be the same."""
        return self.results.find(self.config.space, architecture) or super().identity(architecture)

    @property
    def shared(self) -> SharedTable:
        """What every trial reads."""
        config = self.config
        return SharedTable(self.results, config.space, config.scheduler.rungs(), config.evaluator.epoch_s)


def plan_table(config: SearchConfig) -> TablePlan:
    """The checked search.

    Raises:
        KdnasError: table, space or constraints do not fit together.
    """
    settings: Table = config.evaluator
    check_prefilter(config)
    results = read_table(settings, config.space, config.scheduler.max_epochs)
    costs = _costs(config, settings, results)
    text, _ = results.best()
    reference = costs(parse(config.space, text))
    bounds = limits(config.constraints, reference) | ({MISSING: 0.0} if results.classes else {})
    rng = random.Random(config.seed)

    def draw() -> Architecture:
        for _ in range(TRIED):
            architecture = sample(config.space, rng)
            if results.find(config.space, architecture):
                return architecture
        raise KdnasError(
            f"the table holds none of {TRIED} architectures drawn from the space, such as",
            field="evaluator.path",
            value=notation(config.space, architecture),
            remedy="narrow the space to what the table holds",
        )

    check_constraints(draw, costs, bounds)
    check_sampler(config, costs)
    return TablePlan(config, settings.data(), reference, bounds, (), {}, costs, results)


def write_reference(run: Path, made: TablePlan) -> float:
    """Write the table's best architecture where other runs describe their teacher; returns its validation accuracy."""
    results = made.results
    known = read_teacher_facts(run)
    if known.get("digest", results.digest) != results.digest:
        raise KdnasError(
            "the table is another than the one that this search began with",
            field="evaluator.path",
            value=str(made.config.evaluator.path),
            remedy="put the old one back, or start a new search",
        )
    text, entry = results.best()
    accuracy = results.accuracy(entry, list(results.columns.values())[-1])
    facts = {
        "name": f"best of the table, {text}",
        "digest": results.digest,
        "data": made.data.digest(),
        "val_accuracy": accuracy,
        "accuracy": results.accuracy(entry, results.test),
        **made.teacher_costs,
    }
    replace_text(run / "teacher.json", json.dumps(facts, indent=2) + "\n")
    return accuracy


def score_finalists(run: Path, made: TablePlan, top: int) -> None:
    """Look the best `top` candidates up in the finalists' column, once; a line each in retrained.jsonl."""
    config, results = made.config, made.results
    rows = rank_candidates(read_jsonl(run / "candidates.jsonl"), config.objectives)
    done = {row["id"] for row in read_jsonl(run / "retrained.jsonl")}
    last = list(results.columns.values())[-1]
    for row in [row for row in rows if row["state"] == "complete"][:top]:
        if row["id"] in done:
            continue
        entry = results.entry(config.space, Architecture.of(row["architecture"]))
        scores = {
            "val_accuracy": results.accuracy(entry, last),
            "test_accuracy": results.accuracy(entry, results.test),
        }
        facts = {"id": row["id"], "seed": row["seed"], "repeat": 0, "with_kd": True, "epochs": row["epochs"]}
        append_jsonl(run / "retrained.jsonl", facts | scores | {"train_s": 0.0, "curve": []})
        tracking.append(run, {"type": "retrained", "id": row["id"], "repeat": 0, "with_kd": True, **scores})


def _costs(config: SearchConfig, settings: Table, results: Results) -> Callable[[Any], Costs]:
    """Numbers of an architecture: those that the table holds, others counted and modelled.

    Raises:
        KdnasError: a device is neither a column of the table nor known otherwise.
    """
    columns = {f"latency_ms/{name}": f"latency_ms_{name}" for name in config.devices}
    some = next(iter(results.entries.values()))
    columns = {name: column for name, column in columns.items() if column in some}
    others = [name for name in config.devices if f"latency_ms/{name}" not in columns]
    modelled = cost_function(config.space, settings.shape, settings.classes, by_name(others))
    known: dict[Architecture, Costs] = {}
    whole = not results.classes

    def costs(architecture: Architecture) -> Costs:
        if architecture not in known:
            entry = results.entries.get(results.find(config.space, architecture) or "", {})
            counted = all(name in entry for name in COSTS)
            found: Costs = {name: int(entry[name]) for name in COSTS} if counted else {}
            found = found if counted and not others else modelled(architecture) | found
            if not whole:
                found = found | {MISSING: 0.0 if entry else 1.0}
            for name, column in columns.items():  # what the table lacks is rejected
                device = name.partition("/")[2]
                found = found | {name: entry.get(column, math.inf), f"{UNSUPPORTED}/{device}": 0.0}
            known[architecture] = found
        return known[architecture]

    return costs
