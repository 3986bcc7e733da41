"""Distributions known in closed form at every noise level: the oracles that everything else is checked against.

For a mixture Σ w_k N(μ_k, Σ_k), noise keeps the family: p_t = Σ w_k N(α μ_k, C_k), C_k = α² Σ_k + σ² I, and with the
responsibilities r_k(x) of its components

    ∇ log p_t(x) = −Σ r_k C_k⁻¹ (x − α μ_k)                                        (1)
    E[x0 given x_t] = Σ r_k (μ_k + α Σ_k C_k⁻¹ (x_t − α μ_k))                      (2)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.model import Denoiser
from scorefield.noise import EDM, NoiseLevel, Schedule, Time
from scorefield.parametrization import Estimate
from scorefield.randomness import Stream

# Numbers up to which products are summed here: on some processors those of a library are not the same to the last bit
# for a row alone and among others.
_FEW = 8


class GaussianMixture(Denoiser):
    """A mixture of Gaussians with its exact score, posterior mean, density and samples at every level.

    Args:
        weights: (K,), positive; brought to sum one.
        means: (K, D).
        covariances: (K, D, D), positive semi-definite.
        schedule: the schedule of its times; EDM over a range wide around the data by default.
    """

    weights: Tensor
    means: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, schedule: Schedule | None = None) -> None:
        super().__init__()
        weights, means, covariances = (torch.as_tensor(a, dtype=torch.float64) for a in (weights, means, covariances))
        eigenvalues, eigenvectors = torch.linalg.eigh(covariances)
        if (weights <= 0).any() or (eigenvalues < -1e-12 * eigenvalues.abs().max()).any():
            raise ValueError("a mixture needs positive weights and positive semi-definite covariances")
        self.register_buffer("weights", weights / weights.sum())
        self.register_buffer("means", means)
        self.register_buffer("eigenvalues", eigenvalues.clamp(min=0))
        self.register_buffer("eigenvectors", eigenvectors)
        self.sigma_data = math.sqrt(float((self.second_moment()).diagonal().mean()))
        self.schedule = schedule or EDM(1e-3 * self.sigma_data, 40 * self.sigma_data)

    def second_moment(self) -> Tensor:
        """E[x0 x0ᵀ], (D, D)."""
        spread = torch.einsum("kij,kj,klj->kil", self.eigenvectors, self.eigenvalues, self.eigenvectors)
        outer = torch.einsum("ki,kl->kil", self.means, self.means)
        return torch.einsum("k,kil->il", self.weights, spread + outer)

    def mean(self) -> Tensor:
        """E[x0], (D,)."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """Cov[x0], (D, D)."""
        return self.second_moment() - torch.outer(self.mean(), self.mean())

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        rotated, variances, log_parts = self._components(x_t, level)
        r = torch.softmax(log_parts, dim=1)
        alpha = level.alpha[..., None]
        shrunk = alpha * self.eigenvalues / variances * rotated
        x0 = (r.unsqueeze(-1) * self.means).sum(1) + self._turned(r, shrunk)
        epsilon = level.sigma * self._turned(r, rotated / variances)
        return Estimate(x0.to(x_t.dtype), epsilon.to(x_t.dtype), level)

    def score(self, x: Tensor, t: Time) -> Tensor:
        """(1), (B, D): where there is no noise, too."""
        rotated, variances, log_parts = self._components(x, self.schedule.at(t, like=x))
        r = torch.softmax(log_parts, dim=1)
        return -self._turned(r, rotated / variances).to(x.dtype)

    def log_prob(self, x: Tensor, t: Time | None = None) -> Tensor:
        """log p_t(x) in nats, (B,) float64; without t the density of the data itself.

        Args:
            x: (B, D).
            t: () or (B,), or None.
        """
        level = self._clean(x) if t is None else self.schedule.at(t, like=x)
        return torch.logsumexp(self._components(x, level)[2], dim=1)

    def sample(self, rows: int | range, seed: int, t: Time | None = None) -> Tensor:
        """Exact draws of x0, or of x_t at one time t, (rows, D) float64."""
        stream = Stream(seed, "exact mixture")
        edges = self.weights.cumsum(0)[:-1].contiguous()
        component = torch.searchsorted(edges, stream.uniform(rows), right=True)
        z = stream.normal(rows, self.means.shape[1:], draw=1, dtype=torch.float64) * self.eigenvalues[component].sqrt()
        x0 = self.means[component] + torch.einsum("bdj,bj->bd", self.eigenvectors[component], z)
        if t is None:
            return x0
        return self.schedule.add_noise(x0, t, stream.normal(rows, x0.shape[1:], draw=2, dtype=torch.float64))

    def standardised(self, shift: Tensor, scale: Tensor, schedule: Schedule) -> GaussianMixture:
        """The mixture of (x0 − shift)/scale under another schedule; shift and scale (D,)."""
        covariances = torch.einsum("kij,kj,klj->kil", self.eigenvectors, self.eigenvalues, self.eigenvectors)
        scale = scale.double()
        return GaussianMixture(
            self.weights, (self.means - shift) / scale, covariances / torch.outer(scale, scale), schedule
        )

    def conditional(self, x0: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The law of some numbers of x0 given the others: Σ r_k N(m_k + A_k (x_o − m_o,k), …), A_k = Σ_uo Σ_oo⁻¹.

        Args:
            x0: (B, D), whose seen numbers are read.
            seen: (D,) bool, with at least one of either kind.

        Returns:
            weights (B, K), means (B, K, U) and covariances (K, U, U) of a mixture for each row.
        """
        covariances = torch.einsum("kij,kj,klj->kil", self.eigenvectors, self.eigenvalues, self.eigenvectors)
        known, rest = covariances[:, seen][..., seen], covariances[:, ~seen]
        marginal = GaussianMixture(self.weights, self.means[:, seen], known, self.schedule)
        x = x0[:, seen].double()
        weights = torch.softmax(marginal._components(x, self._clean(x))[2], dim=1)
        slopes = torch.linalg.solve(known, rest[..., seen].mT).mT
        shifts = x.unsqueeze(1) - self.means[:, seen]
        means = self.means[:, ~seen] + torch.einsum("kij,bkj->bki", slopes, shifts)
        return weights, means, rest[..., ~seen] - slopes @ rest[..., seen].mT

    def _clean(self, x: Tensor) -> NoiseLevel:
        one = torch.ones((), dtype=torch.float64, device=x.device)
        return NoiseLevel(self.schedule, 0 * one, one, 0 * one)

    def _turned(self, r: Tensor, rotated: Tensor) -> Tensor:
        """Σ_k r_k V_k u_k, (B, D), for u in each component's axes (B, K, D)."""
        if self.means.shape[1] > _FEW:
            return torch.einsum("kdj,bkj->bd", self.eigenvectors, r.unsqueeze(2) * rotated)
        return (self.eigenvectors * (r.unsqueeze(2) * rotated).unsqueeze(2)).sum((1, 3))

    def _components(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor]:
        """x − αμ in each component's axes (B, K, D), variances there (…, K, D), log w_k N(x) (B, K)."""
        alpha, sigma = level.alpha[..., None], level.sigma[..., None]
        away = x.double().unsqueeze(1) - alpha * self.means
        if self.means.shape[1] > _FEW:
            rotated = torch.einsum("bkd,kdj->bkj", away, self.eigenvectors)
        else:
            rotated = (away.unsqueeze(3) * self.eigenvectors).sum(2)
        variances = alpha**2 * self.eigenvalues + sigma**2
        log_norm = variances.log().sum(-1) + self.means.shape[1] * math.log(2 * math.pi)
        return rotated, variances, self.weights.log() - ((rotated**2 / variances).sum(-1) + log_norm) / 2


class Gaussian(GaussianMixture):
    """One Gaussian N(mean, covariance); mean (D,), covariance (D, D)."""

    def __init__(self, mean: Tensor, covariance: Tensor, schedule: Schedule | None = None) -> None:
        mean, covariance = (torch.as_tensor(a, dtype=torch.float64) for a in (mean, covariance))
        super().__init__(mean.new_ones(1), mean[None], covariance[None], schedule)


class Empirical(Denoiser):
    """The data set itself as a distribution: the denoiser that a network with no limit would overfit to.

    E[x0 given x_t] = Σ_i softmax_i(−‖x_t − α x_i‖²/2σ²) x_i.

    Args:
        data: (n, *shape).
        schedule: the schedule of its times.
    """

    data: Tensor

    def __init__(self, data: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.register_buffer("data", data.double())
        self.schedule = schedule
        self.sigma_data = float(self.data.square().mean().sqrt())

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        data, x = self.data.flatten(1), x_t.double().flatten(1)
        alpha, sigma = level.alpha.reshape(-1, 1), level.sigma.reshape(-1, 1)
        squared = x.square().sum(1, keepdim=True) - 2 * alpha * (x @ data.T) + alpha**2 * data.square().sum(1)
        x0 = (torch.softmax(-squared / (2 * sigma**2), dim=1) @ data).reshape(x_t.shape)
        epsilon = (x_t.double() - level.alpha * x0) / level.sigma
        return Estimate(x0.to(x_t.dtype), epsilon.to(x_t.dtype), level)
