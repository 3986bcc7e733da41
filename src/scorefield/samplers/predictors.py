"""Predictors: steps from a level t down to s < t, each as its paper writes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.mixing import mix
from scorefield.model import Denoiser
from scorefield.noise import NoiseLevel, Time
from scorefield.parametrization import VELOCITY
from scorefield.randomness import Noise
from scorefield.variational.step import Step, StepVariance, learned_or_small


@dataclass(frozen=True)
class Ancestral:
    """x_s = α_s x̂0 + √(σ_s² − η²β̃) (x_t − α_t x̂0)/σ_t + η√v z,   β̃ = (σ_s²/σ_t²)(σ_t² − (α_t/α_s)² σ_s²).

    β̃ is the variance of DDPM's posterior of x_s given x_t and x0 (`variational.step`): η = 1 is DDPM (Ho et al. 2020,
    Eq. 7, arXiv:2006.11239) and η = 0 is DDIM (Song et al. 2020, Eq. 7, arXiv:2010.02502). v is β̃ or, where a model
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
        now, below = model.schedule.at(t), model.schedule.at(s)
        estimate = model(x, now)
        (alpha_t, sigma_t), (alpha_s, kept) = now.numbers(signal_and_noise), below.numbers(signal_and_noise)
        if self.eta:
            step = Step(now, below)
            kept = math.sqrt(max(kept**2 - self.eta**2 * float(step.posterior_variance), 0.0))
        x_s = mix(alpha_s - kept * alpha_t / sigma_t, estimate.x0, kept / sigma_t, x)
        if self.eta and below.sigma > 0:
            deviation = self.eta * step.variance(self.variance(estimate)).sqrt()
            x_s = x_s + deviation.to(x) * noise.like(x)
        return x_s, None


@dataclass(frozen=True)
class Euler:
    """x_s = x + (s − t) dx/dt: Euler's method on the probability flow (Song et al. 2021, Eq. 13, arXiv:2011.13456)."""

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        return _along(model, x, t, float(s) - float(t)), None


@dataclass(frozen=True)
class Heun:
    """x_s = x + (s − t)(d + d′)/2, d at x and d′ at Euler's x_s (Karras et al. 2022, Algorithm 1, arXiv:2206.00364).

    As the mean of x and of two of Euler's steps, both of s − t, the second from x_s at s.
    """

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        h = float(s) - float(t)
        return torch.lerp(x, _along(model, _along(model, x, t, h), s, h), 0.5), None


def _along(model: Denoiser, x: Tensor, t: Time, h: float) -> Tensor:
    """x + h dx/dt at t, with dx/dt = α′ x̂0 + σ′ (x − α x̂0)/σ."""
    level = model.schedule.at(t)
    estimate = model(x, level)
    alpha, sigma = level.numbers(signal_and_noise)
    d_alpha, d_sigma = level.numbers(VELOCITY.row)
    if abs(h * d_sigma) > sigma:  # from a level below, where roundings of x would be drawn out with its noise
        return torch.add(x, estimate.velocity, alpha=h)
    rate = h * d_sigma / sigma if sigma else 0.0
    return mix(h * d_alpha - rate * alpha, estimate.x0, 1 + rate, x)


def signal_and_noise(level: NoiseLevel) -> tuple[Tensor, Tensor]:
    """α and σ, for `NoiseLevel.numbers`."""
    return level.alpha, level.sigma
