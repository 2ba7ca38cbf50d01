"""A task that does something terrible in the worker of a candidate; named by import path in tests and benchmarks."""

import io
import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from trainables.tasks.digits import DigitsTask


@dataclass(frozen=True)
class Faulty(DigitsTask):
    """Digits whose loss does `fault` in so many trainings; never where the teacher is trained.

    Args:
        fault: name of a function below.
        folder: where those are counted.
        times: how often.
        after: steps that a worker does before.
    """

    fault: str = "kill"
    folder: str = "."
    times: int = 1
    after: int = 60

    def loss(self, answers: Tensor, labels: Tensor) -> Tensor:
        """The usual loss, or no more than that."""
        found = super().loss(answers, labels)
        global calls
        calls += torch.is_grad_enabled()
        if IN_WORKER and calls > self.after and self._first():
            calls = 0
            return FAULTS[self.fault](found)
        return found

    def _first(self) -> bool:
        for number in range(self.times):
            try:
                os.close(os.open(Path(self.folder) / f"{self.fault}-{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False


IN_WORKER = "RAY_RAYLET_PID" in os.environ  # Ray sets it for those that it starts
calls = 0


def kill(loss: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return loss


def kill_in_save(loss: Tensor) -> Tensor:
    """Dies in the middle of writing the next checkpoint."""
    save = torch.save

    def half(state: object, file: IO[bytes]) -> None:
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half
    return loss


def told_to_go(loss: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGTERM)
    return loss


def hang(loss: Tensor) -> Tensor:
    time.sleep(600)
    return loss


def not_a_number(loss: Tensor) -> Tensor:
    return loss * float("nan")


def infinite(loss: Tensor) -> Tensor:
    return loss + float("inf")


def out_of_memory(loss: Tensor) -> Tensor:
    """As much as the process may have, and more: Python, or the system, has to say no."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))
    try:
        return loss + torch.ones(2**30).sum()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


FAULTS = {
    fault.__name__: fault for fault in (kill, kill_in_save, told_to_go, hang, not_a_number, infinite, out_of_memory)
}
