"""Predictors: steps from a level t down to s < t, each as its paper writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.mixing import mix
from scorefield.model import Denoiser
from scorefield.noise import NoiseLevel, Time
from scorefield.parametrization import VELOCITY, Estimate
from scorefield.randomness import Noise
from scorefield.variational.step import Step, StepVariance, learned_or_small


@dataclass(frozen=True)
class Ancestral:
    """x_s = α_s x̂0 + √(σ_s² − η²β̃) ε̂ + η√v z,   β̃ = (σ_s²/σ_t²)(σ_t² − (α_t/α_s)² σ_s²).

    β̃ is the variance of DDPM's posterior of x_s given x_t and x0 (`variational.step`): η = 1 is DDPM (Ho et al. 2020,
    Eq. 7, arXiv:2006.11239) and η = 0 is DDIM (Song et al. 2020, Eq. 12, arXiv:2010.02502). v is β̃ or, where a model
    learned it, its own (Nichol & Dhariwal 2021, Eq. 15, arXiv:2102.09672); none is added in a step to clean data.

    Args:
        eta: η in [0, 1].
        variance: which v; `fixed_large` is DDPM's other choice, β.
    """

    eta: float = 1.0
    variance: StepVariance = learned_or_small

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise SamplingError(f"eta must lie in [0, 1], got {self.eta}")

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        estimate, below = model(x, t), model.schedule.at(s)
        if self.eta == 0:
            alpha, sigma = below.once(_signal_and_noise)
            return mix(float(alpha), estimate.x0, float(sigma), estimate.epsilon), None
        step = Step(model.schedule.at(t), below)
        kept = (below.sigma**2 - self.eta**2 * step.posterior_variance).clamp(min=0).sqrt()
        x = mix(float(below.alpha), estimate.x0, float(kept), estimate.epsilon)
        if below.sigma > 0:
            deviation = self.eta * step.variance(self.variance(estimate)).sqrt()
            x = x + deviation.to(x) * noise.like(x)
        return x, None


@dataclass(frozen=True)
class Euler:
    """x_s = x + (s − t) dx/dt: Euler's method on the probability flow (Song et al. 2021, Eq. 13, arXiv:2011.13456)."""

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        return _along(x, model(x, t), float(s) - float(t)), None


@dataclass(frozen=True)
class Heun:
    """x_s = x + (s − t)(d + d′)/2, d at x and d′ at Euler's x_s (Karras et al. 2022, Algorithm 1, arXiv:2206.00364)."""

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        h = float(s) - float(t)
        here = model(x, t)
        there = model(_along(x, here, h), s)
        return _along(_along(x, here, h / 2), there, h / 2), None


def _signal_and_noise(level: NoiseLevel) -> tuple[Tensor, Tensor]:
    return level.alpha, level.sigma


def _along(x: Tensor, estimate: Estimate, h: float) -> Tensor:
    """x + h dx/dt, dx/dt = α′ x̂0 + σ′ ε̂, without a tensor for dx/dt."""
    d_alpha, d_sigma = map(float, estimate.level.once(VELOCITY.row))
    return x.add(estimate.x0, alpha=h * d_alpha).add_(estimate.epsilon, alpha=h * d_sigma)
