"""Do the commands of docs/cluster.md and deploy/README.md exist, with the options and files that they name?"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from ray.scripts import scripts

from kdnas_ray.cli import app

ROOT = Path(__file__).parents[2]
PAGES = ("docs/cluster.md", "deploy/README.md")
COMMANDS = {"kdnas": typer.main.get_command(app), "ray": scripts.cli}


def lines(page: str) -> list[str]:
    """The commands of a page, those within quotes as well."""
    text = (ROOT / page).read_text(encoding="utf8")
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            found += [line.partition(" #")[0], *(word for word in words if " " in word)]
    return [part.strip() for line in found for part in re.split(r"&&|;|\s--\s", line)]


def known(page: str) -> list[tuple[str, list[str]]]:
    """Program and words of each command of ours or of Ray; what is set before it is left out."""
    split = [shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", line)) for line in lines(page) if line.count("'") % 2 == 0]
    return [(words[0], words[1:]) for words in split if words and words[0] in COMMANDS]


@pytest.mark.parametrize("page", PAGES)
def test_commands_when_a_page_names_them_then_they_and_their_options_exist(page):
    commands = known(page)
    assert {program for program, _ in commands} == {"kdnas", "ray"}
    for program, words in commands:
        command: Any = COMMANDS[program]
        while hasattr(command, "commands"):
            assert words[0] in command.commands, words
            command, words = command.commands[words[0]], words[1:]
        there = {option for parameter in command.params for option in parameter.opts}
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= there, (program, words)


@pytest.mark.parametrize("page", PAGES)
def test_files_when_a_page_names_them_then_they_are_there(page):
    text = (ROOT / page).read_text(encoding="utf8")
    named = set(re.findall(r"\b(?:deploy/|examples/)[\w./]+\b|\b(?:cluster|kuberay)\.yaml\b", text)) - {"kuberay.yaml"}
    named |= {str(Path(page).parent / link) for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    assert len(named) > 2
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_page_when_it_exists_then_the_readme_leads_there():
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    assert "(docs/cluster.md)" in readme
    assert "--address" in readme
