"""Specification of `search_spaces.registry`."""

import pytest

from search_spaces import KdnasError, Registry


class Cat:
    """A cat.

    Source: Linnaeus 1758, Systema Naturae.
    """


class Dog:
    pass


ANIMALS = Registry("animal", ("cat", Cat), ("dog", Dog))


def test_registry_gives_its_entries_in_order():
    assert list(ANIMALS) == ["cat", "dog"]
    assert ANIMALS["cat"] is Cat
    assert "cat" in ANIMALS
    assert "cow" not in ANIMALS
    assert (len(ANIMALS), dict(ANIMALS)) == (2, {"cat": Cat, "dog": Dog})


def test_registry_suggests_the_closest_name_and_lists_all_when_the_name_is_unknown():
    with pytest.raises(KdnasError) as caught:
        ANIMALS["cta"]
    assert str(caught.value) == "animal = 'cta': unknown animal\n  did you mean 'cat'? known: cat, dog"


def test_registry_lists_the_known_names_when_nothing_is_close():
    with pytest.raises(KdnasError) as caught:
        ANIMALS["zebra"]
    assert caught.value.remedy == "known: cat, dog"


def test_registry_raises_when_a_name_is_given_twice():
    with pytest.raises(KdnasError, match="two animal entries"):
        Registry("animal", ("cat", Cat), ("cat", Dog))


def test_name_of_finds_a_class_and_an_instance():
    assert ANIMALS.name_of(Cat) == "cat"
    assert ANIMALS.name_of(Dog()) == "dog"
    with pytest.raises(KdnasError, match="not a registered animal"):
        ANIMALS.name_of(object())


def test_describe_gives_summary_and_source_or_nothing():
    assert ANIMALS.describe() == [
        {"name": "cat", "summary": "A cat.", "source": "Linnaeus 1758, Systema Naturae."},
        {"name": "dog", "summary": "", "source": ""},
    ]
