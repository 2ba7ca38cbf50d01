"""How do many architectures share one set of weights?

A space can share where its architectures differ in which of several operations stands at a place. It then
has three more methods (see `Shares`), and its `build` is `assemble` with one operation picked at each place.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from search_spaces.base import Architecture, Shape, Space, TappedModel
from search_spaces.errors import KdnasError

Option = Callable[[], nn.Module]
Pick = Callable[[str, Mapping[str, Option]], nn.Module]


@runtime_checkable
class Shares(Protocol):
    """A space whose architectures can share weights."""

    def assemble(self, shape: Shape, classes: int, pick: Pick) -> TappedModel:
        """The network with `pick(place, options)` at each place; a place in every cell has the same name in all."""

    def choices(self, architecture: Architecture) -> dict[str, str]:
        """Name of the option at each place."""

    def discretise(self, weights: Mapping[str, Mapping[str, float]]) -> Architecture:
        """The architecture that keeps what weighs most: `{place: {option: weight}}`."""


def build_picked(space: Shares, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
    """The network of one architecture: the body of `build` of a space that shares."""
    chosen = space.choices(architecture)
    return space.assemble(shape, classes, lambda place, options: options[chosen[place]]())


def check_shares(space: Space, spaces: Mapping[str, type], field: str) -> Shares:
    """The space as one whose architectures can share weights.

    Raises:
        KdnasError: it cannot; names those that can.
    """
    if isinstance(space, Shares):
        return space
    able = [name for name, kind in spaces.items() if hasattr(kind, "assemble")]
    raise KdnasError(
        "the architectures of this space cannot share weights",
        field=field,
        value=next((name for name, kind in spaces.items() if type(space) is kind), type(space).__name__),
        remedy=f"spaces that can: {', '.join(able)}",
    )


class Mixed(nn.Module):
    """All options of one place, weighed; an option of weight 0 is not computed.

    Args:
        place: name of the place.
        options: name to module of each option.
        weights: of each place, `{place: Tensor [options]}`, shared by the whole network and set from outside.
    """

    def __init__(self, place: str, options: Mapping[str, nn.Module], weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.place = place
        self.options = nn.ModuleDict({_key(name): module for name, module in options.items()})
        self._weights = weights

    def forward(self, x: Tensor) -> Tensor:
        """Weighed sum of the options' outputs."""
        weights = self._weights[self.place]
        # A weight that learns is never skipped: its gradient counts even where it is 0 now (Gumbel, straight through).
        needed = [
            weight * option(x) if weights.requires_grad else option(x) * float(weight)
            for weight, option in zip(weights, self.options.values(), strict=True)
            if weights.requires_grad or float(weight) != 0
        ]
        total = needed[0]
        for output in needed[1:]:  # one by one: stacked, all outputs would exist twice
            total = total + output
        return total


class SuperNet(nn.Module):
    """One network that holds all architectures of a space; `set` says which it is now.

    Source: Pham 2018, Efficient Neural Architecture Search via Parameter Sharing; Liu 2019, DARTS (mixed operations).

    Args:
        space: shares.
        shape: of the inputs.
        classes: number of classes.
    """

    def __init__(self, space: Shares, shape: Shape, classes: int) -> None:
        super().__init__()
        self.space = space
        self.places: dict[str, list[str]] = {}
        self._weights: dict[str, Tensor] = {}

        def mix(place: str, options: Mapping[str, Option]) -> nn.Module:
            self.places[place] = list(options)
            return Mixed(place, {name: make() for name, make in options.items()}, self._weights)

        self.model = space.assemble(shape, classes, mix)
        self.taps = self.model.taps
        self.weigh({place: torch.full((len(names),), 1 / len(names)) for place, names in self.places.items()})

    def weigh(self, weights: Mapping[str, Tensor]) -> None:
        """Weights of the options at each place, `{place: [options]}`; they may carry gradients."""
        self._weights.update(weights)

    def set(self, architecture: Architecture) -> None:
        """Be this architecture from now on."""
        chosen = self.space.choices(architecture)
        self.weigh(
            {
                place: torch.tensor([float(name == chosen[place]) for name in names])
                for place, names in self.places.items()
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` of the architecture that is set."""
        return self.model(x)

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and the named taps."""
        return self.model.forward_taps(x, names)


def inherited(supernet: SuperNet, architecture: Architecture, model: nn.Module) -> dict[str, Tensor]:
    """State of `model`, a network of this architecture, with the supernet's weights."""
    chosen = supernet.space.choices(architecture)
    state = supernet.model.state_dict()
    for path, module in supernet.model.named_modules():
        if isinstance(module, Mixed):
            own = f"{path}.options.{_key(chosen[module.place])}."
            state |= {
                f"{path}.{name.removeprefix(own)}": value for name, value in state.items() if name.startswith(own)
            }
    return {name: state[name] for name in model.state_dict()}


def _key(option: str) -> str:
    return option.replace(".", "_")
