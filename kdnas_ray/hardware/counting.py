"""How many parameters and FLOPs has a network? Counted on the meta device: nothing is computed."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import Shape


def count(build: Callable[[], nn.Module], shape: Shape) -> dict[str, int]:
    """`params` and `flops` (floating point operations for one input: 2 for each multiply-add).

    Args:
        build: makes the network; called on the meta device, so it costs no memory.
        shape: (channels, height, width) of one input.
    """
    with torch.device("meta"):
        model = build().eval()
        image = torch.empty(1, *shape)
    params = sum(parameter.numel() for parameter in model.parameters())
    without_norms(model)
    return {"params": params, "flops": _counts(model, image)["flops"]}


def count_model(model: nn.Module, shape: Shape) -> dict[str, int]:
    """`params` and `flops` of an existing network, which is run once on zeros."""
    return _counts(model.eval(), torch.zeros(1, *shape))


def without_norms(model: nn.Module) -> None:
    """Take every batch normalisation out of a network whose operators are only counted.

    It becomes part of the convolution before it on every runtime; and on the meta device it takes most of the time.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, nn.Identity())


def _counts(model: nn.Module, image: torch.Tensor) -> dict[str, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "flops": int(counter.get_total_flops()),
    }
