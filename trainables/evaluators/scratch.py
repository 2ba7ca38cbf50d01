"""Where do a candidate's weights start? From scratch."""

from dataclasses import dataclass

from trainables.evaluators.base import Prepared, Workshop


@dataclass(frozen=True)
class Scratch:
    """Every candidate starts from fresh weights and is judged by its own training.

    Source: Zoph and Le 2017, Neural Architecture Search with Reinforcement Learning, section 4.
    """

    def prepare(self, workshop: Workshop) -> Prepared:
        """Nothing."""
        return Prepared()
