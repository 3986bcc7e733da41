"""Laws of t in training, each as the inverse of its distribution function: stratified uniforms give any of them.

The law of t in training, the grid in sampling and the schedule are three different things. Laws of noise are truncated
to the schedule's range [t_min, t_max].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.noise import NoiseLevel, Schedule


class TimeLaw(Protocol):
    """A distribution of t."""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The time below which a share u of training lies.

        Args:
            u: (B,) float64 in (0, 1).
            schedule: gives the range and the meaning of t.

        Returns:
            t, (B,) float64 in [t_min, t_max].
        """
        ...


@dataclass(frozen=True)
class Fixed:
    """One level for all of training: 0 is data without noise, except where a schedule has noise there already.

    Args:
        t: its time, in the schedule's range or 0.
    """

    t: float = 0.0

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        if self.t != 0 and not schedule.t_min <= self.t <= schedule.t_max:
            raise OptionError(f"t = {self.t:g} is not in the schedule's range [{schedule.t_min:g}, {schedule.t_max:g}]")
        return torch.full_like(u, self.t)


@dataclass(frozen=True)
class Uniform:
    """t uniform over the schedule's range (Ho et al. 2020; Song et al. 2021)."""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.t_min + u * (schedule.t_max - schedule.t_min)


@dataclass(frozen=True)
class UniformIntegers:
    """t uniform over the whole numbers of the schedule's range: the levels of a `Discrete` schedule."""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        first, last = math.ceil(schedule.t_min), math.floor(schedule.t_max)
        if first > last:
            raise OptionError(
                f"there is no whole time in [{schedule.t_min:g}, {schedule.t_max:g}]: use a Discrete schedule"
            )
        return first + (u * (last - first + 1)).floor()


@dataclass(frozen=True)
class LogUniform:
    """log σ/α uniform over the schedule's range: equal training for every factor of noise."""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = _log_sigma_range(schedule)
        return schedule.time_of_sigma(torch.exp(low + u * (high - low))).clamp(schedule.t_min, schedule.t_max)


@dataclass(frozen=True)
class LogNormal:
    """log σ/α normal (Karras et al. 2022, Table 1, arXiv:2206.00364), truncated to the schedule's range.

    Args:
        mean, std: of log σ/α; theirs are −1.2 and 1.2 at σ_data = ½.
    """

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        side, first, span = _truncation(self, schedule)
        z = side * torch.special.ndtri(first + u * span)
        return schedule.time_of_sigma(torch.exp(self.mean + self.std * z)).clamp(schedule.t_min, schedule.t_max)


@dataclass(frozen=True)
class Importance:
    """The law of t that maximum likelihood asks for: density of λ = log snr proportional to α²σ_d²/(α²σ_d² + σ²).

    That is what the bound on the likelihood costs at each λ where data are Gaussian: ½‖ε − ε̂‖² at its least. Drawn
    so, the loss in F has the expectation of the g²-weighted loss in the score under `Uniform`, but for the factor
    (t_max − t_min)/`norm`, and for Gaussian data a fresh network has the same expected loss at every t.

    Args:
        sigma_data: σ_d, standard deviation of the data.
    """

    sigma_data: float

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = self._ends(schedule)
        # The share of noise below t is the share of softplus(λ + 2 log σ_d) above λ.
        grown = high - u * (high - low)
        log_snr = torch.log(torch.expm1(grown.clamp(max=50))).where(grown < 50, grown) - 2 * math.log(self.sigma_data)
        return schedule.time_of(log_snr).clamp(schedule.t_min, schedule.t_max)

    def norm(self, schedule: Schedule) -> float:
        """∫ α²σ_d²/(α²σ_d² + σ²) dλ over the schedule's range: what the density is divided by."""
        low, high = self._ends(schedule)
        return float(high - low)

    def _ends(self, schedule: Schedule) -> tuple[Tensor, Tensor]:
        high, low = (-2 * end + 2 * math.log(self.sigma_data) for end in _log_sigma_range(schedule))
        return softplus(low, threshold=50), softplus(high, threshold=50)


@lru_cache
def _truncation(law: LogNormal, schedule: Schedule) -> tuple[float, float, float]:
    """The side that shares are counted from, the share there below the range, and that within it."""
    low, high = ((edge - law.mean) / law.std for edge in _log_sigma_range(schedule))
    # Shares are counted from the nearer tail: from the other they round to one, and the range to nothing.
    side = -1.0 if low + high > 0 else 1.0
    first, last = (float(torch.special.log_ndtr(side * edge).exp()) for edge in (low, high))
    return side, first, last - first


def _log_sigma_range(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """log σ/α at t_min and t_max; a schedule that ends without any data is cut at σ/α = e¹⁰."""
    low, high = (-schedule.at(t).log_snr / 2 for t in (schedule.t_min, schedule.t_max))
    return low, high.clamp(max=10.0) if high.isinf() else high


@dataclass(frozen=True)
class ImportantLevels:
    """Levels of a `Discrete` schedule, drawn as often as they matter to DDPM's bound where data are Gaussian.

        cost_t = ½(h_{t−1} − h_t)/(1 + h_t),   h = snr σ_data²                                               (1)

    is L_{t−1} at its least with v = β̃; level 1, the decoder's, counts ½, the part of L_0 that a model can change. A
    tenth of all draws is uniform, so that no level is rarer than 0.1/T. It stands for uniform levels with `weight`: the
    mean of weight·loss is the mean loss over all levels. Drawing levels by what they cost is from Nichol & Dhariwal
    2021, §3.3, arXiv:2102.09672; theirs remembers the losses seen, this one is a function of the schedule.

    Args:
        sigma_data: standard deviation of the data.
    """

    sigma_data: float

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        below = self.probabilities(schedule).cumsum(0)[:-1].to(u.device)
        return 1 + torch.searchsorted(below, u, right=True).to(u.dtype)

    def probabilities(self, schedule: Schedule) -> Tensor:
        """Of the levels 1 … T, (T,) float64."""
        return _important_levels(self, schedule)

    def weight(self, level: NoiseLevel) -> Tensor:
        """1/(T p_t), shaped like the level: the weight of `ScoreMatching` with this law."""
        p = self.probabilities(level.schedule).to(level.t.device)
        return 1 / (len(p) * p[level.t.round().long() - 1])


@lru_cache
def _important_levels(law: ImportantLevels, schedule: Schedule) -> Tensor:
    if not isinstance(schedule, Discrete):
        raise OptionError(f"ImportantLevels are those of a Discrete schedule, got {type(schedule).__name__}")
    h = schedule.at(torch.arange(1, schedule.t_max + 1, dtype=torch.float64)).snr * law.sigma_data**2
    cost = torch.cat((torch.ones(1, dtype=torch.float64), (h[:-1] - h[1:]) / (1 + h[1:]))) / 2
    return 0.9 * cost / cost.sum() + 0.1 / len(h)
