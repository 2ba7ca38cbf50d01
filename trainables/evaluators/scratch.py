"""Where do a candidate's weights start? From scratch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scratch:
    """Every candidate starts from fresh weights and is judged by its own training."""
