"""How many parameters and FLOPs has a network? Counted on the meta device, where nothing is computed, or on zeros."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from search_spaces import Shape

# Networks up to this size are counted faster by making and running them than on the meta device.
LIGHT = {"params": 2e6, "flops": 1e8}
FREE = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh)  # they count no FLOPs


def count(build: Callable[[], nn.Module], shape: Shape, *, light: bool = False) -> dict[str, int]:
    """`params` and `flops` (floating point operations for one input: 2 for each multiply-add).

    Args:
        build: makes the network; called on the meta device, so it costs no memory.
        shape: (channels, height, width) of one input.
        light: the network is known to be small (`is_light`): it is made and run on zeros instead, which then takes a
            third to two thirds of the time (NAS-Bench-201 5 ms against 13, a small residual network 5 against 8).
    """
    with torch.random.fork_rng(devices=[]) if light else torch.device("meta"):
        model = build().eval()
    image = torch.zeros(1, *shape, device="cpu" if light else "meta")
    params = sum(parameter.numel() for parameter in model.parameters())
    _without(model, (nn.modules.batchnorm._BatchNorm, *FREE))
    return {"params": params, "flops": _flops(model, image)}


def is_light(counts: dict[str, int]) -> bool:
    """Whether networks of such a size are counted faster by running them."""
    return all(counts[name] <= most for name, most in LIGHT.items())


def count_model(model: nn.Module, shape: Shape) -> dict[str, int]:
    """`params` and `flops` of an existing network, which is run once on zeros."""
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"params": params, "flops": _flops(model.eval(), torch.zeros(1, *shape))}


def without_norms(model: nn.Module) -> None:
    """Take every batch normalisation out of a network whose operators are only counted.

    It becomes part of the convolution before it on every runtime; and on the meta device it takes most of the time.
    """
    _without(model, (nn.modules.batchnorm._BatchNorm,))


def _without(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, kinds):
                setattr(module, name, nn.Identity())


class _Flops(TorchDispatchMode):
    """Adds up what torch's own formulas say; its `FlopCounterMode` asks every operator for a decomposition too."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler when it counts: 115 MB and a second

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


def _flops(model: nn.Module, image: torch.Tensor) -> int:
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        model, image = copy.deepcopy(model).to("meta"), image.to("meta")  # on the CPU one operator without a formula
    with torch.no_grad(), contextlib.nullcontext() if image.is_meta else _unfused(), _Flops() as counter:
        model(image)
    return counter.flops


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    """Attention as the matrix products that it is: its fused operators have no formula."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _one_thread():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # One input is too little to share, and beside busy workers threads wait for each other (9 ms a network, not 2).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
