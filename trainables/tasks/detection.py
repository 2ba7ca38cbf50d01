"""How does a data set of images with boxes become a task: where is which object?"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from search_spaces.detector import places, stride_of
from trainables.augment import Augmentation
from trainables.box_files import Boxed, read_boxed, refusal
from trainables.boxes import COCO_IOUS, average_precision, check_evaluation, detection_loss, detections
from trainables.tasks.base import Data, Split, Targets, assemble, split

logger = logging.getLogger(__name__)

FLIP_AND_SHIFT = Augmentation(flip=True, shift=8)
MULTIPLE = 32  # of both sides: every stage of a backbone divides them evenly
IOUS = {"AP50": (0.5,), "COCO mAP": tuple(COCO_IOUS.tolist())}


@dataclass(frozen=True)
class DetectionTask:
    """Boxes around objects: a Parquet file (or a folder of them), or a COCO JSON file with its images.

    Parquet has a list of boxes [x0, y0, x1, y1] in pixels and a list of classes for each image. Images keep their
    proportions: they are fitted into the upper left of `size`, the rest is black. Boxes of no area or outside their
    image are left out with a warning that names them, those that reach beyond it are cut. Crowds of COCO are left out.
    Images without boxes are learned from too. Networks come from the space `detector`, the teacher is a `classifier`.

    Source: Lin 2014, Microsoft COCO: Common Objects in Context; Tian 2019, FCOS: Fully Convolutional One-Stage Object
    Detection (loss).

    Args:
        path: Parquet file, folder of them, COCO JSON file, or a folder with one JSON file.
        test_path: where the test split is, if it is apart; `test` is then ignored.
        images: folder of the images that a COCO JSON file names; null for the file's own.
        test_images: the same for `test_path`.
        image_column: column of the images in Parquet.
        box_column: column of the boxes in Parquet.
        label_column: column of the classes of the boxes in Parquet, names or whole numbers from 0.
        classes: names of the classes; in the order of their numbers where a Parquet file has numbers, else those to
            find, the others are left out. Empty for all that have a box.
        size: height and width of the network's input, multiples of 32.
        rank_by: `AP50` (average precision at an IoU of 0.5) or `COCO mAP` (mean over 0.5 to 0.95).
        most_bad: share of the images, and of the boxes, that may be unusable.
        validation: share of the images that candidates are compared on.
        test: share of the images kept sealed for the finalists.
        augmentation: `flip` and `shift`, which boxes follow, and `cutout`.
    """

    targets: ClassVar[Targets] = "boxes"

    path: Path
    test_path: Path | None = None
    images: Path | None = None
    test_images: Path | None = None
    image_column: str = "image"
    box_column: str = "boxes"
    label_column: str = "labels"
    classes: tuple[str, ...] = ()
    size: tuple[int, int] = (128, 128)
    rank_by: Literal["AP50", "COCO mAP"] = "AP50"
    most_bad: float = 0.01
    validation: float = 0.1
    test: float = 0.2
    augmentation: Augmentation = FLIP_AND_SHIFT

    def __post_init__(self) -> None:
        if min(self.size) < MULTIPLE or any(side % MULTIPLE for side in self.size):
            raise refusal("not possible", "size", list(self.size), f"height and width are multiples of {MULTIPLE}")
        if not 0 <= self.most_bad <= 0.5:
            raise refusal("not possible", "most_bad", self.most_bad, "stay between 0 and 0.5")
        if len(set(self.classes)) < len(self.classes):
            raise refusal("a class comes twice", "classes", list(self.classes), "name each once")
        for name in ("crop", "time_shift", "time_mask", "frequency_mask"):
            if getattr(self.augmentation, name):
                value, remedy = getattr(self.augmentation, name), "choose among flip, shift and cutout"
                raise refusal("boxes do not follow it", f"augmentation.{name}", value, remedy)

    @property
    def metric_name(self) -> str:
        """The metric in a word or two, for people."""
        return self.rank_by

    def load(self, seed: int) -> Data:
        """The data, split by this seed.

        Raises:
            KdnasError: names the path, column, record or class that cannot be used; or pycocotools is missing.
        """
        check_evaluation()
        found = _read(self, self.path, self.images, "path")
        held_out: float | Split = self.test
        if self.test_path is not None:
            other = _read(self, self.test_path, self.test_images, "test_path", found.classes)
            held_out = Split(other.images, other.labels)
        parts = split(found.images, found.labels, found.classes, validation=self.validation, test=held_out, seed=seed)
        for name, part in zip(("train", "validation", "test"), parts, strict=True):
            _check_each_class(name, part.labels, found.classes, self)
        return assemble(*parts, found.classes)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss on the true boxes, a scalar: `trainables.boxes.detection_loss`; `[batch, P, K + 5]`, `[batch, M, 5]`."""
        stride = stride_of(logits.shape[1], *self.size)
        return detection_loss(logits, labels, places(*self.size, stride).to(logits.device), stride)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """What candidates are ranked on, by `rank_by`, 0 to 1; `[N, P, K + 5]` and `[N, M, 5]`."""
        return self.scores(logits, labels, (self.rank_by,))[self.rank_by]

    def scores(self, logits: Tensor, labels: Tensor, names: Sequence[str] = tuple(IOUS)) -> dict[str, float]:
        """AP50 and COCO mAP by name, 0 to 1; `[N, P, K + 5]` and `[N, M, 5]`."""
        found, truth = detections(logits), labels.numpy()
        return {name: average_precision(found, truth, logits.shape[2] - 5, IOUS[name]) for name in names}


def _read(task: DetectionTask, path: Path, images: Path | None, option: str, known: Sequence[str] = ()) -> Boxed:
    found = read_boxed(path, images, task, option, known)
    for remark in found.remarks:
        logger.warning("%s", remark)
    return found


def _check_each_class(name: str, labels: np.ndarray, classes: Sequence[str], task: DetectionTask) -> None:
    seen = labels[..., 0]
    counts = np.bincount(seen[seen >= 0].astype(np.int64), minlength=len(classes))
    if counts.min() > 0:
        return
    missing = classes[int(counts.argmin())]
    option = "test_path" if name == "test" and task.test_path else "test" if name == "test" else "validation"
    raise refusal(
        f"class {missing!r} has no box in the {len(labels)} images of the {name} split",
        option,
        str(task.test_path) if option == "test_path" else getattr(task, option),
        "choose another seed or a larger share, or leave the class out (task.classes)",
    )
