"""Noise schedules: α(t), σ(t) and all that follows from the two.

    x_t = α(t) x0 + σ(t) ε,   ε ~ N(0, I)                                  (1)
    f = α′/α,   g² = 2σ(σ′ − σ f)          drift and diffusion of the SDE  (2)
    snr = α²/σ²                                                            (3)
    x_t given x_s ~ N((α_t/α_s) x_s, σ_t² − (α_t/α_s)² σ_s²),   s < t      (4)

t grows with noise and x0 is data. Levels are computed in float64; `mixing` brings them to the network's type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scorefield.errors import OptionError
from scorefield.mixing import Coefficient, mix


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """The noise at given times, shaped to broadcast over the rows of x.

    Args:
        schedule: the schedule it is a level of.
        t: float64, () or (B, 1, …, 1).
        alpha, sigma: α(t) and σ(t), shaped like t.
    """

    schedule: Schedule
    t: Tensor
    alpha: Tensor
    sigma: Tensor

    def __float__(self) -> float:
        """t, of a level that is one for all rows."""
        return float(self.t)

    @property
    def of_rows(self) -> bool:
        """Whether each row has a level of its own."""
        return self.t.ndim > 0

    def each(self) -> list[NoiseLevel]:
        """The levels of a grid, t (K,), one by one; they share what `once` makes of them."""
        return [_OneOf(self, place, t) for place, t in enumerate(self.t.tolist())]

    def once(self, make: Maker) -> tuple[Coefficient, ...]:
        """Coefficients that a function makes of this level; of a grid's once for all, and then as plain numbers."""
        return make(self)

    def numbers(self, make: Maker) -> tuple[float, ...]:
        """As `once`, as plain numbers, of a level that is one for all rows."""
        return tuple(map(float, make(self)))

    def tables(self, make: Maker) -> tuple[Tensor, ...]:
        """As `once`, of another function, whose tensors have a row for each time of the level and stay tensors."""
        return make(self)

    @cached_property
    def _made(self) -> dict[Maker, list[tuple[Any, ...]]]:
        return {}

    @cached_property
    def _slopes(self) -> tuple[Tensor, Tensor]:
        return self.schedule.slopes(self.t)

    @property
    def d_alpha(self) -> Tensor:
        """α′(t)."""
        return self._slopes[0]

    @property
    def d_sigma(self) -> Tensor:
        """σ′(t)."""
        return self._slopes[1]

    @property
    def snr(self) -> Tensor:
        """α²/σ², (3)."""
        return (self.alpha / self.sigma) ** 2

    @property
    def log_snr(self) -> Tensor:
        """log α²/σ², (3)."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def drift(self) -> Tensor:
        """f of the forward SDE dx = f x dt + g dw, (2)."""
        return self.d_alpha / self.alpha

    @property
    def diffusion_squared(self) -> Tensor:
        """g² of the forward SDE, (2)."""
        return 2 * self.sigma * (self.d_sigma - self.sigma * self.drift)


class _OneOf(NoiseLevel):
    """A level of a grid. It makes tensors of its own when asked only: most steps need plain numbers."""

    of_rows = False
    _whole: NoiseLevel
    _place: int
    _time: float

    def __init__(self, whole: NoiseLevel, place: int, time: float) -> None:
        vars(self).update({"schedule": whole.schedule, "_whole": whole, "_place": place, "_time": time})

    t = cached_property(lambda self: self._whole.t[self._place])
    alpha = cached_property(lambda self: self._whole.alpha[self._place])
    sigma = cached_property(lambda self: self._whole.sigma[self._place])
    _slopes = cached_property(lambda self: tuple(slope[self._place] for slope in self._whole._slopes))

    def __float__(self) -> float:
        return self._time

    def numbers(self, make: Maker) -> tuple[float, ...]:
        return (self._whole._made.get(make) or self._make(make, Tensor.tolist))[self._place]

    once = numbers

    def tables(self, make: Maker) -> tuple[Tensor, ...]:
        return (self._whole._made.get(make) or self._make(make, lambda table: table.split(1)))[self._place]

    def _make(self, make: Maker, apart: Callable[[Tensor], Any]) -> list[tuple[Any, ...]]:
        self._whole._made[make] = list(zip(*map(apart, make(self._whole)), strict=True))
        return self._whole._made[make]


# When: a time (), a time for each row (B,), or the level itself where it is known already.
Time = Tensor | float | NoiseLevel
Maker = Callable[[NoiseLevel], tuple[Tensor, ...]]  # of coefficients that are shaped like the times of a level


class Schedule:
    """A pair α(t), σ(t) on [t_min, t_max]; a schedule writes these two lines and the inverse of its log-SNR.

    Attributes:
        t_min, t_max: the range that is trained on and sampled from, with 0 < σ except in `Clean`.
    """

    t_min: float
    t_max: float

    def alpha(self, t: Tensor) -> Tensor:
        """α(t), shaped like t (float64)."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """σ(t), shaped like t (float64)."""
        raise NotImplementedError

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The time with this log α²/σ²: the inverse of `at(t).log_snr`, shaped like its argument."""
        raise NotImplementedError

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α′(t) and σ′(t), shaped like t: by forward differentiation, unless a schedule knows better."""
        return torch.func.jvp(lambda t: (self.alpha(t), self.sigma(t)), (t.contiguous(),), (torch.ones_like(t),))[1]

    def at(self, t: Time, like: Tensor | None = None) -> NoiseLevel:
        """The noise level at t: the one place that shapes times to broadcast over rows.

        Args:
            t: () for one level for all rows, or (B,); a level of this schedule is taken as it is.
            like: (B, *shape), what the level will be multiplied with; without it the level keeps the shape of t.

        Returns:
            a level with float64 entries, () or (B, 1, …, 1), on the device of `like`.
        """
        if isinstance(t, NoiseLevel):
            return t
        device = None if like is None else like.device
        t = torch.as_tensor(t, dtype=torch.float64, device=device)
        if like is not None and t.ndim:
            t = t.reshape(-1, *[1] * (like.ndim - 1))
        return NoiseLevel(self, t, self.alpha(t), self.sigma(t))

    def add_noise(self, x0: Tensor, t: Time, epsilon: Tensor) -> Tensor:
        """x_t = α x0 + σ ε, (1); x0 and epsilon (B, *shape), t () or (B,)."""
        level = self.at(t, like=x0)
        return mix(level.alpha, x0, level.sigma, epsilon)

    def renoise(self, x_s: Tensor, s: Time, t: Time, noise: Tensor) -> Tensor:
        """Up a level, from s to t > s, by (4); x_s and noise (B, *shape), times () or (B,)."""
        lower, upper = self.at(s, like=x_s), self.at(t, like=x_s)
        ratio = upper.alpha / lower.alpha
        return mix(ratio, x_s, (upper.sigma**2 - (ratio * lower.sigma) ** 2).clamp(min=0).sqrt(), noise)

    def time_of_sigma(self, sigma: Tensor | float) -> Tensor:
        """The time at which σ/α is this: noise relative to data, the scale in which noise ranges are measured."""
        return self.time_of(-2 * torch.as_tensor(sigma, dtype=torch.float64).log())


@dataclass(frozen=True)
class Clean(Schedule):
    """No noise at all, α = 1 and σ = 0, for models of the data's own score; its one time is 0."""

    t_min: float = field(default=0.0, init=False)
    t_max: float = field(default=0.0, init=False)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.zeros_like(log_snr)


@dataclass(frozen=True)
class EDM(Schedule):
    """α = 1, σ = t (Karras et al. 2022, arXiv:2206.00364).

    Args:
        t_min, t_max: the smallest and the largest σ.
    """

    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        _check_range(self, self.t_min, self.t_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2)


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding: α = 1, σ = σ_min (σ_max/σ_min)^t on [0, 1] (Song et al. 2021, arXiv:2011.13456).

    Args:
        sigma_min, sigma_max: the smallest and the largest σ.
    """

    sigma_min: float
    sigma_max: float
    t_min: float = field(default=0.0, init=False)
    t_max: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        _check_range(self, self.sigma_min, self.sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def time_of(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class VP(Schedule):
    """Variance preserving with linear β: α = e^{−B/2}, σ² = 1 − e^{−B}, B = β_min t + ½(β_max − β_min) t².

    Song et al. 2021, Eq. 32–33, arXiv:2011.13456. Then f = −β/2 and g² = β.

    Args:
        beta_min, beta_max: β at t = 0 and t = 1.
        t_min, t_max: the range used, within (0, 1].
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self) -> None:
        _check_range(self, self.t_min, self.t_max)
        if not 0 <= self.beta_min < self.beta_max < math.inf:
            raise OptionError(f"VP needs 0 ≤ beta_min < beta_max < ∞, got {self.beta_min} and {self.beta_max}")

    def integral(self, t: Tensor) -> Tensor:
        """B(t) = ∫₀ᵗ β."""
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def time_of(self, log_snr: Tensor) -> Tensor:
        return self._time_of_integral(softplus(-log_snr, threshold=50))

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-variance preserving: α as VP, σ = 1 − e^{−B} (Song et al. 2021, Eq. 29, arXiv:2011.13456)."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def time_of(self, log_snr: Tensor) -> Tensor:
        # With y = e^{−B/2} and r = α/σ: y = r(1 − y²), whose root in (0, 1) is 2r/(1 + √(1 + 4r²)). For large r it
        # nears one, so 1 − y is written with √(1 + 4r²) − 2r = 1/(√(1 + 4r²) + 2r), which does not cancel.
        r = torch.exp(log_snr / 2)
        root = torch.sqrt(1 + 4 * r**2)
        one_minus_y = (1 + 1 / (root + 2 * r)) / (1 + root)
        return self._time_of_integral(-2 * torch.log1p(-one_minus_y))


@dataclass(frozen=True)
class Cosine(Schedule):
    """α = cos u(t)/cos u(0), σ² = 1 − α², u = ½π(t + offset)/(1 + offset).

    Nichol & Dhariwal 2021, Eq. 17, arXiv:2102.09672.

    Args:
        offset: keeps β from vanishing at t = 0; their s.
        t_min, t_max: the range used, within (0, 1).
    """

    offset: float = 0.008
    t_min: float = 1e-4
    t_max: float = 0.9999

    def __post_init__(self) -> None:
        _check_range(self, self.t_min, self.t_max)
        if self.t_max >= 1 or not 0 <= self.offset < math.inf:
            raise OptionError(f"Cosine needs t_max < 1 and offset ≥ 0, got {self.t_max} and {self.offset}")

    def _angle(self, t: Tensor) -> Tensor:
        return (t + self.offset) / (1 + self.offset) * (math.pi / 2)

    @property
    def _first(self) -> float:
        return self.offset / (1 + self.offset) * math.pi / 2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._angle(t)) / math.cos(self._first)

    def sigma(self, t: Tensor) -> Tensor:
        # cos²u₀ − cos²u = sin(u − u₀) sin(u + u₀) does not cancel near t = 0.
        u = self._angle(t)
        return torch.sqrt(torch.sin(u - self._first) * torch.sin(u + self._first)) / math.cos(self._first)

    def time_of(self, log_snr: Tensor) -> Tensor:
        alpha = torch.sqrt(torch.sigmoid(log_snr)) * math.cos(self._first)
        sine = torch.sqrt(torch.sigmoid(-log_snr) * math.cos(self._first) ** 2 + math.sin(self._first) ** 2)
        return torch.atan2(sine, alpha) * (2 / math.pi) * (1 + self.offset) - self.offset


@dataclass(frozen=True)
class Flow(Schedule):
    """The straight path: α = 1 − t, σ = t (Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747).

    Args:
        t_min, t_max: the range used, within (0, 1].
    """

    t_min: float = 1e-4
    t_max: float = 1.0

    def __post_init__(self) -> None:
        _check_range(self, self.t_min, self.t_max)
        if self.t_max > 1:
            raise OptionError(f"Flow needs t_max ≤ 1, got {self.t_max}")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(t, -1.0), torch.ones_like(t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


def _check_range(schedule: Schedule, low: float, high: float) -> None:
    if not 0 < low < high < math.inf:
        raise OptionError(f"{type(schedule).__name__} needs a range 0 < low < high, got {low} and {high}")
