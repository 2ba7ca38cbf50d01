"""How does a search run on a table of results? Nothing is trained: each candidate looks its curve up."""

import hashlib
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from search_spaces import Architecture, KdnasError, Space, first_line, sample
from search_spaces.notation import canonical, notation, parse
from trainables.candidate import Candidate
from trainables.lineup import LinedUp
from trainables.loop import Point
from trainables.parquet import check_room, read_columns
from trainables.tasks.base import Data, Split

ARCHITECTURE = "architecture"  # column of a Parquet table
COSTS = ("params", "flops")  # taken from the table where it has them
SAMPLED = 100  # architectures by which a table shows whether it holds every notation
COPIES = 16  # of a file's content, as Python objects
NOISE = 0.1  # of a simulated accuracy at the start, relative to the final one; falls to 0

Entry = Mapping[str, Any]  # a row of the table: numbers by column


@dataclass(frozen=True)
class Table:
    """Nothing is trained: a table of architectures and their results answers, with simulated training time.

    Source: Ying 2019, NAS-Bench-101; Dong 2020, NAS-Bench-201 (tabular benchmarks).

    Args:
        path: JSON (architecture in the space's notation to an object of numbers), or Parquet with a column
            `architecture`.
        metric: column of the validation accuracy after full training, 0 to 1 or in percent; a list of numbers holds
            repeated trainings, of which the candidate's seed picks one.
        test: column that the finalists are scored on, once; null for `metric`.
        rungs: column of the validation accuracy after so many epochs, for tables with several budgets; the last is
            the full training and takes the place of `metric`.
        epoch_s: simulated seconds of one epoch.
        shape: channels, height and width of the inputs that parameters and FLOPs are counted for, where the table
            does not hold them.
        classes: number of classes, likewise.
    """

    path: Path
    metric: str
    test: str | None = None
    rungs: Mapping[int, str] | None = None
    epoch_s: float = 1.0
    shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10

    def __post_init__(self) -> None:
        if any(epoch < 1 for epoch in self.rungs or ()):
            raise KdnasError("epochs start at 1", field="evaluator.rungs", value=dict(self.rungs or {}))
        if self.epoch_s <= 0:
            raise KdnasError("seconds are above 0", field="evaluator.epoch_s", value=self.epoch_s)
        if min(self.shape) < 1:
            raise KdnasError("sizes start at 1", field="evaluator.shape", value=list(self.shape))
        if self.classes < 2:
            raise KdnasError("at least two", field="evaluator.classes", value=self.classes)

    def columns(self) -> dict[int | None, str]:
        """Column of the validation accuracy by epoch; None stands for the full training, however long."""
        return dict(sorted(self.rungs.items())) if self.rungs else {None: self.metric}

    def data(self) -> Data:
        """The task of the table, without a sample."""
        none = Split(np.zeros((0, *self.shape), dtype=np.uint8), np.zeros(0, dtype=np.int64))
        zeros, ones = (0.0,) * self.shape[0], (1.0,) * self.shape[0]
        return Data(none, none, none, tuple(map(str, range(self.classes))), zeros, ones)


@dataclass(frozen=True)
class Results:
    """A table that was read: what every trial looks up.

    Args:
        entries: numbers of each architecture, by its notation.
        columns: column of the validation accuracy by epoch, see `Table.columns`.
        test: column that finalists are scored on.
        percent: whether accuracies are in percent.
        chance: accuracy of guessing, where simulated curves start.
        digest: of the file.
        classes: notation of one architecture of each canonical form; empty where the table holds every notation.
    """

    entries: Mapping[str, Entry]
    columns: Mapping[int | None, str]
    test: str
    percent: bool
    chance: float
    digest: str
    classes: Mapping[str, str]

    def find(self, space: Space, architecture: Architecture) -> str | None:
        """Notation under which the table holds the architecture, or one that builds the same network; None if none."""
        text = notation(space, architecture)
        return text if text in self.entries else self.classes.get(canonical(space, architecture))

    def entry(self, space: Space, architecture: Architecture) -> Entry:
        """Numbers of the architecture.

        Raises:
            KdnasError: the table does not hold it.
        """
        text = self.find(space, architecture)
        if text is None:
            text = notation(space, architecture)
            raise KdnasError(
                "the table does not hold this architecture",
                field="evaluator.path",
                value=text,
                remedy=f"it holds {len(self.entries)}, such as {next(iter(self.entries))}",
            )
        return self.entries[text]

    def accuracy(self, entry: Entry, column: str, seed: int | None = None) -> float:
        """Accuracy 0 to 1 in a column; of repeated trainings the one that the seed picks, their mean without one."""
        value = entry[column]
        if isinstance(value, list):
            value = float(np.mean(value)) if seed is None else value[seed % len(value)]
        return value / 100 if self.percent else value

    def best(self) -> tuple[str, Entry]:
        """Notation and numbers of the architecture that the finalists' column holds for the best."""
        return max(self.entries.items(), key=lambda item: self.accuracy(item[1], self.test))

    def curve(self, text: str, seed: int, epochs: int) -> list[Point]:
        """Validation accuracy of each epoch up to `epochs`, the full training.

        Between two budgets of the table it is interpolated over the logarithm of the epoch. Before the first it
        is simulated, and such points are marked `simulated`: from guessing it rises to the known value by
        `1 - exp(-3 e / first)`, with noise that shrinks to nothing at the known value. So early epochs are poor
        judges, as in real trainings; how poor is made up.

        Args:
            text: the architecture, by its notation.
            seed: of the candidate: picks among repeated trainings and draws the noise.
            epochs: length of the full training.
        """
        entry = self.entries[text]
        known = {epoch or epochs: self.accuracy(entry, name, seed) for epoch, name in self.columns.items()}
        first = min(known)
        noise = np.random.default_rng(seed).normal(0, NOISE, first) * (1 - np.arange(1, first + 1) / first)
        points: list[Point] = []
        for epoch in range(1, epochs + 1):
            if epoch < first:
                share = (1 - math.exp(-3 * epoch / first)) / (1 - math.exp(-3))
                risen = self.chance + (known[first] - self.chance) * share * (1 + noise[epoch - 1])
                points.append({"epoch": epoch, "val_accuracy": float(np.clip(risen, 0, 1)), "simulated": 1.0})
            else:
                value = float(np.interp(math.log(epoch), np.log(list(known)), list(known.values())))
                points.append({"epoch": epoch, "val_accuracy": value})
        return points


def read_table(settings: Table, space: Space, epochs: int) -> Results:
    """The table's content, checked.

    Args:
        settings: which table.
        space: that its architectures belong to.
        epochs: length of a full training in the search.

    Raises:
        KdnasError: the file cannot be read, a column or an entry is missing, or it belongs to another space.
    """
    entries, raw = _entries(settings.path)
    columns = settings.columns()
    test = settings.test or list(columns.values())[-1]
    wanted = {
        test: "evaluator.test",
        **{name: f"evaluator.rungs.{epoch}" if epoch else "evaluator.metric" for epoch, name in columns.items()},
    }
    for name, field in wanted.items():
        lacking = [text for text, entry in entries.items() if not _numbers(entry.get(name))]
        if len(lacking) == len(entries):
            known = ", ".join(sorted({column for entry in entries.values() for column in entry}))
            raise KdnasError(
                "no architecture of the table has a number there", field=field, value=name, remedy=f"columns: {known}"
            )
        if lacking:
            raise KdnasError(
                f"{len(lacking)} of {len(entries)} architectures have no number there, the first: {lacking[0]}",
                field=field,
                value=name,
                remedy="complete the table, or name a column that is whole",
            )
    last = max((epoch for epoch in columns if epoch), default=epochs)
    if last != epochs:
        raise KdnasError(
            f"the table's full training is {last} epochs, the scheduler's is {epochs}",
            field="scheduler.max_epochs",
            value=epochs,
            remedy=f"choose scheduler.max_epochs={last}",
        )
    written = {_own_notation(space, text): entry for text, entry in entries.items()}
    if len(written) < len(entries):
        raise KdnasError(
            f"{len(entries) - len(written)} architectures stand in the table twice, written differently",
            field="evaluator.path",
            value=str(settings.path),
            remedy="keep one line each",
        )
    for name, field in wanted.items():
        values = [np.ravel(entry[name]) for entry in entries.values()]
        low, high = min(map(np.min, values)), max(map(np.max, values))
        if low < 0 or high > 100:
            raise KdnasError(
                f"no accuracies: from {low:g} to {high:g}",
                field=field,
                value=name,
                remedy="0 to 1, or 0 to 100 percent",
            )
    percent = bool(max(np.max(entry[name]) for entry in entries.values() for name in wanted) > 1)
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return Results(written, columns, test, percent, 1 / settings.classes, digest, _classes(space, written))


def _classes(space: Space, entries: Mapping[str, Entry]) -> dict[str, str]:
    rng = random.Random(0)
    if all(notation(space, sample(space, rng)) in entries for _ in range(SAMPLED)):
        return {}
    return {canonical(space, parse(space, text)): text for text in entries}


def _own_notation(space: Space, text: str) -> str:
    try:
        return notation(space, parse(space, text))
    except KdnasError as error:
        raise KdnasError(
            f"the table is not of this space: its architecture {text!r} is none ({error.problem})",
            field="evaluator.path",
            value=text,
            remedy=f"choose the table's space; {error.remedy or ''}".rstrip("; "),
        ) from error


def _entries(path: Path) -> tuple[dict[str, dict[str, Any]], bytes]:
    try:
        check_room(COPIES * path.stat().st_size, "its entries")
        raw = path.read_bytes()
        if path.suffix == ".json":
            found = json.loads(raw, object_pairs_hook=_once)
        else:
            rows = read_columns(pyarrow.BufferReader(raw), copies=COPIES).to_pylist()
            found = _once([(row.pop(ARCHITECTURE), row) for row in rows])
    except KeyError as error:
        raise KdnasError(
            f"the table has no column {ARCHITECTURE!r}", field="evaluator.path", value=str(path), remedy="rename one"
        ) from error
    except (OSError, ValueError, RecursionError, OverflowError, pyarrow.ArrowException) as error:
        raise KdnasError(
            f"cannot be read as a table ({first_line(error)})",
            field="evaluator.path",
            value=str(path),
            remedy="give a .json or .parquet file, see `kdnas list evaluators`",
        ) from error
    texts = isinstance(found, dict) and all(isinstance(text, str) for text in found)
    if not texts or not found or not all(isinstance(entry, dict) for entry in found.values()):
        raise KdnasError(
            "holds no table",
            field="evaluator.path",
            value=str(path),
            remedy="JSON: an object of architecture to an object of numbers",
        )
    for text, entry in found.items():
        for name in COSTS:
            if name in entry and (isinstance(entry[name], list) or not _numbers(entry[name])):
                raise KdnasError(
                    f"{name} of {text} is no number",
                    field="evaluator.path",
                    value=entry[name],
                    remedy="complete the column, or leave it out: it is counted then",
                )
    return found, raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("something stands in it twice")
    return found


def _numbers(value: Any) -> bool:
    values = value if isinstance(value, list) and value else [value]
    return all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in values)


class TableTrial(LinedUp):
    """A candidate whose curve is looked up; the results of a step are those of `trainables.distill.Distill`."""

    def setup(self, config: dict[str, Any], shared: "SharedTable") -> None:
        """Called once an actor."""
        self.shared = shared
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare the next candidate in the same actor."""
        self.candidate = Candidate.from_json(new_config["candidate"])
        self.rung = sum(rung <= new_config.get("reported", 0) for rung in self.shared.rungs)
        return True

    def step(self) -> dict[str, Any]:
        """Look up to the next rung."""
        shared, until = self.shared, self.shared.rungs[self.rung]
        self.rung += 1
        try:
            shared.results.entry(shared.space, self.candidate.architecture)
        except KdnasError as error:
            return {"failure": f"{error.problem}: {error.value}", "done": True}
        text = shared.results.find(shared.space, self.candidate.architecture) or ""
        curve = shared.results.curve(text, self.candidate.seed, shared.rungs[-1])[:until]
        return {
            "epoch": until,
            "val_accuracy": curve[-1]["val_accuracy"],
            "curve": curve,
            "train_s": until * shared.epoch_s,
            "done": until == shared.rungs[-1],
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: the table holds everything."""

    def load_checkpoint(self, checkpoint: str) -> None:
        """Nothing to load."""


@dataclass(frozen=True)
class SharedTable:
    """What every trial reads: results, space, rungs and simulated seconds of an epoch."""

    results: Results
    space: Space
    rungs: tuple[int, ...]
    epoch_s: float
