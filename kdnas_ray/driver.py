"""How does a search run? The one place where Ray Tune is driven."""

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from ray import tune
from ray.tune import TuneError

from kdnas_ray import finalists, results, tracking
from kdnas_ray.adapter import Sieve, Stop, StudyAdapter, curves
from kdnas_ray.cluster import answering
from kdnas_ray.config import SearchConfig
from kdnas_ray.environment import logs_to, ray_session
from kdnas_ray.evaluation import prepare_evaluator
from kdnas_ray.journal import Journal, Progress, flat, given_numbers
from kdnas_ray.kept_config import keep_config, run_config
from kdnas_ray.live import Narrator
from kdnas_ray.mirror import check_storage, mirrored
from kdnas_ray.prefilter import make_scores, make_sieve
from kdnas_ray.prepare import RESERVE, Plan, ask, check_folder, free_folder, obtain_teachers, teacher_folder
from kdnas_ray.report import write_report
from kdnas_ray.results import SearchResult
from kdnas_ray.runs import (
    lock,
    read_config,
    read_state,
    read_summary,
    read_teacher_facts,
    require_run,
    write_state,
)
from kdnas_ray.samplers import Around
from kdnas_ray.samplers.foresight import foreseeing
from kdnas_ray.schedulers import PromotingASHA, replay
from kdnas_ray.session import Interrupted, check_room, checkpoints_of, in_store, interrupts, planned, slots, workers
from kdnas_ray.spent import spend, spending
from kdnas_ray.stream_search import StreamPlan, announcement
from kdnas_ray.study import directions, has_study, lost, open_study, own_trials, shared, study_file
from kdnas_ray.table_search import TablePlan, score_finalists, write_reference
from search_spaces import Architecture, KdnasError, RunError
from trainables import bank as banks
from trainables.alignment import speaks
from trainables.candidate import Candidate
from trainables.distill import Distill
from trainables.evaluators.base import Prepared
from trainables.evaluators.table import Table, TableTrial
from trainables.files import replace_text, scratch_folder
from trainables.incremental import StreamTrial
from trainables.limits import STOPPING
from trainables.lineup import clear_lineups
from trainables.teachers import Teacher, save_teacher

RESUMED = ("budget", "resources", "retrain", "study", "tracking")  # sections that a resumed search may change
DRAIN_S = 60.0  # how long the end of a search waits for MLflow


def search(
    config: SearchConfig | None = None, out: Path | str | None = None, narrator: Narrator | None = None
) -> SearchResult:
    """Search from the start: teacher, bank, candidates, finalists, report.

    Args:
        config: what to search; the embedded default when None.
        out: run folder to create; `runs/<time>` when None.
        narrator: where progress is told; the terminal when None.

    Raises:
        KdnasError: the configuration cannot work; nothing was started.
        RunError: the search failed while running.
        Interrupted: Ctrl-C or SIGTERM; `resume` goes on.
    """
    config = config or SearchConfig()
    run = Path(out) if out is not None else free_folder(datetime.now())
    check_folder(run)
    check_storage(config.resources.storage, run, new=True)
    check_room(config, answering())
    begun = time.perf_counter()
    made = planned(config)
    _check_study(made.config, None)
    planned_s = time.perf_counter() - begun
    run.mkdir(parents=True, exist_ok=True)

    def begin() -> None:
        if (run / "config.yaml").exists():  # another search with this name was faster
            check_folder(run)
        keep_config(run, made.config)
        write_state(run, {"started": datetime.now(UTC).isoformat(timespec="seconds"), "command": _command()})
        spend(run, "data", planned_s)

    return _guarded(run, made, narrator or Narrator(), begin)


def resume(run: Path | str, overrides: Sequence[str] = (), narrator: Narrator | None = None) -> SearchResult:
    """Go on with an interrupted, killed or finished search; no finished candidate runs again.

    Args:
        run: its folder.
        overrides: `key.path=value` of what is in `RESUMED`; the search itself stays.
        narrator: where progress is told; the terminal when None.

    Raises:
        KdnasError: not a run folder, or an override that would change the search.
        RunError, Interrupted: as `search`.
    """
    run = Path(run)
    require_run(run)
    for override in overrides:
        if override.split(".")[0].split("=")[0] not in RESUMED:
            raise KdnasError(
                "a resumed search keeps what it searches",
                field=override.partition("=")[0],
                remedy=f"{', '.join(RESUMED)} can change; start a new search for the rest",
            )
    config = run_config(run, overrides)
    check_storage(config.resources.storage, run, new=False)
    check_room(config, answering())
    made = planned(config)
    _check_study(made.config, run)
    return _guarded(run, made, narrator or Narrator(), lambda: keep_config(run, made.config))


def retrain(run: Path | str, top: int | None = None, narrator: Narrator | None = None) -> SearchResult:
    """Retrain the best `top` candidates of a run in full; trainings done already are not repeated.

    Raises:
        KdnasError: not a run folder.
        RunError, Interrupted: as `search`.
    """
    run = Path(run)
    require_run(run)
    config = run_config(run, [] if top is None else [f"retrain.top={top}"])
    if isinstance(config.evaluator, Table):
        raise KdnasError(
            "nothing is trained where results are looked up",
            field="evaluator",
            value="table",
            remedy="search without the table to get networks",
        )
    check_room(config, answering())
    return _guarded(run, planned(config), narrator or Narrator(), searching=False)


def _guarded(
    run: Path, made: Plan, narrator: Narrator, begin: Callable[[], None] = lambda: None, searching: bool = True
) -> SearchResult:
    """Run all phases, keeping the run folder complete whatever happens; `begin` is called once it is locked."""
    started = time.perf_counter()
    stop = Stop()
    with lock(run):
        begin()
        state = read_state(run)
        earlier_s, killed = state.get("wall_s", 0.0), state.get("killed", 0) + bool(state.get("open"))
        write_state(run, {**state, "open": True, "killed": killed, "sessions": state.get("sessions", 0) + 1})
        copied = mirrored(run, made.config.resources.storage, narrator.say)
        with copied, logs_to(run / "search.log"), interrupts(stop, narrator) as arm:
            sender = None
            status = "failed"
            try:
                _announce(run, made.config)
                sender = tracking.start(run) if made.config.tracking.enabled else None
                phases = PHASES.get(type(made), _phases)
                result = phases(run, made, narrator, stop, arm, searching)
                status = "finished"
            except (Interrupted, KeyboardInterrupt):
                status = "interrupted"
                raise Interrupted(str(run)) from None
            finally:
                ended = time.perf_counter()
                lost = _close(
                    narrator,
                    lambda: write_state(
                        run, {**read_state(run), "wall_s": earlier_s + ended - started, "status": status, "open": False}
                    ),
                    lambda: results.write_summary(run, made),
                    lambda: write_report(run),
                    lambda: _close_tracking(run, status, sender, narrator),
                    lambda: spend(run, "closing", time.perf_counter() - ended),
                )
            if lost is not None:
                raise lost
            warnings = read_summary(run).get("trust_warnings")
            if warnings:
                narrator.say(" ".join(["Warning:", *warnings]))
    return result


def _close(narrator: Narrator, *steps: Callable[[], Any]) -> Exception | None:
    """Take every step though others fail; returns the first error, which must not hide the one that ended the run."""
    first: Exception | None = None
    for step in steps:
        try:
            step()
        except Exception as error:
            narrator.say(f"Not written: {type(error).__name__}: {error}")
            first = first or error
    return first


def _phases(
    run: Path, made: Plan, narrator: Narrator, stop: Stop, arm: Callable[[], Any], searching: bool
) -> SearchResult:
    def say(text: str) -> None:
        narrator.say(text)
        if stop.reason == "interrupt":
            raise Interrupted

    with spending(run, "teacher"):
        teachers = obtain_teachers(made, run, say)
    with spending(run, "bank"):
        bank = ask(made, teachers, say)
    teacher = teachers[0]
    _keep_teachers(run, teachers, made)
    config, metric = made.config, made.config.task.metric_name
    narrator.say(
        f"Teacher: {_parameters(made)}"
        + (
            f"validation {metric} {teacher.val_accuracy:.4f}"
            if speaks(teacher.model)
            else "of other classes or another task"
        )
        + "".join(f"; beside it {other.name}, {other.val_accuracy:.4f}" for other in teachers[1:])
    )
    if made.tap_shares:
        listed = ", ".join(f"{tap} {100 * share:.0f} %" for tap, share in made.tap_shares.items())
        narrator.say(f"Hints at {', '.join(config.recipes.taps)}; the devices spend their time on {listed}")
    guess = results.guessing(config.task.targets, len(made.data.classes))
    if speaks(teacher.model) and teacher.val_accuracy < guess:
        narrator.say("Warning: this teacher is hardly better than guessing; students have little to learn from it.")
    begin = time.perf_counter()
    with in_store(run, made, bank, teacher, arm) as (shared, reference):
        spend(run, "ray", time.perf_counter() - begin)
        if searching:
            with spending(run, "evaluator"):
                prepared = prepare_evaluator(run, made, shared, reference, say, stop)
            begun = reference if prepared.start is None else ray.put(replace(shared, start=prepared.start))
            sieve = make_sieve(config, made, shared, prepared)
            scores = make_scores(config, shared)
            known = prepared.proposals
            accuracy = teacher.val_accuracy if speaks(teacher.model) else None
            _search_phase(run, made, accuracy, Distill, begun, narrator, stop, known, sieve, scores)
        if stop.reason == "interrupt":
            raise Interrupted
        with spending(run, "finalists"):
            finalists.retrain(run, made, reference, config.retrain.top, say, stop)
        if stop.reason == "interrupt":
            raise Interrupted
    return SearchResult(run)


def _stream_phases(
    run: Path, made: StreamPlan, narrator: Narrator, stop: Stop, arm: Callable[[], Any], searching: bool
) -> SearchResult:
    config = made.config
    narrator.say(announcement(made))
    # No teacher yet: each student becomes one.
    views = {"augmentation": config.task.augmentation, "views": config.bank.views, "seed": config.seed}
    bank = banks.without_teacher(made.data.train, **views)
    begin = time.perf_counter()
    with in_store(run, made, bank, None, arm) as (_, reference):
        spend(run, "ray", time.perf_counter() - begin)
        if searching:
            _search_phase(run, made, None, StreamTrial, reference, narrator, stop, (), None)
        if stop.reason == "interrupt":
            raise Interrupted
        with spending(run, "finalists"):
            finalists.retrain(run, made, reference, config.retrain.top, narrator.say, stop)
        if stop.reason == "interrupt":
            raise Interrupted
    return SearchResult(run)


def _table_phases(
    run: Path, made: TablePlan, narrator: Narrator, stop: Stop, arm: Callable[[], Any], searching: bool
) -> SearchResult:
    config, best = made.config, write_reference(run, made)
    results = made.results
    narrator.say(
        f"Table: {len(results.entries):,} architectures; candidates are compared with the best by {results.test!r}, "
        f"which has {best:.4f} on validation"
    )
    begin = time.perf_counter()
    with ray_session(config.resources.workers, config.resources.cpu, RESERVE):
        spend(run, "ray", time.perf_counter() - begin)
        arm()
        if searching:
            sieve = make_sieve(config, made, None, Prepared())
            _search_phase(run, made, best, TableTrial, ray.put(made.shared), narrator, stop, (), sieve)
        if stop.reason == "interrupt":
            raise Interrupted
    score_finalists(run, made, config.retrain.top)
    return SearchResult(run)


PHASES: dict[type, Callable[..., SearchResult]] = {StreamPlan: _stream_phases, TablePlan: _table_phases}


def _search_phase(
    run: Path,
    made: Plan,
    reference: float | None,
    trial: type,
    shared: ray.ObjectRef,
    narrator: Narrator,
    stop: Stop,
    proposals: Sequence[Architecture],
    sieve: Sieve | None,
    scores: Callable[[Candidate], dict[str, float]] = lambda candidate: {},
) -> None:
    config = made.config
    rungs = config.rungs()
    progress = Progress(
        budget=config.budget.trials,
        rungs=rungs,
        workers=workers(config),
        teacher_accuracy=reference,
    )
    journal = Journal(run, progress, checkpoints_of(run, config))
    clear_lineups(journal.checkpoints)  # of a search that was killed
    if config.budget.wall_s is not None:
        progress.wall_budget_s = max(0.0, config.budget.wall_s - journal.search_s())
    around = Around(
        space=config.space,
        recipes=config.recipe_space,
        costs=made.costs,
        rows=lambda: list(journal.rows.values()),
        epochs=rungs[-1],
        excess=made.excess if made.bounds else None,
    )
    study = _study(run, config, journal.rows, around, narrator, stop)
    if not own_trials(study):
        for architecture in proposals:
            study.enqueue_trial(architecture.to_json())
    adapter = StudyAdapter(
        study,
        space=config.space,
        recipes=config.recipe_space,
        costs=made.costs,
        bounds=made.bounds,
        objectives=config.objectives,
        journal=journal,
        rungs=rungs,
        trials=config.budget.trials,
        seed=config.seed,
        stop=stop,
        sieve=sieve,
        scores=scores,
        identity=made.identity,
        missing=made.missing,
        promote=config.scheduler.reduction_factor if isinstance(config.scheduler, PromotingASHA) else None,
        workers=progress.workers,
        recipes_each=config.recipes_each,
        others=_others(run, study, config),
    )
    write_state(run, {**read_state(run), "workers": progress.workers})
    deadline = None
    if config.budget.wall_s is not None:
        deadline = time.perf_counter() + max(0.0, config.budget.wall_s - journal.search_s())
    with contextlib.ExitStack() as closing:
        closing.callback(shutil.rmtree, adapter.lineup["folder"], ignore_errors=True)
        closing.enter_context(narrator.watch(progress) if adapter.has_work() else contextlib.nullcontext())
        # Once, and again only where a worker died after Tune had been told that there is nothing left to start.
        while adapter.has_work() and stop.reason is None and adapter.error is None:
            scheduler = config.scheduler.make()
            replay(scheduler, rungs, curves(study))
            _tune(config, adapter, scheduler, trial, shared, _Ender(stop, deadline, narrator, adapter))
        if stop.reason != "interrupt":
            adapter.end_paused()
    journal.save_time()
    journal.sweep()
    if adapter.exhausted:
        narrator.say("The search ends here: nothing new is proposed that keeps the constraints.")
    if adapter.error is not None:
        raise adapter.error


def _tune(
    config: SearchConfig,
    adapter: StudyAdapter,
    scheduler: Any,
    trial: type,
    shared: ray.ObjectRef,
    ender: tune.Stopper,
) -> None:
    # As many proposals ahead as there are workers: they start together, none waits for the sampler, and Tune, which
    # keeps no more idle actors than trials that wait, ends none (a fresh one costs seconds).
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers(config))
    resources = {"cpu": config.resources.cpu, "gpu": config.resources.gpu}
    # Tune's limit costs time at every event; a cluster may grow beyond what it had room for when the search began.
    limited = slots(config) > workers(config) or bool(os.environ.get("RAY_ADDRESS"))
    trainable = tune.with_resources(tune.with_parameters(trial, shared=shared), resources)
    # Tune formats the path, so it must hold no braces, and nothing of what it writes there is needed.
    with scratch_folder("kdnas-search-") as staging:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=adapter,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                max_concurrent_trials=config.resources.workers if limited else None,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(staging),
                stop=ender,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the trainable keeps its own rungs
            ),
        )
        try:
            tuner.fit()
        except TuneError as error:
            raise _behind(error) from error


def _behind(error: BaseException) -> BaseException:
    """What was raised in our own code, of which Tune makes a `TuneError` whose text is a traceback."""
    found: BaseException | None = error
    while isinstance(found, TuneError):
        found = found.__cause__ or found.__context__
    return found or error


class _Ender(tune.Stopper):
    """Ends all trials on an interrupt, at the deadline, or when the search gives up.

    On an interrupt Tune gives what runs ten seconds; the mark tells workers to save an epoch that ends within them.
    """

    def __init__(self, stop: Stop, deadline: float | None, narrator: Narrator, adapter: StudyAdapter) -> None:
        self._stop, self._deadline, self._narrator, self._adapter = stop, deadline, narrator, adapter
        self._mark = adapter.journal.checkpoints.folder(STOPPING)
        self._mark.unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, for a restore that is not used here

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Asked by Tune after every event."""
        self._narrator.tick()
        if self._deadline is not None and time.perf_counter() >= self._deadline and self._stop.reason is None:
            self._stop.reason = "budget"
        if self._stop.reason == "interrupt":
            with contextlib.suppress(OSError):  # a full disk: then the last rung is what is kept
                self._mark.touch()
        return self._stop.reason is not None or self._adapter.error is not None


def _check_study(config: SearchConfig, run: Path | None) -> None:
    """Refuses a database of the study that does not answer or serves something else, before any work."""
    if config.study.url is not None:
        from kdnas_ray.others import check_study

        store = tracking.tracking_uri(config.tracking, run) if config.tracking.enabled else None
        check_study(config.study, config.resolved(), store, run)


def _others(run: Path, study: optuna.Study, config: SearchConfig) -> Any:
    """The other searches on this study; None where it lies in the run folder."""
    storage = shared(study)
    if storage is None:
        return None
    from kdnas_ray.others import Others, join

    join(study, storage, run.resolve().name, config.resolved())
    return Others(study, storage, config.objectives)


def _study(
    run: Path, config: SearchConfig, known: Collection[str], around: Around, narrator: Narrator, stop: Stop
) -> optuna.Study:
    file = study_file(run)
    if known and not has_study(run):
        raise RunError(
            f"there is no {file} beside its candidates",
            field="run",
            value=str(run),
            remedy=f"`kdnas doctor {run} --repair` makes one of them (the sampler does not know their decisions then)",
        )
    # A sampler seeded alike after every resume would propose its first random candidates again.
    seed = config.seed + len(known)
    if config.study.name is not None:  # and seeded alike in two searches, both would propose the same
        seed = int(np.random.SeedSequence((seed, *os.urandom(8))).generate_state(1)[0] % 2**31)
    sampler = config.sampler.make(seed, lambda trial: trial.user_attrs.get("excess") or [0.0], around)
    if around.excess is not None:
        sampler = foreseeing(sampler, seed, around)
    waiting: dict[str, Any] = {}
    if config.study.url is not None:
        waiting = {"say": narrator.say, "impatient": lambda: stop.reason is not None}
    study = open_study(run, sampler, config.objectives, directions(config.objectives), **waiting)
    if missing := lost(study, given_numbers(run, known)):
        raise RunError(
            f"{file if config.study.url is None else 'the study in the database'} lacks candidates of this run, "
            f"c{missing[0]:04d} among them",
            field="run",
            value=str(run),
            remedy=f"`kdnas doctor {run} --repair` gives them back to it",
        )
    return study


def _keep_teachers(run: Path, teachers: Sequence[Teacher], made: Plan) -> None:
    for index, teacher in enumerate(teachers):
        if teacher.meta:
            save_teacher(teacher_folder(run, index), teacher)
    teacher = teachers[0]
    facts = {
        "name": teacher.name,
        "digest": teacher.digest,
        "val_accuracy": teacher.val_accuracy,
        "data": made.data.digest(),
        **made.teacher_costs,
    }
    if not speaks(teacher.model):  # its answers are not about our samples and classes: neither right nor wrong
        facts |= {"val_accuracy": None, "accuracy": None}
    known = read_teacher_facts(run)
    if known.get("digest") == teacher.digest:  # its test accuracy was measured in an earlier session
        facts = {**known, **facts}
    replace_text(run / "teacher.json", json.dumps(facts, indent=2) + "\n")


def _parameters(made: Plan) -> str:
    return f"{made.teacher_costs['params']:,} parameters, " if "params" in made.teacher_costs else ""


def _announce(run: Path, config: SearchConfig) -> None:
    uri = config.tracking.uri
    tracking.append(
        run,
        {
            "type": "search_started",
            "name": run.resolve().name,
            "experiment": config.tracking.experiment,
            "params": flat(read_config(run)) | {"tracking.uri": uri and tracking.shown_uri(uri)},
            "tags": {"kdnas.run_folder": run.resolve().name, "kdnas.status": "running"},
        },
    )


def _close_tracking(run: Path, status: str, sender: Any, narrator: Narrator) -> None:
    tracking.append(run, results.end_record(run, status))
    if sender is None:
        return
    left = tracking.drain(run, sender, DRAIN_S)
    if count := tracking.refused(run):
        narrator.say(f"MLflow refused {count} records; {run / tracking.REFUSED} holds them with the reason.")
    if left:
        narrator.say(f"MLflow has not taken {left} records yet; they are kept in {run}. `kdnas sync {run}` sends them.")


def _command() -> str:
    # The address of a tracking server may hold a password.
    words = [re.sub(r"//[^/@\s]+@", "//", word) for word in sys.argv[1:]]
    return shlex.join(["kdnas", *words]) if Path(sys.argv[0]).name in ("kdnas", "__main__.py") else "search()"
