"""What do the spaces of cells have in common? Operations, sums over edges that may be absent, checks of options."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from search_spaces.errors import KdnasError

STAGES = ("stage1", "stage2", "stage3")
Graph = list[tuple[str, tuple[int, ...]]]  # label and indices of the inputs of every vertex, inputs first


class Zero(nn.Module):
    """Nothing: the input's shape (at this stride), all zeros."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def extra_repr(self) -> str:
        """What its weights' shapes do not say."""
        return f"stride={self.stride}"

    def forward(self, x: Tensor) -> Tensor:
        """Zeros, `[batch, channels, h / stride, w / stride]`."""
        # A product, not new zeros: what lies before it still gets a gradient, of 0.
        return x[:, :, :: self.stride, :: self.stride] * 0


def sum_edges(edges: Iterable[tuple[nn.Module, Tensor]]) -> Tensor:
    """Sum of what the edges make of their inputs; an edge that is `Zero` is not computed where another is not.

    Args:
        edges: operation and input of each edge, at least one.
    """
    edges = list(edges)
    live = [(operation, x) for operation, x in edges if not isinstance(operation, Zero)]
    first, *others = live or edges[:1]
    total = first[0](first[1])
    for operation, x in others:
        total = total + operation(x)
    return total


def relu_conv_norm(width: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution, batch norm: `[batch, width, h, w]` to `[batch, out, h / stride, w / stride]`."""
    # Not in place: other edges read the same input.
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(width, out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
    )


def check_at_least(low: int, **options: int) -> None:
    """Raise unless every option is a whole number of at least `low`.

    Raises:
        KdnasError: names the option, its value and the remedy.
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise KdnasError(
                f"values start at {low}", field=f"space.{name}", value=value, remedy=f"choose {low} or more"
            )


def malformed(problem: str, value: Any, remedy: str) -> KdnasError:
    """The error for a text that describes no architecture."""
    return KdnasError(problem, field="architecture", value=value, remedy=remedy)
