"""Specification of `trainables.checkpoints`: on a folder, and on a server that speaks S3."""

import subprocess
import sys
from pathlib import Path

import pytest
from s3 import serving

from search_spaces import KdnasError
from trainables.checkpoints import PROBE, Checkpoints, within


@pytest.fixture(scope="module")
def s3():
    with serving() as (url, _):
        yield url


@pytest.fixture(params=["folder", "file URL", "S3"])
def where(request, tmp_path) -> str:
    if request.param == "folder":
        return str(tmp_path)
    return tmp_path.as_uri() if request.param == "file URL" else request.getfixturevalue("s3")


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def elsewhere(where: str, folder: Path, program: str) -> str:
    """What a program prints on another machine, whose temporary folder is another."""
    folder.mkdir(exist_ok=True)
    code = f"import tempfile; tempfile.tempdir = {str(folder)!r}\nfrom trainables.checkpoints import Checkpoints\n" + (
        f"checkpoints = Checkpoints({where!r})\n{program}"
    )
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_file_that_a_machine_publishes_is_what_another_fetches_the_newest_one(where, tmp_path):
    checkpoints = Checkpoints(within(where, "run"))
    for content in ("first", "second"):
        program = f"""
folder = checkpoints.folder("c0001")
folder.mkdir(parents=True, exist_ok=True)
(folder / "rung.pt").write_text({content!r})
checkpoints.publish("c0001", "rung.pt")
"""
        elsewhere(checkpoints.where, tmp_path / "other", program)
        assert checkpoints.fetch("c0001", "rung.pt").read_text() == content
    checkpoints.drop("c0001")
    assert not checkpoints.fetch("c0001", "rung.pt").exists()
    program = 'import shutil; shutil.rmtree(checkpoints.folder("c0001"), ignore_errors=True); '
    program += 'print(checkpoints.fetch("c0001", "rung.pt").exists())'
    assert elsewhere(checkpoints.where, tmp_path / "other", program) == "False\n"


def test_file_that_was_never_published_is_none_and_dropping_it_no_error(where):
    checkpoints = Checkpoints(within(where, "empty"))
    assert not checkpoints.fetch("c0002", "rung.pt").exists()
    checkpoints.drop("c0002")


def test_place_that_can_be_written_passes_and_keeps_nothing(where):
    checkpoints = Checkpoints(within(where, "probed"))
    checkpoints.check()
    assert not Checkpoints(where).fetch("probed", PROBE).exists()


@pytest.mark.parametrize("url", ["nowhere://bucket/x", "file:///proc/nothing/here"])
def test_place_that_cannot_be_written_is_refused_with_the_field(url):
    with pytest.raises(KdnasError, match=r"resources\.checkpoints"):
        Checkpoints(url).check()


def test_bucket_that_is_not_there_is_refused(s3):
    with pytest.raises(KdnasError, match="cannot be written"):
        Checkpoints(s3.replace("//bucket/", "//missing/")).check()


def test_folder_within_a_url_comes_before_its_options():
    assert within("s3://bucket/a/?region=x", "run") == "s3://bucket/a/run?region=x"
    assert within("/shared", "run") == "/shared/run"
