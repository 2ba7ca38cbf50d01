"""Specification of `kdnas_ray.runs`: lines that a crash cut, states replaced in one step, one process a run."""

import json
import resource
import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_ray.runs import (
    append_jsonl,
    check_creatable,
    lock,
    parse_jsonl,
    read_config,
    read_jsonl,
    read_state,
    read_summary,
    read_tracking,
    require_run,
    write_config,
    write_state,
)
from search_spaces import KdnasError


def test_lines_when_appended_then_are_read_back_in_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"id": number, "text": "ä\n\u2028\x85", "nested": {"list": [1, None]}} for number in range(3)]
    for row in rows:
        append_jsonl(path, row)
    assert read_jsonl(path) == rows
    assert path.read_bytes().count(b"\n") == 3


def test_lines_when_there_is_no_file_then_are_none(tmp_path):
    assert read_jsonl(tmp_path / "rows.jsonl") == []


@given(cut=st.integers(0, 200))
def test_lines_when_cut_anywhere_then_only_the_last_is_lost(cut):
    rows = [{"id": number, "name": "größer" * number} for number in range(5)]
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    whole = lines[:cut].count(b"\n")
    found = parse_jsonl(lines[:cut])
    assert found[:whole] == rows[:whole]
    assert len(found) <= whole + 1  # a line that lacks nothing but its end is whole


def test_line_when_appended_after_a_cut_one_then_starts_anew(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"id": 0})
    with path.open("ab") as file:
        file.write(b'{"id": 1, "cur')
    append_jsonl(path, {"id": 2})
    assert read_jsonl(path) == [{"id": 0}, {"id": 2}]
    assert path.read_bytes() == b'{"id": 0}\n{"id": 2}\n'  # complete lines only


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_line_when_the_only_one_was_cut_then_is_removed_however_long_it_is(tmp_path, size):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"x" * size)
    append_jsonl(path, {"id": 1})
    assert path.read_bytes() == b'{"id": 1}\n'


def test_line_when_the_disk_is_full_then_is_not_written_in_part(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"id": 0})
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))  # a write beyond 30 bytes is cut, the next one fails
    try:
        with pytest.raises(OSError, match="File too large"):
            append_jsonl(path, {"id": 1, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, kept)
    assert path.read_bytes() == b'{"id": 0}\n'


def test_configuration_when_emptied_or_no_mapping_then_is_refused_not_taken_for_the_default(run):
    for content in ("", "- 1\n", "3\n", "a: 2024-13-45\n"):
        (run / "config.yaml").write_text(content)
        with pytest.raises(KdnasError) as caught:
            read_config(run)
        assert caught.value.field == "RUN/config.yaml"


def test_configuration_when_written_then_is_read_back(run):
    write_config(run, {"seed": 3, "task": {"name": "digits"}})
    assert read_config(run) == {"seed": 3, "task": {"name": "digits"}}


def test_folder_when_it_cannot_be_made_then_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    check_creatable(tmp_path / "new" / "deep", "--out")
    for folder in (tmp_path / "file" / "run", tmp_path / "file" / "a" / "b"):
        with pytest.raises(KdnasError, match="is a file") as caught:
            check_creatable(folder, "--out")
        assert (caught.value.field, caught.value.value) == ("--out", str(folder))


def test_lines_when_they_hold_no_object_then_are_ignored():
    assert parse_jsonl(b'1\n[]\n"text"\nnull\n\n{"a": 1}\n\xff\xfe\n') == [{"a": 1}]


def test_numbers_when_not_finite_then_are_written_as_null(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (float("-inf"), 2)}})
    assert read_jsonl(path) == [{"a": None, "b": [None, 1.5], "c": {"d": [None, 2]}}]


def test_lines_when_threads_append_at_once_then_are_all_whole(tmp_path):
    path = tmp_path / "rows.jsonl"

    def write(name: int) -> None:
        for number in range(50):
            append_jsonl(path, {"name": name, "number": number, "filling": "x" * 3000})

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {(row["name"], row["number"]) for row in read_jsonl(path)}
    assert found == {(name, number) for name in range(4) for number in range(50)}


def test_state_when_written_then_replaces_the_old_one_and_leaves_no_draft(run):
    assert read_state(run) == {}
    write_state(run, {"wall_s": 1.0})
    write_state(run, {"status": "finished"})
    assert read_state(run) == {"status": "finished"}
    assert [path.name for path in run.iterdir()] == ["state.json"]


@pytest.mark.parametrize("read", [read_state, read_summary, read_tracking])
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1]", b"\xff"])
def test_facts_when_the_file_is_broken_then_are_empty(run, read, content):
    for name in ("state", "summary", "tracking"):
        (run / f"{name}.json").write_bytes(content)
    assert read(run) == {}


def test_folder_when_no_search_made_it_then_is_refused(run):
    for check in (require_run, read_config):
        for folder in (run, run / "nothing"):
            with pytest.raises(KdnasError, match="not a run folder") as caught:
                check(folder)
            assert (caught.value.field, caught.value.value) == ("RUN", str(folder))


def test_config_when_broken_then_is_refused_and_else_read(run):
    (run / "config.yaml").write_text("seed: 3\n")
    assert read_config(run) == {"seed": 3}
    for broken in (b"seed: [3\n", b"\xff\xfe"):
        (run / "config.yaml").write_bytes(broken)
        with pytest.raises(KdnasError, match="not valid YAML"):
            read_config(run)


def test_run_when_somebody_else_works_on_it_then_is_refused_and_afterwards_free(run):
    with lock(run):
        with pytest.raises(KdnasError, match="another process works on this run") as caught, lock(run):
            pass
        assert caught.value.value == str(run)
    with lock(run):
        pass
