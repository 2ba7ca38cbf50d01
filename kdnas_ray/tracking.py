"""How does a search reach MLflow without waiting for it? (`mlflow_sender` is the other end.)

Every event becomes one line of RUN/tracking.jsonl. A process of its own, at the lowest priority, reads the
lines and talks to MLflow; RUN/tracking.json says how far it came. A tracking server that is away costs the
search nothing, and `kdnas sync` sends later what it has not taken.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, field_validator

from kdnas_ray.postgres import check_address, driven, is_postgres
from kdnas_ray.runs import append_jsonl, read_jsonl, read_tracking
from search_spaces.errors import KdnasError, RunError, first_line
from trainables.files import replace_text

OUTBOX = "tracking.jsonl"
REFUSED = "tracking_refused.jsonl"
RUNS = "tracking_runs.jsonl"
DEFAULT_DATABASE = "mlflow.db"
SECRET = ("user", "username", "password", "passwd", "pwd", "token", "access_token", "api_key", "sslpassword")
SQLITE = "sqlite:///"


class TrackingSettings(BaseModel):
    """MLflow: one parent run a search, one child run a candidate."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    enabled: bool = True
    """false leaves MLflow out; the run folder is written all the same."""
    experiment: str = "kdnas"
    """Name of the MLflow experiment."""
    uri: str | None = None
    """Tracking store; null for MLFLOW_TRACKING_URI or else SQLite (mlflow.db) in the working folder."""
    register_as: str | None = None
    """Name under which the best student is put into the model registry; null leaves it out."""

    @field_validator("uri")
    @classmethod
    def _without_password(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        if is_postgres(uri):  # whose user may be shown
            check_address(uri, "tracking.uri", "the whole address as MLFLOW_TRACKING_URI")
            return uri
        if shown_uri(uri) != uri:  # it would stand in the run folder, the report and MLflow
            raise ValueError(
                "leave name and password out: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                "or the whole address as MLFLOW_TRACKING_URI"
            )
        return _absolute(uri)

    @field_validator("experiment", "register_as")
    @classmethod
    def _known_to_mlflow(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip() or any(sign in name for sign in "/:\n")):
            raise ValueError("MLflow takes names that are not empty and hold neither / nor :")
        return name


def append(run: Path, record: Mapping[str, Any]) -> None:
    """Write an event down for MLflow."""
    append_jsonl(run / OUTBOX, {**record, "time_ms": int(time.time() * 1000)})


def tracking_uri(settings: TrackingSettings, run: Path | None = None) -> str:
    """The tracking store: of the configuration, of the environment, of the run's first session, or the default."""
    chosen = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if chosen:
        return _absolute(chosen)
    kept = read_tracking(run).get("store", "") if run is not None else ""
    return kept if kept.startswith(SQLITE) else f"{SQLITE}{Path(DEFAULT_DATABASE).resolve()}"


def shown_uri(uri: str) -> str:
    """The address without name and password, for messages."""
    parts = urlsplit(uri)
    kept = [pair for pair in parts.query.split("&") if pair.partition("=")[0].lower() not in SECRET]
    if not parts.netloc and len(kept) == len(parts.query.split("&")):
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(kept)))


def without_secrets(text: str, uri: str) -> str:
    """What a library says about the store at this address, without name, password and tokens."""
    parts = urlsplit(uri)
    pairs = (pair.partition("=") for pair in parts.query.split("&"))
    found = [parts.password, *(value for name, _, value in pairs if name.lower() in SECRET)]
    found += [os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("PASSWORD", "TOKEN")]
    text = text.replace(uri, shown_uri(uri)) if uri else text
    for secret in filter(None, found):  # libraries show parts of an address too
        text = text.replace(secret, "***").replace(unquote(secret), "***")
    return text


def _absolute(uri: str) -> str:
    """A run can be resumed from another folder than the one that a relative path speaks of."""
    path = uri.removeprefix(SQLITE)
    return uri if path == uri or path.startswith("/") else f"{SQLITE}{Path(path).absolute()}"


def start(run: Path) -> subprocess.Popen:
    """Start sending this run's records; the process ends itself when this one closes its pipe or dies."""
    with (run / "tracking.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "kdnas_ray.mlflow_sender", str(run)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the search; the sender still has its end to write
        )


def drain(run: Path, sender: subprocess.Popen, timeout_s: float) -> int:
    """Let the sender finish; returns how many records it could not deliver.

    Args:
        run: the run folder.
        sender: of `start`.
        timeout_s: how long to wait for it.
    """
    assert sender.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        sender.stdin.close()
    try:
        sender.wait(timeout_s)
    except subprocess.TimeoutExpired:
        sender.terminate()
        sender.wait()
    return pending(run)


def sync(run: Path, settings: TrackingSettings) -> int:
    """Send now what MLflow has not taken yet; returns how many records.

    Raises:
        RunError: the tracking store cannot be reached or refuses a record; nothing is lost.
    """
    from kdnas_ray.mlflow_sender import Sender

    with sending(run, wait=False), _explained(run, settings):
        return Sender(run, settings).send_waiting()


@contextlib.contextmanager
def _explained(run: Path, settings: TrackingSettings) -> Iterator[None]:
    named = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        yield
    except KdnasError:
        raise
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
        uri = tracking_uri(settings, run)
        reason = without_secrets(first_line(error), uri)
        raise RunError(
            f"MLflow does not answer as it should ({type(error).__name__}: {reason})",
            field="tracking.uri",
            value=shown_uri(uri),
            remedy="they are kept; try again when the server is back",
        ) from error
    finally:  # MLflow puts the store of this run there, which another run may not mean
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if named is not None:
            os.environ["MLFLOW_TRACKING_URI"] = named


def told(run: Path, settings: TrackingSettings) -> dict[str, str] | None:
    """State of each candidate as the store has it; None where it does not have the search.

    Raises:
        RunError: it cannot be reached.
    """
    from kdnas_ray.mlflow_sender import Sender

    store, uri = read_tracking(run).get("store"), tracking_uri(settings, run)
    if store not in (None, shown_uri(uri)):
        raise KdnasError(
            "is not the store that the search was told to",
            field="MLFLOW_TRACKING_URI",
            value=shown_uri(uri),
            remedy=f"set it to {store}",
        )
    with _explained(run, settings):
        return Sender(run, settings).states()


def forget(run: Path, names: Sequence[str | None]) -> None:
    """All records are to be sent to the store used last once more, and the runs of these candidates be made anew.

    Args:
        run: the run folder.
        names: of candidates; None among them stands for all, and the search's own run.
    """
    store, path = read_tracking(run)["store"], run / RUNS
    rows = [row for row in read_jsonl(path) if row["store"] != store or not (None in names or row["id"] in names)]
    replace_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    write_progress(run, store, offset=0, **(dict.fromkeys(("parent", "experiment")) if None in names else {}))


def pending(run: Path) -> int:
    """Number of records that the store used last has not taken yet."""
    path = run / OUTBOX
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(progress(run, read_tracking(run).get("store", "")).get("offset", 0))
        return file.read().count(b"\n")


def refused(run: Path) -> int:
    """Number of records that a store refused for good; they are kept in `tracking_refused.jsonl`."""
    path = run / REFUSED
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ui(settings: TrackingSettings, *, host: str, port: int) -> int:
    """Run the MLflow UI on the tracking store until it is ended; returns its exit code.

    Raises:
        KdnasError: the store is a server with its own UI, there is no store yet, or the port is taken.
    """
    uri = tracking_uri(settings)
    if uri.startswith(("http://", "https://")):
        raise KdnasError(
            "the tracking store is a server, with a UI of its own",
            field="MLFLOW_TRACKING_URI",
            value=shown_uri(uri),
            remedy="open this address in a browser",
        )
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise KdnasError("no search was tracked here yet", field="tracking store", value=uri,
                         remedy="run `kdnas ui` where the searches ran, or set MLFLOW_TRACKING_URI")  # fmt: skip
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise KdnasError(f"cannot be listened on ({error.strerror})", field="--port", value=f"{host}:{port}",
                             remedy="choose another with --port") from error  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--host",
        host,
        "--port",
        str(port),
        "--uvicorn-opts",
        "--log-level warning",
    ]
    print(f"MLflow UI: http://{host}:{port}  (Ctrl-C ends it)", flush=True)
    # In the environment, for the address may hold a password, and everybody may read a command line.
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ, "MLFLOW_BACKEND_STORE_URI": driven(uri)}
    # A session of its own, ended as a whole: MLflow's server starts workers that outlive a signal to it alone.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    kept = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        with contextlib.suppress(ProcessLookupError):  # it ended with all its workers
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def progress(run: Path, store: str) -> dict[str, Any]:
    """How far this store has been told of the run: `offset`, `parent`, `experiment`; empty before its first record."""
    return read_tracking(run).get("stores", {}).get(store, {})


def write_progress(run: Path, store: str, **facts: Any) -> None:
    """Note how far the store `store` (its address as `shown_uri` gives it) has been told, in one step."""
    stores = {**read_tracking(run).get("stores", {}), store: {**progress(run, store), **facts}}
    replace_text(run / "tracking.json", json.dumps({"store": store, "stores": stores}) + "\n")


@contextlib.contextmanager
def sending(run: Path, *, wait: bool) -> Iterator[None]:
    """Held by the one process that sends the run's records.

    Args:
        run: the run folder.
        wait: for another sender to end, or refuse at once.
    """
    with (run / ".tracking.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise KdnasError(
                "its records are being sent by the search itself",
                field="RUN",
                value=str(run),
                remedy="wait until the search has ended",
            ) from error
        yield
