"""Run folders in every state, made by hand."""

import itertools
import json

import pytest
import yaml
from report_runs import TEACHER, retrained, summarise

from kdnas_ray.config import read
from kdnas_ray.runs import append_jsonl, write_state


@pytest.fixture
def configured(run):
    """A run folder in which nothing has happened yet."""
    config = read({"scheduler": {"max_epochs": 9, "grace_epochs": 1}}).resolved()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.fixture
def searched(configured, row):
    """Candidates of every state, none retrained, no summary."""
    ends = {"complete": [0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.86, 0.87], "pruned": [0.2, 0.3]}
    for number, (state, last, params) in enumerate(
        [("complete", 0.95, 3000), ("complete", 0.93, 1000), ("complete", 0.91, 2000), ("pruned", 0.4, 1500),
         ("pruned", 0.35, 900), ("failed", None, 800), ("rejected", None, 9000)]
    ):  # fmt: skip
        accuracies = [*ends[state], last] if state in ends else []
        append_jsonl(configured / "candidates.jsonl", row(number, state, accuracies, params, 100 * params))
    (configured / "teacher.json").write_text(json.dumps(TEACHER))
    write_state(configured, {"wall_s": 200.0, "search_wall_s": 50.0, "workers": 2})
    return configured


@pytest.fixture
def finished(searched):
    """A whole run: two finalists, three seeds, with and without KD."""
    for (name, val, gain), seed in itertools.product([("c0000", 0.94, 0.02), ("c0001", 0.96, 0.03)], range(3)):
        for with_kd in (True, False):
            score = val - 0.01 + 0.001 * seed - (0 if with_kd else gain + 0.0005 * (seed - 1))
            append_jsonl(searched / "retrained.jsonl", retrained(name, seed, with_kd, val + 0.001 * seed, score))
    summarise(searched)
    return searched
