"""Is there any architecture that keeps the bounds? Asked before any work starts."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from kdnas_ray.objectives import MEMORY, UNSUPPORTED, excess, over_text
from search_spaces import KdnasError

Missing = Callable[[Any], Mapping[str, Sequence[str]]]


class NoneKeeps(KdnasError):
    """No architecture keeps the bounds; `tight` are those to loosen by name, as they are and as they would do."""

    tight: Mapping[str, tuple[float, float]] = MappingProxyType({})


def check_constraints(
    sample: Callable[[], Any],
    costs: Callable[[Any], dict[str, float]],
    bounds: Mapping[str, float],
    shares: str = "",
    missing: Missing = lambda architecture: {},
    tries: int = 200,
) -> None:
    """Raises unless some architecture drawn by `sample` keeps all bounds; says how close the best came.

    Args:
        sample: draws an architecture.
        costs: of an architecture.
        bounds: largest allowed value of each number.
        shares: where bounds come from that the configuration gives as shares, for the message.
        missing: what each device lacks for an architecture, by the device's name, for the message.
        tries: how many are drawn.

    Raises:
        NoneKeeps: none keeps the bounds.
    """
    closest: tuple[float, dict[str, float], Any] | None = None
    for _ in range(tries):
        architecture = sample()
        found = costs(architecture)
        worst = max(excess(found, bounds).values(), default=0.0)
        if worst <= 0:
            return
        if closest is None or worst < closest[0]:
            closest = (worst, found, architecture)
    assert closest is not None
    _, found, architecture = closest
    wanted = {name: bound for name, bound in bounds.items() if bound}
    enough = {name: _rounded_up(max(found[name], bound)) for name, bound in wanted.items()}
    would_do = ", ".join(f"{name}: {value}" for name, value in enough.items())
    source = f" ({shares})" if shares else ""
    remedy = f"loosen the constraint (constraints='{{{would_do}}}' would do) or offer smaller choices in the space"
    lacks, problem, field = missing(architecture), f"keeps them{source}", "constraints"
    value: Any = {name: round(bound) if bound >= 100 else bound for name, bound in wanted.items()}
    lacking = [name.partition("/")[2] for name in bounds if name.startswith(UNSUPPORTED) and found[name]]
    if lacking:
        kept = "smaller choices" if set(lacks.get(lacking[0], ())) == {MEMORY} else "choices that it can run"
        remedy = f"offer {kept} in the space, or take another device"
        if lacks.get(lacking[0]):
            problem, field, value = "can run there within the bounds", "devices", lacking[0]
    error = NoneKeeps(
        f"none of {tries} architectures drawn from the space {problem}; the closest: {over_text(found, bounds, lacks)}",
        field=field,
        value=value,
        remedy=remedy,
    )
    if not lacking:
        error.tight = {name: (bounds[name], enough[name]) for name in wanted if found[name] > bounds[name]}
    raise error


def _rounded_up(value: float) -> float:
    """The next whole number; below 1000 the next of three digits."""
    step = 1.0 if value >= 100 else 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / step) * step:.10g}") if step < 1 else math.ceil(value)
