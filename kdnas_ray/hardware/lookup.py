"""Which device does an entry of `devices:` mean: a profile of ours, one in a file, or a model of few measurements?"""

from collections.abc import Sequence
from pathlib import Path

from kdnas_ray.hardware.devices import DeviceProfile, absolute, device, is_file, read_text
from kdnas_ray.hardware.few_shot import FewShot, holds_model, load
from search_spaces import KdnasError

Device = DeviceProfile | FewShot


def find(text: str) -> Device:
    """The device of this name, or in this file; a JSON file is a model (`kdnas device fit`), a YAML file either.

    Raises:
        KdnasError: there is none, or the file cannot be read or does not describe a device.
    """
    if is_file(text) and (text.endswith(".json") or holds_model(read_text(text))):
        return load(Path(text).expanduser(), "devices")
    return device(text)


def by_name(devices: Sequence[str]) -> dict[str, Device]:
    """Devices by their own names.

    Raises:
        KdnasError: as `find`, or two have the same name.
    """
    found: dict[str, Device] = {}
    for text in devices:
        each = find(text)
        if found.setdefault(each.name, each) != each:
            raise _two(each.name)
    return found


def own_names(devices: Sequence[str]) -> dict[str, str]:
    """Each device's own name by what the user wrote; names that are no files are not looked up.

    Raises:
        KdnasError: as `by_name`.
    """
    found = {text: find(text).name if is_file(text) else text for text in devices}
    places: dict[str, str] = {}
    for text, name in found.items():
        if places.setdefault(name, absolute(text)) != absolute(text):
            raise _two(name)
    return found


def _two(name: str) -> KdnasError:
    remedy = "change the `name` in one of the files"  # results tell devices apart by their names
    return KdnasError("two devices of one name", field="devices", value=name, remedy=remedy)
