"""Which networks does a configuration describe by itself, from blocks and choices?"""

import copy
import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel
from search_spaces.errors import KdnasError
from search_spaces.mobilenet import ACTIVATIONS, InvertedResidual, SqueezeExcite, conv_act
from search_spaces.resnet import residual

DEFAULT_LAYERS: tuple[dict[str, Any], ...] = (
    {"block": "conv", "width": [4, 8, 16]},
    {"name": "stage1", "block": ["basic", "separable"], "width": [8, 12, 16], "kernel": [3, 5], "repeat": [1, 2]},
    {
        "name": "stage2",
        "stride": 2,
        "width": [8, 16, 24],
        "any": ["basic", {"block": "inverted", "expansion": [2, 3], "kernel": [3, 5]}],
    },
    {"block": ["skip", "squeeze_excite"], "when": {"stage2.block": "inverted"}},
    {"name": "stage3", "block": ["separable", "inverted"], "stride": 2, "width": [16, 24, 32]},
)


@dataclass(frozen=True)
class CompositionSpace:
    """Networks written in the configuration itself: a list of blocks, any value of which may be a list of choices.

    Every list of two or more values is a decision; it is called by the item's name and the key (`stage1.width`), and
    `layers.0.width` where the item has no name. Taps: the named items, `penultimate`, `logits`.

    Source: the blocks are those of He 2016 (residual), Sandler 2018 (inverted) and Hu 2018 (squeeze-excite).

    Args:
        layers: items from input to output, each a block by name or `{block: conv, width: [8, 16]}` with these keys:

            `block`: `conv`, `basic`, `bottleneck`, `bottleneck4`, `separable`, `inverted`, `max_pool`, `avg_pool`,
            `squeeze_excite`, `skip` (nothing), or a list to choose from.
            `any`: instead of `block`, a list of blocks with values of their own: `[basic, {block: inverted,
            expansion: [3, 6]}]`; values beside `any` hold for all that take them. Two of the same block need a `name`.
            `width`, `kernel`, `stride`, `expansion`, `squeeze`, `activation`, `size` (of a pool): values of the block;
            without `width` a block is as wide as its input.
            `repeat`: so many of the block in a row, the first one with the stride; 0 for none.
            `when`: the item is there only if earlier decisions were so: `{stage1.block: [basic], stage1.width: 8}`;
            in an alternative of `any`, the alternative is offered only then.
            `name`: names the item and makes what leaves it a tap.
    """

    # Dictionaries have no hash; equality still compares them.
    layers: tuple[Any, ...] = field(default=DEFAULT_LAYERS, hash=False)

    def __post_init__(self) -> None:
        _items(self.layers)
        object.__setattr__(self, "layers", copy.deepcopy(tuple(self.layers)))  # whoever gave it may change it

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        decisions: dict[str, Decision] = {}

        def choose(name: str, choices: tuple) -> Decision:
            decisions[name] = trial.suggest_categorical(name, choices)
            return decisions[name]

        for _ in _decided(_items(self.layers), choose):
            pass
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        width = shape[0]
        parts: dict[str, nn.Module] = {}
        untapped: list[nn.Module] = []  # since the last tap
        for item, block, values in _decided(_items(self.layers), lambda name, _: architecture[name]):
            make, known = BLOCKS[block]
            out = values.pop("width", width)
            for index in range(values.pop("repeat", 1)):
                if index > 0 and "stride" in known:
                    values["stride"] = 1
                untapped.append(make(width, out, **values))
                width = out
            if item.tap:
                parts[item.name], untapped = nn.Sequential(*untapped), []
        parts["head"] = nn.Sequential(*untapped)
        return TappedModel(parts, width, classes)

    def parts(self, architecture: Architecture) -> dict[str, list[str]]:
        """Every layer that is built, fixed ones too, with its block and options; for the drawing."""
        decided = _decided(_items(self.layers), lambda name, _: architecture[name])
        return {
            item.name: [block, *(f"{name} {value}" for name, value in values.items())]
            for item, block, values in decided
            if block != "skip"
        }

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*(item.name for item in _items(self.layers) if item.tap), "penultimate", "logits")


def _conv(width: int, out: int, kernel: int = 3, stride: int = 1, activation: str = "relu") -> nn.Module:
    return nn.Sequential(*conv_act(width, out, kernel, activation, stride))


def _inverted(
    width: int,
    out: int,
    kernel: int = 3,
    stride: int = 1,
    expansion: int = 3,
    squeeze: bool = False,
    activation: str = "relu",
) -> nn.Module:
    return InvertedResidual(width, out, expansion * width, kernel, stride, squeeze, activation)


def _pool(kind: type[nn.Module], width: int, out: int, size: int = 2, stride: int = 2) -> nn.Module:
    if size % 2 == 1:
        padded = {"padding": size // 2} | ({} if kind is nn.MaxPool2d else {"count_include_pad": False})
        return kind(size, stride, **padded)
    # One place less on the left than on the right, so that an image of n places leaves with n / stride, rounded up.
    before, after = size // 2 - 1, size // 2
    return nn.Sequential(nn.ReplicationPad2d((before, after, before, after)), kind(size, stride))


def _squeeze_excite(width: int, out: int) -> nn.Module:
    return SqueezeExcite(width)


def _skip(width: int, out: int) -> nn.Module:
    return nn.Identity()


_SPATIAL = ("width", "kernel", "stride")
# Each block: made from the width that comes in, the one that leaves, and the values that it takes beside `repeat`.
BLOCKS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "conv": (_conv, (*_SPATIAL, "activation")),
    **{
        name: (functools.partial(residual, name), _SPATIAL)
        for name in ("basic", "bottleneck", "bottleneck4", "separable")
    },
    "inverted": (_inverted, (*_SPATIAL, "expansion", "squeeze", "activation")),
    "max_pool": (functools.partial(_pool, nn.MaxPool2d), ("size", "stride")),
    "avg_pool": (functools.partial(_pool, nn.AvgPool2d), ("size", "stride")),
    "squeeze_excite": (_squeeze_excite, ()),
    "skip": (_skip, ()),
}


# A tap is a module of its name: torch refuses the names of its own methods.
_METHODS = frozenset(dir(nn.ModuleDict()))


def _whole(value: Any, low: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


# Each value: what it must be, as a test and in words.
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "width": (_whole, "a whole number from 1"),
    "kernel": (lambda value: _whole(value) and value % 2 == 1, "an odd whole number"),
    "stride": (_whole, "a whole number from 1"),
    "size": (_whole, "a whole number from 1"),
    "expansion": (_whole, "a whole number from 1"),
    "squeeze": (lambda value: isinstance(value, bool), "true or false"),
    "activation": (lambda value: value in tuple(ACTIVATIONS), f"one of {', '.join(ACTIVATIONS)}"),
    "repeat": (lambda value: _whole(value, 0), "a whole number from 0"),
}

Conditions = Mapping[str, tuple]  # what earlier decisions must be one of


@dataclass(frozen=True)
class _Option:
    label: str
    block: str
    values: Mapping[str, tuple]
    when: Conditions


@dataclass(frozen=True)
class _Item:
    name: str
    tap: bool
    values: Mapping[str, tuple]
    when: Conditions
    options: tuple[_Option, ...]


def _decided(
    items: Sequence[_Item], choose: Callable[[str, tuple], Any]
) -> Iterator[tuple[_Item, str, dict[str, Any]]]:
    """Each item with the block and the values that `choose(name, choices)` takes; `skip` where it is left out."""
    known: dict[str, Any] = {}

    def take(name: str, choices: tuple) -> Any:
        known[name] = choose(name, choices) if len(choices) > 1 else choices[0]
        return known[name]

    for item in items:
        offered = [option for option in item.options if _holds(item.when, known) and _holds(option.when, known)]
        if not offered:
            yield item, "skip", {}
            continue
        labels = tuple(option.label for option in offered)
        # A decision always has the same choices: with fewer it is another one.
        fewer = "" if len(offered) == len(item.options) else f"[{'|'.join(labels)}]"
        label = known[f"{item.name}.block"] = take(f"{item.name}.block{fewer}", labels)
        option = offered[labels.index(label)]
        values = {}
        for key in _takes(option.block):
            if key in option.values:
                values[key] = take(f"{item.name}.{label}.{key}", option.values[key])
            elif key in item.values:
                values[key] = take(f"{item.name}.{key}", item.values[key])
        yield item, option.block, values


def _holds(when: Conditions, known: Mapping[str, Any]) -> bool:
    return all(name in known and known[name] in values for name, values in when.items())


def _takes(block: str) -> tuple[str, ...]:
    return (*BLOCKS[block][1], "repeat")


def _items(layers: Sequence[Any]) -> list[_Item]:
    """The items, read and checked.

    Raises:
        KdnasError: names the item and its key, such as `space.layers.2.kernel`.
    """
    if not layers:
        raise KdnasError("there is none", field="space.layers", value=[], remedy="list at least one block")
    items: list[_Item] = []
    earlier: dict[str, tuple] = {}  # what `when` may ask for
    for index, raw in enumerate(layers):
        item = _item(raw, index, earlier)
        if item.name in [other.name for other in items]:
            raise KdnasError(
                "two items have this name", field=f"space.layers.{index}.name", value=item.name, remedy="rename one"
            )
        items.append(item)
        earlier[f"{item.name}.block"] = tuple(option.label for option in item.options)
        earlier |= {f"{item.name}.{key}": values for key, values in item.values.items()}
        for option in item.options:
            earlier |= {f"{item.name}.{option.label}.{key}": values for key, values in option.values.items()}
    return items


def _item(raw: Any, index: int, earlier: Mapping[str, tuple]) -> _Item:
    path = f"space.layers.{index}"
    if isinstance(raw, str):
        raw = {"block": raw}
    _check_mapping(raw, path)
    if ("block" in raw) == ("any" in raw):
        raise KdnasError(
            "needs one of `block` and `any`", field=path, remedy=f"for example block: conv; known: {', '.join(BLOCKS)}"
        )
    if "block" in raw:
        blocks = _choices(raw["block"], f"{path}.block")
        options = [_option(block, f"{path}.block", earlier) for block in blocks]
    else:
        listed = _choices(raw["any"], f"{path}.any")
        options = [_option(block, f"{path}.any.{number}", earlier) for number, block in enumerate(listed)]
    labels = [option.label for option in options]
    for label in labels:
        if labels.count(label) > 1:
            raise KdnasError(
                "two of the alternatives are called so", field=path, value=label, remedy="give each a `name`"
            )
    values = list(dict.fromkeys(key for option in options for key in _takes(option.block)))
    _check_keys(raw, path, ["block", "any", "name", "when", *values])
    if "name" in raw:
        _check_name(raw["name"], f"{path}.name")
    return _Item(
        name=raw.get("name", f"layers.{index}"),
        tap="name" in raw,
        values=_values(raw, path),
        when=_when(raw, path, earlier),
        options=tuple(options),
    )


def _option(raw: Any, path: str, earlier: Mapping[str, tuple]) -> _Option:
    if isinstance(raw, str):
        if raw not in BLOCKS:
            raise _unknown("unknown block", path, raw, list(BLOCKS))
        return _Option(raw, raw, {}, {})
    _check_mapping(raw, path)
    if "block" not in raw:
        raise KdnasError("is required", field=f"{path}.block", remedy=f"known: {', '.join(BLOCKS)}")
    block = raw["block"]
    if not isinstance(block, str) or block not in BLOCKS:
        raise _unknown("unknown block", f"{path}.block", block, list(BLOCKS))
    _check_keys(raw, path, ["block", "name", "when", *_takes(block)])
    if "name" in raw:
        _check_name(raw["name"], f"{path}.name")
    return _Option(raw.get("name", block), block, _values(raw, path), _when(raw, path, earlier))


def _values(raw: Mapping[str, Any], path: str) -> dict[str, tuple]:
    found = {}
    for key in VALUES:
        if key in raw:
            fits, wanted = VALUES[key]
            found[key] = _choices(raw[key], f"{path}.{key}")
            for value in found[key]:
                if not fits(value):
                    raise KdnasError("impossible", field=f"{path}.{key}", value=value, remedy=f"give {wanted}")
            if len(set(found[key])) < len(found[key]):
                raise KdnasError(
                    "a choice comes twice", field=f"{path}.{key}", value=list(found[key]), remedy="leave one out"
                )
    return found


def _when(raw: Mapping[str, Any], path: str, earlier: Mapping[str, tuple]) -> dict[str, tuple]:
    when, path = raw.get("when", {}), f"{path}.when"
    _check_mapping(when, path, "{stage1.block: [basic]}")
    found = {}
    for name, value in when.items():
        if name not in earlier:
            raise _unknown("no earlier item decides this", f"{path}.{name}", value, list(earlier), name)
        found[name] = _choices(value, f"{path}.{name}")
        for choice in found[name]:
            if choice not in earlier[name]:
                raise _unknown("it never is", f"{path}.{name}", choice, list(map(str, earlier[name])))
    return found


def _choices(value: Any, path: str) -> tuple:
    choices = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not choices:
        raise KdnasError("no choice left", field=path, value=[], remedy="list at least one value")
    return choices


def _check_name(name: Any, path: str) -> None:
    taken = ("stem", "head", "penultimate", "logits")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name) or name in _METHODS:
        raise KdnasError("cannot be a name", field=path, value=name, remedy="a word of letters, digits and _: stage1")
    if name in taken:
        raise KdnasError("this name has a meaning", field=path, value=name, remedy=f"not {', '.join(taken)}")


def _check_mapping(raw: Any, path: str, example: str = "{block: conv, width: 8}") -> None:
    if not isinstance(raw, Mapping):
        raise KdnasError("is no object of keys", field=path, value=raw, remedy=f"for example {example}")


def _check_keys(raw: Mapping[str, Any], path: str, known: list[str]) -> None:
    for key, value in raw.items():
        if key not in known:
            raise _unknown("unknown key", f"{path}.{key}", value, known, key)


def _unknown(problem: str, path: str, value: Any, known: list[str], word: Any = None) -> KdnasError:
    close = difflib.get_close_matches(str(value if word is None else word), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return KdnasError(problem, field=path, value=value, remedy=f"{hint}known: {', '.join(known)}")
