"""Where do a candidate's weights start? From scratch."""

from dataclasses import dataclass

from trainables.evaluators.base import Prepared, Workshop


@dataclass(frozen=True)
class Scratch:
    """Every candidate starts from fresh weights and is judged by its own training."""

    def prepare(self, workshop: Workshop) -> Prepared:
        """Nothing."""
        return Prepared()
