"""Specification: whose code runs? That of the user's own configuration and program, none that a file names."""

import json
import sys
from dataclasses import asdict

import pytest

from kdnas_ray.hardware.lookup import find
from search_spaces import KdnasError, ResNetSpace
from search_spaces.registry import data_only, located
from trainables.model_files import load_student

SPACE = """
from dataclasses import dataclass
from pathlib import Path

from search_spaces import ResNetSpace

Path("planted").touch()

@dataclass(frozen=True)
class Own(ResNetSpace):
    pass
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    (tmp_path / "from_elsewhere.py").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield
    sys.modules.pop("from_elsewhere", None)


def test_import_path_when_only_data_is_read_then_names_what_is_imported_already_alone(tmp_path):
    with data_only():
        assert located("search_spaces:ResNetSpace") is ResNetSpace
        with pytest.raises(KdnasError, match="files run none") as caught:
            located("from_elsewhere:Own")
    assert "import from_elsewhere" in caught.value.remedy
    assert not (tmp_path / "planted").exists()
    located("from_elsewhere:Own")
    assert (tmp_path / "planted").exists()


def test_student_when_its_folder_names_a_space_by_import_path_then_nothing_is_imported(tmp_path):
    meta = {"space": {"name": "from_elsewhere:Own", **asdict(ResNetSpace())}, "architecture": {}, "shape": [1, 8, 8]}
    (tmp_path / "model.json").write_text(json.dumps(meta | {"classes": ["a", "b"]}))
    with pytest.raises(KdnasError, match="files run none"):
        load_student(tmp_path)
    assert not (tmp_path / "planted").exists()
    located("from_elsewhere:Own")  # the user's own configuration names it
    with pytest.raises(KdnasError, match="no usable model here"):  # it is read now: there are no weights
        load_student(tmp_path)


def test_device_when_its_file_names_a_space_by_import_path_then_nothing_is_imported(tmp_path):
    model = {
        "format": "kdnas few-shot 1", "name": "phone", "space": "from_elsewhere:Own", "options": {}, "intercept": 0.0,
        "slopes": [], "columns": [], "centre": [], "spread": [], "pull": [], "measured": [], "shape": None,
    }  # fmt: skip
    from kdnas_ray.hardware.few_shot import FORMAT

    (tmp_path / "phone.json").write_text(json.dumps(model | {"format": FORMAT}))
    with pytest.raises(KdnasError):
        find("phone.json")
    assert not (tmp_path / "planted").exists()
