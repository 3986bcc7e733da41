"""A number or one of some names: potentials against laws of probability, draws against a truncated law."""

from __future__ import annotations

import math

import pytest
import torch
from _conditional_problems import uneven

from scorefield.exact import GaussianMixture
from scorefield.guidance.constraints import Interval
from scorefield.guidance.particles import ParticleFilter
from scorefield.guidance.spiked import IntervalOrVertices
from scorefield.moments import Moments
from scorefield.noise import Schedule

# Three vertices on a triangle: of a number, and of two values beside it; then the number, free beside a value.
CORNERS = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
PLACES = torch.arange(3)
LOW, HIGH = -0.3, 1.2
WITHIN = float(torch.special.ndtr(torch.tensor(HIGH)) - torch.special.ndtr(torch.tensor(LOW)))


def spiked(schedule: Schedule, deviation: float = 0.02) -> GaussianMixture:
    """The number is N(0, 1), beside whichever vertex."""
    means = torch.cat((CORNERS, torch.zeros(3, 1)), dim=1)
    covariance = torch.diag(torch.tensor([deviation**2, deviation**2, 1.0])).expand(3, 3, 3)
    model = GaussianMixture(SHARES, means, covariance, schedule)
    model.moments = Moments.of(model.mean(), model.covariance())
    return model


def asked(*allowed: bool, low: float = LOW, high: float = HIGH) -> IntervalOrVertices:
    return IntervalOrVertices(PLACES, CORNERS, torch.tensor(allowed), low, high)


CASES = {
    "number": (asked(False, False), 0.5 * WITHIN),
    "number or one value": (asked(True, False), 0.5 * WITHIN + 0.3),
    "number or any value": (asked(True, True), 0.5 * WITHIN + 0.5),
    "one value": (asked(False, True, low=2.0, high=1.0), 0.2),
}


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("case", CASES)
def test_the_potential_is_the_probability(schedule: Schedule, case: str, sigma: float) -> None:
    # H₀: the mean of g over x_t is the probability of the constraint, as vertices and number are independent given
    # x_t; 5 standard errors, 6e-7. Caught: values of which the interval is asked as well.
    ours, expected = CASES[case]
    model, rows, t = spiked(schedule, 0.0), 20_000, schedule.time_of_sigma(sigma)
    x0 = model(model.sample(rows, seed=0, t=t), t).x0.unsqueeze(1)
    variance = torch.full((3,), sigma**2 / (1 + sigma**2), dtype=torch.float64)
    g = ours.log_potential(x0, variance).exp()
    # What is kept off zero (`constraints`) adds a thousandth at most of each of two terms.
    assert abs(float(g.mean()) - expected) < 5 * float(g.std()) / math.sqrt(rows) + 0.002
    product = g * Interval(PLACES[-1:], torch.tensor([LOW]), torch.tensor([HIGH])).log_potential(x0, variance).exp()
    if case != "number":
        assert abs(float(product.mean()) - expected) > 5 * float(product.std()) / math.sqrt(rows)


def test_the_constraint_itself() -> None:
    x0 = torch.cat((CORNERS.repeat(2, 1), torch.tensor([0.0, 0, 0, 5, 5, 5]).reshape(-1, 1)), dim=1).unsqueeze(0)
    kept = {case: ours.holds(x0)[0].tolist() for case, (ours, _) in CASES.items()}
    assert kept == {
        "number": [True, False, False, False, False, False],
        "number or one value": [True, True, False, False, True, False],
        "number or any value": [True, True, True, False, True, True],
        "one value": [False, False, True, False, False, True],
    }
    # Without noise the potential tends to it.
    tiny = torch.full((3,), 1e-8, dtype=torch.float64)
    for case, (ours, _) in CASES.items():
        assert (ours.log_potential(x0, tiny)[0] > -0.1).tolist() == kept[case]
        assert (ours.log_potential(x0, tiny)[0] > math.log(0.01)).tolist() == kept[case]
        assert ours.of_rows(torch.tensor([1])) is ours


@pytest.mark.parametrize("case", CASES)
def test_draws_have_the_truncated_law(schedule: Schedule, case: str) -> None:
    # H₀: each vertex that is allowed is drawn in proportion to what is left of it (4.5 standard errors, 7e-6 each);
    # beside the first one the number has its truncated law, beside others its own (`uneven`). Caught: the law before
    # anything was asked, whose shares are further away than that.
    model, (ours, mass) = spiked(schedule), CASES[case]
    rows = 800
    x0 = torch.full((rows, 3), math.nan, dtype=torch.float64)
    x = ParticleFilter(16, 32)(model, x0, torch.zeros_like(x0, dtype=torch.bool), [ours], seed=0)
    assert ours.holds(x.unsqueeze(1)).all()
    nearest = torch.cdist(x[:, :2], CORNERS).argmin(1)
    left = SHARES * torch.tensor([WITHIN * (ours.low < ours.high), *ours.allowed.tolist()]) / mass
    found = torch.bincount(nearest, minlength=3) / rows
    error = (left * (1 - left) / rows).sqrt()
    assert ((found - left).abs() <= 4.5 * error).all()
    assert ((found - SHARES).abs() > 4.5 * error).any()
    u = torch.special.ndtr(x[:, 2])
    low = torch.special.ndtr(torch.tensor(LOW, dtype=torch.float64))
    if bool((nearest == 0).any()):
        assert uneven((u[nearest == 0].unsqueeze(1) - low) / WITHIN) < 1
    if bool((nearest > 0).any()):
        assert uneven(u[nearest > 0].unsqueeze(1)) < 1
