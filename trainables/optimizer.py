"""How are weights updated? As torch's fused `SGD(nesterov=True)` and `AdamW` update them.

The classes of torch import its compiler at the first step, which this loop never uses: 70 MB and more than a second
in every worker, and a tenth of the time of a step of a small student. A test holds them equal bit for bit.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from search_spaces import Registry

MOMENTUM = 0.9
BETAS, EPSILON = (0.9, 0.999), 1e-8
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


class AdamW:
    """Adam with decoupled weight decay, for networks that SGD trains badly, such as transformers.

    Source: Loshchilov 2019, Decoupled Weight Decay Regularization, algorithm 2; betas 0.9 and 0.999, epsilon 1e-8.

    Args:
        parameters: to be trained.
        weight_decay: share by which weights shrink in a step, times the learning rate.
    """

    def __init__(self, parameters: Iterable[Tensor], weight_decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.weight_decay = weight_decay
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [torch.zeros((), device=parameter.device) for parameter in self.parameters]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter; one without gradient (not used by the loss) counts as one of gradient 0."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        torch._foreach_add_(self.steps, 1)
        torch._fused_adamw_(
            self.parameters,
            gradients,
            self.means,
            self.squares,
            [],
            self.steps,
            lr=learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Moments of every parameter and how many steps it took."""
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `state_dict`."""
        for name, own in (("means", self.means), ("squares", self.squares), ("steps", self.steps)):
            for here, value in zip(own, state[name], strict=True):
                here.copy_(value)


OPTIMIZERS: Registry[type[SGD] | type[AdamW]] = Registry("optimizer", ("sgd", SGD), ("adamw", AdamW))
