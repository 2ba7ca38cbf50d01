"""Which operators does a network run, and what does each compute and move? Recorded on the meta device: no data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from kdnas_ray.hardware.counting import without_norms
from search_spaces import Shape

# By PyTorch's own names. What is in none of these lists is `other` and costs the traffic of its tensors.
KINDS = {
    "addmm": "linear",
    "mm": "linear",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "native_layer_norm": "norm",
    "native_group_norm": "norm",
    "native_batch_norm": "norm",
    "_native_batch_norm_legit_no_training": "norm",
    "hardtanh": "relu6",
    "clamp": "relu6",
    "silu": "silu",
    "relu": "relu",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "gelu": "gelu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "elu": "elu",
    "leaky_relu": "leaky_relu",
    "mish": "mish",
    "_softmax": "softmax",
    "_safe_softmax": "softmax",
    "max_pool2d_with_indices": "pool",
    "avg_pool2d": "pool",
    "_adaptive_avg_pool2d": "pool",
    "mean": "pool",
    "sum": "pool",
    "add": "add",
    "sub": "add",
    "mul": "mul",
    "div": "mul",
    "cat": "concat",
    "exp": "exp",
    "upsample_nearest2d": "upsample",
}
ACTIVATIONS = (
    "relu",
    "relu6",
    "hardswish",
    "hardsigmoid",
    "silu",
    "gelu",
    "sigmoid",
    "tanh",
    "elu",
    "leaky_relu",
    "mish",
)
CONVOLUTIONS = ("conv", "pointwise_conv", "depthwise_conv", "grouped_conv")
ALL_KINDS = (*CONVOLUTIONS, "attention", *dict.fromkeys(KINDS.values()), "copy", "other")
# Ways in which a kind runs that a device may tell apart, see `roofline.variant`; written `conv/narrow`.
VARIANTS = {
    "conv": ("narrow", "ragged"),
    "pointwise_conv": ("narrow", "ragged"),
    "depthwise_conv": ("ragged",),
    "grouped_conv": ("ragged",),
    "pool": ("global", "same"),
}
ALL_NAMES = (*ALL_KINDS, *(f"{kind}/{way}" for kind, ways in VARIANTS.items() for way in ways))
# Change how a tensor is looked at, not what it holds.
VIEWS = (
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
    "unbind", "split", "split_with_sizes", "chunk", "detach", "alias", "lift_fresh", "flatten", "_reshape_alias",
    "empty", "zeros", "ones", "zeros_like", "arange", "scalar_tensor", "full",
)  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """One operator of a network, for one batch.

    Args:
        kind: one of `ALL_KINDS`.
        macs: multiply-adds.
        params: elements of weights that it reads.
        reads: elements of its other inputs.
        writes: elements of its output.
        shape: what else decides its speed: of a convolution channels in and out, kernel, stride, groups and the side of
            its output, and, where they differ from these, kernel, stride and side of output in its height; of others
            the shapes of inputs and output.
    """

    kind: str
    macs: int
    params: int
    reads: int
    writes: int
    shape: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """Elements that are read or written."""
        return self.params + self.reads + self.writes


@dataclass(frozen=True)
class Operators:
    """All operators of a network in order, and the most elements that its activations hold at one time.

    A normalisation after a convolution becomes part of it on every runtime and is left out; so are views.
    """

    each: tuple[Operator, ...]
    params: int
    peak: int

    @property
    def macs(self) -> int:
        """Multiply-adds of the network."""
        return sum(operator.macs for operator in self.each)

    @property
    def traffic(self) -> int:
        """Elements that are read or written in all."""
        return sum(operator.elements for operator in self.each)


def operators(build: Callable[[], nn.Module], shape: Shape, batch: int = 1) -> Operators:
    """The operators that a network runs for a batch.

    The peak of activations is that of eager PyTorch: a tensor lives until Python lets it go.

    Args:
        build: makes the network; called on the meta device, so it costs no memory.
        shape: channels, height and width of an input.
        batch: inputs at a time.
    """
    model, image = _on_meta(build, shape, batch)
    params = sum(parameter.numel() for parameter in model.parameters())
    without_norms(model)
    with torch.no_grad(), _Recorder(model) as recorder:
        model(image)
    return Operators(tuple(recorder.found), params, recorder.peak)


def by_tap(build: Callable[[], nn.Module], shape: Shape, taps: Sequence[str]) -> dict[str, tuple[Operator, ...]]:
    """The operators between each tap and the one before it, for one input; those after the last tap are left out.

    Args:
        build: makes a `Student`; called on the meta device.
        shape: channels, height and width of an input.
        taps: names from input to output.
    """
    model, image = _on_meta(build, shape, 1)
    without_norms(model)
    with torch.no_grad(), _Recorder(model) as recorder:
        _, read = model.forward_taps(image, taps)  # type: ignore[operator]
    found, begin = {}, 0
    for tap in taps:
        end = recorder.written.get(read[tap].untyped_storage()._cdata, begin)  # an input is written by none
        found[tap] = tuple(recorder.found[begin:end])
        begin = max(begin, end)
    return found


def _on_meta(build: Callable[[], nn.Module], shape: Shape, batch: int) -> tuple[nn.Module, Tensor]:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return build().eval(), torch.empty(batch, *shape)


class _Recorder(TorchDispatchMode):
    """Writes down every operator that runs, and which activations are alive."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        weights = [*model.parameters(), *model.buffers()]
        self._weights = {weight.untyped_storage()._cdata for weight in weights}
        self._kept = weights  # a storage that is freed could give its address to another
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.found: list[Operator] = []
        self.written: dict[int, int] = {}  # storage to the number of operators after which it was last written
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__.removesuffix("_")
        first = out[0] if isinstance(out, (tuple, list)) else out
        if name in VIEWS or not isinstance(first, Tensor):
            return out
        tensors = [part for arg in args for part in (arg if isinstance(arg, (list, tuple)) else [arg])]
        tensors = [part for part in tensors if isinstance(part, Tensor)]
        weights = [part for part in tensors if part.untyped_storage()._cdata in self._weights]
        inputs = [part for part in tensors if part.untyped_storage()._cdata not in self._weights]
        kind, macs, detail = _described(name, args, tensors, first)
        self.found.append(
            Operator(
                kind=kind,
                macs=macs,
                params=sum(weight.numel() for weight in weights),
                reads=sum(part.numel() for part in inputs),
                writes=first.numel(),
                shape=detail,
            )
        )
        self.written[first.untyped_storage()._cdata] = len(self.found)
        self._count(inputs, first)
        return out

    def _count(self, inputs: list[Tensor], out: Tensor) -> None:
        for part in (*inputs, out):
            storage = part.untyped_storage()
            self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes() // part.element_size()))
        self._alive = {key: known for key, known in self._alive.items() if not known[0].expired()}
        self.peak = max(self.peak, sum(elements for _, elements in self._alive.values()))


def _described(name: str, args: tuple, tensors: list[Tensor], out: Tensor) -> tuple[str, int, tuple[int, ...]]:
    """Kind, multiply-adds and shape of an operator."""
    if name == "convolution":
        weight, groups = args[1], args[8]
        stride = list(args[3]) * (weight.ndim - 2)  # one number may stand for all sides
        macs = out.numel() * prod(weight.shape[1:])
        channels = args[0].shape[1]
        dense = "pointwise_conv" if prod(weight.shape[2:]) == 1 else "conv"
        kind = dense if groups == 1 else "depthwise_conv" if groups == channels else "grouped_conv"
        sides = weight.shape[-1], stride[-1], out.shape[-1]
        others = [(weight.shape[i], stride[i - 2], out.shape[i]) for i in range(2, weight.ndim - 1)]
        uneven = tuple(size for other in others for size in other if other != sides)
        return kind, macs, (channels, weight.shape[0], *sides[:2], groups, sides[2], *uneven)
    flat = tuple(size for tensor in (*tensors[:2], out) for size in tensor.shape)
    if "scaled_dot_product" in name:
        return "attention", 2 * prod(tensors[0].shape) * tensors[1].shape[-2], flat
    kind = KINDS.get(name, "copy" if name in ("clone", "copy", "_to_copy", "constant_pad_nd") else "other")
    if kind in ("linear", "matmul"):
        left, right = tensors[-2:]
        return kind, prod(left.shape) * right.shape[-1], (*left.shape, right.shape[-1])
    return kind, 0, flat
