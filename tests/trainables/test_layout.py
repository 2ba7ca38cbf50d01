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


def test_channels_last_is_measured_without_touching_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert layout.channels_last_pays(build, (1, 8, 8), 3, 4) in (True, False)
    assert torch.equal(torch.rand(3), expected)
