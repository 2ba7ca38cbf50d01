"""A user's own PyTorch module as the teacher."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from search_spaces import ForeignModel, KdnasError, first_line
from trainables.tasks.base import Data
from trainables.teachers.base import Known, imported, named, not_importable, width_of

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth")
REMEDY = "name a function without arguments as package.module:function, importable from here"


@dataclass(frozen=True)
class ModuleTeacher:
    """A user's own module, named by import path; this runs the user's code.

    Args:
        factory: `package.module:function`; called without arguments, returns an `nn.Module` that answers
            normalised images `[batch, C, H, W]` with logits `[batch, classes]`.
        weights: state dictionary to load into it (.safetensors, or .pt read with `weights_only=True`).
        taps: tap name to the dotted name of the submodule whose output it is.
        classes: names of its classes in the order of its logits; empty where they are the task's, in its order.
        mapping: class of the teacher to class of the task, where the names differ.
    """

    factory: str
    weights: Path | None = None
    taps: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str | int, ...] = ()
    mapping: Mapping[str | int, str | int] = field(default_factory=dict)

    def read(self, data: Data) -> Known:
        """The module with its weights.

        Raises:
            KdnasError: it cannot be imported, its weights do not fit, or it does not take the task's images.
        """
        model = self._module()
        if self.weights is not None:
            _load_weights(model, Path(self.weights))
        if self.taps or not hasattr(model, "forward_taps"):
            model = ForeignModel(model, self.taps)
        return Known(self.factory, model, width_of(model, data, "module"), named(self), (dict(self.taps),))

    def _module(self) -> nn.Module:
        factory = imported(self.factory, "teachers.factory", REMEDY)
        try:
            model = factory()
        except (Exception, SystemExit) as error:  # a user's code may raise anything
            raise not_importable(error, self.factory, "teachers.factory", REMEDY) from error
        if not isinstance(model, nn.Module):
            raise KdnasError(
                f"it returned a {type(model).__name__}, not an nn.Module",
                field="teachers.factory",
                value=self.factory,
                remedy="return the module itself",
            )
        return model


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix not in WEIGHTS_SUFFIXES:
            raise ValueError(f"known suffixes are {', '.join(WEIGHTS_SUFFIXES)}")
        safe = path.suffix == ".safetensors"
        if not safe:
            _check_not_packed(path)
        weights = safetensors.torch.load_file(path) if safe else torch.load(path, weights_only=True)
        model.load_state_dict(weights)
    except (
        OSError,
        ValueError,
        RuntimeError,
        AttributeError,
        TypeError,
        KeyError,
        EOFError,
        SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise KdnasError(
            f"the weights cannot be loaded ({first_line(error)})",
            field="teachers.weights",
            value=str(path),
            remedy="give a state dictionary that fits the module, as .safetensors or .pt",
        ) from error


def _check_not_packed(path: Path) -> None:
    """PyTorch writes archives whose parts are as long as they say; a packed one may become any size in memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it is packed: {path.stat().st_size:,} bytes become {unpacked:,}")
