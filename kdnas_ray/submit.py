"""How does a search get onto a cluster from a machine that is not part of it? As a job of Ray."""

import asyncio
import dataclasses
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel

from kdnas_ray.config import SearchConfig
from kdnas_ray.kept_config import keep_config
from search_spaces import KdnasError, RunError

CONFIG = "config.yaml"
OURS = {"kdnas_ray", "trainables", "search_spaces"}
IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
LARGEST_MB = 100  # that Ray takes as a job's working folder


def start(config: SearchConfig, address: str, out: str, sent: Sequence[Path] = ()) -> tuple[Any, str]:
    """Start `kdnas search` with this configuration on the head of a cluster; returns Ray's client and the job's id.

    The resolved configuration and what is in `sent` become the job's working folder, on the head and on all workers.
    The package itself has to be installed there, as `cluster.yaml` does it; data lie where the head sees them, or in
    `sent`.

    Args:
        config: what to search.
        address: of the head's dashboard, `http://host:8265`.
        out: run folder to create, an absolute path on the head.
        sent: files and folders that go along, under their own names.

    Raises:
        KdnasError: the address is none, nobody answers there or it does not let us in; a path means nothing on the
            head; something that should go along is not there, or too large.
    """
    if not address.startswith(("http://", "https://")):
        raise KdnasError(
            "is not the address of a dashboard",
            field="--address",
            value=address,
            remedy="jobs go to http://HOST:8265, where the head's dashboard listens (`ray dashboard cluster.yaml`)",
        )
    if not PurePosixPath(out).is_absolute():
        raise KdnasError(
            "leads into the job's working folder, which is removed with the job",
            field="--out",
            value=out,
            remedy="give an absolute path that all machines of the cluster see, such as /shared/runs/first",
        )
    names = {path.name for path in sent}
    _check_paths(config, names)
    _check_modules(config, names)
    with tempfile.TemporaryDirectory(prefix="kdnas-submit-") as folder:
        _fill(Path(folder), config, sent)
        client = _client(address)
        # Ray, which sets this as it is asked first, would tell what it packs and uploads.
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)
        command = shlex.join(["kdnas", "search", CONFIG, "--out", out])
        job = client.submit_job(entrypoint=command, runtime_env={"working_dir": folder})
    return client, job


def follow(client: Any, job: str, say: Callable[[str], None]) -> None:
    """Tell what the job prints until it ends.

    Raises:
        RunError: it did not succeed.
    """

    async def told() -> None:
        async for lines in client.tail_job_logs(job):
            say(lines.rstrip("\n"))

    asyncio.run(told())
    status = client.get_job_status(job).value
    if status != "SUCCEEDED":
        message = (client.get_job_info(job).message or "").partition(", last available logs")[0]
        raise RunError(f"ended as {status}: {message}", field="job", value=job)


def _client(address: str) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        client.list_jobs()  # the first that asks for the token
        return client
    except ConnectionError as error:
        raise KdnasError(
            "no dashboard answers there",
            field="--address",
            value=address,
            remedy="is the head running with its dashboard (ray[default]), and does a tunnel lead to it?",
        ) from error
    except AuthenticationError as error:
        raise KdnasError(
            "that Ray asks for a token and does not know ours",
            field="--address",
            value=address,
            remedy="set RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN_PATH",
        ) from error
    except RuntimeError as error:
        raise KdnasError(str(error).splitlines()[0], field="--address", value=address) from error


def _check_paths(config: SearchConfig, sent: set[str]) -> None:
    """A relative path means something in the working folder of the job only."""
    for field, path in _paths(config):
        if not path.is_absolute() and path.parts and path.parts[0] not in sent:
            raise KdnasError(
                "is a path of this machine",
                field=field,
                value=str(path),
                remedy=f"give an absolute path that the head sees, or send it along: --with {path.parts[0]}",
            )


def _paths(part: Any, name: str = "") -> Iterator[tuple[str, Path]]:
    if isinstance(part, Path):
        yield name, part
    elif isinstance(part, BaseModel):
        for field in type(part).model_fields:
            yield from _paths(getattr(part, field), f"{name}.{field}" if name else field)
    elif dataclasses.is_dataclass(part):
        for each in dataclasses.fields(part):
            yield from _paths(getattr(part, each.name), f"{name}.{each.name}" if name else each.name)
    elif isinstance(part, dict):
        for key, value in part.items():
            yield from _paths(value, f"{name}.{key}")
    elif isinstance(part, (list, tuple)):
        for place, value in enumerate(part):
            yield from _paths(value, f"{name}.{place}")


def _check_modules(config: SearchConfig, sent: set[str]) -> None:
    """Modules that the configuration names code of (`module:name`) must be sent, or be installed there."""
    for text in _texts(config.resolved()):
        home = text.partition(":")[0].partition(".")[0]
        file = getattr(sys.modules.get(home), "__file__", None) if IMPORT_PATH.fullmatch(text) else None
        if file is None or home in OURS or Path(file).is_relative_to(sys.prefix):
            continue
        given = Path(file).parent if Path(file).name == "__init__.py" else Path(file)
        if given.name not in sent:
            raise KdnasError(
                "is code of this machine",
                field="CONFIG",
                value=text,
                remedy=f"send it along: --with {os.path.relpath(given)}",
            )


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, (dict, list, tuple)):
        for value in part.values() if isinstance(part, dict) else part:
            yield from _texts(value)


def _fill(folder: Path, config: SearchConfig, sent: Sequence[Path]) -> None:
    keep_config(folder, config)
    for path in sent:
        if not path.exists():
            raise KdnasError("is not there", field="--with", value=str(path))
        if path.name in ("", "..", CONFIG) or (folder / path.name).exists():
            raise KdnasError("has no name of its own to be sent under", field="--with", value=str(path))
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv"))
        else:
            shutil.copy(path, folder / path.name)
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if taken > LARGEST_MB * 2**20:
        raise KdnasError(
            f"is {taken / 2**20:,.0f} MB, and a job takes {LARGEST_MB}",
            field="--with",
            value=" ".join(map(str, sent)),
            remedy="put data where the head sees them, and name them by an absolute path or a URL",
        )
