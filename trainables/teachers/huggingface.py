"""A Hugging Face model for image classification as the teacher."""

import contextlib
import importlib.util
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import ForeignModel, KdnasError, first_line
from trainables.tasks.base import Data
from trainables.teachers.base import Known, check_images, named, pixels, width_of

FIELD = "teachers.model"
UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls a class that nobody named
OTHER_TOKENS = 5  # at most so many tokens beside those of the patches: class, distillation, registers
MOST_SIDE = 2048  # pixels that a model may ask images to be resized to
BATCH = 64  # images at a time: hidden states of large models take much memory


@dataclass(frozen=True)
class HuggingFaceTeacher:
    """A Hugging Face model for image classification, from a folder or the hub; needs the extra `huggingface`.

    Weights are read from safetensors only and no code of the model's repository is run. Images are resized to the
    model's size where it has one, grey ones fill all its channels, and they are normalised as its own preprocessor says
    (`preprocessor_config.json`: `image_mean`, `image_std`), or as for `module` where it has none.

    Args:
        model: a folder that `save_pretrained` wrote, or a name on the hub.
        taps: tap name to the dotted name of the submodule whose output it is; a sequence of tokens is read as the map
            of its patches, and `penultimate` is averaged over its places.
        classes: names of its classes in the order of its logits; empty for its `id2label`.
        mapping: class of the teacher to class of the task, where the names differ.
    """

    model: str
    taps: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str | int, ...] = ()
    mapping: Mapping[str | int, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = Path(self.model).expanduser()
        if folder.is_dir():  # a run can be resumed from another folder
            object.__setattr__(self, "model", str(folder.absolute()))

    def read(self, data: Data) -> Known:
        """The model with its preprocessing.

        Raises:
            KdnasError: transformers is not installed, or the model cannot be read or does not take the task's images.
        """
        if importlib.util.find_spec("transformers") is None:
            raise KdnasError(
                "needs transformers, not installed here",
                field="teachers.name",
                value="huggingface",
                remedy='pip install "kdnas_ray[huggingface]"',
            )
        check_images(data, "huggingface")
        network, scale = _load(self.model)
        _check_side(network, self.model)
        answers = _Logits(network, data, scale)
        for tap, path in self.taps.items():
            if path not in (known := dict(network.named_modules())):
                raise KdnasError(
                    "the model has no such submodule",
                    field=f"teachers.taps.{tap}",
                    value=path,
                    remedy=f"submodules: {', '.join(name for name in known if name)}",
                )
        model = HuggingFaceModel(answers, {tap: f"network.{path}" for tap, path in self.taps.items()})
        labels = [str(name) for _, name in sorted(network.config.id2label.items())]
        own = [] if all(UNNAMED.fullmatch(name) for name in labels) else labels
        return Known(
            self.model, model, width_of(model, data, "huggingface"), named(self, own), (dict(self.taps), scale)
        )


class HuggingFaceModel(ForeignModel):
    """A transformers model with taps: tokens become maps, and memory is bounded."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` for normalised images `[batch, C, H, W]`."""
        return torch.cat([self.module(part) for part in x.split(BATCH)])

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `[batch, classes]` and the activations of the named taps, `[batch, c, h, w]` or `[batch, features]`.

        Raises:
            KdnasError: a tapped submodule was not called, or answered with something that is no feature.
        """
        parts = [super(HuggingFaceModel, self).forward_taps(part, names) for part in x.split(BATCH)]
        logits = torch.cat([answer for answer, _ in parts])
        return logits, {name: _feature(torch.cat([seen[name] for _, seen in parts]), name) for name in names}


class _Logits(nn.Module):
    """From images as the task normalises them to the model's logits."""

    def __init__(self, network: nn.Module, data: Data, scale: tuple[list[float], list[float]] | None) -> None:
        super().__init__()
        self.network, self._data, self._scale = network, (data.mean, data.std), scale
        config: Any = network.config
        size = getattr(config, "image_size", None)
        self._size = None if size is None else (size, size) if isinstance(size, int) else tuple(size)[:2]
        self._channels = int(getattr(config, "num_channels", 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]`."""
        if self._scale is not None:
            x = pixels(x, *self._data).to(x.dtype) / 255
        if x.shape[1] == 1 and self._channels > 1:
            x = x.expand(-1, self._channels, -1, -1)
        if self._size is not None and tuple(x.shape[2:]) != self._size:
            x = F.interpolate(x, self._size, mode="bilinear", antialias=True)
        if self._scale is not None:
            mean, std = (x.new_tensor(value).view(1, -1, 1, 1) for value in self._scale)
            x = (x - mean) / std
        return self.network(x).logits


def _load(name: str) -> tuple[Any, tuple[list[float], list[float]] | None]:
    """The model in evaluation mode, and mean and deviation of its preprocessor where it has one."""
    with _quietly():
        try:
            from transformers import AutoModelForImageClassification
            from transformers.utils import cached_file

            network, info = AutoModelForImageClassification.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            made_up = [*info["missing_keys"], *info["mismatched_keys"]]
            if made_up:
                raise ValueError(f"it has no weights for {made_up[0]} and {len(made_up) - 1} others")
            file = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
            own = json.loads(Path(file).read_text()) if file else {}
            mean, std = own.get("image_mean"), own.get("image_std")
            scale = (mean, std) if mean and std and own.get("do_normalize", True) else None
        except Exception as error:  # transformers and its hub raise nearly anything
            raise KdnasError(
                f"no usable model for image classification ({first_line(error)})",
                field=FIELD,
                value=name,
                remedy="give a folder that `save_pretrained` wrote (config.json, model.safetensors), or a name on the "
                "hub; a model with another task or head has to be fine-tuned first",
            ) from error
    return network.float().eval(), scale


def _check_side(network: Any, name: str) -> None:
    size = getattr(network.config, "image_size", None)
    for side in (size,) if isinstance(size, int) else tuple(size or ()):
        if side > MOST_SIDE:
            raise KdnasError(
                f"it asks for images of {side:,} pixels a side; at most {MOST_SIDE:,} are possible",
                field=FIELD,
                value=name,
                remedy="see image_size in its config.json",
            )


def _feature(x: Tensor, name: str) -> Tensor:
    """A map `[batch, c, h, w]` or a vector `[batch, features]`; `penultimate` is a vector, as in our own networks."""
    x = _map(x, name) if x.dim() == 3 else x
    return x.mean(dim=(2, 3)) if name == "penultimate" and x.dim() == 4 else x


def _map(x: Tensor, name: str) -> Tensor:
    """Tokens `[batch, tokens, c]` as the map `[batch, c, h, w]` of their patches."""
    tokens = x.shape[1]
    for other in range(min(OTHER_TOKENS + 1, tokens)):  # they come first
        side = math.isqrt(tokens - other)
        if side * side == tokens - other:
            return x[:, other:].transpose(1, 2).reshape(len(x), x.shape[2], side, side)
    raise KdnasError(
        f"{tokens} tokens are no square map of patches",
        field=f"teachers.taps.{name}",
        value=tuple(x.shape[1:]),
        remedy="name a submodule whose output is a map [batch, C, H, W], a vector, or one token for each patch",
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Transformers draws bars and warns about what is checked here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)
