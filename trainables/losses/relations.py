"""Which losses teach how the samples of a batch relate to each other?"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.losses.base import Answer

EPSILON = 1e-7


def rkd_distance(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Huber loss between the samples' pairwise distances, each relative to the mean distance; scalar.

    `mean_{i,j} huber(|s_i - s_j| / m_s, |t_i - t_j| / m_t)`, with m the mean over the pairs i != j.

    Source: Park 2019, Relational Knowledge Distillation, eqs. 5 to 8.

    Args:
        student: feature `[batch, …]`, flattened.
        teacher: feature `[batch, …]`, of any size.
        labels: not used.
        temperature: not used.
    """
    s, t = (_relative_distances(x) for x in _vectors(student, teacher))
    return F.smooth_l1_loss(s, t)


def rkd_angle(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Huber loss between the cosines of the angles that every three samples form; scalar.

    `mean_{i,j,k} huber(cos(s_i s_j s_k), cos(t_i t_j t_k))`. Costs batch^3 numbers.

    Source: Park 2019, Relational Knowledge Distillation, eqs. 9 and 10.

    Args:
        student: feature `[batch, …]`, flattened.
        teacher: feature `[batch, …]`, of any size.
        labels: not used.
        temperature: not used.
    """
    s, t = (_angles(x) for x in _vectors(student, teacher))
    return F.smooth_l1_loss(s, t)


def similarity(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Squared difference between the batch's similarity matrices; scalar.

    `||G(t) - G(s)||_F^2 / batch^2` with `G(x)` the matrix of inner products, its rows scaled to length 1.

    Source: Tung and Mori 2019, Similarity-Preserving Knowledge Distillation, eqs. 2 to 4.

    Args:
        student: feature `[batch, …]`, flattened.
        teacher: feature `[batch, …]`, of any size.
        labels: not used.
        temperature: not used.
    """
    s, t = (F.normalize(x @ x.T, dim=1) for x in _vectors(student, teacher))
    return (s - t).square().mean()


def correlation(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Squared difference between the batch's Gaussian kernel matrices; scalar.

    `mean((K(s) - K(t))^2)` with `K(x)_ij = exp(-gamma |x_i - x_j|^2)` over features scaled to length 1, by its
    Taylor series up to order 2, gamma 0.4.

    Source: Peng 2019, Correlation Congruence for Knowledge Distillation, eqs. 6, 9 and 10.

    Args:
        student: feature `[batch, …]`, flattened.
        teacher: feature `[batch, …]`, of any size.
        labels: not used.
        temperature: not used.
    """
    s, t = (_gaussian_kernel(F.normalize(x, dim=1)) for x in _vectors(student, teacher))
    return (s - t).square().mean()


def pkt(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Divergence of the samples' affinities seen as probabilities of being neighbours; scalar.

    `mean_{i,j} p(t)_ij log(p(t)_ij / p(s)_ij)` with `p(x)_ij` the cosine of `x_i` and `x_j`, moved to 0..1, scaled so
    that each row sums to 1.

    Source: Passalis and Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer, eqs. 3 to 7.

    Args:
        student: feature `[batch, …]`, flattened.
        teacher: feature `[batch, …]`, of any size.
        labels: not used.
        temperature: not used.
    """
    s, t = (_affinities(x) for x in _vectors(student, teacher))
    return (t * ((t + EPSILON) / (s + EPSILON)).log()).mean()


def _vectors(student: Answer, teacher: Answer) -> tuple[Tensor, Tensor]:
    return student.feature.flatten(1), teacher.feature.detach().flatten(1)


def _inner(x: Tensor) -> Tensor:
    """Inner products `[batch, batch]`; all below follows from them, which is much cheaper than from differences."""
    centred = x - x.mean(dim=0)  # moves no distance and no angle, and keeps the rounding small
    return centred @ centred.T


def _distances(inner: Tensor) -> Tensor:
    own = inner.diagonal()
    squared = own[:, None] + own[None] - 2 * inner
    # The root has no slope at 0, where the diagonal lies.
    same = torch.eye(len(inner), dtype=torch.bool, device=inner.device) | (squared <= EPSILON**2)
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


def _relative_distances(x: Tensor) -> Tensor:
    distances = _distances(_inner(x))
    return distances / (distances.sum() / max(1, len(x) * (len(x) - 1))).clamp_min(EPSILON)


def _angles(x: Tensor) -> Tensor:
    """Cosine at corner i of every triangle i, j, k: `[batch, batch, batch]`; 0 where two corners are the same."""
    inner = _inner(x)
    distances = _distances(inner)
    corner = inner[None] - inner[:, :, None] - inner[:, None, :] + inner.diagonal()[:, None, None]
    sides = distances[:, :, None] * distances[:, None, :]
    return torch.where(sides > 0, corner / sides.masked_fill(sides == 0, 1.0), 0.0)


def _gaussian_kernel(x: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    inner = x @ x.T
    terms = [(2 * gamma) ** p / math.factorial(p) * inner**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(dim=0)


def _affinities(x: Tensor) -> Tensor:
    directions = F.normalize(x, dim=1)
    affinities = (directions @ directions.T + 1) / 2
    return affinities / affinities.sum(dim=1, keepdim=True)
