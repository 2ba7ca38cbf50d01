"""What is a candidate?"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from search_spaces import Architecture, KdnasError, Shape, Space
from trainables.recipe import Recipe


@dataclass(frozen=True)
class Candidate:
    """An architecture, a recipe and a seed: everything that one trial trains.

    Args:
        id: `c0007`: the number of its trial in the study.
        architecture: point of the search space.
        recipe: distillation setting.
        seed: initial weights and sample order derive from it.
    """

    id: str
    architecture: Architecture
    recipe: Recipe
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain nested dictionary."""
        return {
            "id": self.id,
            "architecture": self.architecture.to_json(),
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Candidate":
        """Candidate from `to_json` (further keys are ignored).

        Raises:
            KdnasError: its id is none: folders are called by it.
        """
        return cls(
            checked_id(data["id"]),
            Architecture.of(data["architecture"]),
            Recipe.from_json(data["recipe"]),
            data["seed"],
        )


def checked_id(text: Any) -> str:
    """The id of a candidate, as a part of a path.

    Raises:
        KdnasError: it could lead elsewhere.
    """
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", text):
        raise KdnasError("is no id of a candidate", field="id", value=text, remedy="ids are like c0007: mend the file")
    return text


def build_model(space: Space, architecture: Architecture, shape: Shape, classes: int, seed: int) -> nn.Module:
    """Freshly initialised network whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(architecture, shape, classes)
