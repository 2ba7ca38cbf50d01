"""Which small vision transformers may be built?"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.base import Architecture, Decision, Shape, Suggests, TappedModel
from search_spaces.errors import KdnasError
from search_spaces.resnet import conv_norm

STAGES = 3
STEMS = ("conv", "patch")


@dataclass(frozen=True)
class ViTSpace:
    """Small vision transformers: patch size, width, depth, heads, MLP ratio and stem.

    Position embeddings are learned, the tokens are averaged instead of a class token, and an image that the patch
    does not divide is padded with zeros. A tap `stage1` … `stage3` follows each third of the blocks (the last ones
    tap the same block where there are fewer than three); it is a map, the tokens folded back to their places, so
    that convolutional networks and transformers can teach each other. Taps: these, `penultimate`, `logits`.

    The stem `patch` is the published one, a linear map of each patch. With it a transformer learns badly by SGD:
    on digits 48 % after 9 epochs and 94 % after 27, where the stem `conv`, with a 3x3 convolution before the patches,
    had 92 % and 98 % (one network of width 24, one seed).

    Source: Dosovitskiy 2021, An Image is Worth 16x16 Words (ICLR); Touvron 2021, Training data-efficient image
    transformers & distillation through attention (ICML); Xiao 2021, Early Convolutions Help Transformers See Better
    (NeurIPS; stem `conv`).

    Args:
        patches: side of the square patches that become tokens.
        widths: numbers in a token.
        depths: blocks.
        heads: attention heads; each must divide every width.
        mlp_ratios: how many times wider the inner layer of a block's MLP is.
        stems: `conv` or `patch`; a decision where both are listed.
    """

    patches: tuple[int, ...] = (2, 4)
    widths: tuple[int, ...] = (12, 16, 24, 32)
    depths: tuple[int, ...] = (2, 3, 4, 6)
    heads: tuple[int, ...] = (1, 2, 4)
    mlp_ratios: tuple[int, ...] = (1, 2, 4)
    stems: tuple[str, ...] = ("conv",)

    def __post_init__(self) -> None:
        for name in ("patches", "widths", "depths", "heads", "mlp_ratios"):
            values = getattr(self, name)
            if not values:
                raise KdnasError("no choice left", field=f"space.{name}", value=[], remedy="list at least one value")
            if min(values) < 1:
                raise KdnasError("values start at 1", field=f"space.{name}", value=list(values))
        if not self.stems or set(self.stems) - set(STEMS):
            known = f"known: {', '.join(STEMS)}"
            raise KdnasError("unknown stem", field="space.stems", value=list(self.stems), remedy=known)
        for heads in self.heads:
            for width in self.widths:
                if width % heads:
                    raise KdnasError(
                        f"does not divide the width {width}",
                        field="space.heads",
                        value=heads,
                        remedy="every number of heads must divide every width: leave out one of the two",
                    )

    def suggest(self, trial: Suggests) -> Architecture:
        """The architecture that the trial's suggestions describe."""
        decisions: dict[str, Decision] = {}
        if len(self.stems) > 1:
            decisions["stem"] = trial.suggest_categorical("stem", self.stems)
        for name, choices in (
            ("patch", self.patches),
            ("width", self.widths),
            ("depth", self.depths),
            ("heads", self.heads),
            ("mlp_ratio", self.mlp_ratios),
        ):
            decisions[name] = trial.suggest_categorical(name, choices)
        return Architecture.of(decisions)

    def build(self, architecture: Architecture, shape: Shape, classes: int) -> TappedModel:
        """A freshly initialised network for inputs of `shape` (channels, height, width)."""
        patch, width, depth, heads, ratio = (
            int(architecture[name]) for name in ("patch", "width", "depth", "heads", "mlp_ratio")
        )
        parts: dict[str, nn.Module] = {"stem": _stem(str(architecture.get("stem", self.stems[0])), shape, patch, width)}
        start = 0
        for stage in range(1, STAGES + 1):
            end = -(-depth * stage // STAGES)  # rounded up, so that stage1 has a block whatever the depth
            blocks = [_Block(width, heads, ratio * width) for _ in range(end - start)]
            parts[f"stage{stage}"] = _OnTokens(nn.Sequential(*blocks))
            start = end
        parts["head"] = _OnTokens(nn.LayerNorm(width))
        return TappedModel(parts, width, classes)

    def taps(self) -> tuple[str, ...]:
        """Names of the taps that every architecture of this space has, from input to output."""
        return (*(f"stage{stage}" for stage in range(1, STAGES + 1)), "penultimate", "logits")


def _stem(kind: str, shape: Shape, patch: int, width: int) -> nn.Module:
    if kind == "patch":
        return _Patches(shape, patch, width)
    # The larger the patch, the fewer channels it reads: else most parameters would lie here.
    inner = max(width // patch, shape[0])
    return nn.Sequential(conv_norm(shape[0], inner, 3), _Patches((inner, *shape[1:]), patch, width))


class _Patches(nn.Module):
    """Image to a map of tokens, each with its place added: `[batch, width, h / patch, w / patch]`."""

    def __init__(self, shape: Shape, patch: int, width: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        lacking_h, lacking_w = -height % patch, -breadth % patch
        # As much on either side as can be.
        self.pad = nn.ZeroPad2d((lacking_w // 2, -(-lacking_w // 2), lacking_h // 2, -(-lacking_h // 2)))
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        grid = ((height + lacking_h) // patch, (breadth + lacking_w) // patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, width, *grid))

    def forward(self, x: Tensor) -> Tensor:
        """Map of the tokens."""
        return self.embed(self.pad(x)) + self.places


class _OnTokens(nn.Module):
    """Lets `body`, which reads tokens `[batch, h * w, width]`, read and write maps `[batch, width, h, w]`."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Map of the changed tokens."""
        return self.body(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class _Block(nn.Module):
    """Attention, then MLP, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def extra_repr(self) -> str:
        """What its weights' shapes do not say."""
        return f"heads={self.heads}"

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `[batch, tokens, width]`."""
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        # [batch, tokens, 3 * width] -> three of [batch, heads, tokens, width / heads]
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))
