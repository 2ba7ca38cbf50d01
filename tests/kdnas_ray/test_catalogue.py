"""Specification of `kdnas_ray.catalogue`: what `kdnas list` can say about everything that can be named."""

import pytest

from kdnas_ray.catalogue import CATALOGUE, catalogue
from kdnas_ray.cli import KINDS
from search_spaces import KdnasError
from search_spaces.registry import missing


def test_kinds_when_listed_then_the_command_line_knows_the_same():
    assert tuple(CATALOGUE) == KINDS


@pytest.mark.parametrize("kind", CATALOGUE)
def test_entries_when_described_then_have_a_name_and_a_one_line_summary(kind):
    rows = catalogue(kind)
    assert [row["name"] for row in rows] == list(CATALOGUE[kind])
    for row in rows:
        more = {"losses": {"reads"}, "proxies": {"reads"}, "alpha": {"key"}}.get(kind, set())
        assert set(row) == {"name", "summary", "source"} | more
        assert len(row["summary"]) > 20
        assert "\n" not in row["summary"]


@pytest.mark.parametrize("kind", ["spaces", "tasks", "recipes", "losses", "samplers", "evaluators", "proxies"])
def test_methods_when_described_then_name_their_source_with_its_year(kind):
    for row in catalogue(kind):
        assert any(character.isdigit() for character in row["source"]), row["name"]


@pytest.mark.parametrize("kind", ["spaces", "tasks", "recipes", "samplers", "schedulers"])
def test_entries_have_what_is_asked_of_a_users_own(kind):
    registry = CATALOGUE[kind]
    assert registry.needs
    for name, entry in registry.items():
        assert missing(entry, registry.needs) == "", name


def test_kind_when_misspelt_then_suggests_and_lists():
    with pytest.raises(KdnasError) as caught:
        catalogue("sampler")
    assert caught.value.remedy == "did you mean 'samplers'? known: " + ", ".join(CATALOGUE)
