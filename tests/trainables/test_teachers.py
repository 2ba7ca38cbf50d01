"""Specification of `trainables.teachers`."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from search_spaces import KdnasError
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import teachers
from trainables.loop import evaluate
from trainables.tasks import DigitsTask
from trainables.teachers import (
    TEACHERS,
    AssistantTeacher,
    FolderTeacher,
    ModuleTeacher,
    TrainedTeacher,
    build_teacher,
    check_taps,
    obtain,
    read_teacher,
    save_teacher,
)
from trainables.teachers.base import weights_digest

SHAPE = (1, 8, 8)
OWN_CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10, scale=1.0):
        super().__init__()
        self.conv, self.head, self.scale = nn.Conv2d(1, 4, 3), nn.Linear(4, classes), scale
    def forward(self, x):
        return self.scale * self.head(self.conv(x).mean(dim=(2, 3)))

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Fussy(Net):
    def forward(self, x):
        assert x.shape[1] == 3, "colour only"

class Squeezed(Net):
    def forward(self, x):
        return super().forward(x).squeeze()

def net():
    torch.manual_seed(0)
    return Net()

def scaled():
    torch.manual_seed(0)
    return Net(scale=2.0)

def half(): return net().to(torch.bfloat16)
def three(): return Net(3)
def pair(): return Pair()
def fussy(): return Fussy()
def number(): return 3
def needs(argument): return Net()
def breaks(): return {}["no such key"]
def quits(): raise SystemExit(3)
def squeezes(): return Squeezed()
def weightless(): return nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten())
"""


def quiet(line: str) -> None:
    pass


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Import path of a user's functions, in a folder from which the user works."""
    name = f"own_{os.getpid()}_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield lambda function, **options: ModuleTeacher(f"{name}:{function}", **options)
    sys.modules.pop(name, None)


@pytest.fixture
def get(data, task, tmp_path):
    """The teacher for these settings, and what was said."""

    def get(settings, *, seed=0, data=data, task=task):
        said: list[str] = []
        return obtain(settings, data, task, seed=seed, cache=tmp_path / "cache", say=said.append), said

    return get


@pytest.fixture
def folder(tmp_path, teacher):
    save_teacher(tmp_path / "saved", teacher)
    return tmp_path / "saved"


def shaped(data, shape):
    """The data with black images of another shape."""
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    parts = {
        name: dataclasses.replace(split, images=np.zeros((len(split), *shape), np.uint8))
        for name, split in splits.items()
    }
    return dataclasses.replace(data, **parts, mean=(0.5,) * shape[0], std=(1.0,) * shape[0])


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refused(settings, get) -> KdnasError:
    with pytest.raises(KdnasError) as caught:
        get(settings)
    assert caught.value.remedy
    return caught.value


def test_trained_teacher_learns_and_says_how_far_it_is(tiny, data, task, normalise):
    said = []
    teacher = teachers.train_teacher(tiny, data, task, seed=0, say=said.append)
    _, accuracy = evaluate(teacher.model, data.validation, task, normalise)
    assert teacher.val_accuracy == accuracy > 0.4
    assert [point["epoch"] for point in teacher.curve] == [1, 2, 3]
    assert not teacher.model.training
    assert [line.split(",")[0] for line in said] == [f"Training the teacher: epoch {n}/3" for n in (1, 2, 3)]
    assert said[-1].endswith(f"{accuracy:.4f}")


def test_trained_teacher_repeats_with_the_seed_and_differs_without(tiny, data, task, teacher):
    again, other = (teachers.train_teacher(tiny, data, task, seed=seed, say=quiet) for seed in (0, 1))
    assert again.digest == teacher.digest
    assert again.curve == teacher.curve
    assert other.digest != teacher.digest


def test_trained_teacher_when_interrupted_goes_on_from_its_last_epoch(tiny, data, task, teacher, tmp_path):
    checkpoint = tmp_path / "new" / "teacher.pt"

    def interrupt(line: str) -> None:
        if "epoch 2/3" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teachers.train_teacher(tiny, data, task, seed=0, say=interrupt, checkpoint=checkpoint)
    said: list[str] = []
    again = teachers.train_teacher(tiny, data, task, seed=0, say=said.append, checkpoint=checkpoint)
    assert said[0] == "Training the teacher: going on after epoch 2"
    assert len(said) == 2
    assert again.digest == teacher.digest
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert teachers.train_teacher(tiny, data, task, seed=0, say=quiet, checkpoint=checkpoint).digest == teacher.digest


def test_obtain_leaves_no_checkpoint_and_goes_on_when_the_cache_cannot_be_written(tiny, get, tmp_path, monkeypatch):
    get(tiny)
    assert [path.name for path in (tmp_path / "cache" / "teachers").glob("*.pt")] == []
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("trainables.teachers.obtaining.save_teacher", lambda *_: (_ for _ in ()).throw(full))
    monkeypatch.setattr("trainables.teachers.trained.save_training", lambda *_: (_ for _ in ()).throw(full))
    teacher, said = get(tiny, seed=1)
    assert teacher.val_accuracy > 0.3
    assert sum("No space left on device" in line for line in said) == 2


def test_trained_teacher_leaves_threads_and_random_numbers_alone(tiny, data, task):
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    teachers.train_teacher(dataclasses.replace(tiny, epochs=1), data, task, seed=0, say=quiet)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_trained_teacher_names_the_learning_rate_when_it_diverges(tiny, get):
    error = refused(dataclasses.replace(tiny, learning_rate=100.0, weight_decay=1.0), get)
    assert (error.field, error.value) == ("teachers.learning_rate", 100.0)


def test_obtain_takes_the_teacher_from_the_cache_when_it_was_trained_before(tiny, get):
    first, said = get(tiny)
    assert len(said) == 3
    second, said = get(tiny)
    assert said == []
    assert same(first.model, second.model)
    assert not second.model.training
    kept = ("name", "digest", "val_accuracy", "curve", "meta")
    assert all(getattr(first, name) == getattr(second, name) for name in kept)


def test_obtain_trains_another_teacher_when_anything_about_it_changes(tiny, get, data, tmp_path):
    quick = dataclasses.replace(tiny, epochs=1)
    darker = dataclasses.replace(data, train=dataclasses.replace(data.train, images=data.train.images // 2))
    get(quick)
    get(dataclasses.replace(quick, learning_rate=0.05))
    get(quick, seed=1)
    get(quick, data=darker)
    get(quick, task=DigitsTask(augmentation=dataclasses.replace(DigitsTask().augmentation, shift=2)))
    assert len(list((tmp_path / "cache" / "teachers").iterdir())) == 5


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-50])),
        ("weights.safetensors", _flip),
        ("weights.safetensors", lambda path: path.unlink()),
        ("model.json", lambda path: path.write_text("{")),
        ("model.json", lambda path: path.unlink()),
        ("teacher.json", lambda path: path.write_text("")),
        ("teacher.json", lambda path: path.write_text("{}")),
        ("teacher.json", lambda path: path.write_text("[]")),
    ],
)
def test_obtain_trains_again_and_says_so_when_the_cached_files_are_damaged(tiny, get, tmp_path, name, damage):
    quick = dataclasses.replace(tiny, epochs=1)
    first, _ = get(quick)
    (cached,) = (tmp_path / "cache" / "teachers").iterdir()
    damage(cached / name)
    with pytest.raises(KdnasError):
        read_teacher(cached)
    second, said = get(quick)
    assert said[0].startswith("The cached teacher cannot be used (")
    assert second.digest == first.digest
    assert get(quick)[1] == []


def test_teacher_in_a_folder_answers_like_the_one_that_was_saved(folder, teacher, get):
    found, said = get(FolderTeacher(str(folder)))
    assert said == []
    assert same(found.model, teacher.model)
    assert (found.name, found.digest, found.meta) == (str(folder), teacher.digest, teacher.meta)
    assert found.val_accuracy == teacher.val_accuracy


def test_read_teacher_gives_back_what_was_saved(folder, teacher):
    found = read_teacher(folder)
    assert same(found.model, teacher.model)
    assert dataclasses.replace(found, model=teacher.model) == teacher


def test_read_teacher_raises_when_there_is_none(tmp_path):
    with pytest.raises(KdnasError, match="no usable model here"):
        read_teacher(tmp_path / "nothing")


def test_teacher_in_a_folder_is_refused_when_it_was_trained_on_other_images(folder, data, task, tmp_path):
    with pytest.raises(KdnasError, match=r"trained on inputs \(1, 8, 8\), the task's are \(3, 9, 9\)") as caught:
        build_teacher(FolderTeacher(str(folder)), shaped(data, (3, 9, 9)))
    assert caught.value.field == "teachers.path"


@pytest.mark.parametrize("change", ["classes", "path"])
def test_teacher_in_a_folder_is_refused_when_it_does_not_fit(folder, data, change):
    if change == "classes":
        with pytest.raises(KdnasError, match="the teacher has no such class") as caught:
            build_teacher(FolderTeacher(str(folder), mapping={"ten": "0"}), data)
        assert caught.value.field == "teachers.mapping"
    else:
        with pytest.raises(KdnasError, match="no usable model here"):
            build_teacher(FolderTeacher(str(folder / "nothing")), data)


def test_own_module_answers_and_is_tapped_where_the_user_says(own, get, data):
    settings = own("net", taps={"stage2": "conv"})
    teacher, _ = get(settings)
    images = torch.rand(2, 1, 8, 8)
    logits, seen = teacher.model.forward_taps(images, ("stage2",))
    torch.testing.assert_close(logits, teacher.model(images))
    torch.testing.assert_close(seen["stage2"], teacher.model.module.conv(images))
    assert check_taps(teacher.model, SHAPE, ["stage2", "logits"]) == {"stage2": (4, 6, 6), "logits": (10,)}
    assert (teacher.name, teacher.meta, teacher.curve) == (settings.factory, {}, [])


def test_own_module_keeps_its_own_taps_when_the_user_names_none(data, tmp_path, monkeypatch):
    module = "own_tapped"
    code = "from search_spaces.resnet import *\n"
    code += "def make(): return build_resnet(resnet_architecture(4, (4,), (1,)), (1, 8, 8), 10)\n"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = build_teacher(ModuleTeacher(f"{module}:make"), data)
    assert model.taps == ("stage1", "penultimate", "logits")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_own_module_loads_its_weights(own, get, tmp_path, suffix):
    wanted = {"conv.weight": torch.rand(4, 1, 3, 3), "conv.bias": torch.rand(4)}
    wanted |= {"head.weight": torch.rand(10, 4), "head.bias": torch.rand(10)}
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(wanted, path) if suffix == ".safetensors" else torch.save(wanted, path)
    teacher, _ = get(own("net", weights=str(path)))
    assert all(torch.equal(teacher.model.module.state_dict()[name], value) for name, value in wanted.items())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("run_by_the_weights",)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("w.pt", lambda path: torch.save({"conv.weight": torch.rand(4, 1, 3, 3)}, path)),
        ("w.pt", lambda path: torch.save({"conv.weight": Evil()}, path)),
        ("w.pt", lambda path: torch.save([1, 2], path)),
        ("w.pt", lambda path: path.write_bytes(b"")),
        ("w.pt", lambda path: path.write_bytes(b"not weights at all")),
        ("w.safetensors", lambda path: path.write_bytes(b"not weights at all")),
        ("w.safetensors", lambda path: safetensors.torch.save_file({"conv.weight": torch.rand(2)}, path)),
        ("w.onnx", lambda path: path.write_bytes(b"")),
        ("w.pt", lambda path: None),
    ],
    ids=["incomplete", "code", "list", "empty", "noise", "noise-safe", "shape", "suffix", "missing"],
)
def test_own_module_is_refused_when_its_weights_cannot_be_loaded(own, get, tmp_path, name, write):
    write(tmp_path / name)
    error = refused(own("net", weights=str(tmp_path / name)), get)
    assert (error.field, error.value) == ("teachers.weights", str(tmp_path / name))
    assert not (tmp_path / "run_by_the_weights").exists()


@pytest.mark.parametrize(
    ("factory", "problem"),
    [
        ("no.such.package:net", "No module named"),
        ("nocolon", "No module named"),
        ("", "Empty module name"),
        ("{own}:nothing", "nothing"),
        ("{own}:number", "returned a int, not an nn.Module"),
        ("{own}:needs", "argument"),
        ("{own}:breaks", "KeyError: 'no such key'"),
        ("{own}:fussy", "colour only"),
        ("{own}:quits", "SystemExit: 3"),
        ("{own}:squeezes", r"inputs of shape \(1, 1, 8, 8\) with shape \(10,\)"),
        ("{own}:pair", r"answers inputs of shape \(2, 1, 8, 8\) with a tuple"),
        ("{own}:three", "answers with 3 logits, the task has 10 classes"),
    ],
)
def test_own_module_is_refused_with_the_reason_when_it_is_none(own, get, factory, problem):
    module = own("net").factory.partition(":")[0]
    error = refused(ModuleTeacher(factory.replace("{own}", module)), get)
    assert error.field.startswith("teachers")
    with pytest.raises(KdnasError, match=problem):
        raise error


def test_own_module_without_parameters_teaches_too(own, get):
    teacher, _ = get(own("weightless"))
    assert 0 <= teacher.val_accuracy <= 1


def test_own_module_is_refused_when_a_tap_names_no_submodule(own, get):
    assert refused(own("net", taps={"stage2": "layer9"}), get).field == "taps.stage2"


def test_digest_of_an_own_module_repeats_and_changes_with_its_taps_and_its_code(own, get):
    plain = get(own("net"))[0].digest
    assert get(own("net"))[0].digest == plain
    tapped = {get(own("net", taps={"stage2": path}))[0].digest for path in ("conv", "head")}
    scaled = get(own("scaled"))[0].digest  # the same weights, another forward
    assert len({plain, scaled, *tapped}) == 4


def test_own_module_in_bfloat16_has_a_digest(own, data):
    model = build_teacher(own("net"), data)
    assert weights_digest(model) != weights_digest(model.to(torch.bfloat16))


def test_build_teacher_of_a_teacher_to_be_trained_has_its_network(tiny, data):
    model = build_teacher(tiny, data)
    expected = build_resnet(resnet_architecture(8, (8, 16), (1, 1)), SHAPE, 10)
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (model, expected)]
    assert shapes[0] == shapes[1]


def test_check_taps_lists_the_known_ones_when_one_is_missing(teacher):
    with pytest.raises(KdnasError, match=r"recipes\.taps = 'stage3'") as caught:
        check_taps(teacher.model, SHAPE, ["stage1", "stage3"])
    assert "its taps: stage1, stage2, penultimate, logits" in caught.value.remedy
    assert check_taps(nn.Linear(2, 2), SHAPE, []) == {}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stem": 0}, "teachers.stem"),
        ({"widths": (8, 0, 8)}, "teachers.widths"),
        ({"depths": (1, 1, -1)}, "teachers.depths"),
        ({"depths": (1, 1)}, "teachers.depths"),
        ({"widths": (), "depths": ()}, "teachers.depths"),
        ({"epochs": 0}, "teachers.epochs"),
        ({"views": 0}, "teachers.views"),
        ({"learning_rate": 0.0}, "teachers.learning_rate"),
        ({"weight_decay": -1.0}, "teachers.weight_decay"),
        ({"batch_size": 1}, "teachers.batch_size"),
        ({"stop_epoch": 0}, "teachers.stop_epoch"),
        ({"stop_epoch": 6, "epochs": 5}, "teachers.stop_epoch"),
    ],
)
def test_trained_teacher_refuses_impossible_options_with_the_field(options, field):
    with pytest.raises(KdnasError) as caught:
        TrainedTeacher(**options)
    assert caught.value.field == field


@pytest.mark.parametrize(("field", "value"), [("alpha", 1.1), ("temperature", 0.0), ("stem", 0), ("stop_epoch", 99)])
def test_assistant_refuses_impossible_options_with_the_field(field, value):
    with pytest.raises(KdnasError) as caught:
        AssistantTeacher(**{field: value})
    assert (caught.value.field, caught.value.value) == (f"teachers.{field}", value)
    assert caught.value.remedy


def test_teacher_stopped_early_is_the_whole_training_cut_short(tiny, get, teacher):
    stopped, said = get(dataclasses.replace(tiny, stop_epoch=2))
    assert stopped.curve == teacher.curve[:2]
    assert stopped.val_accuracy == teacher.curve[1]["val_accuracy"]
    assert [line.split(",")[0] for line in said] == [f"Training the teacher: epoch {n}/2" for n in (1, 2)]
    shorter, _ = get(dataclasses.replace(tiny, epochs=2))  # another schedule, and another teacher in the cache
    assert shorter.curve[1] != stopped.curve[1]


def test_assistant_learns_from_the_teacher_before_it(data, task, teacher, tiny):
    def taught(**options):
        settings = AssistantTeacher(4, (4, 8), (1, 1), epochs=2, batch_size=32, views=2, **options)
        return teachers.train_teacher(settings, data, task, seed=0, say=quiet, previous=teacher)

    plain = dataclasses.replace(tiny, stem=4, widths=(4, 8), epochs=2)
    alone = teachers.train_teacher(plain, data, task, seed=0, say=quiet)
    assert taught(alpha=0.0).curve == alone.curve
    assert taught(alpha=0.9).curve != alone.curve
    assert taught(alpha=0.9).curve != taught(alpha=0.9, temperature=1.0).curve


def test_assistant_is_kept_and_read_like_a_trained_one_for_each_teacher_of_its_own(data, task, teacher, tmp_path):
    settings, said = AssistantTeacher(4, (4,), (1,), epochs=2, batch_size=32, views=2), []

    def get(previous):
        said.clear()
        return obtain(settings, data, task, seed=0, cache=tmp_path, say=said.append, previous=previous)

    first = get(teacher)
    assert [line.split(",")[0] for line in said] == [f"Training the assistant: epoch {n}/2" for n in (1, 2)]
    again = get(teacher)
    assert said == []
    assert (again.name, again.digest, again.meta) == ("assistant", first.digest, first.meta)
    get(dataclasses.replace(teacher, digest="another"))
    assert len(said) == 2
    save_teacher(tmp_path / "saved", first)
    assert same(build_teacher(FolderTeacher(tmp_path / "saved"), data), first.model)
    with pytest.raises(KdnasError, match="there is none") as caught:
        get(None)
    assert caught.value.field == "teachers.0"


def test_every_teacher_documents_its_options():
    for entry in TEACHERS.values():
        assert all(f"{field.name}: " in entry.__doc__ for field in dataclasses.fields(entry))


def test_saved_teacher_says_its_accuracy_and_curve_in_plain_json(folder, teacher):
    facts = json.loads((folder / "teacher.json").read_text())
    assert facts["val_accuracy"] == teacher.val_accuracy
    assert np.allclose([point["val_loss"] for point in facts["curve"]], [p["val_loss"] for p in teacher.curve])
