"""What holds for every test."""

import os

import pytest
import ray
import torch

from kdnas_ray.environment import TUNE_SETTINGS

# Two threads on 8x8 images wait for each other more than they compute; and some tests run what sets this for a worker's
# own process, so that the same training would differ in its last bits before and after them.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_ray():
    """A Ray of two cores that all searches of a file use; without it each starts its own."""
    os.environ.update(TUNE_SETTINGS)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**29)
    yield
    ray.shutdown()
