"""Does a search whose machines share no file system go on from what lies in a bucket, and leave nothing there?"""

import signal
import tempfile
import time

import pytest
from e2e.launch import config_file, kdnas, lines, start_kdnas, wait_until
from s3 import BUCKET, KEYS, serving


@pytest.mark.slow
def test_search_that_hands_candidates_on_through_a_bucket_goes_on_from_there_on_another_machine(tmp_path, monkeypatch):
    # Ray keeps sockets there, whose paths must be short.
    with (
        tempfile.TemporaryDirectory() as first,
        tempfile.TemporaryDirectory() as second,
        serving() as (url, client),
    ):

        def keys() -> list[str]:
            time.sleep(0.3)
            return [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

        monkeypatch.setenv("TMPDIR", first)
        config = config_file(
            tmp_path,
            scheduler={"name": "asha-promote", "max_epochs": 18, "grace_epochs": 2, "reduction_factor": 3},
            budget={"trials": 14},
            resources={"workers": 2, "checkpoints": url},
            retrain={"top": 0},
        )
        process = start_kdnas("search", config, "--out", "run", cwd=tmp_path)
        wait_until(lambda: sum(key.endswith("/rung.pt") for key in keys()) >= 4, process)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=90)
        assert process.returncode == 130, printed
        waiting = {key.split("/")[-2] for key in keys() if key.endswith("/rung.pt")}
        assert waiting
        assert not list((tmp_path / "run").rglob("rung.pt"))
        spent = sum(row["train_s"] for row in lines(tmp_path / "run" / "candidates.jsonl"))

        monkeypatch.setenv("TMPDIR", second)
        done = kdnas("resume", "run", cwd=tmp_path, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = {row["id"]: row for row in lines(tmp_path / "run" / "candidates.jsonl") if row["state"] != "rejected"}
        assert len(rows) == 14
        assert waiting <= set(rows)
        assert sum(row["train_s"] for row in rows.values()) > spent
        assert not [key for key in keys() if key.endswith((".pt", ".json"))]
        for path in (tmp_path / "run").rglob("*"):
            assert path.is_dir() or KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes(), path


def test_bucket_that_is_not_there_is_refused_before_any_work(tmp_path):
    with serving() as (url, _):
        done = kdnas(
            "search", f"resources.checkpoints={url.replace('//bucket/', '//missing/')}", "--out", "run", cwd=tmp_path
        )
    assert done.returncode == 2
    assert "resources.checkpoints" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
