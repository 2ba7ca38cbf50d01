"""Which weights and temperatures adapt to the samples or are learned beside the student?

B samples of a batch, K classes. What only runs with time lies in `schedules.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Registry
from trainables.losses import Answer, Loss
from trainables.meta import MetaWeights
from trainables.schedules import SCHEDULES, constant, cosine, linear


def fixed(logits: Tensor, labels: Tensor) -> Tensor:
    """Every sample counts alike, every term as its weight says.

    Source: Hinton 2015, Distilling the Knowledge in a Neural Network, section 2.

    Args:
        logits: the teacher's, `[B, K]`.
        labels: true classes `[B]`.

    Returns:
        Weights `[B]`, all 1.
    """
    return logits.new_ones(len(logits))


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """A sample's distillation counts as far as its teacher is right and sure.

    `w = p_true * (1 - H(p) / log K)` with p the teacher's output at temperature 1 and H its entropy: 1 where it
    is right and certain, near 0 where it is wrong or knows nothing.

    Source: Zhang 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, eq. 3 (right), Kwon 2020, Adaptive
    Knowledge Distillation Based on Entropy, eq. 4 (sure); as a weight of each sample here.

    Args:
        logits: the teacher's, `[B, K]`.
        labels: true classes `[B]`.

    Returns:
        Weights `[B]` from 0 to 1.
    """
    log_p = F.log_softmax(logits, dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1)
    right = log_p.gather(1, labels[:, None]).squeeze(1).exp()
    return right * (1 - entropy / math.log(max(logits.shape[1], 2))).clamp_min(0)


class Uncertainty(nn.Module):
    """Weighs the loss on the labels and every term by a learned uncertainty; alpha is not used.

    `sum_i exp(-s_i) L_i + s_i / 2` with `s_i = log sigma_i^2`, learned with the student. `s = 3 tanh(parameter)` keeps
    it within -3 to 3: unbounded, a loss near 0 would get an endless weight and the training would diverge.

    Source: Kendall 2018, Multi-Task Learning Using Uncertainty to Weigh Losses, eq. 10.
    """

    bound = 3.0

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(losses))

    def forward(self, losses: Sequence[Tensor]) -> Tensor:
        """The weighted sum, a scalar."""
        s = self.bound * torch.tanh(self.raw)
        return (torch.exp(-s) * torch.stack(list(losses)) + s / 2).sum()


def complexity(alpha: float, size: float, exponent: float) -> float:
    """Alpha falls with the student's size: `alpha * min(1, size) ** exponent`, in recipes `alpha_by_size`.

    The further a student's capacity lies below the teacher's, the less it gains from imitating it. A power of the
    ratio, as capacity is usually compared on a logarithmic scale; alpha and the exponent are both searched.

    Source: Cho and Hariharan 2019, On the Efficacy of Knowledge Distillation, and Mirzadeh 2020, Improved Knowledge
    Distillation via Teacher Assistant (the finding; the formula is ours).

    Args:
        alpha: of a student as large as the teacher.
        size: parameters of the student over those of the teacher.
        exponent: 0 leaves alpha alone.
    """
    return alpha * min(1.0, size) ** exponent


WEIGHTINGS: Registry[Any] = Registry(
    "weighting", ("fixed", fixed), ("confidence", confidence), ("uncertainty", Uncertainty), ("meta", MetaWeights)
)


def per_sample(logits: Tensor, start: float, end: float) -> Tensor:
    """Softens an answer more, the surer the teacher is of it: from `end` for a guess to `start` for certainty.

    `T_i = end + (start - end) * (max p_i - 1 / K) / (1 - 1 / K)` with p the teacher's output at temperature 1.

    Source: the idea of Wei 2024, Dynamic Temperature Knowledge Distillation (sharp outputs need more heat); linear in
    the confidence here.

    Args:
        logits: the teacher's, `[B, K]`.
        start: temperature of an answer that is certain.
        end: temperature of one that is a guess.

    Returns:
        Temperatures `[B]`.
    """
    guess = 1 / max(logits.shape[1], 2)
    sure = (F.softmax(logits, dim=1).amax(dim=1) - guess) / (1 - guess)
    return end + (start - end) * sure.clamp_min(0)


class Curriculum(nn.Module):
    """One temperature learned against the student: it moves where the student's loss grows, more and more.

    `T = end + 2 (start - end) sigmoid(theta)`, at first `start`; theta's gradient is reversed and scaled by
    `(1 - cos(pi * min(1, progress / 0.1))) / 2`, so that the task grows harder over the first tenth of the training.

    Source: Li 2023, Curriculum Temperature for Knowledge Distillation, eqs. 3 to 6.
    """

    ramp = 0.1

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self.start, self.end = start, end
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, progress: float) -> Tensor:
        """The temperature, a scalar."""
        strength = (1 - math.cos(math.pi * min(1.0, progress / self.ramp))) / 2
        temperature = self.end + 2 * (self.start - self.end) * torch.sigmoid(self.theta)
        return (1 + strength) * temperature.detach() - strength * temperature


TEMPERATURES: Registry[Any] = Registry(
    "temperature policy",
    ("constant", constant),
    ("linear", linear),
    ("cosine", cosine),
    ("per_sample", per_sample),
    ("curriculum", Curriculum),
)
ALPHAS: Registry[Any] = Registry("alpha policy", *SCHEDULES.items(), ("complexity", complexity), *WEIGHTINGS.items())


def sample_losses(loss: Loss, student: Answer, teacher: Answer, labels: Tensor, temperature: Tensor) -> Tensor:
    """A loss that is a mean over samples, sample by sample: `[B]`; temperature `[B]`."""

    def one(s: Tensor, t: Tensor, label: Tensor, heat: Tensor) -> Tensor:
        own, other = (Answer(logits[None], logits[None]) for logits in (s, t))
        return loss.function(own, other, label[None], heat)

    rows: Callable[..., Tensor] = torch.func.vmap(one)
    return rows(student.logits, teacher.logits.detach(), labels, temperature)
