"""A Ray head with token authentication, shared by the tests that join it."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CPUS = 3  # another number than a search of its own would find here
STARTS_S = 60.0


@dataclass(frozen=True)
class Head:
    """Where it listens, what a process needs in its environment to be let in, and how many CPUs it offers."""

    address: str
    key: dict[str, str]
    cpus: int


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head without a dashboard."""
    with ray_head(tmp_path_factory.mktemp("head"), "--include-dashboard=false") as started:
        yield started


@contextlib.contextmanager
def ray_head(folder: Path, *more: str) -> Iterator[Head]:
    """`ray start --head` in a process of its own, on a port of its own."""
    token, log = folder / "auth_token", folder / "log"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port = free_port()
    # Ray's sockets lie in its folder, and the path of a socket may not be long.
    place = tempfile.mkdtemp(prefix="kdnas-")
    key = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    words = [
        *("--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", f"--num-cpus={CPUS}"),
        *(f"--object-store-memory={2**28}", f"--temp-dir={place}", *more),
    ]
    programs = Path(sys.executable).parent
    with log.open("w") as file:
        started = subprocess.Popen(
            [str(programs / "ray"), "start", *words],
            env={**os.environ, **key, "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{programs}:{os.environ['PATH']}"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + STARTS_S
        while "Ray runtime started" not in log.read_text():
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield Head(f"127.0.0.1:{port}", key, CPUS)
    finally:
        started.terminate()  # and with it what it started; never `ray stop`, which ends every Ray of the machine
        started.wait(30)
        shutil.rmtree(place, ignore_errors=True)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
