"""What is a recipe, and which recipes may a search try?

`alpha` is the weight of the distillation term: `loss = alpha * KD + (1 - alpha) * CE`. Texts that write
`alpha * CE + (1 - alpha) * KL` mean `1 - alpha`.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces import KdnasError, Registry, Suggests
from trainables.ensembles import ANY_TARGETS, ENSEMBLES
from trainables.losses import KD, LOSSES, check_targets, named
from trainables.matching import MATCHES
from trainables.optimizer import OPTIMIZERS
from trainables.schedules import SCHEDULES, between
from trainables.tasks.base import Targets
from trainables.weighting import TEMPERATURES, WEIGHTINGS, complexity

Range = tuple[float, float]
# Beyond these nothing is learned: softened outputs under- or overflow, or the first step leaves the numbers of float32.
COLDEST, HOTTEST, FASTEST = 0.01, 1000.0, 100.0
# Losses that a recipe may have beside its first; the first is plain KD or another loss on the logits.
HINTS = tuple(name for name, loss in LOSSES.items() if loss.reads != "logits" and name not in KD.values())
CEILINGS = {"temperature": HOTTEST, "learning_rate": FASTEST, "weight_decay": 1.0, "hint_weight": 1e6}


@dataclass(frozen=True)
class Temperature:
    """How the temperature of the soft targets runs over the training.

    Args:
        schedule: `constant` (start throughout), `linear` or `cosine` from start to end over the training, `per_sample`
            (start where the teacher is sure, end where it guesses) or `curriculum` (learned from start on).
        start: temperature at the first step, above 0; default 3 for `constant`, else 5.
        end: temperature at the last step, above 0; default start for `constant`, else 1.
    """

    schedule: str = "constant"
    start: float = math.nan
    end: float = math.nan

    def __post_init__(self) -> None:
        constant = self.schedule == "constant"
        if math.isnan(self.start):
            object.__setattr__(self, "start", 3.0 if constant else 5.0)
        if math.isnan(self.end):
            object.__setattr__(self, "end", self.start if constant else 1.0)

    @property
    def adapts(self) -> bool:
        """It depends on more than the time."""
        return self.schedule not in SCHEDULES

    def at(self, progress: float) -> float:
        """Temperature at `progress` (0 at the first step, 1 at the last), unless it `adapts`."""
        return between(self.schedule, self.start, self.end, progress)


@dataclass(frozen=True)
class Term:
    """One distillation loss: its registered name, its weight, and the student's tap it reads (None: none, or all).

    The weight is relative to the usual one of the loss (`Loss.weight`): 1 is as published. `match` says which tap of
    the teacher it is compared with: the one of the same `name`, of the same relative `depth` or `resolution`.
    """

    loss: str
    weight: float = 1.0
    tap: str | None = None
    match: str = "name"


@dataclass(frozen=True)
class Recipe:
    """One distillation setting; plain frozen data, JSON both ways.

    Args:
        alpha: weight of the distillation terms, 0 (labels only) to 1 (teacher only); at the first step.
        alpha_schedule: how it runs over the training from there to `final_alpha`.
        final_alpha: weight at the last step, unless the schedule is constant.
        alpha_by_size: exponent of the student's share of the teacher's parameters by which alpha is multiplied; 0
            leaves alpha alone, above it the smaller student listens less to the teacher, which it cannot follow.
        ensemble: how several teachers answer as one.
        teacher_shares: how much each teacher counts beside that; empty for all alike.
        weighting: `fixed`: alpha as above; `confidence`: each sample's distillation counts as far as the teacher is
            right and sure; `uncertainty`: weights of labels and terms are learned, alpha is not used; `meta`: factors
            of labels and terms are learned by hypergradient.
        mutual: weight of learning from a peer of the same architecture that is trained beside the student (twice the
            cost) and dropped; 0 for none.
        temperature: temperature of the soft targets over the training.
        terms: distillation losses; their weighted sum is what alpha weighs.
        optimizer: `sgd` with Nesterov momentum 0.9, or `adamw`.
        learning_rate: peak learning rate, decayed by a cosine.
        weight_decay: L2 penalty on all weights; of `adamw` the decoupled decay.
        batch_size: samples a step.
        quantised: the student trains as it will run in int8 for the last half of the training.
        exemplars: how samples of earlier classes are chosen for the memory of a stream.
        weight_alignment: newer classes' weights are scaled to the length of earlier ones' after each group of a stream.
        grow: the network starts with one block a stage and gains the others with the later groups of a stream.
    """

    alpha: float = 0.7
    temperature: Temperature = dataclasses.field(default_factory=Temperature)
    terms: tuple[Term, ...] = (Term("kd"),)
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    batch_size: int = 64
    alpha_schedule: str = "constant"
    final_alpha: float = 0.0
    alpha_by_size: float = 0.0
    ensemble: str = "average"
    teacher_shares: tuple[float, ...] = ()
    weighting: str = "fixed"
    mutual: float = 0.0
    optimizer: str = "sgd"
    quantised: bool = False
    exemplars: str = "herding"
    weight_alignment: bool = False
    grow: bool = False

    def __post_init__(self) -> None:
        _require(self.ensemble in ENSEMBLES, "recipe.ensemble", self.ensemble, f"known: {', '.join(ENSEMBLES)}")
        _require(
            all(0 <= share < math.inf for share in self.teacher_shares)
            and (not self.teacher_shares or any(self.teacher_shares)),
            "recipe.teacher_shares",
            self.teacher_shares,
            "give numbers from 0 up, not all of them 0",
        )
        for name in ("alpha", "final_alpha"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"recipe.{name}", value, "choose a weight from 0 to 1")
        _require_schedule("recipe.alpha_schedule", self.alpha_schedule)
        _require(0 <= self.alpha_by_size <= 1, "recipe.alpha_by_size", self.alpha_by_size, "choose 0 to 1")
        for name in ("start", "end"):
            value = getattr(self.temperature, name)
            remedy = f"choose a temperature from {COLDEST} to {HOTTEST:g}"
            _require(COLDEST <= value <= HOTTEST, f"recipe.temperature.{name}", value, remedy)
        _require(
            self.temperature.schedule in TEMPERATURES,
            "recipe.temperature.schedule",
            self.temperature.schedule,
            f"known: {', '.join(TEMPERATURES)}",
        )
        _require(
            self.temperature.schedule != "curriculum" or self.temperature.end < 2 * self.temperature.start,
            "recipe.temperature.end",
            self.temperature.end,
            "a curriculum ranges from end to 2 start - end: choose an end below twice the start",
        )
        _require(self.weighting in WEIGHTINGS, "recipe.weighting", self.weighting, f"known: {', '.join(WEIGHTINGS)}")
        _require(self.optimizer in OPTIMIZERS, "recipe.optimizer", self.optimizer, f"known: {', '.join(OPTIMIZERS)}")
        for term in self.terms:
            _require(term.match in MATCHES, "recipe.terms.match", term.match, f"known: {', '.join(MATCHES)}")
            _require(0 <= term.weight < math.inf, "recipe.terms.weight", term.weight, "choose 0 or more")
        _require(0 <= self.mutual <= 100, "recipe.mutual", self.mutual, "choose 0 (no peer) to 100; 1 in the paper")
        remedy = f"choose a rate above 0, at most {FASTEST:g}"
        _require(0 < self.learning_rate <= FASTEST, "recipe.learning_rate", self.learning_rate, remedy)
        _require(0 <= self.weight_decay <= 1, "recipe.weight_decay", self.weight_decay, "choose 0 to 1")
        _require(self.batch_size >= 2, "recipe.batch_size", self.batch_size, "batch norm needs at least 2 samples")

    def without_teacher(self) -> "Recipe":
        """The same training on the labels alone, for the comparison with and without distillation."""
        return dataclasses.replace(self, alpha=0.0, alpha_schedule="constant", weighting="fixed", mutual=0.0, terms=())

    def for_own_answers(self) -> "Recipe":
        """The same training with one teacher of which only the logits are known: the student's earlier self."""
        terms = tuple(term for term in self.terms if LOSSES[term.loss].reads == "logits") or (Term("kd"),)
        return dataclasses.replace(self, terms=terms, ensemble="average", teacher_shares=(), alpha_by_size=0.0)

    def alpha_at(self, progress: float, size: float = 1.0) -> float:
        """Weight of the distillation terms: the schedule's, lowered by the student's size (`complexity`).

        Args:
            progress: 0 at the first step, 1 at the last.
            size: parameters of the student over those of the teacher.
        """
        scheduled = between(self.alpha_schedule, self.alpha, self.final_alpha, progress)
        return complexity(scheduled, size, self.alpha_by_size)

    def to_json(self) -> dict[str, Any]:
        """Plain nested dictionary."""
        lists = {
            "terms": [dataclasses.asdict(term) for term in self.terms],
            "teacher_shares": list(self.teacher_shares),
        }
        return dataclasses.asdict(self) | lists

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        """Recipe from `to_json`."""
        fields = dict(data)
        fields["temperature"] = Temperature(**data["temperature"])
        fields["terms"] = tuple(Term(**term) for term in data["terms"])
        fields["teacher_shares"] = tuple(data.get("teacher_shares", ()))
        return cls(**fields)


@dataclass(frozen=True)
class SimpleRecipes:
    """Logits KD, alone or with a feature hint; alpha, temperature, learning rate and weight decay vary.

    A range is [low, high]; equal ends fix the value.

    Source: Hinton 2015, Distilling the Knowledge in a Neural Network; Romero 2015, FitNets.

    Args:
        losses: losses on the logits to choose from.
        alpha: range of the weight of the distillation terms, at the first step.
        alpha_schedules: how it runs over the training; all but `constant` end at `final_alpha`.
        final_alpha: range of the weight at the last step.
        alpha_by_size: range of the exponent by which a student's smaller size lowers alpha; [0, 0] leaves it alone.
        temperature: range of the starting temperature.
        ensembles: how several teachers answer as one, to choose from.
        teacher_shares: how much each teacher counts, a list for each choice, such as [[1, 0], [1, 1]]; empty for all
            alike.
        weightings: how weights adapt, to choose from: `fixed`, `confidence`, `uncertainty`, `meta`.
        mutual: weights of learning from a peer to choose from; 0 for none.
        schedules: temperature policies to choose from; all but `constant` end at `final_temperature`.
        final_temperature: temperature at the last step, or of a guess.
        hints: share the choice between recipes with a feature hint (true) and without (false).
        hint_losses: losses on a feature to choose from.
        hint_weight: range of the hint's weight relative to its usual one, sampled on a log scale.
        every_tap: a hint at one tap (false) or at each of `taps` (true; `meta` weighs them apart), to choose from.
        taps: the student's taps whose features a hint may match.
        tap_share: of `taps` only those whose stage takes at least this share of the time on a device of the search; 0
            for all.
        teacher_taps: taps of the teacher to choose a match from; empty for those of the same names.
        matches: how the teacher's tap is found, to choose from: `name`, `depth`, `resolution`.
        optimizer: `sgd` or `adamw`, which wants a learning rate about a hundred times smaller.
        learning_rate: range, sampled on a log scale.
        weight_decay: range, sampled on a log scale.
        batch_size: samples a step.
        quantised: students train as in int8 for the last half of the training; null: where a device computes so.
    """

    losses: tuple[str, ...] = ("kd",)
    alpha: Range = (0.3, 0.95)
    alpha_schedules: tuple[str, ...] = ("constant",)
    final_alpha: Range = (0.0, 1.0)
    alpha_by_size: Range = (0.0, 0.0)
    temperature: Range = (2.0, 8.0)
    ensembles: tuple[str, ...] = ("average",)
    teacher_shares: tuple[tuple[float, ...], ...] = ()
    weightings: tuple[str, ...] = ("fixed",)
    mutual: tuple[float, ...] = (0.0,)
    schedules: tuple[str, ...] = ("constant", "linear")
    final_temperature: float = 1.0
    hints: tuple[bool, ...] = (False, True)
    hint_losses: tuple[str, ...] = ("hint",)
    hint_weight: Range = (0.1, 10.0)
    every_tap: tuple[bool, ...] = (False,)
    taps: tuple[str, ...] = ("stage2", "stage3")
    tap_share: float = 0.0
    teacher_taps: tuple[str, ...] = ()
    matches: tuple[str, ...] = ("name",)
    learning_rate: Range = (0.03, 0.5)
    weight_decay: Range = (1e-5, 2e-3)
    batch_size: int = 64
    optimizer: str = "sgd"
    quantised: bool | None = None

    def __post_init__(self) -> None:
        weights = ("alpha", "final_alpha", "alpha_by_size")
        for name in (*weights, "temperature", "hint_weight", "learning_rate", "weight_decay"):
            low, high = getattr(self, name)
            _require(low <= high, f"recipes.{name}", [low, high], "give [low, high] with low <= high")
            if name == "weight_decay" and low == high == 0:
                continue
            if name in CEILINGS:
                _require(high <= CEILINGS[name], f"recipes.{name}", [low, high], f"stay at or below {CEILINGS[name]:g}")
            if name == "temperature":
                _require(low >= COLDEST, f"recipes.{name}", [low, high], f"stay at or above {COLDEST}")
            if name in weights:
                _require(low >= 0 and high <= 1, f"recipes.{name}", [low, high], "stay between 0 and 1")
            else:
                _require(low > 0, f"recipes.{name}", [low, high], "values start above 0")
        _require_known("recipes.optimizer", self.optimizer, list(OPTIMIZERS))
        for field, known in _choices().items():
            chosen = getattr(self, field)
            for name in chosen:
                _require_known(f"recipes.{field}", name, known)
            _require(bool(chosen), f"recipes.{field}", [], "list at least one")
            _require(len(set(chosen)) == len(chosen), f"recipes.{field}", list(chosen), "name each once")
        for field in ("taps", "teacher_taps", "hints", "every_tap", "mutual", "teacher_shares"):
            chosen = getattr(self, field)
            _require(len(set(chosen)) == len(chosen), f"recipes.{field}", list(chosen), "name each once")
        _require(
            self.batch_size <= 256 or "rkd_angle" not in self.needed_losses(),
            "recipes.batch_size",
            self.batch_size,
            "rkd_angle needs memory for batch^3 numbers: choose at most 256, or leave it out of hint_losses",
        )
        for shares in self.teacher_shares:
            valid = bool(shares) and min(shares) >= 0 and any(shares)
            _require(valid, "recipes.teacher_shares", list(shares), "numbers from 0 up, a list a choice, not all 0")
        _require(0 <= self.tap_share < 1, "recipes.tap_share", self.tap_share, "choose a share from 0, below 1")
        _require(bool(self.every_tap), "recipes.every_tap", [], "list true, false or both")
        _require(bool(self.mutual), "recipes.mutual", [], "list at least one weight, 0 for none")
        for weight in self.mutual:
            _require(0 <= weight <= 100, "recipes.mutual", weight, "choose 0 (no peer) to 100; 1 in the paper")
        _require(bool(self.hints), "recipes.hints", [], "list true, false or both")
        _require(
            COLDEST <= self.final_temperature <= HOTTEST,
            "recipes.final_temperature",
            self.final_temperature,
            f"choose {COLDEST} to {HOTTEST:g}",
        )
        _require(
            "curriculum" not in self.schedules or self.final_temperature < 2 * self.temperature[0],
            "recipes.final_temperature",
            self.final_temperature,
            "a curriculum ranges from it to twice the start less it: choose less than twice the lowest temperature",
        )
        _require(self.batch_size >= 2, "recipes.batch_size", self.batch_size, "batch norm needs at least 2 samples")
        _require(
            bool(self.teacher_taps) or self.matches == ("name",),
            "recipes.teacher_taps",
            [],
            "matches by depth or resolution choose among them: list the teacher's taps",
        )
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
        end = start if schedule == "constant" else self.final_temperature
        weighting = _choose(trial, "weighting", self.weightings)
        alpha = _number(trial, "alpha", self.alpha)
        alpha_schedule = _choose(trial, "alpha.schedule", self.alpha_schedules)
        final_alpha = 0.0 if alpha_schedule == "constant" else _number(trial, "alpha.final", self.final_alpha)
        terms = [Term(_choose(trial, "loss", self.losses))]
        if _choose(trial, "hint", self.hints):
            loss = _choose(trial, "hint.loss", self.hint_losses)
            several, only = LOSSES[loss].several, LOSSES[loss].at
            weight, match, taps = _number(trial, "hint.weight", self.hint_weight, log=True), "name", self.taps
            if several or only:
                taps = (only,) if only else ()
            else:
                match = _choose(trial, "hint.match", self.matches)
                if not _choose(trial, "hint.every_tap", self.every_tap):
                    taps = (_choose(trial, "hint.tap", self.taps),)
            terms += [Term(loss, weight / max(len(taps), 1), tap, match) for tap in taps or (None,)]
        shares: tuple[float, ...] = ()
        if self.teacher_shares:
            shares = self.teacher_shares[_choose(trial, "teacher_shares", tuple(range(len(self.teacher_shares))))]
        return Recipe(
            alpha=alpha,
            alpha_schedule=alpha_schedule,
            final_alpha=final_alpha,
            alpha_by_size=_number(trial, "alpha.by_size", self.alpha_by_size),
            ensemble=_choose(trial, "ensemble", self.ensembles),
            teacher_shares=shares,
            weighting=weighting,
            mutual=_choose(trial, "mutual", self.mutual),
            temperature=Temperature(schedule, start, end),
            terms=tuple(terms),
            optimizer=self.optimizer,
            learning_rate=_number(trial, "learning_rate", self.learning_rate, log=True),
            weight_decay=_number(trial, "weight_decay", self.weight_decay, log=True),
            batch_size=self.batch_size,
            quantised=bool(self.quantised),
        )

    def needed_taps(self) -> tuple[str, ...]:
        """Teacher taps that some recipe of this space reads."""
        hinted = (self.teacher_taps or self.taps) if any(self.hints) else ()
        only = (LOSSES[name].at for name in (*self.losses, *self.needed_losses()))
        return tuple(dict.fromkeys((*hinted, *filter(None, only))))

    def needed_losses(self) -> tuple[str, ...]:
        """Losses on features that some recipe of this space uses."""
        return self.hint_losses if any(self.hints) else ()

    def needed_terms(self) -> tuple[Term, ...]:
        """Every term on features that some recipe of this space has, at its usual weight."""
        found = []
        for name in (*(name for name in self.losses if LOSSES[name].at), *self.needed_losses()):
            loss = LOSSES[name]
            if loss.several or loss.at:
                found.append(Term(name, tap=loss.at))
            else:
                found += [Term(name, tap=tap, match=match) for tap in self.taps for match in self.matches]
        return tuple(found)


@dataclass(frozen=True)
class LabelsAlone:
    """No teacher and no decision: every candidate learns from the labels alone, in the same way.

    Source: Zoph and Le 2017, Neural Architecture Search with Reinforcement Learning (one training setting for all).

    Args:
        learning_rate: peak learning rate.
        weight_decay: L2 penalty on all weights.
        batch_size: samples a step.
        optimizer: `sgd` or `adamw`.
        quantised: every candidate trains as it will run in int8 for the last half of its training; null: see `simple`.
    """

    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    batch_size: int = 64
    optimizer: str = "sgd"
    quantised: bool | None = None

    def __post_init__(self) -> None:
        try:
            self._recipe()
        except KdnasError as error:
            field = error.field.replace("recipe.", "recipes.")
            raise KdnasError(error.problem, field=field, value=error.value, remedy=error.remedy) from error

    def suggest(self, trial: Suggests) -> Recipe:
        """The one recipe."""
        return self._recipe()

    def needed_taps(self) -> tuple[str, ...]:
        """None."""
        return ()

    def _recipe(self) -> Recipe:
        options = dataclasses.asdict(self) | {"quantised": bool(self.quantised)}
        return dataclasses.replace(Recipe().without_teacher(), **options)


@dataclass(frozen=True)
class StandardRecipes(SimpleRecipes):
    """The methods that helped most often in published comparisons: four on logits, four on features, both schedules.

    Args: as for `simple`.

    Source: Zhao 2022 (DKD), Huang 2022 (DIST), Sun 2024, Tung 2019, Tian 2020 (CRD), Chen 2021 (ReviewKD).
    """

    losses: tuple[str, ...] = ("kd", "dkd", "dist", "kd_standardised")
    schedules: tuple[str, ...] = ("constant", "linear", "cosine")
    alpha_schedules: tuple[str, ...] = ("constant", "linear")
    hint_losses: tuple[str, ...] = ("hint", "similarity", "contrastive", "review")


@dataclass(frozen=True)
class EveryRecipe(SimpleRecipes):
    """Every loss, schedule, policy and ensemble there is: for a large budget, or to see what works at all.

    Args: as for `simple`.

    Source: Hinton 2015 to Wei 2024; `kdnas list losses`, `alpha`, `temperature` and `ensembles` name that of each.
    """

    losses: tuple[str, ...] = tuple(
        name for name, loss in LOSSES.items() if loss.reads == "logits" and loss.suits("classes")
    )
    schedules: tuple[str, ...] = tuple(TEMPERATURES)
    alpha_schedules: tuple[str, ...] = tuple(SCHEDULES)
    alpha_by_size: Range = (0.0, 0.3)
    weightings: tuple[str, ...] = tuple(WEIGHTINGS)
    mutual: tuple[float, ...] = (0.0, 1.0)
    ensembles: tuple[str, ...] = tuple(ENSEMBLES)
    hint_losses: tuple[str, ...] = HINTS
    every_tap: tuple[bool, ...] = (False, True)
    teacher_taps: tuple[str, ...] = ("stage1", "stage2", "stage3")
    matches: tuple[str, ...] = ("name", "depth", "resolution")


RECIPES: Registry[type] = Registry(
    "recipe space",
    ("simple", SimpleRecipes),
    ("standard", StandardRecipes),
    ("everything", EveryRecipe),
    ("labels", LabelsAlone),
    needs=("suggest", "needed_taps", "batch_size"),
)


def suited(recipes: Any, targets: Targets) -> Any:
    """The recipe space as far as it means something for such targets; `kd` becomes the task's own plain KD.

    What a preset lists by itself is narrowed to what suits; what the user listed is not changed behind their back.
    Where targets are values no loss reads a temperature, so none is searched; where they are boxes it is 1, as
    published, unless the user gives another. A user's own space is left as it is.

    Raises:
        KdnasError: a list names what does not suit.
    """
    if not isinstance(recipes, SimpleRecipes):
        return recipes
    names = {field.name: field.default for field in dataclasses.fields(recipes)}
    fit: dict[str, Any] = {
        "losses": lambda name: LOSSES[named(name, targets)].suits(targets),
        "hint_losses": lambda name: LOSSES[name].suits(targets),
        "ensembles": lambda name: targets == "classes" or name in ANY_TARGETS,
        "mutual": lambda weight: targets != "boxes" or weight == 0,
        "weightings": lambda name: targets == "classes" or name != "confidence",
        "schedules": lambda name: targets == "classes" or name == "constant" or _heats(name, targets),
    }
    changes: dict[str, Any] = {}
    for field, fits in fit.items():
        chosen = getattr(recipes, field)
        kept = tuple(name for name in chosen if fits(name))
        if kept != chosen and chosen != names[field]:
            wrong = next(name for name in chosen if not fits(name))
            known = [str(name) for name in _choices().get(field, [0.0]) if fits(name)]
            raise KdnasError(
                f"means nothing for a task whose targets are {targets}",
                field=f"recipes.{field}",
                value=wrong,
                remedy=f"choose among {', '.join(known)}",
            )
        changes[field] = tuple(dict.fromkeys(named(name, targets) for name in kept)) if field == "losses" else kept
    if targets == "values" and recipes.temperature == names["temperature"]:
        changes["temperature"] = (Temperature().start,) * 2
    if targets == "boxes" and recipes.temperature == names["temperature"]:
        changes["temperature"] = (1.0, 1.0)
    return dataclasses.replace(recipes, **changes)


def check_terms(recipe: Recipe, targets: Targets) -> None:
    """Refuses a recipe with a loss that means nothing for such targets.

    Raises:
        KdnasError: names the loss.
    """
    for term in recipe.terms:
        name = named(term.loss, targets)
        check_targets(name, LOSSES[name], targets)


def _heats(schedule: str, targets: Targets) -> bool:
    """Whether a temperature that changes means something: a number has none, and `per_sample` reads a softmax."""
    return targets == "labels" and schedule != "per_sample"


def _choices() -> dict[str, list[str]]:
    """What each list of names may hold."""
    return {
        "losses": [name for name in LOSSES if name not in HINTS],
        "hint_losses": list(HINTS),
        "schedules": list(TEMPERATURES),
        "alpha_schedules": list(SCHEDULES),
        "weightings": list(WEIGHTINGS),
        "ensembles": list(ENSEMBLES),
        "matches": list(MATCHES),
    }


def _choose(trial: Suggests, name: str, choices: tuple) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def _number(trial: Suggests, name: str, bounds: Range, log: bool = False) -> float:
    return bounds[0] if bounds[0] == bounds[1] else trial.suggest_float(name, *bounds, log=log)


def _require_schedule(field: str, name: str) -> None:
    _require(name in SCHEDULES, field, name, f"known: {', '.join(SCHEDULES)}")


def _require_known(field: str, name: str, known: list[str]) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if name in LOSSES:
        right = "hint_losses" if name in HINTS else "losses"
        hint = f"it reads {LOSSES[name].reads}: name it in recipes.{right}; "
    raise KdnasError("unknown here", field=field, value=name, remedy=f"{hint}known here: {', '.join(known)}")


def _require(holds: bool, field: str, value: object, remedy: str) -> None:
    if not holds:
        raise KdnasError("not possible", field=field, value=value, remedy=remedy)
