"""Specification of `trainables.layout`."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainables import layout


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))


@pytest.mark.parametrize(("plain", "last", "pays"), [(2.0, 1.0, True), (1.0, 2.0, False), (1.04, 1.0, False)])
def test_channels_last_pays_only_when_it_is_faster_by_more_than_noise(monkeypatch, plain, last, pays):
    # A step takes so many seconds in each layout; the first step is begun but not timed.
    readings = itertools.chain([0.0, 0.0], itertools.cycle([0.0, plain, 10.0, 10.0 + last]))
    monkeypatch.setattr(layout, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    assert layout.channels_last_pays(build, (1, 8, 8), 3, 4) is pays


@pytest.mark.parametrize(("plain", "half", "pays"), [(2.0, 1.0, True), (1.0, 2.0, False), (1.04, 1.0, False)])
def test_bfloat16_pays_only_when_it_is_faster_by_more_than_noise(monkeypatch, plain, half, pays):
    readings = itertools.chain([0.0, 0.0], itertools.cycle([0.0, plain, 10.0, 10.0 + half]))
    monkeypatch.setattr(layout, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    assert layout.bfloat16_pays(build, (1, 8, 8), 3, 4, channels_last=True) is pays


def test_bfloat16_that_is_many_times_slower_is_not_tried_to_the_end(monkeypatch):
    readings = iter([0.0, 0.0, 0.0, 1.0, 10.0, 19.0])  # one step to begin with, one of each that is timed, no more
    monkeypatch.setattr(layout, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    assert not layout.bfloat16_pays(build, (1, 8, 8), 3, 4, channels_last=False)
    assert list(readings) == []


def test_channels_last_is_measured_without_touching_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert layout.channels_last_pays(build, (1, 8, 8), 3, 4) in (True, False)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("channels", "stride"), [(4, 2), (3, (1, 2)), (16, 2)])
def test_channels_last_when_a_convolution_of_one_pixel_has_a_stride_then_learns_the_same(channels, stride):
    torch.manual_seed(0)
    plain, last = nn.Conv2d(channels, 5, 1, stride, bias=False), nn.Conv2d(channels, 5, 1, stride, bias=False)
    last.load_state_dict(plain.state_dict())
    images = torch.randn(8, channels, 7, 7, requires_grad=True)
    again = images.detach().clone().requires_grad_()
    arranged = layout.to_channels_last(nn.Sequential(last))
    before, after = plain(images), arranged(again)
    for answer in (before, after):
        answer.square().sum().backward()
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(again.grad, images.grad)
    torch.testing.assert_close(last.weight.grad, plain.weight.grad)
    assert list(arranged.state_dict()) == ["0.weight"]


def test_channels_last_when_students_are_small_then_the_process_survives():
    """Where it did not, glibc ended the process: "corrupted double-linked list"."""
    torch.manual_seed(0)
    for channels in (4, 12):
        shortcut = layout.to_channels_last(nn.Conv2d(4, channels, 1, 2, bias=False))
        for size in range(1, 40):
            images = torch.rand(64, 4, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
            answer = shortcut(images)
            answer.backward(torch.rand_like(answer))
            assert torch.rand(size).isfinite().all()
        assert shortcut.weight.grad.isfinite().all()
