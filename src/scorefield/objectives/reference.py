"""Denoising towards many rows at once: the clean data that x_t may have come from, weighed by how likely each is.

Of the rows x_1 … x_n of a reference batch, one of which x_t was made from,

    x̄0 = Σ_j w_j x_j,   w_j = q(x_t given x_j)/Σ_k q(x_t given x_k)                                        (1)

has the mean E[x0 given x_t] of the one row, whatever n, and less variance (the stable target field of Xu et al. 2023,
arXiv:2302.00670). For given x_t and the rows in any order, w_j is the probability that x_t came from the j-th; so (1)
is the mean of x0 given x_t and the batch, and the mean of that over batches is E[x0 given x_t]. It holds because x_t's
own row is among them, and as long as no row is there twice; at the seam of two passes over few rows one may be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.noise import NoiseLevel


def clean_mean(x_t: Tensor, x0: Tensor, level: NoiseLevel, condition: Tensor | None, size: int) -> Tensor:
    """x̄0 of (1) for every row, the rows before and after it in its reference batch being the others.

    Args:
        x_t, x0: noisy rows and the clean ones that they were made from, (B, *shape).
        level: of x_t.
        condition: (B, k), or None; rows with different conditions say nothing of one another.
        size: n, rows of a reference batch; the last may have fewer.

    Returns:
        (B, *shape).
    """
    snr = (level.alpha / level.sigma).square().reshape(-1, 1).expand(len(x0), 1)
    pull = (level.alpha / level.sigma.square()).reshape(-1, 1).expand(len(x0), 1).to(x0.dtype)
    middle = x0.flatten(1).mean(0)  # so that products of large numbers do not cancel
    clean, noisy = x0.flatten(1) - middle, x_t.flatten(1) - level.alpha.reshape(-1, 1).to(x0.dtype) * middle
    # log q(x_t given x_j) = (α/σ²) x_t·x_j − ½ snr ‖x_j‖² + what does not depend on j, as one product.
    asked = torch.cat([pull * noisy, -snr.to(x0.dtype) / 2], dim=1)
    there = torch.cat([clean, clean.square().sum(1, keepdim=True)], dim=1)
    means = []
    with torch.no_grad(), torch.autocast(x0.device.type, enabled=False):
        for start in range(0, len(x0), size):
            part = slice(start, start + size)
            log_likelihood = asked[part] @ there[part].T
            if condition is not None and len(condition) > 1:
                own = condition[part]
                same = (own.unsqueeze(1) == own.unsqueeze(0)).all(2)
                log_likelihood = log_likelihood.masked_fill(~same, -torch.inf)
            means.append(torch.softmax(log_likelihood, dim=1) @ clean[part])
    return (torch.cat(means) + middle).reshape(x0.shape)
