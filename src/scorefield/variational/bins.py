"""Integers as bins: the probability of an interval under a Gaussian, to the last digit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import log_ndtr

from scorefield.errors import OptionError


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of one width: x0 stands for [x0 − δ/2, x0 + δ/2], and has a probability in place of a density.

    Args:
        width: δ in the units of x0, one number or shaped like a row.
        low, high: smallest and largest value there is, whose bins reach to infinity (Ho et al. 2020, Eq. 13); or None.

    Raises:
        OptionError: for a width that is not positive, or an empty range.
    """

    width: Tensor | float
    low: Tensor | float | None = None
    high: Tensor | float | None = None

    def __post_init__(self) -> None:
        width = torch.as_tensor(self.width)
        if not bool(((width > 0) & width.isfinite()).all()):
            raise OptionError(f"the width of a bin must be positive and finite, got {self.width}")
        if self.low is not None and self.high is not None and not bool(torch.as_tensor(self.low < self.high).all()):
            raise OptionError(f"bins need low < high, got {self.low} and {self.high}")

    def log_mass(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """log of the probability of x0's bin under N(mean, variance), (B, *shape) float64, however far in the tail."""

        def number(value: Tensor | float) -> Tensor:
            return torch.as_tensor(value, dtype=torch.float64, device=x0.device)

        x, scale, half = x0.double(), (-log_variance / 2).exp(), number(self.width) / 2
        left, right = (x - half - mean.double()) * scale, (x + half - mean.double()) * scale
        none = torch.zeros_like(x, dtype=torch.bool)
        bottom = none if self.low is None else x < number(self.low) + half
        top = none if self.high is None else x > number(self.high) - half
        inside = _log_normal_mass(left, right)
        return torch.where(bottom, log_ndtr(right), torch.where(top, log_ndtr(-left), inside))


def _log_normal_mass(a: Tensor, b: Tensor) -> Tensor:
    """log(Φ(b) − Φ(a)) for a < b."""
    # On the side where Φ is small, it and its logarithm keep all their digits.
    right = a + b > 0
    a, b = torch.where(right, -b, a), torch.where(right, -a, b)
    high = log_ndtr(b)
    return high + torch.log(-torch.expm1(log_ndtr(a) - high))
