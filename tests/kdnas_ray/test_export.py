"""Specification of `kdnas_ray.export`: a run folder with two finalists, taken away in every form."""

import ast
import contextlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import yaml
from card_program import printed, program
from finished_runs import finish

from kdnas_ray import cli, export, onnx_files, tracking
from kdnas_ray.config import read
from kdnas_ray.export import Parity, compare
from kdnas_ray.finalists import kept_student
from kdnas_ray.runs import read_jsonl
from search_spaces import SPACES, KdnasError, RunError
from search_spaces.base import sample
from trainables.loop import Normalise
from trainables.model_files import load_student

SETTINGS = {
    "space": {"name": "resnet", "stages": 2, "stem_widths": [4], "widths": [4, 8], "depths": [1], "kernels": [3]},
    "recipes": "labels",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run folder as after `kdnas retrain`: c0001 best, c0000 second, c0002 not retrained."""
    run = tmp_path_factory.mktemp("finished") / "run"
    finish(run, read({**SETTINGS, "tracking": {"experiment": "tests"}}))
    return run


@pytest.fixture(scope="module")
def data(finished):
    config = read(yaml.safe_load((finished / "config.yaml").read_text()))
    return config.task.load(config.seed)


def logits(run: Path, name: str, images: np.ndarray) -> np.ndarray:
    """What PyTorch says of these images."""
    model, meta = load_student(kept_student(run, name)[0])
    with torch.inference_mode():
        return model(Normalise(meta["mean"], meta["std"])(torch.from_numpy(images))).numpy()


@pytest.fixture(scope="module")
def taken(finished, tmp_path_factory):
    """The best student as ONNX, in float and int8."""
    return export.export(finished, int8=True, most_points=5, out=tmp_path_factory.mktemp("out") / "new" / "student")


def test_onnx_when_exported_then_any_batch_of_raw_pixels_is_answered_as_in_pytorch(finished, taken, data):
    for count in (1, 3, 360):
        images = data.test.images[:count]
        found = onnx_files.answers(taken.folder / "student.onnx", images)
        expected = logits(finished, "c0001", images)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_snippet_of_the_card_when_run_by_itself_then_needs_nothing_of_ours_and_predicts_the_same(
    finished, taken, data, tmp_path
):
    """In a process of its own that finds neither torch nor this repository."""
    code = program(taken.folder)
    assert "student-int8.onnx" in code
    np.save(tmp_path / "images.npy", data.test.images)
    for name, agreement in (("student.onnx", 1.0), ("student-int8.onnx", 0.95)):
        own = code.replace("student-int8.onnx", name)
        own, changed = re.subn(r"np\.zeros\(.*\)  # yours.*", f"np.load({str(tmp_path / 'images.npy')!r})", own)
        assert changed == 1
        output = printed(taken.folder, own, "onnx")
        classes = np.array(data.classes)
        expected = classes[logits(finished, "c0001", data.test.images).argmax(axis=1)]
        assert (np.array(ast.literal_eval(output)) == expected).mean() >= agreement


@pytest.mark.parametrize("form", ["torch-export", "safetensors"])
def test_snippet_of_the_other_cards_when_run_then_predicts(finished, tmp_path, form):
    folder = export.export(finished, form, out=tmp_path / "out").folder
    output = printed(folder, program(folder), form)
    blank = logits(finished, "c0001", np.zeros((1, 1, 8, 8), dtype=np.uint8))
    assert ast.literal_eval(output) == [str(blank.argmax())]


def test_onnx_when_exported_then_says_what_it_is(taken, data):
    import onnx

    for name in ("student.onnx", "student-int8.onnx"):
        proto = onnx.load(taken.folder / name)
        found = {entry.key: entry.value for entry in proto.metadata_props}
        assert json.loads(found["classes"]) == list(data.classes)
        assert json.loads(found["input"])["shape"] == ["batch", 1, 8, 8]
        assert found["name"] == "c0001"
        assert json.loads(found["architecture"])["stem.width"] == 4
        assert json.loads(found["about"])["parity"]["agreement"] == 1
        (read_,) = proto.graph.input
        assert (read_.name, read_.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
        assert read_.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_int8_when_exported_then_weights_are_int8_by_channel_and_the_effect_is_told(taken):
    import onnx

    proto = onnx.load(taken.folder / "student-int8.onnx")
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    quantised = [node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    kinds = {tensors[node.input[0]].data_type for node in quantised}
    assert kinds == {onnx.TensorProto.INT8, onnx.TensorProto.INT32}  # weights, biases
    assert any(len(tensors[node.input[1]].dims) == 1 and tensors[node.input[1]].dims[0] > 1 for node in quantised)
    effect = taken.about["int8"]
    assert effect["validation"]["agreement"] > 0.9
    assert abs(effect["test"]["float"] - effect["test"]["int8"]) < 0.05
    card = (taken.folder / "README.md").read_text()
    assert f"{effect['test']['int8']:.2%}" in card


def test_files_when_written_then_name_no_path_of_this_machine(finished, taken, tmp_path):
    export.export(finished, "torch-export", out=tmp_path / "program")
    root, home = str(Path(cli.__file__).parent.parent).encode(), os.path.expanduser("~").encode()
    for path in [*taken.folder.iterdir(), *(tmp_path / "program").iterdir()]:
        content = path.read_bytes()
        assert root not in content, path.name
        assert b"site-packages" not in content, path.name
        assert len(home) < 5 or home not in content, path.name


def test_latency_when_measured_then_nothing_else_trains_meanwhile(taken, data, monkeypatch):
    held = []

    @contextlib.contextmanager
    def exclusive(**_):
        held.append(True)
        yield
        held.append(False)

    monkeypatch.setattr(onnx_files, "exclusive", exclusive)
    assert onnx_files.latency_ms(taken.folder / "student.onnx", data.validation.images[:1]) > 0
    assert held == [True, False]


def test_torch_export_when_loaded_then_answers_the_same_and_says_what_it_is(finished, data, tmp_path):
    found = export.export(finished, "torch-export", out=tmp_path / "program")
    extra = {"about.json": ""}
    model = torch.export.load(found.folder / "student.pt2", extra_files=extra).module()
    images = data.test.images[:7]
    expected = logits(finished, "c0001", images)
    assert np.allclose(model(torch.from_numpy(images)).detach().numpy(), expected, atol=1e-3)
    assert json.loads(extra["about.json"])["classes"] == list(data.classes)


def test_safetensors_when_loaded_then_is_the_student(finished, tmp_path):
    found = export.export(finished, "safetensors", candidate="c0000", out=tmp_path / "weights")
    model, meta = load_student(found.folder)
    same, its = load_student(kept_student(finished, "c0000")[0])
    assert meta == its
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in model.state_dict().items())
    with safetensors.safe_open(found.folder / "weights.safetensors", "pt") as file:
        assert file.metadata()["name"] == "c0000"
    assert "not** part of the weights" in (found.folder / "README.md").read_text()


def test_export_when_told_no_folder_then_lies_in_the_run_and_is_written_anew(finished):
    first = export.export(finished, "safetensors")
    assert first.folder == finished / "export" / "c0001-safetensors"
    (first.folder / "README.md").unlink()
    assert export.export(finished, "safetensors").folder == first.folder
    assert (first.folder / "README.md").exists()


@pytest.mark.parametrize(
    ("options", "field", "parts"),
    [
        ({"form": "onyx"}, "--format", ("did you mean onnx", "safetensors")),
        ({"form": "safetensors", "int8": True}, "--int8", ("--format onnx",)),
        ({"form": "torch-export", "mlflow": True}, "--mlflow", ("--format onnx",)),
        ({"candidate": "c0002"}, "--candidate", ("not retrained", "c0001, c0000", "kdnas retrain")),
        ({"candidate": "../../etc"}, "--candidate", ("no such candidate",)),
        ({"mlflow": True}, "--mlflow", ("tracking.enabled",)),
    ],
)
def test_export_when_asked_for_the_impossible_then_says_what_there_is(finished, tmp_path, options, field, parts):
    with pytest.raises(KdnasError) as caught:
        export.export(finished, **({"form": "onnx"} | options), out=tmp_path / "out")
    assert caught.value.field == field
    assert caught.value.exit_code == 2
    assert all(part in str(caught.value) for part in parts)
    assert not (tmp_path / "out").exists()


def test_export_when_the_folder_is_not_empty_then_leaves_it_alone(finished, tmp_path):
    (tmp_path / "mine").write_text("precious")
    for out in (tmp_path, tmp_path / "mine", tmp_path / "mine" / "under"):
        with pytest.raises(KdnasError) as caught:
            export.export(finished, "safetensors", out=out)
        assert (caught.value.field, caught.value.exit_code) == ("--out", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_export_when_packages_are_missing_then_names_the_extra(finished, monkeypatch):
    monkeypatch.setattr(export, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(KdnasError, match=r"no_such_package, not installed here\n.*kdnas_ray\[export\]"):
        export.export(finished)


def test_export_when_nothing_was_retrained_then_says_how(run):
    (run / "config.yaml").write_text(yaml.safe_dump(read(SETTINGS).resolved()))
    with pytest.raises(KdnasError, match=f"kdnas retrain {run}"):
        export.export(run)
    with pytest.raises(KdnasError, match="not a run folder"):
        export.export(run / "nothing")


def test_export_when_a_run_folder_names_a_path_as_candidate_then_is_refused(finished, tmp_path):
    import shutil

    run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    best = json.loads((run / "best" / "candidate.json").read_text())
    (run / "best" / "candidate.json").write_text(json.dumps(best | {"id": "../../outside"}))
    with pytest.raises(KdnasError, match="no name of a candidate"):
        export.export(run, "safetensors")


def test_export_when_the_data_are_others_then_is_refused(finished, tmp_path):
    import shutil

    run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    facts = json.loads((run / "teacher.json").read_text())
    (run / "teacher.json").write_text(json.dumps(facts | {"data": "f" * 16}))
    with pytest.raises(KdnasError, match="the data are not those"):
        export.export(run, "safetensors")


def test_export_when_the_file_answers_otherwise_then_nothing_is_left(finished, tmp_path, monkeypatch):
    true = onnx_files.answers
    monkeypatch.setattr(onnx_files, "answers", lambda path, images: true(path, images) + 0.5)
    with pytest.raises(RunError, match=r"largest difference of logits 0\.5 .*allowed") as caught:
        export.export(finished, out=tmp_path / "out")
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_int8_when_it_loses_too_much_then_nothing_is_left(finished, tmp_path):
    with pytest.raises(RunError, match=r"points of validation accuracy .*\n.*recipes\.quantised"):
        export.export(finished, int8=True, most_points=-100, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_parity_when_an_answer_is_not_a_number_then_does_not_hold():
    expected = np.array([[1.0, 2.0], [3.0, 0.0]])
    assert compare(expected, expected + 1e-4).holds
    assert not compare(expected, np.full((2, 2), np.nan)).holds
    assert not Parity(1000, 1e-9, 1.0, 0.99).holds


class Bessel(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x.float()).sum((2, 3))


class Branches(torch.nn.Module):
    def forward(self, x):
        return x.float().sum((2, 3)) if x.sum() > 0 else x.float().mean((2, 3))


@pytest.mark.parametrize(("model", "part"), [(Bessel(), "prims.bessel_j0"), (Branches(), "cannot be written")])
def test_onnx_when_an_operator_is_lacking_then_it_is_named(tmp_path, capfd, model, part):
    with pytest.raises(KdnasError) as caught:
        onnx_files.write_onnx(model.eval(), (1, 8, 8), tmp_path / "x.onnx", {})
    assert part in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_cli_when_exporting_then_prints_what_was_checked_and_where(finished, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdnas", "export", str(finished), "--format", "safetensors", "--out", "mine"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "100.00% equal predictions" in shown
    assert "mine  (start with its README.md)" in shown


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # MLflow leaves its databases open
class TestMlflow:
    @pytest.fixture
    def tracked(self, finished, tmp_path, monkeypatch):
        """The run with a parent run in a store of its own."""
        import shutil

        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(os, "environ", dict(os.environ))
        run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
        record = {"type": "search_started", "name": "run", "experiment": "tests", "params": {}, "tags": {}}
        tracking.append(run, record)
        end = {"type": "search_ended", "status": "KILLED", "metrics": {}, "tags": {}, "artifacts": []}
        tracking.append(run, end)
        return run

    def test_export_when_told_so_then_the_model_lies_in_the_parent_run(self, tracked, data):
        import mlflow

        found = export.export(tracked, mlflow=True)
        assert found.unsent is None
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
        experiment = client.get_experiment_by_name("tests").experiment_id
        (parent,) = client.search_runs([experiment])
        assert parent.info.status == "KILLED"  # as its search ended
        (model,) = client.search_logged_models([experiment])
        assert model.source_run_id == parent.info.run_id
        again = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
        images = data.test.images[:5]
        (answer,) = again.predict({"pixels": images}).values()
        assert np.allclose(answer, logits(tracked, "c0001", images), atol=1e-3)
        assert again.metadata.signature.inputs.input_names() == ["pixels"]

    def test_export_when_the_server_is_away_then_the_files_are_there_and_sent_later(self, tracked, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        found = export.export(tracked, mlflow=True)
        assert (found.folder / "student.onnx").exists()
        assert f"kdnas sync {tracked}" in found.unsent
        assert read_jsonl(tracked / "tracking.jsonl")[-1]["type"] == "exported"


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_network_of_every_space_when_written_as_onnx_then_answers_as_in_pytorch_also_in_int8(name, tmp_path):
    import random

    space = SPACES[name]()
    torch.manual_seed(0)
    shape = (3, 16, 16)
    student = space.build(sample(space, random.Random(1)), shape, 5)
    images = np.random.default_rng(0).integers(0, 256, (32, *shape), dtype=np.uint8)
    normalise = Normalise((0.5,) * 3, (0.3,) * 3)
    student.train()(normalise(torch.from_numpy(images)))
    model = torch.nn.Sequential(normalise, student).eval()
    onnx_files.write_onnx(model, shape, tmp_path / "x.onnx", {})
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    found = onnx_files.answers(tmp_path / "x.onnx", images)
    assert compare(expected, found).difference < 1e-3 * max(1, np.abs(expected).max())
    onnx_files.write_int8(tmp_path / "x.onnx", tmp_path / "y.onnx", images, {})
    rough = onnx_files.answers(tmp_path / "y.onnx", images)
    assert np.abs(rough - expected).mean() < 0.3 * np.abs(expected).mean() + 0.05
