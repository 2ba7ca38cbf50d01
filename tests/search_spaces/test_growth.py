"""Specification of `search_spaces.growth`."""

import pytest
import torch

from search_spaces.growth import put_back, set_aside
from search_spaces.resnet import BLOCKS, build_resnet, resnet_architecture


def network(block: str = "basic"):
    torch.manual_seed(0)
    model = build_resnet(resnet_architecture(4, (4, 8, 8), (1, 3, 2), block=block), (1, 16, 16), 5)
    for _ in range(3):  # batch norms that have seen something
        model(torch.rand(16, 1, 16, 16))
    return model


@pytest.mark.parametrize("block", BLOCKS)
def test_network_when_it_grows_then_says_what_it_said_before(block):
    model, x = network(block), torch.rand(8, 1, 16, 16)
    size = sum(part.numel() for part in model.parameters())
    later = set_aside(model)
    assert len(later) == 3
    assert sum(part.numel() for part in model.parameters()) < size
    before = model.eval()(x)
    for step in later:
        put_back([step])
        torch.testing.assert_close(model.eval()(x), before)
    assert sum(part.numel() for part in model.parameters()) == size


def test_blocks_when_they_come_back_then_those_of_the_last_stage_are_the_first():
    model = network()
    later = set_aside(model)
    assert [(stage is model.parts["stage3"], index) for stage, index, _ in later] == [(True, 1), (False, 2), (False, 1)]


def test_block_when_it_has_come_back_then_learns():
    model = network()
    put_back(set_aside(model))
    model(torch.rand(8, 1, 16, 16)).square().sum().backward()
    norm = model.parts["stage3"][1].body[-1][-1]
    assert norm.weight.grad.abs().sum() > 0
