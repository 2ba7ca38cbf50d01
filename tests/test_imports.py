"""Imports go downwards only: search_spaces, then trainables, then kdnas_ray."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"search_spaces", "trainables", "kdnas_ray"}
FORBIDDEN = {
    "search_spaces": (OURS - {"search_spaces"}) | {"optuna", "ray", "mlflow", "typer", "pydantic"},
    "trainables": {"kdnas_ray", "optuna", "mlflow", "typer", "pydantic"},
}
# Tune's trainable is the one place below kdnas_ray that knows Ray.
KNOWS_RAY = {ROOT / "trainables" / name for name in ("lineup.py", "online.py")}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_nothing_from_above(package):
    assert modules(package)
    wrong = {str(path.relative_to(ROOT)): sorted(imported(path) & FORBIDDEN[package]) for path in modules(package)}
    assert {name: names for name, names in wrong.items() if names} == {}


def test_only_the_trainable_knows_ray():
    assert {path for path in modules("trainables") if "ray" in imported(path)} == KNOWS_RAY


def test_packages_import_no_tests_and_no_benchmarks():
    for package in OURS:
        for path in modules(package):
            assert not imported(path) & {"tests", "benchmarks", "examples", "pytest"}, path
