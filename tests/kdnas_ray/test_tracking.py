"""Specification of `kdnas_ray.tracking`: the outbox, and which store is meant. (`test_mlflow_sender`: the sending.)"""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kdnas_ray import tracking
from kdnas_ray.config import read
from kdnas_ray.runs import read_jsonl, read_tracking
from kdnas_ray.tracking import (
    TrackingSettings,
    append,
    drain,
    pending,
    progress,
    shown_uri,
    tracking_uri,
    ui,
    without_secrets,
    write_progress,
)
from search_spaces import KdnasError


@pytest.fixture(autouse=True)
def _no_store(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def test_records_when_appended_then_wait_in_order_with_their_time(run):
    assert pending(run) == 0
    append(run, {"type": "a"})
    append(run, {"type": "b", "value": float("nan")})
    first, second = read_jsonl(run / "tracking.jsonl")
    assert (first["type"], second["type"], second["value"]) == ("a", "b", None)
    assert first["time_ms"] <= second["time_ms"]
    assert pending(run) == 2
    write_progress(run, "http://server", offset=(run / "tracking.jsonl").read_bytes().index(b"\n") + 1)
    assert pending(run) == 1


def test_progress_when_noted_then_keeps_what_was_known(run):
    write_progress(run, "sqlite:////a.db", parent="x")
    write_progress(run, "sqlite:////a.db", offset=5)
    write_progress(run, "http://server", offset=7)
    assert progress(run, "sqlite:////a.db") == {"parent": "x", "offset": 5}
    assert progress(run, "http://server") == {"offset": 7}
    assert progress(run, "http://another") == {}
    assert read_tracking(run)["store"] == "http://server"


def test_store_when_several_are_named_then_the_nearest_counts(run, monkeypatch, tmp_path):
    default = f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(TrackingSettings()) == tracking_uri(TrackingSettings(), run) == default
    write_progress(run, "sqlite:////first-session.db")
    assert tracking_uri(TrackingSettings(), run) == "sqlite:////first-session.db"
    write_progress(run, "http://first-session")  # its password is not known: the environment must name it again
    assert tracking_uri(TrackingSettings(), run) == default
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri(TrackingSettings(), run) == "http://server"
    assert tracking_uri(TrackingSettings(uri="sqlite:///mine.db"), run) == f"sqlite:///{tmp_path}/mine.db"


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"uri": "https://ann:secret@mlflow.example"}, "MLFLOW_TRACKING_PASSWORD"),
        ({"uri": "postgresql://ann:secret@db/mlflow"}, "MLFLOW_TRACKING_URI"),
        ({"uri": "postgresql://ann:se/secret@db/mlflow"}, "PGPASSFILE"),
        ({"register_as": "team/student"}, "neither / nor :"),
        ({"register_as": ""}, "not empty"),
        ({"experiment": " "}, "not empty"),
    ],
)
def test_settings_when_mlflow_cannot_take_them_then_are_refused_without_showing_the_password(settings, remedy):
    with pytest.raises(KdnasError) as caught:
        read({"tracking": settings})
    assert caught.value.field == f"tracking.{next(iter(settings))}"
    assert remedy in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_settings_when_misspelt_or_changed_then_are_refused():
    with pytest.raises(ValidationError):
        TrackingSettings(experimnt="x")
    with pytest.raises(ValidationError):
        TrackingSettings().uri = "x"


def test_ui_when_the_store_is_a_server_then_points_to_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://server")
    with pytest.raises(KdnasError, match="a UI of its own"):
        ui(TrackingSettings(), host="127.0.0.1", port=5000)


def test_ui_when_nothing_was_tracked_here_then_says_so():
    with pytest.raises(KdnasError, match="no search was tracked here yet"):
        ui(TrackingSettings(), host="127.0.0.1", port=5000)


def test_ui_when_the_port_is_taken_then_says_so():
    Path("mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KdnasError) as caught:
            ui(TrackingSettings(), host="127.0.0.1", port=port)
    assert (caught.value.field, caught.value.value) == ("--port", f"127.0.0.1:{port}")


def test_ui_when_it_can_run_then_is_mlflows_on_that_store(monkeypatch, tmp_path):
    Path("mlflow.db").touch()
    seen, real = [], subprocess.Popen

    class Process:
        def __init__(self, command: list[str], **options: Any) -> None:
            seen.append((command, options["env"]))
            ended = real(["true"], start_new_session=True)
            ended.wait()
            self.pid = ended.pid

        def wait(self, timeout: float | None = None) -> int:
            return 3

    monkeypatch.setattr(tracking.subprocess, "Popen", Process)
    assert ui(TrackingSettings(), host="127.0.0.1", port=0) == 3
    (command, environment) = seen[0]
    assert command[1:4] == ["-m", "mlflow", "ui"]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_ui_when_the_store_is_a_database_then_its_password_is_on_no_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:planted@127.0.0.1:1/mlflow")
    seen: list[Any] = []

    def popen(command: list[str], **options: Any) -> Any:
        seen.append((command, options["env"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking.subprocess, "Popen", popen)
    with pytest.raises(KeyboardInterrupt):
        ui(TrackingSettings(), host="127.0.0.1", port=0)
    ((command, environment),) = seen
    assert "planted" not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://ann:planted@127.0.0.1:1/mlflow"


def test_settings_when_the_store_is_a_database_then_keep_its_user_and_no_password():
    url = "postgresql://ann@db:5432/mlflow?sslmode=require"
    assert read({"tracking": {"uri": url}}).tracking.uri == url


def test_drain_when_the_sender_hangs_then_ends_it_after_the_timeout(run):
    append(run, {"type": "a"})
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE) as hung:
        assert drain(run, hung, 0.2) == 1
    assert hung.returncode != 0


def test_drain_when_the_sender_died_then_says_what_is_left(run):
    append(run, {"type": "a"})
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE) as dead:
        dead.wait()
        assert drain(run, dead, 5) == 1


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://ann:secret@mlflow.example:5000/store", "https://mlflow.example:5000/store"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("postgresql://ann:secret@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://db/mlflow?user=ann&password=secret&sslmode=require", "postgresql://db/mlflow?sslmode=require"),
        ("https://mlflow.example/?Token=secret", "https://mlflow.example/"),
    ],
)
def test_address_when_shown_then_holds_no_password(uri, shown):
    assert shown_uri(uri) == shown


def test_message_when_a_library_shows_parts_of_the_address_then_holds_no_secret(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-the-environment")
    uri = "https://ann:se%40cret@mlflow.example/store?token=of-the-address"
    said = f"{uri} and se%40cret, se@cret: url /store?token=of-the-address/api, Bearer of-the-environment"
    shown = without_secrets(said, uri)
    assert shown == "https://mlflow.example/store and ***, ***: url /store?token=***/api, Bearer ***"
    assert without_secrets("nothing", "") == "nothing"
