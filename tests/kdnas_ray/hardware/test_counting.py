"""Specification of `kdnas_ray.hardware.counting`: parameters and FLOPs of small networks, by hand."""

import subprocess
import sys

import optuna
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdnas_ray.hardware.counting import count, count_model, is_light
from search_spaces import SPACES, Architecture, ResNetSpace


@pytest.mark.parametrize(
    ("build", "shape", "params", "flops"),
    [
        # 3 * 5 weights and 5 biases; a multiply-add a weight, the bias is not counted.
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 5)), (3, 1, 1), 3 * 5 + 5, 2 * 3 * 5),
        # 3x3 kernel, 2 to 4 channels, 6x6 outputs.
        (lambda: nn.Conv2d(2, 4, 3, padding=1, bias=False), (2, 6, 6), 4 * 2 * 9, 2 * 4 * 2 * 9 * 36),
        # Stride 2 quarters the outputs.
        (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 6, 6), 4 * 2 * 9 + 4, 2 * 4 * 2 * 9 * 9),
        # Depthwise: each channel reads only itself.
        (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (4, 5, 5), 4 * 9, 2 * 4 * 9 * 25),
        # Batch norm has two parameters a channel (its running statistics are none) and counts no FLOPs.
        (lambda: nn.BatchNorm2d(7), (7, 4, 4), 14, 0),
    ],
)
def test_counts_when_computed_by_hand_then_agree(build, shape, params, flops):
    expected = {"params": params, "flops": flops}
    assert count(build, shape) == expected
    assert count(build, shape, light=True) == expected
    assert count_model(build(), shape) == expected


@pytest.mark.parametrize("name", list(SPACES))
def test_counts_when_run_on_zeros_then_those_of_the_meta_device_and_of_torchs_own_counter(name):
    space, shape = SPACES[name](), (1, 40, 40) if name == "speech" else (3, 32, 32)
    architecture = space.suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask())
    drawn = torch.random.get_rng_state()
    counts = count(lambda: space.build(architecture, shape, 10), shape, light=True)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert counts == count(lambda: space.build(architecture, shape, 10), shape)
    with torch.device("meta"):
        model, image = space.build(architecture, shape, 10).eval(), torch.empty(1, *shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    assert counts["flops"] == counter.get_total_flops()


class _Sequence(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.layer(tokens, tokens, tokens)[0]
        return self.layer(tokens)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        lambda: nn.MultiheadAttention(16, 2, batch_first=True),
        lambda: nn.LSTM(16, 8, batch_first=True),
        lambda: nn.GRU(16, 8, batch_first=True),
    ],
    ids=["encoder", "attention", "lstm", "gru"],
)
def test_counts_when_an_operator_is_fused_on_the_cpu_then_those_of_the_meta_device(layer):
    shape = (16, 4, 5)
    counts = count(lambda: _Sequence(layer()), shape)
    assert counts["flops"] > 2 * 16 * 16 * 20  # at least one product of all tokens with a matrix
    assert count(lambda: _Sequence(layer()), shape, light=True) == counts
    assert count_model(_Sequence(layer()), shape) == counts
    assert torch.backends.mha.get_fastpath_enabled()


def test_light_when_a_student_is_small_then_so_and_a_big_network_is_not():
    assert is_light({"params": 100_000, "flops": 10_000_000})
    assert not is_light({"params": 100_000, "flops": 4_000_000_000})
    assert not is_light({"params": 25_000_000, "flops": 10_000_000})


def test_counts_when_a_resnet_of_one_block_then_agree_with_the_sum_of_its_layers():
    space = ResNetSpace(stages=1)
    architecture = Architecture.of(
        {"stem.width": 4, "stage1.depth": 1, "stage1.width": 6, "stage1.kernel": 3, "stage1.block": "basic"}
    )
    convolutions = [(1, 4, 3), (4, 6, 3), (6, 6, 3), (4, 6, 1)]  # stem, two of the block, shortcut; all on 8x8
    weights = sum(a * b * k * k for a, b, k in convolutions)
    norms = 2 * (4 + 6 + 6 + 6)
    assert count(lambda: space.build(architecture, (1, 8, 8), 10), (1, 8, 8)) == {
        "params": weights + norms + 6 * 10 + 10,
        "flops": 2 * 64 * weights + 2 * 6 * 10,
    }


def test_count_when_a_network_is_huge_then_costs_no_memory():
    assert count(lambda: nn.Sequential(nn.Flatten(), nn.Linear(10**6, 10**6)), (1, 1000, 1000)) == {
        "params": 10**12 + 10**6,
        "flops": 2 * 10**12,
    }


def test_count_model_when_it_was_run_then_its_weights_and_statistics_stay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_model(model, (1, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_count_when_it_ran_then_torch_has_not_loaded_its_compiler():
    program = (
        "import sys; from torch import nn; from kdnas_ray.hardware.counting import count; "
        "count(lambda: nn.Conv2d(1, 2, 3), (1, 8, 8), light=True); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
