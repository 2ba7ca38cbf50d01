"""Does `kdnas explain` on a small real search say what its numbers say, and leave a page, the numbers and a record?"""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from e2e.launch import kdnas, lines
from e2e.true_sentences import check
from scipy.stats import t as student_t

from kdnas_ray.analysis.effects import clear
from kdnas_ray.report.reasons import sentences

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "train.parquet"
# Small, and with a hint in every recipe: all kinds of sentences are made.
ON_CIFAR = (
    "task=images", f"task.path={CIFAR}", "task.subset=2000", "task.validation=0.3", "bank.views=2",
    "teachers=[{name: trained, stem: 16, widths: [16, 32, 64], depths: [1, 1, 1], epochs: 6, views: 2}]",
    "space.stem_strides=[2]", "space.widths=[4, 8, 16]", "constraints={params: {of_teacher: 0.1}}",
    "recipes.hints=[true]", "scheduler.max_epochs=4", "scheduler.grace_epochs=2", "budget.trials=6", "retrain.top=2",
    "retrain.seeds=1", "tracking.enabled=false",
)  # fmt: skip


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def explained(finished, tmp_path_factory):
    """A copy of the finished search in which its best candidate was explained, what was printed, and the numbers."""
    folder = tmp_path_factory.mktemp("explained")
    run = shutil.copytree(finished[0], folder / "run")
    shutil.copy(finished[0].parent / "mlflow.db", folder)
    store = f"sqlite:///{folder / 'mlflow.db'}"
    done = kdnas("explain", "run", "--seeds", "2", "--epochs", "3", cwd=folder, MLFLOW_TRACKING_URI=store)
    assert done.returncode == 0, done.stdout + done.stderr
    best = json.loads((run / "summary.json").read_text())["best"]["id"]
    return run, done, json.loads((run / "explain" / f"{best}.json").read_text()), store


def test_explain_prints_the_sentences_that_its_numbers_allow(explained):
    _, done, found, _ = explained
    assert sentences(found) == found["sentences"]
    printed = done.stdout.splitlines()
    assert printed[:-1] == [f"- {sentence}" for part in found["sentences"].values() for sentence in part]
    assert printed[-1] == "Page: run/explain.html"
    assert "Traceback" not in done.stderr
    check(found)


def test_effect_of_distillation_is_that_of_the_curves(explained):
    found = explained[2]
    ends = {(row["variant"], row["seed"]): row["curve"][-1]["val_accuracy"] for row in found["trainings"]}
    seeds = sorted({seed for _, seed in ends})
    apart = np.array([ends["with", seed] - ends["without", seed] for seed in seeds])
    effect = next(row["effect"] for row in found["effects"]["terms"] if row["without"] == "distillation")
    assert effect["n"] == len(seeds) == 2
    assert effect["value"] == pytest.approx(apart.mean())
    if apart.std() > 0:
        margin = student_t.ppf(0.975, 1) * apart.std(ddof=1) / np.sqrt(2)
        assert effect["high"] == pytest.approx(min(apart.mean() + margin, 1))
    sentence = found["sentences"]["terms"][0]
    assert ("scores" in sentence) == clear(effect)


def test_numbers_lie_where_such_numbers_lie(explained):
    found = explained[2]
    teacher = found["teacher"]
    assert teacher["accuracy"] > 0.5
    assert np.allclose(np.sum(teacher["outputs"], axis=1), 1)
    for row in found["trainings"]:
        assert [look["epoch"] for look in row["looks"]] == [0, 1, 2, 3]
        for look in row["looks"]:
            gradients = look["gradients"]
            assert gradients["stages"][0] == "stem"
            assert gradients["stages"][-1] == "classifier"
            assert 1 <= gradients["depth_together"] <= len(gradients["stages"])
            for cosines in gradients["cosines"]:
                assert all(value is None or -1.0001 <= value <= 1.0001 for value in cosines)
            assert set(look["similarity"]) == {"stage1", "stage2", "penultimate"}
            for values in look["similarity"].values():
                assert set(values) == set(teacher["taps"])
                assert all(-0.5 < value <= 1.0001 for value in values.values())
        end = row["end"]
        # Validation has fewer samples than are compared at most: the same accuracy as the loop's own.
        assert end["accuracy"] == pytest.approx(row["curve"][-1]["val_accuracy"])
        assert end["probes"]["penultimate"] > end["probes"]["stage1"] - 0.2
        assert 0 <= end["calibration_error"] <= 1
    assert "test_accuracy" not in json.dumps(found)


def test_page_and_report_show_it_and_mlflow_has_it(explained):
    run, _, found, store = explained
    page, report = (run / "explain.html").read_text(), (run / "report.html").read_text()
    for title in ("What distillation brought", "Which layers came to resemble", "Where the losses pull"):
        assert title in page
        assert title.lower() in report.lower()
    assert 'id="explain-similarity-0"' in page
    assert 'id="explain-similarity-0"' in report
    state = json.loads((run / "tracking.json").read_text())
    parent = state["stores"][store]["parent"]
    client = mlflow.MlflowClient(store)
    names = {file.path for file in client.list_artifacts(parent)}
    assert "explain.html" in names
    inside = {file.path for file in client.list_artifacts(parent, "explain")}
    assert inside == {f"explain/{found['candidate']}.json"}


def test_explain_again_trains_nothing_and_says_the_same(explained):
    run, done, found, store = explained
    kept = lines(run / "explain" / f"{found['candidate']}.jsonl")
    words = ("explain", "run", found["candidate"], "--seeds", "2", "--epochs", "3", "--json")
    again = kdnas(*words, cwd=run.parent, MLFLOW_TRACKING_URI=store)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == found
    assert lines(run / "explain" / f"{found['candidate']}.jsonl") == kept
    assert "trainings of" in done.stderr
    assert "trainings of" not in again.stderr


def test_explain_of_an_unknown_candidate_is_refused(explained):
    done = kdnas("explain", "run", "c9999", cwd=explained[0].parent)
    assert done.returncode == 2
    assert "CANDIDATE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not CIFAR.exists(), reason="needs CIFAR-10 beside the repository")
def test_sentences_on_cifar10_are_true_of_its_trainings(tmp_path):
    done = kdnas("search", *ON_CIFAR, f"bank.cache={tmp_path / 'cache'}", "--out", "run", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    done = kdnas("explain", "run", "--seeds", "3", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "run" / "explain").glob("*.json")
    found = json.loads(path.read_text())
    assert {row["variant"] for row in found["trainings"]} >= {"with", "without", "without kd"}
    assert len(found["trainings"]) == 12
    check(found)
    assert sentences(found) == found["sentences"]
