"""How long does a network take on a device, and does it fit there? Modelled operator by operator."""

from collections.abc import Iterable, Iterator, Mapping
from math import ceil

from kdnas_ray.hardware.devices import EVERY, DeviceProfile
from kdnas_ray.hardware.operators import ACTIVATIONS, CONVOLUTIONS, Operator, Operators
from kdnas_ray.objectives import MEMORY

FUSING = (*CONVOLUTIONS, "linear", "add")  # what an activation right after it becomes a part of


def latency_ms(network: Operators, profile: DeviceProfile) -> float:
    """Modelled milliseconds of one inference: of every operator the overhead and the longer of computing and moving.

    `t = fixed + sum overhead + max(2 macs / (efficiency * peak), bytes / bandwidth)`, with a sum in place of the larger
    where the two do not overlap. Activations right after a convolution, linear layer or addition are free where the
    device fuses; channels are padded to what it computes with.

    Source: Williams 2009, Roofline: An Insightful Visual Performance Model (CACM), section 3.

    Args:
        network: its operators.
        profile: the device.
    """
    return profile.fixed_us / 1e3 + 1e3 * sum(sum(seconds(op, profile)) for op in started(network.each, profile))


def seconds(operator: Operator, profile: DeviceProfile) -> tuple[float, float]:
    """Overhead of an operator, and its own time."""
    compute, move = demands(operator, profile)
    own = max(compute, move) if profile.overlaps else compute + move
    return _of_kind(profile.overhead_us, variant(operator, profile), 0.0) / 1e6, own


def demands(operator: Operator, profile: DeviceProfile) -> tuple[float, float]:
    """Seconds of computing and of moving data, of which the longer counts."""
    way = variant(operator, profile)
    speed = profile.flops_per_s * _of_kind(profile.efficiency, way, 1.0)
    moved = moved_elements(operator, profile) * profile.element_bytes
    cached = moved <= profile.cache_bytes
    bandwidth = (profile.cache_bytes_per_s if cached else None) or profile.bytes_per_s
    return 2 * padded_macs(operator, profile) / speed, moved / (bandwidth * _of_kind(profile.streaming, way, 1.0))


def variant(operator: Operator, profile: DeviceProfile) -> str:
    """The operator's kind, with the way in which it runs behind a slash where it is a special one.

    `pool/global` leaves one number a channel, `pool/same` keeps height and width. Where the profile's memory is
    `blocked`: a `narrow` convolution has fewer input channels than a block, a `ragged` one has another number that
    is no multiple of it (depthwise and grouped: of output channels).

    Source: the NCHWc transformer of ONNX Runtime 1.2x, `onnxruntime/core/optimizer/nchwc_transformer.cc`.
    """
    kind, shape = operator.kind, operator.shape
    if kind == "pool" and shape:
        alone = len(shape) < 8 or shape[-2:] == (1, 1)
        return f"{kind}/global" if alone else f"{kind}/same" if shape[-2:] == shape[2:4] else kind
    if not profile.blocked or kind not in CONVOLUTIONS:
        return kind
    inner = shape[0] if kind in ("conv", "pointwise_conv") else shape[1]
    if kind in ("conv", "pointwise_conv") and inner < profile.channels:
        return f"{kind}/narrow"
    return f"{kind}/ragged" if inner % profile.channels else kind


def moved_elements(operator: Operator, profile: DeviceProfile) -> float:
    """Elements read and written, with what a ragged convolution writes down once more for each place of its kernel."""
    if variant(operator, profile) != "conv/ragged":
        return operator.elements
    return operator.elements + operator.macs / operator.shape[1]


def bottleneck(network: Operators, profile: DeviceProfile) -> str:
    """What most of the time goes to: `compute`, `memory` or `overhead`."""
    spent = {"compute": 0.0, "memory": 0.0, "overhead": profile.fixed_us / 1e6}
    for operator in started(network.each, profile):
        compute, move = demands(operator, profile)
        spent["compute" if compute >= move else "memory"] += max(compute, move)
        spent["overhead"] += seconds(operator, profile)[0]
    return max(spent, key=spent.__getitem__)


def unsupported(network: Operators, profile: DeviceProfile) -> tuple[str, ...]:
    """Kinds of operators that the network has and the device lacks; `memory` where it does not fit."""
    lacking = [kind for kind in profile.lacks if any(operator.kind == kind for operator in network.each)]
    full = profile.memory_bytes is not None and memory_bytes(network, profile) > profile.memory_bytes
    return (*lacking, *([MEMORY] if full else []))


def memory_bytes(network: Operators, profile: DeviceProfile) -> float:
    """Bytes of the weights, and of the most activations that live at one time."""
    return float((network.params + network.peak) * profile.element_bytes)


def started(operators: Iterable[Operator], profile: DeviceProfile) -> Iterator[Operator]:
    """The operators that the device starts one by one: without activations that are part of what is before them."""
    before = ""
    for operator in operators:
        if not (profile.fused and operator.kind in ACTIVATIONS and before in FUSING):
            yield operator
        before = operator.kind


def padded_macs(operator: Operator, profile: DeviceProfile) -> float:
    """Multiply-adds with channels rounded up to a multiple."""
    multiple = profile.channels
    if multiple == 1 or operator.kind not in ("conv", "pointwise_conv", "linear"):
        return operator.macs
    channels = operator.shape[:2] if operator.kind != "linear" else operator.shape[-2:]
    if profile.blocked:
        way = variant(operator, profile)
        channels = () if way.endswith("/ragged") or operator.kind == "linear" else channels[1:]
    share = 1.0
    for count in channels:
        share *= ceil(count / multiple) * multiple / count
    return operator.macs * share


def _of_kind(values: Mapping[str, float], way: str, usual: float) -> float:
    for name in (way, way.partition("/")[0], EVERY):
        if name in values:
            return float(values[name])
    return usual
