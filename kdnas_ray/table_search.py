"""How does a search run on a table of results? Planned and ended here; proposed, scheduled and told like any other."""

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdnas_ray import tracking
from kdnas_ray.analysis.pareto import rank_candidates
from kdnas_ray.config import SearchConfig
from kdnas_ray.feasible import check_constraints
from kdnas_ray.hardware.costs import Costs, cost_function
from kdnas_ray.hardware.lookup import by_name
from kdnas_ray.objectives import UNSUPPORTED, limits
from kdnas_ray.prepare import Plan, check_prefilter, check_sampler
from kdnas_ray.runs import append_jsonl, read_jsonl, read_teacher_facts
from search_spaces import Architecture, KdnasError, sample
from search_spaces.notation import notation, parse
from trainables.evaluators.table import COSTS, Results, SharedTable, Table, read_table
from trainables.files import replace_text

MISSING = f"{UNSUPPORTED}/table"  # 1 for an architecture, or a latency to be optimised, that the table does not hold
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
    columns = _columns(config, results)
    needed = [columns[name] for name in config.objectives if name in columns]
    whole = not results.classes and all(_holds(entry, needed) for entry in results.entries.values())
    costs = _costs(config, settings, results, columns, None if whole else needed)
    text, _ = results.best()
    reference = costs(parse(config.space, text))
    bounds = limits(config.constraints, reference) | ({} if whole else {MISSING: 0.0})
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
    return TablePlan(
        config, settings.data(), reference, bounds, (), {}, False, costs, {}, lambda architecture: {}, {}, results
    )


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


def _holds(entry: Mapping[str, Any], columns: Iterable[str]) -> bool:
    return bool(entry) and all(entry.get(column) is not None for column in columns)


def _columns(config: SearchConfig, results: Results) -> dict[str, str]:
    """Columns of latencies by the full names of what they hold.

    Raises:
        KdnasError: one holds something else, or memory is meant on a device that is one.
    """
    held = {column for entry in results.entries.values() for column in entry}
    columns = {f"latency_ms/{name}": f"latency_ms_{name}" for name in config.devices if f"latency_ms_{name}" in held}
    _check_columns(config, columns, results)
    return columns


def _costs(
    config: SearchConfig, settings: Table, results: Results, columns: Mapping[str, str], needed: Sequence[str] | None
) -> Callable[[Any], Costs]:
    """Numbers of an architecture: those that the table holds, others counted and modelled.

    Args:
        config: of the search.
        settings: of the table.
        results: the table.
        columns: see `_columns`.
        needed: those without which an architecture counts as missing; None where the table misses nothing.

    Raises:
        KdnasError: a device is neither a column of the table nor known otherwise.
    """
    others = [name for name in config.devices if f"latency_ms/{name}" not in columns]
    modelled = cost_function(config.space, settings.shape, settings.classes, by_name(others))
    known: dict[Architecture, Costs] = {}

    def costs(architecture: Architecture) -> Costs:
        if architecture not in known:
            entry = results.entries.get(results.find(config.space, architecture) or "", {})
            counted = all(name in entry for name in COSTS)
            found: Costs = {name: int(entry[name]) for name in COSTS} if counted else {}
            found = found if counted and not others else modelled(architecture) | found
            if needed is not None:
                found = found | {MISSING: 0.0 if _holds(entry, needed) else 1.0}
            for name, column in columns.items():  # what the table lacks is rejected
                device = name.partition("/")[2]
                milliseconds = entry.get(column)
                milliseconds = math.inf if milliseconds is None else float(milliseconds)
                found = found | {name: milliseconds, f"{UNSUPPORTED}/{device}": 0.0}
            known[architecture] = found
        return known[architecture]

    return costs


def _check_columns(config: SearchConfig, columns: Mapping[str, str], results: Results) -> None:
    for name, column in columns.items():
        memory = f"memory_mb/{name.partition('/')[2]}"
        if memory in (*config.constraints, *config.objectives):
            raise KdnasError(
                "the table knows a device's latencies only",
                field=memory,
                value=column,
                remedy="leave it out, or name a device that has a profile (`kdnas device list`)",
            )
        for text, entry in results.entries.items():
            value = entry.get(column)
            if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
                raise KdnasError(
                    f"{column} of {text} is no positive number",
                    field="evaluator.path",
                    value=value,
                    remedy="mend it, or leave it out: what has no latency is not trained",
                )
