"""Specification of `search_spaces.vit_tiny`."""

import random

import pytest
import torch
from torch import nn

from search_spaces import Architecture, KdnasError, ViTSpace, sample, tap_shapes
from search_spaces.vit_tiny import _Block, _OnTokens

PATCHES = ViTSpace(stems=("patch",))  # the published stem


def architecture(patch=2, width=16, depth=3, heads=2, mlp_ratio=2) -> Architecture:
    return Architecture.of({"patch": patch, "width": width, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio})


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_are_the_published_5717416_of_deit_tiny_less_its_class_token():
    # Touvron 2021, table 1: DeiT-Ti has width 192, depth 12, 3 heads; timm counts 5,717,416 at 224 pixels and patch 16.
    with torch.device("meta"):
        model = PATCHES.build(architecture(16, 192, 12, 3, 4), (3, 224, 224), 1000)
    assert size(model) == 5_717_416 - 2 * 192  # the token and its place


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_block_answers_as_torchs_own_encoder_layer_with_the_same_weights(heads):
    ours = _Block(16, heads, 24)
    theirs = nn.TransformerEncoderLayer(
        16, heads, 24, dropout=0, activation="gelu", batch_first=True, norm_first=True
    ).train()
    pairs = {
        "self_attn.in_proj": "qkv", "self_attn.out_proj": "out", "linear1": "mlp.0", "linear2": "mlp.2",
        "norm1": "norm1", "norm2": "norm2",
    }  # fmt: skip
    own = ours.state_dict()
    theirs.load_state_dict(
        {
            their + ("_" if their.endswith("in_proj") else ".") + kind: torch.randn_like(own[f"{our}.{kind}"]) / 4
            for their, our in pairs.items()
            for kind in ("weight", "bias")
        }
    )
    copied = theirs.state_dict()
    ours.load_state_dict(
        {
            f"{our}.{kind}": copied[their + ("_" if their.endswith("in_proj") else ".") + kind]
            for their, our in pairs.items()
            for kind in ("weight", "bias")
        }
    )
    tokens = torch.randn(3, 10, 16)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)


def test_stem_conv_puts_a_small_convolution_before_the_patches():
    plain, conv = (space.build(architecture(patch=4), (1, 8, 8), 5) for space in (PATCHES, ViTSpace()))
    inner = 16 // 4
    # 3x3 convolution with batch norm, and patches of `inner` channels instead of one.
    assert size(conv) - size(plain) == 9 * inner + 2 * inner + (inner - 1) * 4 * 4 * 16


def test_stem_is_a_decision_where_there_are_two():
    space = ViTSpace(stems=("conv", "patch"))
    assert {sample(space, random.Random(seed))["stem"] for seed in range(20)} == {"conv", "patch"}
    assert "stem" not in sample(ViTSpace(), random.Random(0))
    patch = Architecture.of({"stem": "patch", **architecture()})
    assert size(space.build(patch, (1, 8, 8), 5)) == size(PATCHES.build(architecture(), (1, 8, 8), 5))


def test_taps_are_maps_on_the_grid_of_patches_also_where_the_image_is_padded():
    model = ViTSpace().build(architecture(patch=4), (3, 9, 7), 5)
    shapes = {"stage1": (16, 3, 2), "stage2": (16, 3, 2), "stage3": (16, 3, 2), "penultimate": (16,), "logits": (5,)}
    assert tap_shapes(model, (3, 9, 7), model.taps) == shapes


def test_stem_embeds_each_patch_at_its_place():
    stem = PATCHES.build(architecture(patch=4), (1, 8, 8), 5).parts["stem"]
    images = torch.rand(2, 1, 8, 8)
    lower_left = images[:, :, 4:, :4].flatten(1) @ stem.embed.weight.flatten(1).T + stem.embed.bias
    torch.testing.assert_close(stem(images)[:, :, 1, 0], lower_left + stem.places[:, :, 1, 0])


def test_tokens_are_folded_back_to_where_they_came_from():
    maps = torch.rand(2, 5, 3, 4)
    torch.testing.assert_close(_OnTokens(nn.Identity())(maps), maps)
    # Channels last in memory, as a trial may lay it out.
    torch.testing.assert_close(_OnTokens(nn.Identity())(maps.to(memory_format=torch.channels_last)), maps)


@pytest.mark.parametrize(
    ("depth", "blocks"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (7, (3, 2, 2))]
)
def test_blocks_are_shared_out_among_three_stages(depth, blocks):
    model = ViTSpace().build(architecture(depth=depth), (1, 8, 8), 5)
    assert tuple(len(model.parts[f"stage{stage}"].body) for stage in (1, 2, 3)) == blocks
    _, seen = model.forward_taps(torch.rand(2, 1, 8, 8), model.taps)
    for stage, more in zip((2, 3), blocks[1:], strict=True):
        assert torch.equal(seen[f"stage{stage}"], seen[f"stage{stage - 1}"]) is (more == 0)


@pytest.mark.parametrize("patch", [1, 5, 16])
def test_every_patch_size_answers_whatever_the_image(patch):
    model = ViTSpace().build(architecture(patch=patch), (3, 7, 4), 5)
    assert model(torch.rand(2, 3, 7, 4)).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"patches": ()}, "space.patches"),
        ({"widths": (0,)}, "space.widths"),
        ({"depths": (0,)}, "space.depths"),
        ({"mlp_ratios": (-1,)}, "space.mlp_ratios"),
        ({"stems": ()}, "space.stems"),
        ({"stems": ("conv", "linear")}, "space.stems"),
        ({"heads": (3,), "widths": (12, 16)}, "space.heads"),
    ],
)
def test_space_refuses_impossible_options_with_the_field(options, field):
    with pytest.raises(KdnasError) as caught:
        ViTSpace(**options)
    assert caught.value.field == field
