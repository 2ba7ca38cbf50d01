"""Specification of `kdnas_ray.submit`: what is refused before anything is sent; tests/cluster sends to a real head."""

import socket
import sys
from pathlib import Path

import pytest

from kdnas_ray import submit
from kdnas_ray.config import read
from search_spaces import KdnasError

HEAD = "http://127.0.0.1:8265"


@pytest.fixture(autouse=True)
def real_client(monkeypatch):
    asks = submit._client
    monkeypatch.setattr(submit, "_client", lambda address: pytest.fail("somebody was asked"))
    return asks


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_sampler.py").write_text(
        "from dataclasses import dataclass\nimport optuna\n\n@dataclass(frozen=True)\nclass Own:\n"
        "    def make(self, seed, excess, around):\n        return optuna.samplers.RandomSampler(seed)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_sampler:Own"
    sys.modules.pop("own_sampler", None)


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "auto", "ray://127.0.0.1:10001", ""])
def test_address_that_is_none_of_a_dashboard_is_refused(address):
    with pytest.raises(KdnasError, match="is not the address of a dashboard"):
        submit.start(read({}), address, "/shared/run")


@pytest.mark.parametrize("out", ["", "runs/first", "./first"])
def test_run_folder_that_would_go_with_the_job_is_refused(out):
    with pytest.raises(KdnasError, match="--out"):
        submit.start(read({}), HEAD, out)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"task": {"name": "images", "path": "photos"}}, "task.path"),
        ({"task": {"name": "images", "path": "/data/photos", "test_path": "tests/photos"}}, "task.test_path"),
        ({"teachers": [{"name": "folder", "path": "teacher"}]}, "teachers.0.path"),
    ],
)
def test_path_that_means_nothing_on_the_head_is_refused(settings, field):
    with pytest.raises(KdnasError, match=rf"(?s){field} = .*--with (photos|tests|teacher)$"):
        submit.start(read(settings), HEAD, "/shared/run")


def test_path_into_what_is_sent_along_is_none_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    asked = []
    monkeypatch.setattr(submit, "_client", lambda address: asked.append(address) or pytest.skip("reached"))
    with pytest.raises(pytest.skip.Exception):
        submit.start(read({"task": {"name": "images", "path": "photos/train"}}), HEAD, "/shared/run", [Path("photos")])
    assert asked == [HEAD]


def test_code_of_ones_own_has_to_go_along(own_code, monkeypatch):
    config = read({"sampler": own_code})
    with pytest.raises(KdnasError, match=r"(?s)own_sampler:Own.*--with own_sampler\.py"):
        submit.start(config, HEAD, "/shared/run")
    monkeypatch.setattr(submit, "_client", lambda address: pytest.skip("reached"))
    with pytest.raises(pytest.skip.Exception):
        submit.start(config, HEAD, "/shared/run", [Path("own_sampler.py")])


@pytest.mark.parametrize("sent", ["not-there", "..", "config.yaml"])
def test_what_cannot_go_along_is_refused(tmp_path, monkeypatch, sent):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").touch()
    with pytest.raises(KdnasError, match="--with"):
        submit.start(read({}), HEAD, "/shared/run", [Path(sent)])


def test_two_of_one_name_cannot_go_along(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data").touch()
    with pytest.raises(KdnasError, match="--with"):
        submit.start(read({}), HEAD, "/shared/run", [tmp_path / "a" / "data", tmp_path / "b" / "data"])


def test_what_is_too_large_for_a_job_is_refused_with_its_size(tmp_path):
    with (tmp_path / "data").open("wb") as file:
        file.truncate(101 * 2**20)
    with pytest.raises(KdnasError, match="is 101 MB, and a job takes 100"):
        submit.start(read({}), HEAD, "/shared/run", [tmp_path / "data"])


def test_nobody_listens_there(real_client):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(KdnasError, match="no dashboard answers there"):
        real_client(f"http://127.0.0.1:{port}")
