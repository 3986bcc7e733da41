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


WEIGHTS: dict[str, Weight] = {"one": one, "sigma_squared": sigma_squared}
