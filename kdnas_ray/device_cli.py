"""What does a person type about devices? Parsing and printing only, as in `cli.py`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from search_spaces.errors import KdnasError

device_app = typer.Typer(help="Devices that candidates are to run on: profiles, calibration.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    from kdnas_ray.hardware.devices import device as read
    from kdnas_ray.hardware.devices import write

    typer.echo(write(read(device)), nl=False)


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

    from kdnas_ray.environment import cache_folder
    from kdnas_ray.hardware import calibrating
    from kdnas_ray.hardware.devices import is_file, write
    from kdnas_ray.hardware.measuring import check_runtime, exclusive
    from kdnas_ray.runs import check_creatable

    if not is_file(out.name):
        raise KdnasError("is no YAML file", field="--out", value=str(out), remedy="choose a name that ends in .yaml")
    check_creatable(out.parent, "--out")
    check_runtime(runtime)
    names = [name.strip() for name in spaces.split(",") if name.strip()] or calibrating.USUAL
    console = Console(stderr=True, highlight=False)
    with exclusive(cache_folder(None)):
        seen, others = (
            calibrating.measure_networks(
                calibrating.draw_networks(names, count, seed), runtime=runtime, threads=threads, say=console.print
            )
            for count, seed in ((networks, 0), (unseen, 1))
        )
    profile = calibrating.fit_profile(seen, out.stem, runtime)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(write(profile), encoding="utf8")
    rows = calibrating.report(profile, others)
    if as_json:
        typer.echo(json.dumps({"profile": str(out), "unseen": rows}, indent=2))
        return
    for row in rows:
        typer.echo(
            f"{row['space']:<14}  {row['networks']} networks not seen: Spearman {row['spearman']:.3f}, "
            f"median error {row['median_error']:.1%}"
        )
    typer.echo(f"{out}  (use it: devices=[{out}], constraints.latency_ms=…)")
