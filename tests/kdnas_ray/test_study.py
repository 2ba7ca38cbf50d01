"""Specification of `kdnas_ray.study`: what was told stays, in a file that Optuna's own tools read."""

import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from kdnas_ray.study import FILE, STUDY, open_study, read_trials


def opened(run, objectives=("val_accuracy",)):
    return open_study(run, RandomSampler(seed=0), objectives, [StudyDirection.MAXIMIZE] * len(objectives))


def told(study, value: float) -> int:
    trial = study.ask({"x": FloatDistribution(0, 1)})
    trial.set_user_attr("curve", [{"epoch": 1, "val_accuracy": value}])
    study.tell(trial, value)
    return trial.number


def test_study_when_opened_again_then_goes_on_and_open_trials_can_be_ended(tmp_path):
    first = opened(tmp_path)
    told(first, 0.25)
    running = first.ask({"x": FloatDistribution(0, 1)})
    again = opened(tmp_path)
    assert [trial.state for trial in again.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    again.tell(running.number, 0.5)
    assert told(again, 0.75) == 2
    assert [trial.value for trial in read_trials(tmp_path)] == [0.25, 0.5, 0.75]
    assert read_trials(tmp_path)[2].user_attrs["curve"] == [{"epoch": 1, "val_accuracy": 0.75}]


def test_study_when_some_trials_are_asked_for_then_only_of_these_is_more_known_than_that_they_were_begun(tmp_path):
    study = opened(tmp_path)
    for value in (0.25, 0.5, 0.75):
        told(study, value)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"op_code":5,"trial_id":1')  # a search writes meanwhile
    first, second, third = read_trials(tmp_path, {1})
    assert second == study.trials[1]
    assert (first.params, first.user_attrs, third.params, third.values) == ({}, {}, {}, None)


def test_study_when_its_last_line_was_cut_then_what_came_before_is_kept_and_it_goes_on(tmp_path):
    told(opened(tmp_path), 0.25)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"op_code":4,"work')
    told(opened(tmp_path), 0.5)
    assert [trial.value for trial in read_trials(tmp_path)] == [0.25, 0.5]


def test_study_is_one_that_optuna_reads_with_the_names_of_its_objectives(tmp_path):
    opened(tmp_path, ("val_accuracy", "params"))
    study = optuna.load_study(study_name=STUDY, storage=JournalStorage(JournalFileBackend(str(tmp_path / FILE))))
    assert study.metric_names == ["val_accuracy", "params"]


def test_study_when_trials_were_enqueued_then_each_is_handed_out_once_in_order_also_after_it_was_opened_again(tmp_path):
    first = opened(tmp_path)
    told(first, 0.25)
    for x in (0.1, 0.2, 0.3):
        first.enqueue_trial({"x": x})
    asked = [first.ask({"x": FloatDistribution(0, 1)}).params["x"]]
    again = opened(tmp_path)
    asked += [again.ask({"x": FloatDistribution(0, 1)}).params["x"] for _ in range(2)]
    again.enqueue_trial({"x": 0.4})
    asked.append(again.ask({"x": FloatDistribution(0, 1)}).params["x"])
    assert asked == [0.1, 0.2, 0.3, 0.4]
    assert again.ask({"x": FloatDistribution(0, 1)}).params["x"] not in asked
