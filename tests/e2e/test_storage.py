"""Does a search outlive the machine of its driver, with nothing of it left but what lies in a bucket?"""

import shutil

import pytest
from e2e.launch import config_file, kdnas, kill_tree, lines, start_kdnas, wait_until
from s3 import BUCKET, KEYS, serving

from kdnas_ray.doctor import examine


@pytest.mark.slow
def test_search_whose_machine_is_gone_goes_on_elsewhere_from_its_copy(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    with serving() as (url, client):

        def copied(name):
            return [
                found for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []) if name in found["Key"]
            ]

        config = config_file(
            here,
            scheduler={"name": "asha", "max_epochs": 9, "grace_epochs": 3, "reduction_factor": 3},
            budget={"trials": 400},
            resources={"workers": 2, "storage": url},
            retrain={"top": 0},
            tracking={"enabled": False},
        )
        monkeypatch.setenv("KDNAS_CACHE", str(here / "cache"))
        process = start_kdnas("search", config, "--out", "first", cwd=here)
        wait_until(lambda: copied("/first/candidates.jsonl"), process)
        kill_tree(process)
        ended = lines(here / "first" / "candidates.jsonl")
        shutil.rmtree(here)

        monkeypatch.setenv("KDNAS_CACHE", str(there / "cache"))
        done = kdnas("fetch", url.replace("/runs?", "/runs/first?"), cwd=there)
        assert done.returncode == 0, done.stdout + done.stderr
        known = {row["id"]: row for row in lines(there / "runs" / "first" / "candidates.jsonl")}
        assert known
        assert known == {row["id"]: row for row in ended if row["id"] in known}
        done = kdnas("resume", "runs/first", f"budget.trials={len(known) + 4}", cwd=there, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Knowledge bank: fetched from" in done.stdout
        rows = lines(there / "runs" / "first" / "candidates.jsonl")
        assert len({row["id"] for row in rows}) == len(rows)
        assert {row["id"]: row for row in rows if row["id"] in known} == known
        assert examine(there / "runs" / "first") == []
        for path in (there / "runs").rglob("*"):
            assert path.is_dir() or KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes(), path
