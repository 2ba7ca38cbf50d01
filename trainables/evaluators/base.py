"""What does an evaluator prepare before candidates are trained?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from search_spaces import Architecture, KdnasError, first_line
from trainables.distill import Shared, Start

Each = Callable[[Callable[..., Any], Sequence[tuple]], list[Any]]
"""`each(function, arguments)`: the function's answers to each tuple of arguments, computed side by side."""


class Judge(Protocol):
    """Scores architectures without training them: more is better."""

    def __call__(self, architectures: Sequence[Architecture]) -> list[float]:
        """A score each."""


@dataclass(frozen=True)
class Prepared:
    """What the search gets from an evaluator.

    Args:
        start: weights that candidates begin with; None for fresh ones.
        proposals: architectures to train first, the most promising first.
        judge: scores architectures before any is trained; None where the evaluator knows nothing of them.
    """

    start: Start | None = None
    proposals: tuple[Architecture, ...] = ()
    judge: Judge | None = None


@dataclass(frozen=True)
class Workshop:
    """What an evaluator works with.

    Args:
        shared: what every trial reads.
        reference: the same in the object store, to be handed to `each`.
        each: runs a function on several arguments side by side.
        keeps: whether an architecture keeps all constraints.
        folder: of the run, for what a resumed search must not compute again.
        seed: of the search.
        say: tells progress.
    """

    shared: Shared
    reference: Any
    each: Each
    keeps: Callable[[Architecture], bool]
    folder: Path
    seed: int
    say: Callable[[str], None]


def check_options(options: Any, least: Mapping[str, float], above_zero: Sequence[str]) -> None:
    """Refuses numbers of an evaluator's options that make no sense.

    Args:
        options: the dataclass; an `alpha` is a share.
        least: smallest value of each.
        above_zero: names of those that must be above 0.

    Raises:
        KdnasError: names the first.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value < bound:
            raise KdnasError("too small", field=f"evaluator.{name}", value=value, remedy=f"choose {bound} or more")
    for name in above_zero:
        value = getattr(options, name)
        if value <= 0:
            raise KdnasError("not possible", field=f"evaluator.{name}", value=value, remedy="choose above 0")
    if not 0 <= getattr(options, "alpha", 0) <= 1:
        raise KdnasError("a share", field="evaluator.alpha", value=options.alpha, remedy="choose 0 to 1")


def load_state(path: Path) -> dict[str, Any]:
    """What an earlier session kept.

    Raises:
        KdnasError: it cannot be read.
    """
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # cut short or foreign; torch raises nearly anything
        raise KdnasError(
            f"cannot be read ({first_line(error)})",
            field="evaluator",
            value=str(path),
            remedy="delete it: the search prepares its evaluator anew",
        ) from error
