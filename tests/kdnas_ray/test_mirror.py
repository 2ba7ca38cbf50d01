"""Specification of `kdnas_ray.mirror`, against a local server that speaks S3."""

import json
import time

import pytest

from kdnas_ray import mirror
from kdnas_ray.mirror import check_storage, fetch, fetch_bank, mirrored, store_bank
from search_spaces import KdnasError
from tests.s3 import BUCKET, serving
from trainables.checkpoints import within


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


@pytest.fixture
def store(server, request):
    """A folder of its own in the bucket."""
    url, client = server
    return within(url, request.node.name), client


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "first"
    (run / "trials" / "c0001").mkdir(parents=True)
    (run / "best").mkdir()
    files = {
        "config.yaml": "seed: 0\n",
        "candidates.jsonl": '{"id": "c0000"}\n',
        "study.journal": "{}\n",
        "best/model.json": "{}",
        "trials/c0001/rung.pt": "unfinished",
        ".lock": "",
    }
    for name, text in files.items():
        (run / name).write_text(text)
    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_copy_when_the_run_ends_then_holds_all_but_what_is_unfinished(run, store, tmp_path):
    url, _ = store
    with mirrored(run, url, pytest.fail), (run / "candidates.jsonl").open("a") as file:
        file.write('{"id": "c0001"}\n')
    found = fetch(within(url, "first"), tmp_path / "elsewhere")
    expected = contents(run)
    del expected["trials/c0001/rung.pt"], expected[".lock"]
    assert contents(found) == expected


def test_copy_when_the_run_goes_on_then_is_renewed_though_the_process_dies_later(run, store, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "EVERY_S", 0.05)
    monkeypatch.setattr(mirror, "BUSY", 0)
    url, _ = store
    with mirrored(run, url, pytest.fail):
        (run / "state.json").write_text('{"status": "running"}')
        until = time.monotonic() + 20
        while time.monotonic() < until:
            time.sleep(0.1)
            try:
                found = fetch(within(url, "first"), tmp_path / f"at{time.monotonic_ns()}")
            except KdnasError:
                continue
            if (found / "state.json").exists():
                break
        assert json.loads((found / "state.json").read_text()) == {"status": "running"}


def test_copy_of_a_file_that_grows_ends_where_it_ended_when_the_copy_began(run, store, tmp_path, monkeypatch):
    url, _ = store
    written = mirror._write

    def while_it_grows(system, to, path, size, content):
        if path.suffix in mirror.GROWING:
            with path.open("a") as file:
                file.write("later\n")
        written(system, to, path, size, content)

    monkeypatch.setattr(mirror, "_write", while_it_grows)
    mirror._send(run, within(url, "first"), {})
    found = fetch(within(url, "first"), tmp_path / "elsewhere")
    assert (found / "candidates.jsonl").read_text() == '{"id": "c0000"}\n'
    assert (found / "study.journal").read_text() == "{}\n"


def test_copy_when_nothing_changed_then_nothing_is_sent(run, store, monkeypatch):
    url, _ = store
    sent = {}
    mirror._send(run, url, sent)
    monkeypatch.setattr(mirror, "_write", lambda *_: pytest.fail("sent again"))
    mirror._send(run, url, sent)


def test_copy_when_the_store_is_away_then_it_is_said_and_the_run_goes_on(run):
    said = []
    away = "s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:9&region=us-east-1"
    with mirrored(run, away, said.append):
        pass
    assert len(said) == 1
    assert said[0].startswith(f"Warning: the copy at {away} is behind")


def test_without_storage_nothing_is_copied(run):
    with mirrored(run, None, pytest.fail):
        pass


def test_storage_that_holds_a_run_of_this_name_is_refused_for_a_new_one(run, store):
    url, _ = store
    check_storage(url, run, new=True)
    with mirrored(run, url, pytest.fail):
        pass
    check_storage(url, run, new=False)
    with pytest.raises(KdnasError, match="holds a run named first already"):
        check_storage(url, run, new=True)


def test_storage_that_cannot_be_written_is_refused(run):
    with pytest.raises(KdnasError, match=r"resources\.storage = .*cannot be written"):
        check_storage("s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:9", run, new=True)


def test_fetch_when_no_run_lies_there_then_says_so_and_leaves_nothing(store, tmp_path):
    url, _ = store
    with pytest.raises(KdnasError, match="no copy of a run lies there"):
        fetch(within(url, "nothing"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["nothing", "ftp://host/run", "s3://"])
def test_fetch_when_it_is_no_url_then_says_so(tmp_path, url):
    with pytest.raises(KdnasError, match="URL = "):
        fetch(url, tmp_path / "run")


def test_fetch_when_the_folder_is_there_then_refuses(run):
    with pytest.raises(KdnasError, match="exists already"):
        fetch("s3://bucket/runs", run)


def test_fetch_when_a_name_leads_out_of_the_folder_then_refuses(store, tmp_path):
    url, client = store
    prefix = "runs/" + url.partition("?")[0].rpartition("/")[2]
    for key in ("config.yaml", "../../../planted"):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"x")
    with pytest.raises(KdnasError, match="leads out of the folder"):
        fetch(url, tmp_path / "a" / "b" / "run")
    assert not list(tmp_path.rglob("planted"))
    assert not (tmp_path.parent / "planted").exists()


def test_bank_that_one_machine_left_is_there_for_another(store, tmp_path):
    url, _ = store
    said = []
    bank = tmp_path / "one" / "key"
    bank.mkdir(parents=True)
    (bank / "bank.safetensors").write_bytes(bytes(range(256)) * 9000)
    store_bank(url, bank, said.append)
    other = tmp_path / "other" / "key"
    fetch_bank(url, other, said.append)
    assert (other / "bank.safetensors").read_bytes() == (bank / "bank.safetensors").read_bytes()
    assert said == [f"Knowledge bank: fetched from {url}"]


def test_bank_that_nobody_left_is_no_error(store, tmp_path):
    url, _ = store
    fetch_bank(url, tmp_path / "key", pytest.fail)
    assert list(tmp_path.iterdir()) == []
