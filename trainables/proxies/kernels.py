"""Which proxies ask how differently a network sees the samples of a batch?"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces import KdnasError
from trainables.proxies.base import Probe, copied, gradients

# Activations that pass what is positive and hold back the rest; `hardtanh` is what ReLU6 becomes.
_GATES = ("relu", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "hardswish", "mish", "softplus")
_SMALL = 1e-5  # keeps logarithms finite, as published for `jacob_cov`


def jacob_cov(model: nn.Module, probe: Probe) -> float:
    """Covariance of the Jacobian: samples whose gradients resemble each other less are easier to tell apart.

    `- sum_i log(v_i + k) + 1 / (v_i + k)`, with v the eigenvalues of the correlation matrix `[B, B]` of the samples'
    gradients `d(sum of logits)/d(image)` `[B, C H W]` and k = 1e-5. A sample whose gradient is constant
    counts as an eigenvalue of 0, the worst.

    Source: Mellor 2020, Neural Architecture Search without Training (first version, arXiv 2006.04647v1), section 3.
    """
    images = probe.images.detach().clone().requires_grad_()
    (jacobian,) = gradients(copied(model)(images).sum(), [images])
    rows = jacobian.flatten(1).double()
    rows = nn.functional.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1)
    values = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0) + _SMALL
    return -float((values.log() + 1 / values).sum())


def naswot(model: nn.Module, probe: Probe) -> float:
    """Log-determinant of the kernel of activation patterns: samples should switch different units on.

    `log |K|`, `K_ij = N - hamming(c_i, c_j)`, with c_i the signs of all N inputs of activations for sample i.
    Every activation that PyTorch computes counts, as a module or as a function, in place or not: ReLU and its kin,
    also the smooth ones (GELU, SiLU, hard swish), whose sign is where they begin to pass. Eigenvalues below 1e-5
    (two samples with one pattern) count as 1e-5. Inputs of activations have the batch first.

    Source: Mellor 2021, Neural Architecture Search without Training, eqs. 1 and 2.

    Raises:
        KdnasError: the model has no activation.
    """
    twin = copied(model)
    with _Patterns(len(probe.images)) as patterns:  # with gradients on: off, PyTorch fuses whole transformer layers
        twin(probe.images)
    if patterns.kernel is None:
        raise KdnasError(
            "the model has no activation to see patterns of",
            field="proxy",
            value="naswot",
            remedy=f"known activations: {', '.join(_GATES)}; jacob_cov needs none",
        )
    return float(torch.linalg.eigvalsh(patterns.kernel).clamp(min=_SMALL).log().sum())


class _Patterns(TorchDispatchMode):
    """Adds up the kernel `[B, B]` while a model runs: for every two samples the number of units that agree."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.kernel: Tensor | None = None

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__.removesuffix("_")
        if name in _GATES:
            signs = torch.where(args[0].detach() > 0, 1.0, -1.0).reshape(self.batch, -1)
            agree = (signs.shape[1] + (signs @ signs.T).double()) / 2
            self.kernel = agree if self.kernel is None else self.kernel + agree
        return function(*args, **(kwargs or {}))
