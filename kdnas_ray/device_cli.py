"""What does a person type about devices? Parsing and printing only, as in `cli.py`."""

import typer

device_app = typer.Typer(
    help="Latency of networks on a device: profiles, measurements, predictions.", no_args_is_help=True
)
