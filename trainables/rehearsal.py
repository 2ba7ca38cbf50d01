"""Which samples of earlier classes are kept, and how are newer classes kept from drowning the earlier ones?"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn


def herding(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of the samples whose mean feature stays nearest to that of all, best first, `[count]`.

    Because each is chosen for the mean of those so far, the first m of them are the choice for a memory of m.

    Source: Rebuffi 2017, iCaRL: Incremental Classifier and Representation Learning, algorithm 4 (Welling 2009); each
    sample is taken at most once.

    Args:
        features: of one class, `[N, features]`; scaled to length 1 here.
        count: how many, at most N.
        seed: not used.
    """
    features = features.astype(np.float64)
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    mean, total = features.mean(axis=0), np.zeros(features.shape[1])
    free, chosen = np.ones(len(features), dtype=bool), []
    for place in range(1, min(count, len(features)) + 1):
        apart = np.linalg.norm(mean - (total + features) / place, axis=1)
        best = int(np.where(free, apart, np.inf).argmin())
        chosen.append(best)
        total += features[best]
        free[best] = False
    return np.array(chosen, dtype=np.int64)


def drawn(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of samples drawn at random, `[count]`; features `[N, features]` are not looked at.

    Source: Chaudhry 2018, Riemannian Walk for Incremental Learning, section 5 (uniform sampling).
    """
    return np.random.default_rng(seed).permutation(len(features))[:count]


EXEMPLARS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {"herding": herding, "random": drawn}


def align_weights(classifier: nn.Linear, old: int, seen: int) -> float:
    """Scale the weights of the newest classes so that they are as long, on average, as those of the earlier ones.

    `w_new <- gamma w_new` with `gamma = mean |w_old| / mean |w_new|`; returns gamma. Biases stay.

    Source: Zhao 2020, Maintaining Discrimination and Fairness in Class Incremental Learning, section 4.2 (weight
    aligning; without its clipping of weights below 0).

    Args:
        classifier: weights `[K, features]`, classes in the order in which they came.
        old: how many classes came in earlier groups.
        seen: how many have come in all.
    """
    with torch.no_grad():
        length = classifier.weight[:seen].norm(dim=1)
        gamma = float(length[:old].mean() / length[old:].mean().clamp_min(1e-12))
        classifier.weight[old:seen] *= gamma
    return gamma
