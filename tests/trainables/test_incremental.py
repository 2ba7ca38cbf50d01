"""Specification of `trainables.incremental`: a candidate along a stream of digits, without a Ray cluster."""

import dataclasses

import numpy as np
import pytest
import torch

from search_spaces import ResNetSpace, decode
from trainables import bank as banks
from trainables.candidate import Candidate
from trainables.distill import CHECKPOINT, Shared
from trainables.incremental import Course, StreamTrial, learn_all, read_taps
from trainables.loop import start
from trainables.model_files import restore_training, save_training
from trainables.recipe import Recipe, Term
from trainables.stream import Earlier, Stream, accuracy_matrix, measures
from trainables.tasks.base import Split
from trainables.terms import distilled

SPACE = ResNetSpace(stages=2, stem_widths=(4,), widths=(8,), depths=(1, 2), kernels=(3,), blocks=("basic",))
PARAMS: dict = {"stem.width": 4}
for _stage in (1, 2):
    PARAMS |= {f"stage{_stage}.depth": 2, f"stage{_stage}.width": 8, f"stage{_stage}.kernel": 3}
    PARAMS |= {f"stage{_stage}.block": "basic"}
RECIPE = Recipe(
    alpha=0.5, terms=(Term("kd"), Term("attention", tap="stage2")), batch_size=32, weight_alignment=True, grow=True
)
CANDIDATE = Candidate("c0000", decode(SPACE, PARAMS), RECIPE, seed=3)
STREAM = Stream((4, 3, 3), memory=40)
EPOCHS = 6  # two a group


@pytest.fixture
def shared(data, task, tmp_path):
    return Shared(
        bank=banks.without_teacher(data.train, augmentation=task.augmentation, views=2, seed=0),
        validation=data.validation,
        task=task,
        space=SPACE,
        mean=data.mean,
        std=data.std,
        classes=10,
        rungs=(2, 6),
        checkpoints=str(tmp_path / "trials"),
        stream=STREAM,
    )


@pytest.fixture
def learned(shared):
    course = Course(shared, CANDIDATE, EPOCHS)
    for _ in STREAM.groups:
        course.learn_group()
    return course


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_course_when_all_groups_came_then_its_curve_tells_how_much_is_remembered(learned, data):
    curve = learned.curve
    assert [point["epoch"] for point in curve] == [1, 2, 3, 4, 5, 6]
    matrix = accuracy_matrix(curve)
    assert [len(row) for row in matrix] == [1, 2, 3]
    assert curve[-1]["val_accuracy"] == pytest.approx(np.mean(matrix[-1]))
    assert {name: curve[-1][name] for name in measures(matrix)} == pytest.approx(measures(matrix))
    assert learned.accuracies(data.validation) == pytest.approx(matrix[-1])
    assert learned.train_s > 0


def test_memory_when_groups_come_then_keeps_its_size_and_the_best_of_each_class(shared):
    course = Course(shared, CANDIDATE, EPOCHS)
    course.learn_group()
    first = [rows.tolist() for rows in course.exemplars]
    assert [len(rows) for rows in first] == [10, 10, 10, 10]
    course.learn_group()
    assert [len(rows) for rows in course.exemplars] == [5] * 7
    assert [rows.tolist() for rows in course.exemplars[:4]] == [rows[:5] for rows in first]
    for label, rows in enumerate(course.exemplars):
        assert (shared.bank.labels[rows] == label).all()


def test_training_samples_when_there_is_no_memory_then_are_the_groups_own(shared):
    course = Course(dataclasses.replace(shared, stream=Stream((4, 3, 3))), CANDIDATE, EPOCHS)
    course.learn_group()
    assert course.exemplars == []
    assert set(course._samples(1).labels) == {4, 5, 6}


def test_classes_when_they_have_not_come_then_their_outputs_are_trained_by_nothing(shared):
    plain = dataclasses.replace(CANDIDATE, recipe=dataclasses.replace(RECIPE, weight_decay=0.0))
    course = Course(shared, plain, EPOCHS)
    before = course.model.classifier.weight[7:].clone()
    course.learn_group()
    course.learn_group()
    torch.testing.assert_close(course.model.classifier.weight[7:], before, rtol=0, atol=0)


def test_distillation_when_classes_are_new_then_moves_earlier_outputs_alone(shared, data):
    course = Course(shared, CANDIDATE, EPOCHS)
    teacher = Earlier(course.model, 4).eval()
    new = data.train.labels >= 4
    bank = banks.build(
        Split(data.train.images[new], data.train.labels[new]), [teacher], course.normalise,
        augmentation=shared.bank.augmentation, views=1, seed=0,
    )  # fmt: skip
    recipe = Recipe(alpha=1.0, terms=(Term("kd"), Term("dkd")))  # dkd reads the label: the teacher knows none of these
    training = start(course.model, recipe, bank, seed=0, total_epochs=1)
    batch = bank.batch(np.arange(16), 0, bank.transforms(0)).guessed()
    assert batch.labels.max() < 4
    logits = torch.randn(16, 10, requires_grad=True)
    soft = distilled(
        logits.sum() * 0, logits[:, :4], {}, batch, recipe, training.reads, training.projectors, progress=0.0, size=1.0
    )
    torch.stack(soft).sum().backward()
    assert (logits.grad[:, :4].abs().sum(dim=1) > 0).all()
    assert (logits.grad[:, 4:] == 0).all()


def test_recipe_when_without_teacher_then_still_remembers_aligns_and_grows():
    alone = RECIPE.without_teacher()
    assert alone.terms == ()
    assert alone.weight_alignment
    assert alone.grow


def test_network_when_it_grows_then_ends_at_the_size_of_the_architecture(shared):
    course = Course(shared, CANDIDATE, EPOCHS)
    sizes = []
    for _ in STREAM.groups:
        course.learn_group()
        sizes.append(sum(part.numel() for part in course.model.parameters()))
    fixed = Course(shared, dataclasses.replace(CANDIDATE, recipe=dataclasses.replace(RECIPE, grow=False)), EPOCHS)
    assert sizes[0] < sizes[1] < sizes[2] == sum(part.numel() for part in fixed.model.parameters())


def test_course_when_taken_up_after_a_group_then_ends_as_if_it_had_never_stopped(shared, learned, tmp_path):
    broken = Course(shared, CANDIDATE, EPOCHS)
    broken.learn_group()
    broken.learn_group()
    save_training(tmp_path / CHECKPOINT, broken)
    again = Course(shared, CANDIDATE, EPOCHS)
    assert restore_training(tmp_path / CHECKPOINT, again)
    assert again.groups == 2
    again.learn_group()
    assert same(again.model, learned.model)
    assert again.curve == learned.curve


def test_course_when_its_checkpoint_is_cut_then_begins_anew(shared, tmp_path):
    course = Course(shared, CANDIDATE, EPOCHS)
    course.learn_group()
    save_training(tmp_path / CHECKPOINT, course)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:200])
    again = Course(shared, CANDIDATE, EPOCHS)
    assert not restore_training(tmp_path / CHECKPOINT, again)
    assert again.groups == 0
    again.learn_group()
    assert same(again.model, course.model)


class Local(StreamTrial):
    """As Ray Tune would open it."""

    def setup(self, config, shared=None):
        super().setup(config, config["shared"])


def test_trial_when_interrupted_within_a_step_then_goes_on_after_the_last_group(shared, learned, monkeypatch):
    trial = Local({"candidate": CANDIDATE.to_json(), "shared": shared})
    assert trial.step()["epoch"] == 2
    stopped = Course.learn_group
    monkeypatch.setattr(
        Course, "learn_group", lambda self: stopped(self) if self.groups < 2 else (_ for _ in ()).throw(SystemExit)
    )
    with pytest.raises(SystemExit):
        trial.step()
    trial.stop()
    monkeypatch.undo()
    again = Local({"candidate": CANDIDATE.to_json(), "shared": shared, "reported": 2})
    result = again.step()
    again.stop()
    assert result["done"]
    assert result["val_accuracy"] == learned.curve[-1]["val_accuracy"]
    assert result["curve"] == learned.curve


def test_finalist_when_trained_along_the_stream_then_has_the_matrix_of_the_test_split(shared, learned, data):
    course, scores = learn_all(shared, CANDIDATE, EPOCHS, data.validation)
    assert scores["test_matrix"] == accuracy_matrix(learned.curve)
    assert scores["test_accuracy"] == pytest.approx(learned.curve[-1]["val_accuracy"])
    assert scores["test_forgetting"] == pytest.approx(learned.curve[-1]["forgetting"])
    assert course.groups == 3


@pytest.mark.parametrize(
    ("terms", "taps"),
    [
        ((Term("kd"),), ()),
        ((Term("kd"), Term("hint", tap="stage2")), ("stage2",)),
        ((Term("kd"), Term("review")), ("stage1", "stage2", "penultimate")),
        ((Term("hint", tap="stage1", match="depth"),), ("stage1", "stage2", "penultimate")),
    ],
)
def test_taps_when_the_recipe_reads_features_then_are_those_of_the_earlier_self(terms, taps):
    assert read_taps(Recipe(terms=terms), (*SPACE.taps(),)) == taps
