"""What every evaluator is given: a small bank of digits with the teacher's features, worked on in this process."""

from dataclasses import replace

import pytest

from search_spaces import NASBench201Space
from trainables import bank as banks
from trainables.distill import Shared
from trainables.evaluators.base import Workshop


@pytest.fixture(scope="session")
def tapped_bank(data, task, teacher, normalise):
    return banks.build(
        data.train,
        [teacher.model],
        normalise,
        augmentation=task.augmentation,
        views=2,
        seed=0,
        taps=("stage1", "stage2", "penultimate"),
    )


@pytest.fixture(scope="session")
def shared(tapped_bank, data, task) -> Shared:
    return Shared(
        bank=tapped_bank,
        validation=data.validation,
        task=task,
        space=NASBench201Space(width=4),
        mean=data.mean,
        std=data.std,
        classes=10,
        rungs=(1, 2, 4),
        checkpoints="nowhere",
    )


@pytest.fixture
def workshop(shared, tmp_path):
    """Makes a workshop on a space; `said` and `calls` show what an evaluator did."""

    def make(space=None, keeps=lambda architecture: True):
        own = shared if space is None else replace(shared, space=space)
        said, calls = [], []

        def each(function, arguments):
            calls.append(len(arguments))
            return [function(*values) for values in arguments]

        made = Workshop(own, own, each, keeps, tmp_path / "evaluator", 0, said.append)
        object.__setattr__(made, "said", said)
        object.__setattr__(made, "calls", calls)
        return made

    return make
