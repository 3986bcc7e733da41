"""Schedules whose levels are given one by one, as the tables of DDPM and NCSN.

Between levels the clock runs evenly, so that every formula of `noise` holds there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scorefield.errors import OptionError
from scorefield.noise import Schedule


@dataclass(frozen=True)
class Discrete(Schedule):
    """Levels at t = 1 … T given one by one, either as β (Ho et al. 2020) or as σ (Song & Ermon 2019).

    Between levels the clock runs evenly: with β, B(t) = −Σ log(1 − β) is piecewise linear from B(0) = 0 and
    α = e^{−B/2}, σ² = 1 − e^{−B}, so that ᾱ_t = Π(1 − β) at each integer; with σ, log σ is piecewise linear and α = 1.

    Args:
        betas: β_1 … β_T, each in (0, 1), or None.
        sigmas: σ_1 … σ_T, growing, or None.

    Raises:
        OptionError: when not exactly one is given, or its values are out of range.
    """

    betas: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    t_min: float = field(default=1.0, init=False)
    t_max: float = field(init=False)

    def __post_init__(self) -> None:
        if (self.betas is None) == (self.sigmas is None):
            raise OptionError("Discrete needs either betas or sigmas")
        values: Sequence[float] = self.betas or self.sigmas or ()
        if len(values) < 2:
            raise OptionError(f"Discrete needs at least two levels, got {len(values)}")
        if self.betas is not None and not all(0 < beta < 1 for beta in values):
            raise OptionError("every beta must lie in (0, 1)")
        if self.sigmas is not None and not (values[0] > 0 and all(a < b < math.inf for a, b in pairwise(values))):
            raise OptionError("sigmas must be positive, finite and grow with t")
        object.__setattr__(self, "t_max", float(len(values)))

    @cached_property
    def _knots(self) -> Tensor:
        """The clock at t = 0 … T: B with β, log σ with σ (at 0 continued from the first two)."""
        if self.betas is not None:
            steps = -torch.log1p(-torch.tensor(self.betas, dtype=torch.float64))
            return torch.cat((steps.new_zeros(1), steps.cumsum(0)))
        log_sigma = torch.tensor(self.sigmas, dtype=torch.float64).log()
        return torch.cat((2 * log_sigma[:1] - log_sigma[1:2], log_sigma))

    def _clock(self, t: Tensor) -> Tensor:
        knots = self._knots.to(t.device)
        left = t.detach().floor().long().clamp(0, len(knots) - 2)
        return knots[left] + (t - left) * (knots[left + 1] - knots[left])

    def _time_of_clock(self, value: Tensor) -> Tensor:
        knots = self._knots.to(value.device)
        left = (torch.searchsorted(knots, value.contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
        return left + (value - knots[left]) / (knots[left + 1] - knots[left])

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t) if self.betas is None else torch.exp(-self._clock(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        clock = self._clock(t)
        return clock.exp() if self.betas is None else torch.sqrt(-torch.expm1(-clock))

    def time_of(self, log_snr: Tensor) -> Tensor:
        return self._time_of_clock(-log_snr / 2 if self.betas is None else softplus(-log_snr, threshold=50))
