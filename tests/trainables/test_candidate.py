"""Specification of `trainables.candidate`."""

import json
import random

import pytest
import torch

from search_spaces import SPACES, Architecture, KdnasError, sample
from trainables.candidate import Candidate, build_model
from trainables.recipe import Recipe, Temperature, Term

CANDIDATE = Candidate(
    "c0007",
    Architecture.of({"stem.width": 8, "stage1.block": "basic"}),
    Recipe(0.4, Temperature("linear", 8.0, 1.0), (Term("kd"), Term("hint", 0.5, "stage2"))),
    seed=11,
)


def test_candidate_survives_json():
    again = Candidate.from_json(json.loads(json.dumps(CANDIDATE.to_json())))
    assert again == CANDIDATE
    assert hash(again) == hash(CANDIDATE)


def test_candidate_is_read_from_a_row_that_holds_more():
    assert Candidate.from_json({**CANDIDATE.to_json(), "state": "complete", "val_accuracy": 0.9}) == CANDIDATE


@pytest.mark.parametrize("name", ["../../outside", "..", ".hidden", "a/b", "", "c0001\n", 7, None])
def test_candidate_whose_id_could_lead_out_of_the_run_is_refused(name):
    with pytest.raises(KdnasError, match="no id of a candidate"):
        Candidate.from_json({**CANDIDATE.to_json(), "id": name})


def test_build_model_depends_on_the_seed_alone_and_leaves_the_global_generator_alone():
    for name in SPACES:
        space = SPACES[name]()
        architecture = sample(space, random.Random(0))
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        first = build_model(space, architecture, (1, 8, 8), 10, seed=1).state_dict()
        assert torch.equal(torch.rand(3), expected)
        again, other = (build_model(space, architecture, (1, 8, 8), 10, seed=seed).state_dict() for seed in (1, 2))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)
