"""How are the machines of a Ray cluster stood in for? By a `ray start` each, ended by the ids of its processes."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

STARTS_S = 90.0
LOOK_S = 0.05


@dataclass
class Machine:
    """Where a node runs: with an address of its own, where it is a network namespace.

    Args:
        ip: its address.
        within: words before each command that is to run there.
    """

    ip: str = "127.0.0.1"
    within: Sequence[str] = ()


@dataclass
class Node:
    """A running `ray start --block`.

    Args:
        process: that command.
        machine: where it runs.
        address: of its cluster's head.
    """

    process: subprocess.Popen[bytes]
    machine: Machine
    address: str

    def processes(self) -> list[psutil.Process]:
        """The command and all that it started, as far as they run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def named(self, name: str) -> list[psutil.Process]:
        """Those of them whose name or title holds this text."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if name in process.name() or name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def send(self, number: int) -> None:
        """A signal to all of them, as nearly at once as can be."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """`kill -9` of all, as when the machine loses its power."""
        self.send(signal.SIGSTOP)  # nobody notices that another is gone and does something about it
        self.send(signal.SIGKILL)
        self.process.wait(30)


@dataclass
class Cluster:
    """Nodes with a token, and a folder for their files; the head's port is chosen once, so that it can come again.

    Args:
        folder: for token and logs.
        key: what a process needs in its environment to be let in.
        place: Ray's own files.
        port: of the head.
    """

    folder: Path
    key: Mapping[str, str]
    place: Path
    port: int
    nodes: list[Node] = field(default_factory=list)

    def head(self, machine: Machine, cpus: int, *options: str, **env: str) -> Node:
        """Start a head."""
        words = ("--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.place}")
        return self._start(machine, f"{machine.ip}:{self.port}", cpus, *words, *options, **env)

    def worker(self, head: Node, machine: Machine, cpus: int) -> Node:
        """Start a node that joins the head's cluster."""
        return self._start(machine, head.address, cpus, f"--address={head.address}")

    def _start(self, machine: Machine, address: str, cpus: int, *words: str, **env: str) -> Node:
        log = self.folder / f"node-{len(self.nodes)}.log"
        common = ("--block", f"--node-ip-address={machine.ip}", f"--num-cpus={cpus}", f"--object-store-memory={2**28}")
        with log.open("w") as file:
            process = subprocess.Popen(
                [*machine.within, str(Path(sys.executable).with_name("ray")), "start", *common, *words],
                env={**os.environ, **self.key, "RAY_USAGE_STATS_ENABLED": "0", **env},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.nodes.append(node := Node(process, machine, address))
        end = time.monotonic() + STARTS_S
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a node did not start: {log.read_text()}")
            time.sleep(LOOK_S)
        return node


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster without nodes yet; those that it is given are ended when the context ends."""
    token = folder / "auth_token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Ray's sockets lie in its folder, and the path of a socket may not be long.
    place = Path(tempfile.mkdtemp(prefix="kdnas-"))
    made = Cluster(folder, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}, place, port)
    try:
        yield made
    finally:
        for node in made.nodes:  # never `ray stop`, which ends every Ray of the machine
            node.kill()
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """Network namespaces on one bridge, each with an address of its own.

    Raises:
        PermissionError: this process may not make them.
    """
    own = f"kd{os.getpid() % 100_000}"
    names = [f"{own}n{number}" for number in range(count)]
    net = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    try:
        _ip("link", "add", own, "type", "bridge")
        _ip("link", "set", own, "up")
        for number, name in enumerate(names, start=1):
            _ip("netns", "add", name)
            _ip("link", "add", f"{own}v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"{own}v{number}", "master", own, "up")
            _ip("-n", name, "addr", "add", f"{net}.{number}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield [Machine(f"{net}.{number}", ("ip", "netns", "exec", name)) for number, name in enumerate(names, 1)]
    finally:
        for words in (*(("netns", "del", name) for name in names), ("link", "del", own)):
            with contextlib.suppress(PermissionError):  # it was not made
                _ip(*words)


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PermissionError("needs the command `ip` (package iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise PermissionError(error.stderr.strip()) from error
