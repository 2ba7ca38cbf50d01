"""Specification of `kdnas_ray.postgres`: an address holds no password, and messages show none."""

import pytest

from kdnas_ray.postgres import check_address, driven, is_postgres, same_database
from search_spaces import KdnasError


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:planted@db/study",
        "postgresql://ann:pl/an@ted@db:5432/study",
        "postgresql://ann:@db/study",
        "postgresql+psycopg://ann:planted@db/study",
        "postgresql://db/study?user=ann&password=planted",
        "postgresql://db/study?PASSWORD=planted",
    ],
)
def test_address_when_it_holds_a_password_then_is_refused_with_the_remedy_and_not_shown(url):
    with pytest.raises(KdnasError) as caught:
        check_address(url, "study.url", "elsewhere")
    assert "holds a password" in caught.value.problem
    assert "PGPASSFILE" in caught.value.remedy
    assert not any(part in str(caught.value) for part in ("planted", "ted", "pl/an"))


@pytest.mark.parametrize("url", ["postgresql://db", "postgresql://db/", "postgresql://db:port/study"])
def test_address_when_it_names_no_database_then_is_refused(url):
    with pytest.raises(KdnasError, match="names no database"):
        check_address(url, "study.url", "elsewhere")


@pytest.mark.parametrize(
    "url", ["postgresql://ann@db:5432/study?sslmode=require", "postgresql:///study?host=/run/postgresql"]
)
def test_address_when_it_holds_no_password_then_is_taken(url):
    check_address(url, "study.url", "elsewhere")
    assert is_postgres(url)
    assert driven(url) == url.replace("postgresql://", "postgresql+psycopg://")


def test_address_of_something_else_is_left_as_it_is():
    assert not is_postgres("sqlite:///mlflow.db")
    assert driven("sqlite:///mlflow.db") == "sqlite:///mlflow.db"


def test_two_addresses_are_of_one_database_whatever_user_and_driver_they_name():
    assert same_database("postgresql://ann@db/study", "postgresql+psycopg://bob:x@DB:5432/study")
    assert not same_database("postgresql://ann@db/study", "postgresql://ann@db/mlflow")
    assert not same_database("postgresql://db/one", "postgresql://db/one?options=-csearch_path%3Dmlflow")
    assert not same_database("sqlite:///one.db", "sqlite:///one.db")
