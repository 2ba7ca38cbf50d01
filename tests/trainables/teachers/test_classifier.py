"""Is a classifier trained on the right crops, and does it answer for every place as it answers for a crop?"""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shapes import CLASSES, parquet, pictures

from search_spaces import KdnasError, ResNetSpace, ViTSpace, sample
from trainables.alignment import UNKNOWN, speaks
from trainables.losses import LOSSES, Answer
from trainables.model_files import save_student
from trainables.tasks import DetectionTask, DigitsTask
from trainables.tasks.base import Split, keep_labels, known
from trainables.teachers import ClassifierTeacher, TrainedTeacher, build_teacher, obtain
from trainables.teachers.classifier import BACKGROUND, CENTRAL

SMALL = {"stem": 8, "widths": (8, 12, 16), "depths": (1, 1, 1), "epochs": 3, "crops": 240, "window": 24, "views": 1}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = parquet(tmp_path_factory.mktemp("shapes") / "shapes.parquet", pictures(24))
    return DetectionTask(Path(path), classes=CLASSES, size=(64, 64), validation=0.2)


@pytest.fixture(scope="module")
def data(task):
    return task.load(0)


@pytest.fixture(scope="module")
def taught(task, data, tmp_path_factory):
    said: list[str] = []
    cache = tmp_path_factory.mktemp("cache")
    teacher = obtain(ClassifierTeacher(**SMALL), data, task, seed=0, cache=cache, say=said.append)
    again = obtain(ClassifierTeacher(**SMALL), data, task, seed=0, cache=cache, say=lambda line: None)
    return teacher, again, said


def saved(folder: Path, space, classes: tuple[str, ...], shape=(3, 24, 24)) -> Path:
    architecture = sample(space, random.Random(0))
    torch.manual_seed(0)
    meta = {
        "space": {"name": type(space).__name__.removesuffix("Space").lower().replace("vit", "vit_tiny")},
        "architecture": architecture.to_json(),
        "shape": list(shape),
        "classes": list(classes),
        "mean": [0.5] * shape[0],
        "std": [0.25] * shape[0],
    }
    save_student(folder, space.build(architecture, shape, len(classes)), meta)
    return folder


def test_crops_show_each_class_alike_often_and_as_often_no_object_in_their_middle(data):
    crops = ClassifierTeacher(**SMALL).cut(data, seed=0)
    assert crops.classes == (*CLASSES, BACKGROUND)
    assert crops.shape == (3, 24, 24)
    assert np.bincount(crops.train.labels).tolist() == [60, 60, 120]
    assert len(crops.test) == 0
    middle = crops.train.images[:, :, 11:13, 11:13].astype(int).mean(axis=(2, 3))
    for kind, colour in ((0, 0), (1, 2)):
        assert (middle[crops.train.labels == kind][:, colour] > 150).mean() > 0.95
    assert 0 < CENTRAL < 1
    again = ClassifierTeacher(**SMALL).cut(data, seed=0)
    assert again.digest() == crops.digest()
    assert ClassifierTeacher(**SMALL).cut(data, seed=1).digest() != crops.digest()


def test_crops_never_show_the_test_split(data):
    changed = replace(data, test=replace(data.test, images=255 - data.test.images))
    assert ClassifierTeacher(**SMALL).cut(changed, 0).digest() == ClassifierTeacher(**SMALL).cut(data, 0).digest()


def test_boxes_that_leave_no_place_are_refused(data):
    full = np.full((len(data.train), 1, 5), np.float32([0, -1000, -1000, 1000, 1000]))
    with pytest.raises(KdnasError, match="no place without an object"):
        ClassifierTeacher(**SMALL).cut(replace(data, train=replace(data.train, labels=full)), 0)


def test_trained_teacher_is_kept_and_its_accuracy_is_that_on_crops(taught):
    teacher, again, said = taught
    assert again.digest == teacher.digest
    assert teacher.val_accuracy > 0.7
    assert any(f"validation accuracy {teacher.val_accuracy:.4f} on 60 crops" in line for line in said)
    assert not speaks(teacher.model)  # no detector's metric can score it
    assert not teacher.meta


def test_class_map_finds_the_objects_of_images_that_were_not_trained_on(taught, data):
    model = taught[0].model
    images = torch.from_numpy(data.test.images)
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (data.mean, data.std))
    with torch.inference_mode():
        answer, seen = model.forward_taps((images / 255 - mean) / std, model.taps)
    assert seen["class_map"].shape == (len(images), 2, 16, 16)
    assert answer.shape == (len(images), 2)
    right = []
    for maps, labels in zip(seen["class_map"], data.test.labels, strict=True):
        for kind, x0, y0, x1, y1 in labels[labels[:, 0] >= 0]:
            x, y = int((x0 + x1) / 8), int((y0 + y1) / 8)
            right.append(int(maps[:, y, x].argmax()) == kind and bool(maps[int(kind), y, x] > 0))
    assert np.mean(right) > 0.8


def test_answer_for_a_place_is_the_classifiers_own_answer_for_a_crop_around_it(taught, data):
    dense = taught[0].model
    crop = torch.rand(2, 3, 24, 24)
    logits = dense.model(torch.addcmul(dense.shift, crop, dense.scale))
    _, seen = dense.forward_taps(crop, ("stage3", "class_map"))
    middle = F.conv2d(seen["stage3"], dense.model.classifier.weight[:, :, None, None], dense.model.classifier.bias)
    torch.testing.assert_close(middle[:, :, 2:4, 2:4].mean(dim=(2, 3)), logits)
    odds = middle[:, 0] - middle[:, [1, 2]].logsumexp(dim=1)
    torch.testing.assert_close(seen["class_map"][:, 0], odds)


def test_foreign_classifier_is_matched_by_name_or_mapping_and_normalises_as_it_learned(tmp_path, data):
    folder = saved(tmp_path / "other", ResNetSpace(), ("square", "coin", "nothing"))
    model = build_teacher(ClassifierTeacher(path=folder), data, "boxes")
    _, seen = model.forward_taps(torch.rand(2, 3, 64, 64), ("class_map",))
    assert (seen["class_map"][:, 0] == UNKNOWN).all()
    assert (seen["class_map"][:, 1] > UNKNOWN).all()
    mapped = build_teacher(ClassifierTeacher(path=folder, mapping={"coin": "disc"}), data, "boxes")
    _, seen = mapped.forward_taps(torch.rand(2, 3, 64, 64), ("class_map",))
    assert (seen["class_map"] > UNKNOWN).all()
    images = torch.rand(1, 3, 8, 8)
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (data.mean, data.std))
    torch.testing.assert_close(torch.addcmul(model.shift, (images - mean) / std, model.scale), (images - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("space", "classes", "shape", "match"),
    [
        (ResNetSpace(), ("cat", "dog"), (3, 24, 24), "knows none of the task's classes"),
        (ResNetSpace(), CLASSES, (3, 24, 24), "every class of this classifier is one of the task's"),
        (ResNetSpace(), ("disc", "nothing"), (1, 24, 24), "images of 1 channels"),
        (ViTSpace(), ("disc", "nothing"), (3, 24, 24), "averages maps of any size"),
    ],
)
def test_classifier_that_cannot_teach_a_detector_is_refused(tmp_path, data, space, classes, shape, match):
    folder = saved(tmp_path / "other", space, classes, shape)
    with pytest.raises(KdnasError, match=match):
        build_teacher(ClassifierTeacher(path=folder), data, "boxes")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"window": 4}, "teachers.window"),
        ({"crops": 2}, "teachers.crops"),
        ({"epochs": 0}, "teachers.epochs"),
        ({"mapping": {"a": "b"}}, "teachers.path"),
    ],
)
def test_impossible_option_is_refused(options, field):
    with pytest.raises(KdnasError) as caught:
        ClassifierTeacher(**options)
    assert caught.value.field == field


def test_teachers_of_another_kind_are_refused_for_boxes_and_this_one_elsewhere(task, data, tmp_path):
    with pytest.raises(KdnasError, match="targets of this task are boxes"):
        build_teacher(TrainedTeacher(), data, "boxes")
    with pytest.raises(KdnasError, match="targets of this task are boxes"):
        obtain(TrainedTeacher(), data, task, seed=0, cache=tmp_path, say=print)
    with pytest.raises(KdnasError, match="targets of this task are classes"):
        build_teacher(ClassifierTeacher(), DigitsTask().load(0), "classes")


def maps(*values: float) -> Answer:
    found = torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)
    return Answer(found, found)


def test_loss_on_class_maps_is_the_weighted_divergence_of_each_place():
    s, t = torch.tensor([0.3, -2.0]), torch.tensor([1.2, -1.0])
    p, q = t.sigmoid(), s.sigmoid()
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    expected = ((p - q).abs() * divergence).sum() / max(1.0, p.sum().item())
    value = LOSSES["class_maps"].function(maps(*s.tolist()), maps(*t.tolist()), None, 1.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss_on_class_maps_leaves_out_what_the_teacher_does_not_know():
    loss, other = LOSSES["class_maps"].function, torch.randn(1, 1, 4, 4)
    own, theirs = torch.randn(1, 2, 4, 4, requires_grad=True), torch.full((1, 2, 4, 4), -65_000.0)
    theirs[:, 1:] = other
    loss(Answer(own, own), Answer(theirs, theirs.half().float()), None, 2.0).backward()
    assert own.grad[:, 0].abs().sum() == 0
    assert own.grad[:, 1].abs().sum() > 0


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (3, 5)])
def test_loss_on_class_maps_aligns_the_teachers_map_with_the_students_grid(size):
    own = torch.full((1, 1, 4, 4), 0.5)
    theirs = torch.full((1, 1, *size), 0.5)
    assert LOSSES["class_maps"].function(Answer(own, own), Answer(theirs, theirs), None, 1.0).item() == pytest.approx(0)


def test_crops_are_cut_from_images_whose_boxes_are_known(data):
    some = replace(data, train=keep_labels(data.train, 0.3, data.classes, 0))
    there = known(some.train.labels)
    alone = replace(some, train=Split(some.train.images[there], some.train.labels[there]))
    teacher = ClassifierTeacher(**SMALL)
    assert np.array_equal(teacher.cut(some, seed=0).train.images, teacher.cut(alone, seed=0).train.images)


def test_a_class_called_background_is_a_class_like_any_other(data):
    named = replace(data, classes=(BACKGROUND, "disc"))
    assert ClassifierTeacher(**SMALL).cut(named, seed=0).classes == (BACKGROUND, "disc", f"no {BACKGROUND}")
    assert ClassifierTeacher(**SMALL).untrained(named).alignment.speaks
