"""Specification of `kdnas_ray.cli`: what is typed, what is printed, and the exit codes."""

import json
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet
import pytest
import yaml

import kdnas_ray
from kdnas_ray import cli
from kdnas_ray.catalogue import CATALOGUE
from kdnas_ray.config import SearchConfig
from search_spaces import KdnasError, RunError
from trainables.teachers import write_predictions

TINY_TEACHER = ("teachers.0.epochs=1", "teachers.0.stem=2", "teachers.0.widths=[2]", "teachers.0.depths=[1]")


@pytest.fixture
def kdnas(monkeypatch, capsys, tmp_path):
    """Runs `kdnas` with these words in an empty folder; gives exit code, output and error output."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kdnas", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return call


def assert_refused(answer: tuple[int, str, str], *parts: str) -> None:
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_version_when_asked_then_is_the_packages(kdnas):
    assert kdnas("--version") == (0, f"kdnas {kdnas_ray.__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["search"],
        ["teacher"],
        ["teacher", "train"],
        ["teacher", "rank"],
        ["list"],
        ["config"],
        ["calibrate"],
        ["explain"],
    ],
)
def test_help_when_asked_then_explains_every_command(kdnas, command):
    code, out, _ = kdnas(*command, "--help")
    assert code == 0
    assert "Usage: kdnas" in out


def test_version_when_asked_as_a_module_then_imports_nothing_heavy():
    # Neither waits a version for Ray nor a search for MLflow: each takes seconds to import.
    code = (
        "import runpy, sys; sys.argv = ['kdnas', '--version']\n"
        "try: runpy.run_module('kdnas_ray', run_name='__main__')\n"
        "except SystemExit as end: print(end.code)\n"
        "import kdnas_ray.tracking, kdnas_ray.mlflow_sender\n"
        "print(sorted({'ray', 'optuna', 'mlflow'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == f"kdnas {kdnas_ray.__version__}\n0\n[]\n"


def test_package_when_imported_then_offers_what_python_users_need():
    assert set(kdnas_ray.__all__) >= {"KdnasError", "RunError", "SearchConfig", "SearchResult", "resume", "search"}
    assert kdnas_ray.SearchConfig is SearchConfig
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        kdnas_ray.serach  # noqa: B018


def test_search_when_imported_from_the_package_then_is_the_function():
    code = (
        "from kdnas_ray import search, resume\nfrom kdnas_ray import search as again\n"
        "import kdnas_ray, kdnas_ray.driver\n"
        "print(again is search is kdnas_ray.driver.search, type(search).__name__, type(resume).__name__)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "True function function\n"


@pytest.mark.parametrize("kind", CATALOGUE)
def test_list_when_asked_for_json_then_gives_name_summary_and_source(kdnas, kind):
    code, out, err = kdnas("list", kind, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == list(CATALOGUE[kind])
    assert all(set(row) - {"reads", "key"} == {"name", "summary", "source"} for row in rows)


def test_list_when_asked_for_people_then_gives_a_line_an_entry(kdnas):
    code, out, _ = kdnas("list", "samplers")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(CATALOGUE["samplers"])
    assert "[Bergstra 2011" in out


def test_list_when_the_kind_is_unknown_then_suggests(kdnas):
    assert_refused(kdnas("list", "sampler"), "sampler", "did you mean 'samplers'?")


def test_config_when_printed_then_is_the_resolved_yaml(kdnas):
    code, out, _ = kdnas("config", "budget.trials=7", "sampler=nsga2")
    assert code == 0
    data = yaml.safe_load(out)
    assert data["budget"]["trials"] == 7
    assert data["sampler"] == {"name": "nsga2", "population": 16}
    assert list(data) == list(SearchConfig().resolved())


def test_config_when_asked_for_its_schema_then_is_json(kdnas):
    code, out, _ = kdnas("config", "--schema")
    assert code == 0
    jsonschema.Draft202012Validator(json.loads(out)).validate(SearchConfig().resolved())


def test_init_when_run_then_writes_a_file_that_config_reads_and_never_overwrites(kdnas):
    code, out, _ = kdnas("init")
    assert code == 0
    assert "kdnas search kdnas.yaml" in out
    code, out, _ = kdnas("config", "kdnas.yaml")
    assert code == 0
    assert yaml.safe_load(out) == SearchConfig().resolved()
    assert_refused(kdnas("init"), "kdnas.yaml", "exists already")
    assert_refused(kdnas("init", "no/such/folder/c.yaml"), "its folder does not exist")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["budgte.trials=3"], ["budgte", "did you mean 'budget'?"]),
        (["budget.trails=3"], ["budget.trails = 3", "did you mean 'trials'?"]),
        (["budget.trials=many"], ["budget.trials = 'many'", "whole number"]),
        (["space=mobilenet-like"], ["space = 'mobilenet-like'", "known: resnet"]),
        (["nowhere.yaml"], ["nowhere.yaml", "kdnas init"]),
        (["a.yaml", "b.yaml"], ["more than one configuration"]),
        (["broken.yaml"], ["broken.yaml", "not valid YAML in line 2"]),
    ],
)
@pytest.mark.parametrize("command", [["config"], ["search"], ["teacher", "train"]])
def test_bad_input_when_given_then_is_one_clear_message_and_exit_code_2(kdnas, command, words, parts):
    Path("broken.yaml").write_text("budget: {trials: 3\n")
    assert_refused(kdnas(*command, *words), "Error: ", *parts)
    assert [path.name for path in Path().iterdir()] == ["broken.yaml"]  # nothing was begun


CELL = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|nor_conv_1x1~0|none~1|skip_connect~2|"


def test_draw_when_given_an_architecture_then_writes_its_drawing_and_prints_its_notation(kdnas):
    assert kdnas("draw", "nasbench201", CELL, "--out", "cell.svg") == (0, f"cell.svg  {CELL}\n", "")
    drawing = ElementTree.parse("cell.svg").getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    shown = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert shown == ["input", "nor_conv_3x3", "avg_pool_3x3", "nor_conv_1x1", "skip_connect", "output"]


def test_draw_when_given_none_then_draws_a_random_one_of_the_seed_within_the_options(kdnas):
    drawn = []
    for number, seed in enumerate(("1", "1", "2")):
        code, out, _ = kdnas(
            "draw", "resnet", "space.widths=16", "space.stages=1", "--seed", seed, "--out", f"{number}.svg"
        )
        assert code == 0
        file, _, text = out.partition("  ")
        assert json.loads(text)["stage1.width"] == 16
        drawn.append((text, Path(file).read_text()))
    assert drawn[0] == drawn[1] != drawn[2]
    assert ">width 16</text>" in drawn[0][1]
    # What is printed can be drawn again, to another file.
    words = ["draw", "resnet", drawn[0][0].strip(), "space.widths=16", "space.stages=1"]
    assert kdnas(*words)[1] == f"architecture.svg  {drawn[0][0]}"
    assert_refused(kdnas(*words), "--out = 'architecture.svg'", "exists already", "choose another file")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["resnte"], ["space = 'resnte'", "did you mean 'resnet'?"]),
        (["resnet", "space.width=16"], ["space.width", "did you mean 'widths'?"]),
        (["resnet", "{}"], ["architecture.stem.width", "one of 4, 8, 16"]),
        (["resnet", "wide"], ["architecture = 'wide'", "write the decisions as an object"]),
        (["nasbench201", "|none~9|"], ["architecture = '|none~9|'", "write it as |nor_conv_3x3~0|"]),
        (["nasbench101", "[" * 9999], ["architecture", "write it as"]),
        (["darts", "Genotype()"], ["architecture", "fields: normal, normal_concat"]),
        (["resnet", "{}", "{}"], ["more than one architecture"]),
        (["resnet", "--out", "cell.png"], ["--out", "SVG"]),
        (["resnet", "--out", "no/such/folder/a.svg"], ["--out", "No such file or directory", "choose another file"]),
    ],
)
def test_draw_when_it_cannot_then_says_why_and_what_to_do(kdnas, words, parts):
    assert_refused(kdnas("draw", *words), "Error: ", *parts)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("words", [["searhc"], ["search", "--uot", "x"], ["retrain", "run", "--top", "0"]])
def test_command_line_when_misspelt_then_exits_with_2(kdnas, words):
    assert_refused(kdnas(*words), "Usage: kdnas")


def test_list_when_asked_for_nothing_then_says_what_there_is(kdnas):
    assert_refused(kdnas("list"), "say what to list", "spaces, tasks, teachers", "objectives")


@pytest.mark.parametrize("command", [["resume"], ["retrain"], ["report"], ["sync"], ["compare"]])
def test_run_when_it_is_no_run_folder_then_is_refused(kdnas, command):
    runs = ["nothing", "nothing"] if command == ["compare"] else ["nothing"]
    assert_refused(kdnas(*command, *runs), "not a run folder", "nothing")


def test_run_folder_when_it_exists_then_is_refused_with_the_way_on(kdnas):
    Path("run").mkdir()
    (Path("run") / "a").touch()
    assert_refused(kdnas("search", "--out", "run"), "--out = 'run'", "kdnas resume run")


def test_resume_when_an_override_would_change_the_search_then_is_refused(kdnas):
    Path("run").mkdir()
    (Path("run") / "config.yaml").write_text("seed: 0\n")
    assert_refused(
        kdnas("resume", "run", "space.stages=2"), "space.stages", "budget, resources, retrain, study, tracking"
    )
    assert_refused(kdnas("resume", "run", "budget.trials"), "an override is key.path=value")


def failing(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (KdnasError("cannot be", field="x", value=3, remedy="do y"), 2, "Error: x = 3: cannot be\n  do y\n"),
        (RunError("broke", field="search"), 1, "Error: search: broke\n"),
        (
            ZeroDivisionError("by zero [bold]"),
            1,
            "Failed: ZeroDivisionError: by zero [bold]\n  `--debug` shows where.\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_failure_when_it_reaches_the_command_line_then_has_its_exit_code_and_no_traceback(
    kdnas, monkeypatch, error, code, shown
):
    monkeypatch.setattr("kdnas_ray.catalogue.catalogue", failing(error))
    assert kdnas("list", "spaces") == (code, "", shown)


@pytest.mark.parametrize("error", [KdnasError("cannot be", field="x"), ZeroDivisionError("by zero")])
def test_debug_when_asked_then_shows_the_traceback(monkeypatch, error):
    monkeypatch.setattr("kdnas_ray.catalogue.catalogue", failing(error))
    for words in (["--debug", "list", "spaces"], ["list", "spaces", "--debug"]):
        monkeypatch.setattr(sys, "argv", ["kdnas", *words])
        with pytest.raises(type(error)):
            cli.main()


def test_debug_when_run_as_a_module_then_prints_where_it_happened():
    words = [sys.executable, "-m", "kdnas_ray", "config", "nowhere.yaml", "--debug"]
    shown = subprocess.run(words, capture_output=True, text=True)
    assert shown.returncode != 0
    assert "Traceback" in shown.stderr
    assert "read_file" in shown.stderr


def test_search_when_interrupted_then_exits_with_130_and_says_how_to_go_on(kdnas, monkeypatch):
    from kdnas_ray.driver import Interrupted

    monkeypatch.setattr(sys.modules["kdnas_ray.driver"], "search", failing(Interrupted("runs/a")))
    code, out, err = kdnas("search")
    assert (code, err) == (130, "")
    assert "kdnas resume runs/a" in out


def test_teacher_when_trained_then_lies_in_a_folder_that_a_search_can_use(kdnas):
    code, out, _ = kdnas("teacher", "train", *TINY_TEACHER, "--out", "mine")
    assert code == 0
    assert "mine: validation accuracy 0." in out
    setting = out.strip().splitlines()[-1].partition("'")[2].rstrip("'")
    assert setting == "teachers=[{name: folder, path: mine}]"
    from kdnas_ray.config import read
    from kdnas_ray.prepare import plan

    made = plan(read({}, [setting, "recipes.hints=[false]", "constraints={}"]))
    assert made.teacher_costs["params"] == 9 * 2 + 4 + 2 * 9 * 4 + 8 + 2 * 10 + 10
    assert_refused(kdnas("teacher", "train", "--out", "mine"), "--out = 'mine'", "exists already")


def test_samples_when_written_then_stored_answers_to_them_teach(kdnas):
    code, out, _ = kdnas("teacher", "samples", "--out", "samples.parquet")
    assert code == 0
    assert out.startswith("samples.parquet: 1,797 images\n")
    printed = out.splitlines()[-1]
    assert printed.startswith("Use it: kdnas search ")
    rows = pyarrow.parquet.read_table("samples.parquet").to_pylist()
    write_predictions("answers.parquet", [row["sample"] for row in rows], np.zeros((len(rows), 10)))
    from kdnas_ray.config import read
    from kdnas_ray.prepare import plan

    plan(read({}, shlex.split(printed)[4:]))  # the whole command, as it is printed
    assert_refused(kdnas("teacher", "samples", "--out", "samples.parquet"), "--out = ", "exists already")


def test_teacher_when_it_is_trained_already_then_is_refused(kdnas):
    assert_refused(kdnas("teacher", "train", "teachers=[{name: folder, path: x}]"), "this teacher is trained already")


TINY_RANK = (
    "task.validation=0.5", "task.test=0.3", "bank.views=1", "constraints.params.of_teacher=0.9", "space.stages=1",
    "teachers=[{stem: 8, widths: [8], depths: [1], epochs: 1, views: 1}]", "bank.cache=cache",
)  # fmt: skip


def test_teachers_when_ranked_then_the_best_is_marked_and_a_line_says_whether_it_is_the_biggest(kdnas):
    words = ("teacher", "rank", *TINY_RANK, "--widths", "16,8", "--epochs", "1", "--seeds", "2")
    code, out, err = kdnas(*words)
    assert code == 0
    assert "Training the teacher: " in err
    head, narrow, wide, alone, verdict = out.splitlines()
    assert "student's validation" in head
    assert (narrow.split()[0], wide.split()[0]) == ("8", "16")
    assert sum("← best" in line for line in (narrow, wide, alone)) == 1
    assert " ± " in alone
    assert "this student of" in verdict
    code, out, _ = kdnas(*words, "--json")
    assert code == 0
    found = json.loads(out)
    assert [row["width"] for row in found["teachers"]] == [8, 16]
    best = max(found["teachers"], key=lambda row: row["val_accuracy"])
    assert found["biggest_is_best"] == (best["width"] == 16)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("--widths = ''", "there is none", "--widths 8,16,32,64")),
        (("--widths", ","), ("--widths = ','", "there is none")),
        (("--widths", "8,0"), ("--widths = '0'", "from 1 up", "--widths 8,16,32,64")),
        (("--widths", "8,-4"), ("--widths = '-4'", "from 1 up")),
        (("--widths", "8", "teachers=[{name: folder, path: x}]"), ("teachers.0 = 'folder'", "choose `trained`")),
        (("--widths", "8", "constraints.params=3"), ("constraints", "loosen the constraint")),
    ],
)
def test_teachers_when_they_cannot_be_ranked_then_names_field_value_and_remedy(kdnas, words, parts):
    assert_refused(kdnas("teacher", "rank", *words), "Error: ", *parts)


def test_ui_when_nothing_was_tracked_here_then_is_refused(kdnas, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert_refused(kdnas("ui"), "no search was tracked here yet")
    assert kdnas("ui", "--port", "70000")[0] == 2
