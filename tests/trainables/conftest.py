"""A small part of the digits, and a tiny teacher trained on it once."""

from dataclasses import replace

import pytest

from trainables.loop import Normalise
from trainables.tasks import DigitsTask
from trainables.tasks.base import Data, Split
from trainables.teachers import Teacher, TrainedTeacher, train_teacher

TINY = TrainedTeacher(stem=8, widths=(8, 16), depths=(1, 1), epochs=3, batch_size=32, views=2)


@pytest.fixture(scope="session")
def task() -> DigitsTask:
    return DigitsTask()


@pytest.fixture(scope="session")
def data(task) -> Data:
    whole = task.load(0)
    train, validation = (
        Split(part.images[:n], part.labels[:n]) for part, n in ((whole.train, 400), (whole.validation, 200))
    )
    return replace(whole, train=train, validation=validation)


@pytest.fixture(scope="session")
def normalise(data) -> Normalise:
    return Normalise(data.mean, data.std)


@pytest.fixture(scope="session")
def tiny() -> TrainedTeacher:
    return TINY


@pytest.fixture(scope="session")
def teacher(data, task) -> Teacher:
    return train_teacher(TINY, data, task, seed=0, say=lambda line: None)
