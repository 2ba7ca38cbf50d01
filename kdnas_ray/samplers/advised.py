"""Which recipe suits an architecture? Learned from finished candidates, of this search and of earlier ones."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FixedTrial, FrozenTrial

from kdnas_ray.runs import read_jsonl
from kdnas_ray.samplers.base import Around, Constraints, Row, at_least
from kdnas_ray.samplers.tpe import TPE
from search_spaces import KdnasError, first_line
from trainables.recipe import Recipe

ENOUGH = 20  # finished candidates below which recipes are drawn at random
REFIT = 5  # finished candidates after which the model is fitted anew


@dataclass(frozen=True)
class Advised(TPE):
    """TPE for the architecture; for its recipe the best of many by a model of finished candidates, earlier runs' too.

    Source: Vanschoren 2019, Meta-Learning, section 2.3 (warm-starting from prior evaluations).

    Args:
        startup_trials: random architectures before TPE is used.
        candidates: points drawn from TPE's model for each proposal.
        history: trials that TPE's model sees, the best and the latest.
        warm_start: run folders of earlier searches to learn from, also on other spaces and data.
        explore: share of the proposals that keep a random recipe.
        draws: random recipes that the model chooses from.
    """

    warm_start: tuple[Path, ...] = ()
    explore: float = 0.2
    draws: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("draws", self.draws, 1)
        if not 0 <= self.explore <= 1:
            raise KdnasError("a share", field="sampler.explore", value=self.explore, remedy="choose 0 to 1")

    def make(self, seed: int, constraints: Constraints, around: Around | None = None) -> BaseSampler:
        """The Optuna sampler; plain TPE where nothing is known of the search."""
        base = super().make(seed, constraints)
        if around is None:
            return base
        earlier = read_searches(self.warm_start)
        return AdvisedSampler(base, around, earlier, explore=self.explore, draws=self.draws, seed=seed)


class RecipeModel:
    """Predicts how far above the others of its search a candidate with this recipe ends.

    A random forest on the recipe's numbers and names, the logarithm of the architecture's parameters and FLOPs, and
    the epochs trained. Target: validation accuracy at a rung, standardised among the candidates of one search that
    reached it, so that searches on other data and spaces speak the same language.

    Source: Vanschoren 2019, Meta-Learning, section 2.3 (learning from prior evaluations of other tasks); Breiman 2001,
    Random Forests.

    Args:
        seed: of the forest.
    """

    def __init__(self, seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor  # a second, which not every command needs to wait for
        from sklearn.feature_extraction import DictVectorizer

        self._vectors = DictVectorizer(sparse=False)
        self._forest = RandomForestRegressor(n_estimators=60, min_samples_leaf=2, random_state=seed)
        self.rows = 0

    def fit(self, searches: Sequence[Sequence[Row]]) -> None:
        """Learn from the rows of `candidates.jsonl` of several searches; those never trained are left out."""
        inputs: list[dict[str, float | str]] = []
        targets: list[float] = []
        for rows in searches:
            trained = _trained(rows)
            # All that came so far, also those that went on: the last to be stopped at a rung are its losers.
            for epochs in sorted({int(row["epochs"]) for row in trained}):
                group = [row for row in trained if row["epochs"] >= epochs]
                accuracies = np.array([row["curve"][epochs - 1]["val_accuracy"] for row in group])
                if len(group) < 3 or accuracies.std() == 0:
                    continue
                targets.extend((accuracies - accuracies.mean()) / accuracies.std())
                inputs.extend(recipe_features(Recipe.from_json(row["recipe"]), row, epochs) for row in group)
        self.rows = len(inputs)
        if self.rows >= ENOUGH:
            self._forest.fit(self._vectors.fit_transform(inputs), targets)

    def predict(self, recipes: Sequence[Recipe], costs: Mapping[str, float], epochs: int) -> np.ndarray:
        """Predicted target of each recipe for an architecture of these costs, `[recipes]`."""
        return self._forest.predict(self._vectors.transform([recipe_features(r, costs, epochs) for r in recipes]))


class AdvisedSampler(BaseSampler):
    """Another sampler's architectures with the recipe that the model finds best of many random ones.

    Args:
        base: proposes architectures, and whatever the recipe's plan leaves open.
        around: the search.
        earlier: rows of earlier searches.
        explore: share of the proposals with a random recipe.
        draws: random recipes to choose from.
        seed: of the draws.
    """

    def __init__(
        self,
        base: BaseSampler,
        around: Around,
        earlier: Sequence[Sequence[Row]],
        *,
        explore: float,
        draws: int,
        seed: int,
    ) -> None:
        self._base, self._around, self._earlier = base, around, earlier
        self._explore, self._draws, self._seed = explore, draws, seed
        self._rng = random.Random(seed)
        self._model = RecipeModel(seed)
        self._model.fit(earlier)
        self._own_rows = 0
        self._names = {name for _, params in draw_recipes(around.recipes, 100, seed) for name in params}
        self._plans: dict[int, dict[str, Any]] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The base sampler's, without the recipe."""
        space = self._base.infer_relative_search_space(study, trial)
        return {name: found for name, found in space.items() if name not in self._names}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The base sampler's, without the recipe."""
        values = self._base.sample_relative(study, trial, search_space)
        return {name: value for name, value in values.items() if name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A decision of the planned recipe; the base sampler's where it is none."""
        if param_name in self._names:
            if trial.number not in self._plans:
                self._plans = {trial.number: self._plan(trial)}
            plan = self._plans[trial.number]
            if param_name in plan:
                return plan[param_name]
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Tell the base sampler."""
        self._base.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Tell the base sampler."""
        self._base.after_trial(study, trial, state, values)

    def _plan(self, trial: FrozenTrial) -> dict[str, Any]:
        rows = self._around.rows()
        if len(rows) >= self._own_rows + REFIT:
            self._own_rows = len(rows)
            self._model.fit([*self._earlier, rows])
        drawn = draw_recipes(self._around.recipes, self._draws, self._rng.randrange(2**31))
        if self._model.rows < ENOUGH or self._rng.random() < self._explore:
            return drawn[0][1]
        costs = self._around.costs(self._around.space.suggest(FixedTrial(trial.params)))
        scores = self._model.predict([recipe for recipe, _ in drawn], costs, self._around.epochs)
        return drawn[int(scores.argmax())][1]


def read_searches(runs: Sequence[Path]) -> list[list[Row]]:
    """Candidates of earlier runs.

    Raises:
        KdnasError: a folder is no run, or a run holds no trained candidate.
    """
    found: list[list[Row]] = []
    for run in runs:
        file = run / "candidates.jsonl"
        rows: list[Row] = [*read_jsonl(file)] if file.is_file() else []
        try:
            known = [recipe_features(Recipe.from_json(row["recipe"]), row, len(row["curve"])) for row in _trained(rows)]
        except (KeyError, TypeError, ValueError, AttributeError, KdnasError) as error:
            raise KdnasError(
                f"its candidates cannot be read ({type(error).__name__}: {first_line(error)})",
                field="sampler.warm_start",
                value=str(run),
                remedy="name run folders of earlier searches by this version",
            ) from error
        if not known:
            raise KdnasError(
                "no trained candidates here",
                field="sampler.warm_start",
                value=str(run),
                remedy="name run folders of earlier searches",
            )
        found.append(rows)
    return found


def _trained(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["state"] in ("complete", "pruned") and row["curve"]]


def draw_recipes(recipes: Any, count: int, seed: int) -> list[tuple[Recipe, dict[str, Any]]]:
    """Random recipes of a space, each with the decisions it came from."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = []
    for _ in range(count):
        trial = study.ask()
        drawn.append((recipes.suggest(trial), dict(trial.params)))
    return drawn


def recipe_features(recipe: Recipe, costs: Mapping[str, float], epochs: int) -> dict[str, float | str]:
    """What the model sees of a candidate; names become one column a value."""
    found: dict[str, float | str] = {
        "params": math.log(max(costs["params"], 1)),
        "flops": math.log(max(costs["flops"], 1)),
        "epochs": math.log(epochs),
        "alpha": recipe.alpha,
        "final_alpha": recipe.final_alpha,
        "alpha_schedule": recipe.alpha_schedule,
        "alpha_by_size": recipe.alpha_by_size,
        "start": recipe.temperature.start,
        "end": recipe.temperature.end,
        "temperature": recipe.temperature.schedule,
        "ensemble": recipe.ensemble,
        "weighting": recipe.weighting,
        "mutual": recipe.mutual,
        "learning_rate": math.log(recipe.learning_rate),
        "weight_decay": math.log(recipe.weight_decay + 1e-8),
    }
    for index, share in enumerate(recipe.teacher_shares):
        found[f"share {index}"] = share / sum(recipe.teacher_shares)
    for term in recipe.terms:
        found[f"term {term.loss}"] = 1.0
        found[f"match {term.match}"] = 1.0
        whole = sum(other.weight for other in recipe.terms if other.loss == term.loss)
        found[f"weight {term.loss}"] = math.log(whole + 1e-8)
        if term.tap is not None:
            found[f"tap {term.tap}"] = 1.0
    return found
