"""The oracle of the sampler tests, and how far rows are from being its draws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.exact import GaussianMixture
from scorefield.noise import EDM, VP, Flow, Schedule, SubVP

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[1.0, 0.2], [-1.0, 0.6], [-1.0, -1.4]], dtype=torch.float64)  # centred: Σ w μ = 0
COVARIANCES = torch.tensor(
    [[[0.16, 0.1], [0.1, 0.16]], [[0.09, 0.0], [0.0, 0.25]], [[0.1, -0.02], [-0.02, 0.06]]], dtype=torch.float64
)
# From σ/α = 0.03, where the mixture is hardly blurred, to a level without any shape left.
SCHEDULES: dict[str, Schedule] = {
    "vp": VP(t_min=float(VP().time_of_sigma(0.03))),
    "edm": EDM(0.03, 80.0),
    "flow": Flow(t_min=float(Flow().time_of_sigma(0.03))),
    "subvp": SubVP(t_min=float(SubVP().time_of_sigma(0.03))),
}


@pytest.fixture(params=list(SCHEDULES.values()), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """VP, EDM, flow and sub-VP in turn."""
    return request.param


@pytest.fixture
def mixture() -> Callable[[Schedule], GaussianMixture]:
    """Three Gaussians in the plane, under a schedule."""
    return lambda schedule: GaussianMixture(WEIGHTS, MEANS, COVARIANCES, schedule)


@pytest.fixture
def misfit() -> Callable[..., float]:
    """How far rows are from p_t of the mixture, as `misfit(x, schedule, t)`; at 1 and above they are not its draws.

    H₀: rows are independent draws of p_t. The largest of five moments over 5 standard errors (false alarm 6e-7 each),
    and of √n·sup|F_n − F| over 2.7 along six directions, in which p_t is a mixture with a known distribution function
    (false alarm at most 2·exp(−2·2.7²) = 9.3e-7 each, Massart 1990): together below 1e-5.
    """

    def measure(x: Tensor, schedule: Schedule | None = None, t: Tensor | float | None = None) -> float:
        x = x.double()
        if schedule is None or t is None:
            alpha, sigma = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        else:
            alpha, sigma = schedule.at(t).alpha, schedule.at(t).sigma
        means = alpha * MEANS
        covariances = alpha**2 * COVARIANCES + sigma**2 * torch.eye(2, dtype=torch.float64)
        second = torch.einsum("k,kij->ij", WEIGHTS, covariances + torch.einsum("ki,kj->kij", means, means))
        products = torch.cat((x, x[:, :1] * x, x[:, 1:] ** 2), dim=1)
        expected = torch.cat((WEIGHTS @ means, second[0], second[1, 1:]))
        z = (products.mean(0) - expected) / (products.std(0) / len(x) ** 0.5)
        worst = float(z.abs().max()) / 5
        for angle in torch.arange(6, dtype=torch.float64) * torch.pi / 6:
            u = torch.stack((angle.cos(), angle.sin()))
            along = (x @ u).sort().values
            spread = torch.einsum("i,kij,j->k", u, covariances, u).sqrt()
            shares = torch.special.ndtr((along[:, None] - means @ u) / spread) @ WEIGHTS
            steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
            apart = torch.maximum((steps[1:] - shares).max(), (shares - steps[:-1]).max())
            worst = max(worst, float(apart) * len(x) ** 0.5 / 2.7)
        return worst

    return measure
