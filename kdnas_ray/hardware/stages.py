"""In which stages of a network does a device spend its time? What a hint teaches elsewhere hardly pays there."""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

from kdnas_ray.hardware.devices import DeviceProfile
from kdnas_ray.hardware.lookup import Device
from kdnas_ray.hardware.operators import Operator, by_tap
from kdnas_ray.hardware.roofline import seconds, started
from search_spaces import Architecture, KdnasError, Shape, Space, sample

Stages = Mapping[str, tuple[Operator, ...]]
Shares = dict[str, float]
ENDS = ("penultimate", "logits")
DRAWN = 20  # architectures whose stages are averaged


def stages(space: Space, architecture: Architecture, shape: Shape, classes: int) -> Stages:
    """The operators between each tap and the one before it.

    Without what follows the last stage. Taps that hold no stage of their own (`penultimate`, `logits`) have none.

    Args:
        space: of the architecture.
        architecture: one point of it.
        shape: channels, height and width of an input.
        classes: number of classes.
    """
    names = [tap for tap in space.taps() if tap not in ENDS]
    return by_tap(lambda: space.build(architecture, shape, classes), shape, names)


def tap_shares(parts: Stages, profile: DeviceProfile) -> Shares:
    """Share of the modelled latency that goes to each stage; they add up to 1.

    Args:
        parts: operators of each stage, as `stages`.
        profile: the device; what it needs to begin is left out.
    """
    spent = {tap: sum(sum(seconds(op, profile)) for op in started(part, profile)) for tap, part in parts.items()}
    total = sum(spent.values())
    return {tap: time / total for tap, time in spent.items()}


def mean_shares(space: Space, shape: Shape, classes: int, devices: Mapping[str, Device], seed: int) -> Shares:
    """The mean of `tap_shares` over architectures drawn from the space; of several profiles the largest.

    Args:
        space: of the students.
        shape: channels, height and width of an input.
        classes: number of classes.
        devices: by name; those without a profile are left out.
        seed: of the draw.

    Raises:
        KdnasError: none has a profile.
    """
    profiles = [found for found in devices.values() if isinstance(found, DeviceProfile)]
    if not profiles:
        raise KdnasError(
            "what a stage costs is known on devices with a profile only, and none is named",
            field="recipes.tap_share",
            value=None,
            remedy="name one in `devices` (`kdnas device list`), or leave recipes.tap_share at 0",
        )
    rng = random.Random(seed)
    drawn = [stages(space, sample(space, rng), shape, classes) for _ in range(DRAWN)]
    largest: Shares = {}
    for profile in profiles:
        each = [tap_shares(parts, profile) for parts in drawn]
        for tap in each[0]:
            largest[tap] = max(largest.get(tap, 0.0), sum(shares[tap] for shares in each) / len(each))
    return largest


def worthwhile(recipes: Any, shares: Shares) -> Any:
    """The recipe space without hints at taps whose stage takes less of the device's time than its `tap_share`.

    Args:
        recipes: a recipe space with `taps` and `tap_share`.
        shares: of each tap of the students, as `mean_shares`.

    Raises:
        KdnasError: no tap is left.
    """
    kept = tuple(tap for tap in recipes.taps if shares.get(tap, 1.0) >= recipes.tap_share)
    if not kept:
        listed = ", ".join(f"{tap} {100 * shares[tap]:.1f} %" for tap in recipes.taps if tap in shares)
        raise KdnasError(
            f"no tap's stage takes as much of the device's time: {listed}",
            field="recipes.tap_share",
            value=recipes.tap_share,
            remedy="lower it, or name other recipes.taps",
        )
    return dataclasses.replace(recipes, taps=kept)
