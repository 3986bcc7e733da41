"""A step down a level, its posterior, and which variance a walk gives it.

    ρ = snr_t/snr_s,   β = σ_t²(1 − ρ) = Var(x_t given x_s),   β̃ = σ_s²(1 − ρ) = Var(x_s given x_t, x0)        (1)
    μ̃(x_t, x0) = (α_t/α_s)(σ_s/σ_t)² x_t + α_s(1 − ρ) x0 = E(x_s given x_t, x0)                                (2)
    the walk:  x_s ~ N(μ̃(x_t, x̂0), v),   log v = (1 − share) log β̃ + share log β                              (3)

(1) and (2) are Bayes' rule on the law up a level (`noise`, Eq. 4), for any schedule and any s < t; where s = t − 1 they
are Eq. 6–7 of Ho et al. 2020, arXiv:2006.11239.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scorefield.errors import OptionError
from scorefield.mixing import mix
from scorefield.noise import NoiseLevel, Schedule, Time
from scorefield.parametrization import Estimate


@dataclass(frozen=True, eq=False)
class Step:
    """A step from a level down to one with less noise, s < t, with the two variances of (1).

    Args:
        now: the level t.
        below: the level s.
    """

    now: NoiseLevel
    below: NoiseLevel

    @cached_property
    def fresh(self) -> Tensor:
        """1 − ρ of (1), the share of the noise at t that came between s and t."""
        ratio = (self.now.alpha / self.below.alpha) * (self.below.sigma / self.now.sigma)
        return (1 - ratio**2).clamp(min=0)

    @property
    def beta(self) -> Tensor:
        """β of (1), the variance of x_t given x_s, shaped like the levels."""
        return self.now.sigma**2 * self.fresh

    @property
    def posterior_variance(self) -> Tensor:
        """β̃ of (1), the variance of x_s given x_t and x0, shaped like the levels."""
        return self.below.sigma**2 * self.fresh

    def posterior_mean(self, x_t: Tensor, x0: Tensor) -> Tensor:
        """μ̃ of (2), (B, *shape)."""
        ratio = self.now.alpha / self.below.alpha
        return mix(ratio * (self.below.sigma / self.now.sigma) ** 2, x_t, self.below.alpha * self.fresh, x0)

    def variance(self, share: Tensor) -> Tensor:
        """v of (3), shaped like the levels and the share together; in the step to clean data, where β̃ = 0, too."""
        return self.beta * (self.below.sigma / self.now.sigma) ** (2 * (1 - share))


def step_down(schedule: Schedule, t: Time, s: Time, like: Tensor | None = None) -> Step:
    """The step from t to s; times () or (B,), shaped to broadcast over `like` (B, *shape)."""
    return Step(schedule.at(t, like), schedule.at(s, like))


# Where the log variance of a step stands between log β̃ and log β, (3), float64 and broadcasting over rows.
StepVariance = Callable[[Estimate], Tensor]


def fixed_small(estimate: Estimate) -> Tensor:
    """v = β̃, best where x0 is one point (Ho et al. 2020, §3.2, arXiv:2006.11239)."""
    return torch.zeros_like(estimate.level.sigma)


def fixed_large(estimate: Estimate) -> Tensor:
    """v = β, best where x0 is N(0, I) and the schedule preserves variance (Ho et al. 2020, §3.2, arXiv:2006.11239)."""
    return torch.ones_like(estimate.level.sigma)


def learned(estimate: Estimate) -> Tensor:
    """v = exp(share log β + (1 − share) log β̃) (Nichol & Dhariwal 2021, Eq. 15, arXiv:2102.09672).

    Raises:
        OptionError: for a model that learned no variance.
    """
    if estimate.variance_share is None:
        raise OptionError(
            "this model learns no variance: make it with learned_variance=True and a network of twice the outputs, "
            "or choose fixed_small or fixed_large"
        )
    return estimate.variance_share.double()


def learned_or_small(estimate: Estimate) -> Tensor:
    """The model's own variance where it learned one, β̃ elsewhere."""
    return fixed_small(estimate) if estimate.variance_share is None else learned(estimate)
