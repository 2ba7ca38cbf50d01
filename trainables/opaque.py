"""What is known of a teacher that is no PyTorch network?"""

from torch import nn


class Opaque(nn.Module):
    """Answers with logits from somewhere else: a file, a function. It has no taps, and FLOPs cannot be counted.

    Args:
        params: how many parameters it has; None where that is not known.
    """

    def __init__(self, params: int | None = None) -> None:
        super().__init__()
        self.params = params
        self.taps: tuple[str, ...] = ()


def opaque_part(model: nn.Module) -> Opaque | None:
    """What answers inside the model, where that is no PyTorch network."""
    return next((part for part in model.modules() if isinstance(part, Opaque)), None)


def params_of(model: nn.Module) -> int | None:
    """Number of parameters; None where it is not known."""
    inside = opaque_part(model)
    return sum(part.numel() for part in model.parameters()) if inside is None else inside.params
