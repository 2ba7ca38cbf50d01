"""How long does a network take on a device, and does it fit there? Modelled operator by operator."""

from collections.abc import Iterator, Mapping
from math import ceil

from kdnas_ray.hardware.devices import EVERY, DeviceProfile
from kdnas_ray.hardware.operators import ACTIVATIONS, CONVOLUTIONS, Operator, Operators

FUSING = (*CONVOLUTIONS, "linear", "add")  # what an activation right after it becomes a part of


def latency_ms(network: Operators, profile: DeviceProfile) -> float:
    """Modelled milliseconds of one inference: of every operator the overhead and the longer of computing and moving.

    `t = fixed + sum overhead + max(2 macs / (efficiency * peak), bytes / bandwidth)`, with a sum in place of the larger
    where the two do not overlap. Activations right after a
    convolution, linear layer or addition are free where the device fuses; channels are padded to what it computes with.

    Source: Williams 2009, Roofline: An Insightful Visual Performance Model (CACM), section 3.

    Args:
        network: its operators.
        profile: the device.
    """
    return profile.fixed_us / 1e3 + 1e3 * sum(sum(seconds(op, profile)) for op in started(network, profile))


def seconds(operator: Operator, profile: DeviceProfile) -> tuple[float, float]:
    """Overhead of an operator, and its own time."""
    compute, move = demands(operator, profile)
    own = max(compute, move) if profile.overlaps else compute + move
    return _of_kind(profile.overhead_us, operator.kind, 0.0) / 1e6, own


def demands(operator: Operator, profile: DeviceProfile) -> tuple[float, float]:
    """Seconds of computing and of moving data, of which the longer counts."""
    speed = profile.flops_per_s * _of_kind(profile.efficiency, operator.kind, 1.0)
    moved = operator.elements * profile.element_bytes
    cached = moved <= profile.cache_bytes
    bandwidth = (profile.cache_bytes_per_s if cached else None) or profile.bytes_per_s
    return 2 * padded_macs(operator, profile.channels) / speed, moved / bandwidth


def bottleneck(network: Operators, profile: DeviceProfile) -> str:
    """What most of the time goes to: `compute`, `memory` or `overhead`."""
    spent = {"compute": 0.0, "memory": 0.0, "overhead": profile.fixed_us / 1e6}
    for operator in started(network, profile):
        compute, move = demands(operator, profile)
        spent["compute" if compute >= move else "memory"] += max(compute, move)
        spent["overhead"] += seconds(operator, profile)[0]
    return max(spent, key=spent.__getitem__)


def unsupported(network: Operators, profile: DeviceProfile) -> tuple[str, ...]:
    """Kinds of operators that the network has and the device lacks; `memory` where it does not fit."""
    lacking = [kind for kind in profile.lacks if any(operator.kind == kind for operator in network.each)]
    full = profile.memory_bytes is not None and memory_bytes(network, profile) > profile.memory_bytes
    return (*lacking, *(["memory"] if full else []))


def memory_bytes(network: Operators, profile: DeviceProfile) -> float:
    """Bytes of the weights, and of the most activations that live at one time."""
    return float((network.params + network.peak) * profile.element_bytes)


def started(network: Operators, profile: DeviceProfile) -> Iterator[Operator]:
    """The operators that the device starts one by one: without activations that are part of what is before them."""
    before = ""
    for operator in network.each:
        if not (profile.fused and operator.kind in ACTIVATIONS and before in FUSING):
            yield operator
        before = operator.kind


def padded_macs(operator: Operator, multiple: int) -> float:
    """Multiply-adds with channels rounded up to a multiple."""
    if multiple == 1 or operator.kind not in ("conv", "pointwise_conv", "linear"):
        return operator.macs
    channels = operator.shape[:2] if operator.kind != "linear" else operator.shape[-2:]
    share = 1.0
    for count in channels:
        share *= ceil(count / multiple) * multiple / count
    return operator.macs * share


def _of_kind(values: Mapping[str, float], kind: str, usual: float) -> float:
    return float(values.get(kind, values.get(EVERY, usual)))
