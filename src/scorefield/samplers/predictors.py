"""Predictors: steps from a level t down to s < t, each as its paper writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.model import Denoiser
from scorefield.noise import mix
from scorefield.randomness import Noise
from scorefield.variational.step import StepVariance, learned_or_small, step_down


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

    def __call__(
        self, model: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        estimate = model(x, t)
        step = step_down(model.schedule, t, s, like=x)
        below = step.below
        kept = (below.sigma**2 - self.eta**2 * step.posterior_variance).clamp(min=0)
        x = mix(below.alpha, estimate.x0, kept.sqrt(), estimate.epsilon)
        if self.eta > 0:
            deviation = self.eta * step.variance(self.variance(estimate)).sqrt()
            x = x + torch.where(below.sigma > 0, deviation, 0.0).to(x.dtype) * noise.like(x)
        return x, None


@dataclass(frozen=True)
class Euler:
    """x_s = x + (s − t) dx/dt: Euler's method on the probability flow (Song et al. 2021, Eq. 13, arXiv:2011.13456)."""

    def __call__(
        self, model: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        return x + (s - t).to(x.dtype).to(x.device) * model(x, t).velocity, None


@dataclass(frozen=True)
class Heun:
    """x_s = x + (s − t)(d + d′)/2, d at x and d′ at Euler's x_s (Karras et al. 2022, Algorithm 1, arXiv:2206.00364)."""

    def __call__(
        self, model: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        h = (s - t).to(x.dtype).to(x.device)
        d = model(x, t).velocity
        d_next = model(x + h * d, s).velocity
        return x + h / 2 * (d + d_next), None
