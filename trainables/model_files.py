"""How is a trained network written to a folder and read back without unpickling anything?

A folder holds `model.json` (space, architecture, input shape, classes, normalisation) and
`weights.safetensors`. The architecture is rebuilt from its space, so no code travels with the weights.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from search_spaces import SPACES, Architecture, KdnasError


def save_student(folder: Path, model: nn.Module, meta: dict[str, Any]) -> None:
    """Write weights and `meta` to `folder` (created).

    Args:
        folder: where to.
        model: a network that `meta["space"]` can build.
        meta: `space` {name, options}, `architecture`, `shape` [C, H, W], `classes` names, `mean`, `std`, `task`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "weights.safetensors",
    )
    (folder / "model.json").write_text(json.dumps(meta, indent=2) + "\n")


def load_student(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Network in evaluation mode and its meta data.

    Raises:
        KdnasError: a file is missing or altered, or the weights do not fit the architecture.
    """
    try:
        meta = json.loads((folder / "model.json").read_text())
        space, architecture = meta["space"], Architecture.of(meta["architecture"])
        options = {name: value for name, value in space.items() if name != "name"}
        model = SPACES[space["name"]](**_tuples(options)).build(
            architecture, tuple(meta["shape"]), len(meta["classes"])
        )
        model.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KdnasError(
            f"no usable model here ({reason})",
            field="path",
            value=str(folder),
            remedy="give a folder with model.json and weights.safetensors, as `kdnas teacher train` writes it",
        ) from error
    return model.eval(), meta


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
