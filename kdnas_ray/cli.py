"""What does a person type? Parsing and printing only; the work is done elsewhere."""

import difflib
import json
import os
import shlex
import sys
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from kdnas_ray.cluster import use
from kdnas_ray.device_cli import device_app
from search_spaces.errors import KdnasError

app = typer.Typer(
    help="Find the smallest network that keeps your teacher's accuracy: architecture and recipe searched together.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
teacher_app = typer.Typer(help="Train a teacher, or find the size that teaches best.", no_args_is_help=True)
app.add_typer(teacher_app, name="teacher")
app.add_typer(device_app, name="device")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as `kdnas search` made it.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="YAML file and dotted overrides."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="auto|HOST:PORT", help="Of a Ray to run on; default RAY_ADDRESS, or its own."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KINDS = (
    "spaces",
    "tasks",
    "teachers",
    "recipes",
    "losses",
    "matches",
    "alpha",
    "temperature",
    "ensembles",
    "samplers",
    "schedulers",
    "evaluators",
    "proxies",
    "objectives",
)


def main() -> NoReturn:
    """Entry point: exit code 0 done, 1 failed while running, 2 bad input, 130 interrupted."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, prog_name="kdnas", standalone_mode=True)
    except KdnasError as error:
        if debug:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"Error: {error}", markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"Failed: {type(error).__name__}: {error}\n  `--debug` shows where.", markup=False
        )
        sys.exit(1)
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        from kdnas_ray import __version__

        typer.echo(f"kdnas {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None: ...


@app.command()
def search(
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Run folder to create.")] = None,
    address: Address = None,
) -> None:
    """Search architecture and recipe together; without CONFIG: scikit-learn's digits on this machine."""
    chosen = _config(settings)  # bad input is refused before Ray is waited for
    use(address)
    from kdnas_ray.driver import search as run_search

    _finish(lambda: run_search(chosen, out))


@app.command()
def submit(
    settings: Settings = None,
    address: Annotated[
        str, typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Of the head's dashboard.")
    ] = "http://127.0.0.1:8265",
    out: Annotated[str, typer.Option("--out", metavar="RUN", help="Run folder to create, on the head.")] = "",
    sent: Annotated[list[Path] | None, typer.Option("--with", metavar="PATH", help="Goes along; repeatable.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the log until the job ends.")] = False,
) -> None:
    """Run a search as a job on a cluster that this machine is no part of."""
    from kdnas_ray.submit import follow, start

    client, job = start(_config(settings), address, out, sent or ())
    typer.echo(
        f"Submitted as {job}; results go to {out} there.\n"
        f"  ray job logs --address {address} --follow {job}\n"
        f"  ray job stop --address {address} {job}        # as Ctrl-C: `kdnas resume` goes on"
    )
    if wait:
        follow(client, job, typer.echo)


@app.command()
def compress(
    teacher: Annotated[str, typer.Option("--teacher", metavar="NAME|FOLDER", help="resnet10 … resnet152, or yours.")],
    data: Annotated[str, typer.Option("--data", metavar="PATH", help="`digits`, Parquet file or folder.")] = "digits",
    params: Annotated[
        str | None, typer.Option("--target-params", metavar="N", help="At most so many parameters, such as 11M.")
    ] = None,
    latency_ms: Annotated[
        str | None, typer.Option("--latency-ms", metavar="MS", help="Milliseconds at most, on the device.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="See `kdnas device list`.")] = None,
    width: Annotated[int, typer.Option("--width", min=1, help="Channels of the family's first stage.")] = 64,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Candidates to train.")] = 24,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Length of a full training.")] = 27,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Anything else.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Run folder to create.")] = None,
) -> None:
    """Make a big ResNet small: train or read the teacher, search a student within the bound, retrain, report."""
    from kdnas_ray.compress import compression, in_options, milliseconds

    chosen = compression(
        teacher,
        data,
        width=width,
        params=params,
        latency_ms=None if latency_ms is None else milliseconds(latency_ms, "--latency-ms"),
        device=device,
        trials=trials,
        epochs=epochs,
        overrides=tuple(overrides or ()),
    )
    from kdnas_ray.driver import search as run_search
    from kdnas_ray.feasible import NoneKeeps

    def work() -> Any:
        try:
            return run_search(chosen, out)
        except NoneKeeps as error:
            raise in_options(error, error.tight, chosen.constraints) from error

    _finish(work)


@app.command()
def resume(
    run: Run,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Budget, resources …")] = None,
    address: Address = None,
) -> None:
    """Go on with an interrupted search; nothing that finished runs again."""
    use(address)
    from kdnas_ray.driver import resume as run_resume

    _finish(lambda: run_resume(run, overrides or ()))


@app.command()
def retrain(
    run: Run,
    top: Annotated[int | None, typer.Option("--top", min=1, help="How many of the best.")] = None,
    address: Address = None,
) -> None:
    """Retrain the best candidates in full, with and without KD, and score them on the test split."""
    use(address)
    from kdnas_ray.driver import retrain as run_retrain

    _finish(lambda: run_retrain(run, top))


@app.command()
def doctor(
    run: Run,
    mend: Annotated[bool, typer.Option("--repair", help="Bring study and MLflow to what the run folder says.")] = False,
    as_json: Json = False,
) -> None:
    """Check that run folder, study, checkpoints and MLflow agree after a crash; exit code 1 where they do not."""
    from kdnas_ray.doctor import examine, findings_table, repair

    found, left = repair(run) if mend else (known := examine(run), known)
    if as_json:
        facts = [{"where": finding.where, "what": finding.what, "mended": finding not in left} for finding in found]
        typer.echo(json.dumps(facts, indent=2))
    elif found:
        _console().print(findings_table(found))
        typer.echo(f"Mended; {len(left)} left." if mend else f"{len(found)} found.")
    else:
        typer.echo("Run folder, study, checkpoints and MLflow agree.")
    raise typer.Exit(1 if left else 0)


@app.command()
def calibrate(
    run: Run,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Candidates trained in full.")] = 12,
    judges: Annotated[
        str, typer.Option("--judges", metavar="A,B,…", help="Proxies, params, flops, evaluator; `all` for all.")
    ] = "",
    tau: Annotated[float, typer.Option("--tau", help="Warn where the judge is surely below this Kendall tau.")] = 0.3,
    as_json: Json = False,
) -> None:
    """Measure how far to trust the ranking: train a sample in full, early-stopped ones too, and compare."""
    from kdnas_ray.calibrate import calibrate as run_calibrate
    from kdnas_ray.calibrate import calibration_table
    from kdnas_ray.live import Narrator
    from kdnas_ray.session import Interrupted

    narrator = Narrator(Console(highlight=False, soft_wrap=True, stderr=True))
    names = [name.strip() for name in judges.split(",") if name.strip()]
    try:
        found = run_calibrate(run, sample, names, tau=tau, narrator=narrator)
    except Interrupted as stopped:
        narrator.say(f"Interrupted. Go on with: kdnas calibrate {stopped}")
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = _console()
    console.print(calibration_table(found))
    for warning in found["warnings"]:
        console.print(f"Warning: {warning}", markup=False)
    console.print(f"Report: {os.path.relpath(run / 'report.html')}", markup=False)


@app.command()
def explain(
    run: Run,
    candidate: Annotated[str | None, typer.Argument(metavar="[CANDIDATE]", help="Its id; default the best.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each variant of its recipe.")] = 3,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Of each; default a full retraining's.")] = None,
    as_json: Json = False,
) -> None:
    """Say why a candidate works: train it with and without the teacher, and look at layers, gradients and outputs."""
    from kdnas_ray.explain import explain as run_explain
    from kdnas_ray.live import Narrator
    from kdnas_ray.session import Interrupted

    narrator = Narrator(Console(highlight=False, soft_wrap=True, stderr=True))
    try:
        found = run_explain(run, candidate, seeds=seeds, epochs=epochs, narrator=narrator)
    except Interrupted as stopped:
        narrator.say(f"Interrupted. Go on with: kdnas explain {stopped} {candidate or ''}".rstrip())
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = _console()
    for said in found["sentences"].values():
        for sentence in said:
            console.print(f"- {sentence}", markup=False)
    console.print(f"Page: {os.path.relpath(run / 'explain.html')}", markup=False)


@app.command()
def export(
    run: Run,
    form: Annotated[str, typer.Option("--format", help="onnx, torch-export or safetensors.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="An int8 file beside the float one; ONNX only.")] = False,
    candidate: Annotated[
        str | None, typer.Option("--candidate", metavar="ID", help="A retrained finalist; default the best.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Folder to create; default RUN/export/…")
    ] = None,
    most_points: Annotated[
        float, typer.Option("--most-points", min=0, help="Validation accuracy that int8 may lose, in points.")
    ] = 2.0,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Log the ONNX model to the run in MLflow too.")] = False,
) -> None:
    """Take the best student away: a file checked against PyTorch on real samples, and a model card."""
    from kdnas_ray.export import export as run_export
    from kdnas_ray.live import Narrator

    narrator = Narrator(Console(highlight=False, soft_wrap=True, stderr=True))
    found = run_export(
        run,
        form,
        int8=int8,
        candidate=candidate,
        out=out,
        most_points=most_points,
        mlflow=mlflow,
        say=narrator.say,
    )
    parity, effect = found.about["parity"], found.about["int8"]
    typer.echo(
        f"As in PyTorch on {parity['samples']} validation samples: largest difference of logits "
        f"{parity['difference']:.2g}, {parity['agreement']:.2%} equal predictions"
    )
    if effect:
        typer.echo(
            f"int8: test accuracy {effect['test']['int8']:.2%} instead of {effect['test']['float']:.2%}, "
            f"{effect['test']['agreement']:.2%} equal predictions"
        )
    if found.unsent:
        typer.echo(f"MLflow does not have it yet: {found.unsent}", err=True)
    typer.echo(f"{os.path.relpath(found.folder)}  (start with its README.md)")


@app.command()
def report(run: Run) -> None:
    """Write RUN/report.html: one self-contained page."""
    from kdnas_ray.report import write_report

    typer.echo(str(write_report(run)))


@app.command()
def draw(
    what: Annotated[str, typer.Argument(metavar="SPACE|RUN", help="A space (`kdnas list spaces`), or a run folder.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARCHITECTURE|CANDIDATE] [space.KEY=VALUE]...",
            help="In the space's notation, and the space's options; of a run a candidate's id, default the best.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.svg", help="File to write.")] = Path("architecture.svg"),
    seed: Annotated[int, typer.Option("--seed", help="Of the architecture, where none is given.")] = 0,
) -> None:
    """Draw an architecture of a space (a random one without ARCHITECTURE) or run as SVG, and print its notation."""
    from kdnas_ray.latency import candidate_of, chosen_architecture, means_run
    from search_spaces.drawing import svg
    from search_spaces.notation import notation

    if out.suffix != ".svg":
        raise KdnasError("a drawing is an SVG file", field="--out", value=str(out), remedy="name it ….svg")
    words = settings or []
    chosen, architecture = (
        candidate_of(Path(what), words) if means_run(what) else chosen_architecture(what, words, seed)
    )
    if out.exists():
        raise KdnasError("exists already", field="--out", value=str(out), remedy="choose another file, or remove it")
    drawing = svg(chosen, architecture)
    try:
        with out.open("x", encoding="utf8") as file:
            file.write(drawing)
    except OSError as error:
        raise KdnasError(
            f"cannot be written ({error.strerror})", field="--out", value=str(out), remedy="choose another file"
        ) from error
    typer.echo(f"{out}  {notation(chosen, architecture)}")


@app.command()
def latency(
    what: Annotated[str, typer.Argument(metavar="RUN|SPACE", help="Run folder, or a space (`kdnas list spaces`).")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARCHITECTURE|CANDIDATE] [space.KEY=VALUE]...",
            help="In the space's notation, and the space's options; of a run a candidate's id, default the best.",
        ),
    ] = None,
    device: Annotated[list[str] | None, typer.Option("--device", help="Model it there too; may be repeated.")] = None,
    runtime: Annotated[str, typer.Option("--runtime", help="onnx, eager, compiled or none.")] = "onnx",
    shape: Annotated[
        str | None, typer.Option("--shape", metavar="CxHxW", help="Of an input, for a space; default 3x32x32.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Inputs at a time.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of one inference.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the architecture, where none is given.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure a network's latency on this machine, and model it for a device."""
    from kdnas_ray.latency import latency as latency_of

    found = latency_of(
        what,
        settings or (),
        shape=shape,
        devices=device or (),
        runtime=runtime,
        batch=batch,
        threads=threads,
        seed=seed,
        say=Console(stderr=True, highlight=False).print,
    )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{found['architecture']}: {found['params']:,} parameters, {found['macs'] / 1e6:.2f} M multiply-adds")
    if here := found["measured"]:
        typer.echo(
            f"here, {runtime}: {here['median_ms']:.3f} ms (half of {here['runs']} runs between {here['low_ms']:.3f} "
            f"and {here['high_ms']:.3f})"
        )
    for name, row in found["devices"].items():
        lacks = f"; it lacks {', '.join(row['unsupported'])}" if row["unsupported"] else ""
        known = f", {row['memory_mb']:.3g} MB, mostly {row['bottleneck']}{lacks}" if row["bottleneck"] else ""
        typer.echo(f"{name}, modelled: {row['latency_ms']:.3f} ms{known}")


@app.command(name="list")
def list_(
    kind: Annotated[str | None, typer.Argument(metavar="|".join(KINDS), help="What to list.")] = None,
    as_json: Json = False,
) -> None:
    """List what can be named in a configuration."""
    from kdnas_ray.catalogue import catalogue

    if kind is None:
        raise KdnasError("say what to list", field="KIND", remedy=f"one of {', '.join(KINDS)}")

    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise KdnasError("no such list", field="KIND", value=kind, remedy=f"{hint}one of {', '.join(KINDS)}")
    rows = catalogue(kind)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        second = next((name for name in ("reads", "key") if name in row), None)
        space = 2 + max(len(other[second]) for other in rows) if second else 0
        reads = f"{row[second]:<{space}}" if second else ""
        source = f"  [{row['source']}]" if row["source"] else ""
        typer.echo(f"{row['name']:<{width}}  {reads}{row['summary']}{source}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two or more run folders.")],
    as_json: Json = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="Page to write, with pictures; replaced if there.")
    ] = None,
) -> None:
    """Compare runs: results side by side, and where their configurations differ."""
    from kdnas_ray.compare import compare as compare_runs
    from kdnas_ray.compare import comparison_table, differences

    if out is not None:
        from kdnas_ray.report import write_comparison

        page = write_comparison(runs, out)
    rows, differing = compare_runs(runs), differences(runs)
    if as_json:
        typer.echo(json.dumps({"runs": rows, "differences": differing}, indent=2))
        return
    _console().print(comparison_table(rows, differing))
    if out is not None:
        _console().print(f"Page: {os.path.relpath(page)}", markup=False)


@app.command()
def profile(run: Run, as_json: Json = False) -> None:
    """Say where the wall time of a run went: training, teacher, sampling, saving, idle workers."""
    from dataclasses import asdict

    from kdnas_ray.spent import profile as profile_run
    from kdnas_ray.spent import profile_table, sessions_said

    parts = profile_run(run)
    if as_json:
        typer.echo(json.dumps([asdict(part) for part in parts], indent=2))
        return
    _console().print(profile_table(parts))
    if said := sessions_said(run):
        _console().print(said, markup=False)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("kdnas.yaml"),
) -> None:
    """Write a commented configuration with every default."""
    from kdnas_ray.starter import commented_yaml

    if path.exists():
        raise KdnasError("exists already", field="PATH", value=str(path), remedy="choose another name")
    if not path.parent.is_dir():
        raise KdnasError("its folder does not exist", field="PATH", value=str(path))
    path.write_text(commented_yaml(), encoding="utf8")
    typer.echo(f"{path}  (start with `kdnas search {path}`)")


@app.command()
def config(
    settings: Settings = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema instead.")] = False,
) -> None:
    """Print the configuration with every default filled in."""
    import yaml

    from kdnas_ray.config import json_schema

    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
    else:
        typer.echo(yaml.safe_dump(_config(settings).resolved(), sort_keys=False), nl=False)


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
) -> None:
    """Open the MLflow UI on the store that searches in this folder write to."""
    from kdnas_ray import tracking

    raise typer.Exit(tracking.ui(tracking.TrackingSettings(), host=host, port=port))


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(metavar="URL", help="resources.storage of the run, and its name.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Folder to create.")] = None,
) -> None:
    """Bring a run's copy here from where `resources.storage` keeps it; `kdnas resume` goes on."""
    from kdnas_ray.mirror import fetch as bring

    run = bring(url, out or Path("runs") / PurePosixPath(url.partition("?")[0]).name)
    typer.echo(f"{run} is here; `kdnas resume {run}` goes on, `kdnas report {run}` shows it")


@app.command()
def sync(run: Run) -> None:
    """Send to MLflow what it has not taken yet (the server was away)."""
    from kdnas_ray import tracking
    from kdnas_ray.kept_config import run_config

    sent = tracking.sync(run, run_config(run).tracking)
    typer.echo(f"{sent} records sent")
    if count := tracking.refused(run):
        typer.echo(f"{count} records were refused for good; {run / tracking.REFUSED} holds them with the reason")


@teacher_app.command("train")
def teacher_train(
    settings: Settings = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to create.")] = Path("teacher"),
) -> None:
    """Train the configuration's teacher; use it with `teachers.0={name: folder, path: FOLDER}`."""
    from kdnas_ray.environment import cache_folder
    from kdnas_ray.live import Narrator
    from kdnas_ray.prepare import check_folder, load_data
    from trainables.teachers import TrainedTeacher, obtain, save_teacher

    chosen = _config(settings)
    check_folder(out)
    recipe = chosen.teachers[0]
    if not isinstance(recipe, TrainedTeacher):
        raise KdnasError(
            "this teacher is trained already",
            field="teachers.name",
            value=type(recipe).__name__,
            remedy="choose `trained`, with its widths and depths",
        )
    data = load_data(chosen)
    cache = cache_folder(chosen.bank.cache)  # an interrupted training goes on from there
    teacher = obtain(recipe, data, chosen.task, seed=chosen.seed, cache=cache, say=Narrator().say)
    save_teacher(out, teacher)
    typer.echo(f"{out}: validation accuracy {teacher.val_accuracy:.4f}")
    others = [word for word in settings or [] if not word.startswith("teachers")]
    words = ["kdnas", "search", *others, f"teachers=[{{name: folder, path: {out}}}]"]
    typer.echo(f"Use it: {shlex.join(words)}")


@teacher_app.command("samples")
def teacher_samples(
    settings: Settings = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Parquet file to create.")] = Path(
        "samples.parquet"
    ),
) -> None:
    """Write the task's images with their ids, for a teacher elsewhere whose answers are stored (`predictions`)."""
    from kdnas_ray.prepare import load_data
    from kdnas_ray.teacher_samples import search_with_answers, write_samples

    chosen = _config(settings)
    count = write_samples(out, load_data(chosen))
    typer.echo(f"{out}: {count:,} images")
    typer.echo("Answer them in answers.parquet, with columns `sample` and `logits` (or `probabilities`).")
    typer.echo(f"Use it: {shlex.join(search_with_answers(chosen, settings or []))}")


@teacher_app.command("rank")
def teacher_rank(
    settings: Settings = None,
    widths: Annotated[str, typer.Option("--widths", metavar="W,W,…", help="Channels of the first stage.")] = "",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="A student's; default max_epochs.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Students of each teacher.")] = 3,
    as_json: Json = False,
) -> None:
    """Train teachers of growing width and see which of them teaches one fixed student best."""
    from kdnas_ray.live import Narrator
    from kdnas_ray.teacher_ranking import parse_widths, rank_teachers, ranking_table, verdict

    chosen = _config(settings)
    narrator = Narrator(Console(highlight=False, soft_wrap=True, stderr=True))
    found = rank_teachers(chosen, parse_widths(widths), epochs=epochs, seeds=seeds, say=narrator.say)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    console = _console()
    console.print(ranking_table(found))
    console.print(verdict(found), markup=False)


def _config(settings: list[str] | None) -> Any:
    from kdnas_ray.config import read, read_file

    words = settings or []
    files = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(files) > 1:
        raise KdnasError(
            "more than one configuration",
            field="CONFIG",
            value=" ".join(files),
            remedy="an override is key=value",
        )
    return read_file(Path(files[0]), overrides) if files else read({}, overrides)


def _finish(work: Any) -> None:
    from kdnas_ray.results import failures, headline, ranking_table
    from kdnas_ray.session import Interrupted

    console = _console()
    try:
        result = work()
    except Interrupted as stopped:
        console.print(f"Interrupted. Go on with: kdnas resume {stopped}", markup=False)
        raise typer.Exit(130) from None
    summary = result.summary
    console.print()
    console.print(ranking_table(result))
    console.print()
    console.print(headline(summary), markup=False)
    if failed := failures(result):
        console.print(failed, markup=False)
    if len(summary["objectives"]) > 1 and summary["front"]:
        names = ", ".join(summary["front"][:20]) + (", …" if len(summary["front"]) > 20 else "")
        title = (
            f"Pareto front of {', '.join(summary['objectives'])} among those trained in full, the most accurate first"
        )
        console.print(f"{title}: {names}", markup=False)
    tau = summary.get("kendall_tau")
    if tau is not None:
        console.print(
            f"Kendall tau between search and retrained ranking: {tau:.2f} ({summary['kendall_tau_n']} candidates)"
        )
    console.print(f"Report: {os.path.relpath(result.run / 'report.html')}", markup=False)


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:  # a file or a pipe has no edge to keep within
        console.width = max(console.width, 160)
    return console
