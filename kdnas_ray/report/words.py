"""How are recipe, architecture and the facts of a search said to a person?"""

from collections.abc import Mapping
from typing import Any

from kdnas_ray.journal import flat
from kdnas_ray.objectives import UNSUPPORTED
from kdnas_ray.objectives import number as exact
from trainables.recipe import Recipe

Pairs = list[tuple[str, str]]
TRAINING = ("optimizer", "learning_rate", "weight_decay", "batch_size")
SETTINGS = ("task", "space", "sampler", "evaluator", "prefilter", "scheduler")


def recipe_words(recipe: Mapping[str, Any]) -> Pairs:
    """The recipe as label and text; what this page has no words for is shown as it is."""
    rest = dict(recipe)
    alpha, temperature, terms = rest.pop("alpha"), rest.pop("temperature"), rest.pop("terms")
    pairs = [("loss", f"{alpha:.3g} × distillation + {1 - alpha:.3g} × labels (alpha {alpha:.3g})")]
    schedule, final = rest.pop("alpha_schedule", "constant"), rest.pop("final_alpha", None)
    if schedule != "constant":
        pairs.append(("alpha", f"{alpha:.3g} to {final:.3g}, {schedule}"))
    pairs += [("distillation" if index == 0 else "", term_words(term)) for index, term in enumerate(terms)]
    start, end = temperature["start"], temperature["end"]
    steady = temperature["schedule"] == "constant"
    course = f"{start:.3g} throughout" if steady else f"{start:.3g} to {end:.3g}, {temperature['schedule']}"
    pairs.append(("temperature", course))
    # Of the rest only what was chosen: most of it is about kinds of search that this one is not.
    usual = Recipe().to_json()
    chosen = {name: value for name, value in rest.items() if name in TRAINING or value != usual.get(name)}
    return pairs + [(name.replace("_", " "), number(value)) for name, value in flat(chosen).items()]


def architecture_words(architecture: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The architecture as a table: title row, then a row a part (`stage1` of `stage1.width`)."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in architecture.items():
        part, dot, decision = name.rpartition(".")
        parts.setdefault(part if dot else name, {})[decision if dot else "choice"] = value
    columns = list(dict.fromkeys(decision for decisions in parts.values() for decision in decisions))
    columns.sort(key=lambda column: -sum(column in decisions for decisions in parts.values()))
    body = [
        [part, *(number(found[column]) if column in found else "" for column in columns)]
        for part, found in parts.items()
    ]
    return ["part", *columns], body


def search_words(summary: Mapping[str, Any]) -> Pairs:
    """Facts of the search as label and text; what is not known is left out."""
    known = {name: value for name, value in summary.items() if value is not None}
    pairs = [("status", str(known["status"]))] if "status" in known else []
    pairs += [
        (label, count(known[name]))
        for name, label in (
            ("trials", "candidates trained"),
            ("completed", "in full"),
            ("pruned", "stopped early"),
            ("failed", "failed"),
            ("rejected", "proposed and not trained (constraint, judge, or trained already)"),
        )
        if name in known
    ]
    if "wall_s" in known or "search_wall_s" in known:
        parts = ((known.get("wall_s"), "in all"), (known.get("search_wall_s"), "for the search"))
        pairs.append(("wall time", ", ".join(f"{duration(value)} {what}" for value, what in parts if value)))
    if "utilisation" in known and "workers" in known:
        pairs.append(("utilisation", f"{known['utilisation']:.0%} of {known['workers']} workers in training loops"))
    shown = [name for name in SETTINGS if name in known and not (name == "task" and known.get("evaluator") == "table")]
    pairs += [(name, str(known[name])) for name in shown]
    if known.get("objectives"):
        pairs.append(("objectives", ", ".join(map(str, known["objectives"]))))
    bounds = known.get("constraints") or {}
    pairs += [(f"at most, {name}", exact(value)) for name, value in bounds.items() if not name.startswith(UNSUPPORTED)]
    return pairs


def origin_words(summary: Mapping[str, Any]) -> Pairs:
    """From what a search came, as label and text; what is not known is left out."""
    named = ("seed", "started", "git_commit", "data", "cores")
    labels = {"git_commit": "git commit", "data": "data, digest"}
    pairs = [(labels.get(name, name), str(summary[name])) for name in named if summary.get(name) is not None]
    teacher = summary.get("teacher") or {}
    if teacher.get("digest"):
        pairs.append(("teacher", f"{teacher.get('name')}, digest {teacher['digest']}"))
    if summary.get("versions"):
        pairs.append(("versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())))
    return pairs


def percent(value: float | None, spread: float | None = None) -> str:
    """A share of 1 in percent, with its standard deviation where there is one; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.2%}" + (f" ± {spread:.2%}" if spread is not None else "")


def points(gain: float, plain: bool = False) -> str:
    """A difference of scores with its sign, in percent points, or as a `plain` number."""
    return f"{gain:+.3f}" if plain else f"{100 * gain:+.2f}"


def interval(figure: Mapping[str, float | None], share: bool = False) -> str:
    """A figure with its 95 % interval, `0.52 (0.10 to 0.81)`; shares of 1 in percent; a dash where it is undefined.

    Args:
        figure: `value`, `low` and `high`.
        share: whether it is a share of 1.
    """
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "–"
    if share:
        return f"{value:.2%} ({100 * low:.2f} to {100 * high:.2f})"
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def count(value: float | None, digits: int = 0) -> str:
    """A number with thousands separated; a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def number(value: Any) -> str:
    """A value of a recipe or an architecture, floats to four digits."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds in the units that a person thinks in."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def term_words(term: Mapping[str, Any]) -> str:
    """A loss with its tap and weight."""
    where = f" at {term['tap']}" if term.get("tap") else ""
    return f"{term['loss']}{where}, weight {term['weight']:.3g}"
