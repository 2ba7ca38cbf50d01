"""How alike are the features of two networks, whatever their sizes and rotations? Linear centred kernel alignment.

Shapes: N samples.
"""

import torch
from torch import Tensor

LEAST = 4  # samples that the unbiased estimate needs


def gram(features: Tensor) -> Tensor:
    """Linear kernel between all samples, `[N, N]` float64: inner products of their features, flattened.

    Args:
        features: `[N, …]`, of any shape.
    """
    flat = features.flatten(1).double()
    return flat @ flat.T


def unbiased_hsic(first: Tensor, second: Tensor) -> float:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion of two kernels.

    Features have more numbers than there are samples; the usual estimate of Kornblith's eq. 3 is then close to 1 for
    any two networks, this one is 0 on average for unrelated ones.

    Source: Song 2012, Feature Selection via Dependence Maximization, eq. 5; Nguyen 2021, Do Wide and Deep Networks
    Learn the Same Things?, eq. 3.

    Args:
        first, second: `[N, N]`, N at least 4.
    """
    n = len(first)
    k, m = (kernel - torch.diag(kernel.diagonal()) for kernel in (first, second))
    crossed = (k * m).sum()  # trace of k m: both are symmetric
    alone = k.sum() * m.sum() / ((n - 1) * (n - 2))
    shared = 2 * (k.sum(dim=0) @ m.sum(dim=0)) / (n - 2)
    return float(crossed + alone - shared) / (n * (n - 3))


def cka(first: Tensor, second: Tensor) -> float | None:
    """Linear CKA of two kernels of `gram`: 1 for features equal up to rotation and scale, around 0 for unrelated ones.

    Source: Kornblith 2019, Similarity of Neural Network Representations Revisited, eq. 4, with the unbiased estimate of
    HSIC in place of eq. 3; so it may be a little below 0.

    Args:
        first, second: `[N, N]` of the same samples in the same order.

    Returns:
        None where a network says the same of all samples, or there are fewer than four.
    """
    if len(first) < LEAST:
        return None
    own, other = unbiased_hsic(first, first), unbiased_hsic(second, second)
    if own <= 0 or other <= 0:
        return None
    return unbiased_hsic(first, second) / (own * other) ** 0.5
