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

_ONE_BY_ONE = 8  # numbers in a row up to which distances are not found by a product


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
    alpha, sigma = (part.reshape(-1, 1) for part in (level.alpha.clamp(min=1e-4), level.sigma))
    half_snr = ((alpha / sigma).square() / 2).expand(len(x0), 1).to(x0.dtype)
    noisy, clean = x_t.flatten(1) / alpha.to(x0.dtype), x0.flatten(1)
    means = []
    with torch.no_grad(), torch.autocast(x0.device.type, enabled=False):
        for start in range(0, len(x0), size):
            part = slice(start, start + size)
            log_likelihood = _distances(noisy[part], clean[part]).square_().mul_(-half_snr[part])
            if condition is not None and len(condition) > 1:
                own = condition[part]
                same = (own.unsqueeze(1) == own.unsqueeze(0)).all(2)
                log_likelihood = log_likelihood.masked_fill(~same, -torch.inf)
            means.append(torch.softmax(log_likelihood, dim=1) @ clean[part])
    return torch.cat(means).reshape(x0.shape)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # A product is fast and cancels where rows are close, which at little noise they are in few dimensions.
    if a.shape[1] <= _ONE_BY_ONE:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    middle = b.mean(0)
    return torch.cdist(a - middle, b - middle, compute_mode="use_mm_for_euclid_dist")
