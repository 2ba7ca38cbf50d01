"""Are the sentences of an explanation true? Everything that they say is worked out again from its raw trainings."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

NUMBER = r"[+-]\d+\.\d+"


def check(found: dict[str, Any]) -> int:
    """Works out again what the first sentences say; returns how many of them claim an effect."""
    with_, without = ({row["seed"]: row for row in found["trainings"] if row["variant"] == name} for name in SIDES)
    seeds = sorted(with_.keys() & without.keys())

    def apart(measure: Callable[[dict], float]) -> np.ndarray:
        return np.array([measure(with_[seed]) - measure(without[seed]) for seed in seeds])

    said = found["sentences"]
    claimed = 0
    claimed += _holds(
        said["terms"][0], apart(lambda row: row["curve"][-1]["val_accuracy"]), 100, "scores more", "scores less"
    )
    claimed += _holds(said["similarity"][0], apart(_closeness), 1, "closer to their", "away from their")
    claimed += _holds(said["gradients"][0], np.array([_cosine(with_[seed]) for seed in seeds]), 1, "agree;", "fight;")
    ends = {
        "likeness": (1, "are more like", "are less like"),
        "calibration_error": (100, "is worse calibrated", "is better calibrated"),
        "agreement": (100, "says more often", "says less often"),
        "accuracy": (100, "accuracy rises", "accuracy falls"),
    }
    for sentence, (name, words) in zip(said["dark"], ends.items(), strict=True):
        claimed += _holds(sentence, apart(lambda row, name=name: row["end"][name]), *words)
    for variant in {row["variant"] for row in found["trainings"]} - {"with", "without"}:
        term = variant.removeprefix("without ")
        (sentence,) = [
            text for text in said["terms"] if text.startswith((f"With its term {term} ", f"Its term {term} "))
        ]
        other = {row["seed"]: row for row in found["trainings"] if row["variant"] == variant}
        gains = np.array([_end(with_[seed]) - _end(other[seed]) for seed in seeds])
        count = len({row["variant"] for row in found["trainings"]}) - 2
        claimed += _holds(sentence, gains, 100, "scores more", "scores less", 1 - 0.05 / count)
    _layers(said["similarity"], with_)
    return claimed


SIDES = ("with", "without")


def _holds(sentence: str, values: np.ndarray, scale: float, more: str, less: str, level: float = 0.95) -> bool:
    """The sentence has these values' mean and interval, and claims something exactly where that leaves out zero."""
    if values.std() < 1e-12:
        assert "no interval and it may be chance" in sentence, sentence
        return False
    mean, error = values.mean(), stats.sem(values)
    low, high = stats.t.interval(level, len(values) - 1, loc=mean, scale=error)
    expected = scale * np.array([mean, max(low, -1), min(high, 1)])
    numbers = np.array(list(map(float, re.findall(NUMBER, sentence))))
    np.testing.assert_allclose(numbers, expected, atol=0.51 * 10 ** (-2 if scale == 100 else -3), err_msg=sentence)
    open_ = sentence.startswith("Whether") or "no clear" in sentence or "neither clearly" in sentence
    assert (more in sentence and not open_) == (low > 0), sentence
    assert (less in sentence and not open_) == (high < 0), sentence
    assert ("which includes zero" in sentence) == (low <= 0 <= high), sentence
    return not low <= 0 <= high


def _layers(said: list[str], with_: dict[int, dict]) -> None:
    """Of every layer that all seeds find most like the same one the sentences say which, of the others nothing."""
    for tap in next(iter(with_.values()))["looks"][-1]["similarity"]:
        rows = [row["looks"][-1]["similarity"][tap] for row in with_.values()]
        nearest = {max(row, key=row.get) for row in rows}
        named = [match for text in said if not text.startswith("Without") for match in _named(text, tap)]
        assert named == (list(nearest) if len(nearest) == 1 else []), (tap, said)


def _named(text: str, tap: str) -> list[str]:
    found = []
    for clause in text.rstrip(".").split("; "):
        own, _, theirs = clause.partition(" most like the teacher's ")
        if theirs and tap in re.split(r"[\s,]+", own):
            found.append(theirs)
    return found


def _end(row: dict) -> float:
    return row["curve"][-1]["val_accuracy"]


def _closeness(row: dict) -> float:
    return float(np.mean([max(values.values()) for values in row["looks"][-1]["similarity"].values()]))


def _cosine(row: dict) -> float:
    looks = [look["gradients"]["distillation"]["cosines"] for look in row["looks"]]
    return float(np.mean(np.array(looks, dtype=float).mean(axis=0)))
