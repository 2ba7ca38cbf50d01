"""Specification of `trainables.loop`: real trainings of a small student on a part of the digits."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import KdnasError, Registry
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables import terms
from trainables.bank import Bank
from trainables.ensembles import ENSEMBLES
from trainables.loop import DivergedError, Normalise, evaluate, start, train
from trainables.losses import LOSSES, Loss
from trainables.recipe import Recipe, Temperature, Term
from trainables.tasks.base import MultiLabel, Regression, Split, keep_labels

KD = Recipe(learning_rate=0.1, batch_size=32)
HINTED = dataclasses.replace(KD, terms=(Term("kd"), Term("hint", 0.5, "stage2")))
PLAIN = KD.without_teacher()


@pytest.fixture(scope="module")
def bank(data, task, teacher, normalise):
    return banks.build(
        data.train,
        [teacher.model],
        normalise,
        augmentation=task.augmentation,
        views=2,
        seed=0,
        taps=("stage1", "stage2", "penultimate"),
    )


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_resnet(resnet_architecture(4, (4, 8), (1, 1)), (1, 8, 8), 10)


@pytest.fixture
def begin(bank):
    def begin(recipe=KD, *, seed=0, total_epochs=3, bank=bank):
        return start(student(seed), recipe, bank, seed=seed, total_epochs=total_epochs)

    return begin


@pytest.fixture
def go(bank, data, task, normalise):
    def go(training, until, bank=bank):
        return train(training, bank, data.validation, task, normalise, until)

    return go


def weights(training) -> dict[str, torch.Tensor]:
    return {**training.model.state_dict(), **training.projectors.state_dict(prefix="projector.")}


def equal(first, second) -> bool:
    a, b = weights(first), weights(second)
    return first.curve == second.curve and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_raises_accuracy_and_lowers_the_loss(begin, go, data, task, normalise):
    training = begin(total_epochs=12)
    _, before = evaluate(training.model, data.validation, task, normalise)
    curve = go(training, 12)
    assert [point["epoch"] for point in curve] == list(range(1, 13))
    assert curve[-1]["val_accuracy"] > max(0.6, before + 0.3)
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert curve[-1]["val_loss"] < curve[0]["val_loss"]
    assert training.epoch == 12
    assert training.train_s > 0
    loss, accuracy = evaluate(training.model, data.validation, task, normalise)
    assert (loss, accuracy) == (curve[-1]["val_loss"], curve[-1]["val_accuracy"])


@pytest.mark.parametrize("recipe", [PLAIN, KD, HINTED], ids=["labels", "kd", "hint"])
def test_training_repeats_bit_for_bit_when_the_seed_is_the_same(begin, go, recipe):
    first, second, other = begin(recipe), begin(recipe), begin(recipe, seed=1)
    torch.manual_seed(99)  # nothing may depend on the global generator
    for training in (first, second, other):
        go(training, 1)
        torch.rand(3)
    assert equal(first, second)
    assert not equal(first, other)


@pytest.mark.parametrize("recipe", [PLAIN, KD, HINTED], ids=["labels", "kd", "hint"])
def test_training_in_two_parts_through_a_file_equals_training_in_one_go(begin, go, recipe):
    recipe = dataclasses.replace(recipe, temperature=Temperature("linear", 6.0, 1.0))
    whole, part = begin(recipe), begin(recipe)
    go(whole, 3)
    go(part, 1)
    file = io.BytesIO()
    torch.save(part.state(), file)
    file.seek(0)
    go(part, 2)  # the saved state is of the moment it was saved
    taken_up = begin(recipe)
    taken_up.restore(torch.load(file, weights_only=True))
    assert taken_up.epoch == 1
    go(taken_up, 3)
    assert equal(taken_up, whole)


def test_train_does_nothing_when_the_epoch_is_reached_already(begin, go):
    training = begin()
    curve = list(go(training, 1))
    spent, before = training.train_s, {name: value.clone() for name, value in weights(training).items()}
    assert go(training, 1) == curve
    assert training.train_s == spent
    assert all(torch.equal(before[name], value) for name, value in weights(training).items())


def test_train_raises_and_keeps_the_curve_so_far_when_the_loss_is_not_finite(begin, go):
    training = begin(dataclasses.replace(KD, learning_rate=100.0, weight_decay=1.0), total_epochs=2)
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) in epoch 1"):
        go(training, 2)
    assert training.curve == []


def test_alpha_0_trains_exactly_as_the_recipe_without_teacher(begin, go):
    without_weight = begin(dataclasses.replace(KD, alpha=0.0))
    plain = begin(PLAIN)
    go(without_weight, 2)
    go(plain, 2)
    assert equal(without_weight, plain)


def test_alpha_1_does_not_read_the_labels(begin, go, bank):
    recipe = dataclasses.replace(KD, alpha=1.0)
    other = dataclasses.replace(bank, labels=np.zeros_like(bank.labels))
    first, second = begin(recipe), begin(recipe)
    go(first, 1)
    go(second, 1, bank=other)
    assert equal(first, second)


def test_first_loss_is_the_weighted_sum_of_kd_and_cross_entropy(begin, go, bank, normalise):
    # One batch of all samples: the epoch's loss is that of the untrained student, computed here in numpy.
    recipe = dataclasses.replace(KD, alpha=0.6, batch_size=len(bank), temperature=Temperature("constant", 4.0))
    recipe = dataclasses.replace(recipe, terms=(Term("kd", 0.25), Term("kd", 1.5)))
    training = begin(recipe)
    with torch.no_grad():
        images = normalise(torch.from_numpy(bank.images))
        logits = training.model.train()(images).double().numpy()
    training = begin(recipe)  # fresh statistics of batch norm

    def log_softmax(x):
        x = x - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    teacher = log_softmax(bank.logits[0, 0].astype(np.float64) / 4)
    kd = 16 * (np.exp(teacher) * (teacher - log_softmax(logits / 4))).sum(axis=1).mean()
    ce = -log_softmax(logits)[np.arange(len(bank)), bank.labels].mean()
    assert go(training, 1)[0]["train_loss"] == pytest.approx(0.6 * 1.75 * kd + 0.4 * ce, rel=1e-4)


def test_several_teachers_that_agree_teach_as_one_and_a_share_of_0_leaves_one_out(begin, go, bank):
    opposite = dataclasses.replace(bank, logits=np.concatenate([bank.logits, -bank.logits], axis=1))
    alike = dataclasses.replace(bank, logits=np.concatenate([bank.logits, bank.logits], axis=1))
    alone, agreed, left_out = (
        begin(),
        begin(bank=alike),
        begin(dataclasses.replace(KD, teacher_shares=(1.0, 0.0)), bank=opposite),
    )
    misled = begin(bank=opposite)
    losses = [
        go(training, 1, bank=own)[0]["train_loss"]
        for training, own in ((alone, bank), (agreed, alike), (left_out, opposite), (misled, opposite))
    ]
    assert losses[1:3] == pytest.approx([losses[0]] * 2, rel=1e-4)
    assert losses[3] != pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_every_ensemble_repeats_exactly(ensemble, begin, go, bank):
    two = dataclasses.replace(bank, logits=np.concatenate([bank.logits, -bank.logits], axis=1))
    first, second = (begin(dataclasses.replace(KD, ensemble=ensemble), bank=two) for _ in range(2))
    go(first, 1, bank=two)
    go(second, 1, bank=two)
    assert equal(first, second)


def test_start_raises_when_there_are_shares_for_other_teachers_than_the_bank_holds(begin):
    with pytest.raises(KdnasError, match="the bank holds 1 teachers") as caught:
        begin(dataclasses.replace(KD, teacher_shares=(0.5, 0.5)))
    assert caught.value.field == "recipe.teacher_shares"


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.suits("classes")])
def test_every_loss_falls_when_trained_at_its_usual_weight(name, begin, go):
    # Alpha 1 for logits: what the student learns of the classes comes from the loss.
    loss = LOSSES[name]
    term = Term(name, tap="penultimate" if loss.at else "stage2" if loss.feature else None)
    training = begin(
        dataclasses.replace(KD, alpha=1.0 if loss.reads == "logits" else 0.5, terms=(term,)), total_epochs=6
    )
    assert ("0" in training.projectors) == loss.projected
    curve = go(training, 6)
    assert all(math.isfinite(point["train_loss"]) for point in curve)
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    if loss.reads == "logits":  # a feature alone teaches no classes
        assert curve[-1]["val_accuracy"] > 0.3


def test_alpha_that_falls_to_0_ends_with_the_labels_alone(begin, bank, task, normalise, monkeypatch):
    seen: list[float] = []
    real = Recipe.alpha_at
    monkeypatch.setattr(Recipe, "alpha_at", lambda self, *given: seen.append(real(self, *given)) or seen[-1])
    recipe = dataclasses.replace(KD, alpha=0.9, alpha_schedule="linear", final_alpha=0.0)
    train(begin(recipe, total_epochs=1), bank, Split(bank.images[:20], bank.labels[:20]), task, normalise, 1)
    assert seen[0] == 0.9
    assert seen[-1] == 0.0
    assert seen == sorted(seen, reverse=True)


def test_alpha_by_size_lowers_alpha_by_the_students_share_of_the_teachers_parameters(begin, go, bank):
    (teacher,) = bank.teacher_params
    params = sum(part.numel() for part in student().parameters())
    scaled = begin(dataclasses.replace(KD, alpha=0.8, alpha_by_size=0.5))
    by_hand = begin(dataclasses.replace(KD, alpha=0.8 * (params / teacher) ** 0.5))
    assert 0 < params < teacher
    assert go(scaled, 1) == go(by_hand, 1)


def test_hint_trains_its_projector(begin, go):
    training = begin(HINTED)
    before = {name: value.clone() for name, value in training.projectors.state_dict().items()}
    go(training, 1)
    assert len(before) == 2
    assert all(not torch.equal(before[name], value) for name, value in training.projectors.state_dict().items())


def test_hint_works_on_vectors_and_the_order_of_terms_is_free(begin, go):
    terms = (Term("hint", 0.1, "penultimate"), Term("kd"), Term("hint", 0.1, "stage2"))
    curve = go(begin(dataclasses.replace(KD, terms=terms)), 1)
    assert math.isfinite(curve[0]["train_loss"])


@pytest.mark.parametrize("size", [2, 399, 400, 1000])
def test_every_batch_size_trains_all_samples_and_none_is_left_alone(begin, go, bank, size):
    seen: list[int] = []
    training = begin(dataclasses.replace(PLAIN, batch_size=size, learning_rate=1e-3), total_epochs=1)
    training.model.register_forward_pre_hook(
        lambda model, inputs: seen.append(len(inputs[0])) if model.training else None
    )
    go(training, 1)
    assert sum(seen) == len(bank) == 400
    assert min(seen) >= 2


@pytest.fixture
def asked():
    """(view, samples, taps) of every batch that a watched bank is asked for."""
    return []


@pytest.fixture
def watched(bank, asked):
    class Watched(Bank):
        def batch(self, indices, view, transforms, taps=()):
            asked.append((view, indices.tolist(), taps))
            return super().batch(indices, view, transforms, taps)

    return Watched(**{field.name: getattr(bank, field.name) for field in dataclasses.fields(bank)})


def test_every_epoch_shows_each_sample_once_in_a_new_order_and_the_views_in_turn(begin, go, watched, asked):
    go(begin(PLAIN, bank=watched, total_epochs=3), 3, bank=watched)
    steps = len(asked) // 3
    epochs = [asked[epoch * steps : (epoch + 1) * steps] for epoch in range(3)]
    orders = [[sample for _, indices, _ in epoch for sample in indices] for epoch in epochs]
    assert [{view for view, _, _ in epoch} for epoch in epochs] == [{0}, {1}, {0}]
    assert all(sorted(order) == list(range(400)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_order_of_the_samples_depends_on_the_seed(bank, go, watched, asked):
    for seed in (0, 1):
        go(start(student(), PLAIN, bank, seed=seed, total_epochs=1), 1, bank=watched)
    first, second = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    assert first != second


def test_only_the_taps_that_a_term_reads_are_gathered(begin, go, watched, asked):
    for recipe in (PLAIN, KD, HINTED):
        go(begin(recipe, total_epochs=1), 1, bank=watched)
    assert {taps for _, _, taps in asked} == {(), ("stage2",)}
    assert asked[-1][2] == ("stage2",)


def test_temperature_runs_over_the_whole_training(begin, go, monkeypatch):
    used = []

    def listen(student, teacher, labels, temperature):
        """Writes the temperature down."""
        used.append(temperature)
        return student.logits.sum() * 0

    monkeypatch.setattr(terms, "LOSSES", Registry("loss", ("kd", Loss(listen))))
    go(begin(dataclasses.replace(KD, temperature=Temperature("linear", 6.0, 1.0)), total_epochs=2), 2)
    assert used == pytest.approx(np.linspace(6, 1, len(used)))
    assert len(used) == 2 * math.ceil(400 / 32)


def test_learning_rate_rises_then_falls_to_0(begin, go, monkeypatch):
    training, rates = begin(total_epochs=2), []
    step = training.optimizer.step
    monkeypatch.setattr(training.optimizer, "step", lambda rate: (rates.append(rate), step(rate)))
    go(training, 2)
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < peak < 0.2 * len(rates)
    assert max(rates) == pytest.approx(0.1, rel=0.05)
    assert 0 < rates[-1] < 0.02 * max(rates)


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ((Term("hint", 1.0, "stage9"),), "recipe.terms.tap"),
        ((Term("hint"),), "recipe.terms.tap"),
        ((Term("kd", 1.0, "stage2"),), "recipe.terms.tap"),
        ((Term("cosine"),), "loss"),
    ],
)
def test_start_refuses_a_term_that_cannot_be_computed(begin, terms, field):
    with pytest.raises(KdnasError) as caught:
        begin(dataclasses.replace(KD, terms=terms))
    assert caught.value.field == field
    assert caught.value.remedy


def test_start_refuses_to_match_a_map_with_a_vector(begin, bank):
    other = dataclasses.replace(bank, taps={"stage2": bank.taps["penultimate"]})
    with pytest.raises(KdnasError, match="one is a map, one a vector"):
        begin(HINTED, bank=other)


def test_start_refuses_to_distil_without_a_teacher(begin, data, task):
    bank = banks.without_teacher(data.train, augmentation=task.augmentation, views=1, seed=0)
    with pytest.raises(KdnasError, match="no teacher"):
        begin(KD, bank=bank)
    assert begin(PLAIN, bank=bank).epoch == 0


def test_start_leaves_the_global_generator_alone(begin, bank):
    model = student()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    start(model, HINTED, bank, seed=1, total_epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_evaluate_scores_all_samples_whatever_the_batches(data, task, normalise, teacher):
    many = Split(np.tile(data.validation.images, (6, 1, 1, 1)), np.tile(data.validation.labels, 6))
    assert len(many) > 1024
    once, often = (evaluate(teacher.model, part, task, normalise) for part in (data.validation, many))
    assert often == pytest.approx(once, rel=1e-5)
    teacher.model.eval()
    with torch.no_grad():
        answers = teacher.model(normalise(torch.from_numpy(data.validation.images))).numpy()
    assert once[1] == pytest.approx((answers.argmax(axis=1) == data.validation.labels).mean())


def test_normalise_maps_the_training_images_to_mean_0_and_deviation_1():
    images = torch.randint(0, 256, (50, 2, 6, 6), dtype=torch.uint8)
    scaled = images.double() / 255
    mean, std = scaled.mean(dim=(0, 2, 3)), scaled.std(dim=(0, 2, 3))
    normalised = Normalise(tuple(mean.tolist()), tuple(std.tolist()))(images)
    expected = (scaled - mean.view(1, 2, 1, 1)) / std.view(1, 2, 1, 1)
    torch.testing.assert_close(normalised.double(), expected, rtol=1e-5, atol=1e-5)
    assert normalised.dtype == torch.float32


ADAPTIVE = {
    "meta": dataclasses.replace(HINTED, weighting="meta"),
    "uncertainty": dataclasses.replace(HINTED, weighting="uncertainty"),
    "confidence": dataclasses.replace(HINTED, weighting="confidence"),
    "per_sample": dataclasses.replace(KD, temperature=Temperature("per_sample")),
    "curriculum": dataclasses.replace(KD, temperature=Temperature("curriculum")),
    "mutual": dataclasses.replace(KD, mutual=1.0),
    "memory": dataclasses.replace(KD, terms=(Term("kd"), Term("contrastive", 1.0, "stage2"))),
    "hiding": dataclasses.replace(KD, terms=(Term("kd"), Term("masked_generation", 1.0, "stage2"))),
}


@pytest.fixture
def begin_adaptive(bank):
    def begin(name):
        recipe = ADAPTIVE[name]
        peer = student(7) if recipe.mutual else None
        return start(student(), recipe, bank, seed=0, total_epochs=4, peer=peer)

    return begin


@pytest.mark.parametrize("name", ADAPTIVE)
def test_training_that_adapts_learns_and_goes_on_after_a_save_as_if_it_had_not_stopped(name, begin_adaptive, go):
    whole, first, second = (begin_adaptive(name) for _ in range(3))
    go(whole, 4)
    go(first, 2)
    kept = io.BytesIO()
    torch.save(first.state(), kept)
    kept.seek(0)
    second.restore(torch.load(kept, weights_only=True))
    go(second, 4)
    assert equal(whole, second)
    assert whole.curve[-1]["val_accuracy"] > 0.2


def test_meta_weights_move_away_from_1(begin_adaptive, go):
    training = begin_adaptive("meta")
    go(training, 1)
    factors = training.projectors["weighting"].factors()
    assert factors.mean().item() == pytest.approx(1)
    assert (factors - 1).abs().max() > 0.05


def test_mutual_learning_brings_the_peer_to_what_the_student_says(begin_adaptive, go, data, task, normalise):
    training = begin_adaptive("mutual")
    before = {name: value.clone() for name, value in training.projectors["peer"].state_dict().items()}
    go(training, 4)
    _, accuracy = evaluate(training.projectors["peer"], data.validation, task, normalise)
    assert accuracy > 0.2
    assert any(not torch.equal(before[name], value) for name, value in training.projectors["peer"].state_dict().items())


def test_mutual_learning_does_not_fade_where_alpha_leaves_the_labels_out(bank, go):
    moved = []
    for alpha in (0.0, 1.0):
        recipe = dataclasses.replace(KD, mutual=1.0, alpha=alpha, weight_decay=0.0)
        training = start(student(), recipe, bank, seed=0, total_epochs=4, peer=student(7))
        before = [part.detach().clone() for part in training.projectors["peer"].parameters()]
        go(training, 1)
        after = training.projectors["peer"].parameters()
        moved.append(sum(float((new.detach() - old).norm()) for old, new in zip(before, after, strict=True)))
    assert moved[1] > 0.5 * moved[0] > 0


def test_size_of_a_student_is_its_own_also_with_a_teachers_classifier(bank, begin):
    recipe = dataclasses.replace(KD, terms=(Term("kd"), Term("reused_classifier", 1.0, "penultimate")))
    assert begin(recipe).size == begin(KD).size


def test_mutual_learning_needs_a_peer(bank):
    with pytest.raises(ValueError, match="peer"):
        start(student(), ADAPTIVE["mutual"], bank, seed=0, total_epochs=1)


@pytest.fixture(scope="module")
def few(data, task, teacher, normalise):
    """A bank where one label in ten is known."""
    split = keep_labels(data.train, 0.1, data.classes, seed=0)
    return banks.build(split, [teacher.model], normalise, augmentation=task.augmentation, views=2, seed=0)


def test_labels_that_are_not_kept_are_never_read(few, data, begin, go):
    assert 0 < (few.labels >= 0).sum() < 0.15 * len(few)
    training = begin(KD, bank=few)
    curve = go(training, 3, bank=few)
    assert curve[-1]["val_accuracy"] > 0.2
    plain = begin(PLAIN, bank=few)
    seen: list[np.ndarray] = []

    class Watched:
        def __getattr__(self, name):
            return getattr(few, name)

        def __len__(self):
            return len(few)

        def batch(self, indices, *given):
            seen.append(few.labels[indices])
            return few.batch(indices, *given)

    go(plain, 1, bank=Watched())
    assert (np.concatenate(seen) >= 0).all()
    assert len(np.concatenate(seen)) == len(few)  # as many steps as with all labels


@pytest.mark.parametrize("loss", ["dkd", "nkd", "wsld", "class_similarity", "label_smoothing"])
def test_losses_that_read_labels_take_the_teachers_guess_for_those_not_kept(loss, few, begin, go):
    training = begin(dataclasses.replace(KD, terms=(Term(loss),)), bank=few)
    assert all(math.isfinite(point["train_loss"]) for point in go(training, 2, bank=few))


def test_teacher_that_counts_for_nothing_guesses_nothing(few):
    batch = few.batch(np.arange(30), 0, few.transforms(0))
    two = dataclasses.replace(batch, logits=torch.cat([batch.logits, batch.logits.roll(1, dims=2) * 9]))
    assert torch.equal(two.guessed((1.0, 0.0)).labels, batch.guessed().labels)
    assert not torch.equal(two.guessed((0.0, 1.0)).labels, batch.guessed().labels)


def test_guess_is_the_most_likely_class_of_the_teachers_mean(few):
    batch = few.batch(np.arange(30), 0, few.transforms(0))
    guessed = batch.guessed()
    known = batch.labels >= 0
    assert torch.equal(guessed.labels[known], batch.labels[known])
    assert torch.equal(guessed.labels[~known], batch.logits[0].argmax(dim=1)[~known])


# The digits once more: as labels (one of ten each), and as values (the digit, and whether it is even).
HEADS = {"labels": (MultiLabel(), 10, 0.1), "values": (Regression(), 2, 0.05)}


def as_targets(split: Split, targets: str) -> Split:
    if targets == "labels":
        return Split(split.images, np.eye(10, dtype=np.float32)[split.labels])
    numbers = np.stack([split.labels / 3 - 1.5, 1 - 2 * (split.labels % 2)], axis=1)
    return Split(split.images, numbers.astype(np.float32))


@pytest.fixture(params=HEADS)
def head(request, data, task, normalise):
    """Trains a student by a recipe on labels or values; with a share of the labels, and a teacher of the kind."""
    targets = request.param
    goal, outputs, rate = HEADS[targets]
    train_split, validation = (as_targets(part, targets) for part in (data.train, data.validation))

    def network(width: int) -> nn.Module:
        torch.manual_seed(width)
        return build_resnet(resnet_architecture(width, (width, 2 * width), (1, 1)), (1, 8, 8), outputs)

    def learn(model, recipe, bank, peer=None, epochs=12):
        training = start(model, recipe, bank, seed=0, total_epochs=epochs, peer=peer, targets=targets)
        return train(training, bank, validation, goal, normalise, epochs)

    plain = banks.build(train_split, [], normalise, augmentation=task.augmentation, views=2, seed=0)
    teacher = network(16)
    learn(teacher, dataclasses.replace(PLAIN, learning_rate=rate), plain)

    def run(recipe, share=1.0):
        kept = keep_labels(train_split, share, [""] * outputs, seed=0)
        bank = banks.build(
            kept, [teacher], normalise, augmentation=task.augmentation, views=2, seed=0, taps=("stage2",)
        )
        recipe = dataclasses.replace(recipe, learning_rate=rate)
        return learn(network(8), recipe, bank, network(9) if recipe.mutual else None)

    run.targets = targets
    return run


def test_student_learns_labels_and_values_by_plain_kd_hints_and_from_a_peer(head):
    for recipe in (PLAIN, KD, HINTED, dataclasses.replace(KD, mutual=1.0)):
        curve = head(recipe)
        assert curve[-1]["train_loss"] < curve[0]["train_loss"]
        assert curve[-1]["val_accuracy"] > 0.6


def test_teacher_teaches_what_labels_and_values_are_missing(head):
    taught, alone = (head(recipe, share=0.05)[-1]["val_accuracy"] for recipe in (KD, PLAIN))
    assert taught > alone


def test_loss_on_classes_is_refused_where_targets_are_labels_or_values(head):
    with pytest.raises(KdnasError, match=f"not for a task whose targets are {head.targets}"):
        head(dataclasses.replace(KD, terms=(Term("dkd"),)))


def test_every_loss_for_labels_or_values_falls(head):
    for name in [name for name, loss in LOSSES.items() if head.targets in loss.targets]:
        curve = head(dataclasses.replace(KD, alpha=0.5, terms=(Term(name),)))
        assert curve[-1]["train_loss"] < curve[0]["train_loss"]


@pytest.mark.parametrize("recipe", [KD, HINTED])
def test_training_in_bfloat16_learns_about_the_same_with_weights_and_losses_in_float32(bank, go, recipe):
    curves = {}
    for half in (False, True):
        training = start(student(), recipe, bank, seed=0, total_epochs=3, bfloat16=half)
        curves[half] = go(training, 3)
        assert all(tensor.dtype == torch.float32 for tensor in training.model.parameters())
    losses = [[point["train_loss"] for point in curves[half]] for half in (False, True)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_training_that_quantises_is_not_in_bfloat16(bank):
    training = start(student(), dataclasses.replace(KD, quantised=True), bank, seed=0, total_epochs=3, bfloat16=True)
    assert not training.bfloat16
