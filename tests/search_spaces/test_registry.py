"""Specification of `search_spaces.registry`."""

import sys
from dataclasses import dataclass

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


OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Cow:
    milk: int = 3

    def speak(self):
        return "moo"

@dataclass
class Loose(Cow.__mro__[1]):
    def speak(self):
        return ""

class Plain:
    def speak(self):
        return ""

@dataclass(frozen=True)
class Mute:
    milk: int = 3
"""
SPEAKING = Registry("animal", ("cat", Cat), needs=("speak",))


@dataclass(frozen=True)
class Bird:
    def speak(self) -> str:
        return "tweet"


@pytest.fixture
def farm(tmp_path, monkeypatch):
    """A module of the user's in the working folder."""
    (tmp_path / "own_farm.py").write_text(OWN)
    (tmp_path / "broken_farm.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield
    sys.modules.pop("own_farm", None)


def test_registry_imports_a_users_own_entry_from_the_working_folder(farm):
    cow = SPEAKING["own_farm:Cow"]
    assert cow(milk=5).speak() == "moo"
    assert SPEAKING.name_of(cow) == SPEAKING.name_of(cow()) == "own_farm:Cow"
    assert SPEAKING.name_of(Bird()) == f"{__name__}:Bird"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("own_barn:Cow", "cannot be imported \\(ModuleNotFoundError"),
        ("broken_farm:Cow", "cannot be imported \\(ZeroDivisionError"),
        ("own_farm:Pig", "has no such name"),
        ("own_farm:Plain", "is no dataclass"),
        ("own_farm:Loose", "not a frozen one"),
        ("own_farm:Mute", "has no speak"),
    ],
)
def test_registry_says_what_keeps_an_own_entry_from_being_one(farm, path, problem):
    with pytest.raises(KdnasError, match=problem) as caught:
        SPEAKING[path]
    assert (caught.value.field, caught.value.value) == ("animal", path)
    assert caught.value.remedy


def test_registry_without_needs_knows_no_import_paths(farm):
    with pytest.raises(KdnasError, match="unknown animal"):
        ANIMALS["own_farm:Cow"]
