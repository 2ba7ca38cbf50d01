"""Which weights of a recipe's losses lower the loss on other batches? Learned during one training, by hypergradient."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

EVERY = 8  # steps between two updates: each costs a backward pass a loss and one more
PACE = 0.1  # length of an update of the logarithmic weights

OtherLoss = Callable[[Callable[[Tensor], Tensor]], Tensor]


class MetaWeights(nn.Module):
    """Factors of the loss on the labels and of every term, learned against the loss on other training batches.

    The factors are `n softmax(raw)`, all 1 at first, times what alpha and the recipe's weights say. Every eighth step:
    with `theta' = theta - rate * sum_i m_i grad L_i`, one step ahead, `d L_other(theta') / d m_i =
    -rate * grad L_other(theta') . grad L_i(theta)` exactly; raw moves 0.1 against that direction. The other batch comes
    from the training split, under its labels: the validation split ranks candidates and is not learned from.

    Source: Ren 2018, Learning to Reweight Examples for Robust Deep Learning, eqs. 5 to 7 (one step ahead), for losses
    instead of samples.
    """

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.raw: Tensor
        self.register_buffer("raw", torch.zeros(losses))  # no parameter: the loss itself must not move it

    def forward(self, losses: Sequence[Tensor]) -> Tensor:
        """The weighted sum, a scalar."""
        return (self.factors() * torch.stack(list(losses))).sum()

    def factors(self) -> Tensor:
        """Factor of each loss, mean 1."""
        return len(self.raw) * torch.softmax(self.raw, dim=0)

    def learn(self, slopes: Tensor) -> None:
        """Move against `slopes`, the derivative of the other batch's loss by each factor."""
        with torch.enable_grad():
            raw = self.raw.detach().clone().requires_grad_()
            (len(raw) * torch.softmax(raw, dim=0) * slopes).sum().backward()
        assert raw.grad is not None
        self.raw -= PACE * raw.grad / raw.grad.norm().clamp_min(1e-12)


def slopes(model: nn.Module, losses: Sequence[Tensor], factors: Tensor, rate: float, other: OtherLoss) -> Tensor:
    """Derivative of the loss on another batch, one step ahead, by the factor of each loss: `[losses]`.

    Args:
        model: the student.
        losses: scalars that depend on its parameters; their graphs are kept.
        factors: of each.
        rate: length of the step.
        other: loss on the other batch as a function of the model's logits function.
    """
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    gradients = []
    for loss in losses:
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)])
    ahead = []
    for index, parameter in enumerate(parameters):
        step = sum(factor * gradient[index] for factor, gradient in zip(factors, gradients, strict=True))
        ahead.append((parameter.detach() - rate * step).requires_grad_())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # statistics stay as they are
    state = dict(zip(names, ahead, strict=True)) | buffers
    outer = torch.autograd.grad(other(lambda images: torch.func.functional_call(model, state, (images,))), ahead)
    return -rate * torch.stack(
        [sum((a * b).sum() for a, b in zip(outer, gradient, strict=True)) for gradient in gradients]  # type: ignore[misc]
    )
