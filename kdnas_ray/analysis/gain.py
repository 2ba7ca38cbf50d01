"""How much does distillation bring, and is it more than the luck of the seeds?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """Test accuracy with KD minus without, of the same student from the same seeds.

    Args:
        mean: mean difference over the seeds, in shares of 1.
        margin: half of the 95 % confidence interval of the mean; None for a single seed.
        seeds: number of seeds.
    """

    mean: float
    margin: float | None
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero; never for a single seed."""
        return self.margin is not None and abs(self.mean) > self.margin


def distillation_gain(retrained: Sequence[Mapping[str, Any]], candidate: str) -> Gain | None:
    """Gain of distillation for one candidate; None before a seed was trained both ways.

    A seed decides initial weights and order of the samples, so the difference is taken seed by seed.

    Args:
        retrained: lines of retrained.jsonl; only the longest trainings count.
        candidate: its id.
    """
    longest = max((row["epochs"] for row in retrained), default=0)
    scores: dict[bool, dict[int, float]] = {True: {}, False: {}}
    for row in retrained:
        if row["id"] == candidate and row["epochs"] == longest:
            scores[row["with_kd"]][row["seed"]] = row["test_accuracy"]
    both = scores[True].keys() & scores[False].keys()
    if not both:
        return None
    differences = np.array([scores[True][seed] - scores[False][seed] for seed in sorted(both)])
    if len(differences) == 1:
        return Gain(float(differences[0]), None, 1)
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    margin = student_t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * error
    return Gain(float(differences.mean()), float(margin), len(differences))
