"""Predictors with noise of their own: the reverse SDE by Euler–Maruyama and by reverse diffusion, and annealed steps.

    dx = (f x − g² ∇log p_t(x)) dt + g dw̄,   t falling                                                       (1)

(Anderson 1982; Song et al. 2021, Eq. 6, arXiv:2011.13456), with f and g² of the schedule, so for every schedule. All
have weak order one: the error of a mean over the end points falls as 1/steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.mixing import mix
from scorefield.model import Denoiser
from scorefield.noise import Time
from scorefield.randomness import Noise
from scorefield.variational.step import step_down


@dataclass(frozen=True)
class EulerMaruyama:
    """x_s = x − (f x − g² ∇log p_t(x)) h + g √h z,   h = t − s: (1) with its coefficients at t.

    Song et al. 2021, arXiv:2011.13456. At α = 0, where a flow begins, f is infinite and (1) has no such step:
    `ReverseDiffusion` has one, and a grid may begin a little below, as `grids.geometric` and `grids.karras` do.
    """

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        level = model.schedule.at(t)
        h = float(level.t - model.schedule.at(s).t)
        if level.alpha == 0:
            raise SamplingError(f"the reverse SDE has an infinite drift at t = {level.t:g}, where α = 0: start below")
        f, g2 = float(level.drift), float(level.diffusion_squared)
        x_s = mix(1 - f * h, x, g2 * h, model(x, t).score)
        return x_s.add(noise.like(x), alpha=math.sqrt(g2 * h)), None


@dataclass(frozen=True)
class ReverseDiffusion:
    """x_s = (2 − r) x + v ∇log p_t(x) + √v z,   where x_t given x_s ~ N(r x_s, v): the way up, walked backwards.

    Song et al. 2021, appendix E, arXiv:2011.13456: x_s = x − f + G² ∇log p_t(x) + G z for a step upwards
    x_t = x_s + f + G z, here the exact one, f = (r − 1) x and G² = v. With r = √(1 − β) and v = β it is theirs for VP,
    with r = 1 and v = σ_t² − σ_s² theirs for VE. Finite wherever σ_t is, at α_t = 0 too.
    """

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        step = step_down(model.schedule, t, s)
        r, v = float(step.now.alpha / step.below.alpha), float(step.beta)
        return mix(2 - r, x, v, model(x, t).score).add(noise.like(x), alpha=math.sqrt(v)), None


@dataclass(frozen=True)
class ConsistentAnnealed:
    """y_s = y + η σ̃_t² ∇log p_t(y) + β σ̃_s z: a move of annealed Langevin with just the noise that its level misses.

    In units of the data, y = x/α and σ̃ = σ/α, with γ = σ̃_s/σ̃_t < 1 and σ̃_t² ∇log p_t(y) = E[x0 given x_t] − y,

        1 − η = γ^pace,   β² = 1 − (1 − η)²/γ²                                                                  (2)

    The drift leaves (1 − η)² σ̃_t² of the old noise and β fills it up to σ̃_s². Plain annealed Langevin adds 2η σ̃²
    whatever is missing, and so never has its level's noise (Jolicoeur-Martineau et al. 2021, arXiv:2009.05475). This is
    exact for data of one point and of weak order one elsewhere.

    Args:
        pace: how much of the old noise a step forgets. At 1 all of what is too much and nothing more, β = 0: DDIM.
            At 2 it is DDPM's step. The paper's constant η on a geometric grid is pace = log(1 − η)/log γ.
    """

    pace: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.pace < math.inf:
            raise SamplingError(f"pace must be at least 1, below which too much noise is left, got {self.pace}")

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        estimate, step = model(x, t), step_down(model.schedule, t, s)
        # γ^{pace − 1} = (1 − η)/γ, and the kept noise (1 − η) σ̃_t = γ^{pace − 1} σ̃_s: finite at α_t = 0 too.
        gamma = float((step.below.sigma / step.now.sigma) * (step.now.alpha / step.below.alpha))
        kept = gamma ** (self.pace - 1)
        beta, sigma = math.sqrt(1 - kept**2), float(step.below.sigma)
        x_s = mix(float(step.below.alpha), estimate.x0, kept * sigma, estimate.epsilon)
        return x_s.add(noise.like(x), alpha=beta * sigma), None
