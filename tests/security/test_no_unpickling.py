"""Specification: nothing that may come from elsewhere is unpickled, or runs in another way, wherever it is read."""

import ast
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kdnas_ray.hardware.lookup import find
from kdnas_ray.runs import read_config, read_jsonl, read_summary
from search_spaces import KdnasError
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.evaluators.base import load_state
from trainables.evaluators.table import Table, read_table
from trainables.loop import Normalise
from trainables.mapped import build_mapped, load_mapped
from trainables.model_files import load_student, restore_training
from trainables.sound import decode_wav
from trainables.tasks import ImagesTask
from trainables.tasks.base import Data, Split
from trainables.tasks.table import TableTask
from trainables.teachers.module import ModuleTeacher
from trainables.teachers.onnx_file import OnnxTeacher
from trainables.teachers.predictions import PredictionsTeacher

ROOT = Path(__file__).parents[2]
PACKAGES = ("search_spaces", "trainables", "kdnas_ray")

# Called with what a file holds, these run what is in it.
BUILTINS = {"eval", "exec", "compile", "__import__"}
RUNNING = {
    "import_module", "exec_module", "run_path", "run_module", "system", "popen",
    "Unpickler", "read_pickle", "unsafe_load", "full_load", "load_model", "unpickle",
}  # fmt: skip
# Modules whose only use is to read such files.
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "skops"}
# Functions called `load` that are safe with an argument, and those that never are.
SAFE_WITH = {("torch", "load"): ("weights_only", True), ("np", "load"): ("allow_pickle", False)}
NEVER = {
    ("jit", "load"),
    ("hub", "load"),
    ("export", "load"),
    ("yaml", "load"),
    ("pickle", "load"),
    ("pickle", "loads"),
}

ALLOWED = {
    ("search_spaces/registry.py", "import_module"): "import paths of the user's own configuration",
    ("kdnas_ray/__init__.py", "import_module"): "a fixed table of our own modules",
    ("kdnas_ray/export.py", "export.load"): "the file that it has just written",
    ("kdnas_ray/plain_yaml.py", "yaml.load"): "with a SafeLoader of ours",
    ("trainables/teachers/module.py", "pickle"): "the name of an error that `torch.load(weights_only=True)` raises",
}  # fmt: skip


def risky(tree: ast.AST) -> set[str]:
    """What in a module could run the content of a file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).partition(".")[0]} & MODULES
            found |= {name.name for name in node.names} & RUNNING
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(node.func, "value", None)
        place = (getattr(owner, "attr", getattr(owner, "id", "")), name)
        given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        if name in RUNNING or (isinstance(node.func, ast.Name) and name in BUILTINS):
            found.add(name)
        if place in NEVER or (place in SAFE_WITH and given.get(SAFE_WITH[place][0]) is not SAFE_WITH[place][1]):
            found.add(".".join(place))
        if given.get("shell") or given.get("trust_remote_code") or given.get("allow_pickle"):
            found.add(name)
    return found


def test_packages_hold_no_call_that_runs_a_file_but_those_named_here():
    files = {file.relative_to(ROOT).as_posix(): file for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert len(files) > 100
    found = {(name, call) for name, file in files.items() for call in risky(ast.parse(file.read_text("utf8")))}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import importlib; importlib.import_module(name)",
        "from importlib import import_module",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "torch.jit.load(path)",
        "mlflow.pytorch.load_model(uri)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_search_for_such_calls_when_there_is_one_then_finds_it(line):
    assert risky(ast.parse(line))


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    parts = [Split(rng.integers(0, 255, (6, 1, 4, 4), dtype=np.uint8), np.arange(6) % 2) for _ in range(3)]
    return Data(*parts, classes=("a", "b"), mean=(0.5,), std=(0.3,))


@pytest.fixture
def mark(tmp_path) -> Path:
    """The folder that a payload creates."""
    return tmp_path / "planted"


@pytest.fixture
def payload(mark) -> bytes:
    """A pickle that creates a folder when it is read."""

    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    pickle.loads(pickle.dumps(Planted()))  # noqa: S301 (that it works)
    mark.rmdir()
    return pickle.dumps(Planted(), protocol=2)  # what PyTorch writes


@pytest.fixture
def archive(payload) -> bytes:
    """The same as PyTorch wraps it: a zip with data.pkl."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))


def refuses(read, mark: Path) -> None:
    with pytest.raises(KdnasError):
        read()
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_a_module_when_they_are_a_pickle_then_refused(tmp_path, data, mark, payload, archive, name, wrapped):
    (tmp_path / name).write_bytes(archive if wrapped else payload)
    refuses(lambda: ModuleTeacher(f"{__name__}:net", weights=tmp_path / name).read(data), mark)


@pytest.mark.parametrize("teacher", [OnnxTeacher, PredictionsTeacher])
def test_file_of_a_teacher_when_it_is_a_pickle_then_refused(tmp_path, data, mark, payload, teacher):
    pytest.importorskip("onnxruntime")
    (tmp_path / "teacher").write_bytes(payload)
    refuses(lambda: teacher(tmp_path / "teacher").read(data), mark)


def test_folder_of_a_student_when_its_weights_are_a_pickle_then_refused(tmp_path, mark, payload, archive):
    meta = {"space": {"name": "resnet"}, "architecture": {}, "shape": [1, 8, 8], "classes": ["a"]}
    for content in (payload, archive):
        (tmp_path / "model.json").write_text(json.dumps(meta))
        (tmp_path / "weights.safetensors").write_bytes(content)
        refuses(lambda: load_student(tmp_path), mark)
        (tmp_path / "model.json").write_bytes(content)
        refuses(lambda: load_student(tmp_path), mark)


def test_bank_when_its_files_are_pickles_with_a_right_checksum_then_refused(tmp_path, data, mark, payload):
    options = {"augmentation": Augmentation(), "views": 1, "seed": 0}
    arguments = (data.train, [net()], Normalise(data.mean, data.std))
    banks.save(banks.build(*arguments, **options), tmp_path / "bank")
    (tmp_path / "bank" / "bank.safetensors").write_bytes(payload)
    facts = json.loads((tmp_path / "bank" / "bank.json").read_text())
    facts["sha256"] = hashlib.sha256(payload).hexdigest()
    (tmp_path / "bank" / "bank.json").write_text(json.dumps(facts))
    refuses(lambda: banks.load(tmp_path / "bank", data.train, augmentation=Augmentation(), seed=0), mark)


def test_mapped_bank_when_its_arrays_hold_objects_then_refused(tmp_path, data, mark, payload):
    def build(room):
        return banks.build(data.train, [net()], Normalise(data.mean, data.std), augmentation=Augmentation(), views=1,
                           seed=0, room=room)  # fmt: skip

    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    build_mapped(tmp_path / "bank", build)
    logits, facts = tmp_path / "bank" / "logits.npy", tmp_path / "bank" / "bank.json"
    for write in (
        lambda: np.save(logits, np.array([Planted()], dtype=object), allow_pickle=True),
        lambda: logits.write_bytes(payload),
    ):
        write()
        known = json.loads(facts.read_text())
        known["sha256"]["logits.npy"] = hashlib.sha256(logits.read_bytes()).hexdigest()
        facts.write_text(json.dumps(known))
        refuses(lambda: load_mapped(tmp_path / "bank", data.train, augmentation=Augmentation(), seed=0), mark)


class Rested:
    """A training that was never begun."""

    def __init__(self) -> None:
        self.model, self.taken_up = net(), []

    def state(self) -> dict:
        return {}

    def restore(self, state) -> None:
        self.taken_up.append(state)


def test_checkpoint_of_a_rung_when_it_is_a_pickle_then_the_training_begins_anew(tmp_path, mark, payload, archive):
    for content in (payload, archive):
        (tmp_path / "rung.pt").write_bytes(content)
        training = Rested()
        assert not restore_training(tmp_path / "rung.pt", training)
        assert training.taken_up == [{}]  # what it was before
        refuses(lambda: load_state(tmp_path / "rung.pt"), mark)


PYTHON_TAG = '!!python/object/apply:os.mkdir ["{}"]\n'


@pytest.mark.parametrize("place", ["name", "key", "whole"])
def test_yaml_when_it_names_python_objects_then_refused(tmp_path, mark, place):
    tag = PYTHON_TAG.format(mark).strip()
    text = {"name": f"name: {tag}", "key": f"? {tag}\n: 1", "whole": tag}[place]
    for name in ("config.yaml", "device.yaml"):
        (tmp_path / name).write_text(text + "\n")
    refuses(lambda: read_config(tmp_path), mark)
    refuses(lambda: find(str(tmp_path / "device.yaml")), mark)


def test_files_of_a_run_and_of_devices_when_they_are_pickles_then_nothing_of_them_is_taken(tmp_path, mark, payload):
    for name in ("config.yaml", "summary.json", "candidates.jsonl", "phone.json", "phone.yaml"):
        (tmp_path / name).write_bytes(payload)
    refuses(lambda: read_config(tmp_path), mark)
    assert (read_summary(tmp_path), read_jsonl(tmp_path / "candidates.jsonl")) == ({}, [])
    for name in ("phone.json", "phone.yaml"):
        refuses(lambda name=name: find(str(tmp_path / name)), mark)
    assert not mark.exists()


def test_data_when_it_is_a_pickle_then_refused(tmp_path, mark, payload):
    from search_spaces import ResNetSpace

    for name in ("data.parquet", "data.csv", "data.json", "a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(payload)
    refuses(lambda: ImagesTask(tmp_path / "data.parquet").load(0), mark)
    (tmp_path / "data.parquet").rename(tmp_path / "table.parquet")
    refuses(lambda: TableTask(tmp_path / "table.parquet").load(0), mark)
    refuses(lambda: TableTask(tmp_path / "data.csv").load(0), mark)
    for name in ("table.parquet", "data.json"):
        refuses(lambda name=name: read_table(Table(tmp_path / name, metric="a"), ResNetSpace(), 1), mark)
    (tmp_path / "table.parquet").unlink()
    refuses(lambda: ImagesTask(tmp_path).load(0), mark)
    with pytest.raises(ValueError, match="not a WAV file"):
        decode_wav(payload)
    assert not mark.exists()
