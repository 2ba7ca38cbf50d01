"""Random search: independent draws."""

from dataclasses import dataclass

from optuna.samplers import BaseSampler, RandomSampler

from kdnas_ray.samplers.base import Around, Constraints


@dataclass(frozen=True)
class Random:
    """Independent uniform draws; the baseline that every other sampler must beat.

    Source: Bergstra and Bengio 2012, Random Search for Hyper-Parameter Optimization.
    """

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler."""
        return RandomSampler(seed=seed)
