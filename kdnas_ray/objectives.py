"""Which numbers of a candidate can be optimised or bounded?

Some are numbers on a device; their full name ends in it, as in `latency_ms/npu-small`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from search_spaces import KdnasError, Registry
from trainables.proxies import PROXIES


@dataclass(frozen=True)
class Objective:
    """A named number of a candidate with a direction.

    Args:
        summary: what it is, with its unit.
        maximise: whether more is better.
        needs_data: False when the architecture alone decides it, so that it can be bounded.
        of_device: whether it depends on a device.
    """

    summary: str
    maximise: bool = False
    needs_data: bool = False
    of_device: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.summary)


OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    (
        "val_accuracy",
        Objective("Share of validation samples classified correctly, or the task's metric, 0 to 1", True, True),
    ),
    (
        "forgetting",
        Objective("Mean loss of the best earlier accuracy on the groups of a stream, after the last", needs_data=True),
    ),
    ("params", Objective("Number of trainable parameters")),
    ("flops", Objective("Floating point operations for one input, 2 for each multiply-add")),
    ("latency_ms", Objective("Modelled milliseconds for one input on a device", of_device=True)),
    ("memory_mb", Objective("Megabytes (10^6 bytes) of weights and activations on a device", of_device=True)),
    *(
        (name, Objective((proxy.__doc__ or "").partition("\n")[0], maximise=True, needs_data=True))
        for name, proxy in PROXIES.items()
    ),
)
LEARNED = ("val_accuracy", "forgetting")  # known only by training
CONSTRAINABLE = [name for name, objective in OBJECTIVES.items() if not objective.needs_data]
SIZES = [name for name in CONSTRAINABLE if not OBJECTIVES[name].of_device]
EXAMPLES = {"params": 20000, "flops": 1_000_000}  # numbers in messages
MEMORY = "memory"  # stands among the operators that a device lacks for a network that does not fit into it
UNSUPPORTED = "unsupported"  # operators that a device lacks: bounded to none for every device that bounds anything


def objective(name: str) -> Objective:
    """The objective of a full name."""
    return OBJECTIVES[name.partition("/")[0]]


def full_name(name: str, device: str | None, devices: Sequence[str], bound: Mapping[str, float] | None = None) -> str:
    """Name of a number with the device that it is meant on: its own, the one given, or the first of `devices`.

    Args:
        name: of the number.
        device: the one given.
        devices: all that there are.
        bound: where it is bounded, by `max` or `of_teacher`, for the message.

    Raises:
        KdnasError: there is none, or one for a number that depends on none.
    """
    plain, _, own = name.partition("/")
    known = f"known: {', '.join(OBJECTIVES)}"
    if plain not in OBJECTIVES:
        raise KdnasError("unknown number", field="objectives", value=name, remedy=known)
    if not OBJECTIVES[plain].of_device:
        if own or device:
            raise KdnasError("depends on no device", field=plain, value=own or device, remedy="leave the device out")
        return plain
    if own and device and own != device:
        raise KdnasError("two devices for one number", field=name, value=device, remedy="name one")
    chosen = own or device or next(iter(devices), None)
    if chosen is None and bound:
        numbers = ", ".join(f"{key}: {value:g}" for key, value in bound.items())
        raise KdnasError(
            "on which device?",
            field=f"constraints.{name}",
            value=dict(bound) if "of_teacher" in bound else bound["max"],
            remedy=f"'constraints={{{name}: {{device: npu-small, {numbers}}}}}' (see `kdnas device list`)",
        )
    if chosen is None:
        raise KdnasError(
            "on which device?",
            field="objectives",
            value=name,
            remedy=f"name it: {name}/npu-small; or 'devices=[npu-small]' (see `kdnas device list`)",
        )
    return f"{plain}/{chosen}"


def costs_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row are numbers known before training, by full name."""
    return {name: row[name] for name in row if name.partition("/")[0] in CONSTRAINABLE}


class _Limits(Protocol):
    @property
    def max(self) -> float | None:
        """Largest allowed number."""

    @property
    def of_teacher(self) -> float | None:
        """Largest allowed share of the teacher's number."""


def limits(constraints: Mapping[str, _Limits], teacher: Mapping[str, float]) -> dict[str, float]:
    """Largest allowed value of each constrained number (by full name), shares of the teacher's resolved.

    Raises:
        KdnasError: a share of a number that the teacher has none of, or that is not known of it.
    """
    found: dict[str, float] = {}
    for name, bound in constraints.items():
        if bound.of_teacher is not None and not teacher.get(name):
            problem = f"the teacher has no {name} to take a share of"
            if name not in teacher:
                problem = f"the {name} of this teacher are not known"
            raise KdnasError(
                problem,
                field=f"constraints.{name}.of_teacher",
                value=bound.of_teacher,
                remedy=f"give a number instead: constraints.{name}.max={EXAMPLES.get(name, 10)}",
            )
        share = bound.of_teacher * teacher[name] if bound.of_teacher is not None else float("inf")
        found[name] = min(bound.max if bound.max is not None else float("inf"), share)
    bounded = dict.fromkeys(name.partition("/")[2] for name in constraints if "/" in name)
    return found | {f"{UNSUPPORTED}/{device}": 0.0 for device in bounded}


def excess(costs: Mapping[str, float], bounds: Mapping[str, float]) -> dict[str, float]:
    """How far each bound is exceeded, relative to it: 0.5 is half too much; at most 0 where it is kept."""
    return {name: costs[name] / bound - 1 if bound else costs[name] for name, bound in bounds.items()}


def over_text(
    costs: Mapping[str, float], bounds: Mapping[str, float], missing: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Which bounds are broken and by how much; empty where none is.

    Args:
        costs: numbers of an architecture, by full name.
        bounds: largest allowed values.
        missing: operators that a device lacks for it, and `memory` where it does not fit, by the device's name.
    """
    found = []
    for name, over in excess(costs, bounds).items():
        if over <= 0:
            continue
        if name == f"{UNSUPPORTED}/table":
            found.append("the table does not hold it")
        elif name.startswith(UNSUPPORTED):
            device = name.partition("/")[2]
            lacks = (missing or {}).get(device, ())
            operators = [kind for kind in lacks if kind != MEMORY]
            if operators:
                found.append(f"{device} cannot run {', '.join(operators)}")
            if MEMORY in lacks:
                found.append(f"{device} has not enough memory for it")
            if not lacks:
                found.append(f"{device} lacks {costs[name]:.0f} of its operators, or the memory for it")
        else:
            found.append(f"{name} {number(costs[name])} (at most {number(bounds[name])})")
    return ", ".join(found)


def number(value: float) -> str:
    """A count in full, anything else with three digits."""
    return f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{value:.3g}"
