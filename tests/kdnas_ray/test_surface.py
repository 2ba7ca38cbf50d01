"""The surface that scripts rely on is frozen in surface.yaml: commands, options, configuration keys and defaults.

A change on purpose: `python tests/kdnas_ray/test_surface.py` writes the file anew; the diff shows what changed.
"""

from pathlib import Path
from typing import Any

import typer
import yaml

from kdnas_ray.catalogue import CATALOGUE
from kdnas_ray.cli import app
from kdnas_ray.config import SearchConfig

FILE = Path(__file__).with_name("surface.yaml")


def surface() -> dict[str, Any]:
    """What a user can type: commands with their arguments and options, keys with their defaults, names."""
    return {
        "commands": dict(sorted(_commands(typer.main.get_command(app), "kdnas"))),
        "names": {kind: list(entries) for kind, entries in CATALOGUE.items()},
        "configuration": SearchConfig().resolved(),
    }


def _commands(command: Any, name: str) -> list[tuple[str, list[str]]]:
    words = [
        "/".join(parameter.opts) if parameter.param_type_name == "option" else parameter.name.upper()
        for parameter in command.params
    ]
    found = [(name, words)]
    for part in getattr(command, "commands", {}).values():
        found += _commands(part, f"{name} {part.name}")
    return found


def test_surface_when_compared_with_the_file_then_has_not_changed_unseen():
    known = yaml.safe_load(FILE.read_text())
    now = surface()
    for part in now:
        assert now[part] == known[part], "if this is on purpose: python tests/kdnas_ray/test_surface.py"
    assert list(now) == list(known)


if __name__ == "__main__":
    FILE.write_text(yaml.safe_dump(surface(), sort_keys=False, default_flow_style=None, width=110))
