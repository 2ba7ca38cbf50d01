"""How long does a network take, as the sum of its operators measured one by one?"""

from collections.abc import Callable, Sequence

import numpy as np

from kdnas_ray.hardware.calibrating import Measured
from kdnas_ray.hardware.devices import DeviceProfile
from kdnas_ray.hardware.microbenchmarks import operator_ms
from kdnas_ray.hardware.operators import Operator, Operators
from kdnas_ray.hardware.roofline import started

Key = tuple[str, tuple[int, ...]]


class BlockTable:
    """Milliseconds of every distinct operator, measured when it is first met, and how sums of them become a latency.

    A sum is not yet a latency: a runtime fuses across operators and keeps data in cache. So `fit` learns a factor and a
    constant from networks whose latency is known.

    Source: Cai 2019, ProxylessNAS, section 4 (latency from a table of operators).

    Args:
        profile: which activations are a part of what is before them.
        measuring: milliseconds of an operator; None for a kind that cannot be measured alone, which then counts 0.
    """

    def __init__(self, profile: DeviceProfile, measuring: Callable[[Operator], float | None] = operator_ms) -> None:
        self._profile, self._measuring = profile, measuring
        self.known: dict[Key, float] = {}
        self.factor, self.constant_ms = 1.0, 0.0

    def total(self, network: Operators) -> float:
        """Sum of the network's operators, milliseconds."""
        return sum(self._one(operator) for operator in started(network, self._profile))

    def fit(self, measured: Sequence[Measured]) -> None:
        """Learn factor and constant: least squares of relative errors."""
        true = np.array([found.latency.median_ms for found in measured])
        sums = np.array([self.total(found.network) for found in measured])
        table = np.stack([sums, np.ones(len(true))], axis=1) / true[:, None]
        (self.factor, self.constant_ms), *_ = np.linalg.lstsq(table, np.ones(len(true)), rcond=None)

    def latency_ms(self, network: Operators) -> float:
        """Milliseconds of the network."""
        return float(self.factor * self.total(network) + self.constant_ms)

    def _one(self, operator: Operator) -> float:
        key = (operator.kind, operator.shape)
        if key not in self.known:
            self.known[key] = self._measuring(operator) or 0.0
        return self.known[key]
