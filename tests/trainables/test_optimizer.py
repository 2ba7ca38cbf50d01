"""Specification of `trainables.optimizer`: the same weights as torch's own class, without its compiler."""

import subprocess
import sys

import pytest
import torch

from search_spaces.resnet import build_resnet, resnet_architecture
from trainables.layout import to_channels_last
from trainables.optimizer import MOMENTUM, SGD, AdamW, clip

ARCHITECTURE = resnet_architecture(4, (4, 8), (1, 1))


def train(layout: torch.memory_format, steps: int, make, update) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = build_resnet(ARCHITECTURE, (1, 8, 8), 3)
    model = to_channels_last(model) if layout == torch.channels_last else model
    optimizer = make(model.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.rand(16, 1, 8, 8)).square().mean().backward()
        update(optimizer, 0.1 / (1 + step))
    return model.state_dict()


def torch_update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_step_when_repeated_then_equals_torch_bit_for_bit(layout, weight_decay):
    ours = train(layout, 5, lambda p: SGD(p, weight_decay), lambda optimizer, rate: optimizer.step(rate))
    theirs = train(
        layout,
        5,
        lambda p: torch.optim.SGD(p, 0.1, MOMENTUM, weight_decay=weight_decay, nesterov=True, fused=True),
        torch_update,
    )
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_adamw_when_repeated_then_equals_torch_bit_for_bit_also_from_a_saved_state(layout):
    def make(parameters):
        return AdamW(parameters, 1e-2)

    theirs = train(layout, 5, lambda p: torch.optim.AdamW(p, 0.1, weight_decay=1e-2, fused=True), torch_update)
    ours = train(layout, 5, make, lambda optimizer, rate: optimizer.step(rate))

    def anew(optimizer, rate):
        kept = {name: [value.clone() for value in values] for name, values in optimizer.state_dict().items()}
        optimizer.__init__(optimizer.parameters, 1e-2)
        optimizer.load_state_dict(kept)
        optimizer.step(rate)

    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    for name, value in train(layout, 5, make, anew).items():
        assert torch.equal(ours[name], value), name


def test_step_when_a_parameter_has_no_gradient_then_only_decays_it():
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = SGD([used, unused], weight_decay=0.0)
    used.sum().backward()
    optimizer.step(0.1)
    assert torch.equal(unused.data, torch.ones(2))
    assert torch.allclose(used.data, torch.full((2,), 1 - 0.1 * (1 + MOMENTUM)))


def test_training_when_it_runs_then_does_not_import_the_compiler():
    code = (
        "import sys, torch\nfrom trainables.optimizer import SGD\nw = torch.nn.Parameter(torch.ones(2))\n"
        "s = SGD([w], 0.0)\nw.sum().backward()\ns.step(0.1)\ns.zero_grad()\nprint('torch._dynamo' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


def test_clip_shortens_a_long_gradient_and_leaves_a_short_one_alone():
    parts = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)]
    for part, gradient in zip(parts, ([3.0, 0.0], [4.0], None), strict=True):
        part.grad = None if gradient is None else torch.tensor(gradient)
    clip(parts)  # of length 5
    assert [part.grad.tolist() for part in parts[:2]] == [[3.0, 0.0], [4.0]]
    for part in parts[:2]:
        part.grad *= 100
    clip(parts)
    torch.testing.assert_close(parts[0].grad, torch.tensor([6.0, 0.0]))
    torch.testing.assert_close(parts[1].grad, torch.tensor([8.0]))
    assert parts[2].grad is None
