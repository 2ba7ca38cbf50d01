"""Specification of `trainables.meta`: the hypergradient against finite differences."""

import copy

import pytest
import torch
from torch import nn

from trainables.meta import MetaWeights, slopes

RATE = 0.3


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()


def data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn((6, size), generator=draw, dtype=torch.float64) for size in (3, 2))


def losses(model: nn.Module) -> list[torch.Tensor]:
    inputs, targets = data(1)
    answer = model(inputs)
    return [(answer - targets).square().mean(), answer.abs().mean(), (answer.sum(dim=1) - 1).square().mean()]


def other(answer) -> torch.Tensor:
    inputs, targets = data(2)
    return (answer(inputs) - targets).square().mean()


def ahead(factors: torch.Tensor) -> float:
    model = net()
    total = (factors * torch.stack(losses(model))).sum()
    gradients = torch.autograd.grad(total, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= RATE * gradient
    return other(model).item()


def test_slopes_agree_with_finite_differences_of_the_loss_one_step_ahead():
    factors = torch.tensor([1.0, 0.7, 1.3], dtype=torch.float64)
    model = net()
    found = slopes(model, losses(model), factors, RATE, other)
    for index in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[index] = 1e-5
        expected = (ahead(factors + step) - ahead(factors - step)) / 2e-5
        assert found[index].item() == pytest.approx(expected, rel=1e-5)


def test_slopes_leave_weights_statistics_and_graphs_as_they_were():
    model = net()
    found = losses(model)
    before = copy.deepcopy(model.state_dict())
    slopes(model, found, torch.ones(3, dtype=torch.float64), RATE, other)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    sum(found).backward()


def test_loss_that_does_not_depend_on_the_student_has_slope_0():
    model = net()
    found = slopes(model, [*losses(model)[:1], torch.tensor(2.0)], torch.ones(2, dtype=torch.float64), RATE, other)
    assert found[1] == 0


def test_factors_start_at_1_keep_their_mean_and_move_against_the_slopes():
    weights = MetaWeights(3)
    assert torch.equal(weights.factors(), torch.ones(3))
    weights.learn(torch.tensor([0.5, 0.0, -0.5]))
    low, middle, high = weights.factors()
    assert low < middle < high
    assert weights.factors().mean() == pytest.approx(1)


def test_weighted_sum_does_not_move_the_factors_by_itself():
    weights = MetaWeights(2)
    assert not list(weights.parameters())
    assert weights([torch.tensor(2.0), torch.tensor(3.0)]) == 5
    assert "raw" in weights.state_dict()
