"""What does an architecture cost: its size, and latency and memory on the devices that a search names?"""

import copy
from collections.abc import Callable, Mapping

from torch import nn

from kdnas_ray.hardware.counting import count, count_model, is_light
from kdnas_ray.hardware.devices import DeviceProfile
from kdnas_ray.hardware.few_shot import FewShot, check_fits
from kdnas_ray.hardware.lookup import Device
from kdnas_ray.hardware.operators import operators
from kdnas_ray.hardware.roofline import latency_ms, memory_bytes, unsupported
from kdnas_ray.objectives import UNSUPPORTED
from search_spaces import Architecture, Shape, Space
from trainables.opaque import opaque_part, params_of

Costs = dict[str, float]
MEGABYTE = 1e6


def cost_function(
    space: Space, shape: Shape, classes: int, devices: Mapping[str, Device]
) -> Callable[[Architecture], Costs]:
    """Numbers of an architecture that are known before training, by full name; remembered.

    Args:
        space: of the architectures.
        shape: channels, height and width of an input.
        classes: number of classes.
        devices: profiles and models by name.

    Raises:
        KdnasError: a model is of other networks.
    """
    models = {name: found for name, found in devices.items() if isinstance(found, FewShot)}
    for model in models.values():
        check_fits(model, space, shape)
    known: dict[Architecture, Costs] = {}
    light = False  # the last architecture was, so the next one will be, or cost no harm

    def costs(architecture: Architecture) -> Costs:
        nonlocal light
        if architecture not in known:

            def build() -> nn.Module:
                return space.build(architecture, shape, classes)

            counts = count(build, shape, light=light)
            light = is_light(counts)
            found = {**counts, **on_devices(build, shape, devices)}
            for name, model in models.items():
                found[f"latency_ms/{name}"] = float(model.latencies_ms([architecture])[0])
                found[f"{UNSUPPORTED}/{name}"] = 0.0  # what was measured ran there
            known[architecture] = found
        return known[architecture]

    return costs


def missing_function(
    space: Space, shape: Shape, classes: int, devices: Mapping[str, Device]
) -> Callable[[Architecture], dict[str, tuple[str, ...]]]:
    """What the devices with a profile lack for an architecture, as `roofline.unsupported`, by name of the device."""

    def missing(architecture: Architecture) -> dict[str, tuple[str, ...]]:
        profiles = {name: found for name, found in devices.items() if isinstance(found, DeviceProfile)}
        parts = operators(lambda: space.build(architecture, shape, classes), shape)
        return {name: unsupported(parts, profile) for name, profile in profiles.items()}

    return missing


def teacher_costs(model: nn.Module, shape: Shape, devices: Mapping[str, Device]) -> Costs:
    """The same numbers of a network that is there already; those of a teacher that is no PyTorch network are left out.

    Its parameters are there where they are known. A model of a space says nothing about a teacher.
    """
    if opaque_part(model) is not None:
        params = params_of(model)
        return {} if params is None else {"params": params}
    return {
        **count_model(model, shape),
        **on_devices(lambda: copy.deepcopy(model).to("meta"), shape, devices),
    }


def on_devices(build: Callable[[], nn.Module], shape: Shape, devices: Mapping[str, Device]) -> Costs:
    """Latency, memory and number of unsupported operators on each device that has a profile, by full name."""
    profiles = {name: found for name, found in devices.items() if isinstance(found, DeviceProfile)}
    if not profiles:
        return {}
    parts = operators(build, shape)
    found: Costs = {}
    for name, profile in profiles.items():
        found[f"latency_ms/{name}"] = latency_ms(parts, profile)
        found[f"memory_mb/{name}"] = memory_bytes(parts, profile) / MEGABYTE
        found[f"{UNSUPPORTED}/{name}"] = float(len(unsupported(parts, profile)))
    return found
