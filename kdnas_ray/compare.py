"""How do several runs differ, in what they were told and in what came out?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from kdnas_ray.journal import flat
from kdnas_ray.objectives import number
from kdnas_ray.results import beyond_size
from kdnas_ray.runs import read_config, read_summary, require_run
from search_spaces.errors import KdnasError

Row = dict[str, Any]
BEST = ("val_accuracy", "test_accuracy", "test_accuracy_std", "test_accuracy_without_kd", "params", "flops")


def compare(runs: Sequence[Path]) -> list[Row]:
    """One row a run: counts, times, the teacher's and the best student's figures (None where not known yet).

    Raises:
        KdnasError: fewer than two folders, or one that no search made.
    """
    if len(runs) < 2:
        raise KdnasError(
            "at least two runs are needed", field="RUN", value=", ".join(map(str, runs)), remedy="kdnas compare RUN RUN"
        )
    rows = [_row(run) for run in runs]
    devices = dict.fromkeys(name for row in rows for name in row if "/" in name)
    return [row | {name: row.get(name) for name in devices} for row in rows]


def differences(runs: Sequence[Path]) -> dict[str, list[Any]]:
    """Configuration keys (dotted) whose values differ, each with the value of every run.

    Raises:
        KdnasError: a folder that no search made.
    """
    configs = [flat(read_config(run)) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: [config.get(name) for config in configs] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def comparison_table(rows: Sequence[Row], differing: Mapping[str, Sequence[Any]]) -> Table:
    """Runs as columns: results first, then the configuration keys that differ."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    for row in rows:
        table.add_column(escape(row["run"]), justify="right", overflow="fold")
    for name in rows[0]:
        if name != "run":
            table.add_row(
                name.replace("_", " "), *(escape(said(name, row[name], row["targets"] == "values")) for row in rows)
            )
    if differing:
        table.add_section()
        for name, values in differing.items():
            table.add_row(f"[dim]{escape(name)}[/dim]", *(escape(str(value)) for value in values))
    return table


def _row(run: Path) -> Row:
    require_run(run)
    summary = read_summary(run)
    best, teacher = summary.get("best") or {}, summary.get("teacher") or {}
    counted = ("trials", "completed", "pruned", "failed", "rejected", "search_wall_s", "utilisation", "kendall_tau")
    return {
        "run": str(run),
        "status": summary.get("status"),
        "metric": summary.get("metric"),
        "targets": summary.get("targets"),
        **{name: summary.get(name) for name in counted},
        "teacher_accuracy": teacher.get("accuracy"),
        "teacher_params": teacher.get("params"),
        **{f"best_{name}": best.get(name) for name in BEST},
        **{
            f"{whose}_{name}": found.get(name)
            for name in beyond_size(summary.get("objectives") or [], summary.get("constraints") or {})
            for whose, found in (("teacher", teacher), ("best", best))
        },
    }


def said(name: str, value: Any, plain: bool) -> str:
    """A figure of a run as text, by its name; `plain` scores are no shares of 1."""
    if value is None:
        return "–"
    if "accuracy" in name or name == "utilisation":
        return f"{value:.4f}" if plain and name != "utilisation" else f"{value:.2%}"
    if "/" in name:
        return number(value)
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
