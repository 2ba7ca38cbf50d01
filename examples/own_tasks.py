"""Two tasks as a user would write them, named in a configuration by import path; both need scikit-learn only."""

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_diabetes, load_digits

from trainables.augment import Augmentation
from trainables.tasks.base import Data, MultiLabel, Regression, assemble, split, standardised

TRAITS = ("even", "above four", "prime", "closed loop")
SHIFT, NONE = Augmentation(shift=1), Augmentation()
DIGITS_WITH = ((0, 2, 4, 6, 8), (5, 6, 7, 8, 9), (2, 3, 5, 7), (0, 6, 8, 9))


@dataclass(frozen=True)
class TaggedDigits(MultiLabel):
    """Digits with traits of the digit as labels: any number of four holds.

    Args:
        validation: share of the samples that candidates are compared on.
        test: share of the samples kept sealed for the finalists.
        augmentation: transforms that views of the training images are drawn from.
    """

    validation: float = 0.2
    test: float = 0.2
    augmentation: Augmentation = SHIFT

    def load(self, seed: int) -> Data:
        """The data, split by this seed: labels `[N, 4]`, 0 or 1."""
        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = np.stack([np.isin(digits.target, chosen) for chosen in DIGITS_WITH], axis=1).astype(np.float32)
        parts = split(images, labels, TRAITS, validation=self.validation, test=self.test, seed=seed)
        return assemble(*parts, TRAITS)


@dataclass(frozen=True)
class Diabetes(Regression):
    """How far diabetes went on in a year (a number from 25 to 346), from ten measurements of 442 patients.

    Source: Efron 2004, Least Angle Regression.

    Args:
        validation: share of the patients that candidates are compared on.
        test: share of the patients kept sealed for the finalists.
    """

    validation: float = 0.2
    test: float = 0.2
    augmentation: Augmentation = NONE

    def load(self, seed: int) -> Data:
        """The data, split by this seed: rows are images of one pixel, `[N, 10, 1, 1]`; values `[N, 1]`."""
        found = load_diabetes(scaled=False)
        rows = found.data.astype(np.float32)[:, :, None, None]
        values = found.target.astype(np.float32)[:, None]
        parts = split(rows, values, ["progression"], validation=self.validation, test=self.test, seed=seed)
        return standardised(assemble(*parts, ["progression"]))
