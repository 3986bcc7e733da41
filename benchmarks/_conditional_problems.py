"""Mixtures whose conditionals are known, and how far draws are from them: for `conditionals.py` and for tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.exact import GaussianMixture
from scorefield.moments import Moments
from scorefield.noise import EDM, VP, Flow, Schedule
from scorefield.randomness import Stream

# From σ/α = 0.01 of the data's deviation up to where hardly anything is left of it.
SCHEDULES: dict[str, Schedule] = {
    "edm": EDM(0.01, 40.0),
    "vp": VP(t_min=float(VP().time_of_sigma(0.01))),
    "flow": Flow(t_min=float(Flow().time_of_sigma(0.01))),
}
Make = Callable[[Schedule], GaussianMixture]


def _measured(model: GaussianMixture) -> GaussianMixture:
    model.moments = Moments.of(model.mean(), model.covariance())
    return model


def late(schedule: Schedule) -> GaussianMixture:
    """Two modes of number 0 that number 1 tells apart, hardly and only where there is almost no noise left."""
    means = torch.tensor([[-1.0, -0.06], [1.0, 0.06]])
    covariances = torch.tensor([[[0.04, 0.0], [0.0, 0.0036]], [[0.09, 0.0], [0.0, 0.0036]]])
    return _measured(GaussianMixture(torch.tensor([0.3, 0.7]), means, covariances, schedule))


def six(schedule: Schedule) -> GaussianMixture:
    """Five correlated Gaussians in six dimensions, which overlap."""
    roots = 0.35 * Stream(1, "roots").normal(5, (6, 6), dtype=torch.float64)
    covariances = roots @ roots.mT + 0.01 * torch.eye(6, dtype=torch.float64)
    means = Stream(1, "means").normal(5, (6,), dtype=torch.float64)
    return _measured(GaussianMixture(torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1]), means, covariances, schedule))


PROBLEMS: dict[str, tuple[Make, Tensor]] = {
    "late": (late, torch.tensor([False, True])),
    "six": (six, torch.tensor([True, False, True, False, True, False])),
}


def ranks(model: GaussianMixture, drawn: Tensor, seen: Tensor) -> Tensor:
    """P(number < drawn number given the seen), uniform where draws are of the conditional, (B, U)."""
    weights, means, covariances = model.conditional(drawn, seen)
    deviations = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    return torch.einsum("bk,bku->bu", weights, torch.special.ndtr((drawn[:, ~seen].unsqueeze(1) - means) / deviations))


def uneven(u: Tensor) -> float:
    """√n·sup|F_n(u) − u| over 2.7, the largest over columns; at 1 and above u is not uniform.

    H₀: u are independent uniforms. False alarm at most 2·exp(−2·2.7²) = 9.3e-7 a column (Massart 1990).
    """
    steps = torch.arange(len(u) + 1, dtype=torch.float64).reshape(-1, 1) / len(u)
    ordered = u.reshape(len(u), -1).sort(0).values
    apart = torch.maximum((steps[1:] - ordered).amax(), (ordered - steps[:-1]).amax())
    return float(apart) * math.sqrt(len(u)) / 2.7


def forgotten(model: GaussianMixture, drawn: Tensor, seen: Tensor) -> float:
    """How much of what the seen numbers say about the component draws ignore: 0 of the conditional, 1 of none.

    Minus the slope of (component of the draw − its probability) on that probability, for component 0.
    """
    weights, means, covariances = model.conditional(drawn, seen)
    parts = torch.distributions.MultivariateNormal(means, covariances).log_prob(drawn[:, ~seen].unsqueeze(1))
    found = torch.softmax(weights.log() + parts, dim=1)[:, 0]
    centred = weights[:, 0] - weights[:, 0].mean()
    return -float(((found - weights[:, 0]) * centred).sum() / centred.square().sum())
