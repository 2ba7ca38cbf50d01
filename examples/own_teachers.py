"""A teacher as a user would write it, named in a configuration by import path: no network at all."""

from functools import cache

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC

from trainables.tasks import DigitsTask

SEED = 0  # of the search: the machine must not see what candidates are judged on
LEAST = 1e-6  # probability, so that its logarithm is finite


@cache
def _machine() -> CalibratedClassifierCV:
    known = DigitsTask().load(SEED).train
    return CalibratedClassifierCV(SVC(), ensemble=False).fit(_rows(known.images), known.labels)


def support_vectors(images: np.ndarray) -> np.ndarray:
    """Logits `[batch, 10]` for images of digits `[batch, 1, 8, 8]` uint8."""
    return np.log(_machine().predict_proba(_rows(images)) + LEAST)


def _rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255
