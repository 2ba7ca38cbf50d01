"""Do the run folder, the Optuna study and MLflow say the same of a search, and how are they brought to agree?

The run folder is the truth: what stands in candidates.jsonl ended as it says there, and the two others are told again.
Nothing that was computed is deleted. What is still open is no fault: `kdnas resume` takes it up.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.table import Table as Grid

from kdnas_ray import results, tracking
from kdnas_ray.adapter import STATES, number_of, tell
from kdnas_ray.config import SearchConfig
from kdnas_ray.journal import ENDED, given_numbers
from kdnas_ray.kept_config import run_config
from kdnas_ray.objectives import LEARNED
from kdnas_ray.runs import lock, parse_jsonl, read_jsonl, read_state, require_run, write_state
from kdnas_ray.study import (
    GIVEN_BACK,
    begun,
    directions,
    has_study,
    lost,
    open_study,
    own_trials,
    quiet_optuna,
    read_study,
    study_file,
)
from search_spaces.errors import KdnasError, first_line
from trainables.checkpoints import Checkpoints
from trainables.distill import CHECKPOINT
from trainables.files import replace_text
from trainables.lineup import clear_lineups, lineups
from trainables.model_files import is_whole

NO_COSTS = ("candidate", "claim", "curve", "excess", "same_as", "search", "train_s")
Rows = Mapping[str, Mapping[str, Any]]  # lines of candidates.jsonl by the candidate's name


@dataclass(frozen=True)
class Finding:
    """Something that does not agree.

    Args:
        where: `run folder`, `study`, `MLflow` or `checkpoints`.
        what: is wrong, in words.
        mend: brings it in order; None where only a person can.
        remedy: what that person can do.
    """

    where: str
    what: str
    mend: Callable[[], Any] | None = field(default=None, compare=False)
    remedy: str = ""


def examine(run: Path) -> list[Finding]:
    """What does not agree in a run on which nobody works.

    Raises:
        KdnasError: not a run folder, or another process works on it.
    """
    require_run(run)
    with lock(run):
        return _found(run)


def repair(run: Path) -> tuple[list[Finding], list[Finding]]:
    """Mend what can be mended; returns what was found, and what is left.

    Raises:
        KdnasError: as `examine`; RunError: the tracking store does not take what it is sent.
    """
    require_run(run)
    with lock(run):
        found = left = _found(run)
        tried: list[Finding] = []  # once each: what does not help will not help again
        while mendable := [finding for finding in left if finding.mend is not None and finding not in tried]:
            tried.append(mendable[0])
            mendable[0].mend()  # type: ignore[misc]
            left = _found(run)  # what was mended may have to be told to another
            found += [finding for finding in left if finding not in found]
        return found, left


def findings_table(found: list[Finding]) -> Grid:
    """The findings for a terminal."""
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("where", "what", "remedy"):
        grid.add_column(title)
    for finding in found:
        grid.add_row(finding.where, finding.what, "--repair" if finding.mend else finding.remedy)
    return grid


def _found(run: Path) -> list[Finding]:
    config = run_config(run)
    rows = {row["id"]: row for row in read_jsonl(run / "candidates.jsonl") if row.get("state") in ENDED}
    return [
        *_of_folder(run),
        *_of_study(run, config, rows),
        *_of_checkpoints(run, rows),
        *_of_mlflow(run, config, rows),
    ]


def _of_folder(run: Path) -> Iterator[Finding]:
    path = run / "candidates.jsonl"
    if path.exists():
        content = path.read_bytes()
        rows, lines = parse_jsonl(content), content.count(b"\n")
        if broken := max(0, lines - len(rows)):
            yield Finding("run folder", f"{_lines(broken)} of candidates.jsonl cannot be read", lambda: _rewrite(path))
        if double := len(rows) - len({row["id"] for row in rows}):
            yield Finding(
                "run folder", f"{_lines(double)} of candidates.jsonl repeat a candidate", lambda: _rewrite(path)
            )
    if (run / "state.json").exists() and not read_state(run):
        yield Finding(
            "run folder", "state.json cannot be read: the time spent so far is not known", lambda: _ended(run)
        )


def _rewrite(path: Path) -> None:
    """Keep the first line of each candidate; what is left out stays beside the file."""
    content = path.read_bytes()
    path.with_name(f"{path.name}.before-repair").write_bytes(content)
    rows: dict[str, dict[str, Any]] = {}
    for row in parse_jsonl(content):
        rows.setdefault(row["id"], row)
    replace_text(path, "".join(json.dumps(row) + "\n" for row in rows.values()))


def _ended(run: Path) -> None:
    write_state(run, {**read_state(run), "status": "interrupted"})


def _of_study(run: Path, config: SearchConfig, rows: Rows) -> Iterator[Finding]:
    file, numbers = study_file(run), given_numbers(run, rows)
    if not has_study(run):
        if rows:
            what = f"there is no {file} beside {_count(len(rows))}"
            yield Finding("study", what, lambda: _add(run, config, rows, numbers))
        return
    try:
        study = read_study(run)
        own = own_trials(study) if study is not None else []
    except KdnasError as error:  # of a database
        yield Finding("study", f"{error.problem} ({error.field} = {error.value})", remedy=error.remedy)
        return
    except (ValueError, KeyError, TypeError, optuna.exceptions.OptunaError) as error:
        remedy = "put back a copy of it; `kdnas report` and `kdnas export` still read the run"
        yield Finding("study", f"{file} cannot be read ({first_line(error)})", remedy=remedy)
        return
    trials = {f"c{trial.number:04d}": trial for trial in own}
    untold = [row for name, row in rows.items() if name in trials and not trials[name].state.is_finished()]
    if untold:
        what = f"{_count(len(untold))} ended and the study does not know"
        yield Finding("study", what, lambda: _tell(run, config, untold))
    unborn = [name for name, trial in trials.items() if _unborn(trial) and name not in rows]
    if unborn:
        what = f"{_count(len(unborn))} were being proposed when the process died"
        yield Finding("study", what, lambda: _fail(run, config, unborn))
    if missing := lost(study, numbers) if study is not None else sorted(numbers):
        what = f"{_count(len(missing))} missing (the study was cut, or is an older copy)"
        yield Finding("study", what, lambda: _add(run, config, rows, numbers))
    told = {name: trial for name, trial in trials.items() if trial.state.is_finished()}
    unwritten = [trial for name, trial in told.items() if name not in rows and "candidate" in trial.user_attrs]
    unwritten = [trial for trial in unwritten if GIVEN_BACK not in trial.user_attrs]
    if unwritten:
        what = f"{_count(len(unwritten))} that the study knows as ended have no line in candidates.jsonl"
        yield Finding("run folder", what, lambda: _write(run, unwritten))
    other = [
        name
        for name, trial in told.items()
        if name in rows
        and rows[name]["state"] != "rejected"
        and trial.state is not STATES[rows[name]["state"]]
        and GIVEN_BACK not in trial.user_attrs
    ]
    if other:
        what = f"{_count(len(other))} ended otherwise than the run folder says: {', '.join(other[:5])}"
        remedy = "the run folder counts; the sampler of a resumed search is misled by these"
        yield Finding("study", what, remedy=remedy)


def _unborn(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.RUNNING and "candidate" not in trial.user_attrs


def _study(run: Path, config: SearchConfig) -> optuna.Study:
    return open_study(run, RandomSampler(), config.objectives, directions(config.objectives))


def _tell(run: Path, config: SearchConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    with quiet_optuna():
        study = _study(run, config)
        trials = {trial.number: trial for trial in own_trials(study)}
        for row in rows:
            begun(study, trials[number_of(row["id"])])
            tell(study, row, config.objectives)


def _fail(run: Path, config: SearchConfig, names: list[str]) -> None:
    with quiet_optuna():
        study = _study(run, config)
        for name in names:
            study.tell(number_of(name), state=TrialState.FAIL)


def _add(run: Path, config: SearchConfig, rows: Rows, numbers: Collection[int]) -> None:
    """Give the study the trials it lost, so that no number is given away twice.

    As failed ones, with their curves: ASHA needs those, and no sampler can learn from trials without their decisions. A
    number that no line names was being trained: it is lost. A study that other searches share gives other numbers than
    they had.
    """
    with quiet_optuna():
        study = _study(run, config)
        for number in lost(study, numbers):
            attributes: dict[str, Any] = {GIVEN_BACK: number}
            if (row := rows.get(f"c{number:04d}")) is not None:
                candidate = {name: row[name] for name in ("id", "architecture", "recipe", "seed")}
                attributes |= {"candidate": candidate, "curve": row["curve"]}
            study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
        while len(study.get_trials(deepcopy=False)) <= max(numbers, default=-1):
            study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={GIVEN_BACK: -1}))


def _write(run: Path, trials: list[FrozenTrial]) -> None:
    """Lines for candidates whose own were lost; training time and when they ran are not known any more."""
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    path = run / "candidates.jsonl"
    kept = path.read_bytes() if path.exists() else b""
    if kept and not kept.endswith(b"\n"):
        kept += b"\n"
    lines = []
    for trial in trials:
        attributes = trial.user_attrs
        curve, state = attributes.get("curve", []), states[trial.state]
        if "same_as" in attributes or (state == "pruned" and not curve):
            state = "rejected"
        costs = {name: value for name, value in attributes.items() if name not in NO_COSTS}
        row = attributes["candidate"] | {
            "state": state,
            "epochs": len(curve),
            "val_accuracy": curve[-1]["val_accuracy"] if curve else None,
            **costs,
            **{name: curve[-1][name] for name in LEARNED if curve and name in curve[-1]},
            "curve": curve,
            "reason": "its line was lost and written again by kdnas doctor",
            "train_s": attributes.get("train_s", 0.0),
            "started_s": None,
            "ended_s": None,
        }
        lines.append(json.dumps(row) + "\n")
    replace_text(path, kept.decode(errors="replace") + "".join(lines))


def _of_checkpoints(run: Path, rows: Rows) -> Iterator[Finding]:
    checkpoints = Checkpoints(str(run / "trials"))
    if begun := lineups(checkpoints):
        what = f"a search that was killed left {len(begun)} folder(s) of its workers in trials/"
        yield Finding("checkpoints", what, lambda: clear_lineups(checkpoints))
    folders = sorted(path for path in (run / "trials").glob("*") if path.is_dir())
    left = [folder for folder in folders if folder.name in rows]
    if left:
        what = f"checkpoints of {_count(len(left))} that ended lie in trials/"
        yield Finding("checkpoints", what, lambda: list(map(shutil.rmtree, left)))
    kept = [folder / CHECKPOINT for folder in folders if folder.name not in rows]
    damaged = [path for path in kept if path.exists() and not is_whole(path)]
    if damaged:
        what = f"{_count(len(damaged))} will start again, as what was saved is damaged"
        yield Finding("checkpoints", what, lambda: list(map(os.unlink, damaged)))


def _of_mlflow(run: Path, config: SearchConfig, rows: Rows) -> Iterator[Finding]:
    if not config.tracking.enabled or not (run / tracking.OUTBOX).exists():
        return
    records = read_jsonl(run / tracking.OUTBOX)
    begun_at, ended_at = (
        max((i for i, r in enumerate(records) if r.get("type") == kind), default=-1)
        for kind in ("search_started", "search_ended")
    )
    if begun_at > ended_at:
        yield Finding("MLflow", "the search was killed, and is shown as running there", lambda: _close(run))
    written = {record["id"] for record in records if record.get("type") == "candidate_ended"}
    unsaid = [row for name, row in rows.items() if row["state"] != "rejected" and name not in written]
    if unsaid:
        yield Finding("MLflow", f"{_count(len(unsaid))} ended and it was not told", lambda: _say(run, unsaid))
    if refused := tracking.refused(run):
        remedy = f"{tracking.REFUSED} holds them with the reason"
        yield Finding("MLflow", f"{refused} records were refused by the store", remedy=remedy)
    if waiting := tracking.pending(run):
        yield Finding("MLflow", f"{waiting} records have not been sent", lambda: _send(run, config))
        return
    try:
        told = tracking.told(run, config.tracking)
    except KdnasError as error:
        yield Finding("MLflow", str(error).partition("\n")[0], remedy="try again when the store is back")
        return
    if told is None:
        yield Finding("MLflow", "the store does not have this search", lambda: _send(run, config, forget=[None]))
        return
    wrong = [name for name, row in rows.items() if row["state"] not in ("rejected", told.get(name))]
    if wrong:
        what = f"{_count(len(wrong))} of the run folder are not there, or in another state"
        missing = [name for name in wrong if name not in told]
        yield Finding("MLflow", what, lambda: _send(run, config, forget=missing))


def _say(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        facts = {name: row[name] for name in ("id", "state", "epochs", "val_accuracy", "reason")}
        tracking.append(run, {"type": "candidate_ended", **facts, "candidates": 0, "progress": {}})


def _close(run: Path) -> None:
    _ended(run)
    tracking.append(run, results.end_record(run, "interrupted"))


def _send(run: Path, config: SearchConfig, forget: Sequence[str | None] | None = None) -> None:
    if forget is not None:
        tracking.forget(run, forget)
    tracking.sync(run, config.tracking)


def _count(number: int) -> str:
    return "1 candidate" if number == 1 else f"{number} candidates"


def _lines(number: int) -> str:
    return "1 line" if number == 1 else f"{number} lines"
