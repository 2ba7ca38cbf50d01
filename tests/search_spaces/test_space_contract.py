"""Specification that every search space keeps, a user's own included."""

import json
import math
import pickle
import random
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace

import optuna
import pytest
import torch

from search_spaces import (
    SPACES,
    Architecture,
    KdnasError,
    crossover,
    decode,
    features,
    mutate,
    neighbours,
    sample,
    tap_shapes,
)
from search_spaces.notation import canonical, notation, parse

SEEDS = range(20)
SHAPES = [(1, 8, 8), (3, 9, 7)]


def drawn(space, seed: int = 0) -> Architecture:
    return sample(space, random.Random(seed))


def answers_classes(space) -> bool:
    """Whether networks answer with a row of numbers an image, not with boxes."""
    return getattr(space, "answers", "classes") == "classes"


def parameters(space, architecture: Architecture) -> int:
    return sum(parameter.numel() for parameter in space.build(architecture, (1, 8, 8), 3).parameters())


@pytest.mark.parametrize("seed", SEEDS)
def test_decode_of_a_sampled_architecture_gives_it_back(space, seed):
    architecture = drawn(space, seed)
    assert decode(space, architecture.to_json()) == architecture


def test_sample_repeats_with_the_seed_and_differs_between_seeds(space):
    assert drawn(space, 3) == drawn(space, 3)
    assert len({drawn(space, seed) for seed in SEEDS}) > 1


def test_suggest_and_decode_agree_when_optuna_asks(space):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        architecture = space.suggest(trial)
        assert architecture.to_json() == trial.params
        assert decode(space, trial.params) == architecture
        assert space.suggest(optuna.trial.FixedTrial(trial.params)) == architecture
        study.tell(trial, 0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_sampled_mutated_and_crossed_architectures_are_ones_that_optuna_accepts(space, seed):
    rng = random.Random(seed)
    first, second = sample(space, rng), sample(space, rng)
    for architecture in (first, mutate(space, first, rng), crossover(space, first, second, rng)):
        assert space.suggest(optuna.trial.FixedTrial(architecture.to_json())) == architecture


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(6))
def test_built_network_answers_with_logits_and_every_declared_tap(space, seed, shape):
    model = space.build(drawn(space, seed), shape, 5).eval()
    images = torch.rand(3, *shape)
    logits = model(images)
    answer, seen = model.forward_taps(images, space.taps())
    assert logits.shape == ((3, 5) if answers_classes(space) else (3, logits.shape[1], 5 + 5))
    assert torch.equal(answer, logits)
    assert tuple(model.taps) == tuple(space.taps())
    assert list(seen) == list(space.taps())
    assert torch.equal(seen["logits"], logits)
    assert all(value.shape[0] == 3 and value.dim() in (2, 4) for name, value in seen.items() if name != "logits")
    assert tap_shapes(model, shape, space.taps()) == {name: tuple(value.shape[1:]) for name, value in seen.items()}


@pytest.mark.parametrize("seed", range(6))
def test_built_network_learns_a_batch_and_sends_a_gradient_to_every_parameter(space, seed):
    torch.manual_seed(seed)
    model = space.build(drawn(space, seed), (1, 8, 8), 5)
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 5
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images).flatten(1), labels)
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[5:]) < losses[0]


def test_built_networks_have_the_same_weights_when_the_seed_is_the_same(space):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(space.build(drawn(space), (1, 8, 8), 5).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_mutate_changes_the_parent_and_stays_inside_the_space(space, seed):
    rng = random.Random(seed)
    parent = sample(space, rng)
    child = mutate(space, parent, rng)
    assert child != parent
    assert decode(space, child.to_json()) == child


def test_mutate_reaches_every_decision(space):
    parent, rng = drawn(space), random.Random(0)
    children = [mutate(space, parent, rng) for _ in range(300)]
    changed = {name for child in children for name in parent if child.get(name) != parent[name]}
    assert changed == set(parent)


@pytest.mark.parametrize("seed", SEEDS)
def test_crossover_takes_shared_decisions_from_a_parent_and_stays_inside_the_space(space, seed):
    rng = random.Random(seed)
    first, second = sample(space, rng), sample(space, rng)
    child = crossover(space, first, second, rng)
    assert decode(space, child.to_json()) == child
    assert all(value in (first.get(name), second.get(name)) for name, value in child.items())


def test_crossover_of_an_architecture_with_itself_is_itself(space):
    parent = drawn(space)
    assert crossover(space, parent, parent, random.Random(0)) == parent


def test_neighbours_differ_from_the_architecture_and_from_each_other_and_repeat(space):
    architecture = drawn(space)
    found = neighbours(space, architecture)
    assert found == neighbours(space, architecture)
    assert len(set(found)) == len(found) > 0
    assert architecture not in found
    assert all(decode(space, near.to_json()) == near for near in found)


def test_features_lie_between_0_and_1_and_have_one_length_for_the_same_decisions(space):
    lengths: dict[tuple[str, ...], int] = {}
    for seed in SEEDS:
        architecture = drawn(space, seed)
        row = features(space, architecture)
        assert all(math.isfinite(value) and 0 <= value <= 1 for value in row)
        assert lengths.setdefault(tuple(architecture), len(row)) == len(row)


def test_features_differ_for_every_neighbour(space):
    architecture = drawn(space)
    rows = [tuple(features(space, near)) for near in neighbours(space, architecture)]
    assert tuple(features(space, architecture)) not in rows


def test_architecture_survives_json_with_its_hash_and_digest(space):
    architecture = drawn(space)
    again = Architecture.of(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert again.digest() == architecture.digest()


def test_digest_differs_for_every_neighbour(space):
    found = [drawn(space), *neighbours(space, drawn(space))]
    assert len({architecture.digest() for architecture in found}) == len(found)


def test_parse_of_a_notation_gives_a_network_with_the_same_notation(space):
    for seed in range(100):
        architecture = drawn(space, seed)
        text = notation(space, architecture)
        again = parse(space, text)
        assert decode(space, again.to_json()) == again
        assert notation(space, again) == text
        assert canonical(space, again) == canonical(space, architecture)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "|", "resnet", "{}", "+", "()", "\0", "(" * 500])
def test_parse_raises_with_the_text_when_it_is_malformed(space, text):
    with pytest.raises(KdnasError) as caught:
        parse(space, text)
    assert str(caught.value.field).startswith("architecture")
    assert caught.value.remedy


@pytest.mark.parametrize("seed", range(6))
def test_architectures_of_one_canonical_form_build_networks_of_one_size(space, seed):
    architecture = drawn(space, seed)
    form, size = canonical(space, architecture), parameters(space, architecture)
    for near in neighbours(space, architecture):
        if canonical(space, near) == form:
            assert parameters(space, near) == size


def test_decode_raises_with_the_field_when_a_decision_is_missing(space):
    params = drawn(space).to_json()
    first = next(iter(params))
    del params[first]
    with pytest.raises(KdnasError) as caught:
        decode(space, params)
    assert caught.value.field == f"architecture.{first}"
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["no such choice", -1, float("nan"), None, [], 1e9])
def test_decode_raises_with_the_field_and_value_when_a_decision_is_outside_its_range(space, value):
    params = drawn(space).to_json()
    for name in params:
        with pytest.raises(KdnasError) as caught:
            decode(space, {**params, name: value})
        assert caught.value.field == f"architecture.{name}"
        assert caught.value.value is value
        assert caught.value.remedy


def test_decode_raises_with_the_field_and_the_known_ones_when_a_decision_is_unknown(space):
    architecture = drawn(space)
    with pytest.raises(KdnasError) as caught:
        decode(space, {**architecture, "colour": "red"})
    assert caught.value.field == "architecture.colour"
    assert all(name in caught.value.remedy for name in architecture)


def test_space_is_a_frozen_dataclass(space):
    assert is_dataclass(space)
    assert hash(space) == hash(replace(space))
    for field in fields(space):
        with pytest.raises(FrozenInstanceError):
            setattr(space, field.name, None)


def test_options_are_json_from_which_the_same_space_is_made(space):
    assert type(space)(**listless(json.loads(json.dumps(asdict(space))))) == space


def listless(options: dict) -> dict:
    """What the configuration does for options read from YAML: a list where the field is a tuple becomes one."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


@pytest.mark.parametrize("name", SPACES)
def test_registered_space_survives_pickling(name):
    space = SPACES[name]()
    again = pickle.loads(pickle.dumps(space))  # noqa: S301 (our own bytes)
    assert again == space
    assert hash(again) == hash(space)
    assert drawn(again) == drawn(space)


@pytest.mark.parametrize("name", SPACES)
def test_registered_space_documents_its_source_and_every_option(name):
    text = SPACES[name].__doc__
    assert "Source: " in text
    assert all(f"{field.name}: " in text for field in fields(SPACES[name]))


def test_spaces_work_where_nothing_else_of_ours_is_imported():
    code = """
import random, sys, torch, search_spaces
for name, Space in search_spaces.SPACES.items():
    architecture = search_spaces.sample(Space(), random.Random(0))
    assert len(Space().build(architecture, (1, 8, 8), 3)(torch.rand(2, 1, 8, 8))) == 2
print({"trainables", "kdnas_ray", "optuna", "ray", "mlflow", "pydantic"} & set(sys.modules))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
