"""Where does the Optuna study of a run lie, and how is it opened?

As Optuna's journal, a file to which every change appends a line: a trial takes some forty changes, and each was a
transaction where SQLite held them (here 158 ms a trial, the journal of Optuna 24, this one 12). Or in a database
(`study.url`), where several searches may share one (`kdnas_ray.others`).
"""

import contextlib
import json
import os
import re
import uuid
import warnings
from collections.abc import Collection, Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdnas_ray.objectives import objective
from kdnas_ray.runs import read_config
from kdnas_ray.study_settings import StudySettings
from search_spaces.errors import KdnasError, RunError
from trainables.files import replace_text

if TYPE_CHECKING:  # SQLAlchemy takes half a second to import, and most searches need none
    from kdnas_ray.database import SharedStorage

FILE = "study.journal"
IN_DATABASE = "study.json"  # names the study of a run in a database, and the run in that study
STUDY = "kdnas"
GIVEN_BACK = "given_back"  # number that a trial had before the study lost it; its decisions are not known
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
    run: Path, sampler: BaseSampler, objectives: Sequence[str], directions: Sequence[StudyDirection], **waiting: Any
) -> optuna.Study:
    """The study of a run, created where there is none; the caller must hold the run folder's lock.

    Args:
        run: its folder.
        sampler: proposes candidates.
        objectives: names of what is optimised.
        directions: of each.
        waiting: for a database that is away: `impatient` and `say` of `SharedStorage`.

    Raises:
        KdnasError: its database cannot be used.
    """
    settings, name = study_settings(run), STUDY
    if settings.url is None:
        path = run / FILE
        if path.exists():
            _end_at_a_whole_line(path)
        storage: Any = _OneProcess(_OneWriter(str(path)))
    else:
        from kdnas_ray.database import SharedStorage

        name, owner = _identity(run, settings)
        storage = SharedStorage(settings, owner, patience_s=settings.patience_s, **waiting)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            directions=directions,
            load_if_exists=True,
        )
        study.set_metric_names(list(objectives))
    return study


def study_settings(run: Path) -> StudySettings:
    """Where the study of a run lies, by its config.yaml; the default where that does not say."""
    try:
        found = read_config(run).get("study")
    except KdnasError:  # a study alone, as the tests make one
        found = None
    return StudySettings(**(found or {}))


def has_study(run: Path) -> bool:
    """Whether the run was given a study where its configuration says that it lies."""
    return (run / study_file(run)).exists()


def study_file(run: Path) -> str:
    """Name of the file that holds the study or, for one in a database, names it."""
    return FILE if study_settings(run).url is None else IN_DATABASE


def shared(study: optuna.Study) -> "SharedStorage | None":
    """The storage of a study in a database; None for a file, which has one search alone."""
    backend = getattr(study._storage, "_backend", None)
    return backend if hasattr(backend, "owner") else None


def own_trials(study: optuna.Study, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
    """Trials of this search in these states; another search's are its own to begin, to end and to mend."""
    trials = study.get_trials(deepcopy=False, states=states)
    storage = shared(study)
    return trials if storage is None else [trial for trial in trials if trial.user_attrs.get("search") == storage.owner]


def lost(study: optuna.Study, numbers: Collection[int]) -> list[int]:
    """Numbers of trials that the study lacks, ascending.

    Args:
        study: of a run.
        numbers: that candidates of the run were given.
    """
    last = max(numbers, default=-1)
    if shared(study) is None:  # numbers are given in order, and what was rejected unnamed had one too
        return [*range(len(study.get_trials(deepcopy=False)), last + 1)]
    own = own_trials(study)
    known = {trial.number for trial in own}
    known |= {trial.user_attrs[GIVEN_BACK] for trial in own if GIVEN_BACK in trial.user_attrs}
    return sorted(set(numbers) - known)


def directions(objectives: Sequence[str]) -> list[StudyDirection]:
    """Of each objective, by name."""
    return [StudyDirection.MAXIMIZE if objective(name).maximise else StudyDirection.MINIMIZE for name in objectives]


def begun(study: optuna.Study, trial: FrozenTrial) -> None:
    """Make one that waits ready to be told: an older copy of a study may hold it so, though it was trained."""
    if trial.state is TrialState.WAITING:
        study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)


def read_study(run: Path, only: Container[int] | None = None) -> optuna.Study | None:
    """The study of a run, only to be read: a search may be running on it; None where there is none.

    Args:
        run: its folder.
        only: numbers of the trials that are wanted; of the others in a journal no more than that they were begun is
            known then.

    Raises:
        ValueError, KeyError, TypeError, OptunaError: it is no journal that this Optuna can read.
        KdnasError: its database cannot be used.
    """
    settings = study_settings(run)
    with quiet_optuna():
        if settings.url is None:
            path = run / FILE
            storage: Any = JournalStorage(JournalFileBackend(str(path)) if only is None else _Excerpt(path, only))
            names = optuna.get_all_study_names(storage)
            return optuna.load_study(study_name=names[0], storage=storage) if names else None
        from kdnas_ray.database import SharedStorage

        name, owner = _identity(run, settings)
        storage = SharedStorage(settings, owner)
        found = name in optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage) if found else None


def read_trials(run: Path, only: Container[int] | None = None) -> list[FrozenTrial]:
    """All trials of a run in its study; arguments and errors as of `read_study`."""
    study = read_study(run, only)
    return [] if study is None else own_trials(study)


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


def _identity(run: Path, settings: StudySettings) -> tuple[str, str]:
    """Name of the run's study in its database, and the run's id there; both stay once they were given."""
    path = run / IN_DATABASE
    if not path.exists():
        owner = uuid.uuid4().hex
        name = settings.name or f"{run.resolve().name}-{owner[:8]}"
        replace_text(path, json.dumps({"name": name, "search": owner}) + "\n")
    try:
        kept = json.loads(path.read_text(encoding="utf8"))
        name, owner = str(kept["name"]), str(kept["search"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            "cannot be read: which trials of the study are this run's is not known",
            field=IN_DATABASE,
            value=str(run),
            remedy=f"put back a copy; or remove it, and `kdnas doctor {run} --repair` gives the study what ended here",
        ) from error
    if settings.name not in (None, name):
        raise KdnasError(
            f"this run is part of the study {name!r}",
            field="study.name",
            value=settings.name,
            remedy="leave it as it is, or start a new search",
        )
    return name, owner
