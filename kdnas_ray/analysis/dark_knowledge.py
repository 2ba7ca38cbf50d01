"""What does a teacher say beside the class, and did the student take it over?

Shapes: N samples, K classes.
"""

import numpy as np
from scipy.special import softmax

BINS = 15


def mean_outputs(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Mean softened output for the samples of each class, `[K, K]`: row the class, NaN for one without samples.

    Args:
        logits: `[N, K]`.
        labels: `[N]` int.
        temperature: above 0.
    """
    soft = softmax(logits.astype(np.float64) / temperature, axis=1)
    count = np.bincount(labels, minlength=logits.shape[1])[:, None]
    total = np.zeros((logits.shape[1],) * 2)
    np.add.at(total, labels, soft)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def likeness(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson correlation of the entries off the diagonal of two `[K, K]`, of which classes are confused with which.

    None where fewer than three entries are known of both, or those of one do not vary.
    """
    known = ~np.eye(len(first), dtype=bool) & np.isfinite(first) & np.isfinite(second)
    a, b = first[known], second[known]
    if len(a) < 3 or a.std() <= 1e-15 or b.std() <= 1e-15:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error, 0 to 1: how far confidence and accuracy lie apart, mean over bins of equal width.

    Source: Guo 2017, On Calibration of Modern Neural Networks, eq. 3, with 15 bins.

    Args:
        logits: `[N, K]`.
        labels: `[N]` int.
        bins: how many; a bin holds its upper edge.
    """
    soft = softmax(logits.astype(np.float64), axis=1)
    sure, right = soft.max(axis=1), soft.argmax(axis=1) == labels
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    apart = np.bincount(place, sure - right, minlength=bins)  # of each bin: its size times confidence minus accuracy
    return float(np.abs(apart).sum() / len(labels))


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Share of samples of which two `[N, K]` name the same class."""
    return float((first.argmax(axis=1) == second.argmax(axis=1)).mean())
