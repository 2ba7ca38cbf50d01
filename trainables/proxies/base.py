"""What is a zero-cost proxy, and what does it see?

Shapes: B samples, C channels, K classes. Every proxy works on a copy of the model, so weights, buffers, gradients and
train or eval mode stay as they were. Nothing is drawn: the same model and probe give the same score.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import KdnasError
from trainables.bank import Batch

Need = Literal["images", "labels", "logits", "taps"]


@dataclass(frozen=True)
class Probe:
    """One batch on which untrained models are compared, on the device of the model.

    Args:
        images: `[B, C, H, W]` float, normalised; B at least 2.
        labels: `[B]` int64, one for every sample (`Batch.guessed` fills those that have none).
        logits: the teacher's, `[B, K]`; None where no teacher was asked.
        taps: features of the same teacher, `{name: [B, …]}` from input to output.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, normalise: Callable[[Tensor], Tensor]) -> "Probe":
        """Probe of a batch of the bank, with the answers of the first teacher (whose taps the bank keeps)."""
        batch = batch.guessed() if len(batch.logits) else batch
        return cls(
            normalise(batch.images), batch.labels, batch.logits[0] if len(batch.logits) else None, dict(batch.taps)
        )


@dataclass(frozen=True)
class Proxy:
    """A registered proxy: `function(model, probe) -> score`, higher is better, and what of the probe it needs.

    Args:
        function: the proxy; its docstring describes the entry.
        needs: `images` (their values, not only their shape), `labels`, the teacher's `logits` and `taps`.
    """

    function: Callable[[nn.Module, Probe], float]
    needs: tuple[Need, ...] = ()

    def __post_init__(self) -> None:
        # `kdnas list` describes an entry by its docstring: the function's, not this class's.
        object.__setattr__(self, "__doc__", self.function.__doc__)

    @property
    def reads(self) -> str:
        """What it reads beside the model's weights, in words."""
        words = {"logits": "the teacher's logits", "taps": "the teacher's taps"}
        return ", ".join(words.get(need, need) for need in self.needs) or "weights only"

    def __call__(self, model: nn.Module, probe: Probe) -> float:
        """The score of the model.

        Raises:
            KdnasError: the probe lacks what the teacher should have said, or the model cannot be scored.
        """
        for need, there in (("logits", probe.logits is not None), ("taps", bool(probe.taps))):
            if need in self.needs and not there:
                raise KdnasError(
                    f"the proxy {self.function.__name__!r} reads the teacher's {need}",
                    field="proxy",
                    value=self.function.__name__,
                    remedy="give a teacher (and name `recipes.taps`), or choose a proxy that needs none",
                )
        return self.function(model, probe)


def copied(model: nn.Module) -> nn.Module:
    """A copy that may be changed: every weight trainable, norms with the batch's statistics, no dropout."""
    twin = copy.deepcopy(model).eval().requires_grad_()
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return twin


def weights_of(model: nn.Module) -> list[Tensor]:
    """Matrices and kernels; biases and the scales of norms, which have one dimension, are left out as published."""
    return [weight for weight in model.parameters() if weight.dim() > 1]


def gradients(value: Tensor, of: Sequence[Tensor], graph: bool = False) -> tuple[Tensor, ...]:
    """Derivatives of a scalar, zero for what it does not depend on; differentiable themselves with `graph`."""
    return torch.autograd.grad(value, of, create_graph=graph, allow_unused=True, materialize_grads=True)


def hard_loss(model: nn.Module, probe: Probe) -> Tensor:
    """Mean cross-entropy on the labels, a scalar."""
    return F.cross_entropy(model(probe.images), probe.labels)


def trunk_tap(names: Sequence[str]) -> str:
    """The last feature before the pooling; `penultimate` where there is none.

    Raises:
        KdnasError: there is neither.
    """
    trunk = [name for name in names if name not in ("penultimate", "logits")]
    if not trunk and "penultimate" not in names:
        raise KdnasError(
            "the proxy compares features", field="taps", value=list(names), remedy="name a tap before logits"
        )
    return trunk[-1] if trunk else "penultimate"
