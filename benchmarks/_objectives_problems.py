"""Mixtures known in closed form, rows drawn from them, and the relative error of a score learned from these rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scorefield.exact import GaussianMixture
from scorefield.model import NetworkDenoiser, ScoreModel, reschedule
from scorefield.noise import EDM
from scorefield.noise_range import NoiseRange, measure_noise_range
from scorefield.randomness import Stream

ROWS = 20_000
LEVELS, TEST_ROWS = 24, 2000


def mixture(dimension: int) -> GaussianMixture:
    """Six Gaussians of unequal weights, widths and directions, about 1 in scale."""
    stream, k = Stream(0, f"benchmark mixture {dimension}"), 6
    means = stream.normal(k, (dimension,), dtype=torch.float64)
    axes, _ = torch.linalg.qr(stream.normal(k, (dimension, dimension), draw=1, dtype=torch.float64))
    deviations = 0.15 + 0.35 * stream.uniform(k, (dimension,), draw=2)
    weights = 0.3 + stream.uniform(k, draw=3)
    return GaussianMixture(weights, means, torch.einsum("kij,kj,klj->kil", axes, deviations**2, axes))


def far_modes() -> GaussianMixture:
    """Two far Gaussians, one four times as heavy (Song & Ermon 2019, Figure 2)."""
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
    return GaussianMixture(torch.tensor([0.2, 0.8]), means, torch.eye(2).expand(2, 2, 2))


class Problem:
    """A mixture, rows drawn from it, the noise range measured from them, and test points with their true scores."""

    def __init__(self, truth: GaussianMixture) -> None:
        self.dimension = truth.means.shape[1]
        self.data = truth.sample(ROWS, seed=1).float()
        self.range: NoiseRange = measure_noise_range(self.data)
        self.low, self.high, self.sigma_data = self.range.sigma_min, self.range.sigma_max, truth.sigma_data
        covariances = torch.einsum("kij,kj,klj->kil", truth.eigenvectors, truth.eigenvalues, truth.eigenvectors)
        self.schedule = EDM(self.low, self.high)
        self.truth = GaussianMixture(truth.weights, truth.means, covariances, self.schedule)
        self.sigmas = [float(sigma) for sigma in np.geomspace(self.low, self.high, LEVELS)]
        self.points = [self.truth.sample(TEST_ROWS, 1000 + n, sigma) for n, sigma in enumerate(self.sigmas)]
        self.scores = [self.truth.score(x, t) for x, t in zip(self.points, self.sigmas, strict=True)]

    def errors(self, model: NetworkDenoiser) -> tuple[float, list[float]]:
        """Relative error in all, and at each of `sigmas`."""
        learned = reschedule(model, self.schedule)
        wrong, right = [], []
        with torch.no_grad():
            for x, score, sigma in zip(self.points, self.scores, self.sigmas, strict=True):
                wrong.append(sigma**2 * float((learned.score(x.float(), sigma) - score).square().sum(1).mean()))
                right.append(sigma**2 * float(score.square().sum(1).mean()))
        return math.sqrt(sum(wrong) / sum(right)), [math.sqrt(a / b) for a, b in zip(wrong, right, strict=True)]

    def error_at(self, model: ScoreModel, sigma: float) -> float:
        """Relative error of a model of one level against the score at σ."""
        x = self.truth.sample(2 * TEST_ROWS, 77, sigma)
        with torch.no_grad():
            return relative(model.score(x.float(), torch.zeros(())), self.truth.score(x, sigma))


def relative(learned: Tensor, true: Tensor) -> float:
    """√(Σ‖s_θ − s*‖²/Σ‖s*‖²)."""
    return math.sqrt(float((learned - true).square().sum() / true.square().sum()))


def binned(learned: Tensor, true: Tensor, density: Tensor, edges: list[float]) -> list[float]:
    """Relative error over the points in each bin of density."""
    place = torch.bucketize(density, torch.tensor(edges, dtype=density.dtype))
    inside = [place == number for number in range(1, len(edges))]
    return [relative(learned.detach()[mask], true[mask]) if mask.any() else math.nan for mask in inside]


@torch.no_grad()
def langevin(score: Callable[[Tensor], Tensor], x: Tensor, moves: int = 1000, step: float = 0.1) -> Tensor:
    """x ← x + (ε/2) s(x) + √ε z without noise levels (Song & Ermon 2019, §3.2.2: 1000 moves, ε = 0.1)."""
    stream = Stream(0, "langevin without levels")
    for move in range(moves):
        x = x + step / 2 * score(x).to(x.dtype) + math.sqrt(step) * stream.normal(len(x), x.shape[1:], step=move)
    return x
