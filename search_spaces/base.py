"""What is a search space, an architecture, a tap? Everything that holds for all spaces is written here once.

A space is two functions, `suggest(trial) -> Architecture` and `build(architecture, shape, classes) -> nn.Module`.
Because an architecture is the record of what `suggest` decided, decoding, mutation, crossover and
one-hot features are the same for every space, a user's own included.
"""

import abc
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from search_spaces.errors import KdnasError

Decision = str | int | float | bool
Shape = tuple[int, int, int]  # channels, height, width of one input


class Suggests(Protocol):
    """The part of an Optuna trial that a space relies on; `optuna.Trial` and `FixedTrial` satisfy it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from low to high, both included."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from low to high, on a grid where a step is given."""


@dataclass(frozen=True)
class Architecture(Mapping[str, Decision]):
    """One point of a search space: the decisions that `suggest` took, in order; hashable, JSON both ways."""

    decisions: tuple[tuple[str, Decision], ...]

    @classmethod
    def of(cls, decisions: Mapping[str, Decision]) -> "Architecture":
        """Architecture with these decisions, in the order given."""
        return cls(tuple(decisions.items()))

    def __getitem__(self, name: str) -> Decision:
        for known, value in self.decisions:
            if known == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    def to_json(self) -> dict[str, Decision]:
        """Plain dictionary of the decisions."""
        return dict(self.decisions)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that name this architecture, the same on every machine."""
        return hashlib.sha256(json.dumps(sorted(self.decisions)).encode()).hexdigest()[:16]


class Student(Protocol):
    """What `build` returns: a module that answers with logits and, on request, with taps."""

    taps: tuple[str, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` for inputs `[batch, channels, height, width]`."""

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and the activation at each named tap: `[batch, c, h, w]` or `[batch, features]`."""


class Space(Protocol):
    """A search space. Implementations are frozen dataclasses whose fields are the options in the YAML."""

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> nn.Module:
        """A freshly initialised `Student` for inputs of `shape` (channels, height, width)."""

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""


def decode(space: Space, params: Mapping[str, Any]) -> Architecture:
    """Architecture for stored parameters: `suggest` replayed on them.

    Raises:
        KdnasError: a parameter is missing, unknown or outside its range.
    """
    replay = _Replay(params)
    architecture = space.suggest(replay)
    unknown = sorted(set(params) - set(replay.taken))
    if unknown:
        raise KdnasError(
            "the space has no such decision",
            field=f"architecture.{unknown[0]}",
            value=params[unknown[0]],
            remedy=f"decisions: {', '.join(replay.taken)}",
        )
    return architecture


def sample(space: Space, rng: random.Random) -> Architecture:
    """Architecture drawn uniformly over each decision's range."""
    return space.suggest(_Draw(rng))


def mutate(space: Space, parent: Architecture, rng: random.Random) -> Architecture:
    """Child of `parent` with one decision changed; later decisions that no longer fit are drawn anew.

    A space of a single architecture has no other child than the parent itself.

    Source: Real 2019, Regularized Evolution for Image Classifier Architecture Search, section 3.
    """
    changeable = {name: values for name, values in _alternatives(space, parent).items() if values}
    if not changeable:
        return parent
    name = rng.choice(list(changeable))
    return space.suggest(_Draw(rng, {**parent.to_json(), name: rng.choice(changeable[name])}))


def crossover(space: Space, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
    """Child that takes each decision from one of two parents at random."""
    wishes = {name: rng.choice((a, second.get(name, a))) for name, a in first.items()}
    return space.suggest(_Draw(rng, {**second.to_json(), **wishes}))


def neighbours(space: Space, architecture: Architecture) -> list[Architecture]:
    """Architectures that differ in exactly one decision (and in what follows from it)."""
    rng = random.Random(0)
    found = {
        space.suggest(_Draw(rng, {**architecture.to_json(), name: value}))
        for name, values in _alternatives(space, architecture).items()
        for value in values
    }
    return sorted(found - {architecture}, key=lambda a: a.digest())


def features(space: Space, architecture: Architecture) -> list[float]:
    """One-hot (categorical) or min-max scaled (numeric) value of every decision, in order."""
    record = _Replay(architecture)
    space.suggest(record)
    row: list[float] = []
    for name, value in architecture.items():
        kind, spec = record.ranges[name]
        if kind == "categorical":
            row.extend(float(value == choice) for choice in spec)
        else:
            low, high, _ = spec
            row.append((float(value) - low) / (high - low) if high > low else 0.0)
    return row


class TappedModel(nn.Module):
    """A module with taps: a chain of named parts ending in a classifier over pooled features.

    Every part but `stem` and `head` is a tap; `penultimate` (the pooled features) and `logits` are taps of every
    such model.
    """

    def __init__(self, parts: Mapping[str, nn.Module], features: int, classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.classifier = nn.Linear(features, classes)
        self.taps = (*(name for name in parts if name not in ("stem", "head")), "penultimate", "logits")

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` for inputs `[batch, channels, height, width]`."""
        for part in self.parts.values():
            x = part(x)
        return self.classifier(x.mean(dim=(2, 3)))

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `[batch, classes]` and the activations `{name: [batch, …]}` of the named taps."""
        seen = {}
        for name, part in self.parts.items():
            x = part(x)
            seen[name] = x
        seen["penultimate"] = x.mean(dim=(2, 3))
        seen["logits"] = self.classifier(seen["penultimate"])
        return seen["logits"], {name: seen[name] for name in names}


class ForeignModel(nn.Module):
    """Gives any module the interface of a `Student` by reading named submodules with forward hooks.

    The hooks exist during `forward_taps` only, so that `forward` keeps no activation alive.

    Args:
        module: answers with logits `[batch, classes]`.
        taps: tap name to the dotted name of the submodule whose output it is (the last one where it is
            called several times).

    Raises:
        KdnasError: a named submodule does not exist.
    """

    def __init__(self, module: nn.Module, taps: Mapping[str, str]) -> None:
        super().__init__()
        self.module = module
        self.taps = (*taps, "logits")
        self._paths = dict(taps)
        known = dict(module.named_modules())
        for tap, path in taps.items():
            if path not in known:
                raise KdnasError(
                    "the module has no such submodule",
                    field=f"taps.{tap}",
                    value=path,
                    remedy=f"submodules: {', '.join(name for name in known if name)}",
                )

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` for inputs `[batch, channels, height, width]`."""
        return self.module(x)

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `[batch, classes]` and the activations `{name: [batch, …]}` of the named taps.

        Raises:
            KdnasError: a tapped submodule was not called or answered with something else than a tensor.
        """
        seen: dict[str, Any] = {}
        hooks = [
            self.module.get_submodule(self._paths[name]).register_forward_hook(_keep(seen, name))
            for name in names
            if name != "logits"
        ]
        try:
            seen["logits"] = self.module(x)
        finally:
            for hook in hooks:
                hook.remove()
        for name in names:
            if not isinstance(seen.get(name), Tensor):
                answer = f"answers with a {type(seen[name]).__name__}" if name in seen else "was not called"
                raise KdnasError(
                    f"the submodule {answer}, a tap needs a tensor",
                    field=f"taps.{name}",
                    value=self._paths.get(name, name),
                    remedy="name a submodule that is called in `forward` and returns one tensor",
                )
        return seen["logits"], {name: seen[name] for name in names}


def tap_shapes(model: nn.Module, shape: Shape, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shape of each named tap for one input of `shape`, without the batch dimension; weights stay untouched."""
    training = model.training
    model.eval()
    with torch.no_grad():
        device = next(model.parameters(), torch.empty(0)).device
        _, taps = model.forward_taps(torch.zeros(1, *shape, device=device), names)  # type: ignore[operator]
    model.train(training)
    return {name: tuple(value.shape[1:]) for name, value in taps.items()}


def suggest_stages(trial: Suggests, stages: int, traits: Mapping[str, Sequence[Any]]) -> dict[str, Decision]:
    """Decisions `stage1.trait`, … of networks whose stages all have the same traits.

    Args:
        trial: is asked for each.
        stages: how many.
        traits: choices of each, by name.
    """
    return {
        (name := f"stage{stage}.{trait}"): trial.suggest_categorical(name, choices)
        for stage in range(1, stages + 1)
        for trait, choices in traits.items()
    }


def _keep(seen: dict[str, Any], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[name] = output

    return hook


class _Record(abc.ABC):
    """Keeps the range of every decision that `suggest` asks for; subclasses say how one is taken."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[str, tuple]] = {}
        self.taken: dict[str, Decision] = {}

    def _take(self, name: str, kind: str, spec: tuple) -> Any:
        self.ranges[name] = (kind, spec)
        if name not in self.taken:
            self.taken[name] = self._choose(name, kind, spec)
        return self.taken[name]

    @abc.abstractmethod
    def _choose(self, name: str, kind: str, spec: tuple) -> Decision: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """See `Suggests`."""
        return self._take(name, "categorical", tuple(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """See `Suggests`."""
        return self._take(name, "int", (low, high, step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """See `Suggests`."""
        return self._take(name, "float", (float(low), float(high), step))


class _Replay(_Record):
    """Takes every decision from stored parameters."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self._params = params

    def _choose(self, name: str, kind: str, spec: tuple) -> Decision:
        if name not in self._params:
            raise KdnasError("this decision is missing", field=f"architecture.{name}", remedy=_range_text(kind, spec))
        value = _fitted(self._params[name], kind, spec)
        if value is None:
            raise KdnasError(
                "outside its range",
                field=f"architecture.{name}",
                value=self._params[name],
                remedy=_range_text(kind, spec),
            )
        return value


class _Draw(_Record):
    """Takes a decision from `wishes` where it fits, else draws it."""

    def __init__(self, rng: random.Random, wishes: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._rng, self._wishes = rng, wishes or {}

    def _choose(self, name: str, kind: str, spec: tuple) -> Decision:
        wish = _fitted(self._wishes.get(name), kind, spec)
        if wish is not None:
            return wish
        if kind == "categorical":
            return self._rng.choice(spec)
        low, high, step = spec
        if step is None:
            return self._rng.uniform(low, high)
        return _on_grid(self._rng.randint(0, _steps(low, high, step)), low, high, step)


def _alternatives(space: Space, architecture: Architecture) -> dict[str, list[Decision]]:
    """Every other value of each decision; ten evenly spaced ones where the range is continuous."""
    record = _Replay(architecture)
    space.suggest(record)
    found = {}
    for name, (kind, spec) in record.ranges.items():
        if kind == "categorical":
            values = list(spec)
        else:
            low, high, step = spec
            width = (high - low) / 9 if step is None else step
            values = [_on_grid(i, low, high, width) for i in range(_steps(low, high, width) + 1)]
        found[name] = [value for value in values if value != record.taken[name]]
    return found


def _fitted(value: Any, kind: str, spec: tuple) -> Decision | None:
    """The value as its range writes it (8 for 8.0, so that digests agree); None where it lies outside."""
    if kind == "categorical":
        same = (choice for choice in spec if choice == value and isinstance(choice, bool) == isinstance(value, bool))
        return next(same, None)
    low, high, step = spec
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        return None
    if step is None:
        return float(value)
    nearest = _on_grid(round((value - low) / step), low, high, step)
    return nearest if abs(nearest - value) < 1e-6 * step else None


def _steps(low: float, high: float, step: float) -> int:
    return int((high - low) / step + 1e-9) if step else 0


def _on_grid(index: int, low: float, high: float, step: float) -> float:
    # 0.1 + 2 * 0.1 is a little more than 0.3: rounding must not carry the last value out of the range.
    return min(low + step * index, high)


def _range_text(kind: str, spec: tuple) -> str:
    if kind == "categorical":
        return f"one of {', '.join(map(str, spec))}"
    return f"{kind} from {spec[0]} to {spec[1]}" + (f" in steps of {spec[2]}" if spec[2] else "")
