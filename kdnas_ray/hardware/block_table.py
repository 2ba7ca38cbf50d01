"""How long does a network take, as the sum of its operators measured one by one?"""

from collections.abc import Callable, Sequence

import numpy as np

from kdnas_ray.hardware.calibrating import COMPUTING, Measured, least_errors
from kdnas_ray.hardware.devices import DeviceProfile
from kdnas_ray.hardware.microbenchmarks import operator_ms
from kdnas_ray.hardware.operators import Operator, Operators
from kdnas_ray.hardware.roofline import started

Key = tuple[str, tuple[int, ...]]


class BlockTable:
    """Milliseconds of every distinct operator, measured when it is first met, and how sums of them become a latency.

    A sum is not yet a latency: a runtime fuses across operators and keeps data in cache. So `fit` learns from networks
    whose latency is known a factor for convolutions and matrix products, one for all else, what each operator and what
    each call takes beside them.

    Source: Cai 2019, ProxylessNAS, section 4 (latency from a table of operators).

    Args:
        profile: which activations are a part of what is before them.
        measuring: milliseconds of an operator; None for a kind that cannot be measured alone, which then counts 0.
    """

    def __init__(self, profile: DeviceProfile, measuring: Callable[[Operator], float | None] = operator_ms) -> None:
        self._profile, self._measuring = profile, measuring
        self.known: dict[Key, float] = {}
        self.weights = np.array([1.0, 1.0, 0.0, 0.0])  # of what `features` gives

    def features(self, network: Operators) -> list[float]:
        """Milliseconds of its convolutions and matrix products, and of all else; number of operators; 1."""
        each = list(started(network.each, self._profile))
        computing = sum(self._one(operator) for operator in each if operator.kind in COMPUTING)
        return [computing, sum(map(self._one, each)) - computing, len(each), 1.0]

    def fit(self, measured: Sequence[Measured]) -> None:
        """Learn the weights of the features: least relative errors, none below 0."""
        times = np.array([found.latency.median_ms for found in measured])
        self.weights = least_errors(np.array([self.features(found.network) for found in measured]), times)

    def latency_ms(self, network: Operators) -> float:
        """Milliseconds of the network."""
        return float(self.weights @ self.features(network))

    def _one(self, operator: Operator) -> float:
        key = (operator.kind, operator.shape)
        if key not in self.known:
            self.known[key] = self._measuring(operator) or 0.0
        return self.known[key]
