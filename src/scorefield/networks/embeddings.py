"""Noise level and condition as one vector per image: waves of c_noise, a small network, the condition added inside.

A network reads its noise level through a number c_noise that varies slowly (log(sigma)/4 in EDM). One number is a poor
input, so it is spread over waves of many frequencies first,

    waves(c) = sqrt(2) (cos(w_1 c), ..., cos(w_n c), sin(w_1 c), ..., sin(w_n c)),      w_i geometric,            (1)

whose entries have mean square 1, and then mixed with the condition by two layers,

    e = silu(B silu(A waves(c_noise) + K condition)).                                                            (2)

K has no bias, so a condition of zeros and no condition are the same thing.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def per_channel(values: Tensor) -> Tensor:
    """Shapes values of each channel to broadcast over an image.

    Args:
        values: one value per row and channel, shape (B, C).

    Returns:
        The same values, shape (B, C, 1, 1).
    """
    return values.unflatten(-1, (-1, 1, 1))


class Waves(nn.Module):
    """Cosines and sines of a number at geometrically spaced angular frequencies, formula (1).

    Args:
        count: number of frequencies n; the result has 2 n entries.
        lowest: smallest angular frequency, in radians per unit of the number.
        highest: largest angular frequency; 2 pi / highest is the finest difference that is told apart easily.

    Reference: Vaswani et al. 2017, section 3.5, arXiv:1706.03762.
    """

    frequencies: Tensor

    def __init__(self, count: int = 32, *, lowest: float = 0.5, highest: float = 32.0) -> None:
        super().__init__()
        spaced = torch.logspace(math.log10(lowest), math.log10(highest), count)
        self.register_buffer("frequencies", spaced, persistent=False)

    def forward(self, number: Tensor) -> Tensor:
        """Spreads each number over the waves.

        Args:
            number: shape (B,).

        Returns:
            Entries with mean square 1, shape (B, 2 n).
        """
        angle = number.unsqueeze(-1) * self.frequencies
        return math.sqrt(2) * torch.cat([angle.cos(), angle.sin()], dim=-1)


class Embedding(nn.Module):
    """Noise level and, if there is one, condition as a vector of features, formula (2).

    Args:
        features: length E of the vector.
        condition_features: length k of the condition; 0 for a network without one.
        waves: number of frequencies that c_noise is spread over.
    """

    def __init__(self, features: int, *, condition_features: int = 0, waves: int = 32) -> None:
        super().__init__()
        self.condition_features = condition_features
        self.waves = Waves(waves)
        self.noise = linear(2 * waves, features)
        self.condition = linear(condition_features, features, bias=False) if condition_features else None
        self.mix = linear(features, features)

    def forward(self, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Embeds noise levels and conditions.

        Args:
            c_noise: noise level as the network reads it, shape (B,) or (1,).
            condition: shape (B, k) or (1, k); None means what a condition of zeros means.

        Returns:
            Shape (B, E), or (1, E) where both arguments have one row.
        """
        hidden = self.noise(self.waves(c_noise))
        if condition is not None:
            if self.condition is None or condition.shape[-1] != self.condition_features:
                raise ValueError(
                    f"the condition has {condition.shape[-1]} features, the network takes {self.condition_features}"
                )
            hidden = hidden + self.condition(condition)
        return functional.silu(self.mix(functional.silu(hidden)))


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer that keeps the mean square of its input: weights N(0, 1/inputs), bias 0."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
