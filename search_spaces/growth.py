"""How does a network start shallow and gain its blocks later, without forgetting what it computes?"""

from torch import nn

from search_spaces.resnet import Residual

Later = tuple[nn.Sequential, int, nn.Module]  # the stage, the place in it, and the block that comes there


def set_aside(model: nn.Module) -> list[Later]:
    """Take every residual block but the first of each stage out of the network; the last stage's come back first.

    Each is made to answer with its input, which is never negative there: with the scale of its last batch norm at 0
    `relu(0 + x) = x`, so that the network says the same before and after it comes in.

    Source: Chen 2016, Net2Net: Accelerating Learning via Knowledge Transfer, section 2.4 (deeper); He 2019, Bag of
    Tricks for Image Classification, section 3.1 (scale of 0).

    Args:
        model: a network of the space `resnet`; others have no such blocks, and nothing happens.
    """
    found: list[Later] = []
    for stage in model.modules():
        if not isinstance(stage, nn.Sequential):
            continue
        blocks = [(index, part) for index, part in enumerate(stage) if isinstance(part, Residual)]
        for index, block in blocks[1:]:
            norm = [part for part in block.body.modules() if isinstance(part, nn.BatchNorm2d)][-1]
            nn.init.zeros_(norm.weight)
            found.append((stage, index, block))
            stage[index] = nn.Identity()
    return found[::-1]


def put_back(later: list[Later]) -> None:
    """Put these blocks where they belong."""
    for stage, index, block in later:
        stage[index] = block
