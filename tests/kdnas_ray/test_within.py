"""Specification of `kdnas_ray.within`: finalists keep a latency bound on this machine when they are measured."""

import json
import random
from dataclasses import replace

import pytest

from kdnas_ray import within
from kdnas_ray.adapter import Stop
from kdnas_ray.config import read
from kdnas_ray.hardware.devices import device, write
from kdnas_ray.hardware.measuring import Latency, processor
from kdnas_ray.prepare import plan
from kdnas_ray.runs import read_jsonl
from kdnas_ray.session import Interrupted
from kdnas_ray.within import MEASURED, keeping, measured, over_bounds
from search_spaces import KdnasError, sample
from trainables import slot

BOUND = 2.0


@pytest.fixture
def made(tmp_path):
    """Makes a checked search with a bound on a profile that was calibrated on this machine, or another."""

    def make(processor: str = processor(), runtime: str = "eager", threads: int = 1):
        profile = replace(device("server-cpu"), name="here", processor=processor, runtime=runtime, threads=threads)
        (tmp_path / "here.yaml").write_text(write(profile))
        return plan(
            read(
                {
                    "teachers": [{"stem": 4, "widths": [4], "depths": [1]}],
                    "space": {"stages": 1, "widths": [2, 4], "stem_widths": [2], "depths": [1], "kernels": [3]},
                    "recipes": {"hints": [False]},
                    "devices": [str(tmp_path / "here.yaml")],
                    "constraints": {"latency_ms": BOUND},
                    "bank": {"cache": str(tmp_path / "cache")},
                }
            )
        )

    return make


@pytest.fixture
def rows(row):
    """Three candidates of growing width, best first."""
    return [row(number, "complete", [0.9]) | {"architecture": {"width": number}} for number in range(3)]


@pytest.fixture
def latencies(monkeypatch):
    """Milliseconds that measuring a candidate's width will give; those asked for are noted."""
    found, asked = {}, []

    def fake(made, architecture, profile, waiting):
        asked.append(architecture["width"])
        ms = found[architecture["width"]]
        return Latency(ms, ms, ms, 20)

    monkeypatch.setattr(within, "measured", fake)
    return found, asked


def ids(rows):
    return [row["id"] for row in rows]


def test_finalists_when_one_breaks_the_bound_measured_then_the_next_takes_its_place(run, made, rows, latencies):
    found, asked = latencies
    found.update({0: 2.5, 1: 1.9, 2: 2.0})
    said = []
    assert ids(keeping(run, made(), rows, 2, said.append, Stop())) == ["c0001", "c0002"]
    assert said == ["c0000 is no finalist: measured, it takes 2.5 ms on here (at most 2)"]
    assert [(row["id"], row["latency_ms"]) for row in read_jsonl(run / MEASURED)] == [
        ("c0000", 2.5), ("c0001", 1.9), ("c0002", 2.0),
    ]  # fmt: skip
    assert over_bounds(run, made()) == {"c0000"}
    # A resumed run measures nothing again, or its finalists might change.
    keeping(run, made(), rows, 2, said.append, Stop())
    assert asked == [0, 1, 2]
    # What another runtime or another number of threads took says nothing of these.
    for other in (made(runtime="compiled"), made(threads=2)):
        assert over_bounds(run, other) == set()
        keeping(run, other, rows, 1, said.append, Stop())
    assert asked == [0, 1, 2, 0, 1, 0, 1]


def test_finalists_when_interrupted_then_nothing_more_is_measured(run, made, rows, latencies):
    stop = Stop()
    stop.reason = "interrupt"
    with pytest.raises(Interrupted):
        keeping(run, made(), rows, 2, print, stop)
    assert latencies[1] == []


def test_finalists_when_too_few_keep_the_bound_then_the_run_says_so(run, made, rows, latencies):
    latencies[0].update({0: 3, 1: 3, 2: 1})
    said = []
    assert ids(keeping(run, made(), rows, 2, said.append, Stop())) == ["c0002"]
    assert said[-1] == "2 of 3 candidates break a latency bound when measured; 1 are left"


def test_finalists_when_the_profile_is_of_another_machine_then_nothing_is_measured(run, made, rows, latencies):
    assert ids(keeping(run, made("another"), rows, 2, print, Stop())) == ["c0000", "c0001"]
    assert latencies[1] == []
    assert not (run / MEASURED).exists()


def test_measured_when_asked_twice_then_is_remembered(made, tmp_path, monkeypatch):
    monkeypatch.setattr(slot.tempfile, "gettempdir", lambda: str(tmp_path))  # a search beside the tests holds it up
    chosen = made()
    architecture = sample(chosen.config.space, random.Random(0))
    profile = device(str(tmp_path / "here.yaml"))
    first = measured(chosen, architecture, profile)
    assert first.median_ms > 0
    assert measured(chosen, architecture, profile) == first
    told = [json.loads(line) for line in (tmp_path / "cache" / "latencies.jsonl").read_text().splitlines()]
    assert [row["runtime"] for row in told] == ["eager"]


def test_measured_when_other_work_disturbs_some_then_the_fastest_median_counts(made, tmp_path, monkeypatch):
    took = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(within, "timer", lambda *_, **__: lambda: Latency(ms := next(took), ms, ms, 20))
    chosen = made()
    architecture = sample(chosen.config.space, random.Random(0))
    assert measured(chosen, architecture, device(str(tmp_path / "here.yaml"))).median_ms == 1.0


def test_plan_when_the_runtime_is_unknown_then_is_refused_before_any_work(made):
    with pytest.raises(KdnasError) as caught:
        made(runtime="tflite")
    assert (caught.value.value, caught.value.exit_code) == ("tflite", 2)
