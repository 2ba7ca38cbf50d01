"""A search that tries several recipes with each architecture: one worker trains them as one, each is a trial."""

import json
from collections import Counter

import pytest
from e2e.launch import config_file, kdnas, lines

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scheduler", ["asha", "asha-promote"])
def test_search_with_several_recipes_each_ends_whole_and_every_candidate_is_a_trial(tmp_path, scheduler):
    config = config_file(
        tmp_path,
        recipes_each=4,
        scheduler={"name": scheduler, "max_epochs": 4, "grace_epochs": 1, "reduction_factor": 2},
        resources={"workers": 2, "pack": "always"},
        recipes={"name": "simple", "taps": ["stage2"], "learning_rate": [0.01, 0.05]},
        retrain={"top": 1, "epochs": 2, "seeds": 2},
    )
    done = kdnas("search", config, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for row in lines(tmp_path / "run" / "candidates.jsonl") if row["state"] != "rejected"]
    assert len({row["id"] for row in rows}) == 8
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert sorted(Counter(json.dumps(row["architecture"]) for row in rows).values()) in ([4, 4], [8])
    shared = Counter(row["train_s"] for row in rows if row["epochs"] == 1)
    assert not shared or max(shared.values()) > 1  # the time of a pack is shared equally
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["trials"] == 8
    assert len(lines(tmp_path / "run" / "retrained.jsonl")) == 4
    started = [record for record in lines(tmp_path / "run" / "tracking.jsonl") if record["type"] == "candidate_started"]
    assert len(started) == 8
    assert not list((tmp_path / "run" / "trials").glob("*"))
