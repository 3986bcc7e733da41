"""A network's input and output along the principal axes of the data, each scaled as its own variance asks for.

With the data's mean μ and covariance Σ = V diag(λ) Vᵀ, c = α²λ + σ², and a notation y = a·x0 + b·ε,

    h = Vᵀ(x_t − αμ),    u = h/√c                                                             (1)
    y = aμ + V [ (aαλ + bσ)/c · h + (aσ − bα) √(λ/c) · F(u) ]                                  (2)

F = 0 is the exact denoiser of the Gaussian N(μ, Σ), so that a network has to learn only what a Gaussian leaves, and
both what goes in and what is to come out have variance about one along every axis at every level: Karras et al. 2022,
Table 1, arXiv:2206.00364, which this is for Σ = σ_data² I and y = F, axis by axis. Of F less than all may be kept
(`shrinkage`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.compiler import is_compiling

from scorefield.blocks import Blocks
from scorefield.moments import Moments
from scorefield.noise import NoiseLevel
from scorefield.parametrization import Parametrization
from scorefield.shrinkage import Shrinkage


def along_axes(
    network: Callable[[Tensor], Tensor],
    moments: Moments,
    notation: Parametrization,
    x_t: Tensor,
    level: NoiseLevel,
    blocks: Blocks | None = None,
    shrinkage: Shrinkage | None = None,
) -> tuple[Tensor, Callable[[Parametrization], Tensor]]:
    """The output y of (2), or of numbers in a block that of their log-odds.

    Args:
        network: F, from (B, *shape) to (B, *shape), D numbers a row.
        moments: mean and covariance with all D axes.
        notation: of y.
        x_t: noisy data, (B, *shape).
        level: its level, of one time or B.
        blocks: the numbers that stand about vertices, if there are any.
        shrinkage: how much of F is kept where no block is, all by default.

    Returns:
        (B, *shape) in x_t's type, and what reads the same output in another notation.
    """
    own, flat = moments.to(x_t), x_t.ndim == 2
    rows = x_t if flat else x_t.flatten(1)
    shift, into, *factors = level.tables(_coefficients(own, notation, level, shrinkage))
    # In full precision: what lies along a flat axis is a small difference of large numbers.
    precisely = _full_precision(x_t)
    with precisely:
        h = torch.addmm(shift, rows, own.axes)
        u = into * h
    f = network(u if flat else u.reshape(x_t.shape))
    f = f if flat and f.dtype == x_t.dtype else f.to(x_t.dtype).flatten(1)

    def read(straight: Tensor, gain: Tensor, mean: Tensor, from_clean: Tensor, from_noisy: Tensor) -> Tensor:
        y = torch.addmm(mean, torch.addcmul(straight * h, gain, f), own.axes_across)
        if blocks is not None and clean is not None:
            y = torch.where(blocks.inside(x_t), from_clean * clean + from_noisy * rows, y)
        return y if flat else y.reshape(x_t.shape)

    def in_other(other: Parametrization) -> Tensor:
        with _full_precision(x_t):
            return read(*level.tables(_coefficients(own, other, level, shrinkage))[2:])

    with precisely:
        clean = None if blocks is None else blocks.clean(f, rows, level)
        return read(*factors), in_other


def _full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Where products are not of lower precision, whatever they are around."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _coefficients(
    moments: Moments, notation: Parametrization, level: NoiseLevel, shrinkage: Shrinkage | None
) -> _Coefficients:
    """Those of a level, which its grid knows again: one for all levels of a kind."""
    key = notation, level.of_rows, shrinkage
    return _Coefficients(moments, *key) if is_compiling() else moments.once(key, lambda: _Coefficients(moments, *key))


@dataclass(frozen=True, eq=False)
class _Coefficients:
    """What (1) and (2) multiply and add at a level, one row for each time: −αVᵀμ, 1/√c, those of h and of F, and aμ.

    Then a − bα/σ and b/σ, as y = a x0 + b ε once more, for numbers whose x0 is known otherwise.

    Args:
        moments: of the type of the rows and on their device.
        notation: of y.
        each: whether every row has a time of its own. Tables of B times D are then made in the type of the rows, which
            has digits enough; those of one level, which a walk makes once for all its levels, in float64.
        shrinkage: of F.
    """

    moments: Moments
    notation: Parametrization
    each: bool
    shrinkage: Shrinkage | None

    def __call__(self, level: NoiseLevel) -> tuple[Tensor, ...]:
        variances, mean = self.moments.variances, self.moments.mean.reshape(-1)
        kind = self.moments.axes.dtype
        made = torch.float64 if not self.each else kind
        a, b, alpha, sigma = (
            part.reshape(-1, 1).to(variances.device, made)
            for part in (*self.notation.row(level), level.alpha, level.sigma)
        )
        variances, own = variances.to(made), mean.to(made)
        c = alpha**2 * variances + sigma**2
        into = c.rsqrt()
        straight = (a * alpha * variances + b * sigma) / c
        gain = (a * sigma - b * alpha) * variances.sqrt() * into
        if self.shrinkage is not None:
            gain = gain * self.shrinkage.at(level).reshape(-1, 1).to(gain)
        shift = -alpha * (own @ self.moments.axes.to(made))
        otherwise = a - b * alpha / sigma, b / sigma
        return tuple(part.to(kind) for part in (shift, into, straight, gain, a * own, *otherwise))
