"""A network from image to image that spends its time at low resolution: blocks down, blocks up, a skip at each size.

    x -> pad, patches -> 3x3 -> [blocks, attention?] -> stride 2 -> ... -> [blocks, attention?]
                                     |                                            |
    y <- crop, patches <- 3x3 <- [blocks] <- skip + nearest(1x1) <- ...  <- [blocks]

Each block is a residual with one adaptive scale and shift a, b, made from the embedding e of noise level and condition,

    x + conv(silu((1 + a(e)) norm(conv(silu(norm(x)))) + b(e))).                                                (1)

The second convolution of each block, a, b and the last layer start at zero: a new network gives zeros.

Speed: features are kept channels-last, and the groups of the normalisation are 32 channels wide: in channels-last
bf16 on a CPU, groups narrower than a register (16 channels) are about ten times slower. For bf16, call the network
inside torch.autocast: weights stay float32, and so does the result.

References: Ronneberger et al. 2015, arXiv:1505.04597; residual blocks with adaptive normalisation:
Dhariwal & Nichol 2021, section 3, arXiv:2105.05233.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from scorefield.errors import OptionError
from scorefield.networks.embeddings import Embedding, per_channel

GROUP = 32
"""Channels that are normalised together."""

PRODUCTS = 512
"""Positions up to which attention is cheaper as two plain products than as the fused operator (measured on a CPU)."""


class UNet(nn.Module):
    """Image to image, told a noise level and perhaps a condition; any height and width, odd ones too.

    Args:
        in_channels: channels C of the images.
        channels: features at each resolution, the finest first; each next one is half the size, rounded up.
            Multiples of 32 are fastest.
        blocks: residual blocks at each resolution, on the way down and again on the way up.
        attention: at each resolution, whether one self-attention follows the blocks on the way down.
        patch: side p of the squares of pixels that are folded into channels at the entrance and unfolded at the
            exit; 1 for none.
        head_features: features of each head of attention; must divide the features of resolutions with attention.
        embedding_features: length of the embedding of noise level and condition.
        condition_features: length k of the condition; 0 for a network without one.
        outputs: how many images come out for one, along the axis of the channels.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: Sequence[int] = (64, 128),
        blocks: Sequence[int] = (1, 2),
        attention: Sequence[bool] = (False, True),
        patch: int = 2,
        head_features: int = 32,
        embedding_features: int = 256,
        condition_features: int = 0,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        if not len(channels) == len(blocks) == len(attention) > 0:
            raise OptionError(
                f"one entry per resolution: {len(channels)} channels, {len(blocks)} blocks, {len(attention)} attention"
            )
        least = {"in_channels": (in_channels, 1), "channels": (min(channels), 1), "blocks": (min(blocks), 0)}
        least |= {"patch": (patch, 1), "head_features": (head_features, 1)}
        least |= {"embedding_features": (embedding_features, 1), "condition_features": (condition_features, 0)}
        least |= {"outputs": (outputs, 1)}
        for name, (value, lowest) in least.items():
            if value < lowest:
                raise OptionError(f"{name} must be {lowest} or more, got {value}")
        self.condition_features = condition_features
        self.in_channels = in_channels
        self.patch = patch
        self.embedding = Embedding(embedding_features, condition_features=condition_features)
        self.enter = convolution(in_channels * patch**2, channels[0])
        self.down = nn.ModuleList(
            Stage(width, count, embedding_features, head_features if attends else 0)
            for width, count, attends in zip(channels, blocks, attention, strict=True)
        )
        self.up = nn.ModuleList(
            Stage(width, count, embedding_features, 0) for width, count in zip(channels, blocks, strict=True)
        )
        pairs = list(pairwise(channels))
        self.shrink = nn.ModuleList(convolution(fine, coarse, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(convolution(coarse, fine, kernel=1) for fine, coarse in pairs)
        self.leave_norm = normalisation(channels[0])
        self.leave = convolution(channels[0], outputs * in_channels * patch**2, zero=True)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps images to images of the same shape.

        Args:
            x: images, shape (B, C, H, W).
            c_noise: noise level as the network reads it, shape (B,) or (1,).
            condition: shape (B, k) or (1, k), or None.

        Returns:
            Shape (B, outputs · C, H, W), in the type of x.
        """
        if condition is not None and (condition.ndim != 2 or condition.shape[1] != self.condition_features):
            expected = f"(B, {self.condition_features})" if self.condition_features else "none"
            raise OptionError(f"the condition should have shape {expected}, got {tuple(condition.shape)}")
        height, width = x.shape[-2:]
        embedded = self.embedding(c_noise, condition)
        h = self.enter(self.fold(x)).contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for level, stage in enumerate(self.down):
            h = stage(h, embedded)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                skip = skips.pop()
                h = skip + functional.interpolate(self.grow[level](h), size=skip.shape[-2:], mode="nearest")
            h = self.up[level](h, embedded)
        y = self.leave(functional.silu(self.leave_norm(h))).to(x.dtype)
        return functional.pixel_shuffle(y, self.patch)[..., :height, :width]

    def fold(self, x: Tensor) -> Tensor:
        """Repeats the last row and column until the size is a multiple of p, then makes each p x p square channels.

        Args:
            x: shape (B, C, H, W).

        Returns:
            Shape (B, C p², ⌈H/p⌉, ⌈W/p⌉).
        """
        missing = [-size % self.patch for size in x.shape[-2:]]
        if any(missing):
            x = functional.pad(x, (0, missing[1], 0, missing[0]), mode="replicate")
        return functional.pixel_unshuffle(x, self.patch)


class Stage(nn.Module):
    """What happens at one resolution: residual blocks, then self-attention if head_features is not 0."""

    def __init__(self, channels: int, blocks: int, embedding_features: int, head_features: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels, embedding_features) for _ in range(blocks))
        self.attention = Attention(channels, head_features) if head_features else None

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Maps features x, shape (B, C, H, W), and embedding, shape (B, E) or (1, E), to features of the same shape."""
        for block in self.blocks:
            x = block(x, embedded)
        return x if self.attention is None else self.attention(x)


class Block(nn.Module):
    """A residual of two convolutions, scaled and shifted by the embedding in between, formula (1)."""

    def __init__(self, channels: int, embedding_features: int) -> None:
        super().__init__()
        self.norm = normalisation(channels)
        self.first = convolution(channels, channels)
        self.norm_between = normalisation(channels)
        self.adapt = nn.Linear(embedding_features, 2 * channels)
        self.second = convolution(channels, channels, zero=True)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Maps features x, shape (B, C, H, W), and embedding, shape (B, E) or (1, E), to features of the same shape."""
        h = self.norm_between(self.first(functional.silu(self.norm(x))))
        scale, shift = per_channel(self.adapt(embedded).to(h.dtype)).chunk(2, dim=1)
        return x + self.second(functional.silu(torch.addcmul(shift, h, 1 + scale)))


class Attention(nn.Module):
    """A residual in which each position reads all positions: x + out(softmax(q kᵀ/√d) v), in heads of d features.

    Reference: Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(self, channels: int, head_features: int) -> None:
        super().__init__()
        if channels % head_features:
            raise OptionError(f"heads of {head_features} features do not divide {channels} channels")
        self.head_features = head_features
        self.norm = normalisation(channels)
        self.query_key_value = convolution(channels, 3 * channels, kernel=1, bias=False)
        self.out = convolution(channels, channels, kernel=1, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps features of shape (B, C, H, W) to features of the same shape."""
        rows, channels, height, width = x.shape
        projected = self.query_key_value(self.norm(x)).permute(0, 2, 3, 1)
        heads = projected.reshape(rows, height * width, 3, -1, self.head_features)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        if x.device.type == "cpu" and height * width <= PRODUCTS:
            # torch 2.13's fused operator is seven times slower than this in bf16 on a CPU at 7 x 7.
            weights = (q * self.head_features**-0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
            mixed = weights.to(v.dtype) @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(rows, height, width, channels).permute(0, 3, 1, 2))


def normalisation(channels: int) -> nn.GroupNorm:
    """Normalises groups of 32 channels of each image, or all its channels where 32 does not divide them."""
    return nn.GroupNorm(channels // GROUP if channels % GROUP == 0 else 1, channels)


def convolution(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, bias: bool = True, zero: bool = False
) -> nn.Conv2d:
    """A padded convolution that keeps the mean square of its input (weights N(0, 1/fan-in)), or that starts at zero."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias)
    nn.init.normal_(layer.weight, std=0.0 if zero else (inputs * kernel**2) ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
