"""Specification of `kdnas_ray.model_card`."""

import ast
import copy
import re

import pytest

from kdnas_ray.model_card import config_digest, escape, model_card

ABOUT = {
    "name": "c0007", "format": "onnx", "task": "images", "classes": ["cat", "dog"],
    "input": {"shape": ["batch", 3, 32, 32], "source": "as_scanned", "seen": {
        "least": [0] * 3, "mean": [99.5] * 3, "largest": [240] * 3}},
    "normalisation": {"mean": [0.5] * 3, "std": [0.2] * 3},
    "space": {"name": "resnet"}, "architecture": {"stem.width": 8}, "notation": '{"stem.width": 8}',
    "recipe": {"alpha": 0.7, "quantised": True, "terms": [{"loss": "kd", "weight": 1.0}]},
    "params": 10_000, "flops": 5_000_000,
    "accuracy": {"test_accuracy": 0.91, "test_accuracy_std": 0.01, "test_accuracy_without_kd": 0.89,
                 "test_accuracy_without_kd_std": 0.02, "own_test_accuracy": 0.915, "seeds": 3},
    "teacher": {"name": "trained", "accuracy": 0.95, "params": 1_000_000, "data": "abc"},
    "data": {"digest": "d" * 16, "train": 5000, "validation": 1000, "test": 2000, "labels": 0.05, "calibration": 512},
    "searched": {"latency_ms/npu-small": 1.5}, "seed": 3, "training_seed": 4, "configuration": "c" * 16,
    "versions": {"torch": "2.13.0"}, "latency_ms": {"student.onnx": 0.5, "student-int8.onnx": 0.25},
    "bytes": {"student.onnx": 40_000, "student-int8.onnx": 12_000},
    "parity": {"samples": 1000, "difference": 1e-6, "largest_logit": 9.0, "agreement": 1.0},
    "int8": {"calibration_samples": 512, "most_points": 2.0,
             "validation": {"float": 0.92, "int8": 0.918, "agreement": 0.99},
             "test": {"float": 0.915, "int8": 0.912, "agreement": 0.985}},
}  # fmt: skip
HOSTILE = "<script>alert(1)</script> | `x` [a](http://b) **c** _d_ ![e](f)\n## g & www.h.i"


def about(**changes):
    return {**copy.deepcopy(ABOUT), **changes}


def test_card_when_all_is_known_then_says_it():
    card = model_card(ABOUT)
    for part in (
        "100.0 times smaller than its teacher", "91.00% ± 1.00%", "89.00% ± 2.00%", "95.00%", "91.50% on test",
        "over 3 full trainings", "| test | 91.50% | 91.20% | 98.50% |", "5,000,000", "0.250 ms", "12,000 bytes",
        "latency on npu-small as the search modelled it", "[240, 240, 240]", "as\\_scanned", "trained for int8",
            "0.05 of the training labels", "c" * 16, "terms.0.loss",
        "largest difference 1e-06", "student-int8.onnx", "[batch, 3, 32, 32]",
    ):  # fmt: skip
        assert part in card, part
    assert "**Here int8" not in card
    compile(re.search(r"```python\n(.*?)```", card, re.S)[1], "card", "exec")


def test_card_when_little_is_known_then_leaves_it_out():
    accuracy = dict.fromkeys(ABOUT["accuracy"]) | {"seeds": 1}
    card = model_card(about(int8=None, teacher={}, searched={}, latency_ms={}, accuracy=accuracy))
    assert "## Int8" not in card
    assert "## Teacher" not in card
    assert "spread over seeds is not known" in card
    assert "| teacher | – |" in card


def test_card_when_int8_costs_more_then_warns():
    card = model_card(about(latency_ms={"student.onnx": 0.1, "student-int8.onnx": 0.2}))
    assert "**Here int8 is slower than float**" in card
    assert "larger" not in card
    sizes = {"student.onnx": 10, "student-int8.onnx": 20}
    both = model_card(about(latency_ms={"student.onnx": 0.1, "student-int8.onnx": 0.2}, bytes=sizes))
    assert "**Here int8 is slower and larger than float**" in both


def check_imports(code: str) -> None:
    """All at the top, none unused."""
    body = ast.parse(code).body
    imports = [line for line in body if isinstance(line, ast.Import | ast.ImportFrom)]
    assert body[: len(imports)] == imports
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    for line in imports:
        for alias in line.names:
            assert (alias.asname or alias.name) in used, ast.unparse(line)


@pytest.mark.parametrize("form", ["onnx", "torch-export", "safetensors"])
def test_snippet_when_shown_then_is_python_for_this_form(form):
    card = model_card(about(format=form, int8=None))
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    check_imports(code)
    assert "3, 32, 32" in code
    assert ("not** part of the weights" in card) == (form == "safetensors")


@pytest.mark.parametrize("form", ["onnx", "torch-export", "safetensors"])
def test_card_of_recordings_has_units_and_says_who_is_heard(form):
    how = {"rate": 8000, "samples": 6400, "mels": 40, "peak_db": 31.5, "same_loudness": True}
    data = ABOUT["data"] | {"test_speakers": ["theo_1", "eva"]}
    card = model_card(about(format=form, input=ABOUT["input"] | {"preprocessing": how}, data=data))
    for part in (
        "| rate | 8000 | Hz |", "| samples | 6400 | samples |", "| peak\\_db | 31.5 | dB |", "| mels | 40 |  |",
        "of the 2 speakers theo\\_1, eva, heard neither in training nor in validation", "one recording, one thread",
    ):  # fmt: skip
        assert part in card, part
    assert "one image" not in card
    check_imports(re.search(r"```python\n(.*?)```", card, re.S)[1])
    many = model_card(about(data=ABOUT["data"] | {"test_speakers": [f"s{number}" for number in range(30)]}))
    assert "of the 30 speakers s0, s1" in many
    assert "s19, …, heard" in many
    assert "speaker" not in model_card(ABOUT)


@pytest.mark.parametrize("form", ["onnx", "torch-export", "safetensors"])
def test_snippet_of_a_detector_has_its_imports_on_top(form):
    numbers = {"height": 32, "width": 32, "threshold": 0.3, "iou": 0.6, "candidates": 300, "most": 100}
    card = model_card(about(format=form, targets="boxes", detection=numbers))
    check_imports(re.search(r"```python\n(.*?)```", card, re.S)[1])


def test_card_when_text_of_data_or_configuration_is_markup_then_shows_it_as_text():
    teacher = {"name": HOSTILE}
    changes = {"task": HOSTILE, "classes": [HOSTILE, "b"], "notation": HOSTILE, "teacher": teacher}
    card = model_card(about(**changes, architecture={HOSTILE: HOSTILE}, recipe={HOSTILE: HOSTILE}, name=HOSTILE))
    assert "<script" not in card
    assert not re.search(r"(?<!\\)\[a\]", card)
    assert not re.search(r"^## g", card, re.M)
    for line in card.splitlines():  # no cell was split in two
        if line.startswith("|") and "script" in line:
            assert len(re.findall(r"(?<!\\)\|", line)) == 3, line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("x_y", r"x\_y"),
        ("a\n\n# b", r"a \# b"),
        ("http://x", r"http\://x"),
        ("\\", r"\\"),
        ("3.5 (a-b)", "3.5 (a-b)"),
        (7, "7"),
    ],
)
def test_text_when_escaped_then_is_one_line_without_markup(text, shown):
    assert escape(text) == shown


def test_digest_when_a_setting_differs_then_differs_too():
    assert config_digest({"a": 1, "b": {"c": 2}}) == config_digest({"b": {"c": 2}, "a": 1})
    assert config_digest({"a": 1}) != config_digest({"a": 2})
    assert len(config_digest({})) == 16
