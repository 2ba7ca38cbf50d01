"""Specification of `kdnas_ray.prepare`: what cannot work is refused before any work starts."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdnas_ray.config import read
from kdnas_ray.prepare import check_folder, check_space, free_folder, knowledge, needed_bytes, plan
from search_spaces import Architecture, KdnasError
from trainables.teachers import save_teacher

# A teacher and a space that cost next to nothing.
SMALL: dict[str, Any] = {
    "teachers": [{"stem": 4, "widths": [4, 6], "depths": [1, 1], "epochs": 1, "views": 2}],
    "space": {"stages": 2, "stem_widths": [2], "widths": [2, 3], "depths": [1], "kernels": [3], "blocks": ["basic"]},
    "recipes": {"hints": [False]},
    "bank": {"views": 2},
    "constraints": {},
}
ONLY = Architecture.of(
    {"stem.width": 2}
    | {f"stage{stage}.{trait}": value for stage in (1, 2)
       for trait, value in (("depth", 1), ("width", 2), ("kernel", 3), ("block", "basic"))}
)  # fmt: skip


HEADLESS = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.pool(x))

def net():
    return Net()
"""


def planned(*overrides: str):
    return plan(read(SMALL, overrides))


def refusal(*overrides: str) -> KdnasError:
    with pytest.raises(KdnasError) as caught:
        planned(*overrides)
    assert caught.value.exit_code == 2
    return caught.value


def resnet_params(stem: int, widths: list[int]) -> int:
    """Parameters of basic residual stages of one block on one channel with ten classes, by hand."""
    total, width = 9 * stem + 2 * stem, stem
    for stage, out in enumerate(widths):
        shortcut = width * out + 2 * out if stage or width != out else 0
        total += 9 * width * out + 9 * out * out + 4 * out + shortcut
        width = out
    return total + width * 10 + 10


def test_plan_when_possible_then_knows_costs_bounds_and_taps():
    hints = ("recipes.hints=[true]", "recipes.taps=[stage2]")
    made = planned("constraints.params.of_teacher=0.9", "constraints.flops=1000000", *hints)
    teacher = resnet_params(4, [4, 6])
    assert made.teacher_costs["params"] == teacher
    assert made.bounds == {"params": pytest.approx(0.9 * teacher), "flops": 1_000_000}
    assert made.taps == ("stage2",)
    assert made.costs(ONLY)["params"] == resnet_params(2, [2, 2])
    assert made.data.shape == (1, 8, 8)


def test_constraint_when_no_student_can_keep_it_then_names_the_closest_miss():
    error = refusal("constraints.params=100")
    assert error.field == "constraints"
    smallest = resnet_params(2, [2, 2])
    assert error.problem.endswith(f"the closest: params {smallest} (at most 100)")
    assert error.value == {"params": 100}
    assert "loosen the constraint" in error.remedy


def test_constraint_when_a_share_of_the_teacher_then_the_message_gives_the_number():
    error = refusal("constraints.params.of_teacher=0.01")
    assert error.value == {"params": pytest.approx(0.01 * resnet_params(4, [4, 6]))}


@pytest.mark.parametrize(
    ("overrides", "field", "problem"),
    [
        (("recipes.hints=[true]", "recipes.taps=[stage3]"), "recipes.taps", "the teacher has no such tap"),
        (
            ("recipes.hints=[true]", "recipes.taps=[stage3]", "teachers.0.widths=[4,4,4]", "teachers.0.depths=[1,1,1]"),
            "recipes.taps",
            "the students have no such tap",
        ),
        (("recipes.batch_size=5000",), "recipes.batch_size", "larger than the training split of 1079 samples"),
        (("task.validation=0.6", "task.test=0.4"), "task.validation", "nothing is left to train on"),
        (("task.test=1.5",), "task.test", "a share lies between 0 and 1"),
        (("teachers.0={name: folder, path: nowhere}",), "teachers.0.path", "no usable model here"),
        (("teachers.0={name: module, factory: 'no_such_package:net'}",), "teachers.0.factory", "cannot be imported"),
        (("teachers.0={name: module, factory: 'builtins:dict'}",), "teachers.0.factory", "not an nn.Module"),
        (("task={name: images, path: nowhere.parquet}",), "task.path", ""),
        (("task.augmentation={shift: 8}",), "task.augmentation.shift", "does not fit images of 8 x 8 pixels"),
        (("teachers.0.widths=[100000, 100000]",), "teachers.0.widths", "a network of this size cannot be built"),
        (("recipes.teacher_shares=[[1, 1]]",), "recipes.teacher_shares", "there are 1 teachers"),
        (("labels=0.001",), "labels", "with none of its"),
        (("sampler={name: advised, warm_start: [nowhere]}",), "sampler.warm_start", "no trained candidates here"),
        (("resources.workers=1000000",), "resources.workers", "this machine has"),
        (("bank.cache=/dev/null/cache",), "bank.cache", "is a file"),
        (("bank.top_k=11",), "bank.top_k", "there are 10 classes"),
        (
            ("bank.pool=1", "recipes.hints=[true]", "recipes.hint_losses=[attention]", "recipes.taps=[stage1]"),
            "recipes.taps",
            "compares maps of several places",
        ),
    ],
)
def test_plan_when_the_parts_do_not_fit_then_is_refused(overrides, field, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refusal(*overrides)
    assert error.field == field
    assert problem in error.problem
    assert list(tmp_path.iterdir()) == []  # no work was started


def test_taps_when_listed_in_any_order_then_lie_in_the_bank_from_input_to_output():
    taps = "recipes.teacher_taps=[stage2,stage1]"
    assert planned("recipes.hints=[true]", "recipes.taps=[stage2]", taps, "recipes.matches=[depth]").taps == (
        "stage1",
        "stage2",
    )


def test_classifier_when_the_teacher_has_none_to_reuse_then_is_refused(tmp_path, monkeypatch):
    (tmp_path / "headless.py").write_text(HEADLESS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    error = refusal(
        "teachers=[{name: module, factory: 'headless:net', taps: {penultimate: pool}}]",
        "recipes={hints: [true], hint_losses: [reused_classifier], taps: [penultimate]}",
    )
    assert (error.field, error.value) == ("recipes.hint_losses", "reused_classifier")


def test_tap_when_missing_then_says_which_there_are():
    assert "its taps: stage1, stage2, penultimate, logits" in refusal(
        "recipes.hints=[true]", "recipes.taps=[stage9]"
    ).remedy  # fmt: skip


def test_teacher_when_it_knows_other_classes_or_images_then_is_refused(tmp_path, monkeypatch):
    (tmp_path / "foreign_teachers.py").write_text(
        "from torch import nn\n"
        "def seven(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))\n"
        "def colour(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    error = refusal("teachers.0={name: module, factory: 'foreign_teachers:seven'}")
    assert "answers with 7 logits, the task has 10 classes" in error.problem
    assert error.field == "teachers.0.classes"
    error = refusal("teachers.0={name: module, factory: 'foreign_teachers:colour'}")
    assert "does not take inputs of shape (2, 1, 8, 8)" in error.problem


ANSWERS = """
from torch import nn

def ten(images): return images.reshape(len(images), -1)[:, :10]
def three(images): return images.reshape(len(images), -1)[:, :3]
def tapped(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 3))
"""
LOGITS = "{name: callable, function: 'user_answers:ten'}"
OTHERS = "{name: callable, function: 'user_answers:three', classes: [ant, bee, cow]}"
FEATURES = "{name: module, factory: 'user_answers:tapped', classes: [ant, bee, cow], taps: {penultimate: '1'}}"
SOME = "{name: callable, function: 'user_answers:three', classes: ['7', bee, '1']}"
HINTS = ("recipes.hints=[true]", "recipes.taps=[penultimate]")


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """A user's functions in the working folder."""
    (tmp_path / "user_answers.py").write_text(ANSWERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "field", "problem"),
    [
        ((f"teachers=[{LOGITS}]", *HINTS), "recipes.taps", "the teacher has no such tap"),
        (
            (f"teachers=[{LOGITS}]", "constraints.params.of_teacher=0.01"),
            "constraints.params.of_teacher",
            "the params of this teacher are not known",
        ),
        (
            (f"teachers=[{LOGITS}]", "constraints.flops.of_teacher=0.01"),
            "constraints.flops.of_teacher",
            "the flops of this teacher are not known",
        ),
        ((f"teachers=[{LOGITS}]", "recipes.alpha_by_size=[0, 0.3]"), "recipes.alpha_by_size", "is not known"),
        ((f"teachers=[{SOME}]", "bank.top_k=3"), "bank.top_k", "says nothing about 0, 2, 3, 4, 5 and 3 more"),
        ((f"teachers=[{OTHERS}]",), "teachers.0", "recipes that learn from logits alone"),
        ((f"teachers=[{FEATURES}]", "recipes.hints=[true, false]", HINTS[1]), "teachers.0", "from logits alone"),
        ((f"teachers=[{FEATURES}]", *HINTS, "labels=0.5"), "labels", "cannot guess a label"),
        ((f"teachers=[{LOGITS}, {OTHERS}]",), "teachers.1", "nothing to teach beside the first teacher"),
        (("teachers=[{name: predictions, path: nowhere.parquet}]",), "bank.views", "knows no augmented views"),
        (
            ("teachers=[{name: predictions, path: nowhere.parquet}, {name: assistant, views: 2}]", "bank.views=1"),
            "teachers.1.views",
            "knows no augmented views",
        ),
        (
            ("teachers=[{name: predictions, path: nowhere.parquet}]", "bank.views=1"),
            "teachers.0.path",
            "cannot be read",
        ),
        (("teachers=[{name: onnx, path: nowhere.onnx}]",), "teachers.0.path", "cannot be read"),
    ],
)
def test_foreign_teacher_when_it_cannot_give_what_is_asked_for_then_is_refused(answers, overrides, field, problem):
    error = refusal(*overrides)
    assert error.field == field
    assert problem in error.problem
    assert error.remedy


def test_teacher_when_it_is_a_function_then_its_costs_are_not_known_and_a_number_bounds_students(answers, run):
    made = planned(f"teachers=[{LOGITS}]", "constraints.params=3000", f"bank.cache={run / 'cache'}")
    assert made.teacher_costs == {}
    assert made.bounds == {"params": 3000}
    said: list[str] = []
    _, bank = knowledge(made, run, said.append)
    assert said[0].startswith("Teacher user_answers:ten: its class names are not known")
    assert bank.teacher_params == (0,)
    assert np.array_equal(bank.logits[0, 0], made.data.train.images.reshape(-1, 64)[:, :10].astype(np.float16))


def test_teacher_when_it_knows_some_classes_then_says_which_and_teaches_those(answers, run):
    made = planned(f"teachers=[{SOME}]", f"bank.cache={run / 'cache'}")
    said: list[str] = []
    _, bank = knowledge(made, run, said.append)
    assert "2 of the task's 10 classes are matched; it teaches nothing about 0, 2, 3, 4, 5" in said[0]
    assert np.array_equal(bank.logits[0, 0, :, 7], made.data.train.images.reshape(-1, 64)[:, 0].astype(np.float16))
    assert (bank.logits[:, :, :, [0, 2, 3, 4, 5, 6, 8, 9]] < -64_000).all()


def test_teacher_when_it_knows_other_classes_then_its_features_teach(answers):
    made = planned(f"teachers=[{FEATURES}]", *HINTS)
    assert made.taps == ("penultimate",)
    assert made.teacher_costs["params"] == 64 * 6 + 6 + 6 * 3 + 3
    planned(f"teachers=[{FEATURES}, {LOGITS}]", HINTS[1], "recipes.hints=[true, false]")


def test_costs_when_asked_again_then_are_remembered(monkeypatch):
    made = planned()
    first = made.costs(ONLY)
    monkeypatch.setattr("kdnas_ray.hardware.costs.count", lambda *_: pytest.fail("counted again"))
    assert made.costs(ONLY) is first


def test_knowledge_when_asked_again_then_nothing_is_computed_and_a_corrupt_bank_is_made_anew(tmp_path, run):
    made = planned(f"bank.cache={tmp_path / 'cache'}")
    said: list[str] = []
    (teacher,), bank = knowledge(made, run, said.append)
    assert [line for line in said if line.startswith("Training the teacher")]
    assert bank.logits.shape == (2, 1, 1079, 10)

    said.clear()
    (again,), same = knowledge(made, run, said.append)
    assert said == ["Knowledge bank: 2 views of 1,079 samples, read from the cache"]
    assert again.digest == teacher.digest
    assert np.array_equal(same.logits, bank.logits)

    (stored,) = (tmp_path / "cache" / "banks").glob("*/bank.safetensors")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    said.clear()
    _, mended = knowledge(made, run, said.append)
    assert said[0] == "the stored bank is unusable: its checksum does not match; computing it again."
    assert np.array_equal(mended.logits, bank.logits)

    said.clear()  # more views are another bank, of the same teacher
    knowledge(planned(f"bank.cache={tmp_path / 'cache'}", "bank.views=1"), run, said.append)
    assert said == [
        "Knowledge bank: asking the teacher about 1 views of 1,079 samples",
        "Knowledge bank: view 1 of 1",
    ]


def test_knowledge_when_samples_have_no_label_then_says_how_many(tmp_path, run):
    made = planned(f"bank.cache={tmp_path / 'cache'}", "bank.views=1", "labels=0.1")
    said: list[str] = []
    knowledge(made, run, said.append)
    labelled = int((made.data.train.labels >= 0).sum())
    assert 0 < labelled < 200
    assert said[0] == f"Training samples: {labelled} labelled, {1079 - labelled} unlabelled"


def test_plan_when_the_bank_would_exceed_its_bound_then_names_what_takes_how_much():
    hints = ("recipes.hints=[true]", "recipes.taps=[stage1, stage2]")
    logits, stage1, stage2 = (2 * 2 * 1079 * size for size in (10, 4 * 8 * 8, 6 * 4 * 4))
    needed = logits + stage1 + stage2
    planned(f"bank.max_bytes={needed}", *hints)
    planned("bank.max_bytes=200000", "bank.pool=1", *hints)
    assert planned(f"bank.max_bytes={needed - 1}", "bank.overflow=map", *hints).mapped
    error = refusal(f"bank.max_bytes={needed - 1}", *hints)
    assert (error.field, error.value) == ("bank.max_bytes", needed - 1)
    assert error.problem == f"the bank would take {needed:,} bytes"
    assert f"logits {logits:,}, tap.stage1 {stage1:,}, tap.stage2 {stage2:,}" in error.remedy


def test_knowledge_when_kept_short_then_is_another_bank_of_the_same_teacher(tmp_path, run):
    cache, hints = f"bank.cache={tmp_path / 'cache'}", ("recipes.hints=[true]", "recipes.taps=[stage1]")
    (teacher,), full = knowledge(planned(cache, *hints), run, [].append)
    (same,), short = knowledge(planned(cache, "bank.top_k=3", "bank.pool=2", *hints), run, [].append)
    assert same.digest == teacher.digest
    assert short.logits.shape == full.logits.shape
    assert short.taps["stage1"].shape == (2, 1079, 4, 2, 2)


def test_run_folder_when_it_exists_then_is_refused_and_an_empty_one_taken(tmp_path):
    check_folder(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for folder in (tmp_path / "full", tmp_path / "full" / "a"):
        with pytest.raises(KdnasError) as caught:
            check_folder(folder)
        assert (caught.value.field, caught.value.value) == ("--out", str(folder))
        assert f"kdnas resume {folder}" in caught.value.remedy


def test_run_folder_when_none_is_named_then_is_a_free_one_by_the_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        names.append(free_folder(datetime(2026, 11, 25, 9, 5, 7)))
        names[-1].mkdir(parents=True)
    assert [str(name) for name in names] == [f"runs/2026-11-25-090507{end}" for end in ("", "-2", "-3")]


def test_knowledge_when_the_runs_copy_of_the_teacher_is_damaged_then_says_so_and_takes_the_cached_one(tmp_path, run):
    made = planned(f"bank.cache={tmp_path / 'cache'}")
    (teacher,), _ = knowledge(made, run, [].append)
    save_teacher(run / "teacher", teacher)
    (run / "teacher" / "weights.safetensors").write_bytes(b"cut")
    said: list[str] = []
    assert knowledge(made, run, said.append)[0][0].digest == teacher.digest
    assert "copy of its teacher cannot be used" in said[0]


def test_knowledge_when_there_are_two_teachers_then_both_are_asked_and_both_have_to_fit(tmp_path, run):
    other = "teachers.1={name: trained, stem: 4, widths: [4], depths: [1], epochs: 1, views: 2}"
    made = planned(f"bank.cache={tmp_path / 'cache'}", other)
    assert made.teacher_costs["params"] == resnet_params(4, [4, 6])  # the first one's
    said: list[str] = []
    teachers, bank = knowledge(made, run, said.append)
    assert len({teacher.digest for teacher in teachers}) == 2
    assert bank.logits.shape == (2, 2, 1079, 10)
    assert "Knowledge bank: asking 2 teachers about 2 views of 1,079 samples" in said
    alone = knowledge(planned(f"bank.cache={tmp_path / 'cache'}"), run, said.append)[1]
    assert np.array_equal(alone.logits, bank.logits[:, :1])
    assert refusal("teachers.1={name: folder, path: nowhere}").field == "teachers.1.path"


def test_knowledge_when_the_second_is_an_assistant_then_it_learned_from_the_first_and_can_teach_alone(tmp_path, run):
    assistant = "{name: assistant, stem: 2, widths: [2], depths: [1], epochs: 1, views: 2}"
    shares = ("recipes.teacher_shares=[[0, 1], [1, 1]]", f"bank.cache={tmp_path / 'cache'}")
    said: list[str] = []
    first = knowledge(planned(f"teachers.1={assistant}", *shares), run, said.append)[0]
    assert sum(line.startswith("Training the assistant") for line in said) == 1
    assert [teacher.name for teacher in first] == ["trained", "assistant"]
    again = knowledge(planned(f"teachers.1={assistant}", *shares), run, said.append)[0]
    assert [teacher.digest for teacher in again] == [teacher.digest for teacher in first]
    other = knowledge(planned(f"teachers.1={assistant}", "teachers.0.learning_rate=0.2", *shares), run, said.append)[0]
    assert other[1].digest != first[1].digest  # another teacher, another assistant


def test_knowledge_when_the_cache_is_full_then_the_search_goes_on_without_it(tmp_path, run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdnas_ray.prepare.banks.save", full)
    said: list[str] = []
    _, bank = knowledge(planned(f"bank.cache={tmp_path / 'cache'}"), run, said.append)
    assert len(bank) == 1079
    assert "No space left on device" in said[-1]


def test_needed_bytes_when_everything_is_counted_then_leaves_a_reserve(tmp_path, run):
    class Sized:
        nbytes = 10**9

    assert needed_bytes(Sized(), [Sized(), Sized()]) > 3 * 10**9  # type: ignore[arg-type]


@pytest.mark.parametrize(("resource", "amount"), [("cpu", 100_000), ("gpu", 64)])
def test_plan_when_one_trial_wants_more_than_the_machine_has_then_is_refused(resource, amount):
    with pytest.raises(KdnasError, match="this machine has") as refused:
        plan(read({"resources": {resource: amount}}))
    assert refused.value.field == f"resources.{resource}"
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("judge", ["params", "flops", "synflow"])
def test_plan_when_proposals_are_filtered_by_a_judge_then_is_made(judge):
    assert planned(f"prefilter={judge}").config.prefilter.judge == judge


def test_plan_when_the_filter_is_the_evaluators_own_judge_then_is_made():
    assert planned("prefilter=evaluator", "evaluator={name: blocks, taps: [stage1]}").taps == ("stage1",)


class Raising:
    """A user's space with a mistake in one of its methods."""

    def __init__(self, method: str) -> None:
        self.method = method

    def suggest(self, trial) -> Architecture:
        if self.method == "suggest" and trial.suggest_int("width", 1, 4) == 3:
            raise ValueError("three is too much")
        return Architecture.of({"width": trial.suggest_int("width", 1, 4)})

    def build(self, architecture, shape, classes):
        raise RuntimeError("cannot build this")


@pytest.mark.parametrize(("method", "word"), [("suggest", "three is too much"), ("build", "cannot build this")])
def test_space_when_it_raises_then_is_refused_by_method_before_any_work(method, word):
    with pytest.raises(KdnasError, match=rf"Raising\.{method} raises .*{word}") as caught:
        check_space(Raising(method), (1, 8, 8), 10, 0)
    assert (caught.value.field, caught.value.exit_code) == ("space", 2)


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (("bank.top_k=2",), "bank.top_k"),
        (("prefilter=grasp",), "prefilter.judge"),
        (("objectives=[val_accuracy, snip]", "sampler=nsga2"), "objectives"),
    ],
)
def test_plan_when_targets_are_labels_then_what_reads_classes_is_refused(overrides, field, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    task = "task=examples.own_tasks:TaggedDigits"
    planned(task, "prefilter=naswot")
    assert refusal(task, *overrides).field == field


WRONG = """
from dataclasses import dataclass

from trainables.tasks import DigitsTask
from trainables.tasks.base import Regression


@dataclass(frozen=True)
class Numbers(Regression, DigitsTask):
    pass
"""


def test_plan_when_an_own_task_loads_labels_of_another_kind_then_is_refused(tmp_path, monkeypatch):
    (tmp_path / "wrong_numbers.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    error = refusal("task=wrong_numbers:Numbers", "bank.cache=cache")
    assert error.field == "task"
    assert "where targets are values, labels are [N, 10] float32" in error.remedy


def test_plan_when_hints_must_be_worth_their_cost_then_keeps_those_taps_and_says_what_stages_cost():
    recipes = {"hints": [True], "taps": ["stage1", "stage2"], "tap_share": 0.4}
    made = plan(read({**SMALL, "recipes": recipes, "devices": ["cortex-m7"]}))
    assert made.config.recipes.taps == made.taps == tuple(tap for tap, share in made.tap_shares.items() if share >= 0.4)
    assert len(made.taps) == 1
    again = plan(made.config)
    assert again.config == made.config
