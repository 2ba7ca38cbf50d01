"""Which proxies ask how much the loss, or the flow through the network, depends on its weights?

Notation: w a weight tensor (matrices and kernels), g the gradient of the mean cross-entropy with respect to it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from trainables.proxies.base import Probe, copied, gradients, hard_loss, weights_of

_NORMS = (F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm)


def synflow(model: nn.Module, probe: Probe) -> float:
    """Synaptic flow: what all paths from input to output carry together, counted at every weight.

    `sum_w w * dR/dw`, with R the sum of the logits for an input `[1, C, H, W]` of ones, all weights replaced by their
    absolute values and every normalisation left out; in double precision, as paths multiply.

    Source: Tanaka 2020, Pruning neural networks without any data by iteratively conserving synaptic flow, eq. 1;
    summed over the weights as in Abdelfattah 2021, Zero-Cost Proxies for Lightweight NAS, section 3.2.
    """
    twin = copied(model).double()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.abs_()
    ones = torch.ones_like(probe.images[:1], dtype=torch.float64)
    with _WithoutNorms():
        flow = twin(ones).sum()
    weights = weights_of(twin)
    return _total(w * g for w, g in zip(weights, gradients(flow, weights), strict=True))


def snip(model: nn.Module, probe: Probe) -> float:
    """Connection sensitivity: how much the loss would move if weights were taken out.

    `sum_w |w * g|`.

    Source: Lee 2019, SNIP: Single-shot Network Pruning based on Connection Sensitivity, section 4.1; summed
    over the weights as in Abdelfattah 2021, section 3.2.
    """
    twin = copied(model)
    weights = weights_of(twin)
    return _total((w * g).abs() for w, g in zip(weights, gradients(hard_loss(twin, probe), weights), strict=True))


def grad_norm(model: nn.Module, probe: Probe) -> float:
    """Length of the loss's gradient, layer by layer.

    `sum_w ||g||_2`, a term for each weight tensor.

    Source: Abdelfattah 2021, Zero-Cost Proxies for Lightweight NAS, section 3.2.
    """
    twin = copied(model)
    return _total(g.norm() for g in gradients(hard_loss(twin, probe), weights_of(twin)))


def grasp(model: nn.Module, probe: Probe) -> float:
    """Gradient signal preservation: how much the gradient's length would suffer if weights were taken out.

    `- sum_w w * (H g)`, with H the Hessian of the loss. GraSP removes weights with a large value; as a score for
    networks the sign is that with which Abdelfattah 2021 ranks.

    Source: Wang 2020, Picking Winning Tickets Before Training by Preserving Gradient Flow, eq. 8.
    """
    twin = copied(model)
    weights = weights_of(twin)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        slopes = gradients(hard_loss(twin, probe), weights, graph=True)
    squared = torch.stack([(g.detach() * g).sum() for g in slopes]).sum()
    return -_total(w * hg for w, hg in zip(weights, gradients(squared, weights), strict=True))


def fisher(model: nn.Module, probe: Probe) -> float:
    """Fisher information of channels: how much the loss would move if channels were taken out.

    `sum_channels w / (2 B) sum_n (sum_places a * dL/da)^2`, with a `[B, channels, places]` the output of each
    convolution or linear layer, w the weights of a channel and L the mean cross-entropy.

    Source: Turner 2020, BlockSwap: Fisher-guided Block Substitution for Network Compression, section 3; over all
    layers, and a channel's value once for each of its weights, as in the code of Abdelfattah 2021.
    """
    twin = copied(model)
    outputs: list[Tensor] = []
    last: list[bool] = []  # whether the channels are the last dimension
    weights: list[int] = []  # of a channel

    def keep(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        outputs.append(output)
        last.append(isinstance(module, nn.Linear))
        weights.append(next(module.parameters())[0].numel())
        return output.clone()  # an activation in place changes the clone

    for module in twin.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            module.register_forward_hook(keep)
    slopes = gradients(hard_loss(twin, probe), outputs)
    return _total(
        count * _by_channel(a * g, channels_last).square().mean(dim=0) / 2
        for a, g, channels_last, count in zip(outputs, slopes, last, weights, strict=True)
    )


def zico(model: nn.Module, probe: Probe) -> float:
    """Inverse coefficient of variation of the gradients: large and alike from batch to batch is good.

    `sum_layers log( sum_weights E|g| / sd(g) )`, over two halves of the probe; weights whose gradient does not vary and
    layers without any other are left out.

    Source: Li 2023, ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients, section 3; with sd of
    the signed gradient, as in the authors' code.
    """
    twin = copied(model)
    weights = weights_of(twin)
    halves = zip(probe.images.tensor_split(2), probe.labels.tensor_split(2), strict=True)
    slopes = [gradients(hard_loss(twin, Probe(images, labels)), weights) for images, labels in halves]
    total = 0.0
    for first, second in zip(*slopes, strict=True):
        mean, deviation = (first.abs() + second.abs()) / 2, (first - second).abs() / 2
        varies = deviation > 0
        if varies.any():
            total += float((mean[varies] / deviation[varies]).double().sum().log())
    return total


class _WithoutNorms(TorchFunctionMode):
    """Every normalisation hands its input on."""

    def __torch_function__(
        self, function: Callable[..., Any], _types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _NORMS:
            return args[0] if args else (kwargs or {})["input"]
        return function(*args, **(kwargs or {}))


def _total(parts: Any) -> float:
    return float(sum(part.detach().double().sum() for part in parts))


def _by_channel(x: Tensor, channels_last: bool) -> Tensor:
    """Sums over all places: `[B, channels]`."""
    return (
        x.flatten(1, -2).sum(dim=1) if channels_last and x.dim() > 2 else x.flatten(2).sum(dim=2) if x.dim() > 2 else x
    )
