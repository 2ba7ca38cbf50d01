"""Specification of `kdnas_ray.config`: whatever is written into a configuration, it is read or refused in words."""

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdnas_ray.config import SearchConfig, read, read_file
from search_spaces import KdnasError

WHOLE: dict[str, Any] = SearchConfig().resolved()

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, -1, 1e308, float("nan"), float("inf"), True])
)
TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["", " ", "null", "{", "../..", "a: b", "\x00", "kd", "resnet"])
)
SCALARS = st.one_of(st.none(), NUMBERS, TEXTS)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(TEXTS, st.sampled_from(["name", "loss", "weight"])), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(data: Any, path: tuple = ()) -> list[tuple]:
    """Every key and index of nested data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found = []
    for key, value in items:
        found += [(*path, key), *places(value, (*path, key))]
    return found


PLACES = places(WHOLE)


def told(work: Any) -> None:
    """It is taken, or refused with the field and without a traceback."""
    try:
        work()
    except KdnasError as error:
        refused = error
    else:
        return
    assert refused.exit_code == 2
    assert len(str(refused)) > 20  # the words
    assert "Traceback" not in str(refused)


@settings(max_examples=700, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(where=st.lists(st.sampled_from(PLACES), min_size=1, max_size=3), junk=st.lists(JUNK, min_size=3, max_size=3))
def test_configuration_with_anything_in_any_place_is_read_or_refused_in_words(where, junk):
    data = copy.deepcopy(WHOLE)
    for path, value in zip(where, junk, strict=False):
        inner: Any = data
        with contextlib.suppress(TypeError, LookupError):  # an earlier one took the place away
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
    told(lambda: read(data))


@settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.dictionaries(TEXTS | st.sampled_from(list(WHOLE)), JUNK, max_size=4))
def test_configuration_that_is_anything_is_read_or_refused_in_words(data):
    told(lambda: read(data))


@settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    override=st.one_of(
        st.text(max_size=30),
        st.builds(
            lambda path, value: f"{'.'.join(map(str, path))}={value}", st.sampled_from(PLACES), st.text(max_size=20)
        ),
    )
)
def test_override_that_is_anything_is_read_or_refused_in_words(override):
    told(lambda: read({}, [override]))


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"a: [", b"- 1\n", b"\x00", b"&a [*a]", b"a: !!python/object:os.system x"]
)
def test_file_that_holds_anything_is_refused_in_words(tmp_path, content):
    path = tmp_path / "kdnas.yaml"
    path.write_bytes(content)
    with pytest.raises(KdnasError):
        read_file(path, [])
