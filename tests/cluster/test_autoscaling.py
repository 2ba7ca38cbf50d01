"""Does a cluster grow for a search and shrink after it? With Ray's own autoscaler and its provider of fake machines.

Those are processes on this machine that share its address: where each trial runs is not looked at, how many machines
there are is.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from e2e.launch import config_file, environment

from benchmarks.nodes import Machine, Node, cluster
from kdnas_ray.runs import read_jsonl

pytestmark = pytest.mark.hosts

MOST = 2  # workers
SEARCH = {
    "teachers": [{"name": "trained", "stem": 4, "widths": [8, 8], "depths": [1, 1], "epochs": 1, "views": 1}],
    "scheduler": {"name": "full", "max_epochs": 15},
    "sampler": "random",
    "constraints": {},
    "budget": {"trials": 8},
    "resources": {"workers": None, "layout": "contiguous"},
    "retrain": {"top": 0},
    "tracking": {"enabled": False},
}


def autoscaling(folder: Path, port: int) -> Path:
    """A configuration of the autoscaler: no worker to begin with."""
    path = folder / "autoscaling.yaml"
    types = {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST},
    }
    config = {
        "cluster_name": "fake",
        "max_workers": MOST,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "use_node_id_as_ip": True,  # they have one address between them
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "auth": {"ssh_user": "nobody"},
        "cluster_synced_files": [],
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "rsync_exclude": [],
        "rsync_filter": [],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def raylets(node: Node) -> int:
    return sum(process.name() == "raylet" for process in node.processes())


def test_cluster_without_workers_grows_for_a_search_and_shrinks_after_it(tmp_path):
    config_file(tmp_path, **SEARCH)
    with cluster(tmp_path) as made:
        options = f"--autoscaling-config={autoscaling(tmp_path, made.port)}"
        head = made.head(Machine(), 1, options, RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1")
        assert raylets(head) == 1
        words = [sys.executable, "-m", "kdnas_ray", "search", "kdnas.yaml", "--out", "run", "--address", head.address]
        with (tmp_path / "out").open("w") as out:
            search = subprocess.Popen(
                words, cwd=tmp_path, env=environment(**made.key), stdout=out, stderr=subprocess.STDOUT
            )
        most = 1
        try:
            end = time.monotonic() + 300
            while search.poll() is None:
                assert time.monotonic() < end, (tmp_path / "out").read_text()
                most = max(most, raylets(head))
                time.sleep(0.2)
        finally:
            search.kill()
            search.wait(30)
        assert search.returncode == 0, (tmp_path / "out").read_text()
        assert most == 1 + MOST
        rows = read_jsonl(tmp_path / "run" / "candidates.jsonl")
        assert {row["state"] for row in rows} == {"complete"}
        assert len({row["id"] for row in rows}) == 8
        end = time.monotonic() + 120
        while raylets(head) > 1:
            assert time.monotonic() < end, f"{raylets(head)} machines are left"
            time.sleep(0.5)
