"""How do temperature and alpha run over a training? A schedule is the share of the way from start to end."""

import math
from collections.abc import Callable

from search_spaces import Registry

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Stays at its start for the whole training.

    Source: Hinton 2015, Distilling the Knowledge in a Neural Network.
    """
    return 0.0


def linear(progress: float) -> float:
    """Runs from start to end at an even pace.

    Source: Jafari 2021, Annealing Knowledge Distillation, section 3.1 (a temperature that falls step by step).
    """
    return progress


def cosine(progress: float) -> float:
    """Leaves its start slowly, is fastest half way, and reaches its end slowly: `(1 - cos(pi * progress)) / 2`.

    Source: Loshchilov and Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, eq. 5.
    """
    return (1 - math.cos(math.pi * progress)) / 2


SCHEDULES: Registry[Schedule] = Registry("schedule", ("constant", constant), ("linear", linear), ("cosine", cosine))


def between(schedule: str, start: float, end: float, progress: float) -> float:
    """Value at `progress` (0 at the first step, 1 at the last)."""
    return start + (end - start) * SCHEDULES[schedule](progress)
