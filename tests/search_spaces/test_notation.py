"""Specification of `search_spaces.notation` where a space has no text of its own."""

import random

import pytest

from search_spaces import KdnasError, NASBench201Space, ResNetSpace, sample
from search_spaces.notation import canonical, notation, parse


def test_notation_without_one_of_its_own_is_json_of_the_decisions(own_space):
    architecture = sample(own_space, random.Random(0))
    assert notation(own_space, architecture).startswith('{"layers": ')
    assert parse(own_space, notation(own_space, architecture)) == architecture


def test_notation_is_the_spaces_own_where_it_has_one():
    space = NASBench201Space()
    architecture = sample(space, random.Random(0))
    assert notation(space, architecture) == space.notation(architecture)
    assert parse(space, space.notation(architecture)) == architecture
    assert canonical(space, architecture) == space.canonical(architecture)


def test_canonical_without_one_of_its_own_is_the_digest(own_space):
    architecture = sample(own_space, random.Random(0))
    assert canonical(own_space, architecture) == architecture.digest()


@pytest.mark.parametrize(
    ("text", "problem", "field"),
    [
        ("{", "not JSON", "architecture"),
        ("[1]", "not a JSON object", "architecture"),
        ("{}", "missing", "architecture.stem.width"),
        ('{"stem.width": 5}', "outside its range", "architecture.stem.width"),
    ],
)
def test_parse_says_what_is_wrong(text, problem, field):
    with pytest.raises(KdnasError, match=problem) as caught:
        parse(ResNetSpace(), text)
    assert caught.value.field == field
    assert caught.value.remedy
