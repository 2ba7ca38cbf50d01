"""Which place answers for which box, how far is an answer from the truth, and which answers remain?

Boxes are (x0, y0, x1, y1) in pixels of the input, labels rows of (class, x0, y0, x1, y1), NaN where there is no box.
Shapes: B images, P places, M boxes an image, K classes.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces import KdnasError, first_line

RADIUS = 1.5  # places farther from a box's centre than so many strides do not answer for it
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
CANDIDATES = 300  # answers an image before suppression
LEAST_SCORE = 0.02
SAME = 0.6  # IoU from which two boxes of a class are one object, as in FCOS
MOST = 100  # detections an image, as COCO counts
PIECE = 64  # images at a time
COCO_IOUS = np.linspace(0.5, 0.95, 10)


def detection_loss(answers: Tensor, labels: Tensor, places: Tensor, stride: int) -> Tensor:
    """Focal loss of the classes, GIoU loss of the boxes and binary cross-entropy of the centre-ness, summed; a scalar.

    The focal loss is a sum over places by the number of places that answer for a box; boxes count by the centre-ness
    that their place should have.

    Source: Tian 2019, FCOS, eqs. 2 and 3; Lin 2017, Focal Loss for Dense Object Detection, eq. 5; Rezatofighi 2019,
    Generalized Intersection over Union, algorithm 1.

    Args:
        answers: `[B, P, K + 5]`: class logits, box, centre-ness logit.
        labels: `[B, M, 5]`.
        places: their centres `[P, 2]`.
        stride: distance of neighbouring places, pixels.
    """
    parts = [assign(piece, places, stride) for piece in labels.split(PIECE)]
    classes, boxes = (torch.cat([part[index] for part in parts]) for index in (0, 1))
    there = classes >= 0
    logits, found, centre = answers[..., :-5], answers[..., -5:-1], answers[..., -1]
    truth = F.one_hot(classes.clamp_min(0), logits.shape[2]) * there[..., None]
    count = there.sum().clamp_min(1)
    wanted = centreness(boxes[there], places.expand(len(answers), -1, -1)[there])
    overlap = ((1 - giou(found[there], boxes[there])) * wanted).sum() / wanted.sum().clamp_min(1e-6)
    near = F.binary_cross_entropy_with_logits(centre[there], wanted, reduction="sum") / count
    return focal(logits, truth.to(logits.dtype)).sum() / count + overlap + near


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Focal loss of each logit; both of one shape, truth 0 or 1.

    Source: Lin 2017, Focal Loss for Dense Object Detection, eq. 5.
    """
    right = torch.where(truth > 0, logits, -logits)
    weight = torch.where(truth > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    return -weight * torch.sigmoid(-right) ** FOCAL_GAMMA * F.logsigmoid(right)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union of boxes, pair by pair: `[N, 4]` twice to `[N]`, -1 to 1.

    Source: Rezatofighi 2019, Generalized Intersection over Union, algorithm 1.
    """
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(dim=1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1).clamp_min(1e-6)
    either = (_areas(a) + _areas(b) - both).clamp_min(1e-6)
    return both / either - (hull - either) / hull


def assign(labels: Tensor, places: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The class `[B, P]` (-1 for none) and the box `[B, P, 4]` that every place answers for.

    A place answers for the smallest box that it lies in, if it is near its centre.

    Source: Tian 2019, FCOS, section 3.1 (the smallest box); its centre sampling, as in the authors' later code.

    Args:
        labels: `[B, M, 5]`.
        places: `[P, 2]`.
        stride: of the grid, pixels.
    """
    boxes = labels[:, None, :, 1:]  # [B, 1, M, 4]
    x, y = places[None, :, None, 0], places[None, :, None, 1]
    inside = (x > boxes[..., 0]) & (y > boxes[..., 1]) & (x < boxes[..., 2]) & (y < boxes[..., 3])
    middle = [(boxes[..., axis] + boxes[..., axis + 2]) / 2 for axis in (0, 1)]
    near = ((x - middle[0]).abs() < RADIUS * stride) & ((y - middle[1]).abs() < RADIUS * stride)
    size = _areas(boxes).expand(inside.shape).masked_fill(~(inside & near), torch.inf)  # NaN is near nothing
    smallest, index = size.min(dim=2)
    chosen = labels.gather(1, index[..., None].expand(-1, -1, 5))
    there = smallest < torch.inf
    return torch.where(there, chosen[..., 0], -1.0).long(), chosen[..., 1:]


def centreness(boxes: Tensor, places: Tensor) -> Tensor:
    """How near each place is to the centre of its box, 0 to 1, `[N]`; boxes `[N, 4]`, places in them `[N, 2]`.

    Source: Tian 2019, FCOS, eq. 3.
    """
    before, after = places - boxes[:, :2], boxes[:, 2:] - places
    return (torch.minimum(before, after) / torch.maximum(before, after).clamp_min(1e-6)).clamp_min(0).prod(dim=1).sqrt()


def detections(answers: Tensor) -> list[np.ndarray]:
    """What is found in each image: rows of (class, score, x0, y0, x1, y1), the surest first, `[D, 6]` float32.

    The score is the probability of the class times the centre-ness; of boxes of a class that overlap the surest stays.

    Source: Tian 2019, FCOS, section 3.4; greedy non-maximum suppression.

    Args:
        answers: `[B, P, K + 5]`.
    """
    return [row for piece in answers.detach().float().split(PIECE) for row in _detected(piece)]


def average_precision(
    found: Sequence[np.ndarray], labels: np.ndarray, classes: int, ious: Sequence[float] | np.ndarray = COCO_IOUS
) -> float:
    """Mean over classes and IoU thresholds of COCO's average precision, 0 to 1; 0 where there is no box at all.

    Source: Lin 2014, Microsoft COCO: Common Objects in Context; computed by pycocotools.

    Args:
        found: of each image, as `detections` answers.
        labels: `[N, M, 5]`.
        classes: how many, K; one without a box in these labels does not count.
        ious: thresholds; `[0.5]` for AP50.

    Raises:
        KdnasError: pycocotools is not installed.
    """
    coco, evaluation = _pycocotools()
    rows = np.array([(number, *row) for number, part in enumerate(found) for row in part]).reshape(-1, 7)
    truth = [(number, row[0], 1.0, *row[1:]) for number, part in enumerate(labels) for row in part if row[0] >= 0]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        sides = []
        for side in (np.array(truth).reshape(-1, 7), rows):
            made = coco()
            made.dataset = _as_coco(side, len(labels), classes)
            made.createIndex()
            sides.append(made)
        judge = evaluation(*sides, "bbox")
        judge.params.iouThrs = np.asarray(ious)
        judge.params.areaRng, judge.params.areaRngLbl, judge.params.maxDets = [[0, 1e10]], ["all"], [MOST]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]
    known = precision[precision > -1]
    return float(known.mean()) if known.size else 0.0


def check_evaluation() -> None:
    """Refuses a detection task where its metric cannot be computed.

    Raises:
        KdnasError: pycocotools is not installed.
    """
    _pycocotools()


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise KdnasError(
            f"its metric needs pycocotools ({first_line(error)})",
            field="task.name",
            value="detection",
            remedy='pip install "kdnas_ray[detection]"',
        ) from error
    return COCO, COCOeval


def _as_coco(rows: np.ndarray, images: int, classes: int) -> dict[str, Any]:
    """Rows of (image, class, score, x0, y0, x1, y1) as COCO writes them; ids start at 1: 0 means unmatched there."""
    annotations = [
        {
            "id": number,
            "image_id": int(image),
            "category_id": int(category),
            "score": score,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
        }
        for number, (image, category, score, x0, y0, x1, y1) in enumerate(rows.tolist(), start=1)
    ]
    return {
        "images": [{"id": number} for number in range(images)],
        "categories": [{"id": number} for number in range(classes)],
        "annotations": annotations,
    }


def _detected(answers: Tensor) -> list[np.ndarray]:
    scores = answers[..., :-5].sigmoid() * answers[..., -1:].sigmoid()  # [B, P, K]
    classes = scores.shape[2]
    best, index = scores.flatten(1).topk(min(CANDIDATES, scores[0].numel()), dim=1)
    kinds, places = index % classes, index // classes
    boxes = answers[..., -5:-1].gather(1, places[..., None].expand(-1, -1, 4))
    kept = _suppressed(boxes, kinds, best >= LEAST_SCORE)
    rows = torch.cat([kinds[..., None].float(), best[..., None], boxes], dim=2).numpy()
    return [row[keep][:MOST] for row, keep in zip(rows, kept.numpy(), strict=True)]


def _suppressed(boxes: Tensor, kinds: Tensor, alive: Tensor) -> Tensor:
    """Which boxes remain, `[B, N]` bool: `[B, N, 4]` sorted by score, their classes and which may remain `[B, N]`."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    both = (high - low).clamp_min(0).prod(dim=3)
    area = _areas(boxes)
    either = area[:, :, None] + area[:, None] - both
    clash = (both > SAME * either) & (kinds[:, :, None] == kinds[:, None])
    kept = alive.clone()
    for rank in range(boxes.shape[1] - 1):  # in step for all images
        kept[:, rank + 1 :] &= ~(clash[:, rank, rank + 1 :] & kept[:, rank : rank + 1])
    return kept


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
