"""Does a search lose nothing, and blame nobody else, when the training of a candidate goes wrong in its worker?"""

from pathlib import Path

import pytest
from e2e.launch import SMALL

from kdnas_ray import search
from kdnas_ray.config import read
from kdnas_ray.doctor import examine
from kdnas_ray.live import Narrator
from kdnas_ray.results import SearchResult, failures
from kdnas_ray.runs import read_jsonl
from trainables.limits import HUNG

pytestmark = pytest.mark.usefixtures("one_ray")

TRIALS = 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One teacher for all."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def searched(tmp_path, cache, monkeypatch):
    """Runs a search with a fault in some candidate, and returns the lines of its candidates."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(fault: str, times: int = 1, **resources) -> list[dict]:
        task = {"name": "benchmarks.faulty:Faulty", "fault": fault, "folder": str(tmp_path), "times": times}
        scheduler = {"name": "full", "max_epochs": 6}
        if "grace" in resources:
            scheduler = {"name": "asha", "max_epochs": 6, "grace_epochs": resources.pop("grace")}
        config = read(
            SMALL
            | {
                "task": task,
                "bank": {"views": 2, "cache": str(cache)},
                "scheduler": scheduler,
                "sampler": "random",
                "budget": {"trials": TRIALS},
                "retrain": {"top": 0},
                "resources": {"workers": 2, "layout": "contiguous"} | resources,
                "tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
            }
        )
        search(config, tmp_path / "run", Narrator())
        assert len(list(tmp_path.glob(f"{fault}-*"))) == times
        assert examine(tmp_path / "run") == []
        assert not list((tmp_path / "run" / "trials").glob(f"*/{HUNG}"))
        rows = [row for row in read_jsonl(tmp_path / "run" / "candidates.jsonl") if row["state"] != "rejected"]
        assert len(rows) == len({row["id"] for row in rows}) == TRIALS
        return rows

    return run


def test_worker_that_is_killed_in_a_step_costs_no_candidate(searched):
    assert {row["state"] for row in searched("kill")} == {"complete"}


def test_worker_that_is_killed_while_it_saves_costs_no_candidate_and_leaves_nothing(searched, tmp_path):
    rows = searched("kill_in_save", grace=4)
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert not list((tmp_path / "run" / "trials").glob("c*"))


def test_worker_that_is_told_to_go_saves_the_epoch_and_its_candidate_goes_on_from_there(searched, tmp_path):
    rows = searched("told_to_go", times=3)  # a spot machine is taken away again and again: nobody is to blame
    assert {row["state"] for row in rows} == {"complete"}
    assert all([point["epoch"] for point in row["curve"]] == [1, 2, 3, 4, 5, 6] for row in rows)


def test_training_that_hangs_fails_when_its_time_is_over_and_the_log_says_where(searched, tmp_path):
    rows = searched("hang", rung_s=15)
    (failed,) = [row for row in rows if row["state"] == "failed"]
    assert failed["reason"].startswith("hung: from its beginning the next rung was not reached within resources.rung_s")
    assert failures(SearchResult(tmp_path / "run")) == (
        "1 failed, 1 of them hung (resources.rung_s=15): search.log says where they stood"
    )
    log = (tmp_path / "run" / "search.log").read_text()
    _, _, stood = log.partition(f"{failed['id']} hung: ")
    assert "which trained" in stood.splitlines()[1]
    assert "in hang" in stood.splitlines()[2]
    assert {row["state"] for row in rows if row is not failed} == {"complete"}


@pytest.mark.parametrize(
    ("fault", "reason"), [("not_a_number", "loss is nan"), ("infinite", "loss is "), ("out_of_memory", "memory")]
)
def test_candidate_that_cannot_be_trained_fails_alone_with_the_reason(searched, fault, reason):
    rows = searched(fault)
    (failed,) = [row for row in rows if row["state"] == "failed"]
    assert reason in failed["reason"].lower()
    assert {row["state"] for row in rows if row is not failed} == {"complete"}
