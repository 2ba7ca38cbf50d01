"""What does whoever receives an exported student need to know?"""

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# What Markdown reads anywhere in a line; and what would become a link by itself.
SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$!@]|:(?=//)|(?<=www)\.)")

# A program by format: what it imports (our own package and files beside it last) and what it does.
IMPORTS = {
    "onnx": ("import json", "", "import numpy as np", "import onnxruntime"),
    "torch-export": ("import json", "", "import torch"),
    "safetensors": ("import json", "", "import torch", "", "from kdnas_ray.students import load_student"),
}
SNIPPETS = {
    "onnx": """\
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["about"])
classes = about["classes"]
{images}
(logits,) = session.run(None, {{"pixels": images}})
{answer}
""",
    "torch-export": """\
extra = {{"about.json": ""}}
model = torch.export.load("student.pt2", extra_files=extra).module()
about = json.loads(extra["about.json"])
classes = about["classes"]
{images}
logits = model(images){numpy}
{answer}
""",
    "safetensors": """\
with open("about.json", encoding="utf8") as file:
    about = json.load(file)
model, meta = load_student(".")
classes = about["classes"]
mean, std = (torch.tensor(meta[name]).view(-1, 1, 1) for name in ("mean", "std"))
{images}
logits = model((images / 255 - mean) / std){numpy}
{answer}
""",
}

# How a program gets an input, by format: any image or row of a table; or by the file that lies beside it.
INPUTS = {
    "onnx": "images = np.zeros((1, {shape}), dtype=np.{type})  # yours: {yours}",
    "torch-export": "images = torch.zeros(1, {shape}, dtype=torch.{type})  # yours: {yours}",
    "safetensors": "images = torch.zeros(1, {shape})  # yours: {yours}",
}
HEARD = 'pixels("hello.wav", about["input"]["preprocessing"])'
SEEN = 'pixels(photo, about["detection"])'
PHOTO = 'photo = read("photo.jpg")  # yours'
PREPROCESSING = """\
A recording becomes `pixels` as `wav_to_pixels.py` in this folder does it, which needs NumPy alone and reads the numbers
below from `about.json` (`input.preprocessing`): channels averaged, mean taken off, cut or padded with silence to
`samples` around the centre of its energy{loudness}; power spectra (`fft`) of Hann windows of `window` samples, one
every `hop`, summed by `mels` triangular filters from `low_hz` to `high_hz`, evenly spaced in mel = 2595 log10(1 +
Hz / 700); in decibels `peak_db` becomes 255, `range_db` below it 0. It must have `rate` samples a second."""

# What a program makes of the output, by the kind of the task's targets.
ANSWERS = {
    "classes": "[classes[index] for index in logits.argmax(1)]",
    "labels": "[[name for name, logit in zip(classes, row) if logit > 0] for row in logits]",
    "values": "[dict(zip(classes, row.tolist())) for row in logits]",
    "boxes": "[(classes[int(row[:-5].argmax())], row[-5:-1].tolist()) for row in logits[0] if row[:-5].max() > 0]",
}
FOUND = """\
for kind, score, *box in boxes(logits[0], photo, about["detection"]).tolist():
    print(classes[int(kind)], round(score, 3), [round(side, 1) for side in box])  # x0, y0, x1, y1 in the photo"""
# Units of the numbers of `wav_to_pixels`.
UNITS = {
    "rate": "Hz",
    "samples": "samples",
    "window": "samples",
    "fft": "samples",
    "hop": "samples",
    "low_hz": "Hz",
    "high_hz": "Hz",
    "range_db": "dB",
    "peak_db": "dB",
}
SPEAKERS = 20  # that are named
OUTPUTS = {
    "classes": "classes",
    "labels": "labels (each holds where its logit is above 0)",
    "values": "values",
    "boxes": "classes of boxes",
}
DECODE = """\
- each row of `logits` is a place of a grid: the logits of the {count} classes, then x0, y0, x1, y1 of a box in pixels
  of the input, then the logit of the centre-ness. Score of a class: sigmoid(its logit) * sigmoid(centre-ness)."""
PHOTOS = """\
`photo_to_boxes.py` in this folder does both ways with NumPy and Pillow, by the numbers below (`detection` in
`about.json`). `read`: a photo as RGB, upright as its EXIF says. `pixels`: scaled by s = min({width} / its width,
{height} / its height), both sides rounded to whole pixels (halves to even, at least 1), by Pillow's bilinear filter,
which averages over what it makes smaller; it lies in the upper left of {height} x {width}, the rest is 0. `boxes`: what
scores at least `threshold`, of those the surest `candidates`; of boxes of one class that overlap by an IoU above `iou`
the surest stays (greedy non-maximum suppression), `most` of all classes; then the scaling is undone, and boxes end at
the borders of the upright photo. The metric counts far lower scores too: lower `threshold` to find and err more."""


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
        *_section("From a recording to pixels", _recording(about)),
        *_section("From a photo to boxes", _photo(about)),
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
    seen = about["input"].get("seen")
    if seen and kind == "uint8":
        source = about["input"].get("source")
        read += (
            f" In training pixels went from {seen['least']} to {seen['largest']} with mean {seen['mean']} (a channel "
            f"each){': ' + escape(source) if source else ''}. Yours must be on the same scale."
        )
    names = ", ".join(f"{index}: {escape(name)}" for index, name in enumerate(about["classes"]))
    output = about.get("output", {}).get("shape", ["batch", len(about["classes"])])
    shape = ", ".join(map(str, output))
    lines = [f"- reads {read}", f"- answers `logits`: float32 `[{shape}]`", f"- {OUTPUTS[_targets(about)]}: {names}"]
    if _targets(about) == "boxes":
        lines.append(DECODE.format(count=len(about["classes"])))
    return ["\n".join(lines)]


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
        (f"latency of {name}, one {_noun(about)}, one thread, the CPU it was exported on", f"{value:.3f} ms")
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
    kind, form = about["input"].get("type", "uint8"), about["format"]
    imports, answer, numpy = [*IMPORTS[form]], f"print({ANSWERS[_targets(about)]})", ""
    made = "{}" if form == "onnx" else "torch.from_numpy({})"
    if about["input"].get("preprocessing"):
        images = f"images = {made.format(HEARD)}  # your recording"
        imports.append("from wav_to_pixels import pixels  # beside this file")
    elif about.get("detection"):
        images = f"{PHOTO}\nimages = {made.format(SEEN)}"
        imports.append("from photo_to_boxes import boxes, pixels, read  # beside this file")
        answer, numpy = FOUND, ".detach().numpy()"
    else:
        images = INPUTS[form].format(
            shape=", ".join(map(str, about["input"]["shape"][1:])),
            type=kind,
            yours="[batch, channels, height, width], 0 to 255" if kind == "uint8" else "[batch, columns, 1, 1]",
        )
    if "np." not in images:
        imports = [line for line in imports if line != "import numpy as np"]
    file = "student-int8.onnx" if about.get("int8") else "student.onnx"
    program = SNIPPETS[form].format(images=images, answer=answer, file=file, numpy=numpy)
    return "\n".join(imports) + f"\n\n{program}"


def _recording(about: Mapping[str, Any]) -> list[str]:
    how = about["input"].get("preprocessing")
    if not how:
        return []
    loudness = ", scaled to a largest sample of 1" if how["same_loudness"] else ""
    rows = [(name, value, UNITS.get(name, "")) for name, value in how.items()]
    return [PREPROCESSING.format(loudness=loudness), _table(("setting", "value", "unit"), rows)]


def _photo(about: Mapping[str, Any]) -> list[str]:
    how = about.get("detection")
    if not how:
        return []
    text = PHOTOS.format(height=how["height"], width=how["width"])
    return [text, _table(("setting", "value"), how.items())]


def _noun(about: Mapping[str, Any]) -> str:
    """What one sample is."""
    if about["input"].get("preprocessing"):
        return "recording"
    return "image" if about["input"].get("type", "uint8") == "uint8" else "row"


def _targets(about: Mapping[str, Any]) -> str:
    return about.get("targets", "classes")


def _data(about: Mapping[str, Any]) -> list[str]:
    data = about["data"]
    counts = ", ".join(f"{data[name]:,} {name}" for name in ("train", "validation", "test"))
    labels = "" if data["labels"] == 1 else f" {data['labels']:.3g} of the training labels were used."
    return [
        f"Task {escape(about['task'])}: {counts} samples.{labels} Digest of the data: `{data['digest']}`.",
        _speakers(data.get("test_speakers")),
    ]


def _speakers(names: Sequence[str] | None) -> str:
    """Who speaks in the test split; nothing is said where that is not known."""
    if not names:
        return ""
    listed = ", ".join(map(escape, names[:SPEAKERS])) + (", …" if len(names) > SPEAKERS else "")
    whom = "speaker" if len(names) == 1 else f"{len(names)} speakers"
    return f"Test: recordings of the {whom} {listed}, heard neither in training nor in validation."


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
    kind = f"{_noun(about)}s"
    knows = {
        "classes": f"- It knows the {count} classes above and answers one of them for any {kind[:-1]}.",
        "labels": f"- It knows the {count} labels above; whatever else is there it does not see.",
        "values": f"- It answers {count} number{'s' * (count > 1)} for any input, however unlike what it learned from.",
        "boxes": f"- It finds the {count} classes above; whatever else is there it does not see.",
    }
    found = [
        knows[_targets(about)],
        f"- Accuracy holds for {kind} like those of the data set; it was measured on no others.",
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
