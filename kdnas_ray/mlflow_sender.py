"""How do a run's records become MLflow runs? Runs as a process of its own: `python -m kdnas_ray.mlflow_sender RUN`.

Records are sent at least once: after a crash the last ones are sent again, which changes nothing, because
a metric with the same value, step and time is stored once, and runs and models already made are known by a tag.
"""

import contextlib
import json
import os
import re
import select
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnas_ray.postgres import driven, is_postgres
from kdnas_ray.runs import append_jsonl, parse_jsonl, read_config, read_jsonl
from kdnas_ray.tracking import (
    OUTBOX,
    REFUSED,
    RUNS,
    SQLITE,
    TrackingSettings,
    progress,
    sending,
    shown_uri,
    tracking_uri,
    without_secrets,
    write_progress,
)
from search_spaces.errors import KdnasError, first_line

CHUNK_BYTES = 512 * 1024
POLL_S = 1.0
LONGEST_WAIT_S = 30.0
CANDIDATE = "kdnas.candidate"
MODEL = "kdnas.model"
RUN_STATES = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}

Record = Mapping[str, Any]


class Sender:
    """Sends one run's records to its tracking store.

    Args:
        run: the run folder.
        settings: of tracking.
    """

    def __init__(self, run: Path, settings: TrackingSettings) -> None:
        # A server that is away must be noticed in seconds: the records are kept and sent later.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        self.run, self.settings = run, settings
        uri = tracking_uri(settings, run)
        self.store = shown_uri(uri)
        write_progress(run, self.store)
        _make_whole(uri)
        mlflow.set_tracking_uri(driven(uri))
        self.client = mlflow.MlflowClient()
        known = progress(run, self.store)
        self.parent: str | None = known.get("parent")
        self.experiment: str | None = known.get("experiment")
        self.children = {row["id"]: row["run_id"] for row in self._made() if row["store"] == self.store}
        self.offset: int = known.get("offset", 0)
        self._after_restart = True

    def send_waiting(self) -> int:
        """Send what is in the outbox; returns how many records. Raises what MLflow raises."""
        sent = 0
        while chunk := self._chunk():
            records = parse_jsonl(chunk)
            try:
                self._send(records)
            except Exception as error:
                if not _refused(error):
                    raise
                self._send_each(records)
            self.offset += len(chunk)
            write_progress(self.run, self.store, offset=self.offset)
            sent += len(records)
        return sent

    def _send_each(self, records: Sequence[Record]) -> None:
        """One by one, so that a record which the store will never take does not hold up all others."""
        for record in records:
            try:
                self._send([record])
            except Exception as error:
                if not _refused(error) or record["type"] == "search_started":  # without its parent nothing can go on
                    raise
                reason = first_line(error)
                append_jsonl(self.run / REFUSED, {"store": self.store, "reason": reason, "record": record})
                _note(f"MLflow refuses a record of type {record['type']}: {reason}")

    def states(self) -> dict[str, str] | None:
        """State of each candidate in the store; None where it does not have the search. Raises as MLflow does."""
        from mlflow.exceptions import MlflowException

        try:
            if self.parent is None or self.client.get_run(self.parent).info.lifecycle_stage != "active":
                return None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        found: dict[str, str] = {}
        token = None
        while True:
            of_search = f"tags.`mlflow.parentRunId` = '{self.parent}'"
            page = self.client.search_runs([self._experiment()], of_search, max_results=1000, page_token=token)
            found |= {run.data.tags.get(CANDIDATE, ""): run.data.tags.get("kdnas.state", "") for run in page}
            token = page.token
            if not token:
                return found

    def _made(self) -> list[dict[str, Any]]:
        return read_jsonl(self.run / RUNS)

    def _chunk(self) -> bytes:
        path = self.run / OUTBOX
        if not path.exists():
            return b""
        with path.open("rb") as file:
            file.seek(self.offset)
            chunk = file.read(CHUNK_BYTES)
            while chunk and not chunk.endswith(b"\n") and (rest := file.readline()):
                chunk += rest
        return chunk[: chunk.rfind(b"\n") + 1]

    def _send(self, records: Sequence[Record]) -> None:
        by_candidate: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record["type"] == "search_started":
                self._start_search(record)
            elif "id" in record:
                by_candidate[record["id"]].append(record)
        for candidate, own in by_candidate.items():
            self._send_candidate(candidate, own)
        self._send_progress(records)
        for record in records:
            if record["type"] == "best":
                self._log_model(record)
            elif record["type"] == "exported":
                self._log_exported(record)
            elif record["type"] == "explained":
                self._log_files(record["artifacts"])
            elif record["type"] == "search_ended":
                self._end_search(record)
        self._after_restart = False

    def _start_search(self, record: Record) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        if self.parent is None:
            found = self.client.get_experiment_by_name(record["experiment"])
            if found is None:
                try:
                    experiment = self.client.create_experiment(record["experiment"])
                except MlflowException:  # another search made it at the same time
                    found = self.client.get_experiment_by_name(record["experiment"])
                    if found is None:
                        raise
            experiment = found.experiment_id if found is not None else experiment
            made = self.client.create_run(
                experiment,
                start_time=record["time_ms"],
                run_name=record["name"],
                tags=_run_tags(record["tags"]),
            )
            self.parent, self.experiment = made.info.run_id, experiment
            write_progress(self.run, self.store, parent=self.parent, experiment=experiment)
        else:
            self.client.update_run(self.parent, status="RUNNING")
        known = self.client.get_run(self.parent).data.params
        texts = {_key(name): _text(value) for name, value in record["params"].items()}
        new = [Param(name, value) for name, value in texts.items() if name not in known]
        for begin in range(0, len(new), 100):
            self.client.log_batch(self.parent, params=new[begin : begin + 100])
        for name, value in texts.items():  # MLflow's parameters never change; what a resume changed is a tag
            if known.get(name, value) != value:
                self.client.set_tag(self.parent, f"kdnas.resumed.{name}", value)

    def _send_candidate(self, candidate: str, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics: list[Metric] = []
        params: list[Param] = []
        tags: dict[str, str] = {}
        begun = next((record for record in records if record["type"] == "candidate_started"), None)
        run_id = self._child(candidate, begun)
        for record in records:
            when = record["time_ms"]
            if record["type"] == "candidate_started":
                parts = {f"{name}.json": record[name] for name in ("architecture", "recipe")}
                with _folder(parts) as folder:
                    self.client.log_artifacts(run_id, folder)
                params += [Param(_key(name), _text(value)) for name, value in record["params"].items()]
                metrics += [Metric(_key(name), value, when, 0) for name, value in record["metrics"].items()]
            elif record["type"] == "rung":
                for point in record["curve"]:
                    values = {name: value for name, value in point.items() if name != "epoch" and value is not None}
                    metrics += [Metric(name, value, when, int(point["epoch"])) for name, value in values.items()]
                tags["kdnas.rung"] = str(record["epoch"])
            elif record["type"] == "candidate_ended":
                tags["kdnas.state"] = record["state"]
                if record["reason"]:
                    tags["kdnas.reason"] = record["reason"][:5000]
            elif record["type"] == "retrained":
                metrics += _retrained(record)
        for begin in range(0, max(len(metrics), 1), 900):
            first = begin == 0
            self.client.log_batch(
                run_id,
                metrics[begin : begin + 900],
                params if first else (),
                [RunTag(name, value) for name, value in tags.items()] if first else (),
            )
        ended = next((record for record in records if record["type"] == "candidate_ended"), None)
        if ended is not None:
            self.client.set_terminated(run_id, RUN_STATES[ended["state"]], ended["time_ms"])

    def _child(self, candidate: str, begun: Record | None) -> str:
        if candidate not in self.children:
            assert begun is not None, f"{candidate} was never started"
            made = (self._after_restart and self._lost_child(candidate)) or self._new_child(candidate, begun)
            self.children[candidate] = made
            row = {"store": self.store, "id": candidate, "run_id": made}
            append_jsonl(self.run / RUNS, row)
        return self.children[candidate]

    def _lost_child(self, candidate: str) -> str | None:
        """The run that was made just before an earlier sender was killed."""
        wanted = f"tags.`{CANDIDATE}` = '{candidate}' and tags.`mlflow.parentRunId` = '{self.parent}'"
        found = self.client.search_runs([self._experiment()], wanted, max_results=1)  # its artifacts are sent again
        return found[0].info.run_id if found else None

    def _new_child(self, candidate: str, begun: Record) -> str:
        tags = {"mlflow.parentRunId": self.parent, CANDIDATE: candidate, "kdnas.state": "running"}
        made = self.client.create_run(
            self._experiment(), start_time=begun["time_ms"], run_name=candidate, tags=_run_tags(tags)
        )
        return made.info.run_id

    def _experiment(self) -> str:
        assert self.experiment is not None, "a run's first record starts its search"
        return self.experiment

    def _send_progress(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, record["time_ms"], record["candidates"])
            for record in records
            if record["type"] == "candidate_ended"
            for name, value in record["progress"].items()
            if value is not None
        ]
        for begin in range(0, len(metrics), 900):
            self.client.log_batch(self.parent, metrics[begin : begin + 900])

    def _log_model(self, record: Record) -> None:
        import mlflow
        import numpy as np
        import torch
        from mlflow.models import infer_signature

        from kdnas_ray.kept_config import run_config
        from trainables.model_files import complete, load_student

        this = f"{record['candidate']} {record['time_ms']}"
        if self.client.get_run(self.parent).data.tags.get(MODEL) == this:  # logged before a crash
            return
        folder = _inside(self.run, record["folder"])
        if folder is None:  # the user deleted it: the records after it must not wait
            _note(f"{record['folder']} is gone; the model is not logged")
            return
        with contextlib.suppress(KdnasError):
            run_config(self.run)  # imports a space of the user's own, which the model may be of
        student, meta = load_student(folder)
        model = complete(student, meta)
        images = np.zeros((2, *meta["shape"]), dtype=meta.get("dtype", "uint8"))
        with torch.no_grad():
            signature = infer_signature(images, model(torch.from_numpy(images)).numpy())
        with mlflow.start_run(run_id=self.parent), _exported(record["candidate"]):
            mlflow.pytorch.log_model(
                model,
                name="student",
                signature=signature,
                input_example=images,
                serialization_format="pt2",  # the other choice is a pickle
                registered_model_name=self.settings.register_as,
                pip_requirements=[
                    f"torch=={torch.__version__.partition('+')[0]}",
                    f"numpy=={np.__version__}",
                ],
                metadata={"classes": meta["classes"], "candidate": record["candidate"]},
            )
        self.client.set_tag(self.parent, MODEL, this)

    def _log_exported(self, record: Record) -> None:
        import mlflow
        import numpy as np
        import onnx
        from mlflow.models import infer_signature

        from kdnas_ray.onnx_files import PIXELS, answers, quietly

        before, needed = self.client.get_run(self.parent), ("onnx", "onnxruntime", "numpy")
        for name in record["files"]:
            path = Path(record["folder"], Path(name).name)
            this, tag = f"{record['candidate']} {record['time_ms']}", f"{MODEL}.{path.stem}"
            if before.data.tags.get(tag) == this:
                continue
            if not path.exists():
                _note(f"{name} is gone; the exported model is not logged")
                continue
            about = json.loads((path.parent / "about.json").read_text(encoding="utf8"))
            images = np.zeros((2, *about["input"]["shape"][1:]), dtype=about["input"]["type"])
            with mlflow.start_run(run_id=self.parent), _exported(record["candidate"]), quietly():
                mlflow.onnx.log_model(
                    onnx.load(path),
                    name=f"{path.stem}-onnx",
                    signature=infer_signature({PIXELS: images}, {"logits": answers(path, images)}),
                    input_example={PIXELS: images},
                    pip_requirements=[f"{part}=={about['versions'][part]}" for part in needed],
                    metadata={"classes": about["classes"], "candidate": record["candidate"]},
                    save_as_external_data=False,
                )
            self.client.set_tag(self.parent, tag, this)
        # The run was opened again for the model: it ended when and as its search did.
        if before.info.end_time is not None:
            self.client.set_terminated(self.parent, before.info.status, before.info.end_time)

    def _end_search(self, record: Record) -> None:
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(name, float(value), record["time_ms"], 0) for name, value in record["metrics"].items()]
        self.client.log_batch(self.parent, metrics, tags=[RunTag(*tag) for tag in record["tags"].items()])
        self._log_files(record["artifacts"])
        self.client.set_terminated(self.parent, record["status"], record["time_ms"])

    def _log_files(self, names: Sequence[str]) -> None:
        for name in names:
            if (path := _inside(self.run, name)) is not None:
                folder = str(Path(name).parent)
                self.client.log_artifact(self.parent, str(path), None if folder == "." else folder)


def main(run: Path) -> None:
    """Send records as they are written, until the search closes the pipe; then what is left, trying once."""
    os.nice(19)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with sending(run, wait=True):  # a killed search's sender may still be finishing
        sender: Sender | None = None
        wait = POLL_S
        while True:
            searching = not _closed(sys.stdin.fileno(), wait)
            try:
                sender = sender or Sender(run, TrackingSettings(**read_config(run)["tracking"]))
                sender.send_waiting()
                wait = POLL_S
            except Exception as error:  # whatever it was: the records are kept, so try again
                uri = os.environ.get("MLFLOW_TRACKING_URI", "")  # it may hold a password
                _note(without_secrets(f"{type(error).__name__}: {error}", uri))
                wait = min(2 * wait, LONGEST_WAIT_S)
            if not searching:
                return


def _make_whole(uri: str) -> None:
    """A store that is not there yet, with all its tables: MLflow never mends an SQLite file whose making was cut short.

    In PostgreSQL two senders that begin at once must not both make them.
    """
    if is_postgres(uri):
        from kdnas_ray.database import making_tables

        with making_tables(uri):
            _touch(driven(uri))
    path = Path(uri.removeprefix(SQLITE).partition("?")[0])
    if not uri.startswith(SQLITE) or path.exists():
        return
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        made, copied = Path(folder) / "made.db", Path(folder) / "copied.db"
        _touch(f"{SQLITE}{made}")
        shutil.copy(made, copied)  # MLflow keeps the first one open
        try:
            os.link(copied, path)
        except FileExistsError:  # another search was faster
            return
        except OSError:  # a file system without links
            os.replace(copied, path)


def _touch(uri: str) -> None:
    from mlflow import MlflowClient

    MlflowClient(uri).search_experiments(max_results=1)


@contextlib.contextmanager
def _exported(candidate: str) -> Iterator[None]:
    """Goes on without the model where torch cannot export it; the weights lie in the run folder all the same."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError):  # the store's fault: tried again
        raise
    except Exception as error:
        _note(f"{candidate} cannot be exported; the model is not logged ({type(error).__name__}: {first_line(error)})")


def _inside(run: Path, name: str) -> Path | None:
    """A run's file or folder; None where it is not there, or leads out: a run from elsewhere must send no others."""
    path = (run / name).resolve()
    return path if path.is_relative_to(run.resolve()) and path.exists() else None


def _note(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def _key(name: str) -> str:
    """The name as MLflow takes it; decisions of a user's own space may be called anything."""
    return re.sub(r"[^\w.\-/ :]+", "_", name)


def _refused(error: Exception) -> bool:
    """Whether the store will refuse the same record every time: the fault is in the record."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")


def _closed(descriptor: int, timeout_s: float) -> bool:
    ready, _, _ = select.select([descriptor], [], [], timeout_s)
    return bool(ready) and os.read(descriptor, 1) == b""


def _retrained(record: Record) -> list[Any]:
    from mlflow.entities import Metric

    end = "" if record["with_kd"] else "_without_kd"
    return [
        Metric(f"retrained.{name}{end}", record[name], record["time_ms"], record["repeat"])
        for name in record
        if name.endswith(("accuracy", "forgetting"))
    ]


def _run_tags(tags: Mapping[str, str | None]) -> dict[str, str]:
    return {
        "mlflow.source.name": "kdnas",
        "mlflow.source.type": "LOCAL",
        **{k: str(v) for k, v in tags.items()},
    }


def _text(value: Any) -> str:
    return str(value)[:6000]


@contextlib.contextmanager
def _folder(files: Mapping[str, Any]) -> Iterator[str]:
    folder = tempfile.mkdtemp()
    try:
        for name, content in files.items():
            Path(folder, name).write_text(json.dumps(content, indent=2) + "\n")
        yield folder
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
