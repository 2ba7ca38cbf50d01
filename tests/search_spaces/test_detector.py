"""What does a detector of the space answer with?"""

import random

import pytest
import torch

from search_spaces import DetectorSpace, KdnasError, sample
from search_spaces.detector import PRIOR, places


def built(level: int = 2, shape=(3, 64, 96), classes: int = 3):
    torch.manual_seed(0)
    space = DetectorSpace(level=level)
    return space.build(sample(space, random.Random(0)), shape, classes).eval()


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_answer_has_a_row_for_every_place_of_the_level(level):
    model = built(level)
    answer, seen = model.forward_taps(torch.rand(2, 3, 64, 96), ("class_map",))
    grid = (64 // 2**level, 96 // 2**level)
    assert seen["class_map"].shape == (2, 3, *grid)
    assert answer.shape == (2, grid[0] * grid[1], 3 + 5)
    torch.testing.assert_close(answer[..., :3], seen["class_map"].flatten(2).transpose(1, 2))


def test_boxes_lie_around_their_places_and_start_near_the_size_of_one():
    answer = built()(torch.rand(1, 3, 64, 96))[0]
    where, boxes = places(64, 96, 4), answer[:, 3:7]
    assert (boxes[:, :2] < where).all()
    assert (boxes[:, 2:] > where).all()
    assert (boxes[:, 2:] - boxes[:, :2]).mean().item() == pytest.approx(8, rel=0.3)


def test_every_class_is_improbable_before_training():
    assert built()(torch.rand(1, 3, 64, 96))[..., :3].sigmoid().mean().item() == pytest.approx(PRIOR, rel=0.5)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stages": 0}, "space.stages"),
        ({"level": 5}, "space.level"),
        ({"widths": ()}, "space.widths"),
        ({"depths": (0,)}, "space.depths"),
        ({"kernels": (2,)}, "space.kernels"),
        ({"blocks": ("cube",)}, "space.blocks"),
    ],
)
def test_impossible_option_is_refused(options, field):
    with pytest.raises(KdnasError) as caught:
        DetectorSpace(**options)
    assert caught.value.field == field
