"""Specification of `trainables.bank`."""

import dataclasses
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import KdnasError
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.augment import Augmentation, apply
from trainables.bank import Bank
from trainables.tasks.base import Split
from trainables.top_logits import TopLogits

SHIFTED = Augmentation(shift=2, flip=True)
INGREDIENTS = {
    "weights": ["a", "b"],
    "data": "c",
    "augmentation": SHIFTED,
    "views": 3,
    "seed": 0,
    "taps": ["stage1", "stage2"],
}


@pytest.fixture(scope="module")
def split() -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    return Split(images, rng.integers(0, 5, 30))


@pytest.fixture(scope="module")
def models() -> list[nn.Module]:
    torch.manual_seed(0)
    return [build_resnet(resnet_architecture(4, (width, 6), (1, 1)), (1, 8, 8), 5) for width in (4, 8)]


class Unit(nn.Module):
    """Images on the scale 0 to 1."""

    def forward(self, images):
        return images.float() / 255


@pytest.fixture(scope="module")
def bank(split, models) -> Bank:
    return banks.build(split, models, Unit(), augmentation=SHIFTED, views=3, seed=7, taps=("stage2", "penultimate"))


def loaded(bank: Bank, folder: Path, split: Split) -> Bank:
    return banks.load(folder, split, augmentation=bank.augmentation, seed=bank.seed)


def parts(logits: np.ndarray | TopLogits) -> list[np.ndarray]:
    return list(vars(logits).values()) if isinstance(logits, TopLogits) else [logits]


def same(first: Bank, second: Bank) -> bool:
    return (
        all(map(np.array_equal, parts(first.logits), parts(second.logits)))
        and first.taps.keys() == second.taps.keys()
        and all(np.array_equal(first.taps[name], second.taps[name]) for name in first.taps)
        and (first.augmentation, first.seed) == (second.augmentation, second.seed)
    )


def test_bank_holds_every_teachers_answer_to_every_view_in_half_precision(bank, split):
    assert bank.images is split.images
    assert bank.labels is split.labels
    assert bank.logits.shape == (3, 2, 30, 5)
    assert {name: value.shape for name, value in bank.taps.items()} == {
        "stage2": (3, 30, 6, 4, 4),
        "penultimate": (3, 30, 6),
    }
    assert {value.dtype for value in (bank.logits, *bank.taps.values())} == {np.dtype(np.float16)}
    assert (len(bank), bank.views) == (30, 3)
    taps = 3 * 30 * (6 * 16 + 6) * 2
    assert bank.nbytes == 30 * 64 + 30 * 8 + 3 * 2 * 30 * 5 * 2 + taps


@pytest.mark.parametrize("view", range(3))
def test_stored_answer_is_the_teachers_answer_to_exactly_that_view(bank, models, view):
    indices = np.array([4, 29, 0, 4, 17])
    batch = bank.batch(indices, view, bank.transforms(view), ("stage2", "penultimate"))
    with torch.no_grad():
        for number, model in enumerate(models):
            logits, seen = model.eval().forward_taps(batch.images.float() / 255, ("stage2", "penultimate"))
            torch.testing.assert_close(batch.logits[number], logits, rtol=2e-3, atol=2e-3)
            if number == 0:
                torch.testing.assert_close(batch.taps["stage2"], seen["stage2"], rtol=2e-3, atol=2e-3)
                torch.testing.assert_close(batch.taps["penultimate"], seen["penultimate"], rtol=2e-3, atol=2e-3)


def test_views_differ_from_each_other_and_the_first_is_the_untransformed_image(bank, split):
    everything = np.arange(30)
    views = [bank.batch(everything, view, bank.transforms(view)).images for view in range(3)]
    assert np.array_equal(views[0].numpy(), split.images)
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])
    assert not np.array_equal(bank.logits[1], bank.logits[2])


def test_views_repeat_exactly_whatever_the_batches_are(bank):
    transforms = bank.transforms(2)
    again = bank.batch(np.arange(30), 2, bank.transforms(2)).images
    one_by_one = torch.cat([bank.batch(np.array([index]), 2, transforms).images for index in range(30)])
    assert torch.equal(one_by_one, again)
    assert torch.equal(apply(torch.from_numpy(bank.images), transforms), again)


def test_batch_is_a_copy_in_single_precision_that_leaves_the_bank_alone(bank):
    before = bank.images.copy(), bank.logits.copy()
    batch = bank.batch(np.array([3, 1]), 0, bank.transforms(0), ("penultimate",))
    assert batch.labels.tolist() == bank.labels[[3, 1]].tolist()
    assert (batch.images.dtype, batch.logits.dtype) == (torch.uint8, torch.float32)
    assert (batch.logits.shape, batch.taps["penultimate"].shape) == ((2, 2, 5), (2, 6))
    batch.images.zero_()
    batch.logits.zero_()
    assert np.array_equal(bank.images, before[0])
    assert np.array_equal(bank.logits, before[1])


def test_batch_without_taps_gathers_none(bank):
    assert bank.batch(np.array([0]), 0, bank.transforms(0)).taps == {}


def test_batch_on_its_own_device_is_itself(bank):
    batch = bank.batch(np.array([0]), 0, bank.transforms(0))
    assert batch.to(torch.device("cpu")) is batch


def test_batch_on_another_device_takes_every_part_along(bank):
    batch = bank.batch(np.array([0]), 0, bank.transforms(0), ("stage2",)).to(torch.device("meta"))
    assert {x.device.type for x in (batch.images, batch.labels, batch.logits, batch.taps["stage2"])} == {"meta"}


def test_bank_with_read_only_arrays_gives_the_same_batches(bank):
    def frozen(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.setflags(write=False)
        return array

    locked = dataclasses.replace(
        bank,
        images=frozen(bank.images),
        labels=frozen(bank.labels),
        logits=frozen(bank.logits),
        taps={name: frozen(value) for name, value in bank.taps.items()},
    )
    indices = np.array([5, 6])
    for view in range(3):
        a, b = (x.batch(indices, view, x.transforms(view), ("stage2",)) for x in (bank, locked))
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.logits, b.logits)
        assert torch.equal(a.taps["stage2"], b.taps["stage2"])


def test_bank_with_read_only_arrays_can_be_saved(bank, split, tmp_path):
    logits = bank.logits.copy()
    logits.setflags(write=False)
    banks.save(dataclasses.replace(bank, logits=logits), tmp_path / "bank")
    assert same(loaded(bank, tmp_path / "bank", split), bank)


def test_bank_without_teacher_holds_images_and_no_answers(split):
    bank = banks.without_teacher(split, augmentation=SHIFTED, views=4, seed=1)
    assert (bank.views, bank.logits.size, bank.taps) == (4, 0, {})
    assert bank.batch(np.array([1, 2]), 3, bank.transforms(3)).logits.shape == (0, 2, 1)
    built = banks.build(split, [], Unit(), augmentation=SHIFTED, views=4, seed=1)
    assert same(built, bank)


def test_build_refuses_a_transform_that_does_not_fit_the_images(split, models):
    with pytest.raises(KdnasError, match=r"task\.augmentation\.shift"):
        banks.build(split, models, Unit(), augmentation=Augmentation(shift=8), views=1, seed=0)


class Says(nn.Module):
    """A teacher that always answers the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.full((len(x), 2), self.value)


def test_build_keeps_answers_finite_when_they_are_beyond_half_precision(split):
    for value in (1e6, -float("inf")):
        bank = banks.build(split, [Says(value)], Unit(), augmentation=SHIFTED, views=1, seed=0)
        assert np.all(bank.logits == np.float16(np.sign(value) * 65_000))


def test_build_refuses_a_teacher_that_answers_nan(split):
    with pytest.raises(KdnasError, match="NaN") as caught:
        banks.build(split, [Says(float("nan"))], Unit(), augmentation=SHIFTED, views=1, seed=0)
    assert caught.value.field == "teachers"


def test_build_asks_teachers_in_evaluation_mode(split, models):
    before = {name: value.clone() for name, value in models[0].state_dict().items()}
    models[0].train()
    banks.build(split, models[:1], Unit(), augmentation=SHIFTED, views=1, seed=0)
    assert all(torch.equal(before[name], value) for name, value in models[0].state_dict().items())


def test_saved_bank_is_read_back_as_it_was(bank, split, tmp_path):
    banks.save(bank, tmp_path / "new" / "bank")
    assert same(loaded(bank, tmp_path / "new" / "bank", split), bank)
    assert sorted(path.name for path in (tmp_path / "new" / "bank").iterdir()) == ["bank.json", "bank.safetensors"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bank"]


def test_saved_bank_can_be_read_by_those_who_may_read_its_neighbours(bank, tmp_path):
    (tmp_path / "other").mkdir()
    banks.save(bank, tmp_path / "bank")
    assert (tmp_path / "bank").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_bank_without_teacher_is_read_back_as_it_was(split, tmp_path):
    bank = banks.without_teacher(split, augmentation=SHIFTED, views=2, seed=1)
    banks.save(bank, tmp_path / "bank")
    assert same(loaded(bank, tmp_path / "bank", split), bank)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("bank.safetensors", Path.unlink),
        ("bank.safetensors", _cut),
        ("bank.safetensors", _flip),
        ("bank.safetensors", lambda path: path.write_bytes(b"")),
        ("bank.json", Path.unlink),
        ("bank.json", lambda path: path.write_text("{")),
        ("bank.json", lambda path: path.write_text("{}")),
        ("bank.json", lambda path: path.write_text("[]")),
        ("bank.json", lambda path: path.write_bytes(b"\xff")),
    ],
)
def test_load_raises_when_a_file_is_missing_cut_short_or_altered(bank, split, tmp_path, name, damage):
    folder = tmp_path / "bank"
    banks.save(bank, folder)
    damage(folder / name)
    with pytest.raises(KdnasError, match="the stored bank is unusable") as caught:
        loaded(bank, folder, split)
    assert (caught.value.field, caught.value.value) == ("bank", str(folder))
    banks.save(bank, folder)
    assert same(loaded(bank, folder, split), bank)


def test_load_raises_when_there_is_no_folder_or_the_data_are_others(bank, split, tmp_path):
    with pytest.raises(KdnasError, match="cannot be read"):
        loaded(bank, tmp_path / "nothing", split)
    banks.save(bank, tmp_path / "bank")
    with pytest.raises(KdnasError, match="holds 30 samples, the data 29"):
        loaded(bank, tmp_path / "bank", Split(split.images[:29], split.labels[:29]))


def test_digest_repeats_and_changes_with_each_ingredient():
    others = {
        "weights": ["b", "a"],
        "data": "d",
        "augmentation": Augmentation(shift=2),
        "views": 4,
        "seed": 1,
        "taps": ["stage1"],
        "pool": 2,
        "top_k": 2,
    }
    made = [banks.digest(**{**INGREDIENTS, name: value}) for name, value in others.items()]
    assert banks.digest(**INGREDIENTS) == banks.digest(**INGREDIENTS)
    assert len({banks.digest(**INGREDIENTS), *made}) == len(others) + 1
    assert all(len(digest) == 16 for digest in made)


def test_digest_ignores_the_order_of_the_taps():
    assert banks.digest(**INGREDIENTS) == banks.digest(**{**INGREDIENTS, "taps": ["stage2", "stage1"]})


def built(split: Split, models: list[nn.Module], **kept: int) -> Bank:
    taps = ("stage2", "penultimate")
    return banks.build(split, models, Unit(), augmentation=SHIFTED, views=3, seed=7, taps=taps, **kept)


@pytest.mark.parametrize("kept", [{}, {"pool": 3, "top_k": 2}])
def test_sizes_say_before_what_the_bank_takes_afterwards(split, models, kept):
    shapes = {"stage2": banks.pooled((6, 4, 4), kept.get("pool")), "penultimate": banks.pooled((6,), 1)}
    bank = built(split, models, **kept)
    said = banks.sizes(3, 2, 30, 5, shapes, top_k=kept.get("top_k"))
    assert said["logits"] == bank.logits.nbytes
    assert {name: said[f"tap.{name}"] for name in shapes} == {name: x.nbytes for name, x in bank.taps.items()}


def test_pool_averages_maps_down_and_leaves_small_ones_and_vectors_alone(bank, split, models):
    pooled = built(split, models, pool=2)
    blocks = bank.taps["stage2"].astype(np.float32).reshape(3, 30, 6, 2, 2, 2, 2).mean(axis=(4, 6))
    np.testing.assert_allclose(pooled.taps["stage2"], blocks, rtol=2e-3, atol=1e-3)
    assert np.array_equal(pooled.taps["penultimate"], bank.taps["penultimate"])
    assert same(built(split, models, pool=4), bank)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_top_k_keeps_the_largest_logits_exactly_and_no_rebuilt_one_exceeds_them(bank, split, models, k):
    short, indices = built(split, models, top_k=k), np.array([4, 29, 0, 4])
    assert short.logits.shape == bank.logits.shape
    for view in range(3):
        full, rebuilt = (x.batch(indices, view, x.transforms(view)).logits for x in (bank, short))
        assert (rebuilt.shape, rebuilt.dtype) == (full.shape, torch.float32)
        top = full.topk(k)
        assert torch.equal(rebuilt.gather(2, top.indices), top.values)
        assert torch.all(rebuilt <= torch.where(rebuilt == full, full, top.values[..., -1:]))


def test_top_k_rest_keeps_its_probability_at_temperature_two(bank, split, models):
    indices = np.arange(30)
    full, short = (
        x.batch(indices, 1, x.transforms(1)).logits.div(2).softmax(dim=2) for x in (bank, built(split, models, top_k=3))
    )
    torch.testing.assert_close(short, full, rtol=0, atol=0.01)


def test_top_k_when_a_teacher_says_the_same_or_the_extreme_then_the_logits_stay_finite(split):
    for value in (0.0, 1e6, -float("inf")):
        bank = banks.build(split, [Says(value)], Unit(), augmentation=SHIFTED, views=1, seed=0, top_k=2)
        assert bank.batch(np.arange(30), 0, bank.transforms(0)).logits.isfinite().all()


def test_top_k_bank_is_read_back_as_it_was(split, models, tmp_path):
    short = built(split, models, pool=2, top_k=2)
    banks.save(short, tmp_path / "bank")
    again = loaded(short, tmp_path / "bank", split)
    assert isinstance(again.logits, TopLogits)
    assert same(again, short)
    assert again.logits.classes.dtype == np.uint8


def _save_often(bank: Bank, folder: Path) -> None:
    for _ in range(30):
        banks.save(bank, folder)


def test_concurrent_saves_never_fail_and_leave_one_whole_bank(bank, split, tmp_path):
    folder = tmp_path / "bank"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_save_often, args=(bank, folder)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert same(loaded(bank, folder, split), bank)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
