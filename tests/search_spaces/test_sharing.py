"""Specification of `search_spaces.sharing`, on every space whose architectures can share weights."""

import copy
import pickle
import random

import pytest
import torch
from torch import nn

from search_spaces import SPACES, KdnasError, ResNetSpace, sample
from search_spaces.notation import canonical
from search_spaces.sharing import Mixed, SuperNet, build_picked, check_shares, inherited

ABLE = [name for name in SPACES if hasattr(SPACES[name], "assemble")]
SHAPE = (1, 8, 8)


@pytest.fixture(params=ABLE)
def sharing(request):
    return SPACES[request.param]()


@pytest.fixture
def supernet(sharing) -> SuperNet:
    torch.manual_seed(0)
    net = SuperNet(sharing, SHAPE, 3)
    with torch.no_grad():
        net(torch.rand(8, *SHAPE))  # statistics of batch norm that are not all the same
    return net.eval()


@pytest.mark.parametrize("seed", range(8))
def test_supernet_answers_exactly_as_the_built_network_with_its_weights(supernet, seed):
    space, images = supernet.space, torch.rand(4, *SHAPE)
    architecture = sample(space, random.Random(seed))
    model = space.build(architecture, SHAPE, 3).eval()
    model.load_state_dict(inherited(supernet, architecture, model))
    supernet.set(architecture)
    with torch.no_grad():
        expected, seen = supernet.forward_taps(images, space.taps())
        logits, taps = model.forward_taps(images, space.taps())
    assert torch.equal(logits, expected)
    assert torch.equal(supernet(images), expected)
    assert all(torch.equal(taps[name], seen[name]) for name in space.taps())


def test_supernet_has_the_taps_of_its_space_and_every_place_of_a_choice(supernet):
    space = supernet.space
    assert supernet.taps == space.taps()
    chosen = space.choices(sample(space, random.Random(0)))
    assert chosen.keys() == supernet.places.keys()
    assert all(chosen[place] in names for place, names in supernet.places.items())


def test_discretise_of_what_was_chosen_gives_the_same_network(sharing):
    supernet = SuperNet(sharing, SHAPE, 3)
    for seed in range(20):
        architecture = sample(sharing, random.Random(seed))
        chosen = sharing.choices(architecture)
        weights = {
            place: {name: float(name == chosen[place]) for name in names} for place, names in supernet.places.items()
        }
        again = sharing.discretise(weights)
        assert sharing.choices(again) == chosen
        assert canonical(sharing, again) == canonical(sharing, architecture)


def test_build_is_the_assembly_of_what_was_chosen(sharing):
    architecture = sample(sharing, random.Random(0))
    picked = build_picked(sharing, architecture, SHAPE, 3).state_dict()
    assert sharing.build(architecture, SHAPE, 3).state_dict().keys() == picked.keys()


def test_weights_that_learn_get_a_gradient_at_every_place(supernet):
    weights = {
        place: torch.full((len(names),), 1 / len(names), requires_grad=True) for place, names in supernet.places.items()
    }
    supernet.weigh(weights)
    supernet(torch.rand(4, *SHAPE)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights.values())
    assert any(weight.grad.abs().sum() > 0 for weight in weights.values())


def test_supernet_survives_copying_and_pickling_with_its_choice(supernet):
    images = torch.rand(2, *SHAPE)
    supernet.set(sample(supernet.space, random.Random(1)))
    for again in (copy.deepcopy(supernet), pickle.loads(pickle.dumps(supernet))):  # noqa: S301 (our own bytes)
        assert torch.equal(again(images), supernet(images))
        again.set(sample(supernet.space, random.Random(2)))  # its own choice, not the original's
        assert not torch.equal(again(images), supernet(images))


class Refuses(nn.Module):
    def forward(self, x):
        raise AssertionError("was computed")


def test_mixed_weighs_its_options_and_leaves_out_those_of_weight_0():
    weights = {"here": torch.tensor([0.25, 0.75, 0.0])}
    mixed = Mixed("here", {"a": nn.Identity(), "b.c": nn.ReLU(), "d": Refuses()}, weights)
    x = torch.tensor([-2.0, 2.0])
    torch.testing.assert_close(mixed(x), 0.25 * x + 0.75 * x.relu())
    weights["here"] = torch.tensor([0.0, 1.0, 0.0])
    assert torch.equal(mixed(x), x.relu())


def test_check_shares_names_the_spaces_that_can(sharing):
    assert check_shares(sharing, SPACES, "evaluator") is sharing
    with pytest.raises(KdnasError) as caught:
        check_shares(ResNetSpace(), SPACES, "evaluator")
    assert (caught.value.field, caught.value.value) == ("evaluator", "resnet")
    assert all(name in caught.value.remedy for name in ABLE)
