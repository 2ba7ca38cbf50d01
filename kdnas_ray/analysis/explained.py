"""Which effects of distillation do the trainings of an explanation show? All are differences between the same seeds.

Lines are those of `kdnas_ray.followed.follow`; those of trainings that failed are left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from kdnas_ray.analysis.effects import CONFIDENCE, Effect, mean_effect, paired_effect

Line = Mapping[str, Any]
Measure = Callable[[Line], float | None]
WITH, WITHOUT = "with", "without"


def effects(lines: Sequence[Line]) -> dict[str, Any]:
    """All effects as they are written to JSON, each an `Effect` over seeds; a part is None where nothing speaks of it.

    `terms`: what accuracy gains by the whole recipe and by each term. `similarity`: see `similarity_effects`.
    `probes`: gain of the linear probe at each tap. `gradients`: see `gradient_effects`. `dark`: of `agreement`,
    `likeness`, `calibration_error` and `accuracy`, with minus without the teacher.
    """
    there = [line for line in lines if "failure" not in line]
    return {
        "terms": _terms(there),
        "similarity": similarity_effects(there),
        "probes": _probes(there),
        "gradients": gradient_effects(there),
        "dark": _dark(there),
    }


def similarity_effects(lines: Sequence[Line]) -> dict[str, Any] | None:
    """How much closer to the teacher's layers distillation brought those of the student, at the end.

    A layer's closeness is its CKA with the teacher's layer that it is most similar to, whichever that is: so the two
    students are judged alike.

    Returns:
        `closeness` (mean over the layers) and `mean` of it with and without; `layers`, of each tap its `effect`
        (intervals widened for their number), and `resembles`, the teacher's tap by seed with distillation, or None.
    """
    if not any(line["looks"][-1]["similarity"] for line in _of(lines, WITH)):
        return None
    taps = list(_of(lines, WITH)[0]["looks"][-1]["similarity"])

    def closest(tap: str, line: Line) -> float | None:
        return closeness(line["looks"][-1]["similarity"][tap])

    def mean(line: Line) -> float | None:
        return _mean(closest(tap, line) for tap in taps)

    level = _shared(len(taps))
    layers = {
        tap: {
            "effect": _difference(lines, WITHOUT, partial(closest, tap), level),
            "resembles": {
                name: [_nearest(line["looks"][-1]["similarity"][tap]) for line in _of(lines, name)]
                for name in (WITH, WITHOUT)
            },
        }
        for tap in taps
    }
    return {
        "closeness": _difference(lines, WITHOUT, mean),
        "mean": {name: _mean(mean(line) for line in _of(lines, name)) for name in (WITH, WITHOUT)},
        "layers": layers,
    }


def closeness(row: Mapping[str, float | None]) -> float | None:
    """CKA with the teacher's layer that is most similar."""
    return max((value for value in row.values() if value is not None), default=None)


def gradient_effects(lines: Sequence[Line]) -> dict[str, Any] | None:
    """Do labels and distillation pull alike, where does distillation pull, and over how many stages?

    Everything is the mean over the looks at a training, then over seeds.

    Returns:
        `cosine` between the gradients of the labels and of all terms (mean over the stages) and `stages`, of each its
        `cosine` (intervals widened for their number), and its `share` of the squared norm of the gradient of the
        distillation, of the labels beside it, and of the labels alone in trainings without teacher; `strongest`, the
        stage with the largest share by seed; `depth`, effective depth of distillation minus that of the labels;
        `depth_trained`, of all losses with minus without distillation.
    """
    own = [line for line in _of(lines, WITH) if line["looks"][0]["gradients"]["distillation"]]
    if not own:
        return None
    names = own[0]["looks"][0]["gradients"]["stages"]
    level = _shared(len(names))
    cosines = [[_over(line, partial(_cosine_at, s)) for line in own] for s in range(len(names))]
    distilled = [shares(line, lambda g: g["distillation"]["norms"]) for line in own]
    labels = [shares(line, lambda g: g["norms"][0]) for line in own]
    alone = [shares(line, lambda g: g["norms"][0]) for line in _of(lines, WITHOUT)]
    depths = [_over(line, lambda g: _minus(g["distillation"]["depth"], g["depth"][0])) for line in own]
    return {
        "cosine": mean_effect([_mean(per_seed) for per_seed in zip(*cosines, strict=True)], most=1),
        "stages": {
            name: {
                "cosine": mean_effect(cosines[s], level, most=1),
                "share": {
                    "distillation": mean_effect([row[s] for row in distilled], most=1),
                    "labels": mean_effect([row[s] for row in labels], most=1),
                    "labels alone": mean_effect([row[s] for row in alone], most=1),
                },
            }
            for s, name in enumerate(names)
        },
        "strongest": [names[int(np.argmax(row))] for row in distilled],
        "depth": mean_effect(depths),
        "depth_trained": _difference(
            lines, WITHOUT, lambda line: _over(line, lambda g: g["depth_together"]), most=float("inf")
        ),
    }


def shares(line: Line, norms: Callable[[Mapping[str, Any]], Sequence[float]]) -> list[float]:
    """Each stage's share of the squared norm of a gradient, mean over the looks at a training."""
    rows = [np.square(norms(look["gradients"])) for look in line["looks"]]
    there = [row / row.sum() for row in rows if row.sum() > 0]
    return np.mean(there, axis=0).tolist() if there else [0.0] * len(rows[0])


def final_accuracy(line: Line) -> float:
    """Validation accuracy at the end of a training."""
    return float(line["curve"][-1]["val_accuracy"])


def _terms(lines: Sequence[Line]) -> list[dict[str, Any]]:
    others = list(dict.fromkeys(line["variant"] for line in lines if line["variant"] != WITH))
    # The whole is one question, each term another: intervals of the terms are widened for their number.
    level = _shared(len(others) - 1)
    return [
        {
            "without": "distillation" if name == WITHOUT else name.removeprefix("without "),
            "effect": _difference(lines, name, final_accuracy, CONFIDENCE if name == WITHOUT else level),
        }
        for name in others
        if _of(lines, WITH)
    ]


def _probes(lines: Sequence[Line]) -> dict[str, Effect] | None:
    own = [line for line in _of(lines, WITH) if line["end"].get("probes")]
    if not own:
        return None
    taps = list(own[0]["end"]["probes"])
    level = _shared(len(taps))
    return {tap: _difference(lines, WITHOUT, partial(_probe_at, tap), level) for tap in taps}


def _dark(lines: Sequence[Line]) -> dict[str, Effect] | None:
    own = _of(lines, WITH)
    if not own or "agreement" not in own[0]["end"]:
        return None
    names = ("agreement", "likeness", "calibration_error", "accuracy")
    return {name: _difference(lines, WITHOUT, partial(_at_end, name)) for name in names}


def _difference(
    lines: Sequence[Line], other: str, measure: Measure, confidence: float = CONFIDENCE, most: float = 1
) -> Effect:
    """Effect of the recipe on what `measure` reads, mostly numbers from 0 to 1, whose means differ by `most`."""
    first, second = ({line["seed"]: measure(line) for line in _of(lines, name)} for name in (WITH, other))
    return paired_effect(first, second, confidence, most)


def _cosine_at(stage: int, gradients: Mapping[str, Any]) -> float | None:
    value: float | None = gradients["distillation"]["cosines"][stage]
    return value


def _probe_at(tap: str, line: Line) -> float | None:
    value: float | None = line["end"]["probes"][tap]
    return value


def _at_end(name: str, line: Line) -> float | None:
    value: float | None = line["end"][name]
    return value


def _of(lines: Sequence[Line], variant: str) -> list[Line]:
    return [line for line in lines if line["variant"] == variant]


def _over(line: Line, measure: Callable[[Mapping[str, Any]], float | None]) -> float | None:
    return _mean(measure(look["gradients"]) for look in line["looks"])


def _nearest(row: Mapping[str, float | None]) -> str | None:
    there = {name: value for name, value in row.items() if value is not None}
    return max(there, key=lambda name: there[name]) if there else None


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _shared(count: int) -> float:
    """Confidence of each of so many intervals that hold together with 95 % (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(count, 1)
