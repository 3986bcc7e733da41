"""A network's input and output along the principal axes of the data, each scaled as its own variance asks for.

With the data's mean μ and covariance Σ = V diag(λ) Vᵀ, c = α²λ + σ², and a notation y = a·x0 + b·ε,

    h = Vᵀ(x_t − αμ),    u = h/√c                                                             (1)
    y = aμ + V [ (aαλ + bσ)/c · h + (aσ − bα) √(λ/c) · F(u) ]                                  (2)

F = 0 is the exact denoiser of the Gaussian N(μ, Σ), so that a network has to learn only what a Gaussian leaves, and
both what goes in and what is to come out have variance about one along every axis at every level: Karras et al. 2022,
Table 1, arXiv:2206.00364, which this is for Σ = σ_data² I and y = F, axis by axis.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.moments import Moments
from scorefield.noise import NoiseLevel
from scorefield.parametrization import Parametrization


def along_axes(
    network: Callable[[Tensor], Tensor], moments: Moments, notation: Parametrization, x_t: Tensor, level: NoiseLevel
) -> Tensor:
    """The output y of (2).

    Args:
        network: F, from (B, *shape) to (B, *shape), D numbers a row.
        moments: mean and covariance with all D axes.
        notation: of y.
        x_t: noisy data, (B, *shape).
        level: its level, of one time or B.

    Returns:
        (B, *shape) in x_t's type.
    """
    variances = moments.variances.to(x_t.device)
    a, b, alpha, sigma = (part.reshape(-1, 1) for part in (*notation.row(level), level.alpha, level.sigma))
    c = alpha**2 * variances + sigma**2
    into = c.rsqrt().to(x_t)
    straight = ((a * alpha * variances + b * sigma) / c).to(x_t)
    gain = ((a * sigma - b * alpha) * (variances / c).sqrt()).to(x_t)
    mean, axes = moments.mean.to(x_t).reshape(-1), moments.axes.to(x_t)
    # In full precision: what lies along a flat axis is a small difference of large numbers.
    with torch.autocast(x_t.device.type, enabled=False):
        h = (x_t.flatten(1) - alpha.to(x_t) * mean) @ axes
        u = into * h
    f = network(u.reshape(x_t.shape)).to(x_t.dtype).flatten(1)
    with torch.autocast(x_t.device.type, enabled=False):
        y = a.to(x_t) * mean + torch.addcmul(straight * h, gain, f) @ axes.T
    return y.reshape(x_t.shape)
