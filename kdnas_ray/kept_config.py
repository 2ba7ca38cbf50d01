"""How does a run folder keep its configuration, so that it needs no device's file elsewhere and can be moved?"""

from collections.abc import Sequence
from pathlib import Path

from kdnas_ray.config import DEVICES, SearchConfig, beside, read
from kdnas_ray.hardware.devices import is_file, read_text
from kdnas_ray.hardware.lookup import own_names
from kdnas_ray.runs import read_config, write_config
from trainables.files import replace_text


def keep_config(run: Path, config: SearchConfig) -> None:
    """Write the run's config.yaml; files of devices are copied into the run, and named relative to it.

    A profile that is edited later therefore changes no run that began with it.

    Raises:
        KdnasError: such a file cannot be read.
    """
    files = {text: name for text, name in own_names(config.devices).items() if is_file(text)}
    kept = {text: _copied(run, text, name) for text, name in files.items()}
    resolved = config.resolved()
    write_config(run, resolved | {"devices": [kept.get(text, text) for text in resolved["devices"]]})


def run_config(run: Path, overrides: Sequence[str] = ()) -> SearchConfig:
    """Configuration of a run.

    Args:
        run: its folder.
        overrides: `key.path=value`.

    Raises:
        KdnasError: not a run folder, or its configuration or an override is invalid.
    """
    return read(beside(run, read_config(run)), overrides)


def _copied(run: Path, text: str, name: str) -> str:
    place = f"{DEVICES}/{name}{Path(text).suffix}"
    if not (run / place).exists():
        (run / DEVICES).mkdir(exist_ok=True)
        replace_text(run / place, read_text(text))
    return place
