"""How does a student become an ONNX file, in float and in int8, and what does the file answer?"""

import contextlib
import io
import json
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from search_spaces import KdnasError, Shape, first_line
from trainables.slot import exclusive, told_once

PIXELS, LOGITS = "pixels", "logits"
OPSET = 18
CALIBRATION_BATCH = 64
TIMED = 200  # inferences
RUN_BATCH = 256
# What stands between the pixels and the first layer stays in float: rounding twice costs accuracy for nothing.
BEFORE_LAYERS = ("Cast", "Mul", "Add", "Sub", "Div")


def write_onnx(
    model: nn.Module, shape: Shape, path: Path, metadata: Mapping[str, str], dtype: torch.dtype = torch.uint8
) -> None:
    """Write a network that reads `pixels` `[batch, C, H, W]` and answers `logits` `[batch, classes]` float32.

    Args:
        model: in evaluation mode, its normalisation inside.
        shape: channels, height and width.
        path: the file.
        metadata: what its `metadata_props` hold.
        dtype: of the pixels.

    Raises:
        KdnasError: ONNX lacks an operator of it, or it depends on its input in a way that cannot be written down.
    """
    images = torch.zeros(2, *shape, dtype=dtype)
    with quietly():
        try:
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[PIXELS],
                output_names=[LOGITS],
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # torch, its exporter and onnxscript raise their own
            raise not_exportable(error, "onnx") from error
    assert program is not None
    proto = program.model_proto
    _forget_where_it_was_made(proto)
    _save(proto, path, metadata)


def write_int8(source: Path, path: Path, images: np.ndarray, metadata: Mapping[str, str]) -> None:
    """Write the int8 form of an ONNX file: quantise and dequantise around every operator, weights by channel.

    Args:
        source: as `write_onnx` wrote it.
        path: the file.
        images: `[N, C, H, W]` uint8, from which the ranges of the activations are taken.
        metadata: what its `metadata_props` hold.

    Raises:
        KdnasError: ONNX Runtime cannot quantise it.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            starts = range(0, len(images), CALIBRATION_BATCH)
            self.batches = iter([np.ascontiguousarray(images[start : start + CALIBRATION_BATCH]) for start in starts])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {PIXELS: batch}

    with tempfile.TemporaryDirectory() as work, quietly():
        prepared = Path(work) / "prepared.onnx"
        try:
            quant_pre_process(source, prepared)
            quantize_static(
                prepared,
                path,
                Samples(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_before_layers(onnx.load(prepared)),
            )
        except Exception as error:  # ONNX Runtime raises its own, and nearly anything else
            raise KdnasError(
                f"ONNX Runtime cannot quantise this network ({first_line(error)})",
                field="--int8",
                remedy="export it without --int8",
            ) from error
    _save(onnx.load(path), path, metadata)


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """Logits `[N, classes]` of an ONNX file for images `[N, C, H, W]` uint8, on the CPU."""
    session = _session(path)
    parts = [
        session.run([LOGITS], {PIXELS: np.ascontiguousarray(images[start : start + RUN_BATCH])})[0]
        for start in range(0, len(images), RUN_BATCH)
    ]
    return np.concatenate(parts)


def latency_ms(path: Path, image: np.ndarray, say: Callable[[str], object] = lambda text: None) -> float:
    """Median milliseconds of one image `[1, C, H, W]` uint8, by one thread on this machine's CPU, which it has alone.

    Args:
        path: the file.
        image: what it answers.
        say: told when it has to wait for the machine.
    """
    session, times = _session(path), []
    with exclusive(waiting=told_once(say)):
        for index in range(TIMED + TIMED // 10):
            begin = time.perf_counter()
            session.run([LOGITS], {PIXELS: image})
            if index >= TIMED // 10:  # before that it warms up
                times.append(time.perf_counter() - begin)
    return 1e3 * float(np.median(times))


def describe(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace what an ONNX file says about itself."""
    import onnx

    _save(onnx.load(path), path, metadata)


def as_metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """What a file says about itself: text by key, JSON where a value is not text; `about` holds all of it."""
    shown = ("name", "task", "classes", "input", "space", "architecture", "notation", "accuracy", "configuration")
    found = {key: about[key] if isinstance(about[key], str) else json.dumps(about[key]) for key in shown}
    return {**found, "about": json.dumps(about)}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Exporters talk to the root logger, to their own and to standard error about what needs no action."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def not_exportable(error: BaseException, form: str) -> KdnasError:
    """The refusal of a network that cannot be written in this form; names the operators that it lacks."""
    texts, cause = [], error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    lacking = dict.fromkeys(re.findall(r"No ONNX function found for <OpOverload\(op='([^']+)'", "\n".join(texts)))
    others = [name for name in ("safetensors", "torch-export", "onnx") if name != form]
    if lacking:
        problem = f"ONNX has no operator for {', '.join(lacking)}"
    else:
        problem = f"this network cannot be written in this form ({_plain(texts[-1])})"
    return KdnasError(problem, field="--format", value=form, remedy=f"choose {' or '.join(others)}")


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _before_layers(proto: Any) -> list[str]:
    """Names of the nodes that only the normalisation of the pixels is made of."""
    own, names = {PIXELS, *(tensor.name for tensor in proto.graph.initializer)}, []
    for node in proto.graph.node:
        if node.op_type in BEFORE_LAYERS and set(node.input) <= own:
            own |= set(node.output)
            names.append(node.name)
    return names


def _save(proto: Any, path: Path, metadata: Mapping[str, str]) -> None:
    import onnx

    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))


def _forget_where_it_was_made(proto: Any) -> None:
    """The exporter notes for every node in which file and line it was written: paths of this machine."""
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        values = [*getattr(graph, "input", ()), *getattr(graph, "output", ()), *graph.value_info]
        named = [value for value in values if not isinstance(value, str)]
        for part in (graph, *graph.node, *named, *getattr(graph, "initializer", ())):
            del part.metadata_props[:]
            part.doc_string = ""


def _plain(text: str) -> str:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return (lines or ["unknown reason"])[0]
