"""How is a trained network written to a folder and read back without unpickling anything?

A folder holds `model.json` (space, architecture, input shape, classes, normalisation) and
`weights.safetensors`. The architecture is rebuilt from its space, so no code travels with the weights.
"""

import copy
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from search_spaces import SPACES, Architecture, KdnasError, Space, first_line
from search_spaces.registry import data_only
from trainables.loop import Normalise, device_of
from trainables.tasks.base import Data


def save_student(folder: Path, model: nn.Module, meta: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write weights and `meta` to `folder`.

    Args:
        folder: where to; created, or added to where it exists.
        model: a network that `meta["space"]` can build.
        meta: `space` {name, options}, `architecture`, `shape` [C, H, W], `classes` names, `mean`, `std`, `task`; where
            they are not as for images and classes also `dtype` of the inputs, `targets`, `target_mean`, `target_std`.
        metadata: what the file of the weights says about itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "weights.safetensors",
        metadata,
    )
    (folder / "model.json").write_text(json.dumps(meta, indent=2) + "\n")


def load_student(folder: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """Network in evaluation mode and its meta data.

    A space of a user's own must be imported already: a file of a model runs no code.

    Raises:
        KdnasError: a file is missing or altered, or the weights do not fit the architecture.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "model.json").read_text())
        with data_only():
            space, architecture = space_of(meta)
        model = space.build(architecture, tuple(meta["shape"]), len(meta["classes"]))
        model.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise KdnasError(
            f"no usable model here ({first_line(error)})",
            field="path",
            value=str(folder),
            remedy="give a folder with model.json and weights.safetensors, as `kdnas teacher train` writes it",
        ) from error
    return model.eval(), meta


def space_of(meta: Mapping[str, Any]) -> tuple[Space, Architecture]:
    """Space and architecture that the meta data of a student names."""
    options = {name: value for name, value in meta["space"].items() if name != "name"}
    return SPACES[meta["space"]["name"]](**_tuples(options)), Architecture.of(meta["architecture"])


class Rescale(nn.Module):
    """Standardised values `[batch, K]` back in their own units."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, K]`."""
        return torch.addcmul(self.mean, x, self.std)


def complete(student: nn.Module, meta: Mapping[str, Any]) -> nn.Sequential:
    """The student as it is used: normalisation before it, and values in their own units after it; to be evaluated."""
    parts: list[nn.Module] = [Normalise(tuple(meta["mean"]), tuple(meta["std"])), student]
    if meta.get("target_std"):
        parts.append(Rescale(tuple(meta["target_mean"]), tuple(meta["target_std"])))
    return nn.Sequential(*parts).eval()


def more_meta(targets: str, data: Data) -> dict[str, Any]:
    """What the meta data of a student say beside what all have; nothing for classes of images."""
    found: dict[str, Any] = {} if targets == "classes" else {"targets": targets}
    if data.train.images.dtype != np.uint8:
        found["dtype"] = str(data.train.images.dtype)
    if data.target_std:
        found |= {"target_mean": list(data.target_mean), "target_std": list(data.target_std)}
    return found


class Saves(Protocol):
    """A training that can be written down and taken up again."""

    model: nn.Module

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `state()`."""


def save_training(path: Path, training: Saves) -> None:
    """Write the state of a training, in one step."""
    save_state(path, training.state())


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, in one step; `torch.load(weights_only=True)` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
        try:
            torch.save(state, draft)
            os.replace(draft.name, path)
        except BaseException:
            os.unlink(draft.name)
            raise


def restore_training(path: Path, training: Saves) -> bool:
    """Take up the state that `save_training` wrote; False where there is none that fits: then nothing changed."""
    if not path.exists():
        return False
    before = copy.deepcopy(training.state())
    try:
        training.restore(torch.load(path, map_location=device_of(training.model), weights_only=True))
    except Exception:  # cut short, or of another network; torch raises nearly anything
        training.restore(before)
        return False
    return True


def is_whole(path: Path) -> bool:
    """Whether a file of `save_training` can be read; it may have been cut short."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises nearly anything
        return False
    return True


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
