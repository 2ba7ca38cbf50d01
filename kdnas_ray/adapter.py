"""How do Ray Tune and Optuna talk to each other? The only place that knows both.

Ray's own `OptunaSearch` tells every stopped trial as complete and pickles the whole study at every
snapshot; here a stopped candidate is told as pruned, with its curve, and nothing is pickled: the study
lies in a database and the run folder, from which a search is taken up again.
"""

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from kdnas_ray.feasible import Missing
from kdnas_ray.journal import Journal
from kdnas_ray.objectives import LEARNED, UNSUPPORTED, costs_of, excess, over_text
from kdnas_ray.promotion import Ladder, group
from kdnas_ray.study import begun, own_trials
from search_spaces import Architecture, RunError, Space
from search_spaces.notation import canonical
from trainables.candidate import Candidate
from trainables.distill import read_report
from trainables.limits import HANGING, hung, left
from trainables.lineup import lineup
from trainables.loop import Point

if TYPE_CHECKING:  # imports SQLAlchemy
    from kdnas_ray.others import Others

logger = logging.getLogger(__name__)

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "rejected": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
SAME = 10  # recipes in a row that were tried with an architecture already, before no more are drawn for it
REJECTIONS = 300  # proposals in a row that break a constraint before the search is given up
WORKER_DEATHS = 3  # of one candidate, after which it is the one to blame
FAILURES = 5  # first candidates that all fail: then the fault is in the configuration, not in a candidate


@dataclass
class Stop:
    """Why the search should end now: `interrupt` leaves running candidates open, `budget` closes them."""

    reason: str | None = None


@dataclass(frozen=True)
class Opened:
    """A candidate whose training is not finished, with what is known of it."""

    candidate: Candidate
    costs: Mapping[str, float]
    curve: Sequence[Point] = ()
    train_s: float = 0.0


@dataclass(frozen=True)
class Sieve:
    """A cheap judge before training: of `propose` proposals the `keep` with the highest scores are trained.

    Args:
        name: of the judge.
        propose: candidates drawn from the sampler at a time.
        keep: how many of them are trained.
        score: of each candidate, more is better.
    """

    name: str
    propose: int
    keep: int
    score: Callable[[Sequence[Candidate]], Sequence[float]]


class StudyAdapter(Searcher):
    """Proposes candidates from an Optuna study and tells it how they went.

    Args:
        study: single- or multi-objective; its first direction is validation accuracy.
        space: search space of the architectures.
        recipes: space of the recipes.
        costs: numbers of an architecture known before training (`params`, `flops`).
        bounds: largest allowed value of each constrained number.
        objectives: names of the study's objectives.
        journal: what happens is written down here first.
        rungs: epochs at which a trial reports.
        trials: how many candidates to train in all; None for no bound.
        seed: candidates' seeds derive from it.
        stop: says why to end.
        sieve: lets only some proposals through to training.
        identity: text that is the same for architectures whose results are the same; the space's canonical form.
        scores: further numbers of a candidate that are known before training: proxies that are objectives.
        missing: what each device lacks for an architecture, by the device's name, for the reason of a rejection.
        promote: reduction factor of a scheduler whose candidates wait at rungs; None where nobody waits.
        workers: candidates that run at once.
        recipes_each: recipes that are tried with each architecture that is proposed; a worker trains them as one.
        others: searches on the same study; what they train is not trained here once more.
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        space: Space,
        recipes: Any,
        costs: Callable[[Any], dict[str, float]],
        bounds: Mapping[str, float],
        objectives: Sequence[str],
        journal: Journal,
        rungs: Sequence[int],
        trials: int | None,
        seed: int,
        stop: Stop,
        sieve: Sieve | None = None,
        identity: Callable[[Architecture], str] | None = None,
        scores: Callable[[Candidate], Mapping[str, float]] = lambda candidate: {},
        missing: Missing = lambda architecture: {},
        promote: float | None = None,
        workers: int = 1,
        recipes_each: int = 1,
        others: "Others | None" = None,
    ) -> None:
        super().__init__(metric="val_accuracy", mode="max")
        self.study, self.journal, self.stop = study, journal, stop
        self.error: RunError | None = None
        self.exhausted = False  # hardly anything new is proposed
        self._space, self._recipes, self._costs = space, recipes, costs
        self._bounds, self._objectives, self._rungs = bounds, objectives, rungs
        self._trials, self._seed = trials, seed
        self._running: dict[str, Opened] = {}
        self._reported: dict[str, int] = {}
        self._deaths: dict[str, int] = {}
        self._left: dict[str, str | None] = {}  # the last time that a worker was told to leave one
        self._identity = identity or (lambda architecture: canonical(space, architecture))
        self._known: dict[str, str] = {}  # what was trained or is being trained, and as which candidate
        for row in self.journal.rows.values():
            if row["state"] != "rejected":
                self._known.setdefault(self._same(Candidate.from_json(row)), row["id"])
        self._sieve, self._scores, self._missing = sieve, scores, missing
        self._passed: deque[Opened] = deque()
        self._recipes_each, self._others = recipes_each, others
        self._ladder = Ladder(rungs, promote) if promote is not None else None
        self._paused: dict[str, Opened] = {}  # waits at a rung
        self._mates: dict[str, list[Opened]] = {}  # of one that runs: its worker trains them too
        self._trained: deque[Opened] = deque()  # by a worker that trained another, or ready to be
        self._waiting: deque[Opened] = deque()
        for row in self.journal.rows.values():
            if self._ladder is not None:
                self._ladder.reached(row["id"], row["curve"])
        for opened in self._reconcile():
            if len(opened.curve) >= rungs[-1]:  # the process died before it wrote the last line
                self.journal.started(opened.candidate, opened.costs, len(opened.curve))
                self._end(opened.candidate, "complete", opened.curve, opened.train_s, None)
            elif self._ladder is not None and opened.curve:
                self._pause(opened)
            else:
                self._waiting.append(opened)
        self.journal.progress.ended_before += len(self._paused)  # they are no work of this session
        self._created = len(self.journal.rows) - self.journal.progress.ended["rejected"]
        self._created += len(self._paused) + len(self._waiting)
        self._handed = 0
        first = workers
        if trials is not None:  # how many trials begin together: one of each pack
            first = min(workers, len(self._waiting) + math.ceil((trials - self._created) / recipes_each))
        self.lineup = lineup(journal.checkpoints, first)

    def has_work(self) -> bool:
        """Whether there is a candidate left to train."""
        ready = self._waiting or self._mates or self._trained or self._passed or self._promoted()
        return bool(ready) or not self._used_up()

    def end_paused(self) -> None:
        """Close the candidates that wait at a rung; nobody goes on any more."""
        for opened in (*self._trained, *(mate for mates in self._mates.values() for mate in mates)):
            self._end_untold(opened)
        self._trained.clear()
        self._mates.clear()
        while self._paused:
            opened = self._resume(next(reversed(self._paused)))
            self.journal.started(opened.candidate, opened.costs, len(opened.curve))
            self._end(opened.candidate, "pruned", opened.curve, opened.train_s, None)

    def _end_untold(self, opened: Opened) -> None:
        """Close one whose trial never came, with what its worker trained beside another; untrained it stays open."""
        name = opened.candidate.id
        report = read_report(self.journal.checkpoints, name) or {}
        curve = max(opened.curve, report.get("curve", ()), key=len)
        if curve:
            self.journal.started(opened.candidate, opened.costs, len(opened.curve))
            self._reported[name] = len(opened.curve)
            self._on_rung(opened.candidate, curve)
            state = "complete" if len(curve) >= self._rungs[-1] else "pruned"
            self._end(opened.candidate, state, curve, report.get("train_s", opened.train_s), None)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Configuration of the next trial, or `Searcher.FINISHED`."""
        with self.journal.work.sampling():
            return self._suggest(trial_id)

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.stop.reason is not None or self.error is not None:
            return Searcher.FINISHED
        if any(map(self._alone, self._running.values())):
            return None
        mates: list[Opened] = []
        names = [] if self._trained or self._waiting else self._promoted()
        ready = [*self._trained, *self._waiting, *(self._paused[name] for name in names)]
        if ready and self._running and self._alone(ready[0]):
            return None
        if trained := bool(self._trained):
            opened = self._trained.popleft()
        elif self._waiting:
            opened = self._waiting.popleft()
        elif names:
            opened, *mates = map(self._resume, names)
        elif self._trials is not None and self._created >= self._trials:
            return self._nothing_new()
        else:
            # What an evaluator proposes needs no other judge.
            looks = self._sieve is not None or self._recipes_each > 1
            ahead = looks and own_trials(self.study, (TrialState.WAITING,))
            found = self._propose() if self._sieve is None or ahead else self._sifted(self._sieve)
            if found is None:
                return self._nothing_new()
            opened = self._begin(found)
            mates = [] if ahead else self._beside(opened)
        self._running[trial_id] = opened
        self._reported[opened.candidate.id] = len(opened.curve)
        self.journal.started(opened.candidate, opened.costs, len(opened.curve))
        given = {"candidate": opened.candidate.to_json(), "reported": len(opened.curve)}
        if mates:
            self._mates[opened.candidate.id] = mates
            given["mates"] = [mate.candidate.to_json() for mate in mates]
        if trained:
            return given
        self._handed += 1
        return given | {"lineup": self.lineup} if self._handed <= self.lineup["workers"] else given

    def _used_up(self) -> bool:
        """Whether no new candidate will begin."""
        return self.exhausted or (self._trials is not None and self._created >= self._trials)

    def _nothing_new(self) -> str | None:
        """The end, unless one that runs may let another go on."""
        return None if self._running and (self._ladder is not None or self._mates) else Searcher.FINISHED

    def _promoted(self) -> list[str]:
        """Candidates of one architecture that wait at a rung and go on now, best first."""
        if self._ladder is None or not self._paused:
            return []
        found, used_up = self._ladder.promotable(), self._used_up()
        running = self._running or self._mates or self._trained
        if not found and used_up and not running and not self.journal.progress.ended["complete"]:
            found = self._ladder.promotable(factor=1.0)[:1]  # too few for anybody to be among the top
            return found[0][:1] if found else []
        architectures = {name: self._paused[name].candidate.architecture for names in found for name in names}
        names = group(found, architectures, self._recipes_each, patient=not used_up)
        # One that goes on alone neither trains beside mates nor is one.
        return [name for name in names if not self._alone(self._paused[name])] or names[:1]

    def _pause(self, opened: Opened) -> None:
        assert self._ladder is not None
        self._paused[opened.candidate.id] = opened
        self._ladder.wait(opened.candidate.id, opened.curve)
        self.journal.progress.waiting = len(self._paused)

    def _resume(self, name: str) -> Opened:
        assert self._ladder is not None
        opened = self._paused.pop(name)
        self._ladder.leave(name, opened.curve)
        self.journal.progress.waiting = len(self._paused)
        return opened

    def _begin(self, opened: Opened) -> Opened:
        """Count a proposal that will be trained."""
        self._created += 1
        self._known.setdefault(self._same(opened.candidate), opened.candidate.id)
        return opened

    def _beside(self, opened: Opened) -> list[Opened]:
        """Proposals of the same architecture with other recipes, as many as are wanted and found."""
        left = math.inf if self._trials is None else self._trials - self._created - len(self._passed)
        wanted = min(self._recipes_each - 1, left)
        found: list[Opened] = []
        while len(found) < wanted:
            mate = self._propose(of=opened.candidate.architecture)
            if mate is None:
                break
            found.append(self._begin(mate))
        return found

    def _hand_over(self, candidate: Candidate) -> None:
        """Its worker is done with the mates of a candidate: each is handed out as a trial of its own."""
        self._trained.extend(self._mates.pop(candidate.id, ()))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A candidate reached a rung and goes on."""
        opened = replace(self._running[trial_id], curve=result["curve"], train_s=result.get("train_s", 0.0))
        self._running[trial_id] = opened
        self.journal.stepped(opened.candidate, result)
        with self.journal.work.writing():
            self._on_rung(opened.candidate, opened.curve)
        self._hand_over(opened.candidate)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A candidate ended: complete, stopped by the scheduler, failed, or interrupted."""
        opened = self._running.pop(trial_id, None)
        if opened is None:
            return
        result = result or {}
        self.journal.stepped(opened.candidate, result)
        with self.journal.work.writing():
            self._ended(opened, result, error)
        self._hand_over(opened.candidate)
        self._give_up_if_all_fail()

    def _ended(self, opened: Opened, result: Mapping[str, Any], error: bool) -> None:
        candidate = opened.candidate
        curve = result.get("curve") or list(opened.curve)
        train_s = result.get("train_s", opened.train_s)
        if error:
            self._on_worker_death(opened, train_s)
        elif result.get("failure"):
            self._end(candidate, "failed", curve, train_s, result["failure"])
        elif self.stop.reason == "interrupt" and len(curve) < self._rungs[-1]:
            self._on_rung(candidate, curve)
            self.journal.suspended()
        elif self._ladder is not None and self.stop.reason is None and len(curve) < self._rungs[-1]:
            self._on_rung(candidate, curve)
            self._trial(candidate).set_user_attr("train_s", train_s)
            self._pause(replace(opened, curve=curve, train_s=train_s))
            self.journal.suspended()
        else:
            self._on_rung(candidate, curve)
            whole = len(curve) >= self._rungs[-1]
            reason = "the search's time was over" if self.stop.reason and not whole else None
            self._end(candidate, "complete" if whole else "pruned", curve, train_s, reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, for a restore that is not used here

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: study and run folder hold the state, which must not grow with every snapshot."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, see `save`."""

    def _propose(self, sifting: bool = False, of: Architecture | None = None) -> Opened | None:
        """The sampler's next proposal that keeps the bounds and is new; `of` one architecture, if there soon is one."""
        if self.exhausted:
            return None
        closest: tuple[float, str] | None = None
        for _ in range(REJECTIONS if of is None else SAME):
            if of is not None:
                self.study.enqueue_trial(of.to_json())
            trial = self.study.ask()
            candidate = Candidate(
                f"c{trial.number:04d}",
                self._space.suggest(trial),
                self._recipes.suggest(trial),
                candidate_seed(self._seed, trial.number),
            )
            costs: Mapping[str, float] = self._costs(candidate.architecture)
            if of is not None and candidate.architecture != of:  # a decision that does not fit was drawn anew
                self._reject(candidate, costs, "another architecture than was asked for")
                continue
            over = excess(costs, self._bounds)
            _note(trial, {**costs, "excess": list(over.values())})
            lacking = any(name.startswith(UNSUPPORTED) and by > 0 for name, by in over.items())
            reason = over_text(costs, self._bounds, self._missing(candidate.architecture) if lacking else None)
            if not reason:
                if (row := self._known_row(trial, candidate)) is not None:
                    self._tell_again(candidate, costs, row)
                    continue
                scores = self._scores(candidate)
                reason = ", ".join(f"{name} is {score}" for name, score in scores.items() if not math.isfinite(score))
                if not reason:
                    _note(trial, scores if sifting else {**scores, "candidate": candidate.to_json()})
                    return Opened(candidate, {**costs, **scores})
            self._reject(candidate, costs, reason)
            worst = max(over.values(), default=0.0)
            if closest is None or worst < closest[0]:
                closest = (worst, reason)
        if of is not None:
            return None
        if closest is None or self._known:  # what keeps the constraints is known by now
            self.exhausted = True
            return None
        self.error = RunError(
            f"{REJECTIONS} proposals in a row were rejected; the closest: {closest[1]}",
            field="constraints",
            remedy="loosen the constraint or offer smaller choices in the space",
        )
        return None

    def _sifted(self, sieve: Sieve) -> Opened | None:
        """The next of those that passed the sieve; draws anew when there is none left."""
        if not self._passed:
            drawn: dict[str, Opened] = {}
            while len(drawn) < sieve.propose and (found := self._propose(sifting=True)) is not None:
                same = self._same(found.candidate)
                self._known[same] = found.candidate.id
                drawn[same] = found
            if not drawn:
                return None
            scores = sieve.score([opened.candidate for opened in drawn.values()])
            ranked = sorted(zip(scores, drawn, strict=True), key=lambda pair: -pair[0])
            left = sieve.keep if self._trials is None else min(sieve.keep, self._trials - self._created)
            for place, (score, same) in enumerate(ranked, start=1):
                opened = drawn[same]
                if place <= left:
                    self._trial(opened.candidate).set_user_attr("candidate", opened.candidate.to_json())
                    self._passed.append(opened)
                    continue
                del self._known[same]
                reason = f"{sieve.name} {score:.4g}: number {place} of {len(ranked)} proposals"
                self._reject(opened.candidate, opened.costs, reason)
        return self._passed.popleft() if self._passed else None

    def _same(self, candidate: Candidate) -> str:
        """Text that is the same for candidates whose trainings differ in the seed alone."""
        recipe = json.dumps(candidate.recipe.to_json(), sort_keys=True)
        return self._identity(candidate.architecture) + recipe

    def _known_row(self, trial: optuna.Trial, candidate: Candidate) -> Mapping[str, Any] | None:
        """The row of a candidate with the same training, here or in another search; None where there is none yet."""
        same = self._same(candidate)
        if (first := self._known.get(same)) is not None:
            return self.journal.rows.get(first, {"id": first, "state": "being trained"})
        found = self._others.claimed(trial, same) if self._others is not None else None
        return found and {**found, "id": f"{found['id']} of another search"}

    def _tell_again(self, candidate: Candidate, costs: Mapping[str, float], row: Mapping[str, Any]) -> None:
        """What was trained already is not trained again: the study hears the result once more."""
        reason = f"the same as {row['id']} ({row['state']}), not trained again"
        self._reject(candidate, costs, reason, row if row["state"] in ("complete", "pruned") else None)

    def _reject(
        self, candidate: Candidate, costs: Mapping[str, float], reason: str, known: Mapping[str, Any] | None = None
    ) -> None:
        """A proposal that is not trained; `known` is the row of a candidate whose result is its own."""
        self.journal.rejected(candidate, costs, reason)
        trial = self._trial(candidate)
        _note(trial, {"candidate": candidate.to_json()})
        if known is None:
            self.study.tell(number_of(candidate.id), state=TrialState.PRUNED)
        else:
            _note(trial, {"curve": known["curve"], "same_as": known["id"]})
            self._report(trial, known["curve"])
            self._tell({**known, "id": candidate.id})

    def _on_rung(self, candidate: Candidate, curve: Sequence[Point]) -> None:
        known = self._reported[candidate.id]
        if len(curve) <= known:
            return
        self._reported[candidate.id] = len(curve)
        trial = self._trial(candidate)
        self._report(trial, curve[known:])
        trial.set_user_attr("curve", list(curve))  # the last: with it a study in a database writes all of them
        self.journal.rung(candidate, curve)

    def _report(self, trial: optuna.Trial, points: Sequence[Point]) -> None:
        if len(self._objectives) == 1:  # Optuna has intermediate values for single objectives only
            for point in points:
                trial.report(point["val_accuracy"], int(point["epoch"]))

    def _on_worker_death(self, opened: Opened, train_s: float) -> None:
        # Not left to Tune: it counts one death twice where two calls to the actor were under way, and gives up.
        candidate, checkpoints = opened.candidate, self.journal.checkpoints
        if where := hung(checkpoints, candidate.id):
            after = f"after the rung at epoch {len(opened.curve)}" if opened.curve else "from its beginning"
            reason = f"{HANGING}: {after} the next rung was not reached within resources.rung_s"
            logger.warning("%s %s. It stood here:\n%s\n", candidate.id, reason, where)
            self._end(candidate, "failed", opened.curve, train_s, f"{reason}; search.log says where it stood")
            return
        when = left(checkpoints, candidate.id)
        told = when is not None and self._left.get(candidate.id) != when
        self._left[candidate.id] = when
        deaths = self._deaths[candidate.id] = self._deaths.get(candidate.id, 0) + (not told)
        if deaths < WORKER_DEATHS:
            self._waiting.appendleft(opened)
            self.journal.suspended()
        else:
            reason = f"its worker died {deaths} times (out of memory?); see search.log"
            self._end(candidate, "failed", opened.curve, train_s, reason)

    def _alone(self, opened: Opened) -> bool:
        """Whether it gets the machines to itself: its worker died so often that memory may not suffice for others."""
        return self._deaths.get(opened.candidate.id, 0) == WORKER_DEATHS - 1

    def _end(
        self, candidate: Candidate, state: str, curve: Sequence[Point], train_s: float, reason: str | None
    ) -> None:
        # The run folder first: if the process dies between the two, `_reconcile` tells the study.
        row = self.journal.ended(candidate, state, curve, train_s, reason)
        if self._ladder is not None:
            self._ladder.reached(candidate.id, curve)
        self._tell(row)

    def _tell(self, row: Mapping[str, Any]) -> None:
        tell(self.study, row, self._objectives)

    def _trial(self, candidate: Candidate) -> optuna.Trial:
        storage_id = self.study._storage.get_trial_id_from_study_id_trial_number(
            self.study._study_id, number_of(candidate.id)
        )
        return optuna.Trial(self.study, storage_id)

    def _reconcile(self) -> list[Opened]:
        """Candidates that an earlier session left open; the study is told of those that ended unnoticed."""
        opened = []
        for trial in own_trials(self.study, (TrialState.RUNNING, TrialState.WAITING)):
            row = self.journal.rows.get(f"c{trial.number:04d}")
            if row is not None:
                begun(self.study, trial)
                self._tell(row)
            elif trial.state is TrialState.WAITING:
                continue
            elif "candidate" not in trial.user_attrs:  # the process died while this one was being proposed
                self.study.tell(trial.number, state=TrialState.FAIL)
            else:
                attributes = trial.user_attrs
                costs = costs_of(attributes) | {n: attributes[n] for n in self._objectives if n not in LEARNED}
                candidate, curve = Candidate.from_json(attributes["candidate"]), attributes.get("curve", ())
                opened.append(Opened(candidate, costs, curve, attributes.get("train_s", 0.0)))
        return opened

    def _give_up_if_all_fail(self) -> None:
        ended = self.journal.progress.ended
        enough = min(FAILURES, self._trials or FAILURES)
        if ended["failed"] >= enough and ended["complete"] + ended["pruned"] == 0:
            reasons = [row["reason"] for row in self.journal.rows.values() if row["state"] == "failed"]
            self.error = RunError(
                f"the first {ended['failed']} candidates all failed, the last with: {reasons[-1]}",
                field="search",
                remedy="see candidates.jsonl and search.log in the run folder",
            )


def tell(study: optuna.Study, row: Mapping[str, Any], objectives: Sequence[str]) -> None:
    """Tell the study how a candidate ended; `row` is its line in candidates.jsonl."""
    values = [row[name] for name in objectives] if row["state"] == "complete" else None
    study.tell(number_of(row["id"]), values, state=STATES[row["state"]])


def candidate_seed(seed: int, number: int) -> int:
    """Seed of candidate `number` in a search with `seed`."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0] % 2**31)


def curves(study: optuna.Study) -> dict[str, dict[int, float]]:
    """Validation accuracy by epoch of every candidate that this search trained, as far as it came."""
    return {
        f"c{trial.number:04d}": {int(p["epoch"]): p["val_accuracy"] for p in trial.user_attrs.get("curve", ())}
        for trial in own_trials(study)
        if "same_as" not in trial.user_attrs  # one told again has the curve of another: no scheduler saw it twice
    }


def _note(trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def number_of(candidate_id: str) -> int:
    """Number of the candidate's trial in the study."""
    return int(candidate_id[1:])
