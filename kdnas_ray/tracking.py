"""How does a search reach MLflow without waiting for it? (`mlflow_sender` is the other end.)

Every event becomes one line of RUN/tracking.jsonl. A process of its own, at the lowest priority, reads the
lines and talks to MLflow; RUN/tracking.json says how far it came. A tracking server that is away costs the
search nothing, and `kdnas sync` sends later what it has not taken.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict

from kdnas_ray.runs import append_jsonl, read_tracking
from search_spaces.errors import KdnasError, RunError

OUTBOX = "tracking.jsonl"
DEFAULT_DATABASE = "mlflow.db"


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


def append(run: Path, record: Mapping[str, Any]) -> None:
    """Write an event down for MLflow."""
    append_jsonl(run / OUTBOX, {**record, "time_ms": int(time.time() * 1000)})


def tracking_uri(settings: TrackingSettings, run: Path | None = None) -> str:
    """The tracking store: of the configuration, of the environment, of the run's first session, or the default."""
    chosen = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if chosen:
        return chosen
    kept = read_tracking(run).get("uri") if run is not None else None
    return kept or f"sqlite:///{Path(DEFAULT_DATABASE).resolve()}"


def shown_uri(uri: str) -> str:
    """The address without name and password, for messages."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri


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

    try:
        return Sender(run, settings).send_waiting()
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
        uri = tracking_uri(settings, run)
        reason = str(error).splitlines()[0].replace(uri, shown_uri(uri))
        raise RunError(
            f"MLflow does not take the records ({type(error).__name__}: {reason})",
            field="tracking.uri",
            value=shown_uri(uri),
            remedy="they are kept; try again when the server is back",
        ) from error


def pending(run: Path) -> int:
    """Number of records that MLflow has not taken yet."""
    path = run / OUTBOX
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(read_tracking(run).get("offset", 0))
        return file.read().count(b"\n")


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
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
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
        "--backend-store-uri",
        uri,
        "--host",
        host,
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait(10)
        return 0


def write_progress(run: Path, **facts: Any) -> None:
    """Note how far the sender came, in one step."""
    draft = run / ".tracking.json"
    draft.write_text(json.dumps({**read_tracking(run), **facts}) + "\n")
    draft.replace(run / "tracking.json")
