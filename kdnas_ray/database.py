"""How is an Optuna study kept in PostgreSQL, by several searches at once, and through a restart of the server?

Every trial says from its first moment whose it is. What a search tells of its open trials is gathered, and written in
one transaction when something is told that must not be lost, for Optuna takes some ninety statements a trial. A call
that finds the database away is made again until it answers or the patience ends; the run folder holds what was trained
all the while.
"""

import contextlib
import copy
import functools
import json
import logging
import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import (
    ArgumentError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from kdnas_ray.postgres import REMEDY, driven
from kdnas_ray.study_settings import StudySettings
from kdnas_ray.tracking import shown_uri, without_secrets
from search_spaces.errors import KdnasError, RunError, first_line

logger = logging.getLogger(__name__)

OWNER = "search"  # attribute of a trial: id of the search that proposed it
WRITTEN_AT_ONCE = ("claim", "candidate", "curve", "train_s")  # attributes with which all that waits is written
LOCK = 0x6B646E61  # of PostgreSQL's advisory locks, those of kdnas; the study's number is the other half
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
# A machine that is gone is noticed within half a minute, instead of the quarter of an hour that TCP takes.
CONNECTION: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# Internal: a standby that takes no writes yet; pending: a transaction that the break of its connection left behind.
AWAY = (OperationalError, InterfaceError, InternalError, PendingRollbackError)


def never() -> bool:
    """Whether to stop waiting: no."""
    return False


@dataclass
class _Open:
    """A trial of this search that has not ended, and what of it the database was not told yet."""

    trial: FrozenTrial
    params: dict[str, tuple[float, str]] = field(default_factory=dict)
    user_attrs: dict[str, str] = field(default_factory=dict)
    system_attrs: dict[str, str] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)

    def copy(self) -> FrozenTrial:
        """The trial, to be changed by whoever asked."""
        return copy.deepcopy(self.trial)

    def rows(self, trial_id: int) -> list[tuple[Any, tuple[str, ...], list[dict[str, Any]]]]:
        """Tables to be written to: Optuna's model, columns that are unique in it, and rows."""
        params, attributes = (models.TrialParamModel, "param_name"), ("key", "value_json")
        stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
        found: list[tuple[Any, str, list[dict[str, Any]]]] = [
            (*params, [{"param_name": name, "param_value": value, "distribution_json": ranges}
                       for name, (value, ranges) in self.params.items()]),
            (models.TrialIntermediateValueModel, "step",
             [{"step": step} | dict(zip(("intermediate_value", "intermediate_value_type"), stored(value), strict=True))
              for step, value in self.values.items()]),
            (models.TrialSystemAttributeModel, "key",
             [dict(zip(attributes, pair, strict=True)) for pair in self.system_attrs.items()]),
            (models.TrialUserAttributeModel, "key",
             [dict(zip(attributes, pair, strict=True)) for pair in self.user_attrs.items()]),
        ]  # fmt: skip
        return [
            (model, ("trial_id", unique), [{"trial_id": trial_id, **row} for row in rows])
            for model, unique, rows in found
            if rows
        ]


class SharedStorage(RDBStorage):
    """Optuna's storage in a database, which knows whose trials are whose and waits for a server that restarts.

    Args:
        settings: with a `url`.
        owner: id of the search that uses it; new trials are its own, and it takes none that another one enqueued.
        patience_s: how long a call is made again while the database is away.
        impatient: asked between two tries, whether to give up at once (the search is being interrupted).
        say: told once each time that the database is away, and when it is back.

    Raises:
        KdnasError: the database cannot be reached or used.
    """

    def __init__(
        self,
        settings: StudySettings,
        owner: str | None,
        *,
        patience_s: float = 0.0,
        impatient: Callable[[], bool] = never,
        say: Callable[[str], None] = logger.warning,
    ) -> None:
        self.owner, self.shown = owner, shown_uri(settings.url or "")
        self._patience_s, self._impatient, self._say = patience_s, impatient, say
        self._open: dict[int, _Open] = {}
        self._address = settings.address()
        with _explained(self._address, self.shown), making_tables(self._address) as engine:
            _refuse_tables_of_others(engine, self.shown)
            try:
                super().__init__(driven(self._address), engine_kwargs={"connect_args": CONNECTION})
            finally:
                if hasattr(self, "engine"):  # also where Optuna refuses the tables that it finds
                    weakref.finalize(self, self.engine.dispose)  # connections that wait for the next call

    @contextlib.contextmanager
    def alone(self, study_id: int) -> Iterator[None]:
        """Held by one search of a study at a time; the server takes it from one that dies."""
        with contextlib.ExitStack() as held:
            self._patiently(lambda: held.enter_context(_held(self.engine, study_id)))
            yield

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial; one of this search that is open is known without asking, for nobody else changes it."""
        known = self._open.get(trial_id)
        return (
            self._patiently(lambda: super(SharedStorage, self).get_trial(trial_id)) if known is None else known.copy()
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's; kept here until something is told that must not be lost."""
        if (known := self._open.get(trial_id)) is None:
            return self._patiently(lambda: super(SharedStorage, self).set_trial_user_attr(trial_id, key, value))
        known.trial.user_attrs[key] = value
        known.user_attrs[key] = json.dumps(value)
        if key in WRITTEN_AT_ONCE:
            self._write(trial_id)
        return None

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's; kept here, see `set_trial_user_attr`."""
        if (known := self._open.get(trial_id)) is None:
            return self._patiently(lambda: super(SharedStorage, self).set_trial_system_attr(trial_id, key, value))
        known.trial.system_attrs = {**known.trial.system_attrs, key: value}
        known.system_attrs[key] = json.dumps(value)
        return None

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """As Optuna's; kept here, see `set_trial_user_attr`."""
        if (known := self._open.get(trial_id)) is None:
            told = functools.partial(super().set_trial_intermediate_value, trial_id, step, intermediate_value)
            return self._patiently(told)
        known.trial.intermediate_values[step] = known.values[step] = intermediate_value
        return None

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; False too for a trial that waits for another search."""
        if state is TrialState.RUNNING and self.get_trial(trial_id).user_attrs.get(OWNER) != self.owner:
            return False
        self._write(trial_id)
        tries = 0

        def told() -> bool:
            nonlocal tries
            tries += 1
            try:
                return super(SharedStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                # Told before the connection broke, and only the answer was lost.
                if tries > 1 and super(SharedStorage, self).get_trial(trial_id).state is state:
                    return True
                raise

        found = self._patiently(told)
        self._open.pop(trial_id, None)
        return found

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        made = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.deepcopy(template_trial)
        made.user_attrs = {**made.user_attrs, OWNER: self.owner}
        found = self._patiently(lambda: super(SharedStorage, self)._create_new_trial(study_id, made))
        if found.state is TrialState.RUNNING:
            self._open[found._trial_id] = _Open(copy.deepcopy(found))
        return found

    def _set_trial_param(
        self, trial_id: int, name: str, internal: float, distribution: BaseDistribution, previous: Any
    ) -> None:
        if (known := self._open.get(trial_id)) is None:
            told = functools.partial(super()._set_trial_param, trial_id, name, internal, distribution, previous)
            return self._patiently(told)
        known.trial.params = {**known.trial.params, name: distribution.to_external_repr(internal)}
        known.trial.distributions = {**known.trial.distributions, name: distribution}
        known.params[name] = (internal, distribution_to_json(distribution))
        return None

    def _write(self, trial_id: int) -> None:
        """Write what is kept here of a trial: in one transaction, where Optuna takes two or more for each of it."""
        if (known := self._open.get(trial_id)) is None or not (rows := known.rows(trial_id)):
            return

        def write() -> None:
            with self.engine.begin() as connection:
                for model, unique, of_model in rows:
                    adding = insert(model).values(of_model)
                    new = {name: adding.excluded[name] for name in of_model[0] if name not in unique}
                    connection.execute(adding.on_conflict_do_update(index_elements=unique, set_=new))

        self._patiently(write)
        for kept in (known.params, known.user_attrs, known.system_attrs, known.values):
            kept.clear()

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """What the call returns, once the database answers.

        Raises:
            RunError: it does not in time, or it refuses the call.
        """
        begin, wait = time.monotonic(), FIRST_WAIT_S
        away = False
        while True:
            try:
                found = call()
            except (StorageInternalError, SQLAlchemyError) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                reason = without_secrets(first_line(cause or error), self._address)
                if not (isinstance(cause, AWAY) or getattr(cause, "connection_invalidated", False)):
                    raise self._ended(f"the study's database refuses what it is told ({reason})") from error
                left = begin + self._patience_s - time.monotonic()
                if left <= 0 or self._impatient():
                    waited = f" for {time.monotonic() - begin:.0f} s" if away else ""
                    raise self._ended(f"the study's database has not answered{waited} ({reason})") from error
                if not away:
                    self._say(f"The study's database does not answer ({reason}); trying for {_time(left)}.")
                away = True
                self.scoped_session.remove()
                time.sleep(min(wait, left))
                wait = min(2 * wait, LONGEST_WAIT_S)
            else:
                if away:
                    self._say(f"The study's database answers again, after {time.monotonic() - begin:.0f} s.")
                return found

    def _ended(self, problem: str) -> RunError:
        remedy = "what was trained is kept: `kdnas resume` goes on when the database is back"
        return RunError(problem, field="study.url", value=self.shown, remedy=remedy)


def _made_patient(name: str) -> None:
    call = getattr(RDBStorage, name)

    def patient(self: SharedStorage, *arguments: Any, **options: Any) -> Any:
        return self._patiently(lambda: call(self, *arguments, **options))

    patient.__name__, patient.__doc__ = name, call.__doc__
    setattr(SharedStorage, name, patient)


# All others that Optuna calls while a search runs. Each can be made twice: what is written is replaced by the same.
for _name in (
    "create_new_study",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_all_studies",
    "get_trial_id_from_study_id_trial_number",
    "_get_trials",
):
    _made_patient(_name)


@contextlib.contextmanager
def making_tables(address: str) -> Iterator[Engine]:
    """Held by one process at a time that makes a database's tables; yields an engine. Raises what SQLAlchemy raises."""
    engine = create_engine(driven(address), connect_args=CONNECTION, poolclass=NullPool)
    with _held(engine, 0):
        yield engine


@contextlib.contextmanager
def _held(engine: Engine, number: int) -> Iterator[None]:
    """An advisory lock of the database, which ends with a transaction that does nothing else."""
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:kdnas, :number)"), {"kdnas": LOCK, "number": number})
        yield
        try:
            connection.rollback()
        except SQLAlchemyError:  # the server was away meanwhile, and holds no lock any more
            connection.invalidate()


def _refuse_tables_of_others(engine: Engine, shown: str) -> None:
    tables = set(inspect(engine).get_table_names())
    if "alembic_version" in tables and "studies" not in tables:  # MLflow's and Optuna's would be one table
        raise KdnasError(
            "holds the tables of another program",
            field="study.url",
            value=shown,
            remedy="give the study a database of its own, beside MLflow's: `createdb kdnas_study`",
        )


@contextlib.contextmanager
def _explained(address: str, shown: str) -> Iterator[None]:
    """What SQLAlchemy, its driver and Optuna raise when a database cannot be used, as a refusal without secrets."""

    def refusal(problem: str, remedy: str) -> KdnasError:
        return KdnasError(without_secrets(problem, address), field="study.url", value=shown, remedy=remedy)

    try:
        yield
    except ImportError as error:
        raise refusal("needs a driver of PostgreSQL", "pip install 'kdnas_ray[postgres]'") from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # their texts may hold the address
        raise refusal("cannot be read as an address", "write postgresql://user@host:5432/database") from error
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        said = first_line(cause or error).partition(") ")
        remedy = f"is the server running, and is this its address? {REMEDY}"
        raise refusal(f"the database cannot be used ({said[2] or said[0]})", remedy) from error
    except RuntimeError as error:  # Optuna's word for tables of another version
        raise refusal(first_line(error), "`optuna storage upgrade`, or another database") from error


def _time(seconds: float) -> str:
    return f"{math.ceil(seconds / 60)} min" if seconds > 90 else f"{math.ceil(seconds)} s"
