"""A real PostgreSQL for tests: its own data directory and port, on loopback, ended with them."""

import contextlib
import getpass
import glob
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

USER, PASSWORD = "kdnas", "planted-theta"


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Args:
        folder: of its data, a password file and its log.
        port: on 127.0.0.1.
    """

    folder: Path
    port: int

    @property
    def passfile(self) -> str:
        """For PGPASSFILE."""
        return str(self.folder / "passwords")

    def url(self, database: str, password: str = "") -> str:
        """Address of a database; without a password as configurations hold it."""
        return f"postgresql://{USER}{password and ':' + password}@127.0.0.1:{self.port}/{database}"

    def make(self, *databases: str) -> None:
        """Create databases."""
        with psycopg.connect(self.url("postgres", PASSWORD), autocommit=True) as connection:
            for name in databases:
                connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]

    def rows(self, database: str, query: str) -> list[tuple]:
        """What a query finds."""
        with psycopg.connect(self.url(database, PASSWORD)) as connection:
            return connection.execute(query).fetchall()  # type: ignore[call-overload]

    def control(self, *words: str) -> None:
        """`pg_ctl` on this server."""
        log = self.folder / "log"
        _run("pg_ctl", "--pgdata", self.folder / "data", "--wait", "--silent", "--log", log, *words)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server of its own; skips the test where PostgreSQL is not installed."""
    if _binary("initdb") is None:
        pytest.skip("needs PostgreSQL's server (apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="kdnas-pg-") as name:  # short: it holds a socket
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        _run("initdb", "--pgdata", folder / "data", "--username", USER, "--pwfile", folder / "password",
             "--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8")  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(f"port={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{folder}'\n")
            settings.write("fsync=off\nmax_connections=60\n")  # a kill of the server loses nothing all the same
        server = Server(folder, port)
        passwords = Path(server.passfile)
        passwords.write_text(f"127.0.0.1:{port}:*:{USER}:{PASSWORD}\n")
        passwords.chmod(0o600)
        server.control("start")
        try:
            yield server
        finally:
            server.control("stop", "-m", "immediate")


def _run(program: str, *words: str | Path) -> None:
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    done = subprocess.run(
        [*as_user, str(_binary(program)), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, f"{getpass.getuser()}: {done.stdout}"


def _binary(name: str) -> str | None:
    return next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)), None) or shutil.which(name)
