"""A level in polar coordinates: the deviation r of x_t, and the angle θ between data and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.noise import NoiseLevel

# Torch's atan2 and hypot differ in the last place with the number of rows; these do not.


def radius(level: NoiseLevel, sigma_data: float) -> Tensor:
    """r = √(α²σ_d² + σ²), shaped like the level."""
    return torch.sqrt((level.alpha * sigma_data) ** 2 + level.sigma**2)


def angle(level: NoiseLevel, sigma_data: float) -> Tensor:
    """θ = atan(σ/(α σ_d)), from 0 without noise to π/2 without data, shaped like the level."""
    return torch.atan(level.sigma / (level.alpha * sigma_data))
