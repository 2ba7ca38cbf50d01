"""What does whoever receives an exported student need to know?"""

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# What Markdown reads anywhere in a line; and what would become a link by itself.
SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$!@]|:(?=//)|(?<=www)\.)")

ONNX_SNIPPET = """\
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
images = np.zeros((1, {shape}), dtype=np.{type})  # yours: {yours}
(logits,) = session.run(None, {{"pixels": images}})
print({answer})
"""

TORCH_SNIPPET = """\
import json

import torch

extra = {{"about.json": ""}}
model = torch.export.load("student.pt2", extra_files=extra).module()
classes = json.loads(extra["about.json"])["classes"]
images = torch.zeros(1, {shape}, dtype=torch.{type})  # yours: {yours}
logits = model(images)
print({answer})
"""

SAFETENSORS_SNIPPET = """\
import torch

from kdnas_ray.students import load_student

model, about = load_student(".")
classes = about["classes"]
mean, std = (torch.tensor(about[name]).view(-1, 1, 1) for name in ("mean", "std"))
images = torch.zeros(1, {shape})  # yours: {yours}
logits = model((images / 255 - mean) / std)
print({answer})
"""


# What a program makes of the output, by the kind of the task's targets.
ANSWERS = {
    "classes": "[classes[index] for index in logits.argmax(1)]",
    "labels": "[[name for name, logit in zip(classes, row) if logit > 0] for row in logits]",
    "values": "[dict(zip(classes, row.tolist())) for row in logits]",
}
OUTPUTS = {"classes": "classes", "labels": "labels (each holds where its logit is above 0)", "values": "values"}


def escape(text: object) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    return SPECIAL.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def config_digest(resolved: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name a resolved configuration."""
    return hashlib.sha256(json.dumps(resolved, sort_keys=True, default=str).encode()).hexdigest()[:16]


def model_card(about: Mapping[str, Any]) -> str:
    """The card as Markdown; whatever comes from data or configuration is escaped.

    Args:
        about: of an exported student, as `kdnas_ray.export` collects it.
    """
    parts = [
        f"# {escape(about['name'])}: a distilled student for {escape(about['task'])}",
        _sentence(about),
        *_section("What it reads and answers", _interface(about)),
        *_section("Accuracy", _accuracy(about)),
        *_section("Int8", _int8(about)),
        *_section("Size and speed", _costs(about)),
        *_section("How to run it", [f"```python\n{_snippet(about).rstrip()}\n```"]),
        *_section("Data", _data(about)),
        *_section("Teacher", _teacher(about)),
        *_section("Recipe", [_table(("setting", "value"), sorted(_flat(about["recipe"]).items()))]),
        *_section("Architecture", _architecture(about)),
        *_section("Limits", _limits(about)),
        *_section("Where it comes from", _origin(about)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sentence(about: Mapping[str, Any]) -> str:
    teacher = about["teacher"]
    than = ""
    if teacher.get("params") and about.get("params"):
        than = f", {teacher['params'] / about['params']:.1f} times smaller than its teacher"
    return f"{about['params']:,} parameters{than}. Found by kdnas\\_ray: architecture and recipe searched together."


def _interface(about: Mapping[str, Any]) -> list[str]:
    channels, height, width = about["input"]["shape"][1:]
    kind, least = about["input"].get("type", "uint8"), "values 0 to 255"
    if kind != "uint8":
        least = "a row of the table in its own units, columns as channels"
    read = f"`pixels`: {kind} `[batch, {channels}, {height}, {width}]`, {least}; normalisation is inside."
    if about["format"] == "safetensors":
        mean, std = ([round(value, 5) for value in about["normalisation"][name]] for name in ("mean", "std"))
        read = (
            f"float32 `[batch, {channels}, {height}, {width}]`, values 0 to 1, normalised by mean `{mean}` and "
            f"deviation `{std}` of each channel; this is **not** part of the weights."
        )
    names = ", ".join(f"{index}: {escape(name)}" for index, name in enumerate(about["classes"]))
    answer = f"- answers `logits`: float32 `[batch, {len(about['classes'])}]`"
    return [f"- reads {read}\n{answer}\n- {OUTPUTS[_targets(about)]}: {names}"]


def _accuracy(about: Mapping[str, Any]) -> list[str]:
    found, teacher = about["accuracy"], about["teacher"]
    rows = [
        ("this student, with its teacher (KD)", found.get("test_accuracy"), found.get("test_accuracy_std")),
        ("the same, on the labels alone", found.get("test_accuracy_without_kd"),
         found.get("test_accuracy_without_kd_std")),
        ("teacher", teacher.get("accuracy"), None),
    ]  # fmt: skip
    table = _table(
        ("", f"test {about.get('metric', 'accuracy')}"),
        [(name, _percent(value, spread)) for name, value, spread in rows],
    )
    seeds = found.get("seeds")
    text = ""
    if seeds:
        kind = f"Mean ± standard deviation over {seeds} full trainings" if seeds > 1 else "One full training"
        text = f"{kind}; the file holds the first. "
    own = found.get("own_test_accuracy")
    text += f"The file itself, in float: {_percent(own)} on test. " if own is not None else ""
    return [table, text + "The test split was not seen by the search."]


def _int8(about: Mapping[str, Any]) -> list[str]:
    found = about.get("int8")
    if not found:
        return []
    rows = [
        (name, *(_percent(found[split][form]) for form in ("float", "int8", "agreement")))
        for split, name in (("validation", "validation"), ("test", "test"))
    ]
    trained = "trained" if about["recipe"].get("quantised") else "was not trained"
    fast, slow = (about["latency_ms"].get(name, 0) for name in ("student-int8.onnx", "student.onnx"))
    small, large = (about["bytes"].get(name, 0) for name in ("student-int8.onnx", "student.onnx"))
    worse = [what for what, is_so in (("slower", fast > slow), ("larger", small > large)) if is_so]
    warning = (
        f"**Here int8 is {' and '.join(worse)} than float**: this network is so small that the conversions cost more "
        "than they save."
    )
    return [
        _table((about.get("metric", "accuracy"), "float", "int8", "same prediction"), rows),
        warning if worse else "",
        f"Static quantisation by ONNX Runtime (QDQ, a range an output channel for weights), calibrated on "
        f"{found['calibration_samples']} training samples. The student {trained} for int8. At most "
        f"{found['most_points']:g} points of validation {about.get('metric', 'accuracy')} were allowed to be lost.",
    ]


def _costs(about: Mapping[str, Any]) -> list[str]:
    rows = [("parameters", f"{about['params']:,}"), ("FLOPs for one input", f"{about['flops']:,}")]
    rows += [(f"size of {name}", f"{size:,} bytes") for name, size in about["bytes"].items()]
    rows += [
        (f"latency of {name}, one image, one thread, the CPU it was exported on", f"{value:.3f} ms")
        for name, value in about["latency_ms"].items()
    ]
    rows += [(_on_device(name), f"{value:.4g}") for name, value in about["searched"].items()]
    return [_table(("", ""), rows)]


def _on_device(name: str) -> str:
    """What the search knew of a number on a device: words for `latency_ms/device` and `memory_mb/device`."""
    plain, _, device = name.partition("/")
    words = {
        "latency_ms": "latency on {} as the search modelled it, one input, ms",
        "memory_mb": "memory needed on {}: weights and the most activations at one time, as it keeps them, 10^6 bytes",
    }
    return words[plain].format(device)


def _snippet(about: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, about["input"]["shape"][1:]))
    kind = about["input"].get("type", "uint8")
    given = {
        "shape": shape,
        "type": kind,
        "yours": "[batch, channels, height, width], 0 to 255" if kind == "uint8" else "[batch, columns, 1, 1]",
        "answer": ANSWERS[_targets(about)],
    }
    if about["format"] == "safetensors":
        return SAFETENSORS_SNIPPET.format(**given)
    if about["format"] == "torch-export":
        return TORCH_SNIPPET.format(**given)
    return ONNX_SNIPPET.format(**given, file="student-int8.onnx" if about.get("int8") else "student.onnx")


def _targets(about: Mapping[str, Any]) -> str:
    return about.get("targets", "classes")


def _data(about: Mapping[str, Any]) -> list[str]:
    data = about["data"]
    counts = ", ".join(f"{data[name]:,} {name}" for name in ("train", "validation", "test"))
    labels = "" if data["labels"] == 1 else f" {data['labels']:.3g} of the training labels were used."
    return [f"Task {escape(about['task'])}: {counts} samples.{labels} Digest of the data: `{data['digest']}`."]


def _teacher(about: Mapping[str, Any]) -> list[str]:
    teacher = about["teacher"]
    rows = [
        (name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else value)
        for name, value in teacher.items()
        if isinstance(value, str | int | float) and name != "data"
    ]
    return [_table(("", ""), rows)] if rows else []


def _architecture(about: Mapping[str, Any]) -> list[str]:
    notation = f"Space {escape(about['space']['name'])}, in its notation: {escape(about['notation'])}"
    return [notation, _table(("decision", "value"), about["architecture"].items())]


def _limits(about: Mapping[str, Any]) -> list[str]:
    count = len(about["classes"])
    knows = {
        "classes": f"- It knows the {count} classes above and answers one of them for any image.",
        "labels": f"- It knows the {count} labels above; whatever else is there it does not see.",
        "values": f"- It answers {count} number{'s' * (count > 1)} for any input, however unlike what it learned from.",
    }
    found = [
        knows[_targets(about)],
        "- Accuracy holds for images like those of the data set; it was measured on no others.",
        "- Logits are not calibrated probabilities.",
    ]
    if _targets(about) == "values":
        found[1:] = ["- Its errors were measured on samples like those of the data set, on no others."]
        if about["format"] == "safetensors":
            found.append("- The weights answer standardised values: multiply by `target_std`, add `target_mean`.")
    if about["accuracy"].get("seeds") == 1:
        found.append("- One training only: the spread over seeds is not known.")
    if about["data"]["test"] < 1000:
        found.append(f"- The test split is small ({about['data']['test']} samples): accuracies are uncertain.")
    if about["format"] == "torch-export":
        found.append("- Open a `.pt2` file only if you trust where it comes from.")
    return ["\n".join(found)]


def _origin(about: Mapping[str, Any]) -> list[str]:
    parity = about["parity"]
    rows = [
        ("configuration of the run", about["configuration"]),
        ("seed of the search", about["seed"]),
        ("seed of this training", about["training_seed"]),
        ("parity with PyTorch", f"{parity['samples']} validation samples, largest difference "
         f"{parity['difference']:.2g} (largest logit {parity['largest_logit']:.3g}), "
         f"{parity['agreement']:.2%} equal predictions"),
        *about["versions"].items(),
    ]  # fmt: skip
    return [_table(("", ""), rows)]


def _section(title: str, parts: Sequence[str]) -> list[str]:
    return [f"## {title}", *parts] if parts else []


def _table(head: Sequence[str], rows: Any) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)  # type: ignore[assignment]
    else:
        return {name: value}
    return {key: found for part, inner in pairs for key, found in _flat(inner, f"{name}.{part}".strip(".")).items()}


def _percent(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.2%}" + (f" ± {spread:.2%}" if spread is not None else "")
