"""How far draws of Markov chains can be trusted: R̂, effective sample sizes and the error of their mean.

The definitions are those of Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, "Rank-normalization, folding, and
localization: an improved R̂", arXiv:1903.08008, as `arviz-stats` computes them. Each chain is cut into halves. With C
halves of N draws each, W the mean of their variances and B/N the variance of their means,

    R̂ = √((N − 1)/N + B/(N W))                                                             (1)
    ESS = C N/τ,   τ = 1 + 2 Σ_k ρ_k                                                       (2)
    MCSE = sd/√ESS                                                                         (3)

Of R̂ the larger is taken of the ranks' and the folded ranks', each turned into normals, which see chains that disagree
in place and in width. The autocorrelations ρ_k of (2) end where Geyer's initial monotone sequence does (1992,
"Practical Markov chain Monte Carlo"). The bulk's ESS is that of the normal ranks, the tail's the smaller one of the
indicators of the 5 % and the 95 % quantile, and (3) has that of the draws themselves. R̂ ≤ 1.01 and an ESS of 100 a
chain are what the authors ask for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scorefield.errors import OptionError

_TAILS = (0.05, 0.95)
_FEWEST = 4  # draws of a chain, by which its halves have a variance each


@dataclass(frozen=True, eq=False)
class Summary:
    """What chains say of each element of a row, all (*shape) float64.

    Where there is nothing to say they are NaN: all diagnostics for fewer than 4 draws a chain and for elements with a
    draw that is not finite, R̂ for a single chain and for draws that are all the same (whose error is 0). Chains that
    each stand still at a place of their own have an infinite R̂.

    Args:
        mean, sd: of all draws of all chains; sd with n − 1.
        mcse: the Monte Carlo standard error of the mean, (3).
        ess_bulk, ess_tail: effective sample sizes, for the middle and for the tails, (2).
        r_hat: (1).
    """

    mean: Tensor
    sd: Tensor
    mcse: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    r_hat: Tensor


def summarise(draws: Tensor) -> Summary:
    """Mean, spread and diagnostics of every element.

    Args:
        draws: (C, N, *shape), N draws of each of C chains.

    Raises:
        OptionError: for fewer than two axes, and for no draws at all.
    """
    if draws.ndim < 2 or 0 in draws.shape[:2]:
        raise OptionError(f"draws have the shape (chains, draws, …) with one of each or more, got {tuple(draws.shape)}")
    values = draws.detach().double().cpu()
    flat = values.flatten(0, 1)
    sd = flat.std(0) if len(flat) > 1 else torch.full_like(flat[0], math.nan)
    found = np.full((4, *draws.shape[2:]), math.nan)
    each = values.numpy()
    if draws.shape[1] >= _FEWEST:
        for place in np.ndindex(*draws.shape[2:]):
            one = each[(slice(None), slice(None), *place)]
            if np.isfinite(one).all():
                found[(slice(None), *place)] = _diagnose(one)
    return Summary(flat.mean(0), sd, *torch.from_numpy(found).unbind(0))


def _diagnose(draws: np.ndarray) -> tuple[float, float, float, float]:
    """MCSE, both effective sample sizes and R̂ of one element (C, N)."""
    # Here, as it brings scipy.stats: half a second that only those pay who ask for diagnostics.
    from arviz_stats.base.array import array_stats

    with np.errstate(divide="ignore", invalid="ignore"):  # chains that stand still, as `Summary` says
        r_hat = float(array_stats.rhat(draws)) if len(draws) > 1 else math.nan
        bulk = float(array_stats.ess(draws, method="bulk"))
        tail = float(array_stats.ess(draws, method="tail", prob=_TAILS))
        return float(array_stats.mcse(draws, method="mean")), bulk, tail, r_hat
