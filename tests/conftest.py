"""What holds for every test."""

import torch

# Two threads on 8x8 images wait for each other more than they compute; and some tests run what sets this for a worker's
# own process, so that the same training would differ in its last bits before and after them.
torch.set_num_threads(1)
