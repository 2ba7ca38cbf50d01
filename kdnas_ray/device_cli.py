"""What does a person type about devices? Parsing and printing only, as in `cli.py`."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from search_spaces.errors import KdnasError

device_app = typer.Typer(
    help="Latency of networks on a device: profiles, measurements, predictions.", no_args_is_help=True
)

SpaceOptions = Annotated[list[str] | None, typer.Argument(metavar="[space.KEY=VALUE]...", help="The space's options.")]
Tables = Annotated[
    Path | None,
    typer.Option(
        "--tables", metavar="FILE.parquet", help="Other devices: `architecture` and `latency_ms_<device>` columns."
    ),
]
InputShape = Annotated[
    str, typer.Option("--input", metavar="C,H,W", help="Input of the networks; matters without --tables.")
]


@device_app.command("propose")
def propose_command(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="Name of a space, see `kdnas list spaces`.")],
    options: SpaceOptions = None,
    count: Annotated[int, typer.Option("--count", help="How many to measure.")] = 20,
    tables: Tables = None,
    shape: InputShape = "3,32,32",
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
    shape: InputShape = "3,32,32",
    name: Annotated[str, typer.Option("--name", help="Of the device.")] = "device",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json|yaml", help="File to write; default NAME.json.")
    ] = None,
) -> None:
    """Learn the latency of every architecture of a space from a few measurements."""
    from kdnas_ray.hardware.few_shot import fit, save, trust, trust_words
    from kdnas_ray.hardware.measurements import read_measurements

    if not space:
        raise KdnasError("say whose architectures these are", field="--space", remedy="see `kdnas list spaces`")
    chosen, given = _space(space, options)
    architectures, latencies = read_measurements(measurements, chosen)
    known = _table(chosen, tables, shape).known()
    model = fit(known, architectures, latencies, space=space, options=given, name=name)
    for sentence in trust_words(trust(known, architectures, latencies)):
        typer.echo(sentence)
    target = out or Path(f"{name}.json")
    save(model, target)
    typer.echo(f"{target}: kdnas_ray.hardware.few_shot.predict({str(target)!r}, architecture) gives milliseconds")


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

    if tables is not None:
        return read_table(tables, space)
    sizes = shape.split(",")
    if len(sizes) != 3 or not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
        remedy = "channels, height, width, such as 3,32,32"
        raise KdnasError("is no shape of an image", field="--input", value=shape, remedy=remedy)
    return modelled_table(space, (int(sizes[0]), int(sizes[1]), int(sizes[2])), seed=0)
