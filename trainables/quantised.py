"""How does a student train as it will run in int8?

Every convolution and linear layer reads its input and its weights through fake quantisation: rounded to the 256 values
that int8 has, in float, and with the gradient of the identity inside the range (straight-through). Activations have one
asymmetric range a layer, a moving average of the batches' ends; weights one symmetric range an output channel.

Batch norm is not folded while training: it multiplies whole output channels, and the range of a channel follows that
factor exactly, so the rounded weights are those that the folded network will have. Sums (residuals), pooling and
attention are left in float here; a runtime may round them too.

Source: Jacob 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
sections 3 and 3.1; Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference (a range an
output channel).
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

RANGES = "quantised"  # under this name they travel with a training
LAST_SHARE = 0.5  # of a training that is quantised: a range means little while weights still move far
MOMENTUM = 0.1  # of the newest batch in the moving range
SMALLEST = 1e-8  # step between two values: a layer of zeros has a step too


class Ranges(nn.Module):
    """Ends of the input of every quantised layer of a model, `[layers, 2]`; NaN before a layer's first batch.

    Args:
        model: its convolutions and linear layers, in the model's order.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ends: Tensor
        self.register_buffer("ends", torch.full((len(quantisable(model)), 2), float("nan")))

    @torch.no_grad()
    def follow(self, layer: int, x: Tensor) -> None:
        """Move the ends of this layer towards those of a batch; zero always lies between them."""
        now = torch.stack(torch.aminmax(x.detach()))
        now[0].clamp_(max=0)
        now[1].clamp_(min=0)
        before = self.ends[layer]
        before.copy_(torch.where(before.isnan(), now, torch.lerp(before, now, MOMENTUM)))

    def round(self, layer: int, x: Tensor) -> Tensor:
        """The input of this layer as int8 holds it, of the same shape; untouched without finite ends of its range."""
        low, high = self.ends[layer].tolist()
        if not (math.isfinite(low) and math.isfinite(high)):  # infinite: the loss shows it
            return x
        step = max((high - low) / 255, SMALLEST)
        zero = min(max(round(-128 - low / step), -128), 127)
        return torch.fake_quantize_per_tensor_affine(x, step, zero, -128, 127)


def quantisable(model: nn.Module) -> list[nn.Module]:
    """Layers whose input and weights are rounded.

    A layer whose weights are computed from others (the reused classifier of SimKD while it trains) is left out.
    """
    kinds = (nn.Conv2d, nn.Linear)
    return [layer for layer in model.modules() if isinstance(layer, kinds) and "weight" in layer._parameters]


def rounded_weights(weights: Tensor) -> Tensor:
    """Weights `[out, …]` as int8 holds them, a symmetric range (-127 to 127 steps) an output channel."""
    largest = weights.detach().abs().amax(dim=tuple(range(1, weights.dim())))
    steps = (largest / 127).clamp_min(SMALLEST).float()
    zeros = torch.zeros(len(steps), dtype=torch.int32, device=weights.device)
    return torch.fake_quantize_per_channel_affine(weights, steps, zeros, 0, -127, 127)


@contextlib.contextmanager
def quantised(model: nn.Module, ranges: Ranges) -> Iterator[None]:
    """Within it the model answers as in int8, and its ranges follow the batches while it is in training mode.

    Parameters, their names and `state_dict` stay those of the plain model.

    Args:
        model: whose layers `quantisable` lists.
        ranges: of the same model; changed in place.
    """
    hooks: list[Any] = []
    try:
        for index, layer in enumerate(quantisable(model)):
            hooks.append(layer.register_forward_pre_hook(_rounding(index, ranges)))
            hooks.append(layer.register_forward_hook(_undo, always_call=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rounding(index: int, ranges: Ranges) -> Any:
    def read(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if layer.training:
            ranges.follow(index, inputs[0])
        # An instance's own attribute hides the parameter of the same name, which stays where it is.
        weights = layer._parameters["weight"]
        assert weights is not None
        layer.__dict__["weight"] = rounded_weights(weights)
        return (ranges.round(index, inputs[0]), *inputs[1:])

    return read


def _undo(layer: nn.Module, inputs: Any, output: Any) -> None:
    layer.__dict__.pop("weight", None)
