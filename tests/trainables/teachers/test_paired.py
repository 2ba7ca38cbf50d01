"""Specification of `trainables.teachers.paired`: digits teach tones, of which three have the names of digits."""

import numpy as np
import pytest
import torch
from tones import parquet, spoken

from kdnas_ray.config import read
from kdnas_ray.prepare import plan
from search_spaces import KdnasError
from trainables import bank as banks
from trainables.alignment import speaks
from trainables.loop import Normalise
from trainables.tasks import DigitsTask, SpeechTask
from trainables.tasks.base import MultiLabel
from trainables.teachers import AssistantTeacher, FolderTeacher, PairedTeacher, build_teacher, obtain, save_teacher

WORDS = ("1", "2", "3")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    rows = spoken(4, classes=WORDS)
    return SpeechTask(parquet(tmp_path_factory.mktemp("tones") / "tones.parquet", rows), mels=12, seconds=0.3)


@pytest.fixture(scope="module")
def sounds(speech):
    return speech.load(0)


@pytest.fixture
def known(teacher, tmp_path):
    """The tiny teacher of digits, in a folder."""
    save_teacher(tmp_path / "digits", teacher)
    return FolderTeacher(tmp_path / "digits")


def obtained(settings, speech, sounds, tmp_path):
    said: list[str] = []
    return obtain(settings, sounds, speech, seed=0, cache=tmp_path / "cache", say=said.append), said


def test_teacher_of_digits_answers_for_tones(known, speech, sounds, tmp_path, teacher):
    found, said = obtained(PairedTeacher(DigitsTask(), known), speech, sounds, tmp_path)
    assert not speaks(found.model)
    assert f"{len(sounds.train):,} of {len(sounds.train):,} training samples have a partner" in said[-1]
    assert "3 of the task's 3 classes are matched; left out are its 7 other classes" in said[-1]
    bank = banks.build(
        sounds.train,
        [found.model],
        Normalise(sounds.mean, sounds.std),
        augmentation=speech.augmentation,
        views=2,
        seed=0,
    )
    right = (bank.logits[:, 0].argmax(axis=2) == sounds.train.labels).mean()
    assert right > 0.8  # as good as the teacher is on digits, whatever the tones are


def test_trained_teacher_learns_the_other_task_and_is_kept(tiny, speech, sounds, tmp_path):
    settings = PairedTeacher(DigitsTask(), tiny)
    first, said = obtained(settings, speech, sounds, tmp_path)
    assert any("Training the teacher: epoch 3/3" in line for line in said)
    again, said = obtained(settings, speech, sounds, tmp_path)
    assert again.digest == first.digest
    assert len(said) == 1
    for other in ({"seed": 1}, {"answers": "class_mean"}, {"mapping": {"4": "1"}}):
        assert obtained(PairedTeacher(DigitsTask(), tiny, **other), speech, sounds, tmp_path)[0].digest != first.digest


def test_labels_of_validation_and_test_are_not_read(known, speech, sounds, tmp_path):
    import dataclasses

    blind = {
        name: dataclasses.replace(getattr(sounds, name), labels=np.full(len(getattr(sounds, name)), -1))
        for name in ("validation", "test")
    }
    settings = PairedTeacher(DigitsTask(), known)
    one, two = (
        obtained(settings, speech, data, tmp_path)[0] for data in (sounds, dataclasses.replace(sounds, **blind))
    )
    assert one.digest == two.digest
    assert np.array_equal(*(found.model.partners(sounds.train.labels, 3) for found in (one, two)))


@pytest.mark.parametrize(
    ("options", "field", "problem"),
    [
        ({"teacher": AssistantTeacher()}, "teachers.teacher", "by itself"),
        ({"temperature": 0.0}, "teachers.temperature", "not possible"),
        ({"task": MultiLabel()}, "teachers.task.targets", "labels"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, field, problem):
    with pytest.raises(KdnasError, match=problem) as caught:
        PairedTeacher(**{"task": DigitsTask(), **options})
    assert caught.value.field == field
    assert caught.value.remedy


def test_tasks_without_a_class_in_common_are_refused_and_a_mapping_helps(known, tmp_path):
    task = SpeechTask(parquet(tmp_path / "words.parquet", spoken(4)), mels=12, seconds=0.3)
    data = task.load(0)
    with pytest.raises(KdnasError, match="none of the task's classes") as caught:
        build_teacher(PairedTeacher(DigitsTask(), known), data)
    assert caught.value.field == "teachers.mapping"
    model = build_teacher(PairedTeacher(DigitsTask(), known, mapping={"1": "go", 0: "stop"}), data)
    assert model.alignment.sources == ((1,), (0,))
    with pytest.raises(KdnasError, match="no such class"):
        build_teacher(PairedTeacher(DigitsTask(), known, mapping={"1": "gone"}), data)


def test_targets_that_are_no_classes_are_refused(known, sounds):
    with pytest.raises(KdnasError, match="targets are values"):
        build_teacher(PairedTeacher(DigitsTask(), known), sounds, "values")


# As a user writes it

SMALL = {"name": "trained", "stem": 4, "widths": [8, 16], "depths": [1, 1], "epochs": 1, "views": 1}
RECIPES = {"name": "simple", "batch_size": 16, "taps": ["penultimate"], "hint_losses": ["similarity", "shared_space"]}


def configured(speech, **changes):
    paired = {"name": "paired", "task": "digits", "teacher": SMALL, **changes.pop("paired", {})}
    given = {
        "task": {"name": "speech", "path": str(speech.path), "mels": 12, "seconds": 0.3},
        "teachers": [paired],
        "space": "speech",
        "recipes": RECIPES,
        "constraints": {"params": 50000},
    }
    return read({**given, **changes})


def test_configuration_nests_a_task_and_a_teacher_and_is_read_back_as_it_was_written(speech):
    config = configured(speech, paired={"task": {"validation": 0.1}})
    (settings,) = config.teachers
    assert settings.task == DigitsTask(validation=0.1)
    assert settings.teacher.widths == (8, 16)
    resolved = config.resolved()
    assert resolved["teachers"][0]["task"]["name"] == "digits"
    assert resolved["teachers"][0]["teacher"]["name"] == "trained"
    assert read(resolved).teachers == config.teachers


@pytest.mark.parametrize(
    ("paired", "field"),
    [
        ({"task": {"name": "digit"}}, "teachers.task"),
        ({"teacher": {"name": "trained", "width": [8]}}, "teachers.teacher.width"),
        ({"task": {"name": "digits", "validation": "much"}}, "teachers.task.validation"),
        ({"answers": "mean"}, "teachers.answers"),
    ],
)
def test_mistake_inside_is_named_in_full(speech, paired, field):
    with pytest.raises(KdnasError) as caught:
        configured(speech, paired=paired)
    assert caught.value.field == field


def test_plan_knows_the_costs_and_features_of_the_teacher_in_its_own_shape(speech):
    made = plan(configured(speech, labels=0.5))
    inner = build_teacher(made.config.teachers[0].teacher, DigitsTask().load(0))
    assert made.teacher_costs["params"] == sum(part.numel() for part in inner.parameters())
    assert made.teacher_costs["flops"] > 0
    assert made.taps == ("penultimate",)
    assert (made.data.train.labels < 0).mean() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"labels": 0.5, "bank": {"top_k": 2}}, "bank.top_k"),
        ({"labels": 0.5, "objectives": ["val_accuracy", "diswot"]}, "objectives"),
        ({"labels": 0.5, "prefilter": {"judge": "diswot"}}, "prefilter.judge"),
        ({"paired": {"task": {"name": "images", "path": "/nowhere"}}}, "teachers.0.task.path"),
        ({"paired": {"teacher": {"name": "folder", "path": "/nowhere"}}}, "teachers.0.teacher.path"),
    ],
)
def test_search_that_cannot_work_is_refused_before_it_begins(speech, changes, field):
    with pytest.raises(KdnasError) as caught:
        plan(configured(speech, **changes))
    assert caught.value.field == field


def test_taps_that_the_other_network_lacks_are_refused(speech):
    with pytest.raises(KdnasError, match="no such tap"):
        plan(configured(speech, recipes={**RECIPES, "taps": ["stage3"]}))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_paired_when_seed_cannot_be_then_is_refused(seed):
    with pytest.raises(KdnasError) as refused:
        PairedTeacher(DigitsTask(), seed=seed)
    assert (refused.value.field, refused.value.value) == ("teachers.seed", seed)
