"""How are weights updated? As `torch.optim.SGD(nesterov=True, fused=True)` updates them.

The class of torch imports its compiler at the first step, which this loop never uses: 70 MB and more than a second
in every worker, and a tenth of the time of a step of a small student. A test holds the two equal bit for bit.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.9
LONGEST = 10.0  # gradient; usual ones are shorter, and a step of a loss that grows faster than its weights ends in NaN


@torch.no_grad()
def clip(parameters: Iterable[Tensor]) -> None:
    """Shorten the gradient of all parameters together to length 10 where it is longer.

    Source: Pascanu 2013, On the Difficulty of Training Recurrent Neural Networks, algorithm 1.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    length = torch.stack(torch._foreach_norm(gradients)).norm()
    if length > LONGEST:
        torch._foreach_mul_(gradients, LONGEST / length)


class SGD:
    """Stochastic gradient descent with Nesterov momentum 0.9 and L2 penalty.

    Source: Sutskever 2013, On the Importance of Initialization and Momentum in Deep Learning, section 2.

    Args:
        parameters: to be trained.
        weight_decay: L2 penalty on all of them.
    """

    def __init__(self, parameters: Iterable[Tensor], weight_decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.weight_decay = weight_decay
        self.momentum: list[Tensor] = []

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter; one without gradient (not used by the loss) counts as one of gradient 0."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        first = not self.momentum
        if first:
            self.momentum = [torch.empty_like(parameter) for parameter in self.parameters]
        torch._fused_sgd_(
            self.parameters,
            gradients,
            self.momentum,
            weight_decay=self.weight_decay,
            momentum=MOMENTUM,
            lr=learning_rate,
            dampening=0.0,
            nesterov=True,
            maximize=False,
            is_first_step=first,
        )

    def state_dict(self) -> dict[str, Any]:
        """The momentum of every parameter; empty before the first step."""
        return {"momentum": self.momentum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `state_dict`."""
        self.momentum = [
            value.to(parameter.device).clone(memory_format=torch.preserve_format)
            for value, parameter in zip(state["momentum"], self.parameters, strict=False)
        ]
