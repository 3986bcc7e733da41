"""The terms of DDPM's variational bound, in nats, one number for each element.

    −log p(x0) ≤ L_T + Σ L_{t→s} + L_0                             (Ho et al. 2020, Eq. 5, arXiv:2006.11239)   (1)
    L_{t→s} = ½[g + e^{−g} − 1 + e^{−g}(snr_s − snr_t)(x0 − x̂0)²],   g = log v/β̃ = share · log σ_t²/σ_s²       (2)

(2) is the divergence of two Gaussians, the posterior of `step` and the walk's. Terms are float64, each from one draw
of x_t.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.mixing import mix
from scorefield.model import Denoiser
from scorefield.noise import Time
from scorefield.parametrization import Estimate, V
from scorefield.randomness import Noise
from scorefield.variational.bins import Bins
from scorefield.variational.step import Step, StepVariance, learned_or_small, step_down


def prior_term(model: Denoiser, x0: Tensor, t: Time) -> Tensor:
    """L_T = KL(q(x_T given x0) ‖ N(0, α²σ_data² + σ²)), from what the walk's first draw is made of.

    With h = snr σ_data² it is ½[log(1 + h) + (snr x0² − h)/(1 + h)].

    Args:
        model: gives the schedule and σ_data.
        x0: (B, *shape).
        t: the first level T, () or (B,).

    Returns:
        (B, *shape) float64, nats.
    """
    snr = model.schedule.at(t, like=x0).snr
    h = snr * model.sigma_data**2
    return (torch.log1p(h) + (snr * x0.double() ** 2 - h) / (1 + h)) / 2


def step_term(
    model: Denoiser,
    x0: Tensor,
    t: Time,
    s: Time,
    noise: Noise,
    variance: StepVariance = learned_or_small,
) -> Tensor:
    """L_{t→s} = KL(q(x_s given x_t, x0) ‖ p(x_s given x_t)), (2), at x_t = α x0 + σ ε.

    Args:
        model: the denoiser.
        x0: (B, *shape).
        t, s: two levels, s < t, () or (B,).
        noise: its draw 0 is ε.
        variance: which v the walk adds.

    Returns:
        (B, *shape) float64, nats.

    Raises:
        OptionError: for a step that does not go down, or a learned variance that is not there.
    """
    step, epsilon = step_down(model.schedule, t, s, like=x0), noise.like(x0)
    if not bool(((step.below.t < step.now.t) & (step.below.sigma > 0)).all()):
        raise OptionError(f"a step goes down to a level with noise, got t = {t} and s = {s}")
    return step_cost(step, model(mix(step.now.alpha, x0, step.now.sigma, epsilon), t), x0, epsilon, variance)


def step_cost(step: Step, estimate: Estimate, x0: Tensor, epsilon: Tensor, variance: StepVariance) -> Tensor:
    """(2) from an estimate of x_t and the x0 and ε that x_t was made of, (B, *shape) float64."""
    grown = variance(estimate) * 2 * (step.now.sigma / step.below.sigma).log()
    squared = error_in_x0(estimate, x0, epsilon) ** 2
    return (grown + torch.expm1(-grown) + (-grown).exp() * (step.below.snr - step.now.snr) * squared) / 2


def decoder_term(
    model: Denoiser,
    x0: Tensor,
    t: Time,
    noise: Noise,
    variance: StepVariance = learned_or_small,
    bins: Bins | None = None,
) -> Tensor:
    """L_0 = −log N(x0; x̂0(x_t), v) at the last level t, a density, or of bins a probability (Ho et al. 2020, Eq. 13).

    The step from t to clean data has β = σ_t² and β̃ = 0. In a table of β, the β̃ of the step to level 1 takes the place
    of that zero, as in the code of Nichol & Dhariwal 2021 (arXiv:2102.09672, `posterior_log_variance_clipped`).
    Elsewhere the step before can be as short as one likes and says nothing of the noise that is left: there v is σ_t².

    Args:
        model: the denoiser.
        x0: (B, *shape).
        t: the last level of the walk, () or (B,).
        noise: its draw 0 is ε.
        variance: which v, between that β̃ and β.
        bins: what x0 stands for where it is made of integers; None where it is continuous.

    Returns:
        (B, *shape) float64, nats: of a density in the units of x0, and so of any sign, without bins.
    """
    level, epsilon = model.schedule.at(t, like=x0), noise.like(x0)
    return decoder_cost(model(mix(level.alpha, x0, level.sigma, epsilon), t), x0, epsilon, variance, bins)


def decoder_cost(
    estimate: Estimate, x0: Tensor, epsilon: Tensor, variance: StepVariance, bins: Bins | None = None
) -> Tensor:
    """`decoder_term` from an estimate of x_t and the x0 and ε that x_t was made of, (B, *shape) float64."""
    schedule, share = estimate.level.schedule, variance(estimate)
    log_variance = 2 * estimate.level.sigma.log()
    if isinstance(schedule, Discrete) and schedule.betas is not None:
        log_variance = log_variance + (1 - share) * step_down(schedule, 2.0, 1.0, like=x0).fresh.log()
    error = error_in_x0(estimate, x0, epsilon)
    if bins is not None:
        return -bins.log_mass(x0, x0.double() - error, log_variance)
    return (math.log(2 * math.pi) + log_variance + error**2 * (-log_variance).exp()) / 2


def error_in_x0(estimate: Estimate, x0: Tensor, epsilon: Tensor) -> Tensor:
    """x0 − x̂0 at x_t = α x0 + σ ε, (B, *shape) float64, with all its digits at every level.

    It is read off the error in v, which neither little nor much noise blows up: σ(v̂ − v)/(α² + σ²).
    """
    level = estimate.level
    v = V.of(estimate.x0 - x0, estimate.epsilon - epsilon, level).double()
    return level.sigma / (level.alpha**2 + level.sigma**2) * v
