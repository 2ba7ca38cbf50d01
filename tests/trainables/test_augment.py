"""Specification of `trainables.augment`."""

import numpy as np
import pytest
import torch

from search_spaces import KdnasError
from trainables.augment import Augmentation, Transforms, apply, draw

EVERYTHING = Augmentation(shift=2, crop=3, flip=True, cutout=3, time_shift=3, time_mask=4, frequency_mask=3)
CHOICES = [
    Augmentation(shift=1),
    Augmentation(crop=4),
    Augmentation(flip=True),
    Augmentation(cutout=4),
    Augmentation(time_shift=12),
    Augmentation(time_mask=5),
    Augmentation(frequency_mask=9),
    EVERYTHING,
]


def pictures(n: int, channels: int = 3, height: int = 10, width: int = 13) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(1, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def one_by_one(images: np.ndarray, transforms: Transforms) -> np.ndarray:
    """The same transforms done the obvious way: pad and cut, mirror, move, blank, one image at a time."""
    _, _, height, width = images.shape
    results = []
    for number, image in enumerate(images):
        if transforms.crop is not None:
            down, right = transforms.crop[number]
            border = int(np.abs(transforms.crop).max())
            padded = np.pad(image, ((0, 0), (border, border), (border, border)), mode="reflect")
            image = padded[:, border + down :, border + right :][:, :height, :width]
        if transforms.mirror is not None and transforms.mirror[number]:
            image = image[:, :, ::-1]
        if transforms.shift is not None:
            moved = np.zeros_like(image)
            down, right = transforms.shift[number]
            for row in range(height):
                for column in range(width):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        moved[:, row, column] = image[:, row + down, column + right]
            image = moved
        if transforms.corner is not None:
            image = image.copy()
            top, left = transforms.corner[number]
            image[:, max(top, 0) : top + transforms.side, max(left, 0) : left + transforms.side] = 0
        if transforms.gaps is not None:
            image = image.copy()
            image[:, :, slice(*transforms.gaps[number])] = 0
        if transforms.bands is not None:
            image = image.copy()
            image[:, slice(*transforms.bands[number])] = 0
        results.append(image)
    return np.stack(results)


@pytest.mark.parametrize("augmentation", CHOICES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_apply_equals_the_same_transforms_done_one_image_at_a_time(augmentation, channels):
    images = pictures(60, channels)
    transforms = draw(augmentation, 60, 10, 13, seed=1, view=1)
    assert np.array_equal(apply(images, transforms).numpy(), one_by_one(images.numpy(), transforms))


@pytest.mark.parametrize("augmentation", CHOICES, ids=str)
def test_a_view_changes_images_and_keeps_their_form_when_it_is_not_the_first(augmentation):
    images = pictures(60)
    changed = apply(images, draw(augmentation, 60, 10, 13, seed=1, view=3))
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, images)


def test_the_first_view_is_the_images_themselves_whatever_is_configured():
    images = pictures(5)
    assert apply(images, draw(EVERYTHING, 5, 10, 13, seed=3, view=0)) is images


def test_a_view_returns_the_input_when_nothing_is_configured():
    images = pictures(5)
    assert apply(images, draw(Augmentation(), 5, 10, 13, seed=3, view=4)) is images


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_view_is_the_same_for_every_order_and_size_of_batches(batch):
    images = pictures(64)
    whole = apply(images, draw(EVERYTHING, 64, 10, 13, seed=5, view=2))
    order = np.random.default_rng(0).permutation(64)
    again = draw(EVERYTHING, 64, 10, 13, seed=5, view=2)
    for start in range(0, 64, batch):
        indices = order[start : start + batch]
        assert torch.equal(apply(images[indices], again.rows(indices)), whole[indices])


def test_another_seed_or_view_draws_other_transforms():
    first, other_view, other_seed = (
        draw(EVERYTHING, 100, 10, 13, seed=seed, view=view).shift for seed, view in ((5, 1), (5, 2), (6, 1))
    )
    assert not np.array_equal(first, other_view)
    assert not np.array_equal(first, other_seed)


def test_switching_one_transform_on_leaves_the_others_as_they_were():
    alone = draw(Augmentation(shift=2), 100, 10, 13, seed=5, view=1)
    together = draw(EVERYTHING, 100, 10, 13, seed=5, view=1)
    assert np.array_equal(alone.shift[:, 0], together.shift[:, 0])
    for name, part in (("time_mask", "gaps"), ("frequency_mask", "bands")):
        alone = draw(Augmentation(**{name: getattr(EVERYTHING, name)}), 100, 10, 13, seed=5, view=1)
        assert np.array_equal(getattr(alone, part), getattr(together, part))


def test_flip_mirrors_about_half_of_the_samples():
    mirror = draw(Augmentation(flip=True), 4000, 8, 8, seed=0, view=1).mirror
    assert mirror.mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("name", ["shift", "crop"])
def test_moves_reach_every_offset_up_to_the_bound_equally_often(name):
    offsets = getattr(draw(Augmentation(**{name: 2}), 5000, 8, 8, seed=0, view=1), name)
    values, counts = np.unique(offsets, return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2]
    assert counts / offsets.size == pytest.approx(0.2, abs=0.02)


def test_cutout_zeroes_a_square_that_is_clipped_at_the_border():
    transforms = draw(Augmentation(cutout=3), 2000, 8, 8, seed=0, view=1)
    blank = (apply(torch.full((2000, 1, 8, 8), 9, dtype=torch.uint8), transforms) == 0)[:, 0]
    rows, columns = blank.any(dim=2).sum(dim=1), blank.any(dim=1).sum(dim=1)
    assert torch.equal(blank.sum(dim=(1, 2)), rows * columns)
    assert set(rows.tolist()) == {2, 3}  # its centre lies inside, so at most one row is lost
    assert blank.any(dim=0).all()


def test_a_shift_in_time_moves_columns_only_and_reaches_every_offset_equally_often():
    shift = draw(Augmentation(time_shift=2), 5000, 8, 20, seed=0, view=1).shift
    values, counts = np.unique(shift[:, 1], return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2]
    assert counts / 5000 == pytest.approx(0.2, abs=0.02)
    assert not shift[:, 0].any()


@pytest.mark.parametrize(("name", "axis", "size"), [("time_mask", 3, 20), ("frequency_mask", 2, 9)])
def test_a_mask_blanks_whole_lines_of_every_length_up_to_the_bound_everywhere(name, axis, size):
    transforms = draw(Augmentation(**{name: 3}), 4000, 9, 20, seed=0, view=1)
    blank = (apply(torch.full((4000, 1, 9, 20), 9, dtype=torch.uint8), transforms) == 0)[:, 0]
    along = blank.all(dim=4 - axis)  # [N, size] of this axis
    assert torch.equal(blank, along[:, None, :].expand_as(blank) if axis == 3 else along[:, :, None].expand_as(blank))
    lengths, counts = np.unique(along.sum(dim=1), return_counts=True)
    assert lengths.tolist() == [0, 1, 2, 3]
    assert counts / 4000 == pytest.approx(0.25, abs=0.03)
    assert along.shape[1] == size
    assert along.any(dim=0).all()


@pytest.mark.parametrize("name", ["shift", "crop", "cutout", "time_shift", "time_mask", "frequency_mask"])
def test_negative_pixels_are_refused_with_the_field(name):
    with pytest.raises(KdnasError, match=rf"task\.augmentation\.{name} = -1"):
        Augmentation(**{name: -1})


@pytest.mark.parametrize("name", ["shift", "crop", "cutout"])
def test_pixels_that_do_not_fit_the_image_are_refused_with_what_would_fit(name):
    with pytest.raises(KdnasError, match=rf"task\.augmentation\.{name} = 8[\s\S]*8 x 9[\s\S]*less than 8"):
        draw(Augmentation(**{name: 8}), 4, 8, 9, seed=0, view=1)
    draw(Augmentation(**{name: 7}), 4, 8, 9, seed=0, view=1)


@pytest.mark.parametrize(("name", "bound"), [("time_shift", 9), ("time_mask", 9), ("frequency_mask", 8)])
def test_a_mask_or_shift_in_time_may_be_as_long_as_its_own_side_of_the_image(name, bound):
    with pytest.raises(KdnasError, match=rf"task\.augmentation\.{name} = {bound}[\s\S]*less than {bound}"):
        draw(Augmentation(**{name: bound}), 4, 8, 9, seed=0, view=1)
    draw(Augmentation(**{name: bound - 1}), 4, 8, 9, seed=0, view=1)
