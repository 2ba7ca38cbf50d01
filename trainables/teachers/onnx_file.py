"""An ONNX file as the teacher, run by ONNX Runtime."""

import contextlib
import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces import KdnasError, first_line
from trainables.opaque import Opaque
from trainables.tasks.base import Data
from trainables.teachers.base import Known, as_logits, file_digest, is_table, named, pixels, width_of

FIELD = "teachers.path"
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
         "tensor(uint8)": np.uint8}  # fmt: skip
WEIGHTS = ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16", "INT8", "UINT8")  # the rest are shapes and positions


@dataclass(frozen=True)
class OnnxTeacher:
    """An ONNX file that answers images with logits, run by ONNX Runtime on the CPU.

    Its input is `[batch, C, H, W]`: normalised as for `module` where it is floating point, the pixels themselves where
    it is uint8, as `kdnas export` writes it. Its parameters are the numbers in its initialisers.

    Args:
        path: the file.
        normalise: images of floating point have the training split's mean 0 and deviation 1 a channel; false for
            pixels from 0 to 1, or for a table's own numbers, as `kdnas export` writes it.
        output: name of the output that holds the logits `[batch, classes]`; null for the only or first one.
        classes: names of its classes in the order of its logits; empty for those in its metadata, or where they are
            the task's, in its order.
        mapping: class of the teacher to class of the task, where the names differ.
    """

    path: Path
    normalise: bool = True
    output: str | None = None
    classes: tuple[str | int, ...] = ()
    mapping: Mapping[str | int, str | int] = field(default_factory=dict)

    def read(self, data: Data) -> Known:
        """The file, asked as a module.

        Raises:
            KdnasError: ONNX Runtime is not installed, or the file cannot be read or does not take the task's images.
        """
        missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise KdnasError(
                f"needs {', '.join(missing)}, not installed here",
                field="teachers.name",
                value="onnx",
                remedy='pip install "kdnas_ray[export]"',
            )
        path = Path(self.path)
        content = (file_digest(path, FIELD, "name an ONNX file"), self.normalise, self.output)
        table = is_table(data)
        model = OnnxModel(path, data.mean, data.std, normalise=self.normalise, output=self.output, table=table)
        return Known(str(path), model, width_of(model, data, "onnx"), named(self, model.classes()), content)


class OnnxModel(Opaque):
    """An ONNX file as a module of normalised images.

    Args:
        path: the file.
        mean: of the training images, one a channel.
        std: their deviation.
        normalise: whether it reads normalised images.
        output: name of the logits; None for the first output.
        table: whether the task's inputs are numbers of a table.

    Raises:
        KdnasError: ONNX Runtime cannot load it, or it has other inputs and outputs.
    """

    def __init__(
        self,
        path: Path,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        normalise: bool = True,
        output: str | None = None,
        table: bool = False,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            params = _params(path)
        except Exception as error:  # ONNX Runtime raises its own
            raise _refused(path, f"ONNX Runtime cannot load it ({first_line(error)})", "name an ONNX file") from error
        super().__init__(params)
        self._session, self._path = session, path
        self._mean, self._std, self._normalise, self._table = mean, std, normalise, table
        inputs, outputs = session.get_inputs(), [entry.name for entry in session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
            found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
            raise _refused(path, f"its inputs are {found}", "it needs one, images [batch, C, H, W]")
        if table and inputs[0].type == "tensor(uint8)":
            raise _refused(path, "it reads bytes", "the task's inputs are numbers of a table: give one for float32")
        if output is not None and output not in outputs:
            raise KdnasError(
                "it has no such output", field="teachers.output", value=output, remedy=f"known: {', '.join(outputs)}"
            )
        self._input, self._output = inputs[0], output or outputs[0]

    def classes(self) -> tuple[str, ...]:
        """The class names that its metadata hold, as `kdnas export` writes them; empty where they hold none."""
        text = self._session.get_modelmeta().custom_metadata_map.get("classes", "")
        with contextlib.suppress(ValueError):
            names = json.loads(text)
            return tuple(map(str, names)) if isinstance(names, list) else ()
        return ()

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` for normalised images `[batch, C, H, W]`.

        Raises:
            KdnasError: the network does not take them, or answers with something else.
        """
        kind, fixed = TYPES[self._input.type], self._input.shape[0]
        images = x
        if kind == np.uint8 or not self._normalise:
            images = pixels(x, self._mean, self._std, table=self._table)
            images = images if kind == np.uint8 or self._table else images.float() / 255
        asked = images.cpu().numpy().astype(kind)
        step = fixed if isinstance(fixed, int) else len(asked)  # a file may be made for one size of batch
        parts = [self._answer(asked[begin : begin + step], step) for begin in range(0, len(asked), step)]
        return torch.from_numpy(np.concatenate(parts)).to(x.device)

    def _answer(self, images: np.ndarray, size: int) -> np.ndarray:
        filled = np.concatenate([images, np.zeros_like(images, shape=(size - len(images), *images.shape[1:]))])
        try:
            answer = self._session.run([self._output], {self._input.name: filled})[0]
        except Exception as error:  # ONNX Runtime raises its own
            raise _refused(
                self._path,
                f"it does not take images of shape {filled.shape} ({first_line(error)})",
                f"its input is {self._input.type} {self._input.shape}; task.size sets the images' size",
            ) from error
        return as_logits(answer, size, FIELD, str(self._path))[: len(images)]


def _params(path: Path) -> int:
    import onnx

    proto = onnx.load(path, load_external_data=False)
    kinds = {onnx.TensorProto.DataType.Value(name) for name in WEIGHTS}
    return sum(math.prod(part.dims) for part in proto.graph.initializer if part.data_type in kinds)


def _refused(path: Any, problem: str, remedy: str) -> KdnasError:
    return KdnasError(problem, field=FIELD, value=str(path), remedy=remedy)
