"""Specification of `kdnas_ray.config`: defaults, overrides, the schema, and a clear refusal of everything else."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from kdnas_ray.config import SearchConfig, json_schema, read, read_file
from kdnas_ray.hardware.devices import device
from kdnas_ray.objectives import OBJECTIVES
from search_spaces import SPACES, KdnasError, Registry, ResNetSpace
from trainables.recipe import SimpleRecipes
from trainables.tasks import DigitsTask
from trainables.teachers import TrainedTeacher

DEFAULTS = SearchConfig().resolved()  # their values are held by surface.yaml, see test_surface
CHOICES = ("task", "space", "recipes", "evaluator", "sampler", "scheduler")
SECTIONS = ("bank", "budget", "resources", "retrain", "tracking")


def refusal(data: Any = None, overrides: tuple[str, ...] = ()) -> KdnasError:
    with pytest.raises(KdnasError) as caught:
        read(data, overrides)
    assert caught.value.exit_code == 2
    return caught.value


def test_configuration_when_empty_then_holds_every_default():
    assert read() == read({}) == SearchConfig()
    assert list(DEFAULTS) == [
        "task", "labels", "stream", "teachers", "bank", "space", "recipes", "evaluator", "prefilter", "sampler",
        "recipes_each", "scheduler", "objectives", "devices", "constraints", "budget", "resources", "retrain",
        "study", "tracking", "seed",
    ]  # fmt: skip


def test_configuration_when_resolved_and_read_again_then_is_the_same():
    config = read(
        {
            "task": {"name": "images", "path": "/folder/data.parquet", "size": 32, "augmentation": {"crop": 2}},
            "teachers": [{"name": "module", "factory": "mine:net", "taps": {"stage2": "layer2"}}],
            "space": {"stages": 2, "widths": [4]},
            "sampler": "nsga2",
            "scheduler": {"name": "full", "max_epochs": 5},
            "objectives": ["val_accuracy", "flops"],
            "constraints": {"flops": 1e6, "params": {"max": 5000, "of_teacher": 0.5}},
            "budget": {"trials": None, "wall_s": 60},
            "seed": 7,
        }
    )
    again = read(yaml.safe_load(yaml.safe_dump(config.resolved())))
    assert again == config
    assert again.resolved() == config.resolved()


def test_paths_when_resolved_then_are_absolute_so_that_a_run_can_go_on_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read(
        {
            "task": {"name": "images", "path": "a/data.parquet", "test_path": "~/test.parquet"},
            "teachers": [{"name": "folder", "path": "big"}],
            "bank": {"cache": "cache"},
            "tracking": {"uri": "sqlite:///mine.db"},
        }
    ).resolved()
    assert found["task"]["path"] == str(tmp_path / "a" / "data.parquet")
    assert found["task"]["test_path"] == str(Path.home() / "test.parquet")
    assert found["teachers"][0]["path"] == str(tmp_path / "big")
    assert found["bank"]["cache"] == str(tmp_path / "cache")
    assert found["tracking"]["uri"] == f"sqlite:///{tmp_path}/mine.db"


@pytest.mark.parametrize(
    "override", ["seed=true", "budget.trials=true", "resources.workers=true", "bank.views=true", "retrain.top=false"]
)
def test_number_when_given_as_truth_then_is_refused(override):
    with pytest.raises(KdnasError) as caught:
        read({}, [override])
    assert caught.value.field == override.partition("=")[0]
    assert "whole number" in caught.value.remedy


@pytest.mark.parametrize("text", ["2024-13-45", "2024-12-12T25:99:99", "=", "[1", "&a *a"])
def test_override_when_its_value_is_no_yaml_then_is_refused(text):
    with pytest.raises(KdnasError, match="not valid YAML") as caught:
        read({}, [f"seed={text}"])
    assert (caught.value.field, caught.value.value) == ("seed", text)


def test_configuration_when_read_then_gives_typed_frozen_entries():
    config = read({"space": {"stages": 2}, "teachers": ["trained"]})
    assert config.space == ResNetSpace(stages=2)
    assert config.task == DigitsTask()
    assert config.recipes == SimpleRecipes(quantised=False)
    assert config.teachers == [TrainedTeacher()]
    with pytest.raises(Exception, match="frozen"):
        config.seed = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.space.stages = 3


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_when_given_as_name_object_or_options_alone_then_is_the_same_entry(choice):
    name = DEFAULTS[choice]["name"]
    assert (
        read({choice: name}).resolved()
        == read({choice: {"name": name}}).resolved()
        == read({choice: {}}).resolved()
        == read({}, [f"{choice}={name}"]).resolved()
        == DEFAULTS
    )


def _every_choice() -> list[tuple[str, Registry, str]]:
    from kdnas_ray.catalogue import CATALOGUE
    from kdnas_ray.starter import LISTED

    return [(key, CATALOGUE[kind], name) for key, kind in LISTED.items() for name in CATALOGUE[kind]]


@pytest.mark.parametrize(
    ("key", "registry", "name"), _every_choice(), ids=lambda part: part if str(part) == part else ""
)
def test_entry_of_every_registry_when_named_then_is_known(key, registry, name):
    required = {
        field.name: "somewhere"
        for field in dataclasses.fields(registry[name])
        if field.default is field.default_factory is dataclasses.MISSING
    }
    entry = {"name": name, **required} | ({"task": "digits"} if name == "paired" else {})
    value = getattr(read({key: ["trained", entry] if key == "teachers" else entry}), key)
    assert type(value[1] if key == "teachers" else value) is registry[name]


def test_assistant_when_it_comes_first_then_is_refused_as_nobody_taught_it():
    error = refusal({"teachers": ["assistant", "trained"]})
    assert (error.field, error.value) == ("teachers.0", "assistant")
    assert "teachers=[trained, assistant]" in error.remedy
    assert refusal({}, ("teachers=[assistant]",)).field == "teachers.0"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("budget.trials=50", ("budget", "trials"), 50),
        ("budget.wall_s=1e3", ("budget", "wall_s"), 1000.0),
        ("budget.wall_s=1.5", ("budget", "wall_s"), 1.5),
        ("seed=3", ("seed",), 3),
        ("tracking.enabled=false", ("tracking", "enabled"), False),
        ("tracking.uri=sqlite:////a=b.db", ("tracking", "uri"), "sqlite:////a=b.db"),
        ("tracking.experiment='3'", ("tracking", "experiment"), "3"),
        ("sampler=nsga2", ("sampler", "name"), "nsga2"),
        ("sampler.candidates=5", ("sampler", "candidates"), 5),
        ("space.widths=[4, 8]", ("space", "widths"), [4, 8]),
        ("task.augmentation.flip=true", ("task", "augmentation", "flip"), True),
        ("teachers.0.epochs=3", ("teachers", 0, "epochs"), 3),
        ("objectives=[val_accuracy,params]", ("objectives",), ["val_accuracy", "params"]),
        ("constraints.params=20000", ("constraints", "params", "max"), 20000),
        ("constraints.flops.of_teacher=0.2", ("constraints", "flops", "of_teacher"), 0.2),
        ("constraints={}", ("constraints",), {}),
        ("resources.workers=null", ("resources", "workers"), None),
        (" retrain.top =2", ("retrain", "top"), 2),
    ],
)
def test_override_when_given_then_sets_that_key(override, path, value):
    found: Any = read({}, [override]).resolved()
    for part in path:
        found = found[part]
    assert found == value


def test_overrides_when_several_then_the_last_wins_and_the_others_stay():
    config = read({"budget": {"trials": 3, "wall_s": 9}}, ["budget.trials=4", "seed=1", "budget.trials=5"])
    assert (config.budget.trials, config.budget.wall_s, config.seed) == (5, 9, 1)


def test_override_of_an_option_when_the_entry_is_a_bare_name_then_keeps_the_name():
    assert read({"sampler": "nsga2"}, ["sampler.population=8"]).resolved()["sampler"] == {
        "name": "nsga2",
        "population": 8,
    }


def test_override_of_a_list_element_when_others_are_there_then_changes_that_one_alone():
    data = {"teachers": ["trained"], "space": {"widths": [4, 8, 16]}}
    config = read(data, ["teachers.0.epochs=2", "space.widths.1=6", "space.widths.3=32"])
    assert config.teachers[0].epochs == 2
    assert config.space.widths == (4, 6, 16, 32)


def test_data_when_overridden_then_stays_as_the_caller_had_it():
    data = {"budget": {"trials": 3}, "teachers": ["trained"]}
    read(data, ["budget.trials=5", "teachers.0.epochs=2"])
    assert data == {"budget": {"trials": 3}, "teachers": ["trained"]}


@pytest.mark.parametrize(
    ("data", "field", "suggestion"),
    [
        ({"budgte": {}}, "budgte", "budget"),
        ({"budget": {"trails": 3}}, "budget.trails", "trials"),
        ({"bank": {"veiws": 3}}, "bank.veiws", "views"),
        ({"resources": {"cpus": 3}}, "resources.cpus", "cpu"),
        ({"retrain": {"tops": 3}}, "retrain.tops", "top"),
        ({"tracking": {"experimnt": "x"}}, "tracking.experimnt", "experiment"),
        ({"constraints": {"params": {"mx": 3}}}, "constraints.params.mx", "max"),
        ({"space": {"name": "resnet", "stagse": 3}}, "space.stagse", "stages"),
        ({"recipes": {"alhpa": [0, 1]}}, "recipes.alhpa", "alpha"),
        ({"scheduler": {"max_epoch": 3}}, "scheduler.max_epoch", "max_epochs"),
        ({"teachers": [{"width": [3]}]}, "teachers.width", "widths"),
        ({"task": {"augmentation": {"shfit": 2}}}, "task.augmentation.shfit", "shift"),
        ({"task": {"name": "images", "pth": "x"}}, "task.pth", "path"),  # also leaves `path` missing
    ],
)
def test_key_when_misspelt_then_says_which_was_meant_and_which_are_known(data, field, suggestion):
    error = refusal(data)
    assert error.field == field
    assert error.problem == "unknown key"
    assert f"did you mean {suggestion!r}?" in error.remedy
    assert f"known: {suggestion}" in error.remedy or f", {suggestion}" in error.remedy


def test_key_when_another_of_its_kind_has_it_then_names_that():
    error = refusal({"task": {"path": "photos"}})
    assert (error.field, error.problem, error.value) == ("task.path", "unknown key of digits", "photos")
    assert error.remedy.startswith("known to images, ")
    assert "(task=images); to digits: validation" in error.remedy


def test_key_when_like_no_other_then_lists_the_known_ones():
    error = refusal({"zzz": 1})
    assert error.remedy == "known: " + ", ".join(DEFAULTS)


@pytest.mark.parametrize("choice", CHOICES)
def test_name_when_unknown_then_lists_the_known_ones(choice):
    error = refusal({}, (f"{choice}=mobilenet-like",))
    assert error.field == choice
    assert error.problem.startswith("unknown ")
    assert DEFAULTS[choice]["name"] in error.remedy.partition("known: ")[2].split(", ")


def test_name_when_misspelt_then_suggests_the_right_one():
    assert refusal({"space": "resnett"}).remedy == f"did you mean 'resnet'? known: {', '.join(SPACES)}"
    assert "did you mean 'trained'?" in refusal({"teachers": ["trainde"]}).remedy


def test_layers_when_written_in_the_configuration_then_are_read_back_and_refused_by_key():
    layers = [{"block": "conv", "width": [4, 8]}, {"name": "end", "any": ["basic", {"block": "conv", "kernel": 5}]}]
    config = read({"space": {"name": "composition", "layers": layers}})
    assert config.resolved()["space"] == {"name": "composition", "layers": layers}
    assert read(config.resolved()).space == config.space
    error = refusal({"space": {"name": "composition", "layers": layers}}, ("space.layers.1.any.1.kernel=4",))
    assert (error.field, error.value) == ("space.layers.1.any.1.kernel", 4)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"budget": {"trials": "many"}}, "budget.trials"),
        ({"budget": {"trials": 1.5}}, "budget.trials"),
        ({"budget": {"trials": 0}}, "budget.trials"),
        ({"budget": {"wall_s": 0}}, "budget.wall_s"),
        ({"budget": {"trials": None}}, "budget"),
        ({"budget": 5}, "budget"),
        ({"budget": None}, "budget"),
        ({"budget": [3]}, "budget"),
        ({"budget": {1: 2}}, "budget.1"),
        ({1: 2}, "1"),
        ({"bank": {"views": 0}}, "bank.views"),
        ({"bank": {"pool": 0}}, "bank.pool"),
        ({"bank": {"top_k": 1}}, "bank.top_k"),
        ({"bank": {"max_bytes": 0}}, "bank.max_bytes"),
        ({"resources": {"cpu": 0}}, "resources.cpu"),
        ({"resources": {"gpu": -1}}, "resources.gpu"),
        ({"resources": {"workers": 0}}, "resources.workers"),
        ({"retrain": {"top": -1}}, "retrain.top"),
        ({"retrain": {"epochs": 0}}, "retrain.epochs"),
        ({"retrain": {"seeds": 0}}, "retrain.seeds"),
        ({"tracking": {"enabled": "maybe"}}, "tracking.enabled"),
        ({"tracking": {"uri": 5}}, "tracking.uri"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"seed": {"x": 3}}, "seed"),
        ({"objectives": "val_accuracy"}, "objectives"),
        ({"objectives": []}, "objectives"),
        ({"objectives": ["params"]}, "objectives"),
        ({"objectives": ["val_accuracy", "val_accuracy"]}, "objectives"),
        ({"objectives": ["val_accuracy", "size"]}, "objectives"),
        ({"constraints": None}, "constraints"),
        ({"constraints": ["params"]}, "constraints"),
        ({"constraints": {"size": 3}}, "constraints"),
        ({"constraints": {"val_accuracy": 0.9}}, "constraints"),
        ({"constraints": {"params": -3}}, "constraints.params.max"),
        ({"constraints": {"params": "few"}}, "constraints.params"),
        ({"constraints": {"params": True}}, "constraints.params"),
        ({"constraints": {"params": {}}}, "constraints.params"),
        ({"constraints": {"params": math.inf}}, "constraints.params.max"),
        (
            {"constraints": {"latency_ms": {"device": "npu-small", "max": 5}, "latency_ms/npu-small": 50}},
            "constraints.latency_ms/npu-small",
        ),
        ({"space": 5}, "space"),
        ({"space": None}, "space"),
        ({"space": ["resnet"]}, "space"),
        ({"space": {"name": ["resnet"]}}, "space"),
        ({"space": {"stages": "three"}}, "space.stages"),
        ({"space": {"stages": 0}}, "space.stages"),
        ({"space": {"widths": []}}, "space.widths"),
        ({"space": {"widths": [8, "x"]}}, "space.widths.1"),
        ({"space": {"blocks": ["conv"]}}, "space.blocks"),
        ({"space": {"kernels": [4]}}, "space.kernels"),
        ({"recipes": {"alpha": [0.9, 0.1]}}, "recipes.alpha"),
        ({"recipes": {"alpha": [0, 2]}}, "recipes.alpha"),
        ({"recipes": {"alpha": [0, 0.5, 1]}}, "recipes.alpha"),
        ({"recipes": {"schedules": ["quadratic"]}}, "recipes.schedules"),
        ({"recipes": {"hints": [True], "taps": []}}, "recipes.taps"),
        ({"recipes": {"batch_size": 1}}, "recipes.batch_size"),
        ({"task": "images"}, "task.path"),
        ({"task": {"augmentation": "flip"}}, "task.augmentation"),
        ({"task": {"augmentation": {"shift": -1}}}, "task.augmentation.shift"),
        ({"teachers": []}, "teachers"),
        ({"teachers": "trained"}, "teachers"),
        ({"teachers": [{"name": "folder"}]}, "teachers.path"),
        ({"teachers": [{"epochs": 0}]}, "teachers.epochs"),
        ({"sampler": {"startup_trials": 0}}, "sampler.startup_trials"),
        ({"sampler": {"name": "nsga2", "population": 1}}, "sampler.population"),
        ({"scheduler": {"max_epochs": 0}}, "scheduler.max_epochs"),
        ({"scheduler": {"grace_epochs": 28}}, "scheduler.grace_epochs"),
        ({"scheduler": {"max_epochs": 2}}, "scheduler.max_epochs"),
        ({"scheduler": {"max_epochs": 1, "grace_epochs": 2}}, "scheduler.grace_epochs"),
        ({"scheduler": {"name": "extrapolate", "max_epochs": 2}}, "scheduler.max_epochs"),
        ({"scheduler": {"reduction_factor": 1}}, "scheduler.reduction_factor"),
        ({"scheduler": {"reduction_factor": math.nan}}, "scheduler.reduction_factor"),
        ({"evaluator": {"name": "scratch", "epochs": 3}}, "evaluator.epochs"),
    ],
    ids=str,
)
def test_value_when_impossible_then_names_the_field_and_what_to_do(data, field):
    error = refusal(data)
    assert error.field == field
    assert str(error).startswith(field)
    assert error.problem
    for jargon in ("instance of", "BaseModel", "pydantic"):
        assert jargon not in str(error)


@pytest.mark.parametrize(("data", "remedy"), [
    ({"budget": 5}, "give an object with keys of: trials, wall_s"),
    (
        {"task": {"augmentation": 5}},
        "give an object with keys of: shift, crop, flip, cutout, time_shift, time_mask, frequency_mask",
    ),
    (
        {"constraints": {"params": "few"}},
        "give a number (the largest allowed), a share of the teacher's, {of_teacher: 0.1}, or, for a number on a "
        "device, {device: npu-small, max: 5}",
    ),
    ({"sampler": {"name": "nsga2", "population": 1}}, "choose at least 2"),
    ({"objectives": ["accuracy"]}, f"did you mean 'val_accuracy'? known: {', '.join(OBJECTIVES)}"),
    ({"constraints": {"val_accuracy": 1}}, "known: params, flops, latency_ms, memory_mb"),
])  # fmt: skip
def test_remedy_when_a_value_is_refused_then_says_what_would_be_right(data, remedy):
    assert refusal(data).remedy == remedy


def test_refused_value_when_shown_then_is_the_users_own():
    assert refusal({"sampler": {"name": "nsga2", "population": 1}}).value == 1
    assert refusal({"budget": {"trials": "many"}}).value == "many"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("budget.trials", "an override is key.path=value"),
        ("=3", "an override is key.path=value"),
        ("budget..trials=3", "an override is key.path=value"),
        (".seed=3", "an override is key.path=value"),
        ("budget.trials=[3", "the value is not valid YAML"),
        ("seed=!!python/object/apply:os.system [ls]", "the value is not valid YAML"),
        ("teachers.first.epochs=3", "a list is addressed by numbers"),
        ("teachers.2.epochs=3", "the list is not that long"),
        ("teachers.99999999999.epochs=3", "the list is not that long"),
        ("budgte.trials=3", "unknown key"),
        ("seed.x=3", "invalid value"),
    ],
)
def test_override_when_wrong_then_is_refused_with_its_text(override, problem):
    error = refusal({"teachers": ["trained"]}, (override,))
    assert error.problem == problem
    assert error.field in (override.partition("=")[0], "override", "budgte", "seed")


def test_file_when_read_then_gives_its_keys_and_takes_overrides(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("budget: {trials: 3}\nsampler: nsga2  # ä\n", encoding="utf8")
    config = read_file(path, ["seed=4"])
    assert (config.budget.trials, type(config.sampler).__name__, config.seed) == (3, "NSGA2", 4)


def test_file_when_empty_then_gives_the_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("# nothing yet\n")
    assert read_file(path) == SearchConfig()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"budget: {trials: 3\n", "is not valid YAML in line 2"),
        (b"budget:\n\ttrials: 3\n", "is not valid YAML in line 2"),
        (b"- a\n- b\n", "holds no keys"),
        (b"just words\n", "holds no keys"),
        (b"a: \xff\xfe\n", "cannot be read"),
        (b"a: !!python/object/apply:os.getcwd []\n", "is not valid YAML in line 1"),
    ],
)
def test_file_when_broken_then_names_file_and_line(tmp_path, content, problem):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(KdnasError) as caught:
        read_file(path)
    assert caught.value.problem.startswith(problem)
    assert caught.value.value == str(path)


def test_file_when_missing_or_a_folder_then_is_refused(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(KdnasError, match="cannot be read"):
            read_file(path)


def test_schema_when_checked_then_is_valid_and_takes_what_read_takes():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for data in (
        DEFAULTS,
        {},
        {"space": "resnet"},
        {"space": {"stages": 2}},
        {"teachers": ["trained"]},
        {"constraints": {"params": 20000, "flops": {"of_teacher": 0.1}}},
        {"recipes": {"alpha": [0.1, 0.2]}},
        {"budget": {"wall_s": 3, "trials": None}},
    ):
        read(data)
        assert list(validator.iter_errors(data)) == []


@pytest.mark.parametrize(
    "data",
    [
        {"budgte": {}},
        {"space": "mobilenet-like"},
        {"space": {"stagse": 2}},
        {"task": {"augmentation": {"shfit": 1}}},
        {"task": {"name": "images"}},
        {"constraints": {"params": -1}},
        {"budget": {"trials": 0}},
        {"seed": "x"},
    ],
    ids=str,
)
def test_schema_when_data_is_wrong_then_says_so_as_read_does(data):
    refusal(data)
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(data)


def test_schema_when_read_by_an_editor_then_describes_every_section():
    schema = json_schema()
    assert list(schema["properties"]) == list(DEFAULTS)
    for name in SECTIONS:
        definition = schema["$defs"][schema["properties"][name]["$ref"].rsplit("/", 1)[-1]] if (
            "$ref" in schema["properties"][name]
        ) else schema["properties"][name]  # fmt: skip
        assert all(option.get("description") for option in definition.get("properties", {}).values()), name


def test_every_key_when_looked_up_then_has_a_description():
    # The entries' options are described in their docstrings' `Args:`; the sections' in pydantic.
    config = SearchConfig()
    for name in (*CHOICES, *SECTIONS):
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            missing = [key for key, field in type(value).model_fields.items() if not field.description]
        else:
            missing = [f.name for f in dataclasses.fields(value) if f"{f.name}: " not in (type(value).__doc__ or "")]
        assert missing == [], name


def test_single_value_where_a_list_is_meant_fixes_it():
    config = read({}, ["recipes.alpha=0.5", "recipes.losses=dkd", "space.widths=8"])
    assert config.recipes.alpha == (0.5, 0.5)
    assert config.recipes.losses == ("dkd",)
    assert config.space.widths == (8,)


def test_override_of_a_bound_written_as_a_number_keeps_the_number():
    bound = read({"constraints": {"params": 5000}}, ["constraints.params.of_teacher=0.5"]).constraints["params"]
    assert (bound.max, bound.of_teacher) == (5000, 0.5)


def test_key_that_comes_twice_in_a_file_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("budget: {trials: 3}\nbudget: {wall_s: 5}\n")
    with pytest.raises(KdnasError, match=r"line 2 .*'budget' comes twice"):
        read_file(path)


def test_mistake_in_python_is_refused_as_on_the_command_line():
    with pytest.raises(KdnasError, match="did you mean 'trials'"):
        SearchConfig(budget={"trails": 3})


def test_one_teacher_leaves_no_choice_between_ensembles():
    chosen = {"ensembles": ["average", "entropy"]}
    assert read({"recipes": chosen}).recipes.ensembles == ("average",)
    two = read({"recipes": chosen, "teachers": ["trained", "trained"]})
    assert two.recipes.ensembles == ("average", "entropy")


SEVERAL = "'constraints={latency_ms/npu-small: 0.5, latency_ms/cortex-m7: 3}'"
PROFILE = "name: mine\nflops_per_s: 1e9\nbytes_per_s: 1e9\n"


def within(most: object, device: str = "npu-small") -> dict:
    return {"constraints": {"latency_ms": {"device": device, "max": most}}}


@pytest.mark.parametrize(
    ("data", "devices", "constraints", "objectives"),
    [
        (within(5), ["npu-small"], ["latency_ms/npu-small"], 1),
        ({"constraints": {"latency_ms/npu-small": 5}}, ["npu-small"], ["latency_ms/npu-small"], 1),
        ({"devices": ["mine.yaml"], "constraints": {"memory_mb": 1}}, ["mine.yaml"], ["memory_mb/mine"], 1),
        (
            {
                "devices": ["mine.yaml", "npu-small"],
                "objectives": ["val_accuracy", "latency_ms", "latency_ms/npu-small"],
            },
            ["mine.yaml", "npu-small"],
            ["params"],
            ["latency_ms/mine", "latency_ms/npu-small"],
        ),
    ],
)  # fmt: skip
def test_numbers_on_a_device_when_read_then_carry_its_name_and_the_device_is_listed(
    data, devices, constraints, objectives, tmp_path, monkeypatch
):
    (tmp_path / "mine.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    config = read(data)
    assert config.devices == [str(tmp_path / name) if name.endswith("yaml") else name for name in devices]
    assert list(config.constraints) == constraints
    assert config.objectives[1:] == (objectives if objectives != 1 else [])
    assert read(config.resolved()) == config


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        ({"constraints": {"latency_ms": 5}}, "constraints.latency_ms", "{latency_ms: {device: npu-small, max: 5}}"),
        (
            {"constraints": {"latency_ms": {"of_teacher": 0.5}}},
            "constraints.latency_ms",
            "{latency_ms: {device: npu-small, of_teacher: 0.5}}",
        ),
        ({"constraints": {"latency_ms": "5ms"}}, "constraints.latency_ms", "milliseconds, constraints.latency_ms=0.5"),
        ({"constraints": {"memory_mb": "20kB"}}, "constraints.memory_mb", "megabytes, constraints.memory_mb=0.02"),
        ({"constraints": {"memory_mb": {"max": "2e"}}}, "constraints.memory_mb.max", "megabytes"),
        ({"constraints": {"latency_ms": {"device": "npu-small"}}}, "constraints.latency_ms", "`max`"),
        ({"constraints": {"latency_ms": {"npu-small": 1, "cortex-m7": 2}}}, "constraints.latency_ms", SEVERAL),
        ({"constraints": {"latency_ms": [{"device": "npu-small", "max": 1}]}}, "constraints.latency_ms", SEVERAL),
        ({"constraints": {"latency_ms": {"mx": 5}}}, "constraints.latency_ms.mx", "did you mean 'max'"),
        (within(5, "npu-smal"), "devices", "did you mean 'npu-small'"),
        ({"constraints": {"latency": 5}}, "constraints", "did you mean 'latency_ms'"),
        (within("5 ms"), "constraints.latency_ms.max", "number"),
        (within(0), "constraints.latency_ms.max", "more than 0"),
        ({"constraints": {"params": {"device": "npu-small", "max": 5}}}, "params", "leave the device out"),
        ({"constraints": {"latency_ms/npu-small": {"device": "cortex-m7", "max": 5}}}, "latency_ms/npu-small", "one"),
        ({"objectives": ["val_accuracy", "latency_ms"]}, "objectives", "latency_ms/npu-small"),
        ({"devices": ["tpu"]}, "devices", "known: "),
        ({"devices": "npu-small"}, "devices", "list"),
    ],
)  # fmt: skip
def test_number_on_a_device_when_it_makes_no_sense_then_is_refused(data, field, words):
    error = refusal(data)
    assert error.field == field
    assert words in error.remedy


@pytest.mark.parametrize(
    ("devices", "asked", "expected"),
    [
        ([], None, False),
        (["server-cpu"], None, False),
        (["npu-small"], None, True),
        (["npu-small"], False, False),
        ([], True, True),
    ],
)
def test_students_train_as_in_int8_where_a_device_computes_so_unless_told_otherwise(devices, asked, expected):
    assert device("npu-small").dtype == "int8"
    for recipes in ("simple", "labels"):
        config = read({"devices": devices, "recipes": {"name": recipes, "quantised": asked}})
        assert config.recipes.quantised is expected
        assert read(config.resolved()).recipes.quantised is expected


OWN = """
from dataclasses import dataclass

from trainables.tasks import DigitsTask


@dataclass(frozen=True)
class Half(DigitsTask):
    share: float = 0.5
"""


@pytest.fixture
def own_task(tmp_path, monkeypatch) -> str:
    """Import path of a task of the user's in the working folder."""
    (tmp_path / "halves.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "halves:Half"
    sys.modules.pop("halves", None)


def test_own_task_when_named_by_import_path_then_takes_its_options_and_comes_back(own_task):
    config = read({"task": {"name": own_task, "share": 0.25}})
    assert (type(config.task).__name__, config.task.share) == ("Half", 0.25)
    assert config.resolved()["task"]["name"] == own_task
    assert read(config.resolved()) == config
    assert SearchConfig(task=config.task).task is config.task
    jsonschema.validate({"task": own_task}, json_schema())
    jsonschema.validate({"task": {"name": own_task, "share": 0.25}}, json_schema())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("halves:Whole", "has no such name"),
        ("thirds:Half", "cannot be imported"),
        ("halves:DigitsTask.load", "is no task"),
    ],
)
def test_own_task_when_it_cannot_be_one_then_says_why(own_task, name, problem):
    error = refusal({"task": name})
    assert (error.field, error.value) == ("task", name)
    assert problem in error.problem


def test_own_task_when_an_option_is_unknown_then_is_refused(own_task):
    error = refusal({"task": {"name": own_task, "shore": 1}})
    assert (error.field, error.problem) == ("task.shore", "unknown key")
    assert "did you mean 'share'?" in error.remedy


def test_recipes_when_targets_are_labels_then_hold_what_suits_and_refuse_the_rest(tmp_path):
    task = {"name": "images", "path": str(tmp_path / "x.parquet"), "targets": "labels"}
    config = read({"task": task, "recipes": "standard"})
    assert config.recipes.losses == ("binary_kd",)
    assert read(config.resolved()) == config
    assert refusal({"task": task, "recipes": {"losses": ["kd", "dist"]}}).field == "recipes.losses"
    assert refusal({"task": {**task, "targets": "tags"}}).field == "task.targets"
