"""Specification of `trainables.online`: features asked for when they are needed equal those that were kept."""

import dataclasses

import numpy as np
import pytest
import torch

from trainables import bank as banks
from trainables.bank import OnlineTap
from trainables.online import _Teacher

TAPS = ("stage1", "penultimate")


@pytest.fixture(scope="module")
def kept(data, task, teacher, normalise):
    return banks.build(
        data.train, [teacher.model], normalise, augmentation=task.augmentation, views=2, seed=0, taps=TAPS, pool=4
    )


@pytest.fixture
def asked(kept, data, teacher, monkeypatch):
    """The same bank with one tap kept and one asked for, without Ray between."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # of the actor's process, not of this one
    there, calls = _Teacher(teacher.model, kept, data.mean, data.std, 4), []

    def ask(indices, view, names):
        calls.append(tuple(names))
        return there.answer(indices, view, names)

    taps = {name: OnlineTap(array.shape, ask) for name, array in kept.taps.items()}
    return dataclasses.replace(kept, taps=taps), calls


@pytest.mark.parametrize("view", [0, 1])
def test_features_asked_for_are_those_that_would_have_been_kept(kept, asked, view):
    bank, calls = asked
    indices = np.array([3, 99, 7, 250])
    batch, expected = (each.batch(indices, view, kept.transforms(view), TAPS) for each in (bank, kept))
    for name in TAPS:
        assert batch.taps[name].shape == expected.taps[name].shape
        torch.testing.assert_close(batch.taps[name], expected.taps[name], atol=1e-2, rtol=1e-2)
    assert torch.equal(batch.images, expected.images)
    assert calls == [TAPS]  # one question for both


def test_kept_and_asked_for_features_come_in_one_batch(kept, asked):
    bank = dataclasses.replace(asked[0], taps={**asked[0].taps, "penultimate": kept.taps["penultimate"]})
    batch = bank.batch(np.arange(5), 0, kept.transforms(0), TAPS)
    assert list(batch.taps) == list(TAPS)
    assert asked[1] == [("stage1",)]


def test_features_that_are_not_kept_take_no_room(kept, asked):
    arrays = (kept.images, kept.labels, kept.logits)
    assert asked[0].nbytes == sum(array.nbytes for array in arrays)
