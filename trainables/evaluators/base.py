"""What does an evaluator prepare before candidates are trained?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from search_spaces import Architecture
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
