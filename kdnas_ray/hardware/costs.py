"""What does an architecture cost: its size, and latency and memory on the devices that a search names?"""

import copy
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from kdnas_ray.hardware.counting import count, count_model
from kdnas_ray.hardware.devices import DeviceProfile, device
from kdnas_ray.hardware.operators import operators
from kdnas_ray.hardware.roofline import latency_ms, memory_bytes, unsupported
from kdnas_ray.objectives import UNSUPPORTED
from search_spaces import Architecture, Shape, Space
from trainables.opaque import opaque_part, params_of

Costs = dict[str, float]
MEGABYTE = 1e6


def profiles(devices: Sequence[str]) -> dict[str, DeviceProfile]:
    """Profiles by their own names, of names or files.

    Raises:
        KdnasError: one is unknown, or its file does not describe a device.
    """
    found = [device(name) for name in devices]
    return {profile.name: profile for profile in found}


def cost_function(
    space: Space, shape: Shape, classes: int, devices: Mapping[str, DeviceProfile]
) -> Callable[[Architecture], Costs]:
    """Numbers of an architecture that are known before training, by full name; remembered.

    Args:
        space: of the architectures.
        shape: channels, height and width of an input.
        classes: number of classes.
        devices: profiles by name.
    """
    known: dict[Architecture, Costs] = {}

    def costs(architecture: Architecture) -> Costs:
        if architecture not in known:

            def build() -> nn.Module:
                return space.build(architecture, shape, classes)

            known[architecture] = {**count(build, shape), **on_devices(build, shape, devices)}
        return known[architecture]

    return costs


def teacher_costs(model: nn.Module, shape: Shape, devices: Mapping[str, DeviceProfile]) -> Costs:
    """The same numbers of a network that is there already; those of a teacher that is no PyTorch network are left out.

    Its parameters are there where they are known.
    """
    if opaque_part(model) is not None:
        params = params_of(model)
        return {} if params is None else {"params": params}
    return {
        **count_model(model, shape),
        **on_devices(lambda: copy.deepcopy(model).to("meta"), shape, devices),
    }


def on_devices(build: Callable[[], nn.Module], shape: Shape, devices: Mapping[str, DeviceProfile]) -> Costs:
    """Latency, memory and number of unsupported operators on each device, by full name."""
    if not devices:
        return {}
    parts = operators(build, shape)
    found: Costs = {}
    for name, profile in devices.items():
        found[f"latency_ms/{name}"] = latency_ms(parts, profile)
        found[f"memory_mb/{name}"] = memory_bytes(parts, profile) / MEGABYTE
        found[f"{UNSUPPORTED}/{name}"] = float(len(unsupported(parts, profile)))
    return found
