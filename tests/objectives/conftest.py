"""The oracle of the objectives' tests: a truth in closed form, a bend away from it, how far gradients are apart.

Statistical tests are seeded and held to 5 standard errors, a false alarm of 6e-7 for each of the numbers compared. A
planted bug has to be further than 8 out: at 5, where the alarm is, it is then missed with probability 1.4e-3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from torch import Tensor

from scorefield.exact import GaussianMixture
from scorefield.model import Denoiser, ScoreModel
from scorefield.noise import Clean, Schedule
from scorefield.parametrization import Estimate
from scorefield.randomness import Noise, Stream

Loss = Callable[[ScoreModel, Tensor, Tensor, Noise], Tensor]


def _mixture(schedule: Schedule) -> GaussianMixture:
    covariances = torch.stack((torch.eye(2) * 0.3, torch.tensor([[0.5, 0.3], [0.3, 0.2]])))
    return GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 1.0], [-1.0, 0.5]]), covariances, schedule)


class Perturbed(Denoiser):
    """The truth plus a bend with four parameters, one set of them for each row: gradients come row by row.

    In ε where there is noise, in the score where there is none. Its derivatives in x are autograd's, of any order.
    """

    def __init__(self, truth: GaussianMixture, theta: Tensor) -> None:
        super().__init__()
        self.truth, self.schedule, self.sigma_data = truth, truth.schedule, truth.sigma_data
        self.theta = theta

    def bend(self, y: Tensor) -> Tensor:
        a, b, c, d = self.theta.unbind(1)
        return torch.stack((a * y[:, 0] + b * y[:, 1].sin(), c * (y[:, 0] * y[:, 1]).tanh() + d), dim=1)

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        epsilon = self.truth(x_t, t).epsilon + self.bend(x_t / torch.hypot(level.alpha, level.sigma))
        return Estimate((x_t - level.sigma * epsilon) / level.alpha, epsilon, level)

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        if isinstance(self.schedule, Clean):
            return self.truth.score(x, t) + self.bend(x)
        return super().score(x, t)


def _apart(first: Tensor, second: Tensor, theta: Tensor) -> float:
    (one,) = torch.autograd.grad(first.sum(), theta, retain_graph=True)
    (two,) = torch.autograd.grad(second.sum(), theta)
    difference = one - two
    return float((difference.mean(0) / (difference.std(0) / math.sqrt(len(theta)))).abs().max())


@pytest.fixture
def apart() -> Callable[[Tensor, Tensor, Tensor], float]:
    """H₀: two losses (B,) have one expected gradient in theta (B, k), of which each row knows its own.

    Gives the largest difference of the k, in standard errors of B rows.
    """
    return _apart


@pytest.fixture
def mixture() -> Callable[[Schedule], GaussianMixture]:
    """Two Gaussians in the plane, under a schedule; the score of `Clean` is that of the data."""
    return _mixture


@pytest.fixture
def gradient_gap() -> Callable[..., float]:
    """H₀: E ∂loss/∂θ = E ∂explicit/∂θ, as `gradient_gap(loss, schedule, sigma, at, rows)`, in standard errors.

    `loss` is in the score, `sigma` is σ/α, or 0 for the data's own score, and `at` is the value of all four parameters:
    at zero the model is the truth, and the gradient of explicit score matching zero.
    """

    def gap(loss: Loss, schedule: Schedule, sigma: float, at: float, rows: int = 20_000) -> float:
        truth = _mixture(schedule if sigma else Clean())
        theta = torch.full((rows, 4), at, dtype=torch.float64, requires_grad=True)
        model = Perturbed(truth, theta)
        x0, noise = truth.sample(rows, seed=1), Noise(Stream(0, "noise"), range(rows), 0)
        t = truth.schedule.time_of_sigma(sigma).expand(rows)
        x_t = truth.schedule.add_noise(x0, t, noise.like(x0))
        # Explicit score matching, which nobody can compute without the truth.
        explicit = (model.score(x_t, t) - truth.score(x_t, t)).square().mean(1)
        return _apart(loss(model, x0, t, noise), explicit, theta)

    return gap


@dataclass(frozen=True)
class Corners:
    """Every combination of signs, standing for normals: draw k is the k-th block of columns.

    Their mean is zero, their covariance the identity and their third moments zero, and so are those of a Gaussian: of a
    loss that is quadratic in each of x0, ε and v, as that of a linear score is, their mean is the expectation.
    """

    signs: Tensor
    elements: int

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        first = (1 + draw) * self.elements
        return self.signs[:, first : first + self.elements].reshape(x.shape).to(x.dtype)


@pytest.fixture
def corners() -> Callable[[Tensor, Tensor], tuple[Tensor, Corners]]:
    """Rows of mean μ and covariance Σ, and the noise to go with them: `corners(mean, covariance) -> x0, noise`."""

    def make(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Corners]:
        elements = len(mean)
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=3 * elements)), dtype=torch.float64)
        return mean + signs[:, :elements] @ torch.linalg.cholesky(covariance).mT, Corners(signs, elements)

    return make
