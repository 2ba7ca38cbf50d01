"""What can a piece of hardware do? Profiles in YAML, ours by name and a user's by path."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from math import inf
from pathlib import Path
from typing import Any

import yaml

from kdnas_ray.hardware.measuring import RUNTIMES
from kdnas_ray.hardware.operators import ALL_KINDS, ALL_NAMES
from kdnas_ray.plain_yaml import load_yaml
from search_spaces import KdnasError, first_line

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
SUFFIXES = (".yaml", ".yml", ".json")
BY_KIND = ("overhead_us", "efficiency", "streaming")  # numbers that differ between kinds of operators
EVERY = "default"  # key of a number that holds for every kind without one of its own


@dataclass(frozen=True)
class DeviceProfile:
    """What a device can do; latency is modelled from it (`roofline`).

    Args:
        name: by which results call it: letters, digits, `.`, `_` and `-`.
        summary: one line.
        dtype: of weights and activations: `float32`, `float16`, `bfloat16` or `int8`.
        flops_per_s: largest number of floating point (or integer) operations a second, 2 for each multiply-add.
        bytes_per_s: memory bandwidth.
        cache_bytes: what an operator moves up to this size is moved at `cache_bytes_per_s`; 0 for no cache.
        cache_bytes_per_s: bandwidth of the cache; null for `bytes_per_s`.
        overhead_us: microseconds that starting an operator takes, by kind, or kind and variant (`conv/ragged`, see
            `roofline.variant`); `default` for all others.
        efficiency: share of `flops_per_s` that an operator reaches, given likewise.
        streaming: share of `bytes_per_s` that an operator reaches, given likewise.
        channels: convolutions and linear layers compute with channels rounded up to a multiple of this.
        blocked: channels lie in memory in blocks of so many, as on CPUs: fewer input channels than a block are not
            padded, and convolutions of other numbers of them that are no multiple run another, slower way.
        fixed_us: microseconds of every inference beside its operators.
        fused: activations after a convolution, linear layer or addition cost nothing.
        overlaps: an operator takes the longer of computing and moving data, not both one after the other.
        lacks: kinds of operators that it cannot run.
        memory_bytes: memory for weights and activations together; null for no bound.
        processor: of the machine that it was calibrated on: on one with the same, finalists are measured as well.
        runtime: that it was calibrated with.
        threads: of one inference.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    summary: str = ""
    dtype: str = "float32"
    cache_bytes: float = 0.0
    cache_bytes_per_s: float | None = None
    overhead_us: Mapping[str, float] = field(default_factory=dict)
    efficiency: Mapping[str, float] = field(default_factory=dict)
    streaming: Mapping[str, float] = field(default_factory=dict)
    channels: int = 1
    blocked: bool = False
    fixed_us: float = 0.0
    fused: bool = True
    overlaps: bool = True
    lacks: tuple[str, ...] = ()
    memory_bytes: float | None = None
    processor: str = ""
    runtime: str = "onnx"
    threads: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.summary)
        check_name(self.name, "devices.name")
        if self.dtype not in ELEMENT_BYTES:
            raise _wrong("dtype", self.dtype, f"known: {', '.join(ELEMENT_BYTES)}")
        for name in ("flops_per_s", "bytes_per_s"):
            if not 0 < getattr(self, name) < inf:
                raise _wrong(name, getattr(self, name), "give a number above 0")
        for name in ("cache_bytes_per_s", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise _wrong(name, value, "give a number above 0, or null")
        for name, least in (("cache_bytes", 0), ("fixed_us", 0), ("channels", 1), ("threads", 1)):
            if not least <= getattr(self, name) < inf:
                raise _wrong(name, getattr(self, name), f"give {least} or more")
        for name in BY_KIND:
            for kind, value in getattr(self, name).items():
                if kind not in (EVERY, *ALL_NAMES):
                    raise _wrong(name, kind, f"known kinds: {EVERY}, {', '.join(ALL_NAMES)}")
                share = name != "overhead_us"
                if not (0 < value <= 1 if share else 0 <= value < inf):
                    raise _wrong(f"{name}.{kind}", value, "a share above 0, at most 1" if share else "0 or more")
        if self.runtime not in RUNTIMES:
            raise _wrong("runtime", self.runtime, f"known: {', '.join(RUNTIMES)}")
        for kind in self.lacks:
            if kind not in ALL_KINDS:
                raise _wrong("lacks", kind, f"known kinds: {', '.join(ALL_KINDS)}")

    @property
    def element_bytes(self) -> int:
        """Bytes of a weight or an activation."""
        return ELEMENT_BYTES[self.dtype]


def device(text: str) -> DeviceProfile:
    """The profile of this name, or in this file.

    Raises:
        KdnasError: there is none, or it cannot be read.
    """
    if is_file(text):
        return parse(read_text(text), text)
    profiles = shipped()
    if text not in profiles:
        if os.path.isfile(text):  # unlike that of pathlib, silent about names that no file can have
            raise KdnasError(
                "this file is no profile",
                field="devices",
                value=text,
                remedy="give the YAML file of a profile, or the JSON file that `kdnas device fit` made of measurements",
            )
        files = [text + suffix for suffix in SUFFIXES if os.path.isfile(text + suffix)]
        close = files[:1] or difflib.get_close_matches(text, profiles, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise KdnasError("unknown device", field="devices", value=text, remedy=hint + _known())
    return profiles[text]


def read_text(path: str) -> str:
    """What a file of a device holds.

    Raises:
        KdnasError: it cannot be read.
    """
    try:
        return Path(path).expanduser().read_text(encoding="utf8")
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: no UTF-8, a zero byte; RuntimeError: `~nobody`
        problem = f"the profile cannot be read ({first_line(error)})"
        raise KdnasError(problem, field="devices", value=path, remedy=_known()) from error


def shipped() -> dict[str, DeviceProfile]:
    """The profiles that come with the package, by name."""
    folder = resources.files("kdnas_ray.hardware") / "profiles"
    found = [parse(file.read_text(encoding="utf8"), file.name) for file in folder.iterdir() if is_file(file.name)]
    return {profile.name: profile for profile in sorted(found, key=lambda profile: profile.name)}


def parse(content: str, source: str) -> DeviceProfile:
    """The profile that YAML describes.

    Args:
        content: the YAML.
        source: where it comes from, for errors.

    Raises:
        KdnasError: not a mapping, an unknown or missing key, or an impossible value.
    """
    try:
        data = load_yaml(content)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # TypeError: a list as a key
        raise KdnasError(f"is not valid YAML ({first_line(error)})", field="devices", value=source) from error
    known = [part.name for part in fields(DeviceProfile)]
    remedy = f"a profile has keys of: {', '.join(known)}"
    if not isinstance(data, Mapping):
        raise KdnasError("the profile holds no keys", field="devices", value=source, remedy=remedy)
    for key in data:
        if key not in known:
            raise KdnasError(f"the profile {source} holds something unknown", field="devices", value=key, remedy=remedy)
    for name in ("name", "flops_per_s", "bytes_per_s"):
        if name not in data:
            raise KdnasError(f"the profile {source} has none", field=f"devices.{name}", remedy="give it a value")
    values = {name: _typed(name, value) for name, value in data.items()}
    return DeviceProfile(**values)


def write(profile: DeviceProfile) -> str:
    """YAML of the profile; `parse` takes it back."""
    data = {part.name: getattr(profile, part.name) for part in fields(DeviceProfile)}
    data |= {"lacks": list(profile.lacks), **{name: dict(getattr(profile, name)) for name in BY_KIND}}
    return yaml.safe_dump(data, sort_keys=False)


def check_name(name: Any, field: str) -> None:
    """Refuses a name that could be taken for a file or a part of another number's name.

    Raises:
        KdnasError: with this field.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]+", name) or is_file(name):
        remedy = "use letters, digits, `.`, `_` and `-`, and no ending of a file"
        raise KdnasError("is no name of a device", field=field, value=name, remedy=remedy)


def is_file(text: str) -> bool:
    """Whether a device is given as a file rather than by name."""
    return text.endswith(SUFFIXES) or "/" in text


def absolute(text: str) -> str:
    """The same device from any folder."""
    return str(Path(text).expanduser().absolute()) if is_file(text) else text


def _typed(name: str, value: Any) -> Any:
    if name in ("name", "summary", "dtype", "processor", "runtime"):
        if not isinstance(value, str):
            raise _wrong(name, value, "give a text")
        return value
    if name == "lacks":
        if not isinstance(value, list):
            raise _wrong(name, value, "give a list, such as [gelu]")
        return tuple(map(str, value))
    if name in BY_KIND:
        if isinstance(value, Mapping):
            return {str(kind): _number(f"{name}.{kind}", number) for kind, number in value.items()}
        return {EVERY: _number(name, value)}
    if name in ("fused", "overlaps", "blocked"):
        if not isinstance(value, bool):
            raise _wrong(name, value, "give true or false")
        return value
    if value is None and name in ("cache_bytes_per_s", "memory_bytes"):
        return None
    number = _number(name, value)
    if name in ("channels", "threads") and number.is_integer():
        return int(number)
    if name in ("channels", "threads"):
        raise _wrong(name, value, "give a whole number")
    return number


def _number(name: str, value: Any) -> float:
    try:  # YAML 1.1 reads 1e9 as a text
        return float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(name, value, "give a number, its unit is part of the key's name") from error


def _wrong(name: str, value: Any, remedy: str) -> KdnasError:
    return KdnasError("not possible in a device profile", field=f"devices.{name}", value=value, remedy=remedy)


def _known() -> str:
    return f"known: {', '.join(shipped())}; or the path of a YAML file, or of the JSON file of `kdnas device fit`"
