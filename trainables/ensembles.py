"""How do several teachers answer as one?

Shapes: T teachers, B samples of a batch, K classes. A policy weighs the teachers, sample by sample; the mixture of
their softened outputs is what the student learns from. For KD this is the weighted sum of the teachers' own losses
up to a constant: `sum_t w_t KL(p_t || q) = KL(sum_t w_t p_t || q) + const`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces import Registry

Policy = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
EPSILON = 1e-7


def average(logits: Tensor, labels: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Every teacher counts alike.

    Source: You 2017, Learning from Multiple Teacher Networks, eq. 4 (AVER).

    Args:
        logits: `[T, B, K]`.
        labels: not used.
        temperature: not used.
        generator: not used.

    Returns:
        Weights `[T, B]`, sum 1 over the teachers.
    """
    return logits.new_full(logits.shape[:2], 1 / len(logits))


def entropy(logits: Tensor, labels: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """The surer a teacher is of a sample, the more it counts: by the inverse entropy of its softened output.

    Source: Kwon 2020, Adaptive Knowledge Distillation Based on Entropy, eq. 4 (EBKD).

    Args:
        logits: `[T, B, K]`.
        labels: not used.
        temperature: above 0.
        generator: not used.

    Returns:
        Weights `[T, B]`, sum 1 over the teachers.
    """
    log_p = F.log_softmax(logits / temperature, dim=2)
    inverse = 1 / (-(log_p.exp() * log_p).sum(dim=2)).clamp_min(EPSILON)
    return inverse / inverse.sum(dim=0)


def confidence(logits: Tensor, labels: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A teacher that is wrong about a sample counts less: by its cross-entropy with the true label.

    `w_t = (1 - exp(CE_t) / sum_j exp(CE_j)) / (T - 1)`; with one teacher its weight is 1.

    Source: Zhang 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, eq. 3 (CA-MKD).

    Args:
        logits: `[T, B, K]`.
        labels: true classes `[B]`.
        temperature: not used.
        generator: not used.

    Returns:
        Weights `[T, B]`, sum 1 over the teachers.
    """
    teachers = len(logits)
    if teachers == 1:
        return torch.ones_like(logits[..., 0])
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(teachers), reduction="none").view(teachers, -1)
    return (1 - F.softmax(losses, dim=0)) / (teachers - 1)


def one_at_random(logits: Tensor, labels: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One teacher a batch, drawn anew each time.

    Source: Fukuda 2017, Efficient Knowledge Distillation from an Ensemble of Teachers, section 3.2 (switched training).

    Args:
        logits: `[T, B, K]`.
        labels: not used.
        temperature: not used.
        generator: draws the teacher.

    Returns:
        Weights `[T, B]`: 1 for one teacher, 0 for the others.
    """
    weights = torch.zeros_like(logits[..., 0])
    weights[int(torch.randint(len(logits), (), generator=generator))] = 1
    return weights


ENSEMBLES: Registry[Policy] = Registry(
    "ensemble", ("average", average), ("entropy", entropy), ("confidence", confidence), ("random", one_at_random)
)


def combine(
    logits: Tensor,
    labels: Tensor,
    temperature: float,
    policy: str = "average",
    shares: Sequence[float] = (),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Logits `[B, K]` of one teacher that, softened at this temperature, answers with the mixture.

    Args:
        logits: of the teachers, `[T, B, K]`.
        labels: true classes `[B]`.
        temperature: at which the outputs are mixed, above 0.
        policy: name of an entry of `ENSEMBLES`.
        shares: how much each teacher counts beside the policy, `[T]`, not all 0; empty for all alike.
        generator: for policies that draw.
    """
    if len(logits) == 1:
        return logits[0]
    weights = ENSEMBLES[policy](logits, labels, temperature, generator or torch.Generator())
    if shares:
        weights = weights * torch.tensor(shares, dtype=weights.dtype, device=weights.device)[:, None]
        weights = weights / weights.sum(dim=0).clamp_min(EPSILON)
    mixture = (
        F.log_softmax(logits / temperature, dim=2) + weights.clamp_min(torch.finfo(weights.dtype).tiny).log()[..., None]
    )
    return temperature * mixture.logsumexp(dim=0)
