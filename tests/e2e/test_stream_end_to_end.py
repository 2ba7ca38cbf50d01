"""Does `kdnas search` carry a stream of class groups from the YAML to the report, and go on after Ctrl-C?"""

import json
import signal

import pytest
import yaml
from e2e.launch import kdnas, lines, start_kdnas
from e2e.test_resume import wait_until

from kdnas_ray import search
from kdnas_ray.config import read
from kdnas_ray.live import Narrator
from trainables.stream import accuracy_matrix, measures

SMALL: dict = {
    "stream": {"groups": 5, "memory": 50, "grow": [False, True]},
    "bank": {"views": 1},
    "space": {"name": "resnet", "stages": 2, "stem_widths": [4], "widths": [4, 8], "depths": [1, 2], "kernels": [3]},
    "recipes": {"hint_losses": ["attention"], "taps": ["stage2"]},
    "objectives": ["val_accuracy", "forgetting"],
    "constraints": {"params": 5000},
    "scheduler": {"name": "asha", "max_epochs": 5, "grace_epochs": 2, "reduction_factor": 2},
    "budget": {"trials": 3},
    "retrain": {"top": 1, "epochs": 5, "seeds": 1},
    "tracking": {"enabled": False},
    "resources": {"workers": 2, "layout": "contiguous"},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_ray):
    folder = tmp_path_factory.mktemp("stream") / "run"
    search(read(SMALL), folder, Narrator())
    return folder


def test_candidates_when_the_search_ends_then_tell_average_accuracy_and_forgetting(run):
    rows = lines(run / "candidates.jsonl")
    trained = [row for row in rows if row["state"] in ("complete", "pruned")]
    assert len(trained) == 3
    for row in trained:
        matrix = accuracy_matrix(row["curve"])
        assert row["epochs"] in (2, 4, 5)
        assert len(matrix) == row["epochs"]
        assert row["forgetting"] == pytest.approx(measures(matrix)["forgetting"])
        assert row["val_accuracy"] == pytest.approx(sum(matrix[-1]) / len(matrix[-1]))
        assert row["params"] <= 5000


def test_finalists_when_retrained_then_are_compared_with_and_without_distillation(run):
    rows = lines(run / "retrained.jsonl")
    assert sorted(row["with_kd"] for row in rows) == [False, True]
    for row in rows:
        assert [len(line) for line in row["test_matrix"]] == [1, 2, 3, 4, 5]
        assert row["test_forgetting"] == pytest.approx(measures(row["test_matrix"])["forgetting"])
    summary = json.loads((run / "summary.json").read_text())
    best = summary["best"]
    for name in ("test_old_accuracy", "test_forgetting", "test_old_accuracy_without_kd"):
        assert best[name] is not None
    assert summary["stream"]["groups"] == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"]]
    page = (run / "report.html").read_text()
    assert "earlier groups" in page
    assert "Accuracy on each group" in page


def test_student_when_exported_then_has_the_classes_in_the_order_of_the_stream(run):
    about = json.loads((run / "best" / "model.json").read_text())
    assert about["classes"] == [str(digit) for digit in range(10)]


def test_stream_when_ctrl_c_ended_it_then_goes_on_after_the_last_group(tmp_path):
    changes = {"scheduler": {"name": "full", "max_epochs": 30}, "retrain": {"top": 0}, "budget": {"trials": 2}}
    (tmp_path / "kdnas.yaml").write_text(yaml.safe_dump({**SMALL, **changes}))
    process = start_kdnas("search", "kdnas.yaml", "--out", "run", cwd=tmp_path)
    wait_until(lambda: any((tmp_path / "run" / "trials").glob("*/rung.pt")), process)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert any((tmp_path / "run" / "trials").glob("*/rung.pt"))  # after a group, within the only rung
    resumed = kdnas("resume", "run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    rows = lines(tmp_path / "run" / "candidates.jsonl")
    assert [row["epochs"] for row in rows if row["state"] == "complete"] == [30, 30]
