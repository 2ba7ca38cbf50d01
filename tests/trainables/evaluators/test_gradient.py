"""Specification of `trainables.evaluators.gradient`: what the gradient chooses becomes the first candidates."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import DARTSSpace, KdnasError, MobileNetSpace, NASBench201Space, NASBenchMacroSpace
from trainables.evaluators import Gradient
from trainables.evaluators.gradient import METHODS, learn_architecture, mixture, option_flops
from trainables.evaluators.supernet import new_supernet

SHORT = Gradient(epochs=2, batch_size=32)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_chooses_an_architecture_an_epoch_and_repeats(method, shared):
    settings = dataclasses.replace(SHORT, method=method)
    chosen, told = learn_architecture(shared, settings, 0)
    assert len(chosen) == 2
    assert "Gradient search" in told
    assert learn_architecture(shared, settings, 0)[0] == chosen
    for architecture in chosen:
        shared.space.build(architecture, (1, 8, 8), 10)


@pytest.mark.parametrize(
    "space", [DARTSSpace(width=2, cells=3), NASBenchMacroSpace(4, (4, 6, 8), (1, 1, 1), 0)], ids=["darts", "macro"]
)
def test_every_space_that_shares_can_be_relaxed(space, shared):
    chosen, _ = learn_architecture(dataclasses.replace(shared, space=space), dataclasses.replace(SHORT, epochs=1), 0)
    space.build(chosen[0], (1, 8, 8), 10)


def test_second_order_looks_a_step_ahead(shared):
    """On one batch for both halves the look-ahead changes the gradient of the architecture weights."""
    chosen = {}
    for method in ("first_order", "second_order"):
        settings = dataclasses.replace(SHORT, method=method, epochs=6, architecture_rate=0.1)
        chosen[method] = learn_architecture(shared, settings, 0)[0]
    assert chosen["first_order"] != chosen["second_order"]


def test_price_of_flops_makes_the_choice_cheaper(shared):
    def flops(settings):
        architecture = learn_architecture(shared, settings, 0)[0][-1]
        with FlopCounterMode(display=False) as counter:
            shared.space.build(architecture, (1, 8, 8), 10).eval()(torch.zeros(1, 1, 8, 8))
        return counter.get_total_flops()

    free = dataclasses.replace(SHORT, epochs=6, architecture_rate=0.1)
    assert flops(dataclasses.replace(free, flops=20.0)) < flops(free)


def test_flops_of_an_option_are_those_of_the_networks_that_differ_in_it(shared):
    space = NASBench201Space(width=4)
    net = new_supernet(shared, 0)
    found = option_flops(net, shared)
    place = next(iter(net.places))

    def whole(option):
        with FlopCounterMode(display=False) as counter:
            model = space.assemble((1, 8, 8), 10, lambda name, options: options[option if name == place else "none"]())
            model.eval()(torch.zeros(1, 1, 8, 8))
        return counter.get_total_flops()

    wide, narrow = (net.places[place].index(name) for name in ("nor_conv_3x3", "nor_conv_1x1"))
    assert found[place][wide] - found[place][narrow] == whole("nor_conv_3x3") - whole("nor_conv_1x1") > 0


@pytest.mark.parametrize("method", METHODS)
def test_mixture_sums_to_one_and_gumbel_takes_one_option(method):
    torch.manual_seed(0)
    raw = {"a": torch.randn(5), "b": torch.randn(3)}
    weights = mixture(raw, dataclasses.replace(SHORT, method=method), 0.5)
    assert all(float(w.sum()) == pytest.approx(1) for w in weights.values())
    assert (method == "gumbel") == all(float(w.max()) == 1 for w in weights.values())


def test_proposals_are_distinct_keep_the_constraints_and_are_learned_once(workshop):
    made = workshop()
    settings = dataclasses.replace(SHORT, epochs=3)
    found = settings.prepare(made).proposals
    assert len(found) == len(set(found)) >= 1
    assert settings.prepare(again := workshop()).proposals == found
    assert (made.calls, again.calls) == ([1], [])
    assert settings.prepare(workshop(keeps=lambda architecture: False)).proposals == ()


def test_space_that_cannot_be_relaxed_is_refused_with_those_that_can():
    with pytest.raises(KdnasError) as caught:
        Gradient().check(MobileNetSpace())
    assert "darts" in caught.value.remedy


@pytest.mark.parametrize("options", [{"method": "x"}, {"epochs": 0}, {"flops": -1.0}, {"heat": 0.0}, {"alpha": 1.5}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(KdnasError) as caught:
        Gradient(**options)
    assert caught.value.field == f"evaluator.{next(iter(options))}"
