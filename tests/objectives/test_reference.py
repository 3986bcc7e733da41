"""Many rows for one target: the same mean as one row has, whatever the batch, and less variance.

Statistical tests are seeded and held to 5 standard errors, a false alarm of 6e-7 for each of some fifty numbers.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from scorefield.exact import GaussianMixture
from scorefield.model import NetworkDenoiser
from scorefield.noise import EDM, VP, Flow, Schedule
from scorefield.objectives.criteria import Denoising
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.reference import clean_mean
from scorefield.objectives.times import LogNormal
from scorefield.objectives.weights import one
from scorefield.parametrization import EPSILON, edm_f
from scorefield.randomness import Noise, Stream

SCHEDULES: dict[str, Schedule] = {"edm": EDM(0.01, 50.0), "vp": VP(), "flow": Flow(0.01, 0.99)}
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)


def mixture(schedule: Schedule) -> GaussianMixture:
    covariances = torch.stack((torch.eye(2) * 0.3, torch.tensor([[0.5, 0.3], [0.3, 0.2]])))
    return GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 1.0], [-1.0, 0.5]]), covariances, schedule)


def bias(schedule: Schedule, sigma: float, size: int, *, own: bool = True, twice: bool = False) -> float:
    """H₀: E[(x̄0 − x0) f(x_t)] = 0, as both have the mean E[x0 given x_t]. The largest |z| over six f, by batches.

    Args:
        schedule: of the noise.
        sigma: σ/α.
        size: rows of a reference batch.
        own: whether x_t's own row is among them.
        twice: whether the first row stands there twice, and is the one looked at.
    """
    batches = (200_000 if twice else 20_000) // size
    x0 = mixture(schedule).sample(batches * size, seed=1)
    if twice:
        x0 = x0.reshape(batches, size, 2)
        x0[:, 1] = x0[:, 0]
        x0 = x0.reshape(-1, 2)
    t = schedule.time_of_sigma(sigma)
    level = schedule.at(t, like=x0)
    x_t = schedule.add_noise(x0, t, Stream(0, "noise").normal(len(x0), (2,), dtype=torch.float64))
    mean = clean_mean(x_t, x0, level, None, size) if own else leave_out(x_t, x0, level.alpha, level.sigma, size)
    apart = mean - x0
    y = x_t / math.hypot(float(level.alpha), float(level.sigma))
    tests = torch.stack([apart, apart * y, apart * (2 * y).sin()]).flatten(2)
    by_row = tests.reshape(3, batches, size, 2)
    by_batch = by_row[:, :, 0] if twice else by_row.mean(2)
    return float((by_batch.mean(1) / (by_batch.std(1) / math.sqrt(batches))).abs().max())


def leave_out(x_t: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor, size: int) -> Tensor:
    """The mean over the other rows of a batch alone: the planted bug."""
    noisy, clean = x_t.reshape(-1, size, 2), x0.reshape(-1, size, 2)
    squared = (noisy.unsqueeze(2) - alpha * clean.unsqueeze(1)).square().sum(3) / (2 * sigma**2)
    squared = squared + torch.diag(torch.full((size,), math.inf, dtype=torch.float64))
    return (torch.softmax(-squared, 2) @ clean).reshape(x0.shape)


@each_schedule
@pytest.mark.parametrize("sigma", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("size", [2, 5, 50])
def test_a_reference_batch_has_the_mean_of_one_row(schedule: Schedule, sigma: float, size: int) -> None:
    assert bias(schedule, sigma, size) < 5


@each_schedule
def test_planted_a_batch_without_the_row_itself_or_with_rows_twice_is_caught(schedule: Schedule) -> None:
    assert bias(schedule, 0.5, 4, own=False) > 8
    assert bias(schedule, 1.0, 3, twice=True) > 8


@each_schedule
def test_a_larger_batch_has_less_variance(schedule: Schedule) -> None:
    truth = mixture(schedule)
    x0 = truth.sample(4096, seed=1)
    t = schedule.time_of_sigma(0.7)
    level = schedule.at(t, like=x0)
    x_t = schedule.add_noise(x0, t, Stream(0, "noise").normal(len(x0), (2,), dtype=torch.float64))
    exact = truth(x_t, t).x0
    errors = [float((clean_mean(x_t, x0, level, None, size) - exact).square().mean()) for size in (1, 4, 32, 256)]
    assert all(later < 0.7 * earlier for earlier, later in pairwise(errors))
    assert errors[-1] < errors[0] / 20


@each_schedule
@pytest.mark.parametrize("shape", [(2,), (3, 4), (2, 6, 6)])
def test_little_noise_leaves_a_row_its_own_and_much_noise_gives_the_mean_of_all(
    schedule: Schedule, shape: tuple[int, ...]
) -> None:
    x0 = Stream(0, "x").normal(16, shape)
    epsilon = Stream(0, "noise").normal(16, shape)
    for sigma, expected in ((0.011, x0), (49.0, x0.mean(0).expand_as(x0))):
        t = schedule.time_of_sigma(sigma).expand(16)
        x_t = schedule.add_noise(x0, t, epsilon)
        found = clean_mean(x_t, x0, schedule.at(t, like=x0), None, 16)
        assert torch.allclose(found, expected, atol=0.2 if sigma > 1 else 1e-4)


def test_rows_with_other_conditions_say_nothing() -> None:
    schedule = EDM(0.01, 50.0)
    label = torch.tensor([0.0, 1.0]).repeat(32).reshape(-1, 1)
    x0 = (2 * label - 1) * torch.linspace(1, 2, 64).reshape(-1, 1)
    t = torch.full((64,), 5.0, dtype=torch.float64)
    level = schedule.at(t, like=x0)
    x_t = schedule.add_noise(x0, t, Stream(0, "noise").normal(64, (1,)))
    mean = clean_mean(x_t, x0, level, label, 64)
    assert torch.equal(mean.sign(), 2 * label - 1)
    assert (clean_mean(x_t, x0, level, None, 64).sign() != 2 * label - 1).any()
    # Every row a condition of its own, as a measured number would be: each stands alone again.
    alone = clean_mean(x_t, x0, level, torch.arange(64.0).reshape(-1, 1), 64)
    assert torch.allclose(alone, x0, atol=1e-6)
    # One condition for all rows is none.
    together = clean_mean(x_t, x0, level, torch.ones(1, 3), 64)
    assert torch.equal(together, clean_mean(x_t, x0, level, None, 64))


class Scaled(nn.Module):
    """x times a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        return self.weight * x


def test_the_loss_has_the_same_expected_gradient() -> None:
    # H₀: the gradients of both losses have one mean: 200 batches, 5 standard errors of their difference.
    truth = mixture(EDM(0.05, 10.0))
    model = NetworkDenoiser(Scaled(), truth.schedule, edm_f(1.0), 1.0)
    apart, spread = [], []
    for step in range(200):
        x0 = truth.sample(range(64 * step, 64 * step + 64), seed=1)
        noise = Noise(Stream(0, "noise"), range(64), step)
        t = LogNormal(0.0, 1.0).quantile(Stream(0, "t").uniform(64, step=step), model.schedule)
        gradients = []
        for reference in (1, 32):
            loss = Denoising(EPSILON, reference)(model, x0, t, noise).mean()
            (gradient,) = torch.autograd.grad(loss, model.network.weight)
            gradients.append(gradient)
        apart.append(gradients[1] - gradients[0])
        spread.append(torch.stack(gradients))
    difference = torch.stack(apart)
    assert abs(float(difference.mean() / difference.std())) * math.sqrt(200) < 5
    plain, together = torch.stack(spread).std(0).tolist()
    assert together < 0.9 * plain


def test_held_out_losses_are_of_each_row_alone() -> None:
    measure = ScoreMatching(LogNormal(), Denoising(EPSILON, 32), one).held_out()
    assert measure is not None
    assert measure.criterion == Denoising(EPSILON)
    assert measure.held_out() == measure


def test_far_from_zero_a_row_is_still_its_own() -> None:
    # Products of large numbers would cancel: without their mean taken off, the error is 0.07 here.
    x0 = 100 + Stream(0, "x").normal(32, (16,))
    x0[1::2] = x0[::2] + 0.05 * Stream(0, "near").normal(16, (16,))
    schedule = EDM(0.001, 50.0)
    t = torch.full((32,), 0.01, dtype=torch.float64)
    x_t = schedule.add_noise(x0, t, Stream(0, "noise").normal(32, (16,)))
    exact = clean_mean(x_t.double(), x0.double(), schedule.at(t, like=x0), None, 32)
    assert (clean_mean(x_t, x0, schedule.at(t, like=x0), None, 32) - exact).abs().max() < 1e-3
