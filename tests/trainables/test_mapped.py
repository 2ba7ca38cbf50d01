"""Specification of `trainables.mapped`: a bank in files reads as one in memory and travels as a path."""

import pickle
from functools import partial

import numpy as np
import pytest

from search_spaces import KdnasError
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.mapped import MappedArray, build_mapped, load_mapped, opened

VIEWS, TAPS = 3, ("stage1", "penultimate")
AUGMENTATION = Augmentation(shift=1)


@pytest.fixture(scope="module")
def build(data, teacher, normalise):
    return partial(
        banks.build, data.train, [teacher.model], normalise, augmentation=AUGMENTATION, views=VIEWS, seed=4, taps=TAPS
    )


@pytest.fixture
def folder(build, tmp_path):
    build_mapped(tmp_path / "bank", build)
    return tmp_path / "bank"


def test_mapped_bank_when_read_then_equals_the_one_in_memory(build, folder, data):
    mapped, whole = load_mapped(folder, data.train, augmentation=AUGMENTATION, seed=4), build()
    assert isinstance(mapped.logits, MappedArray)
    assert list(mapped.taps) == list(whole.taps)
    indices = np.array([5, 0, 77])
    for view in range(VIEWS):
        transforms = whole.transforms(view)
        one, other = (bank.batch(indices, view, transforms, TAPS) for bank in (mapped, whole))
        assert one.logits.equal(other.logits)
        assert one.images.equal(other.images)
        assert all(one.taps[name].equal(other.taps[name]) for name in TAPS)
    assert mapped.teacher_params == whole.teacher_params
    for one, other in zip(mapped.classifier, whole.classifier, strict=True):
        np.testing.assert_array_equal(one, other)


def test_mapped_array_when_pickled_then_its_path_travels_and_a_part_as_numbers(folder):
    array = opened(folder / "logits.npy")
    sent = pickle.dumps(array, protocol=5)
    assert len(sent) < 500
    back = pickle.loads(sent)  # noqa: S301 (its own bytes)
    assert isinstance(back, MappedArray)
    np.testing.assert_array_equal(back, array)
    part = pickle.loads(pickle.dumps(array[1], protocol=5))  # noqa: S301 (its own bytes)
    np.testing.assert_array_equal(part, array[1])
    assert not array.flags.writeable


def test_mapped_arrays_when_the_object_store_is_sized_then_count_nothing(folder):
    array = opened(folder / "logits.npy")
    assert array.nbytes == 0
    assert array[0].copy().view(np.ndarray).nbytes > 0


@pytest.mark.parametrize("harm", ["cut", "gone", "altered", "facts"])
def test_mapped_bank_when_harmed_then_refused_by_name(folder, data, harm):
    path = folder / "tap.stage1.npy"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "gone":
        path.unlink()
    elif harm == "altered":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        (folder / "bank.json").write_text("{}")
    with pytest.raises(KdnasError, match="unusable") as caught:
        load_mapped(folder, data.train, augmentation=AUGMENTATION, seed=4)
    assert caught.value.field == "bank"


def test_mapped_bank_when_of_another_split_then_refused(folder, data):
    with pytest.raises(KdnasError, match="samples"):
        load_mapped(folder, data.validation, augmentation=AUGMENTATION, seed=4)


def test_mapped_bank_when_building_fails_then_nothing_is_left(tmp_path):
    def fails(room):
        room("logits", (2, 1, 3, 4))
        raise RuntimeError("the teacher fell silent")

    with pytest.raises(RuntimeError):
        build_mapped(tmp_path / "bank", fails)
    assert not list(tmp_path.iterdir())
