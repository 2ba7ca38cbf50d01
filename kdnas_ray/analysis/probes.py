"""How much of the classes can a linear model read from the features at a tap?

Shapes: N samples, F features, K classes.
"""

import numpy as np
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

PENALTY = 1.0  # of the probe's weights, on standardised features


def pooled(features: Tensor) -> np.ndarray:
    """Features `[N, F]` float64 as a classifier would read them: a map's mean over its places."""
    return (features.mean(dim=(2, 3)) if features.dim() == 4 else features.flatten(1)).double().cpu().numpy()


def linear_probe(train: np.ndarray, train_labels: np.ndarray, features: np.ndarray, labels: np.ndarray) -> float | None:
    """Accuracy of a linear classifier of the first samples' features on the second samples, 0 to 1.

    The classifier is ridge regression on the classes, on features standardised by the first samples: it has one
    solution and takes milliseconds. None where the first samples are of a single class.

    Source: Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes, section 3.

    Args:
        train, features: `[N, F]`.
        train_labels, labels: `[N]`.
    """
    if len(np.unique(train_labels)) < 2:
        return None
    mean, std = train.mean(axis=0), train.std(axis=0)
    there = std > 1e-12
    if not there.any():
        return None
    train, features = ((part[:, there] - mean[there]) / std[there] for part in (train, features))
    probe = RidgeClassifier(alpha=PENALTY).fit(train, train_labels)
    return float((probe.predict(features) == labels).mean())
