"""A classification teacher for a detection task: what is it trained on, and how does it answer for every place?

Shapes: N images, K classes of the task, J classes of the classifier, one or more of them for what is no object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Architecture, KdnasError, TappedModel, first_line
from trainables.alignment import UNKNOWN, Alignment, align, listed
from trainables.augment import Augmentation
from trainables.model_files import load_student
from trainables.tasks.base import Classification, Data, Split, assemble, known
from trainables.teachers.trained import TrainedTeacher, network

BACKGROUND = "background"  # class of crops that show no object in their middle
CENTRAL = 0.5  # share of a box's width and height in which the middle of a crop shows the object
MIDDLE = 2  # places a side of the last map that the classifier reads of a crop
FLIP = Augmentation(flip=True)


@dataclass(frozen=True)
class CropsTask(Classification):
    """What lies in the middle of a crop? The task that a classification teacher of a detector is trained on.

    Args:
        teacher: says how crops are cut.
        boxed: data of the detection task that they are cut from.
        augmentation: transforms that views of the crops are drawn from.
    """

    teacher: "ClassifierTeacher"
    boxed: Data = field(repr=False)
    augmentation: Augmentation = FLIP

    def load(self, seed: int) -> Data:
        """The crops, drawn by this seed: see `ClassifierTeacher.cut`."""
        return self.teacher.cut(self.boxed, seed)


@dataclass(frozen=True)
class CropClassifier(TrainedTeacher):
    """A classifier of what lies in the middle of a crop: it reads the middle of its last map, not the whole.

    An average over the whole crop could not tell an object in the middle from one beside it, and there is where the
    answer is read from when it is laid over an image.
    """

    def architecture(self) -> Architecture:
        """Its network, of the same family as the space `resnet`."""
        return Architecture.of({**super().architecture(), "head.middle": MIDDLE})


@dataclass(frozen=True)
class ClassifierTeacher:
    """A classifier of crops, whose output layer is laid over the whole image: one map of logits a class.

    It knows objects, not boxes. Trained here, it learns crops of the training images: `window` pixels around the middle
    of a box, all classes alike often, and as many crops without an object in their middle. Its classifier then becomes
    a 1x1 convolution over the last stage, and its answer for a class the log-odds against all it knows beside it. That
    is the tap `class_map`; its stages are taps too.

    Source: Guo 2021, Distilling Image Classifiers in Object Detectors (a classifier of objects cut out by their boxes
    teaches a detector); Zhou 2016, Learning Deep Features for Discriminative Localization, eq. 2 (class maps); Long
    2015, Fully Convolutional Networks for Semantic Segmentation, section 3.1 (a classifier made convolutional).

    Args:
        path: folder of a classifier that was trained elsewhere (`kdnas teacher train`, or `best` of a run), on images
            in which objects are as large as in this task's; it must have a class beside the task's for what is no
            object. Null to train one here, as the options below say.
        window: side of the crops, pixels of the network's input: about as large as the larger objects.
        crops: training crops, half of them without an object in their middle.
        stem: channels of the first convolution.
        widths: channels of each stage; the first keeps the image's resolution, each later one halves it.
        depths: blocks of each stage.
        block: as of the teacher `trained`.
        epochs: length of its training.
        learning_rate: peak learning rate of SGD with Nesterov momentum.
        weight_decay: L2 penalty.
        batch_size: samples a step.
        views: augmented views of the crops that it sees in turn.
        classes: names of its classes in the order of its logits, where they differ from those in the folder.
        mapping: class of the teacher to class of the task, where the names differ.
    """

    path: Path | None = None
    window: int = 32
    crops: int = 4000
    stem: int = 16
    widths: tuple[int, ...] = (16, 32, 64)
    depths: tuple[int, ...] = (1, 1, 2)
    block: str = "basic"
    epochs: int = 12
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    batch_size: int = 64
    views: int = 2
    classes: tuple[str | int, ...] = ()
    mapping: Mapping[str | int, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("window", 8), ("crops", 16)):
            value = getattr(self, name)
            if value < least:
                raise KdnasError("too small", field=f"teachers.{name}", value=value, remedy=f"at least {least}")
        if self.path is None and (self.classes or self.mapping):
            raise KdnasError(
                "a classifier that is trained here knows the task's classes",
                field="teachers.path",
                value=None,
                remedy="leave classes and mapping out, or name the folder of another classifier",
            )
        self.trained()

    def trained(self) -> CropClassifier:
        """How the classifier itself is trained."""
        names = ("stem", "widths", "depths", "block", "epochs", "learning_rate", "weight_decay", "batch_size", "views")
        return CropClassifier(**{name: getattr(self, name) for name in names})

    def untrained(self, data: Data) -> "DenseClassifier":
        """The teacher as far as it is known before any training, for a detection task's data.

        Raises:
            KdnasError: the folder holds no classifier that can answer for places, or none of the task's classes.
        """
        if self.path is not None:
            return self.adapted(*load_student(Path(self.path)), data)
        names = [*data.classes, _no_object(data.classes)]
        shape = (data.shape[0], self.window, self.window)
        meta = {"classes": names, "mean": data.mean, "std": data.std, "shape": shape}
        return self.adapted(network(self.trained(), shape, len(names)), meta, data)

    def adapted(self, model: nn.Module, meta: Mapping[str, Any], data: Data) -> "DenseClassifier":
        """The classifier with its output layer adapted to a detection task: `meta` as `load_student` reads it.

        Raises:
            KdnasError: it cannot answer for places, reads other channels, or knows none of the task's classes.
        """
        value = str(self.path)
        if meta["shape"][0] != data.shape[0]:
            problem = f"it reads images of {meta['shape'][0]} channels, the task's have {data.shape[0]}"
            raise KdnasError(problem, field="teachers.path", value=value, remedy="use a classifier of such images")
        names = tuple(map(str, self.classes or meta["classes"]))
        alignment = align(names, len(meta["classes"]), data.classes, self.mapping)
        if not alignment.speaks:
            problem = f"it knows none of the task's classes ({listed(data.classes)}); its own are {listed(names)}"
            remedy = "say which of its classes is which of the task's: mapping"
            raise KdnasError(problem, field="teachers.mapping", value=dict(self.mapping), remedy=remedy)
        if not alignment.unused:
            raise KdnasError(
                "every class of this classifier is one of the task's, so it takes every place for an object",
                field="teachers.path",
                value=value,
                remedy="train it with a class of crops without an object, or leave path out to train one here",
            )
        problem = "a classifier can answer for places where it averages maps of any size and ends in a linear layer"
        try:
            if not isinstance(model, TappedModel):
                raise ValueError(type(model).__name__)
            dense = DenseClassifier(model, alignment, (meta["mean"], meta["std"]), (data.mean, data.std)).eval()
            with torch.no_grad():
                dense(torch.zeros(1, *data.shape))
        except (RuntimeError, ValueError) as error:  # such as position embeddings of one size
            remedy = "use one of our convolutional spaces, such as resnet or mobilenet"
            raise KdnasError(
                f"{problem} ({first_line(error)})", field="teachers.path", value=value, remedy=remedy
            ) from error
        return dense

    def cut(self, data: Data, seed: int) -> Data:
        """Crops of a detection task's training and validation images with their classes; the test split stays sealed.

        Raises:
            KdnasError: the boxes leave no place without an object.
        """
        names = [*data.classes, _no_object(data.classes)]
        rng = np.random.default_rng(seed)
        train = _crops(data.train, self.window, self.crops // 2, len(names), rng)
        compared = _crops(data.validation, self.window, self.crops // 8, len(names), rng)
        return assemble(train, compared, Split(compared.images[:0], compared.labels[:0]), names)


class DenseClassifier(nn.Module):
    """A classifier that answers for every place of an image.

    Args:
        model: ends in an average over its last map and a linear layer.
        alignment: of its classes; those that the task lacks are what is no object.
        own: mean and deviation that its inputs were normalised with, a number a channel.
        given: those of the inputs that it gets here.
    """

    other_task = True  # what it answers can be scored by no metric of a detector

    def __init__(
        self,
        model: TappedModel,
        alignment: Alignment,
        own: Sequence[Sequence[float]],
        given: Sequence[Sequence[float]],
    ) -> None:
        super().__init__()
        self.model, self.alignment = model, alignment
        self.taps = (*(name for name in model.taps if name not in ("penultimate", "logits")), "class_map", "logits")
        (mean, std), (to_mean, to_std) = (torch.tensor(part).view(2, -1, 1, 1) for part in (given, own))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", std / to_std)
        self.register_buffer("shift", (mean - to_mean) / to_std)

    def forward(self, x: Tensor) -> Tensor:
        """How surely each class is somewhere in the image, `[batch, K]`: the greatest log-odds of all places.

        Source: Oquab 2015, Is Object Localization for Free?, section 3 (global max pooling).
        """
        return self.forward_taps(x, ())[0]

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The answer `[batch, K]` and the named taps; `class_map` is `[batch, K, h, w]`, `UNKNOWN` if it knows none."""
        seen: dict[str, Tensor] = {}
        x = torch.addcmul(self.shift, x, self.scale)
        for name, part in self.model.parts.items():
            if name != "head":  # it looks at the middle of a crop
                x = seen[name] = part(x)
        head = self.model.classifier
        logits = F.conv2d(x, head.weight[:, :, None, None], head.bias)  # [batch, J, h, w]
        seen["class_map"] = torch.stack([self._odds(logits, source) for source in self.alignment.sources], dim=1)
        seen["logits"] = seen["class_map"].amax(dim=(2, 3))
        return seen["logits"], {name: seen[name] for name in names}

    def _odds(self, logits: Tensor, source: Sequence[int]) -> Tensor:
        """Log-odds of the classes `source` against all others, `[batch, h, w]`."""
        if not source:
            return torch.full_like(logits[:, 0], UNKNOWN)
        others = [index for index in range(logits.shape[1]) if index not in source]
        return logits[:, list(source)].logsumexp(dim=1) - logits[:, others].logsumexp(dim=1)


def _no_object(classes: Sequence[str]) -> str:
    """Name of the class of crops without an object, which is none of the task's."""
    name = BACKGROUND
    while name in classes:
        name = f"no {name}" if name == BACKGROUND else f"{name}_"
    return name


def _crops(split: Split, window: int, half_of_all: int, classes: int, rng: np.random.Generator) -> Split:
    """As many crops of objects, every class alike often, as of none (the last class); one without a box has none."""
    there = known(split.labels)  # of the others it is not known where there is no object
    split = split if there.all() else Split(split.images[there], split.labels[there])
    spots = [_spots(split.labels, kind, half_of_all // (classes - 1), rng) for kind in range(classes - 1)]
    spots.append(_empty_spots(split, half_of_all, rng))
    half = window // 2
    padded = np.pad(split.images, ((0, 0), (0, 0), (half, window - half), (half, window - half)))
    where = np.concatenate(spots)
    images = np.stack([padded[image, :, y : y + window, x : x + window] for image, x, y in where])
    kinds = np.repeat(np.arange(classes), [len(part) for part in spots])
    order = rng.permutation(len(kinds))
    return Split(images[order], kinds[order].astype(np.int64))


def _spots(labels: np.ndarray, kind: int, each: int, rng: np.random.Generator) -> np.ndarray:
    """(image, x, y) near the middle of `each` boxes of a class, drawn so that every box comes about alike often."""
    images, rows = np.nonzero(labels[..., 0] == kind)
    if not len(images):
        return np.empty((0, 3), dtype=np.int64)
    drawn = np.resize(rng.permutation(len(images)), each)
    boxes = labels[images[drawn], rows[drawn], 1:]
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    jittered = middle + CENTRAL / 2 * sides * rng.uniform(-1, 1, (each, 2))
    return np.concatenate([images[drawn][:, None], jittered.astype(np.int64)], axis=1)


def _empty_spots(split: Split, each: int, rng: np.random.Generator) -> np.ndarray:
    """(image, x, y) that lie in the central part of no box."""
    count, (height, width) = len(split), split.images.shape[2:]
    found: list[np.ndarray] = []
    for _ in range(100):
        images = rng.integers(count, size=each)
        spots = np.stack([rng.integers(width, size=each), rng.integers(height, size=each)], axis=1)
        boxes = split.labels[images, :, 1:]  # [each, M, 4]
        middle, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        inside = (np.abs(spots[:, None] + 0.5 - middle) < CENTRAL / 2 * sides).all(axis=2)  # NaN is not inside
        free = ~inside.any(axis=1)
        found.append(np.concatenate([images[:, None], spots], axis=1)[free])
        if sum(map(len, found)) >= each:
            return np.concatenate(found)[:each]
    raise KdnasError(
        "the boxes leave no place without an object, so that a classifier could not tell what is none",
        field="teachers.name",
        value="classifier",
        remedy="check the boxes: they may be in other units than pixels",
    )
