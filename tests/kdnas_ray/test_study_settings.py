"""Specification of `kdnas_ray.study_settings`: where the study lies is said without a secret."""

import pytest

from kdnas_ray.config import read
from search_spaces import KdnasError


@pytest.mark.parametrize(
    ("settings", "field", "remedy"),
    [
        ({"url": "postgresql://ann:planted@db/study"}, "study.url", "env:NAME"),
        ({"url": "host=db password=planted"}, "study.url", "postgresql://user@host"),
        ({"url": "mysql://ann:planted@db/study"}, "study.url", "postgresql://user@host"),
        ({"url": "env:planted-"}, "study.url", "env:NAME"),
        ({"name": " "}, "study.name", "at most 200"),
        ({"patience_s": -1}, "study.patience_s", "0"),
    ],
)
def test_settings_when_they_cannot_work_then_are_refused_and_no_password_is_shown(settings, field, remedy):
    with pytest.raises(KdnasError) as caught:
        read({"study": settings})
    assert caught.value.field == field
    assert remedy in caught.value.remedy
    assert "planted" not in str(caught.value)


def test_address_when_a_variable_is_named_then_is_its_value_and_the_configuration_keeps_the_name(monkeypatch):
    monkeypatch.setenv("STUDY", "postgresql://ann:planted@db/study")
    config = read({"study": {"url": "env:STUDY"}})
    assert config.study.address() == "postgresql://ann:planted@db/study"
    assert config.resolved()["study"] == {"url": "env:STUDY", "name": None, "patience_s": 300}


@pytest.mark.parametrize("value", [None, "sqlite:///planted.db"])
def test_address_when_the_variable_holds_none_then_the_refusal_names_it_alone(monkeypatch, value):
    monkeypatch.delenv("STUDY", raising=False)
    if value:
        monkeypatch.setenv("STUDY", value)
    with pytest.raises(KdnasError, match="env:STUDY") as caught:
        read({"study": {"url": "env:STUDY"}}).study.address()
    assert "export STUDY=" in caught.value.remedy
    assert "planted" not in str(caught.value)
