"""Which numbers of a candidate can be optimised or bounded?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from search_spaces import KdnasError, Registry
from trainables.proxies import PROXIES


@dataclass(frozen=True)
class Objective:
    """A named number of a candidate with a direction.

    Args:
        summary: what it is, with its unit.
        maximise: whether more is better.
        needs_data: False when the architecture alone decides it, so that it can be bounded.
    """

    summary: str
    maximise: bool = False
    needs_data: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.summary)


OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    ("val_accuracy", Objective("Share of validation samples classified correctly, 0 to 1", True, True)),
    ("params", Objective("Number of trainable parameters")),
    ("flops", Objective("Floating point operations for one input, 2 for each multiply-add")),
    *(
        (name, Objective((proxy.__doc__ or "").partition("\n")[0], maximise=True, needs_data=True))
        for name, proxy in PROXIES.items()
    ),
)
CONSTRAINABLE = [name for name, objective in OBJECTIVES.items() if not objective.needs_data]


class _Limits(Protocol):
    @property
    def max(self) -> float | None:
        """Largest allowed number."""

    @property
    def of_teacher(self) -> float | None:
        """Largest allowed share of the teacher's number."""


def limits(constraints: Mapping[str, _Limits], teacher: Mapping[str, float]) -> dict[str, float]:
    """Largest allowed value of each constrained number, shares of the teacher's resolved.

    Raises:
        KdnasError: a share of a number that the teacher has none of.
    """
    found: dict[str, float] = {}
    for name, bound in constraints.items():
        if bound.of_teacher is not None and not teacher[name]:
            raise KdnasError(
                f"the teacher has no {name} to take a share of",
                field=f"constraints.{name}.of_teacher",
                value=bound.of_teacher,
                remedy=f"give a number instead: constraints.{name}.max",
            )
        share = bound.of_teacher * teacher[name] if bound.of_teacher is not None else float("inf")
        found[name] = min(bound.max if bound.max is not None else float("inf"), share)
    return found


def excess(costs: Mapping[str, float], bounds: Mapping[str, float]) -> dict[str, float]:
    """How far each bound is exceeded, relative to it: 0.5 is half too much; at most 0 where it is kept."""
    return {name: costs[name] / bound - 1 for name, bound in bounds.items()}
