"""Specification of `kdnas_ray.database` and `kdnas_ray.others`, on a real PostgreSQL: whose a trial is, and no loss."""

import json
import threading
import time

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState
from postgres import PASSWORD, serving
from sessions import Session, Widths
from sqlalchemy import text

from kdnas_ray import adapter, database, study
from kdnas_ray.adapter import curves
from kdnas_ray.config import read
from kdnas_ray.database import SharedStorage
from kdnas_ray.doctor import examine, repair
from kdnas_ray.kept_config import keep_config
from kdnas_ray.others import Others, check_study, join
from kdnas_ray.runs import append_jsonl
from kdnas_ray.study import IN_DATABASE, open_study, own_trials, read_trials, shared
from kdnas_ray.study_settings import StudySettings
from search_spaces import KdnasError, RunError
from trainables.recipe import SimpleRecipes

X = {"x": FloatDistribution(0, 1)}
ONE_RECIPE = SimpleRecipes(alpha=(0.5, 0.5), temperature=(3, 3), schedules=("constant",), hints=(False,),
                           learning_rate=(0.01, 0.01), weight_decay=(1e-4, 1e-4))  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        found.make("study", "empty", "other", "broken")
        yield found


@pytest.fixture(autouse=True)
def _password(server, monkeypatch):
    monkeypatch.setenv("PGPASSFILE", server.passfile)


@pytest.fixture
def beside(server, tmp_path, monkeypatch, request):
    """Opens the study of a run in the database; runs of one test share it."""
    lines: list[str] = []

    def open_(run: str = "one", patience_s: float = 20, impatient=lambda: False, kept_in: str = "study"):
        folder = tmp_path / run
        where = {"url": server.url(kept_in), "name": request.node.name[-150:], "patience_s": patience_s}
        config = read({"study": where, "tracking": {"enabled": False}})
        if not folder.exists():
            folder.mkdir()
            keep_config(folder, config)
        with study.quiet_optuna():
            return open_study(
                folder,
                RandomSampler(seed=len(run)),
                ["val_accuracy"],
                [StudyDirection.MAXIMIZE],
                impatient=impatient,
                say=lines.append,
            )

    open_.said, open_.folder = lines, tmp_path
    return open_


@pytest.fixture
def search_on(beside):
    """A search without Ray on the shared study."""

    def open_(run: str, **options) -> Session:
        found = beside(run)
        storage = shared(found)
        session = Session(beside.folder / run, found, ["val_accuracy"], recipes=ONE_RECIPE,
                          others=Others(found, storage, ["val_accuracy"]), **options)  # fmt: skip
        assert storage is not None
        return session

    return open_


def test_trials_of_two_searches_have_numbers_of_their_own_and_each_knows_its_own(beside):
    one, two = beside("one"), beside("two")
    numbers = [searching.ask(X).number for searching in (one, two, two, one)]
    assert sorted(numbers) == [0, 1, 2, 3]
    assert [[trial.number for trial in own_trials(searching)] for searching in (one, two)] == [
        [numbers[0], numbers[3]],
        numbers[1:3],
    ]
    assert len(one.get_trials()) == len(two.get_trials()) == 4
    two.tell(numbers[1], 0.5)
    assert one.trials[numbers[1]].value == 0.5
    assert [trial.number for trial in read_trials(beside.folder / "two")] == numbers[1:3]


def test_trial_that_another_search_enqueued_is_left_to_it_also_after_it_was_opened_again(beside):
    one, two = beside("one"), beside("two")
    one.enqueue_trial({"x": 0.25})
    assert two.ask(X).params["x"] != 0.25
    assert beside("one").ask(X).params["x"] == 0.25


def test_numbers_when_two_threads_ask_at_once_then_none_is_given_twice(beside):
    studies = [beside("one"), beside("two")]
    found: list[int] = []

    def ask(searching: optuna.Study) -> None:
        found.extend(searching.ask(X).number for _ in range(8))

    threads = [threading.Thread(target=ask, args=(searching,)) for searching in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(16))


def test_candidate_that_another_search_trained_is_told_and_not_trained_again(search_on, result, monkeypatch):
    monkeypatch.setattr(adapter, "REJECTIONS", 12)
    one, two = search_on("one", space=Widths(2), trials=2), search_on("two", space=Widths(2), trials=2)
    first = one.ask("a")
    one.adapter.on_trial_complete("a", result(0.5, 0.6, 0.7))
    second = two.ask("b")
    assert {first.architecture["width"], second.architecture["width"]} == {1, 2}
    assert first.id != second.id
    assert one.adapter.suggest("c") == "FINISHED"  # there is nothing that nobody trains
    assert one.adapter.exhausted
    again = [row for row in one.rows().values() if row["state"] == "rejected"]
    reasons = {row["reason"] for row in again}
    assert f"the same as {second.id} of another search (being trained), not trained again" in reasons
    told = [trial for trial in two.study.trials if trial.user_attrs.get("same_as") == f"{first.id} of another search"]
    assert all((trial.state, trial.value) == (TrialState.COMPLETE, 0.7) for trial in told)
    assert set(two.rows()) & set(one.rows()) == set()


def test_search_that_is_resumed_ends_and_takes_up_its_own_trials_alone(search_on, result):
    one, two = search_on("one"), search_on("two")
    mine, other = one.ask("a"), two.ask("a")
    two.adapter.on_trial_result("a", result(0.4))
    half = one.study.ask()  # the process died while this one was proposed
    theirs = two.study.ask()
    again = search_on("one")
    assert again.ask("b").id == mine.id
    states = {trial.number: trial.state for trial in again.study.trials}
    assert states[half.number] is TrialState.FAIL
    assert states[theirs.number] is TrialState.RUNNING
    assert states[int(other.id[1:])] is TrialState.RUNNING
    assert list(curves(again.study)) == [mine.id, f"c{half.number:04d}"]


def test_doctor_leaves_the_trials_of_another_search_and_mends_its_own(search_on, beside, result):
    one, two = search_on("one"), search_on("two")
    one.ask("a")
    row = one.journal.ended(one.adapter._running["a"].candidate, "complete", result(0.5, 0.6, 0.7)["curve"], 1.0)
    theirs, mine = two.study.ask(), one.study.ask()
    found, left = repair(beside.folder / "one")
    assert left == []
    assert sorted(finding.what for finding in found if finding.where == "study") == [
        "1 candidate ended and the study does not know",
        "1 candidate were being proposed when the process died",
    ]
    trials = {trial.number: trial.state for trial in two.study.trials}
    assert trials[int(row["id"][1:])] is TrialState.COMPLETE
    assert (trials[mine.number], trials[theirs.number]) == (TrialState.FAIL, TrialState.RUNNING)


def test_study_that_the_database_lost_is_given_back_from_the_run_folder_and_no_number_is_given_twice(
    search_on, beside, server, row
):
    one = search_on("one")
    one.ask("a")
    for number in (0, 3):
        append_jsonl(beside.folder / "one/candidates.jsonl", row(number, "complete", [0.5, 0.6, 0.7]))
    name = one.study.study_name
    optuna.delete_study(study_name=name, storage=one.study._storage)
    found, left = repair(beside.folder / "one")
    assert left == []
    assert any("2 candidates missing" in finding.what for finding in found)
    assert examine(beside.folder / "one") == []
    assert search_on("one").ask("b").id == "c0004"


def test_call_that_finds_the_server_restarting_is_made_again_and_nothing_is_lost(beside, server):
    one = beside("one")
    trial = one.ask(X)
    server.control("stop", "-m", "immediate")
    back = threading.Timer(1.0, lambda: server.control("start"))
    back.start()
    try:
        trial.set_user_attr("curve", [1])
        one.tell(trial, 0.5)
    finally:
        back.join()
    assert [(found.value, found.user_attrs["curve"]) for found in one.trials] == [(0.5, [1])]
    assert len(beside.said) == 2
    assert "does not answer" in beside.said[0]
    assert "answers again" in beside.said[1]


def test_call_that_finds_the_database_away_for_too_long_ends_with_the_word_to_resume(beside, server):
    one = beside("one", patience_s=1)
    stopped = beside("two", patience_s=600, impatient=lambda: True)
    server.control("stop", "-m", "fast")
    try:
        begin = time.monotonic()
        with pytest.raises(RunError, match="has not answered for 1 s") as caught:
            one.ask(X)
        with pytest.raises(RunError):  # Ctrl-C
            stopped.ask(X)
        assert time.monotonic() - begin < 15
    finally:
        server.control("start")
    assert "kdnas resume" in caught.value.remedy
    assert one.ask(X).number == 0


def test_end_that_was_told_before_the_connection_broke_is_no_error_when_it_is_told_again(beside, monkeypatch):
    one = beside("one")
    trial, storage = one.ask(X), shared(one)
    call, calls = optuna.storages.RDBStorage.set_trial_state_values, []

    def lose_the_answer(*arguments):
        found = call(*arguments)
        calls.append(arguments)
        if len(calls) == 1:
            with storage.engine.connect() as connection:
                connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return found

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_state_values", lose_the_answer)
    one.tell(trial, 0.5)
    assert len(calls) == 1
    assert one.trials[0].value == 0.5


def test_what_the_database_refuses_is_said_at_once(beside, server):
    one = beside("one", patience_s=600, kept_in="broken")
    trial = one.ask(X)
    with shared(one).engine.begin() as connection:
        connection.execute(text("DROP TABLE trial_user_attributes"))
    with pytest.raises(RunError, match="refuses what it is told"):
        trial.set_user_attr("curve", [])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda url, port: url.replace(str(port), "1"), "onnection refused"),
        (lambda url, port: url.replace("/study", "/missing"), '"missing" does not exist'),
        (lambda url, port: url.replace("kdnas@", "kdnas:planted-wrong@"), "password authentication failed"),
        (lambda url, port: "postgresql://kdnas:planted-wrong@127.0.0.1:no/study", "cannot be read as an address"),
    ],
)
def test_database_that_cannot_be_used_is_refused_without_the_password(server, monkeypatch, change, word):
    monkeypatch.setenv("STUDY", change(server.url("study"), server.port))
    with pytest.raises(KdnasError, match=word) as caught:
        SharedStorage(StudySettings(url="env:STUDY"), None)
    assert (caught.value.exit_code, caught.value.field) == (2, "study.url")
    assert "planted" not in str(caught.value)


def test_database_of_another_program_is_refused(server):
    with database.create_engine(server.url("other", PASSWORD)).begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32))"))
    with pytest.raises(KdnasError, match="tables of another program"):
        SharedStorage(StudySettings(url=server.url("other")), None)


def test_database_that_is_also_mlflows_is_refused(server):
    config = read({"study": {"url": server.url("empty")}})
    with pytest.raises(KdnasError, match="also where MLflow"):
        check_study(config.study, config.resolved(), server.url("empty", "x"), None)
    check_study(config.study, config.resolved(), None, None)


@pytest.mark.parametrize(
    ("section", "change"),
    [("space", {"space": {"name": "resnet", "stages": 1}}), ("seed", {"seed": 1}), ("bank", {"bank": {"views": 2}})],
)
def test_search_of_another_kind_is_refused_from_a_study_before_it_begins(beside, section, change):
    one = beside("one")
    config = read({"study": study.study_settings(beside.folder / "one").model_dump()})
    join(one, shared(one), "one", config.resolved())
    alike = {"sampler": "random", "budget": {"trials": 3}, "retrain": {"top": 1}, "bank": {"cache": "elsewhere"}}
    study_ = {"study": config.study.model_dump()}
    check_study(config.study, read(alike | study_).resolved(), None, None)
    with pytest.raises(KdnasError, match="'one'") as caught:
        check_study(config.study, read(change | study_).resolved(), None, None)
    assert caught.value.field == section
    check_study(config.study, config.resolved(), None, beside.folder / "one")


def test_run_keeps_its_study_and_its_id_and_none_is_guessed(beside):
    one = beside("one")
    kept = json.loads((beside.folder / "one" / IN_DATABASE).read_text())
    assert kept == {"name": one.study_name, "search": shared(one).owner}
    assert shared(beside("one")).owner == kept["search"]
    config = read({"study": {"url": "env:X", "name": "another"}})
    keep_config(beside.folder / "one", config)
    with pytest.raises(KdnasError, match="is part of the study"):
        read_trials(beside.folder / "one")
    (beside.folder / "one" / IN_DATABASE).write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_trials(beside.folder / "one")
