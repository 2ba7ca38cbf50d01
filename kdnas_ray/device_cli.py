"""What does a person type about devices? Parsing and printing only, as in `cli.py`."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from search_spaces.errors import KdnasError

device_app = typer.Typer(help="Devices that candidates are to run on: profiles, calibration.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SpaceOptions = Annotated[list[str] | None, typer.Argument(metavar="[space.KEY=VALUE]...", help="The space's options.")]
Tables = Annotated[
    Path | None,
    typer.Option(
        "--tables", metavar="FILE.parquet", help="Other devices: `architecture` and `latency_ms_<device>` columns."
    ),
]
InputShape = Annotated[
    str, typer.Option("--input", metavar="CxHxW", help="Input of the networks; matters without --tables.")
]


@device_app.command("list")
def list_(as_json: Json = False) -> None:
    """The device profiles that come with the package."""
    from kdnas_ray.hardware.devices import shipped

    rows = [{"name": name, "dtype": found.dtype, "summary": found.summary} for name, found in shipped().items()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(f"{row['name']:<14}  {row['dtype']:<8}  {row['summary']}")


@device_app.command()
def show(device: Annotated[str, typer.Argument(metavar="DEVICE", help="Name or YAML file.")]) -> None:
    """Print a profile as YAML: the way to begin one of your own."""
    from kdnas_ray.hardware.devices import write
    from kdnas_ray.hardware.few_shot import FewShot
    from kdnas_ray.hardware.lookup import find

    found = find(device)
    if isinstance(found, FewShot):
        raise KdnasError(
            "a model of few measurements has no profile",
            field="DEVICE",
            value=device,
            remedy=f"`kdnas latency {found.space} --device {device}` asks it",
        )
    typer.echo(write(found), nl=False)


@device_app.command()
def calibrate(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.yaml", help="Profile to write.")] = Path(
        "this-machine.yaml"
    ),
    runtime: Annotated[str, typer.Option("--runtime", help="onnx, eager or compiled.")] = "onnx",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of one inference.")] = 1,
    spaces: Annotated[str, typer.Option("--spaces", metavar="A,B,…", help="Spaces to draw networks from.")] = "",
    networks: Annotated[int, typer.Option("--networks", min=20, help="To fit the profile to.")] = 90,
    unseen: Annotated[int, typer.Option("--unseen", min=10, help="To judge it by.")] = 60,
    as_json: Json = False,
) -> None:
    """Measure networks on this machine, fit its profile, and say how well that predicts others."""
    from rich.console import Console

    from kdnas_ray.hardware import calibrating
    from kdnas_ray.hardware.devices import check_name, write
    from kdnas_ray.hardware.measuring import check_runtime
    from kdnas_ray.runs import check_creatable
    from trainables.slot import exclusive, told_once

    if out.suffix not in (".yaml", ".yml"):
        raise KdnasError("is no YAML file", field="--out", value=str(out), remedy="choose a name that ends in .yaml")
    check_name(out.stem, "--out")
    _check_free(out)
    check_creatable(out.parent, "--out")
    check_runtime(runtime)
    names = [name.strip() for name in spaces.split(",") if name.strip()] or calibrating.USUAL
    console = Console(stderr=True, highlight=False)
    with exclusive(waiting=told_once(console.print)):
        seen, others = (
            calibrating.measure_networks(
                calibrating.draw_networks(names, count, seed), runtime=runtime, threads=threads, say=console.print
            )
            for count, seed in ((networks, 0), (unseen, 1))
        )
    profile = calibrating.fit_profile(seen, out.stem, runtime, threads)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(write(profile), encoding="utf8")
    rows = calibrating.report(profile, others)
    if as_json:
        typer.echo(json.dumps({"profile": str(out), "unseen": rows}, indent=2))
        return

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    for row in rows:
        typer.echo(
            f"{row['space']:<14}  {row['networks']} networks not seen: Spearman {number(row['spearman'])}, "
            f"median error {row['median_error']:.1%}"
        )
    typer.echo(f"{out}  (use it: devices=[{out}], constraints.latency_ms=…)")


@device_app.command("propose")
def propose_command(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="Name of a space, see `kdnas list spaces`.")],
    options: SpaceOptions = None,
    count: Annotated[int, typer.Option("--count", help="How many to measure.")] = 20,
    tables: Tables = None,
    shape: InputShape = "3x32x32",
    seed: Annotated[int, typer.Option("--seed", help="Of the architectures to choose from.")] = 0,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.csv", help="File to write.")] = Path("measure.csv"),
) -> None:
    """Propose architectures to measure on a device that cannot be installed on; `kdnas device fit` learns from them."""
    from kdnas_ray.hardware.few_shot import POOL, propose
    from kdnas_ray.hardware.measurements import distinct, write_proposal

    chosen, _ = _space(space, options)
    table = _table(chosen, tables, shape)
    pool = distinct(chosen, POOL, seed)
    picked = [pool[index] for index in propose(table.known(), pool, count)]
    write_proposal(out, chosen, picked)
    typer.echo(f"{out}: {count} architectures. Measure each on the device, warmed up, and fill in latency_ms: the")
    typer.echo("median of some tens of runs, in milliseconds. Then:")
    words = ["kdnas", "device", "fit", str(out), *(options or []), "--space", space]
    typer.echo(shlex.join(words + (["--tables", str(tables)] if tables else ["--input", shape])))


@device_app.command("fit")
def fit_command(
    measurements: Annotated[
        Path, typer.Argument(metavar="MEASUREMENTS", help="CSV file with columns `architecture` and `latency_ms`.")
    ],
    options: SpaceOptions = None,
    space: Annotated[str, typer.Option("--space", metavar="SPACE", help="Space of the architectures.")] = "",
    tables: Tables = None,
    shape: InputShape = "3x32x32",
    name: Annotated[str, typer.Option("--name", help="Of the device.")] = "device",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json|yaml", help="File to write; default NAME.json.")
    ] = None,
) -> None:
    """Learn the latency of every architecture of a space from a few measurements."""
    from kdnas_ray.hardware.devices import check_name
    from kdnas_ray.hardware.few_shot import fit, save, trust, trust_words
    from kdnas_ray.hardware.measurements import read_measurements
    from kdnas_ray.latency import read_shape

    if not space:
        raise KdnasError("say whose architectures these are", field="--space", remedy="see `kdnas list spaces`")
    check_name(name, "--name")
    target = out or Path(f"{name}.json")
    if target.suffix not in (".json", ".yaml", ".yml"):
        raise KdnasError("is neither JSON nor YAML", field="--out", value=str(target), remedy="for example phone.json")
    _check_free(target)
    chosen, given = _space(space, options)
    architectures, latencies = read_measurements(measurements, chosen)
    known = _table(chosen, tables, shape).known()
    sizes = None if tables else read_shape(shape, "--input")
    model = fit(known, architectures, latencies, space=space, options=given, name=name, shape=sizes)
    for sentence in trust_words(trust(known, architectures, latencies)):
        typer.echo(sentence)
    save(model, target)
    typer.echo(f"{target}  (use it: devices=[{target}], constraints.latency_ms=…)")


def _space(name: str, options: list[str] | None) -> tuple[Any, dict[str, Any]]:
    """The space, and its options by name."""
    from kdnas_ray.config import read

    for word in options or []:
        if not word.startswith("space."):
            remedy = "an option of the space is space.key=value"
            raise KdnasError("not understood", field="space.KEY=VALUE", value=word, remedy=remedy)
    config = read({"space": name}, options or [])
    return config.space, {key: value for key, value in config.resolved()["space"].items() if key != "name"}


def _table(space: Any, tables: Path | None, shape: str) -> Any:
    """Other devices' latencies, or models of some."""
    from kdnas_ray.hardware.measurements import modelled_table, read_table
    from kdnas_ray.latency import read_shape

    if tables is not None:
        return read_table(tables, space)
    return modelled_table(space, read_shape(shape, "--input"), seed=0)


def _check_free(path: Path) -> None:
    if path.exists():
        raise KdnasError("exists already", field="--out", value=str(path), remedy="choose another file, or remove it")
