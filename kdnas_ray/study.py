"""Where does the Optuna study of a run lie, and how is it opened?

As Optuna's journal, a file to which every change appends a line: a trial takes some forty changes, and each was a
transaction where SQLite held them (here 158 ms a trial, the journal of Optuna 24, this one 12).
"""

import contextlib
import json
import os
import re
import warnings
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdnas_ray.objectives import objective

FILE = "study.journal"
STUDY = "kdnas"
_OF_TRIAL = re.compile(rb'"trial_id":\s*(\d+)')


class _OneWriter(JournalFileBackend):
    """Appends without a lock, for the run folder has one, and without waiting for the disk: a kill loses nothing."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append `logs`, a line each, in one write."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with open(self._file_path, "ab", buffering=0) as file:
            file.write(lines.encode())


class _OneProcess(JournalStorage):
    """Knows which trials wait, for nobody else adds any; Optuna goes through all trials at every proposal to find out.

    Here a quarter of the time of a proposal at 4,000 trials, and growing.
    """

    def __init__(self, backend: JournalFileBackend) -> None:
        super().__init__(backend)
        self._waiting: dict[int, None] | None = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A new trial, which waits where the template does."""
        number = super().create_new_trial(study_id, template_trial)
        if self._waiting is not None and template_trial is not None and template_trial.state is TrialState.WAITING:
            self._waiting[number] = None
        return number

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Trials of the study, the only one, in these states."""
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        if self._waiting is None:
            self._waiting = {trial._trial_id: None for trial in super().get_all_trials(study_id, deepcopy, states)}
        trials = [trial for trial in map(self.get_trial, self._waiting) if trial.state is TrialState.WAITING]
        self._waiting = {trial._trial_id: None for trial in trials}
        return trials


class _Excerpt(BaseJournalBackend):
    """The journal without what was told of most trials: applying every line takes 20 s at 10,000 trials."""

    def __init__(self, path: Path, only: Container[int]) -> None:
        self._path, self._only = path, only

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines of the study and of these trials; all of them the first time, none later."""
        if log_number_from:
            return
        with self._path.open("rb") as file:
            for line in file:
                of_trial = _OF_TRIAL.search(line, 0, 200)  # where Optuna writes it, before any text of a user
                if line.endswith(b"\n") and (of_trial is None or int(of_trial[1]) in self._only):
                    yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refused: it is for reading."""
        raise NotImplementedError


def open_study(
    run: Path, sampler: BaseSampler, objectives: Sequence[str], directions: Sequence[StudyDirection]
) -> optuna.Study:
    """The study of a run, created where there is none; the caller must hold the run folder's lock.

    Args:
        run: its folder.
        sampler: proposes candidates.
        objectives: names of what is optimised.
        directions: of each.
    """
    path = run / FILE
    if path.exists():
        _end_at_a_whole_line(path)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        study = optuna.create_study(
            study_name=STUDY,
            storage=_OneProcess(_OneWriter(str(path))),
            sampler=sampler,
            directions=directions,
            load_if_exists=True,
        )
        study.set_metric_names(list(objectives))
    return study


def directions(objectives: Sequence[str]) -> list[StudyDirection]:
    """Of each objective, by name."""
    return [StudyDirection.MAXIMIZE if objective(name).maximise else StudyDirection.MINIMIZE for name in objectives]


def begun(study: optuna.Study, trial: FrozenTrial) -> None:
    """Make one that waits ready to be told: an older copy of a study may hold it so, though it was trained."""
    if trial.state is TrialState.WAITING:
        study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)


def read_trials(run: Path, only: Container[int] | None = None) -> list[FrozenTrial]:
    """Trials of a run's study, which is only read: a search may be running on it.

    Args:
        run: its folder.
        only: numbers of those that are wanted; of the others no more than that they were begun is known then.

    Raises:
        ValueError, KeyError, TypeError, OptunaError: it is no journal that this Optuna can read.
    """
    with quiet_optuna():
        path = run / FILE
        storage = JournalStorage(JournalFileBackend(str(path)) if only is None else _Excerpt(path, only))
        names = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=names[0], storage=storage).get_trials(deepcopy=False) if names else []


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna announces studies and experimental features; that is not for the reader of a report."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _end_at_a_whole_line(path: Path) -> None:
    """A full disk may have cut the last line in half; what is appended must not be glued to it."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
