"""The embedded default: scikit-learn's digits, nothing to download."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainables.augment import Augmentation
from trainables.tasks.base import Classification, Data, assemble, split

SHIFT = Augmentation(shift=1)


@dataclass(frozen=True)
class DigitsTask(Classification):
    """1,797 scans of handwritten digits, 8x8 grey; ships with scikit-learn.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI).

    Args:
        validation: share of the samples that candidates are compared on.
        test: share of the samples kept sealed for the finalists.
        augmentation: transforms that views of the training images are drawn from.
    """

    pixels: ClassVar[str] = "scikit-learn's 0 to 16, times 255 / 16, rounded"

    validation: float = 0.2
    test: float = 0.2
    augmentation: Augmentation = SHIFT

    def load(self, seed: int) -> Data:
        """The data, split by this seed."""
        # Imported here: it takes 0.8 s and 140 MB in every Ray worker, and only the driver reads data.
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = digits.target.astype(np.int64)
        names = [str(name) for name in digits.target_names]
        return assemble(*split(images, labels, names, validation=self.validation, test=self.test, seed=seed), names)
