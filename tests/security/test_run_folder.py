"""Specification of what a real search leaves: no secret, no text that becomes an element, no name that leads out.

One small search on digits serves all of it.
"""

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.launch import SMALL, config_file, kdnas
from typer.testing import CliRunner

from kdnas_ray.cli import app
from kdnas_ray.report import write_report
from search_spaces import KdnasError

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "planted-alpha",
    "MLFLOW_TRACKING_TOKEN": "planted-beta",
    "AWS_SECRET_ACCESS_KEY": "planted-gamma",
    "HF_TOKEN": "planted-delta",
    "MLFLOW_TRACKING_URI": "http://ann:planted-epsilon@127.0.0.1:1/store?token=planted-zeta",
}
HOSTILE = '"onmouseover="alert(1)" x=\'</script><script>alert(1)</script><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Path, str]:
    """A folder in which a search ran, with secrets in its environment, and all that it printed."""
    folder = tmp_path_factory.mktemp("secrets")
    changes: dict[str, Any] = {
        "budget": {"trials": 3},
        "scheduler": {"name": "asha", "max_epochs": 2, "grace_epochs": 1, "reduction_factor": 2},
        "retrain": {"top": 1, "epochs": 2, "seeds": 1},
        "teachers": [SMALL["teachers"][0] | {"epochs": 2}],
    }
    done = kdnas("search", config_file(folder, **changes), "--out", "run", cwd=folder, **SECRETS)
    assert done.returncode == 0, done.stdout + done.stderr
    # What was kept goes to a store that answers: the same records, and the model.
    store = {**SECRETS, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    sent = kdnas("sync", "run", cwd=folder, **store)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    return folder, done.stdout + done.stderr + sent.stdout + sent.stderr


def test_search_when_its_environment_holds_secrets_then_none_is_written_or_printed(searched):
    folder, printed = searched
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    assert len(files) > 30
    held = {str(path) for path in files if b"planted-" in path.read_bytes()}
    assert held == set()
    assert "planted-" not in printed
    assert "127.0.0.1:1" in printed + (folder / "run" / "tracking.log").read_text()  # the address itself may be shown


class Page(HTMLParser):
    """Elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture
def run(searched, tmp_path) -> Path:
    """A copy of the run that may be altered."""
    shutil.copytree(searched[0] / "run", tmp_path / "run")
    return tmp_path / "run"


KEPT = {"state", "type", "status", "targets", "metric", "space", "name", "id", "kind", "format"}


def planted(value: Any, key: str = "") -> Any:
    """The same with hostile text for every text but those that say what something is."""
    if isinstance(value, dict):
        return {name: planted(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [planted(part, key) for part in value]
    return HOSTILE if isinstance(value, str) and key not in KEPT else value


def test_report_when_every_text_of_the_run_is_hostile_then_has_no_element_and_no_attribute_of_it(run, tmp_path):
    known = Page(write_report(run).read_text(encoding="utf8"))
    for name in ("summary.json", "teacher.json", "state.json"):
        if (run / name).exists():
            (run / name).write_text(json.dumps(planted(json.loads((run / name).read_text()))))
    config = yaml.safe_load((run / "config.yaml").read_text())
    kept = {"objectives": config["objectives"]}
    config = planted(config) | kept | {"tracking": {"experiment": HOSTILE}, "task": {"name": HOSTILE, "path": HOSTILE}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"objectives": kept["objectives"]}))
    rows = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
    rows = [row | {"reason": HOSTILE, "architecture": {HOSTILE: HOSTILE}} for row in rows]
    (run / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(run.rename(tmp_path / HOSTILE.replace("/", "⁄"))).read_text(encoding="utf8")
    page = Page(text)
    assert page.tags.count("script") <= known.tags.count("script")
    assert "img" not in set(page.tags) - set(known.tags)
    assert {name for name in page.attributes if name.startswith("on")} == set()
    assert text.count("alert(1)") > 3  # it is there, as text


def refused(*words: str) -> None:
    """The command says so as bad input, without a traceback."""
    done = CliRunner().invoke(app, list(words))
    assert isinstance(done.exception, KdnasError), (words, done.output, done.exception)


IDS = ("../outside", "/etc", "..", "c0000/../../outside", "a\0b")


@pytest.mark.parametrize("name", IDS)
def test_commands_when_a_candidate_is_named_so_that_it_leads_out_then_refuse(run, name):
    for words in (("export", str(run), "--candidate", name), ("draw", str(run), name), ("latency", str(run), name)):
        refused(*words)
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS[:4])
def test_run_when_a_candidate_in_its_files_is_named_so_that_it_leads_out_then_nothing_outside_is_touched(run, name):
    outside = run.parent / "outside"
    outside.mkdir()
    (outside / "kept.txt").touch()
    for file in ("candidates.jsonl", "retrained.jsonl"):
        rows = [json.loads(line) | {"id": name} for line in (run / file).read_text().splitlines()]
        (run / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "best" / "candidate.json").write_text(json.dumps({"id": name}))
    for words in (("export", str(run)), ("retrain", str(run)), ("resume", str(run), "budget.trials=9")):
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code != 0
    assert os.listdir(outside) == ["kept.txt"]
    assert sorted(path.name for path in run.parent.iterdir()) == ["outside", "run"]


def test_export_when_its_folder_is_a_link_to_one_that_holds_something_then_refuses(run):
    mine = run.parent / "mine"
    mine.mkdir()
    (mine / "kept.txt").touch()
    (run.parent / "link").symlink_to(mine)
    refused("export", str(run), "--out", str(run.parent / "link"))
    assert os.listdir(mine) == ["kept.txt"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "no such"])
def test_commands_when_what_is_named_is_no_run_then_refuse(run, name):
    refused("compare", str(run), str(run.parent / name))
    refused("report", str(run.parent / name))
    refused("latency", str(run), "--device", f"{name}.yaml")
