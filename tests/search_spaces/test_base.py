"""Specification of `search_spaces.base`: architectures, tapped and foreign models, stepped and whole ranges."""

import copy
import pickle
import random

import pytest
import torch
from torch import nn

from search_spaces import (
    Architecture,
    ForeignModel,
    KdnasError,
    TappedModel,
    decode,
    features,
    mutate,
    neighbours,
    sample,
    tap_shapes,
)


class OneChoice:
    """A space of a single architecture."""

    def suggest(self, trial):
        return Architecture.of({"width": trial.suggest_categorical("width", (8,))})


class Ranges:
    """One decision of each kind."""

    def suggest(self, trial):
        return Architecture.of(
            {
                "word": trial.suggest_categorical("word", ("a", "b", "c")),
                "whole": trial.suggest_int("whole", 2, 10, step=4),
                "step": trial.suggest_float("step", 0.1, 0.7, step=0.2),
                "real": trial.suggest_float("real", -1.0, 3.0),
            }
        )


MIDDLE = {"word": "b", "whole": 6, "step": 0.5, "real": 1.0}


def test_architecture_reads_like_a_mapping_in_the_order_of_its_decisions():
    architecture = Architecture.of({"b": 1, "a": "x"})
    assert list(architecture) == ["b", "a"]
    assert dict(architecture) == architecture.to_json() == {"b": 1, "a": "x"}
    assert (len(architecture), architecture["a"], architecture.get("c")) == (2, "x", None)
    with pytest.raises(KeyError):
        architecture["c"]


def test_architecture_digest_is_the_same_on_every_machine_and_in_every_order():
    # The first digits of sha256 of the text [["a", 1], ["b", "x"]].
    assert Architecture.of({"a": 1, "b": "x"}).digest() == "9385b6860b98efb5"
    assert Architecture.of({"b": "x", "a": 1}).digest() == "9385b6860b98efb5"


def test_architecture_survives_pickling():
    architecture = Architecture.of({"a": 1, "b": "x"})
    assert pickle.loads(pickle.dumps(architecture)) == architecture  # noqa: S301 (our own bytes)


def test_sample_draws_every_value_of_every_range():
    drawn = [sample(Ranges(), random.Random(seed)) for seed in range(200)]
    assert {a["word"] for a in drawn} == {"a", "b", "c"}
    assert {a["whole"] for a in drawn} == {2, 6, 10}
    assert sorted({round(a["step"], 6) for a in drawn}) == [0.1, 0.3, 0.5, 0.7]
    assert all(-1 <= a["real"] <= 3 and 0.1 <= a["step"] <= 0.7 for a in drawn)


def test_neighbours_list_each_other_value_of_one_decision():
    found = neighbours(Ranges(), decode(Ranges(), MIDDLE))
    # 2 words, 2 whole numbers, 3 steps, 10 evenly spaced reals (none of which is 1.0).
    assert len(found) == 2 + 2 + 3 + 10
    assert all(sum(near[name] != MIDDLE[name] for name in MIDDLE) == 1 for near in found)


def test_features_are_one_hot_for_words_and_scaled_for_numbers():
    row = features(Ranges(), decode(Ranges(), MIDDLE))
    assert row == pytest.approx([0, 1, 0, 0.5, 0.4 / 0.6, 0.5])


def test_features_of_a_range_of_one_value_are_0():
    class Fixed:
        def suggest(self, trial):
            return Architecture.of({"n": trial.suggest_int("n", 3, 3), "x": trial.suggest_float("x", 0.5, 0.5)})

    architecture = sample(Fixed(), random.Random(0))
    assert dict(architecture) == {"n": 3, "x": 0.5}
    assert features(Fixed(), architecture) == [0.0, 0.0]
    assert neighbours(Fixed(), architecture) == []


def test_decode_writes_a_number_as_its_range_does_so_that_digests_agree():
    plain = decode(Ranges(), MIDDLE)
    for name, value in (("whole", 6.0), ("step", 0.1 + 2 * 0.2), ("real", 1)):
        other = decode(Ranges(), {**MIDDLE, name: value})
        assert other.digest() == plain.digest()


@pytest.mark.parametrize(("name", "value"), [("whole", 5), ("whole", True), ("step", 0.4), ("real", "1.0")])
def test_decode_refuses_what_lies_between_the_steps_or_is_no_number(name, value):
    with pytest.raises(KdnasError, match=rf"architecture\.{name}"):
        decode(Ranges(), {**MIDDLE, name: value})


def test_mutate_gives_the_parent_when_the_space_holds_nothing_else():
    only = sample(OneChoice(), random.Random(0))
    assert mutate(OneChoice(), only, random.Random(0)) == only
    assert neighbours(OneChoice(), only) == []


def test_mutate_keeps_later_decisions_where_they_fit_and_draws_missing_ones(own_space):
    parent = Architecture.of({"layers": 2, "width1": 8, "width2": 12, "dropout": 0.2, "scale": 1.0, "act": "gelu"})
    grown = next(near for near in neighbours(own_space, parent) if near["layers"] == 3)
    shrunk = next(near for near in neighbours(own_space, parent) if near["layers"] == 1)
    kept = {"width1": 8, "width2": 12, "dropout": 0.2, "scale": 1.0, "act": "gelu"}
    assert {name: grown[name] for name in kept} == kept
    assert grown["width3"] in (4, 8, 12)
    assert "width2" not in shrunk


def tapped() -> TappedModel:
    parts = {"stem": nn.Conv2d(1, 2, 3), "stage1": nn.Conv2d(2, 4, 3, stride=2)}
    return TappedModel(parts, features=4, classes=3)


def test_tapped_model_taps_its_parts_its_pooled_features_and_its_logits():
    model, images = tapped(), torch.rand(2, 1, 9, 9)
    logits, seen = model.forward_taps(images, ("stage1", "penultimate", "logits"))
    stage = model.parts["stage1"](model.parts["stem"](images))
    pooled = stage.mean(dim=(2, 3))
    assert model.taps == ("stage1", "penultimate", "logits")
    torch.testing.assert_close(seen["stage1"], stage)
    torch.testing.assert_close(seen["penultimate"], pooled)
    torch.testing.assert_close(logits, pooled @ model.classifier.weight.T + model.classifier.bias)
    torch.testing.assert_close(model(images), logits)


def test_tap_shapes_leave_weights_statistics_and_mode_as_they_are():
    model = TappedModel({"stage1": nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))}, features=4, classes=3)
    for training in (True, False):
        model.train(training)
        before = copy.deepcopy(model.state_dict())
        shapes = tap_shapes(model, (1, 9, 7), ["stage1", "penultimate"])
        assert shapes == {"stage1": (4, 7, 5), "penultimate": (4,)}
        assert model.training is training
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def foreign() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(256, 3))


def test_foreign_model_reads_the_named_submodules():
    module, images = foreign(), torch.rand(2, 1, 8, 8)
    model = ForeignModel(module, {"stage1": "0", "hidden": "1.0"})
    logits, seen = model.forward_taps(images, ("hidden", "stage1", "logits"))
    assert model.taps == ("stage1", "hidden", "logits")
    torch.testing.assert_close(seen["stage1"], module[0](images))
    torch.testing.assert_close(seen["hidden"], module[0](images).relu())
    torch.testing.assert_close(logits, module(images))
    torch.testing.assert_close(seen["logits"], model(images))


def test_foreign_model_passes_the_gradient_of_a_tap():
    module = foreign()
    _, seen = ForeignModel(module, {"stage1": "0"}).forward_taps(torch.rand(2, 1, 8, 8), ("stage1",))
    seen["stage1"].sum().backward()
    assert module[0].weight.grad is not None
    assert module[2].weight.grad is None


def test_foreign_model_keeps_no_activation_and_no_hook_after_a_call():
    module = foreign()
    model = ForeignModel(module, {"stage1": "0"})
    model(torch.rand(2, 1, 8, 8))
    model.forward_taps(torch.rand(2, 1, 8, 8), ("stage1",))
    assert not any(part._forward_hooks for part in module.modules())
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))  # noqa: S301 (our own bytes)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(again(images), model(images))


def test_foreign_model_removes_its_hooks_when_the_module_raises():
    module = foreign()
    model = ForeignModel(module, {"stage1": "0"})
    with pytest.raises(RuntimeError):
        model.forward_taps(torch.rand(2, 1, 5, 5), ("stage1",))
    assert not any(part._forward_hooks for part in module.modules())


def test_foreign_model_refuses_an_unknown_submodule_and_lists_the_known():
    with pytest.raises(KdnasError, match=r"taps\.stage1 = 'layer9'") as caught:
        ForeignModel(foreign(), {"stage1": "layer9"})
    assert "1.0" in caught.value.remedy


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.idle, self.head = nn.LSTM(8, 4, batch_first=True), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x[:, 0])[0][:, -1])


@pytest.mark.parametrize(("path", "problem"), [("idle", "was not called"), ("rnn", "answers with a tuple")])
def test_foreign_model_says_what_is_wrong_when_a_tap_gives_no_tensor(path, problem):
    model = ForeignModel(Odd(), {"stage1": path})
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(KdnasError, match=problem) as caught:
        model.forward_taps(torch.rand(2, 1, 8, 8), ("stage1",))
    assert caught.value.field == "taps.stage1"
