"""Is every configuration in examples/ one that a search would accept, and does its first line say what it is for?"""

from pathlib import Path

import pytest

from kdnas_ray.config import read_file
from kdnas_ray.prepare import plan
from search_spaces import SPACES

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_accepted_and_explained(path):
    assert path.read_text(encoding="utf8").startswith("# ")
    assert f"kdnas search examples/{path.name}" in path.read_text(encoding="utf8")
    plan(read_file(path))


def test_every_space_but_the_default_has_an_example():
    shown = {SPACES.name_of(read_file(path).space) for path in EXAMPLES}
    assert shown | {"resnet"} >= set(SPACES)
