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

from scorefield.blocks import Blocks
from scorefield.moments import Moments
from scorefield.noise import NoiseLevel
from scorefield.parametrization import Parametrization


def along_axes(
    network: Callable[[Tensor], Tensor],
    moments: Moments,
    notation: Parametrization,
    x_t: Tensor,
    level: NoiseLevel,
    blocks: Blocks | None = None,
) -> Tensor:
    """The output y of (2), or of numbers in a block that of their log-odds.

    Args:
        network: F, from (B, *shape) to (B, *shape), D numbers a row.
        moments: mean and covariance with all D axes.
        notation: of y.
        x_t: noisy data, (B, *shape).
        level: its level, of one time or B.
        blocks: the numbers that stand about vertices, if there are any.

    Returns:
        (B, *shape) in x_t's type.
    """
    a, b, alpha, sigma = (part.reshape(-1, 1) for part in (*notation.row(level), level.alpha, level.sigma))
    if len(alpha) > 1:
        # A level for each row makes tables of B times D, for which the type of x_t has digits enough.
        a, b, alpha, sigma = (part.to(x_t) for part in (a, b, alpha, sigma))
    variances = moments.variances.to(alpha)
    c = alpha**2 * variances + sigma**2
    into = c.rsqrt()
    straight = ((a * alpha * variances + b * sigma) / c).to(x_t)
    gain = ((a * sigma - b * alpha) * variances.sqrt() * into).to(x_t)
    own, rows = moments.to(x_t), x_t.flatten(1)
    mean = own.mean.reshape(-1)
    # In full precision: what lies along a flat axis is a small difference of large numbers.
    with torch.autocast(x_t.device.type, enabled=False):
        h = (rows - alpha.to(x_t) * mean) @ own.axes
        u = into.to(x_t) * h
    f = network(u.reshape(x_t.shape)).to(x_t.dtype).flatten(1)
    with torch.autocast(x_t.device.type, enabled=False):
        y = a.to(x_t) * mean + torch.addcmul(straight * h, gain, f) @ own.axes.T
        if blocks is None:
            return y.reshape(x_t.shape)
        clean = blocks.clean(f, rows, alpha, sigma)
        # y = a x0 + b ε once more, for numbers whose x0 is known otherwise.
        from_clean, from_noisy = (a - b * alpha / sigma).to(x_t), (b / sigma).to(x_t)
        return torch.where(blocks.inside(x_t), from_clean * clean + from_noisy * rows, y).reshape(x_t.shape)
