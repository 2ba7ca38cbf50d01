"""Does a search run on a Ray that another process started, and only with its token?"""

import time

import pytest
from e2e.launch import config_file, kdnas, lines

from kdnas_ray.runs import read_state

TINY = {
    "teachers": [{"name": "trained", "stem": 4, "widths": [8, 8], "depths": [1, 1], "epochs": 1, "views": 1}],
    "budget": {"trials": 3},
    "constraints": {},
    "resources": {"workers": None},
    "retrain": {"top": 1, "epochs": 1, "seeds": 1},
    "tracking": {"enabled": False},
}


def test_search_when_given_the_address_of_a_head_then_runs_there_and_is_resumed_there(head, tmp_path):
    config = config_file(tmp_path, **TINY)
    done = kdnas("search", config, "--address", head.address, "--out", "run", cwd=tmp_path, **head.key)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert read_state(tmp_path / "run")["workers"] == head.cpus
    assert len(lines(tmp_path / "run" / "candidates.jsonl")) == 3
    more = kdnas("resume", "run", cwd=tmp_path, RAY_ADDRESS=head.address, **head.key)  # the variable says the same
    assert (more.returncode, more.stderr) == (0, ""), more.stdout + more.stderr
    assert len(lines(tmp_path / "run" / "candidates.jsonl")) == 3


@pytest.mark.parametrize(
    "changed", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0123456789abcdef"}], ids=["none", "another"]
)
def test_search_when_without_the_token_then_is_refused_before_any_work(head, tmp_path, changed):
    begun = time.monotonic()
    key = {**head.key, **changed}
    done = kdnas("search", "--address", head.address, "--out", "run", cwd=tmp_path, **key)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: --address or RAY_ADDRESS = '{head.address}': that Ray asks for a token")
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - begun < 30


def test_search_when_the_cluster_has_no_room_for_a_trial_then_is_refused_before_any_work(head, tmp_path):
    done = kdnas("search", "resources.cpu=64", "--address", head.address, "--out", "run", cwd=tmp_path, **head.key)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: resources = {'cpu': 64")
    assert "no machine has room for one trial\n  Ray has CPU 3, GPU 0" in done.stderr
    assert list(tmp_path.iterdir()) == []
