"""Mixtures whose log-likelihood is known, what is asked of every way to compute it, and the counting of evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from _frontier_problems import HIGH, LOW, mixture_2d, mixture_64d
from torch import Tensor, nn

from scorefield.exact import GaussianMixture
from scorefield.model import Denoiser
from scorefield.moments import Moments
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, VP, Flow, Schedule
from scorefield.parametrization import Estimate
from scorefield.randomness import Stream

# All from σ/α = LOW. VP goes up to σ/α = 152, and the straight path to noise alone.
_LOWEST = VP().time_of(torch.tensor(-2 * math.log(LOW), dtype=torch.float64))
SCHEDULES: dict[str, Schedule] = {
    "σ": EDM(LOW, HIGH),
    "VP": VP(t_min=float(_LOWEST)),
    "straight": Flow(LOW / (1 + LOW)),
}


class Metered(Denoiser):
    """A denoiser that counts the rows it is asked for, whoever asks.

    Args:
        model: any denoiser.
        network: called with (x, c_noise) beside the model, and its output added with weight zero: the model then costs
            what the network costs, forward and in every derivative, and says what it said. None for the model alone.
    """

    def __init__(self, model: Denoiser, network: nn.Module | None) -> None:
        super().__init__()
        self.model, self.network, self.rows = model, network, 0
        self.schedule, self.sigma_data, self.moments = model.schedule, model.sigma_data, model.moments

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        self.rows += len(x_t)
        estimate: Estimate = self.model(x_t, t)
        if self.network is None:
            return estimate
        level = estimate.level
        scaled = torch.hypot(level.alpha, level.sigma).reciprocal() * x_t
        c_noise = level.sigma.clamp(min=1e-3).log().reshape(-1) / 4
        nothing = 0 * self.network(scaled.float(), c_noise.float()).to(x_t.dtype)
        return Estimate(estimate.x0 + nothing, estimate.epsilon + nothing, level)


@dataclass(frozen=True)
class Problem:
    """A mixture and rows drawn from it.

    Args:
        name: as on the command line.
        mixture: under EDM's range of σ.
        rows: how many for each seed.
        network: what an evaluation costs beside the mixture, see `Metered`.
    """

    name: str
    mixture: GaussianMixture
    rows: int
    network: nn.Module | None = None

    @property
    def features(self) -> int:
        """D."""
        return self.mixture.means.shape[1]

    def points(self, seed: int) -> Tensor:
        """Rows of data, (rows, D) float64."""
        return self.mixture.sample(self.rows, seed)

    def model(self, schedule: Schedule) -> Metered:
        """The exact denoiser under a schedule, counted from zero."""
        return Metered(under(self.mixture, schedule), self.network)

    def truth(self, x: Tensor, clean: bool) -> Tensor:
        """log p(x) in nats of the data themselves, or of the data with noise of σ = LOW, (B,)."""
        return self.mixture.log_prob(x, None if clean else torch.tensor(LOW))

    def trace(self, x: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """tr ∂E[x0 given x_t]/∂x_t in closed form, (B,), finite at both ends of a schedule.

        With m_k the mean of x0 in component k and g_k = −C_k⁻¹ (x_t − αμ_k), this is
        Σ r_k (α tr Σ_k C_k⁻¹ + (m_k − E[x0 given x_t])·g_k).
        """
        mixture, level = self.mixture, schedule.at(t)
        turned = torch.einsum("bkd,kdj->bkj", x.unsqueeze(1) - level.alpha * mixture.means, mixture.eigenvectors)
        variances = level.alpha**2 * mixture.eigenvalues + level.sigma**2
        r = torch.softmax(mixture.weights.log() - ((turned**2 / variances) + variances.log()).sum(2) / 2, dim=1)
        slopes = -torch.einsum("kdj,bkj->bkd", mixture.eigenvectors, turned / variances)
        shrunk = torch.einsum(
            "kdj,bkj->bkd", mixture.eigenvectors, level.alpha * mixture.eigenvalues / variances * turned
        )
        means = mixture.means + shrunk
        means = means - torch.einsum("bk,bkd->bd", r, means).unsqueeze(1)
        each = level.alpha * (mixture.eigenvalues / variances).sum(1) + (means * slopes).sum(2)
        return (r * each).sum(1)


@lru_cache
def under(mixture: GaussianMixture, schedule: Schedule) -> GaussianMixture:
    """The same data under another schedule, their mean and covariance beside."""
    one = torch.ones(mixture.means.shape[1], dtype=torch.float64)
    made = mixture.standardised(0 * one, one, schedule)
    made.moments = Moments.of(mixture.mean(), mixture.covariance())
    return made


def mixture_16d() -> GaussianMixture:
    """Eight Gaussians in 16 dimensions with decaying spectra, in axes of their own, brought to deviation 1."""
    stream, k, d = Stream(0, "likelihood mixture"), 8, 16
    means = 0.8 * stream.normal(k, (d,), dtype=torch.float64)
    axes, _ = torch.linalg.qr(stream.normal(k, (d, d), draw=1, dtype=torch.float64))
    first = 0.7 + stream.uniform(k, draw=2)
    deviations = first[:, None] * torch.arange(1, d + 1, dtype=torch.float64) ** -0.7
    weights = 0.3 + stream.uniform(k, draw=3)
    raw = GaussianMixture(weights, means, torch.einsum("kij,kj,klj->kil", axes, deviations**2, axes))
    scale = raw.covariance().diagonal().mean().sqrt()
    return raw.standardised(raw.mean(), scale.expand(d), EDM(LOW, HIGH))


def network(features: int) -> nn.Module:
    """A network of 4 × 256 in float32, whose weights do not matter."""
    return MLP((features,), 256, 4).eval().requires_grad_(False)


def problem_of(name: str, rows: int) -> Problem:
    """A problem by name: "2d", "16d" or "64d"."""
    made = {"2d": mixture_2d, "16d": mixture_16d, "64d": mixture_64d}
    return Problem(name, made[name](), rows)


@dataclass(frozen=True)
class Answer:
    """What a way to compute log p says.

    Args:
        values: (B,) in nats.
        evaluations: of the model, mean over rows.
        traces: of these, with the trace of the slope; mean over rows.
        std_error: (B,) where it claims one.
    """

    values: Tensor
    evaluations: float
    traces: float
    std_error: Tensor | None = None


class Compute(Protocol):
    """log p of rows x (B, D), to a tolerance; the seed is of its probes."""

    def __call__(self, problem: Problem, x: Tensor, tolerance: float, seed: int) -> Answer: ...


@dataclass(frozen=True)
class Contender:
    """A way to compute log p.

    Args:
        library: whose it is.
        name: what tells it from others of the library.
        compute: the way.
        tolerances: from coarse to fine.
        clean: whether its convention takes data as without noise, instead of at σ = LOW.
    """

    library: str
    name: str
    compute: Compute
    tolerances: tuple[float, ...]
    clean: bool = False

    @property
    def label(self) -> str:
        """Library and name."""
        return f"{self.library} {self.name}".strip()

    def errors(self, problem: Problem, x: Tensor, answer: Answer) -> Tensor:
        """|log p − truth| in nats, (B,)."""
        distance = (answer.values.double() - problem.truth(x, self.clean)).abs()
        return torch.where(distance.isfinite(), distance, math.inf)


Velocity = Callable[[Tensor, Tensor], Tensor]  # (x, t) to dx/dt
