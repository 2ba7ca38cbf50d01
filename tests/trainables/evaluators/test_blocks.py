"""Specification of `trainables.evaluators.blocks`: blocks distilled one by one, networks put together from them."""

import random

import numpy as np
import pytest
import torch

from search_spaces import (
    DARTSSpace,
    KdnasError,
    MobileNetSpace,
    NASBench101Space,
    NASBench201Space,
    ResNetSpace,
    ViTSpace,
    sample,
)
from trainables.candidate import build_model
from trainables.evaluators import Blocks, blocks
from trainables.evaluators.blocks import Library, block_keys, split_at, train_block

SPACE = ResNetSpace(2, (4,), (1,), (4, 8), (1,), (3,), ("basic", "separable"))
SHORT = Blocks(pool=4, epochs=2, batch_size=32, proposals=3, taps=("stage1", "stage2"))


@pytest.fixture
def prepared(workshop):
    made = workshop(SPACE)
    return made, SHORT.prepare(made)


def test_blocks_together_are_the_network_up_to_its_last_tap():
    model = SPACE.build(sample(SPACE, random.Random(0)), (1, 8, 8), 10).eval()
    images = torch.rand(2, 1, 8, 8)
    x = images
    for block in split_at(model, ("stage1", "stage2")):
        x = block(x)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_taps(images, ["stage2"])[1]["stage2"], x)


@pytest.mark.parametrize(
    "space", [SPACE, MobileNetSpace(), NASBench201Space(), ViTSpace()], ids=lambda s: type(s).__name__
)
def test_block_of_every_chain_learns_its_stage_of_the_teacher(space, workshop):
    shared = workshop(space).shared
    architecture = sample(space, random.Random(1))
    for index in (0, 1):
        short, state = train_block(shared, Blocks(epochs=1, batch_size=32, taps=SHORT.taps), architecture, index, 0)
        long, _ = train_block(shared, Blocks(epochs=8, batch_size=32, taps=SHORT.taps), architecture, index, 0)
        assert 0 < long < short
        assert all(torch.isfinite(value).all() for value in state.values())


def test_block_that_diverges_is_the_worst_and_leaves_its_fresh_weights(workshop, monkeypatch):
    monkeypatch.setattr(blocks, "clip", lambda parameters: None)
    shared = workshop(SPACE).shared
    wild = Blocks(epochs=3, batch_size=32, learning_rate=1e9, taps=SHORT.taps)
    loss, state = train_block(shared, wild, sample(SPACE, random.Random(1)), 0, 0)
    assert loss == blocks.DIVERGED
    assert all(torch.isfinite(value).all() for value in state.values())


def test_each_block_is_distilled_once_and_the_library_read_afterwards(prepared, workshop):
    made, found = prepared
    again = workshop(SPACE)
    read = SHORT.prepare(again)
    assert (made.calls, again.calls) == ([len(found.start.blocks)], [])
    assert read.proposals == found.proposals
    for key, block in found.start.blocks.items():
        assert read.start.blocks[key]["loss"] == block["loss"]


def test_proposals_are_the_networks_with_the_smallest_sum_of_losses(prepared):
    _, found = prepared
    library = found.start
    losses = [library.loss(architecture) for architecture in found.proposals]
    assert losses == sorted(losses)
    pool = [sample(SPACE, random.Random(seed)) for seed in range(200)]
    known = [a for a in pool if all(key in library.blocks for key in block_keys(SPACE, a, (1, 8, 8), 10, SHORT.taps))]
    assert losses[0] == pytest.approx(min(library.loss(a) for a in known))
    assert found.judge(known[:3]) == [-library.loss(a) for a in known[:3]]


def test_network_begins_with_its_blocks_weights(prepared):
    _, found = prepared
    architecture = found.proposals[0]
    model = build_model(SPACE, architecture, (1, 8, 8), 10, seed=9)
    found.start.inherit(architecture, model)
    for block, key in zip(
        split_at(model, SHORT.taps), block_keys(SPACE, architecture, (1, 8, 8), 10, SHORT.taps), strict=True
    ):
        assert all(torch.equal(block.state_dict()[name], v) for name, v in found.start.blocks[key]["state"].items())


def test_block_that_the_library_lacks_counts_as_the_worst_of_its_stage_and_stays_fresh(prepared):
    made, found = prepared
    few = Library(made.shared, SHORT.taps, dict(list(found.start.blocks.items())[:2]))
    stranger = next(
        a
        for a in (sample(SPACE, random.Random(seed)) for seed in range(99))
        if not any(key in few.blocks for key in block_keys(SPACE, a, (1, 8, 8), 10, SHORT.taps))
    )
    assert np.isfinite(few.loss(stranger))
    model = build_model(SPACE, stranger, (1, 8, 8), 10, seed=9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    few.inherit(stranger, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_constraints_are_kept(workshop):
    assert SHORT.prepare(workshop(SPACE, keeps=lambda architecture: False)).proposals == ()


@pytest.mark.parametrize("space", [ViTSpace(), NASBench101Space(), NASBench201Space()], ids=lambda s: type(s).__name__)
def test_blocks_of_one_key_answer_alike_with_the_same_weights(space):
    by_key = {}
    for seed in range(60):
        architecture = sample(space, random.Random(seed))
        model = build_model(space, architecture, (1, 8, 8), 10, seed=0).eval()
        block, key = split_at(model, ("stage1",))[0], block_keys(space, architecture, (1, 8, 8), 10, ("stage1",))[0]
        by_key.setdefault(key, []).append(block)
    images = torch.rand(2, 1, 8, 8)
    for first, *others in by_key.values():
        for other in others:
            other.load_state_dict(first.state_dict())
            torch.testing.assert_close(other(images), first(images))


@pytest.mark.parametrize("taps", [("stage2", "stage1"), ("stage1", "penultimate")])
def test_taps_that_bound_no_blocks_are_refused(taps):
    with pytest.raises(KdnasError) as caught:
        Blocks(taps=taps).check(SPACE)
    assert caught.value.field == "evaluator.taps"


def test_space_whose_networks_are_no_chain_is_refused():
    with pytest.raises(KdnasError) as caught:
        Blocks().check(DARTSSpace())
    assert caught.value.field == "space"


def test_taps_that_the_students_do_not_have_are_refused():
    with pytest.raises(KdnasError) as caught:
        Blocks(taps=("stage1", "stage9")).check(SPACE)
    assert (caught.value.field, caught.value.value) == ("evaluator.taps", "stage9")


@pytest.mark.parametrize("options", [{"pool": 0}, {"epochs": 0}, {"learning_rate": 0.0}, {"taps": ()}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(KdnasError) as caught:
        Blocks(**options)
    assert caught.value.field == f"evaluator.{next(iter(options))}"
