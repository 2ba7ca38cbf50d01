"""What may be said of why a candidate works? Sentences from the raw numbers, never more than an interval allows.

A sentence claims an effect only where its interval leaves out zero (`analysis.effects.clear`); else it says that it is
open, and where there is no interval, why.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdnas_ray.analysis.effects import LEAST_RANKED, Effect, clear, mean_effect
from kdnas_ray.analysis.interactions import FEWEST
from kdnas_ray.analysis.pairs import by_architecture

Found = Mapping[str, Any]
SIDES = ("with", "without")
LISTED = 4  # decisions that a sentence lists
NOTHING = "There is nothing to compare: no training of this kind got to its end."


@dataclass(frozen=True)
class Unit:
    """How a difference is written: `scale` times its value with so many `digits`, and a `name` behind it."""

    scale: float = 1.0
    digits: int = 3
    name: str = ""

    def number(self, value: float) -> str:
        """The number with its sign, without the unit."""
        return f"{round(self.scale * value, self.digits) + 0.0:+.{self.digits}f}"  # + 0.0: there is no -0.00

    def words(self, value: float) -> str:
        """The number with its sign and unit."""
        return self.number(value) + self.name


POINTS, PLAIN = Unit(100, 2, " points"), Unit()


def sentences(found: Found) -> dict[str, list[str]]:
    """Sentences of each part of an explanation, in the order in which they are read.

    Args:
        found: what `kdnas_ray.explain.explain` found.
    """
    search, lacking = found["search"], found["lacking"]
    parts = {"terms": [*_trained(found), *_searched(search, found)]}
    if "trainings" not in lacking and completed(found):
        effects = found["effects"]
        parts |= {
            "similarity": _similarity(effects["similarity"]) or [lacking.get("similarity", NOTHING)],
            "probes": _probes(effects["probes"]) or [lacking.get("probes", NOTHING)],
            "gradients": _gradients(effects["gradients"]) or [NOTHING],
            "dark": _dark(effects["dark"], found) or [lacking.get("dark", NOTHING)],
        }
    return parts | {
        "decisions": _decisions(search["decisions"], found["metric"]),
        "pairs": _pairs(search["decisions"], found["metric"]),
        "gap": _gap(search),
    }


def completed(found: Found) -> list[Mapping[str, Any]]:
    """Trainings that got to their end."""
    return [line for line in found["trainings"] if "failure" not in line]


def verdict(effect: Effect, more: str, less: str, open_: str, unit: Unit, what: str = "seeds") -> str:
    """One clause on an effect: `more` or `less` where it is clear, else `open_`; the numbers behind a colon.

    Args:
        effect: with its interval.
        more, less: what is said of a clear effect above and below zero.
        open_: what is said of one that is not clear.
        unit: of the effect.
        what: is counted by `n`.
    """
    if effect["value"] is None:
        return f"{open_}: it was not measured"
    said = (more if effect["value"] > 0 else less) if clear(effect) else open_
    return f"{said}: {unit.words(effect['value'])} ({interval_words(effect, unit, what)})"


def interval_words(effect: Effect, unit: Unit, what: str = "seeds") -> str:
    """The interval and what it rests on; why there is none, where there is none; whether it includes zero."""
    low, high, n = effect["low"], effect["high"], effect["n"]
    if low is None or high is None:
        counted = f"one {what.removesuffix('s')}" if n == 1 else f"the same in all {n} {what}"
        return f"{counted}, so there is no interval and it may be chance"
    zero = "" if clear(effect) else ", which includes zero"
    return f"95 % interval {unit.number(low)} to {unit.number(high)}{zero}; {n} {what}"


def _either(text: str, more: str, less: str) -> tuple[str, str]:
    """The text with one word or the other in place of `{}`."""
    return text.replace("{}", more), text.replace("{}", less)


def _unit(found: Found) -> Unit:
    return PLAIN if found["targets"] == "values" else POINTS


def _decisions(shares: Found | None, metric: str) -> list[str]:
    if shares is None:
        return [
            f"What the decisions matter for is not known: it takes {FEWEST} candidates at the same rung whose "
            "accuracies differ."
        ]
    return [_standing_out(shares, "decisions", shares["noise"], "decision", "on its own", metric)]


def _pairs(shares: Found | None, metric: str) -> list[str]:
    if shares is None or not shares["pairs"]:
        return []
    return [
        _standing_out(shares, "pairs", shares["noise_of_pairs"], "pair", "beyond what its two explain alone", metric)
    ]


def _standing_out(shares: Found, kind: str, noise: float, one: str, how: str, metric: str) -> str:
    rows, count = shares[kind], shares["candidates"]
    above = [row for row in rows if row["low"] > noise]
    begin = f"Of the variance of {metric} after {_epochs(shares['epochs'])} ({count} candidates)"
    if not above:
        first = rows[0]
        return (
            f"{begin} no {one} explains clearly more {how} than chance: the largest share is {_share(first['value'])}, "
            f"of {first['name']} (95 % interval {_range(first)}), and with shuffled values it reaches {_share(noise)}."
        )
    listed = [f"{row['name']} explains {_share(row['value'])} (95 % interval {_range(row)})" for row in above[:LISTED]]
    rest = f"; {len(above) - LISTED} more are clearly above that too" if len(above) > LISTED else ""
    return f"{begin} {_and(listed)}, each {how}; with shuffled values a share reaches {_share(noise)}{rest}."


def _trained(found: Found) -> list[str]:
    """What the trainings of the candidate itself say about distillation and each term."""
    if reason := found["lacking"].get("trainings"):
        return [reason]
    said, name, unit = [], found["candidate"], _unit(found)
    if failed := len(found["trainings"]) - len(completed(found)):
        said.append(f"{failed} of {len(found['trainings'])} trainings diverged and are left out.")
    for row in found["effects"]["terms"]:
        if row["without"] == "distillation":
            than = f"than the same network on the labels alone, {_epochs(found['epochs'])} each"
            more, less = _either(f"With distillation {name} scores {{}} on validation {than}", "more", "less")
            said.append(verdict(row["effect"], more, less, f"Distillation has no clear effect on {name}", unit) + ".")
        else:
            more, less = _either(f"With its term {row['without']} it scores {{}} than without it", "more", "less")
            open_ = f"Its term {row['without']} has no clear effect beside the others"
            said.append(verdict(row["effect"], more, less, open_, unit) + ".")
    return said


def _searched(search: Found, found: Found) -> list[str]:
    """What pairs of the search and the finalists say."""
    unit, said = _unit(found), []
    for row in search["pairs"]:
        what = f"Architectures that the search tried with and without {row['term']}"
        after = f"after {_epochs(search['rung'])}"
        more, less = _either(f"{what} score {{}} with it {after}", "more", "less")
        clause = verdict(row["effect"], more, less, f"{what} show no clear effect {after}", unit, "architectures")
        said.append(f"{clause}; their recipes differ in other settings too.")
    if not search["pairs"]:
        said.append("The search tried no architecture both with and without a term (recipes_each makes it do so).")
    gains = [row["gain"] for row in by_architecture(search["gains"])]
    if gains:
        what = "Architectures that the search retrained with and without distillation"
        more, less = _either(f"{what} {{}} by it on average", "gain", "lose")
        open_ = f"{what} show no clear effect on average"
        said.append(verdict(mean_effect(gains, most=1), more, less, open_, unit, "architectures") + ".")
    return said


def _gap(search: Found) -> list[str]:
    count, traits = len(by_architecture(search["gains"])), search["gap"]
    if count < LEAST_RANKED or not traits:
        return [
            "Which architectures gain most by distillation is not known: "
            f"{count} of them {'was' if count == 1 else 'were'} retrained with and without it, and it takes "
            f"{LEAST_RANKED} different ones (kdnas retrain RUN --top 12 trains more)."
        ]
    found = [row for row in traits if clear(row["effect"])]
    if not found:
        effect, trait = traits[0]["effect"], traits[0]["trait"]
        open_ = f"Of {len(traits)} traits none clearly goes with the gain of distillation; rank correlation of {trait}"
        return [verdict(effect, "", "", f"{open_}, the closest", PLAIN, "architectures") + "."]
    said = []
    for row in found:
        what = f"The larger {row['trait']}, the {{}} an architecture gains by distillation; rank correlation"
        more, less = _either(what, "more", "less")
        said.append(verdict(row["effect"], more, less, "", PLAIN, "architectures") + ".")
    return said


def _similarity(found: Found | None) -> list[str]:
    if found is None:
        return []
    mean, layers = found["mean"], found["layers"]
    levels = f"mean CKA {_number(mean['with'])} instead of {_number(mean['without'])}, difference"
    what = f"Distillation brought the student's layers {{}} their closest layers of the teacher: {levels}"
    more, less = _either(what, "closer to", "away from")
    open_ = f"Whether distillation brings the student's layers closer to those of the teacher is open: {levels}"
    said = [verdict(found["closeness"], more, less, open_, PLAIN) + "."]
    one = [f"{tap} ({PLAIN.words(row['effect']['value'])})" for tap, row in layers.items() if clear(row["effect"])]
    alone = f"Clear on their own: {_and(one)}." if one else "Of no single layer is the difference clear on its own."
    return [*said, alone, *_resembling(layers)]


def _resembling(layers: Found) -> list[str]:
    """Which teacher layer each layer is most like, where all seeds agree on it."""
    agreed, without = ({tap: _unanimous(row["resembles"][side]) for tap, row in layers.items()} for side in SIDES)
    seeds = max(len(row["resembles"]["with"]) for row in layers.values())
    groups: dict[str, list[str]] = {}
    for tap, theirs in agreed.items():
        if theirs is not None:
            groups.setdefault(theirs, []).append(tap)
    said = []
    if groups:
        alike = [f"{_and(taps)} {_are(taps)} most like the teacher's {theirs}" for theirs, taps in groups.items()]
        said.append(f"In {_all(seeds)} {'; '.join(alike)}.")
    if differing := [tap for tap, theirs in agreed.items() if theirs is None]:
        said.append(
            f"Which of the teacher's layers {_and(differing)} {_are(differing)} most like differs between seeds."
        )
    moved = [
        f"{tap} is most like the teacher's {other}"
        for tap, other in without.items()
        if other is not None and agreed[tap] is not None and other != agreed[tap]
    ]
    if moved:
        said.append(f"Without distillation {_and(moved)}.")
    return said


def _probes(found: Mapping[str, Effect] | None) -> list[str]:
    known = {tap: effect for tap, effect in (found or {}).items() if effect["value"] is not None}
    if not known:
        return []
    if not any(clear(effect) for effect in known.values()):
        tap, effect = max(known.items(), key=lambda pair: abs(pair[1]["value"] or 0.0))
        open_ = (
            "At no layer does a linear probe read the classes clearly better or worse with distillation; "
            f"the largest difference is at {tap}"
        )
        return [verdict(effect, "", "", open_, POINTS) + "."]
    said = []
    for tap, effect in known.items():
        if clear(effect):
            what = f"At {tap} a linear probe reads the classes {{}} with distillation"
            said.append(verdict(effect, *_either(what, "better", "worse"), "", POINTS) + ".")
    return said


def _gradients(found: Found | None) -> list[str]:
    if found is None:
        return []
    overall = found["cosine"]
    more, less = _either("Over the training the gradients of labels and distillation {}; mean cosine", "agree", "fight")
    open_ = "Over the training the gradients of labels and distillation neither clearly agree nor fight; mean cosine"
    said = [verdict(overall, more, less, open_, PLAIN) + "."]
    for name, row in found["stages"].items():
        cosine = row["cosine"]
        if clear(cosine) and not (clear(overall) and cosine["value"] * overall["value"] > 0):
            said.append(verdict(cosine, f"At {name} they agree", f"At {name} they fight", "", PLAIN) + ".")
    strongest = _unanimous(found["strongest"])
    if strongest:
        part = _share(found["stages"][strongest]["share"]["distillation"]["value"])
        seeds = _all(len(found["strongest"]))
        said.append(f"In {seeds} distillation pulls hardest at {strongest}: {part} of its squared gradient norm.")
    else:
        said.append("At which stage distillation pulls hardest differs between seeds.")
    what = "The gradient of distillation spreads over {} stages than that of the labels; effective depth"
    open_ = "Whether its gradient spreads over more or fewer stages than that of the labels is open; effective depth"
    return [*said, verdict(found["depth"], *_either(what, "more", "fewer"), open_, PLAIN) + "."]


def _dark(effects: Mapping[str, Effect] | None, found: Found) -> list[str]:
    if effects is None:
        return []
    ends = {side: [line["end"] for line in completed(found) if line["variant"] == side] for side in SIDES}

    def both(name: str, unit: str) -> str:
        first, second = (_average(end[name] for end in ends[side]) for side in SIDES)
        return f"{_written(first, unit)} instead of {_written(second, unit)}"

    like = f"correlation {both('likeness', '.2f')}, difference"
    what = f"The student's confusions are {{}} like its teacher's with distillation: {like}"
    open_ = f"Whether distillation makes the student's confusions more like its teacher's is open: {like}"
    said = [verdict(effects["likeness"], *_either(what, "more", "less"), open_, PLAIN) + "."]
    error = (
        f"error {both('calibration_error', '.2%')} (teacher {found['teacher']['calibration_error']:.2%}), difference"
    )
    what, open_ = f"With distillation it is {{}} calibrated: {error}", f"Calibration has no clear difference: {error}"
    said.append(verdict(effects["calibration_error"], *_either(what, "worse", "better"), open_, POINTS) + ".")
    named = f"{both('agreement', '.2%')} of samples, difference"
    what = f"It says what its teacher says {{}} often: {named}"
    open_ = f"Whether it says what its teacher says more often is open: {named}"
    said.append(verdict(effects["agreement"], *_either(what, "more", "less"), open_, POINTS) + ".")
    right = "On these samples its accuracy {} with distillation"
    open_ = "On these samples its accuracy has no clear difference"
    said.append(verdict(effects["accuracy"], *_either(right, "rises", "falls"), open_, POINTS) + ".")
    return said


def _unanimous(names: Sequence[str | None]) -> str | None:
    return names[0] if names and len(set(names)) == 1 else None


def _average(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _written(value: float | None, form: str) -> str:
    return "an unknown one" if value is None else f"{value:{form}}"


def _number(value: float | None) -> str:
    return _written(value, ".2f")


def _share(value: float) -> str:
    return f"{_whole(value)} %"


def _whole(value: float) -> str:
    return f"{round(100 * value) + 0:d}"


def _range(row: Found) -> str:
    return f"{_whole(row['low'])} to {_whole(row['high'])} %"


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _all(seeds: int) -> str:
    return {1: "the one seed", 2: "both seeds"}.get(seeds, f"all {seeds} seeds")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
