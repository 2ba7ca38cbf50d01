"""What do several searches on one study know of each other, so that they belong together and train nothing twice?

Each has its run folder, its candidates and its ranking. They meet in the study alone: samplers read all that ended in
it, and a candidate is claimed there before it is trained.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdnas_ray.database import OWNER, SharedStorage
from kdnas_ray.postgres import same_database
from kdnas_ray.study import quiet_optuna
from kdnas_ray.study_settings import StudySettings
from search_spaces.errors import KdnasError

CLAIM = "claim"  # attribute of a trial: what it trains, seed aside
SEARCH = "search "  # begin of the study's attributes, one a search: what it searches
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
# What must be the same for accuracies to be comparable and decisions to mean the same; the seed splits the data.
ALIKE = (
    "task",
    "labels",
    "stream",
    "teachers",
    "bank",
    "space",
    "recipes",
    "evaluator",
    "scheduler",
    "objectives",
    "constraints",
    "seed",
)


class Others:
    """The other searches on the study of one.

    Args:
        study: of the search.
        storage: of the study.
        objectives: names of the study's objectives.
    """

    def __init__(self, study: optuna.Study, storage: SharedStorage, objectives: Sequence[str]) -> None:
        self._study, self._storage, self._objectives = study, storage, objectives

    def claimed(self, trial: optuna.Trial, what: str) -> dict[str, Any] | None:
        """Claim a training for this search; the row of the candidate of another search that has it already, if one has.

        Args:
            trial: that is to train it.
            what: the same text for all candidates whose trainings differ in the seed alone.
        """
        claim = hashlib.sha256(what.encode()).hexdigest()
        with self._storage.alone(self._study._study_id):
            for other in self._study.get_trials(deepcopy=False):
                attributes = other.user_attrs
                if attributes.get(CLAIM) == claim and attributes.get(OWNER) != self._storage.owner and _holds(other):
                    return self._row(other)
            trial.set_user_attr(CLAIM, claim)
        return None

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        """Its line in candidates.jsonl, as far as a study is told of it again."""
        return {
            "id": f"c{trial.number:04d}",
            "state": STATES.get(trial.state, "being trained"),
            "curve": trial.user_attrs.get("curve", []),
            **dict(zip(self._objectives, trial.values or (), strict=False)),
        }


def _holds(trial: FrozenTrial) -> bool:
    """Whether a claim counts: what was rejected unseen, or died while it was proposed, was not trained."""
    ended, attributes = trial.state.is_finished(), trial.user_attrs
    if trial.state is TrialState.PRUNED:
        return bool(attributes.get("curve"))
    return not ended or trial.state is TrialState.COMPLETE or "candidate" in attributes


def check_study(settings: StudySettings, resolved: Mapping[str, Any], tracking: str | None, run: Path | None) -> None:
    """Refuses a database that cannot be used, and a study of searches of another kind, before any work.

    Args:
        settings: of the study, with a `url`.
        resolved: configuration of the search.
        tracking: address of the MLflow store, None where there is none.
        run: its folder, None where it has none yet.

    Raises:
        KdnasError: it is.
    """
    if tracking is not None and same_database(settings.address(), tracking):
        raise KdnasError(
            "is also where MLflow keeps its records, whose tables have the same names",
            field="study.url",
            value=settings.url,
            remedy="give the study a database of its own: `createdb kdnas_study`",
        )
    kept = run / "study.json" if run is not None else None
    known = json.loads(kept.read_text(encoding="utf8")) if kept is not None and kept.exists() else {}
    name = known.get("name", settings.name)
    with quiet_optuna():
        storage = SharedStorage(settings, known.get("search"))
        if name is not None and name in optuna.get_all_study_names(storage):
            _check_alike(optuna.load_study(study_name=name, storage=storage), resolved, storage.owner)


def join(study: optuna.Study, storage: SharedStorage, run: str, resolved: Mapping[str, Any]) -> None:
    """Write down in the study what this search searches, or refuse to be part of it.

    Args:
        study: of the search.
        storage: of the study.
        run: name of the run folder, for messages to other searches.
        resolved: configuration of the search.

    Raises:
        KdnasError: the others search something else.
    """
    with storage.alone(study._study_id):
        _check_alike(study, resolved, storage.owner)
        study.set_user_attr(f"{SEARCH}{storage.owner}", {"run": run, "alike": _digests(resolved)})


def _check_alike(study: optuna.Study, resolved: Mapping[str, Any], owner: str | None) -> None:
    ours = _digests(resolved)
    for key, other in study.user_attrs.items():
        if not key.startswith(SEARCH) or key == f"{SEARCH}{owner}":
            continue
        for section, digest in other["alike"].items():
            if ours.get(section) != digest:
                raise KdnasError(
                    f"differs from that of {other['run']!r}, which is part of the study {study.study_name!r}",
                    field=section,
                    remedy="searches on one study differ in sampler, budget, resources and what follows the search "
                    "alone; give this one another study.name",
                )


def _digests(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Of each section; the study is not told what stands in them, such as paths."""
    bank = {name: resolved["bank"][name] for name in ("views", "pool", "top_k")}
    found = {**{name: resolved[name] for name in ALIKE}, "bank": bank}
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for name, value in found.items()
    }
