"""Are boxes assigned, compared, suppressed and scored as published?"""

import contextlib
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from search_spaces.detector import places, stride_of
from trainables.boxes import (
    RADIUS,
    assign,
    average_precision,
    centreness,
    detection_loss,
    detections,
    focal,
    giou,
)

NAN = float("nan")


def labels(*rows: tuple[float, ...], most: int = 3) -> torch.Tensor:
    found = torch.full((1, most, 5), NAN)
    for index, row in enumerate(rows):
        found[0, index] = torch.tensor(row)
    return found


def test_places_lie_in_the_middle_of_the_squares_of_the_grid():
    assert places(8, 12, 4).tolist() == [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_stride_is_found_from_the_number_of_places(stride):
    assert stride_of(len(places(96, 128, stride)), 96, 128) == stride


def test_stride_of_no_grid_raises():
    with pytest.raises(ValueError, match="no grid"):
        stride_of(7, 96, 128)


def test_focal_loss_is_as_in_the_paper():
    logits, truth = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    p = torch.sigmoid(logits)
    expected = [-0.25 * (1 - p[0]) ** 2 * p[0].log(), -0.75 * p[1] ** 2 * (1 - p[1]).log()]
    torch.testing.assert_close(focal(logits, truth), torch.stack(expected))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 0, 3, 2), 2 / 6),  # the hull has no empty part
        ((0, 0, 1, 1), (2, 0, 3, 1), -1 / 3),  # apart: nothing in common, a third of the hull between them
    ],
)
def test_giou_is_as_in_the_paper(a, b, expected):
    found = giou(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))
    assert found.item() == pytest.approx(expected)


def test_place_answers_for_the_smallest_box_that_it_lies_near_the_middle_of():
    grid = places(32, 32, 8)
    kinds, boxes = assign(labels((0, 0, 0, 32, 32), (1, 8, 8, 16, 16)), grid, 8)
    assert kinds[0].view(4, 4).tolist() == [[-1, -1, -1, -1], [-1, 1, 0, -1], [-1, 0, 0, -1], [-1, -1, -1, -1]]
    assert boxes[0, 5].tolist() == [8, 8, 16, 16]
    assert RADIUS * 8 == 12  # so that the outer places are too far from the middle of the large box


def test_no_place_answers_where_there_is_no_box():
    kinds, _ = assign(labels(), places(32, 32, 8), 8)
    assert (kinds == -1).all()


def test_centreness_is_one_in_the_middle_and_falls_to_the_border():
    box = torch.tensor([[0.0, 0, 8, 8]]).expand(2, -1)
    found = centreness(box, torch.tensor([[4.0, 4], [2.0, 4]]))
    assert found.tolist() == pytest.approx([1.0, (2 / 6) ** 0.5])


def perfect(truth: torch.Tensor, grid: torch.Tensor, stride: int, classes: int) -> torch.Tensor:
    kinds, boxes = assign(truth, grid, stride)
    logits = torch.full((*kinds.shape, classes), -9.0)
    logits[kinds >= 0] = 18.0 * F.one_hot(kinds[kinds >= 0], classes) - 9
    near = centreness(boxes.flatten(0, 1), grid.repeat(len(truth), 1)).view(kinds.shape).nan_to_num(0)
    return torch.cat([logits, boxes.nan_to_num(0), torch.logit(near, eps=1e-3)[..., None]], dim=2)


def test_loss_is_small_for_the_truth_and_large_before_training():
    truth, grid = labels((0, 4, 4, 20, 20), (1, 20, 18, 30, 30)), places(32, 32, 4)
    wrong = torch.zeros(1, len(grid), 7)
    assert detection_loss(perfect(truth, grid, 4, 2), truth, grid, 4) < 0.7  # centre-ness is no yes or no
    assert detection_loss(wrong, truth, grid, 4) > 2


def test_loss_is_finite_and_has_a_gradient_where_there_is_no_box():
    answers = torch.zeros(2, 16, 7, requires_grad=True)
    loss = detection_loss(answers, labels().repeat(2, 1, 1), places(32, 32, 8), 8)
    loss.backward()
    assert torch.isfinite(loss)
    assert answers.grad.abs().sum() > 0


def test_loss_of_a_batch_does_not_depend_on_how_it_is_cut_into_pieces(monkeypatch):
    truth = torch.cat([labels((0, 4, 4, 20, 20)), labels((1, 2, 8, 30, 30)), labels()])
    answers, grid = torch.randn(3, 64, 7, generator=torch.Generator().manual_seed(0)), places(32, 32, 4)
    whole = detection_loss(answers, truth, grid, 4)
    monkeypatch.setattr("trainables.boxes.PIECE", 1)
    torch.testing.assert_close(detection_loss(answers, truth, grid, 4), whole)


def test_truth_is_detected_with_average_precision_one():
    truth, grid = labels((0, 4, 4, 20, 20), (1, 20, 18, 30, 30)), places(32, 32, 4)
    found = detections(perfect(truth, grid, 4, 2))
    assert len(found[0]) == 2  # all other places that answered for the same boxes were suppressed
    assert average_precision(found, truth.numpy(), 2) == pytest.approx(1.0)


def test_of_overlapping_boxes_of_a_class_the_surest_stays_and_other_classes_are_left_alone():
    answers = torch.full((1, 4, 7), -9.0)
    answers[..., 2:6] = torch.tensor([0.0, 0, 10, 10])
    answers[0, 3, 2:6] = torch.tensor([20.0, 20, 30, 30])
    answers[0, :, -1] = 9
    answers[0, 0, 0], answers[0, 1, 0], answers[0, 2, 1], answers[0, 3, 0] = 1.0, 2.0, 1.5, 0.5
    rows = detections(answers)[0]
    assert rows[:, 0].tolist() == [0, 1, 0]
    np.testing.assert_allclose(
        rows[:, 1], torch.sigmoid(torch.tensor([2.0, 1.5, 0.5])) * torch.sigmoid(torch.tensor(9.0))
    )
    assert rows[2, 2:].tolist() == [20, 20, 30, 30]


def test_average_precision_is_zero_where_nothing_is_found_or_there_is_nothing():
    nothing = [np.empty((0, 6), dtype=np.float32)]
    assert average_precision(nothing, labels((0, 1, 1, 5, 5)).numpy(), 2) == 0
    assert average_precision(nothing, labels().numpy(), 2) == 0


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_agrees_with_pycocotools_own_way_of_reading_results(seed):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    truth = np.full((6, 5, 5), NAN, dtype=np.float32)
    for image in range(6):
        for row in range(rng.integers(1, 5)):
            corner = rng.uniform(0, 60, 2)
            truth[image, row] = [rng.integers(3), *corner, *(corner + rng.uniform(8, 40, 2))]
    found = []
    for image in range(6):
        rows = truth[image][truth[image, :, 0] >= 0]
        noisy = np.concatenate(
            [rows[:, :1], rng.random((len(rows), 1)), rows[:, 1:] + rng.normal(0, 2, (len(rows), 4))], axis=1
        )
        found.append(noisy.astype(np.float32))

    def bbox(corners):
        x0, y0, x1, y1 = map(float, corners)
        return [x0, y0, x1 - x0, y1 - y0]

    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO()
        annotations = []
        for image, rows in enumerate(truth):
            for row in rows[rows[:, 0] >= 0]:
                box = bbox(row[1:])
                annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": int(row[0]),
                                    "bbox": box, "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
        real.dataset = {"images": [{"id": i} for i in range(6)], "categories": [{"id": i} for i in range(3)],
                        "annotations": annotations}  # fmt: skip
        real.createIndex()
        results = [{"image_id": image, "category_id": int(row[0]), "score": float(row[1]), "bbox": bbox(row[2:])}
                   for image, rows in enumerate(found) for row in rows]  # fmt: skip
        judge = COCOeval(real, real.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert 0 < judge.stats[0] < 1
    assert average_precision(found, truth, 3) == pytest.approx(judge.stats[0], abs=1e-9)
    assert average_precision(found, truth, 3, [0.5]) == pytest.approx(judge.stats[1], abs=1e-9)
