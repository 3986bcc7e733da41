"""The probability flow where a Gaussian with the data's mean and covariance stands still.

With the angle θ between data and noise (`polar`), r² = α²σ_d² + σ², and the mean μ and covariance Σ of the data,

    z = σ_d x_t/r = cos θ x0 + σ_d sin θ ε,   C = cos²θ Σ + σ_d² sin²θ I,   y = C^{−½} (z − cos θ μ)           (1)

is the same for every schedule, and has mean 0 and covariance I at every level. The flow of z has the slope
v = σ_d cos θ E[ε given x_t] − sin θ E[x0 given x_t]. Where data are N(μ, Σ) that of y is zero, and otherwise

    dy/dθ = C^{−½} (v − v_G),   v_G = −sin θ μ + sin θ cos θ (σ_d² I − Σ) C^{−½} y                             (2)
    d log q/dθ = −div dy/dθ = −tr ∂v/∂z + sin θ cos θ tr (σ_d² I − Σ) C⁻¹                                      (3)

along it, with q the density of y. Both fade where noise drowns all that data have beyond mean and covariance, and are
smooth in θ: the walk takes long steps, and a rule of integration few nodes. Nothing cancels at either end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.mixing import mix
from scorefield.model import Denoiser
from scorefield.moments import Moments, Spectral
from scorefield.noise import Time
from scorefield.polar import angle, radius


@dataclass(frozen=True, eq=False)
class Whitened:
    """The coordinates (1) at all levels of a model.

    Args:
        model: the denoiser.
        moments: μ and Σ, float64.
    """

    model: Denoiser
    moments: Moments

    @staticmethod
    def of(model: Denoiser, device: torch.device) -> Whitened:
        """Those of the model's own moments."""
        return Whitened(model, model.terminal.to(torch.zeros((), dtype=torch.float64, device=device)))

    def theta(self, t: Time) -> Tensor:
        """The angle of a time, shaped like it, float64."""
        return angle(self.model.schedule.at(t), self.model.sigma_data)

    def time(self, theta: Tensor) -> Tensor:
        """The time with this angle, within the schedule's range."""
        schedule = self.model.schedule
        t = schedule.time_of(2 * (theta.cos().log() - theta.sin().log() - math.log(self.model.sigma_data)))
        return t.clamp(schedule.t_min, schedule.t_max)

    def at(self, t: Time, like: Tensor) -> Frame:
        """The coordinates at a time, () or (B,), for rows like these, (B, *shape)."""
        level = self.model.schedule.at(t, like=like)
        r, sigma_data = radius(level, self.model.sigma_data), self.model.sigma_data
        sine, cosine, stretch = level.sigma / r, level.alpha * sigma_data / r, sigma_data / r
        return Frame(sigma_data, self.moments, self.moments.to(like), sine, cosine, stretch, math.prod(like.shape[1:]))


@dataclass(frozen=True, eq=False)
class Frame:
    """The coordinates (1) at one level, or at one for each row.

    Args:
        sigma_data: σ_d.
        moments, rounded: μ and Σ in float64, and of the type of x.
        sine, cosine, stretch: of θ, and ∂z/∂x_t = σ_d/r, float64, shaped to broadcast over rows.
        dimension: D, numbers in a row.
    """

    sigma_data: float
    moments: Moments
    rounded: Moments
    sine: Tensor
    cosine: Tensor
    stretch: Tensor
    dimension: int

    def enter(self, x_t: Tensor) -> Tensor:
        """y of x_t, (B, *shape)."""
        z = self.stretch.to(x_t) * x_t - self.cosine.to(x_t) * self.rounded.mean
        return self.rounded.apply(self._of(lambda c, _: c**-0.5), z)

    def leave(self, y: Tensor) -> Tensor:
        """x_t of y, (B, *shape)."""
        z = self.rounded.apply(self._of(lambda c, _: c**0.5), y) + self.cosine.to(y) * self.rounded.mean
        return z / self.stretch.to(y)

    def v(self, model: Denoiser, x_t: Tensor, t: Time) -> Tensor:
        """The slope of z at x_t, (B, *shape); t is the time of this level."""
        estimate = model(x_t, t)
        return mix(-self.sine, estimate.x0, self.sigma_data * self.cosine, estimate.epsilon)

    def slope(self, y: Tensor, v: Tensor) -> Tensor:
        """dy/dθ of (2), (B, *shape)."""
        whitened = self.rounded.apply(self._of(lambda c, _: c**-0.5), v + self.sine.to(v) * self.rounded.mean)
        return whitened - (self.sine * self.cosine).to(y) * self.rounded.apply(self._of(self._turn), y)

    def score(self, y: Tensor, slope: Tensor) -> Tensor:
        """∇ log q(y) = −y − cos θ/(σ_d² sin θ) C dy/dθ, (B, *shape), from a slope that is there already."""
        along = self.rounded.apply(self._of(lambda c, _: c), slope)
        return -y - (self.cosine / (self.sigma_data**2 * self.sine)).to(y) * along

    def log_slope(self) -> Tensor:
        """log |det ∂y/∂x_t|, nats, (B,) or (1,) float64."""
        spread = self.moments.total(self._of(lambda c, _: c.log()), self.dimension)
        return self.dimension * self.stretch.reshape(-1).log() - spread / 2

    def gaussian_divergence(self) -> Tensor:
        """sin θ cos θ tr (σ_d² I − Σ) C⁻¹ of (3), (B,) or (1,) float64."""
        return (self.sine * self.cosine).reshape(-1) * self.moments.total(self._of(self._turn), self.dimension)

    def gaussian_quadratic(self, z: Tensor) -> Tensor:
        """sin θ cos θ zᵀ(σ_d² I − Σ) C⁻¹ z of each row of z (B, *shape), whose mean over random signs is
        `gaussian_divergence`: (B,) float64."""
        turned = self.rounded.apply(self._of(self._turn), z)
        return (self.sine * self.cosine).reshape(-1) * (turned * z).double().flatten(1).sum(1)

    def _turn(self, c: Tensor, variance: Tensor) -> Tensor:
        return (self.sigma_data**2 - variance) / c

    def _of(self, f: Callable[[Tensor, Tensor], Tensor]) -> Spectral:
        """f(c, λ) as a function of the variances λ, with c = cos²θ λ + σ_d² sin²θ, that of z."""

        def spectral(variance: Tensor) -> Tensor:
            sine, cosine = (part.reshape(-1, 1).to(variance) for part in (self.sine, self.cosine))
            return f(cosine**2 * variance + (self.sigma_data * sine) ** 2, variance)

        return spectral
