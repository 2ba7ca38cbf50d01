"""How long does one operator take on this machine? Several copies side by side, less what the call itself takes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdnas_ray.hardware.measuring import measure
from kdnas_ray.hardware.operators import CONVOLUTIONS, Operator

FEW, MANY = 2, 8  # copies: their difference is free of the call's own time

_ACTIVATIONS = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid, "silu": nn.SiLU,
    "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU, "mish": nn.Mish,
}  # fmt: skip


def operator_ms(operator: Operator, *, runtime: str = "onnx", threads: int = 1) -> float | None:
    """Milliseconds of one operator within a network; None for a kind that is not built here.

    Args:
        operator: as recorded with batch 1.
        runtime: see `measure`.
        threads: of one inference.
    """
    shape = input_shape(operator)
    if shape is None:
        return None
    few, many = (
        measure(_Copies(operator, copies), shape, runtime=runtime, threads=threads).low_ms for copies in (FEW, MANY)
    )
    return max(many - few, 0.0) / (MANY - FEW)


def input_shape(operator: Operator) -> tuple[int, int, int] | None:
    """Shape of the image that the operator's copies read; None for a kind that is not built here."""
    if operator.kind in CONVOLUTIONS:
        (_, high_stride, high), (_, wide_stride, wide) = _sides(operator)
        return operator.shape[0], high * high_stride, wide * wide_stride
    if operator.kind == "linear":
        return operator.shape[-2], 1, 1
    if operator.kind in (*_ACTIVATIONS, "add", "mul", "pool", "concat") and len(operator.shape) >= 4:
        return operator.shape[1], operator.shape[2], operator.shape[3]
    return None


class _Copies(nn.Module):
    """The same operator several times, each with weights of its own, on one input; the results side by side."""

    def __init__(self, operator: Operator, copies: int) -> None:
        super().__init__()
        self.kind = operator.kind
        self.each = nn.ModuleList(_module(operator) for _ in range(copies))
        # Two inputs of additions must differ from copy to copy, or a runtime computes them once.
        shape = input_shape(operator)
        assert shape is not None
        self.others = nn.ParameterList(nn.Parameter(torch.rand(1, *shape)) for _ in range(copies))

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """All results."""
        if self.kind == "add":
            return tuple(x + other for other in self.others)
        if self.kind == "mul":
            return tuple(x * other for other in self.others)
        if self.kind == "concat":
            return tuple(torch.cat((x, other.expand(len(x), -1, -1, -1)), 1) for other in self.others)
        flat = self.kind == "linear"
        return tuple(module(x.flatten(1) if flat else x) for module in self.each)


def _sides(operator: Operator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride and side of the output of a convolution, in its height and in its width."""
    _, _, kernel, stride, _, side, *high = operator.shape
    wide = kernel, stride, side
    return tuple(high) or wide, wide


def _module(operator: Operator) -> nn.Module:
    if operator.kind in CONVOLUTIONS:
        channels, out, _, _, groups, *_ = operator.shape
        (high, high_stride, _), (wide, wide_stride, _) = _sides(operator)
        kernel, stride, padding = (high, wide), (high_stride, wide_stride), (high // 2, wide // 2)
        conv = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups)
        return nn.Sequential(conv, nn.ReLU())  # part of the convolution on every runtime
    if operator.kind == "linear":
        return nn.Linear(operator.shape[-2], operator.shape[-1])
    if operator.kind == "pool":
        return nn.AdaptiveAvgPool2d(1) if operator.writes <= operator.shape[1] else nn.AvgPool2d(3, 1, 1)
    return _ACTIVATIONS.get(operator.kind, nn.Identity)()
