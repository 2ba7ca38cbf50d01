"""Specification of `kdnas_ray.mlflow_sender` and `tracking.sync`, against a real MLflow store (SQLite)."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from kdnas_ray import tracking
from kdnas_ray.journal import Journal, Progress
from kdnas_ray.runs import append_jsonl, read_jsonl, read_tracking
from kdnas_ray.tracking import TrackingSettings, pending, sync, write_progress
from search_spaces import KdnasError, RunError
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables.loop import Normalise
from trainables.model_files import save_student

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # MLflow leaves its databases open

AWAY = "http://127.0.0.1:1"
RECORDS = 12  # of one session as `searched` writes it


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database; making one takes seconds, copying it nothing."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch) -> TrackingSettings:
    """Settings of a store of one's own, used from a working folder of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="tests")


@pytest.fixture
def client(store):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store.uri)


@pytest.fixture
def searched(run, candidate, curve) -> Callable[..., Journal]:
    """Writes down a session: candidate 0 complete, 1 stopped, 2 failed, 3 still running."""

    def write(first: int = 0, seed: int = 0) -> Journal:
        tracking.append(
            run,
            {"type": "search_started", "name": "my-run", "experiment": "tests",
             "params": {"seed": seed, "space.name": "resnet", "budget.trials": 4 + first, "sampler.name": None},
             "tags": {"kdnas.run_folder": "my-run", "kdnas.status": "running"}},
        )  # fmt: skip
        journal = Journal(run, Progress(budget=4, rungs=(1, 3)))
        for number in range(first, first + 4):
            journal.started(candidate(number), {"params": 1000 + number, "flops": 50_000})
        whole, stopped, failed, open_ = (candidate(number) for number in range(first, first + 4))
        journal.rung(whole, curve(0.5))
        journal.rung(whole, curve(0.5, 0.6, 0.7))
        journal.ended(whole, "complete", curve(0.5, 0.6, 0.7), 3.0)
        journal.rung(stopped, curve(0.4))
        journal.ended(stopped, "pruned", curve(0.4), 1.0)
        journal.ended(failed, "failed", [], 0.0, "loss is nan in epoch 1")
        journal.rung(open_, curve(0.45))
        return journal

    return write


def parent_of(client):
    experiment = client.get_experiment_by_name("tests").experiment_id
    (parent,) = [run for run in client.search_runs([experiment]) if "mlflow.parentRunId" not in run.data.tags]
    return parent


def children_of(client) -> dict:
    experiment = client.get_experiment_by_name("tests").experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent_of(client).info.run_id}'")
    names = [run.data.tags["kdnas.candidate"] for run in found]
    assert len(set(names)) == len(names)
    return dict(sorted(zip(names, found, strict=True)))


def history(client, run, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))


def end(run: Path) -> None:
    (run / "summary.json").write_text('{"trials": 3}\n')
    (run / "config.yaml").write_text(yaml.safe_dump({"tracking": {"experiment": "tests"}}))
    tracking.append(
        run,
        {"type": "search_ended", "status": "FINISHED", "metrics": {"trials": 3, "best_val_accuracy": 0.7},
         "tags": {"kdnas.status": "finished", "kdnas.best": "c0000"},
         "artifacts": ["summary.json", "config.yaml", "report.html"]},
    )  # fmt: skip


def keep_best(run: Path, register: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    architecture = resnet_architecture(2, (2,), (1,))
    model = build_resnet(architecture, (1, 8, 8), 3).eval()
    meta = {"space": {"name": "resnet", "stages": 1}, "architecture": architecture.to_json(), "shape": [1, 8, 8],
            "classes": ["a", "b", "c"], "mean": [0.3], "std": [0.4]}  # fmt: skip
    save_student(run / "best", model, meta)
    tracking.append(run, {"type": "best", "folder": "best", "candidate": "c0000"})
    return torch.nn.Sequential(Normalise((0.3,), (0.4,)), model).eval()


def test_search_when_sent_then_is_one_parent_with_its_settings(run, searched, store, client):
    searched()
    assert sync(run, store) == RECORDS
    parent = parent_of(client)
    assert parent.info.run_name == "my-run"
    assert parent.info.status == "RUNNING"
    assert parent.data.params == {"seed": "0", "space.name": "resnet", "budget.trials": "4", "sampler.name": "None"}
    assert parent.data.tags["kdnas.status"] == "running"
    assert history(client, parent, "best_val_accuracy") == [(1, 0.7), (2, 0.7), (3, 0.7)]
    assert pending(run) == 0


def test_candidates_when_sent_then_are_nested_runs_with_params_curves_states_and_artifacts(
    run, searched, store, client, candidate
):
    searched()
    sync(run, store)
    children = children_of(client)
    assert list(children) == ["c0000", "c0001", "c0002", "c0003"]
    states = {name: (child.info.status, child.data.tags["kdnas.state"]) for name, child in children.items()}
    assert states == {
        "c0000": ("FINISHED", "complete"),
        "c0001": ("FINISHED", "pruned"),
        "c0002": ("FAILED", "failed"),
        "c0003": ("RUNNING", "running"),
    }
    whole = children["c0000"]
    assert whole.info.run_name == "c0000"
    assert whole.data.params["width"] == "8"
    assert whole.data.params["alpha"] == "0.7"
    assert whole.data.params["terms.1.tap"] == "stage2"
    assert whole.data.metrics["params"] == 1000
    assert whole.data.tags["kdnas.rung"] == "3"
    assert history(client, whole, "val_accuracy") == [(1, 0.5), (2, 0.6), (3, 0.7)]
    assert history(client, whole, "train_loss") == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert history(client, children["c0003"], "val_accuracy") == [(1, 0.45)]
    assert children["c0002"].data.tags["kdnas.reason"] == "loss is nan in epoch 1"
    folder = Path(client.download_artifacts(whole.info.run_id, ""))
    assert json.loads((folder / "architecture.json").read_text()) == candidate(0).architecture.to_json()
    assert json.loads((folder / "recipe.json").read_text()) == json.loads(json.dumps(candidate(0).recipe.to_json()))


def test_search_when_it_ends_then_its_parent_closes_with_metrics_and_files(run, searched, store, client):
    searched()
    for with_kd, accuracy in ((True, 0.81), (False, 0.71)):
        scores = {"with_kd": with_kd, "val_accuracy": 0.8, "test_accuracy": accuracy}
        tracking.append(run, {"type": "retrained", "id": "c0000", "repeat": 1, **scores})
    end(run)
    sync(run, store)
    parent, retrained = parent_of(client), children_of(client)["c0000"]
    assert parent.info.status == "FINISHED"
    assert (parent.data.metrics["trials"], parent.data.metrics["best_val_accuracy"]) == (3, 0.7)
    assert parent.data.tags["kdnas.best"] == "c0000"
    assert {found.path for found in client.list_artifacts(parent.info.run_id)} == {"summary.json", "config.yaml"}
    assert history(client, retrained, "retrained.test_accuracy") == [(1, 0.81)]
    assert history(client, retrained, "retrained.test_accuracy_without_kd") == [(1, 0.71)]


@pytest.mark.parametrize("lost", ["nothing of the runs", "the list of the runs"])
def test_records_when_sent_twice_after_a_crash_then_change_nothing(run, searched, store, client, lost):
    searched()
    end(run)
    sync(run, store)
    before = {name: history(client, child, "val_accuracy") for name, child in children_of(client).items()}
    progress = history(client, parent_of(client), "best_val_accuracy")
    write_progress(run, store.uri, offset=0)  # killed after sending, before noting how far it came
    if lost == "the list of the runs":
        (run / "tracking_runs.jsonl").unlink()
    sync(run, store)
    assert {name: history(client, child, "val_accuracy") for name, child in children_of(client).items()} == before
    assert history(client, parent_of(client), "best_val_accuracy") == progress
    assert parent_of(client).info.status == "FINISHED"


def test_search_when_resumed_then_continues_the_same_runs(run, searched, store, client, candidate, curve):
    searched()
    sync(run, store)
    parent, open_ = parent_of(client).info.run_id, children_of(client)["c0003"].info.run_id
    again = searched(first=4)
    again.started(candidate(3), {"params": 1003, "flops": 50_000}, reported=1)
    again.rung(candidate(3), curve(0.45, 0.55, 0.65))
    again.ended(candidate(3), "complete", curve(0.45, 0.55, 0.65), 3.0)
    end(run)
    sync(run, store)
    assert parent_of(client).info.run_id == parent
    assert parent_of(client).data.params["budget.trials"] == "4"  # MLflow's parameters never change
    assert parent_of(client).data.tags["kdnas.resumed.budget.trials"] == "8"
    children = children_of(client)
    assert len(children) == 8
    assert children["c0003"].info.run_id == open_
    assert (children["c0003"].info.status, children["c0003"].data.tags["kdnas.state"]) == ("FINISHED", "complete")
    assert history(client, children["c0003"], "val_accuracy") == [(1, 0.45), (2, 0.55), (3, 0.65)]


def test_records_when_cut_by_a_crash_then_wait_for_their_end(run, searched, store, client):
    searched()
    with (run / "tracking.jsonl").open("ab") as file:
        file.write(b'{"type": "rung", "id": "c00')
    assert sync(run, store) == RECORDS
    append_jsonl(run / "tracking.jsonl", {"type": "rung", "id": "c0003", "epoch": 3, "time_ms": 1,
                                          "curve": [{"epoch": 2, "val_accuracy": 0.5}]})  # fmt: skip
    assert sync(run, store) == 1
    assert history(client, children_of(client)["c0003"], "val_accuracy") == [(1, 0.45), (2, 0.5)]


def test_records_when_the_outbox_is_larger_than_one_chunk_then_are_all_sent(
    run, searched, store, client, candidate, curve, monkeypatch
):
    from kdnas_ray import mlflow_sender

    monkeypatch.setattr(mlflow_sender, "CHUNK_BYTES", 700)
    searched()
    assert sync(run, store) == RECORDS
    assert len(children_of(client)) == 4
    assert history(client, children_of(client)["c0000"], "val_accuracy") == [(1, 0.5), (2, 0.6), (3, 0.7)]


def test_numbers_when_not_finite_then_do_not_stop_the_others(run, searched, store, client, candidate, curve):
    journal = searched()
    diverging = {"epoch": 2, "train_loss": float("nan"), "val_loss": float("inf"), "val_accuracy": 0.1}
    journal.rung(candidate(3), [*curve(0.45), diverging])
    sync(run, store)
    open_ = children_of(client)["c0003"]
    assert history(client, open_, "val_accuracy") == [(1, 0.45), (2, 0.1)]
    assert history(client, open_, "val_loss") == [(1, 3.0)]


def test_server_when_away_then_nothing_is_lost_and_sync_sends_all_later(run, searched, store, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    searched()
    end(run)
    with pytest.raises(RunError) as caught:
        sync(run, store.model_copy(update={"uri": AWAY}))
    assert "MLflow does not answer as it should" in str(caught.value)
    assert "they are kept" in caught.value.remedy
    assert caught.value.value == AWAY
    assert pending(run) == RECORDS + 1
    assert sync(run, store) == RECORDS + 1
    assert pending(run) == 0
    assert len(children_of(client)) == 4
    assert parent_of(client).info.status == "FINISHED"
    assert sync(run, store) == 0


def test_record_when_mlflow_refuses_it_for_good_then_is_kept_apart_and_the_others_are_sent(
    run, searched, store, client
):
    searched()
    bad = {"type": "retrained", "id": "c0000", "repeat": 0, "with_kd": True, "val_accuracy": 0.8}
    tracking.append(run, bad | {"test_accuracy": "much"})
    end(run)
    assert sync(run, store) == RECORDS + 2
    assert pending(run) == 0
    assert parent_of(client).info.status == "FINISHED"
    assert len(children_of(client)) == 4
    (kept,) = read_jsonl(run / "tracking_refused.jsonl")
    assert tracking.refused(run) == 1
    assert kept["record"]["test_accuracy"] == "much"
    assert kept["reason"]


def test_names_when_mlflow_does_not_take_them_then_are_sent_under_ones_that_it_takes(run, searched, store, client):
    """A user's own space may call a decision anything, and `any` of a composition makes names with brackets."""
    odd = {"stage2.block[basic|inverted]": "basic", "größe/a b": 3}
    data = {"id": "c0009", "seed": 1, "architecture": odd, "recipe": {}}
    searched()
    tracking.append(run, {"type": "candidate_started", "params": odd, "metrics": {"params": 1.0, "a|b": 2.0}, **data})
    sync(run, store)
    sent = children_of(client)["c0009"].data
    assert sent.params["stage2.block_basic_inverted_"] == "basic"
    assert sent.metrics["a_b"] == 2.0
    assert tracking.refused(run) == 0


def test_store_when_another_is_named_then_gets_the_whole_run_and_the_first_keeps_its_own(
    run, searched, store, client, empty_store, tmp_path
):
    from mlflow import MlflowClient

    searched()
    sync(run, store)
    shutil.copy(empty_store, tmp_path / "other.db")
    other = store.model_copy(update={"uri": f"sqlite:///{tmp_path}/other.db"})
    end(run)
    assert sync(run, other) == RECORDS + 1
    assert len(children_of(MlflowClient(tracking_uri=other.uri))) == 4
    assert parent_of(client).info.status == "RUNNING"
    assert sync(run, store) == 1
    assert parent_of(client).info.status == "FINISHED"
    assert len(children_of(client)) == 4


def test_candidate_when_its_artifacts_were_not_taken_then_gets_them_later_in_the_same_run(
    run, searched, store, client, monkeypatch
):
    from mlflow import MlflowClient

    searched()
    real, calls = MlflowClient.log_artifacts, []

    def away_at_first(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise ConnectionError("the artifact store is away")
        return real(self, *arguments)

    monkeypatch.setattr(MlflowClient, "log_artifacts", away_at_first)
    with pytest.raises(RunError):
        sync(run, store)
    sync(run, store)
    for child in children_of(client).values():
        assert {f.path for f in client.list_artifacts(child.info.run_id)} == {"architecture.json", "recipe.json"}


def test_sync_when_the_search_sends_itself_then_refuses(run, searched, store):
    searched()
    with tracking.sending(run, wait=False), pytest.raises(KdnasError, match="by the search itself"):
        sync(run, store)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # MLflow about itself
def test_best_when_sent_then_is_a_model_with_signature_that_loads_and_answers_the_same(run, searched, store, client):
    import mlflow

    searched()
    model = keep_best(run)
    sync(run, store.model_copy(update={"register_as": "my-student"}))
    write_progress(run, store.uri, offset=0)  # sent again after a crash
    sync(run, store.model_copy(update={"register_as": "my-student"}))
    (logged,) = client.search_logged_models([client.get_experiment_by_name("tests").experiment_id])
    assert logged.source_run_id == parent_of(client).info.run_id
    loaded = mlflow.pytorch.load_model(logged.model_uri)
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images))
    info = mlflow.models.get_model_info(logged.model_uri)
    (inputs,), (outputs,) = info.signature.inputs.inputs, info.signature.outputs.inputs
    assert (str(inputs.type), inputs.shape) == ("uint8", (-1, 1, 8, 8))
    assert (str(outputs.type), outputs.shape) == ("float32", (-1, 3))
    assert info.metadata == {"classes": ["a", "b", "c"], "candidate": "c0000"}
    (version,) = client.search_model_versions("name='my-student'")
    assert version.run_id == parent_of(client).info.run_id


def test_sender_process_when_its_pipe_closes_then_has_sent_everything_and_ends(run, searched, store, client):
    searched()
    end(run)
    (run / "config.yaml").write_text(yaml.safe_dump({"tracking": store.model_dump()}))
    sender = tracking.start(run)
    assert tracking.drain(run, sender, 60) == 0
    assert sender.returncode == 0
    assert (run / "tracking.log").read_text() == ""
    assert len(children_of(client)) == 4
    assert parent_of(client).info.status == "FINISHED"
    # Where it went is known to whoever resumes from another folder.
    assert read_tracking(run)["store"] == store.uri
    assert [row["id"] for row in read_jsonl(run / "tracking_runs.jsonl")] == ["c0000", "c0001", "c0002", "c0003"]


def test_sender_process_when_the_server_is_away_then_ends_soon_and_says_why(run, searched, store, monkeypatch):
    searched()
    (run / "config.yaml").write_text(yaml.safe_dump({"tracking": {"uri": AWAY}}))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sender = tracking.start(run)
    assert tracking.drain(run, sender, 60) == RECORDS
    assert sender.returncode == 0
    assert "127.0.0.1" in (run / "tracking.log").read_text()


def test_search_when_its_folder_comes_from_elsewhere_then_no_file_beside_it_is_sent(
    run, searched, store, client, tmp_path
):
    searched()
    (tmp_path / "private.txt").write_text("private")
    (run / "link.txt").symlink_to(tmp_path / "private.txt")
    names = ["../private.txt", str(tmp_path / "private.txt"), "link.txt", "summary.json"]
    (run / "summary.json").write_text("{}")
    ended = {"type": "search_ended", "status": "FINISHED", "metrics": {}, "tags": {}, "artifacts": names}
    tracking.append(run, {"type": "best", "folder": "../elsewhere", "candidate": "c0000"})
    (tmp_path / "elsewhere").mkdir()
    tracking.append(run, ended)
    sync(run, store)
    assert {found.path for found in client.list_artifacts(parent_of(client).info.run_id)} == {"summary.json"}
