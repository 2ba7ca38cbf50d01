"""Contract of every sampler in `SAMPLERS`: a new entry is tested by being listed there."""

import dataclasses
import importlib.util
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from kdnas_ray.samplers import SAMPLERS, Around
from kdnas_ray.samplers.base import Planner
from search_spaces import Architecture, KdnasError
from trainables.recipe import Recipe

# Every sampler must do better than this one, so it is left out where that is asked.
NAMES = [name for name in SAMPLERS if name != "cmaes" or importlib.util.find_spec("cmaes")]
LEARNERS = [name for name in NAMES if name != "random"]
SEVERAL = [name for name in NAMES if getattr(SAMPLERS[name], "several_objectives", True)]
PLANNERS = ["evolution", "local", "reinforce", "predictor"]  # ours: all state in the study
SMALL = {"evolution": {"population": 12}}  # so that more than random draws are seen of it in a short test


def patient(names: list[str]) -> list:
    """A proposal of `gp` takes long, the more so while others run: its short tests are in test_samplers_gp.py."""
    return [pytest.param(name, marks=pytest.mark.pairs) if name == "gp" else name for name in names]


class MixedSpace:
    """The space of `suggest`, as a search space."""

    def suggest(self, trial) -> Architecture:
        suggest(trial)
        return Architecture.of({})


class OneRecipe:
    """No decision."""

    def suggest(self, trial) -> Recipe:
        return Recipe()


AROUND = Around(MixedSpace(), OneRecipe(), lambda _: {"params": 1, "flops": 1}, list, 9)


def excess_of(trial: optuna.trial.FrozenTrial) -> list[float]:
    """As the search reads it: written down before the trial is told."""
    return trial.user_attrs.get("excess") or [0.0]


def study_with(name: str, seed: int = 0, directions: tuple[str, ...] = ("maximize",), **kwargs) -> optuna.Study:
    sampler = SAMPLERS[name](**SMALL.get(name, {})).make(seed, excess_of, AROUND)
    return optuna.create_study(sampler=sampler, directions=directions, **kwargs)


def suggest(trial: optuna.Trial) -> tuple[float, int, str]:
    """A mixed, conditional space, as architecture and recipe are."""
    x = trial.suggest_float("x", 0, 1)
    depth = trial.suggest_int("depth", 1, 4)
    block = trial.suggest_categorical("block", ("basic", "separable"))
    if block == "separable":
        trial.suggest_categorical("kernel", (3, 5))
    return x, depth, block


class FiniteSpace:
    """72 architectures: 2 * 4 * 9."""

    def suggest(self, trial) -> Architecture:
        finite(trial)
        return Architecture.of({})


def finite(trial) -> float:
    a = trial.suggest_categorical("a", (False, True))
    return a + trial.suggest_int("b", 1, 4, log=True) // 2 + trial.suggest_float("c", 0.1, 0.9, step=0.1)


def told(number: int, value: float) -> list[float] | None:
    return None if number % 7 == 3 else [value]


def score(trial: optuna.Trial) -> float:
    """Best at x = 0.2, depth 4, block `basic`."""
    x, depth, block = suggest(trial)
    return -abs(x - 0.2) + 0.05 * depth + 0.1 * (block == "basic")


def run(study: optuna.Study, count: int, function: Callable[[optuna.Trial], float] = score) -> list[float]:
    values = []
    for _ in range(count):
        trial = study.ask()
        values.append(function(trial))
        study.tell(trial, values[-1])
    return values


def inside(params: dict) -> bool:
    return (
        0 <= params["x"] <= 1
        and params["depth"] in (1, 2, 3, 4)
        and params["block"] in ("basic", "separable")
        and ("kernel" in params) == (params["block"] == "separable")
        and params.get("kernel", 3) in (3, 5)
    )


@pytest.mark.parametrize("name", patient(NAMES))
def test_sampler_when_many_workers_ask_before_any_is_told_then_all_proposals_are_inside_and_differ(name):
    study = study_with(name)
    for _ in range(4):  # rounds of 8 at once, told in reverse order
        trials = [study.ask() for _ in range(8)]
        values = [score(trial) for trial in trials]
        for trial, value in reversed(list(zip(trials, values, strict=True))):
            study.tell(trial, value)
    assert all(inside(trial.params) for trial in study.trials)
    assert len({tuple(trial.params.items()) for trial in study.trials}) > 24


@pytest.mark.parametrize("name", patient(NAMES))
def test_sampler_when_threads_ask_at_once_then_every_candidate_has_its_own_number(name):
    study = study_with(name)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: run(study, 5), range(4)))
    assert sorted(trial.number for trial in study.trials) == list(range(20))
    assert all(inside(trial.params) for trial in study.trials)


@pytest.mark.parametrize("name", patient(NAMES))
def test_sampler_when_one_worker_and_the_same_seed_then_repeats(name):
    first, again, other = (study_with(name, seed) for seed in (3, 3, 4))
    assert run(first, 25) == run(again, 25) != run(other, 25)


@pytest.mark.parametrize("name", patient(NAMES))
def test_sampler_when_candidates_are_pruned_or_failed_then_goes_on(name):
    study = study_with(name)
    for number in range(24):
        trial = study.ask()
        value = score(trial)
        if number % 3 == 0:
            trial.report(value, 3)
            study.tell(trial, state=TrialState.PRUNED)
        elif number % 3 == 1:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, value)
    assert all(inside(trial.params) for trial in study.trials)


@pytest.mark.parametrize("name", patient(NAMES))
def test_sampler_when_the_search_is_resumed_then_goes_on_from_the_stored_study(name, tmp_path):
    def storage() -> JournalStorage:
        return JournalStorage(JournalFileBackend(str(tmp_path / "study")))

    run(study_with(name, study_name="s", storage=storage()), 4)
    again = study_with(name, seed=4, study_name="s", storage=storage(), load_if_exists=True)
    run(again, 3)
    assert [trial.number for trial in again.trials] == list(range(7))
    assert all(trial.state == TrialState.COMPLETE and inside(trial.params) for trial in again.trials)


@pytest.mark.parametrize("name", patient(LEARNERS))
def test_sampler_when_resumed_then_knows_what_the_store_holds(name):
    storage = optuna.storages.InMemoryStorage()
    run(study_with("random", study_name="s", storage=storage), 48)
    again = study_with(name, seed=1, study_name="s", storage=storage, load_if_exists=True)
    run(again, 48)
    chance = statistics.mean(trial.value for trial in again.trials[:48])
    assert statistics.mean(trial.value for trial in again.trials[-24:]) > chance + 0.05


@pytest.mark.parametrize("name", patient(LEARNERS))
def test_sampler_when_candidates_break_a_constraint_then_learns_to_keep_it(name):
    study = study_with(name)
    kept = []
    while sum(kept) < (60 if name != "gp" else 30) and len(kept) < 400:  # a proposal of gp takes long
        trial = study.ask()
        x, _, _ = suggest(trial)
        trial.set_user_attr("excess", [x - 0.3])  # a third keeps it by chance
        kept.append(x <= 0.3)
        if kept[-1]:
            study.tell(trial, x)  # and the objective pulls towards the bound
        else:
            study.tell(trial, state=TrialState.PRUNED)  # rejected: told as the adapter tells it
    assert sum(kept[-40:]) / 40 > 0.45


@pytest.mark.parametrize("name", patient(SEVERAL))
def test_sampler_when_there_are_two_objectives_then_keeps_a_front(name):
    study = study_with(name, directions=("maximize", "minimize"))
    for number in range(40):
        trial = study.ask()
        x, depth, _ = suggest(trial)
        trial.set_user_attr("excess", [x - 0.9])
        if x > 0.9:
            study.tell(trial, state=TrialState.PRUNED)
        elif number % 10 == 9:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [x * depth, x])
    assert len(study.best_trials) > 1
    assert all(inside(trial.params) for trial in study.trials)


@pytest.mark.parametrize("name", PLANNERS)
def test_planner_when_resumed_with_the_same_seed_then_proposes_what_it_would_have(name):
    whole, first = (study_with(name, storage=optuna.storages.InMemoryStorage()) for _ in range(2))
    run(whole, 50)
    run(first, 25)
    again = study_with(name, study_name=first.study_name, storage=first._storage, load_if_exists=True)
    run(again, 25)
    assert [trial.params for trial in again.trials] == [trial.params for trial in whole.trials]


@pytest.mark.parametrize("name", PLANNERS)
def test_planner_when_the_space_is_finite_then_proposes_nothing_twice_not_even_what_is_running(name):
    around = dataclasses.replace(AROUND, space=FiniteSpace())
    study = optuna.create_study(
        direction="maximize", sampler=SAMPLERS[name](**SMALL.get(name, {})).make(0, excess_of, around)
    )
    for number in range(20):  # 40 of 72, two at a time
        pair = [study.ask() for _ in range(2)]
        values = [finite(trial) for trial in pair]
        study.tell(
            pair[0], state=TrialState.FAIL if number % 7 == 3 else TrialState.COMPLETE, values=told(number, values[0])
        )
        study.tell(pair[1], values[1])
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 40


@pytest.mark.parametrize("name", PLANNERS)
def test_planner_when_it_has_seen_the_whole_space_then_repeats_itself_without_end(name):
    around = dataclasses.replace(AROUND, space=FiniteSpace())
    study = optuna.create_study(
        direction="maximize", sampler=SAMPLERS[name](**SMALL.get(name, {})).make(0, excess_of, around)
    )
    run(study, 80, finite)
    assert len({tuple(trial.params.items()) for trial in study.trials}) > 60


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize")])
@pytest.mark.parametrize("name", PLANNERS)
def test_planner_when_nothing_is_known_of_the_spaces_then_varies_what_earlier_candidates_decided(name, directions):
    sampler = SAMPLERS[name](**SMALL.get(name, {})).make(0, excess_of)
    study = optuna.create_study(directions=directions, sampler=sampler)
    for _ in range(50):
        trial = study.ask()
        value = score(trial)
        study.tell(trial, [value, trial.params["x"]][: len(directions)])
    assert isinstance(sampler, Planner)
    assert all(inside(trial.params) for trial in study.trials)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_options_when_not_positive_then_are_refused(name):
    counts = [field.name for field in dataclasses.fields(SAMPLERS[name]) if isinstance(field.default, int)]
    for field in counts:
        with pytest.raises(KdnasError) as caught:
            SAMPLERS[name](**{field: 0})
        assert (caught.value.field, caught.value.value) == (f"sampler.{field}", 0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_when_described_then_has_a_summary_a_source_and_its_options(name):
    row = next(row for row in SAMPLERS.describe() if row["name"] == name)
    assert row["summary"].endswith(".")
    assert row["source"]
    documented = SAMPLERS[name].__doc__ or ""
    assert all(f"{field.name}: " in documented for field in dataclasses.fields(SAMPLERS[name]))
