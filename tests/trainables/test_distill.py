"""Specification of `trainables.distill`: the trainable driven by its public methods, without a Ray cluster."""

import dataclasses
import os

import numpy as np
import pytest
import ray
import torch
from ray import tune

from search_spaces import KdnasError, ResNetSpace, decode
from trainables import bank as banks
from trainables.candidate import Candidate
from trainables.distill import CHECKPOINT, Distill, Shared, open_training, taught_by_itself
from trainables.loop import Normalise, train
from trainables.recipe import Recipe, Term

SPACE = ResNetSpace(stages=2, stem_widths=(4,), widths=(4, 8), depths=(1,), kernels=(3,), blocks=("basic",))
PARAMS = {"stem.width": 4}
for _stage in (1, 2):
    PARAMS |= {f"stage{_stage}.depth": 1, f"stage{_stage}.width": 4, f"stage{_stage}.kernel": 3}
    PARAMS |= {f"stage{_stage}.block": "basic"}
CANDIDATE = Candidate("c0000", decode(SPACE, PARAMS), Recipe(batch_size=32), seed=3)
OTHER = dataclasses.replace(CANDIDATE, id="c0001", seed=4)


@pytest.fixture(scope="module")
def bank(data, task, teacher, normalise):
    return banks.build(data.train, [teacher.model], normalise, augmentation=task.augmentation, views=2, seed=0)


@pytest.fixture
def shared(bank, data, task, tmp_path):
    return Shared(
        bank=bank,
        validation=data.validation,
        task=task,
        space=SPACE,
        mean=data.mean,
        std=data.std,
        classes=10,
        rungs=(1, 2, 4),
        checkpoints=str(tmp_path / "trials"),
        threads=torch.get_num_threads(),
    )


@pytest.fixture
def opened(shared):
    """A trainable as Ray Tune would open it for a candidate."""

    class Local(Distill):
        def setup(self, config, shared=shared):
            super().setup(config, shared)

    made, before = [], ray.is_initialized()

    def opened(candidate=CANDIDATE, **config):
        made.append(Local({"candidate": candidate.to_json(), **config}))
        return made[-1]

    yield opened
    for trainable in made:
        trainable.stop()
    assert ray.is_initialized() == before


@pytest.fixture
def reference(shared, normalise):
    """The curve of a candidate trained in one go by the loop alone."""

    def reference(candidate=CANDIDATE):
        training = open_training(shared, candidate, 4)
        return train(training, shared.bank, shared.validation, shared.task, normalise, 4), training

    return reference


def kept(result) -> dict:
    return {name: result[name] for name in ("epoch", "val_accuracy", "curve", "done")}


def checkpoint(shared, candidate=CANDIDATE):
    return shared.checkpoints + f"/{candidate.id}/{CHECKPOINT}"


def test_steps_go_from_rung_to_rung_and_report_the_curve_of_the_loop(opened, reference):
    curve, _ = reference()
    trainable = opened()
    results = [trainable.train() for _ in range(3)]
    assert [kept(result) for result in results] == [
        {
            "epoch": until,
            "val_accuracy": curve[until - 1]["val_accuracy"],
            "curve": curve[:until],
            "done": until == 4,
        }
        for until in (1, 2, 4)
    ]
    assert 0 < results[0]["train_s"] < results[2]["train_s"]


def test_next_candidate_in_the_same_actor_trains_as_in_its_own(opened, reference):
    trainable = opened()
    trainable.train()
    assert trainable.reset({"candidate": OTHER.to_json()})
    curves = [trainable.train()["curve"] for _ in range(3)]
    assert curves[-1] == reference(OTHER)[0] != reference(CANDIDATE)[0]


def test_another_worker_goes_on_from_the_last_rung(opened, reference):
    first = opened()
    first.train()
    first.train()
    second = opened(reported=2)
    result = second.train()
    assert kept(result)["epoch"] == 4
    assert result["curve"] == reference()[0]
    trained, (_, expected) = second.training.model.state_dict(), reference()
    assert all(torch.equal(trained[name], value) for name, value in expected.model.state_dict().items())


def test_training_taken_up_reports_the_earlier_rungs_again_without_training_them(opened, reference, shared):
    first = opened()
    first.train()
    first.train()
    before = os.stat(checkpoint(shared)).st_ino
    second = opened()
    results = [second.train()]
    assert os.stat(checkpoint(shared)).st_ino == before  # what is known already is not written again
    results += [second.train() for _ in range(2)]
    curve, _ = reference()
    assert [result["curve"] for result in results] == [curve[:1], curve[:2], curve]
    # The first two took no training: their time is the one that the checkpoint brought along.
    assert results[0]["train_s"] == results[1]["train_s"] < results[2]["train_s"]


def test_resumed_trial_starts_at_the_rung_after_the_reported_one_when_its_checkpoint_is_lost(opened, reference):
    assert opened(reported=1).train()["curve"] == reference()[0][:2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-200],
        lambda content: b"",
        lambda content: b"not a checkpoint",
    ],
)
def test_candidate_starts_again_when_its_checkpoint_is_damaged(opened, reference, shared, damage):
    opened().train()
    with open(checkpoint(shared), "r+b") as file:
        content = damage(file.read())
        file.seek(0)
        file.truncate()
        file.write(content)
    trainable = opened(reported=1)
    assert trainable.train()["curve"] == reference()[0][:2]
    assert torch.load(checkpoint(shared), weights_only=True)["curve"] == reference()[0][:2]


def test_candidate_starts_again_when_its_checkpoint_is_of_another_network(opened, shared, reference):
    other = dataclasses.replace(CANDIDATE, architecture=decode(SPACE, {**PARAMS, "stage2.width": 8}))
    opened(other).train()
    assert opened(reported=1).train()["curve"] == reference()[0][:2]


def test_checkpoint_folder_holds_the_checkpoint_and_no_drafts(opened, shared, tmp_path):
    trainable = opened()
    trainable.train()
    trainable.train()
    files = [path for path in (tmp_path / "trials").rglob("*") if path.is_file()]
    assert [str(path) for path in files] == [checkpoint(shared)]
    assert torch.load(files[0], weights_only=True)["curve"] == trainable.training.curve


def test_last_rung_leaves_the_checkpoint_of_the_rung_before(opened, shared):
    trainable = opened()
    for _ in range(3):
        trainable.train()
    assert len(torch.load(checkpoint(shared), weights_only=True)["curve"]) == 2


def test_tune_can_save_and_restore_between_steps(opened, reference, tmp_path, shared):
    first = opened()
    first.train()
    saved = first.save(str(tmp_path / "tune"))
    second = opened()
    second.restore(saved)
    assert second.train()["curve"] == reference()[0][:2]


def test_saving_before_the_first_step_is_possible_and_loads_as_the_beginning(opened, reference, tmp_path):
    opened().save(str(tmp_path / "tune"))
    trainable = opened()
    trainable.load_checkpoint(str(tmp_path / "tune"))
    assert trainable.train()["curve"] == reference()[0][:1]


def test_diverged_candidate_reports_a_failure_and_the_actor_goes_on(opened, reference):
    wild = dataclasses.replace(CANDIDATE, recipe=Recipe(batch_size=32, learning_rate=100.0, weight_decay=1.0))
    trainable = opened(wild)
    result = trainable.train()
    assert result["done"]
    assert "epoch 1" in result["failure"]
    assert "curve" not in result
    trainable.reset({"candidate": OTHER.to_json()})
    assert trainable.train()["curve"] == reference(OTHER)[0][:1]


def test_candidate_that_cannot_be_trained_reports_the_reason(opened, tmp_path):
    asks = dataclasses.replace(CANDIDATE, recipe=Recipe(terms=(Term("hint", 1.0, "stage2"),)))
    result = opened(asks).train()
    assert result["done"]
    assert result["failure"].startswith("KdnasError: recipe.terms.tap = 'stage2': the bank does not hold this tap")
    assert not list(tmp_path.rglob(CHECKPOINT))


def test_open_training_lays_the_weights_out_as_asked(shared):
    plain, last = (
        open_training(dataclasses.replace(shared, channels_last=asked), CANDIDATE, 4).model for asked in (False, True)
    )
    weights = [model.parts["stage1"][0].body[0][0].weight for model in (plain, last)]
    assert not weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weights[0], weights[1])


def test_open_training_raises_when_the_recipe_asks_for_what_the_bank_lacks(shared):
    asks = dataclasses.replace(CANDIDATE, recipe=Recipe(terms=(Term("hint", 1.0, "stage2"),)))
    with pytest.raises(KdnasError):
        open_training(shared, asks, 4)


def test_distill_is_a_class_trainable_of_ray_tune():
    assert issubclass(Distill, tune.Trainable)


def test_student_taught_by_itself_learns_from_its_own_answers(shared):
    first = open_training(shared, CANDIDATE, 4)
    train(first, shared.bank, shared.validation, shared.task, Normalise(shared.mean, shared.std), 1)
    again = taught_by_itself(shared, first.model)
    batch = shared.bank.batch(np.arange(20), 1, shared.bank.transforms(1))
    with torch.no_grad():
        said = first.model.eval()(Normalise(shared.mean, shared.std)(batch.images))
    np.testing.assert_allclose(again.bank.logits[1, 0, :20], said.numpy(), atol=2e-2)
    heir = open_training(again, dataclasses.replace(CANDIDATE, recipe=CANDIDATE.recipe.for_own_answers()), 4)
    curve = train(heir, again.bank, shared.validation, shared.task, Normalise(shared.mean, shared.std), 4)
    assert curve[-1]["val_accuracy"] > 0.2


def test_candidate_with_mutual_learning_trains_beside_a_peer_of_other_weights(shared):
    recipe = dataclasses.replace(CANDIDATE.recipe, mutual=1.0)
    training = open_training(shared, dataclasses.replace(CANDIDATE, recipe=recipe), 4)
    own, peer = (next(model.parameters()) for model in (training.model, training.projectors["peer"]))
    assert own.shape == peer.shape
    assert not torch.equal(own, peer)


MATES = [
    dataclasses.replace(CANDIDATE, id=f"c000{place}", seed=10 + place, recipe=Recipe(batch_size=32, alpha=0.2 * place))
    for place in (2, 3)
]


def test_mates_are_trained_beside_the_candidate_and_report_at_once_in_trials_of_their_own(opened, shared, reference):
    packed = dataclasses.replace(shared, pack="always")
    trainable = opened(mates=[mate.to_json() for mate in MATES])
    trainable.shared = packed
    first = trainable.train()
    assert first["curve"][0] == pytest.approx(reference()[0][0], abs=0.01)
    for mate in MATES:
        assert trainable.reset({"candidate": mate.to_json()})
        written = os.stat(checkpoint(shared, mate)).st_mtime_ns
        result = trainable.train()
        assert result["epoch"] == 1
        assert result["train_s"] == first["train_s"]  # of the pack, shared equally
        assert os.stat(checkpoint(shared, mate)).st_mtime_ns == written
        assert trainable.training is None  # no network was made for it
        for point, wanted in zip(trainable.train()["curve"], reference(mate)[0][:2], strict=True):
            assert point == pytest.approx(wanted, rel=0.01, abs=0.01)


def test_mates_stand_at_a_later_rung_then_all_go_on_from_there(opened, shared, reference):
    trainable = opened(mates=[mate.to_json() for mate in MATES])
    trainable.shared = dataclasses.replace(shared, pack="always")
    trainable.train()
    trainable.reset({"candidate": CANDIDATE.to_json(), "reported": 1, "mates": [mate.to_json() for mate in MATES]})
    assert trainable.train()["epoch"] == 2
    trainable.reset({"candidate": MATES[1].to_json(), "reported": 1})
    result = trainable.train()
    assert result["epoch"] == 2
    assert result["curve"][-1] == pytest.approx(reference(MATES[1])[0][1], rel=0.01, abs=0.01)


def test_mates_where_packs_are_not_wanted_are_left_to_their_own_trials(opened, shared):
    trainable = opened(mates=[mate.to_json() for mate in MATES])
    trainable.shared = dataclasses.replace(shared, pack="never")
    trainable.train()
    assert os.path.exists(checkpoint(shared))
    assert not os.path.exists(checkpoint(shared, MATES[0]))


def test_mates_that_cannot_train_as_one_are_left_to_their_own_trials(opened, shared, reference):
    peer = dataclasses.replace(MATES[0], recipe=Recipe(batch_size=32, mutual=1.0))
    trainable = opened(mates=[peer.to_json()])
    trainable.shared = dataclasses.replace(shared, pack="always")
    assert trainable.train()["curve"] == reference()[0][:1]
    assert not os.path.exists(checkpoint(shared, peer))


def test_mates_of_which_one_is_broken_cost_the_candidate_nothing(opened, shared, reference):
    broken = dataclasses.replace(MATES[0], recipe=Recipe(batch_size=32, terms=(Term("kd", tap="nowhere"),)))
    trainable = opened(mates=[broken.to_json(), MATES[1].to_json()])
    trainable.shared = dataclasses.replace(shared, pack="always")
    assert trainable.train()["curve"] == reference()[0][:1]
