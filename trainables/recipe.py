"""What is a recipe, and which recipes may a search try?

`alpha` is the weight of the distillation term: `loss = alpha * KD + (1 - alpha) * CE`. Texts that write
`alpha * CE + (1 - alpha) * KL` mean `1 - alpha`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces import KdnasError, Registry, Suggests
from trainables.losses import LOSSES

Range = tuple[float, float]


@dataclass(frozen=True)
class Temperature:
    """How the temperature of the soft targets runs over the training.

    Args:
        schedule: `constant` (start throughout) or `linear` (from start to end).
        start: temperature at the first step, above 0.
        end: temperature at the last step, above 0.
    """

    schedule: str = "constant"
    start: float = 3.0
    end: float = 3.0

    def at(self, progress: float) -> float:
        """Temperature at `progress` (0 at the first step, 1 at the last)."""
        if self.schedule == "constant":
            return self.start
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Term:
    """One distillation loss: its registered name, its weight, and the tap it reads (None: logits only)."""

    loss: str
    weight: float = 1.0
    tap: str | None = None


@dataclass(frozen=True)
class Recipe:
    """One distillation setting; plain frozen data, JSON both ways.

    Args:
        alpha: weight of the distillation terms, 0 (labels only) to 1 (teacher only).
        temperature: temperature of the soft targets over the training.
        terms: distillation losses; their weighted sum is what alpha weighs.
        learning_rate: peak learning rate of SGD with Nesterov momentum 0.9, decayed by a cosine.
        weight_decay: L2 penalty on all weights.
        batch_size: samples a step.
    """

    alpha: float = 0.7
    temperature: Temperature = dataclasses.field(default_factory=Temperature)
    terms: tuple[Term, ...] = (Term("kd"),)
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    batch_size: int = 64

    def __post_init__(self) -> None:
        _require(0 <= self.alpha <= 1, "recipe.alpha", self.alpha, "choose a weight from 0 to 1")
        for name in ("start", "end"):
            value = getattr(self.temperature, name)
            _require(value > 0, f"recipe.temperature.{name}", value, "choose a temperature above 0")
        _require(
            self.temperature.schedule in SCHEDULES,
            "recipe.temperature.schedule",
            self.temperature.schedule,
            f"known: {', '.join(SCHEDULES)}",
        )
        for term in self.terms:
            _require(term.weight >= 0, "recipe.terms.weight", term.weight, "choose 0 or more")
        _require(self.learning_rate > 0, "recipe.learning_rate", self.learning_rate, "choose a rate above 0")
        _require(self.weight_decay >= 0, "recipe.weight_decay", self.weight_decay, "choose 0 or more")
        _require(self.batch_size >= 2, "recipe.batch_size", self.batch_size, "batch norm needs at least 2 samples")

    def without_teacher(self) -> "Recipe":
        """The same training on the labels alone, for the comparison with and without distillation."""
        return dataclasses.replace(self, alpha=0.0, terms=())

    def to_json(self) -> dict[str, Any]:
        """Plain nested dictionary."""
        return dataclasses.asdict(self) | {"terms": [dataclasses.asdict(term) for term in self.terms]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        """Recipe from `to_json`."""
        fields = dict(data)
        fields["temperature"] = Temperature(**data["temperature"])
        fields["terms"] = tuple(Term(**term) for term in data["terms"])
        return cls(**fields)


@dataclass(frozen=True)
class SimpleRecipes:
    """Logits KD, alone or with a feature hint; alpha, temperature, learning rate and weight decay vary.

    A range is [low, high]; equal ends fix the value.

    Source: Hinton 2015, Distilling the Knowledge in a Neural Network; Romero 2015, FitNets.

    Args:
        losses: losses on the logits to choose from.
        alpha: range of the weight of the distillation terms.
        temperature: range of the starting temperature.
        schedules: temperature schedules to choose from; `linear` ends at `final_temperature`.
        final_temperature: temperature at the end of a linear decay.
        hints: share the choice between recipes with a feature hint (true) and without (false).
        hint_weight: range of the hint's weight, sampled on a log scale.
        taps: taps whose features a hint may match.
        learning_rate: range, sampled on a log scale.
        weight_decay: range, sampled on a log scale.
        batch_size: samples a step.
    """

    losses: tuple[str, ...] = ("kd",)
    alpha: Range = (0.3, 0.95)
    temperature: Range = (2.0, 8.0)
    schedules: tuple[str, ...] = ("constant", "linear")
    final_temperature: float = 1.0
    hints: tuple[bool, ...] = (False, True)
    hint_weight: Range = (0.1, 10.0)
    taps: tuple[str, ...] = ("stage2", "stage3")
    learning_rate: Range = (0.03, 0.5)
    weight_decay: Range = (1e-5, 2e-3)
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("alpha", "temperature", "hint_weight", "learning_rate", "weight_decay"):
            low, high = getattr(self, name)
            _require(low <= high, f"recipes.{name}", [low, high], "give [low, high] with low <= high")
            if name != "alpha":
                _require(low > 0, f"recipes.{name}", [low, high], "values start above 0")
        _require(
            self.alpha[0] >= 0 and self.alpha[1] <= 1,
            "recipes.alpha",
            list(self.alpha),
            "stay between 0 and 1",
        )
        for schedule in self.schedules:
            _require(schedule in SCHEDULES, "recipes.schedules", schedule, f"known: {', '.join(SCHEDULES)}")
        known = [name for name, loss in LOSSES.items() if not loss.feature]
        for name in self.losses:
            _require(name in known, "recipes.losses", name, f"losses on logits: {', '.join(known)}")
        _require(bool(self.losses), "recipes.losses", [], "list at least one loss")
        _require(bool(self.schedules), "recipes.schedules", [], "list at least one schedule")
        _require(bool(self.hints), "recipes.hints", [], "list true, false or both")
        _require(self.final_temperature > 0, "recipes.final_temperature", self.final_temperature, "above 0")
        _require(self.batch_size >= 2, "recipes.batch_size", self.batch_size, "batch norm needs at least 2 samples")
        _require(
            not any(self.hints) or bool(self.taps),
            "recipes.taps",
            [],
            "a hint needs a tap: list one, or hints: [false]",
        )

    def suggest(self, trial: Suggests) -> Recipe:
        """The recipe that the trial's suggestions describe."""
        schedule = _choose(trial, "temperature.schedule", self.schedules)
        start = _number(trial, "temperature.start", self.temperature)
        end = self.final_temperature if schedule == "linear" else start
        terms = [Term(_choose(trial, "loss", self.losses))]
        if _choose(trial, "hint", self.hints):
            tap = _choose(trial, "hint.tap", self.taps)
            terms.append(Term("hint", _number(trial, "hint.weight", self.hint_weight, log=True), tap))
        return Recipe(
            alpha=_number(trial, "alpha", self.alpha),
            temperature=Temperature(schedule, start, end),
            terms=tuple(terms),
            learning_rate=_number(trial, "learning_rate", self.learning_rate, log=True),
            weight_decay=_number(trial, "weight_decay", self.weight_decay, log=True),
            batch_size=self.batch_size,
        )

    def needed_taps(self) -> tuple[str, ...]:
        """Teacher taps that some recipe of this space reads."""
        return self.taps if any(self.hints) else ()


SCHEDULES = ("constant", "linear")
RECIPES: Registry[type] = Registry("recipe space", ("simple", SimpleRecipes))


def _choose(trial: Suggests, name: str, choices: tuple) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def _number(trial: Suggests, name: str, bounds: Range, log: bool = False) -> float:
    return bounds[0] if bounds[0] == bounds[1] else trial.suggest_float(name, *bounds, log=log)


def _require(holds: bool, field: str, value: object, remedy: str) -> None:
    if not holds:
        raise KdnasError("not possible", field=field, value=value, remedy=remedy)
