"""Specification of `kdnas_ray.starter`: the file that `kdnas init` writes."""

import itertools
import re

import yaml

from kdnas_ray.catalogue import CATALOGUE
from kdnas_ray.config import SearchConfig, read_file
from kdnas_ray.starter import LISTED, TOP, commented_yaml


def test_file_when_read_back_then_is_the_default_configuration(tmp_path):
    path = tmp_path / "kdnas.yaml"
    path.write_text(commented_yaml(), encoding="utf8")
    assert yaml.safe_load(commented_yaml()) == SearchConfig().resolved()
    assert read_file(path) == SearchConfig()


def test_file_when_looked_at_then_every_top_key_is_introduced_and_nothing_is_introduced_in_vain():
    assert list(TOP) == list(SearchConfig().resolved())
    lines = commented_yaml().splitlines()
    for key, comment in TOP.items():
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        above = itertools.takewhile(lambda line: line.startswith("# "), reversed(lines[:place]))
        introduced = " ".join(line.removeprefix("# ") for line in reversed([*above]))
        assert comment in introduced, key


def test_file_when_looked_at_then_every_option_says_what_it_is():
    lines = commented_yaml().splitlines()
    bare = [
        line
        for above, line in itertools.pairwise(lines)
        if re.match(r"[- ]+\w+:", line)
        and "#" not in line
        and not above.lstrip().startswith("#")
        and not re.match(r"[- ]+name:", line)
        and line != "  params:"  # the number that is bounded: a name of the user's choosing, not an option
    ]
    assert bare == []


def test_file_when_a_key_takes_a_name_then_lists_the_known_ones():
    text = commented_yaml()
    for key, kind in LISTED.items():
        assert f"{TOP[key]} Known: {', '.join(CATALOGUE[kind])}.\n{key}:" in text.replace("\n# ", " ")


def test_file_when_shown_then_no_line_is_endless():
    assert max(map(len, commented_yaml().splitlines())) <= 130


def test_comments_when_parts_are_nested_then_each_is_its_own_parts():
    text = commented_yaml()
    assert "    shift: 1  # up to so many pixels in each direction" in text  # of the augmentation in the task
    assert "    max: null  # At most this number." in text  # of the bound in the constraints
