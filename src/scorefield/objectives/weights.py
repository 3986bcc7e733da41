"""Weights w(t) of a loss, as functions of the noise level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.noise import NoiseLevel

Weight = Callable[[NoiseLevel], Tensor]


def one(level: NoiseLevel) -> Tensor:
    """w = 1."""
    return torch.ones_like(level.sigma)


def sigma_squared(level: NoiseLevel) -> Tensor:
    """w = σ²: makes the loss in the score the loss in ε (Song & Ermon 2019, §4.2, arXiv:1907.05600)."""
    return level.sigma**2


def diffusion_squared(level: NoiseLevel) -> Tensor:
    """w = g², for the loss in the score: maximum likelihood (Song et al. 2021, Theorem 1, arXiv:2101.09258)."""
    return level.diffusion_squared


def half_snr_slope(level: NoiseLevel) -> Tensor:
    """w = −½ d log snr/dt = σ′/σ − α′/α, for the loss in ε: the bound in continuous time.

    Kingma et al. 2021, Eq. 17 with their γ = −log snr, arXiv:2107.00630. It is g²/(2σ²), so half of
    `diffusion_squared` in the score.
    """
    return level.d_sigma / level.sigma - level.drift


WEIGHTS: dict[str, Weight] = {
    "one": one,
    "sigma_squared": sigma_squared,
    "diffusion_squared": diffusion_squared,
    "half_snr_slope": half_snr_slope,
}
