"""Specification of `search_spaces.mlp`; what holds for every space is in test_space_contract."""

import pytest
import torch

from search_spaces import Architecture, KdnasError, MLPSpace

TWO = Architecture.of(
    {"activation": "relu", "stage1.depth": 2, "stage1.width": 8, "stage2.depth": 1, "stage2.width": 4}
)


def test_layers_are_linear_ones_over_all_numbers_of_the_input():
    model = MLPSpace(stages=2).build(TWO, (3, 2, 2), 5).eval()
    weights = [value for name, value in model.named_parameters() if value.dim() == 4]
    assert [tuple(weight.shape) for weight in weights] == [(8, 12, 1, 1), (8, 8, 1, 1), (4, 8, 1, 1)]
    x = torch.randn(6, 3, 2, 2)
    by_hand = x.flatten(1)
    for weight in weights:  # a batch norm that has seen nothing divides by sqrt(1 + 1e-5) alone
        by_hand = torch.relu(by_hand @ weight[:, :, 0, 0].T / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(model(x), model.classifier(by_hand))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stages": 0}, "space.stages"),
        ({"widths": ()}, "space.widths"),
        ({"depths": (0,)}, "space.depths"),
        ({"activations": ("tanh",)}, "space.activations"),
    ],
)
def test_impossible_options_are_refused(options, field):
    with pytest.raises(KdnasError) as caught:
        MLPSpace(**options)
    assert caught.value.field == field
