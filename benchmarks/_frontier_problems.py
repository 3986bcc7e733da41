"""Models, starting noises and the true end points of the probability flow that samplers are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

import scorefield as sf
from scorefield.exact import GaussianMixture
from scorefield.model import Denoiser, reschedule
from scorefield.noise import EDM
from scorefield.parametrization import Estimate
from scorefield.randomness import Stream

LOW, HIGH = 0.002, 80.0  # of σ, the range of EDM and of every peer's default
DIGITS_SECONDS = 60.0

Run = Callable[[Denoiser, Tensor], Tensor]  # (model, x at the highest level) to the end point


class Method(Protocol):
    """A way to sample with a number of evaluations.

    Attributes:
        name: solver, grid and ending.
        library: whose it is; a peer's name, "ours", or "fitted" with the grid where that is not the measured one.
    """

    @property
    def name(self) -> str: ...

    @property
    def library(self) -> str: ...

    def fit(self, model: Denoiser, budget: int) -> Run:
        """Get ready for `budget` evaluations.

        Args:
            model: under an EDM schedule, t = σ; what a method asks it here is not counted.
            budget: the most evaluations that the result may take for a walk.

        Returns:
            a walk, which asks only the model that it is given and at most `budget` times.
        """
        ...


@dataclass(frozen=True)
class Plain:
    """A method that needs no fitting.

    Args:
        library, name: as in `Method`.
        walk: called as walk(model, x, budget).
    """

    library: str
    name: str
    walk: Callable[[Denoiser, Tensor, int], Tensor]

    def fit(self, model: Denoiser, budget: int) -> Run:
        return lambda counted, x: self.walk(counted, x, budget)


class Counted(Denoiser):
    """A denoiser that counts how often it is asked, whoever asks and in whatever type."""

    def __init__(self, model: Denoiser, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self.schedule, self.sigma_data, self.calls = model.schedule, model.sigma_data, 0

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        self.calls += 1
        estimate: Estimate = self.model(x_t.to(self.dtype), t)
        return estimate


@dataclass(frozen=True)
class Problem:
    """A model on EDM's range of noise.

    Args:
        name: as on the command line.
        model: a denoiser under an EDM schedule.
        shape: of one row.
        rows: how many are judged for each seed.
        screen_rows, search_rows: how many choose among all methods of a library, and among the best of these.
        fit_rows: how many paths solvers are fitted to.
        dtype: of x.
        fine_steps: of the reference solution.
        tolerance: how far halving its steps may move it, relative to the data's deviation.
    """

    name: str
    model: Denoiser
    shape: tuple[int, ...]
    rows: int
    screen_rows: int
    search_rows: int
    fit_rows: int
    dtype: torch.dtype
    fine_steps: int
    tolerance: float

    def noises(self, stream: str, seed: int, rows: int) -> Tensor:
        """x at the highest level, N(0, σ_data² + σ²), (rows, *shape)."""
        scale = math.hypot(self.model.sigma_data, self.model.schedule.t_max)
        return Stream(seed, stream).normal(rows, self.shape, dtype=self.dtype) * scale

    def truth(self, x: Tensor, steps: int | None = None) -> Tensor:
        """Where the flow takes x, float64: Runge–Kutta of fourth order, then E[x0 given x] at the lowest level.

        The independent variable is u = σ^{1/7}, in which dx/du = 7 (x − E[x0 given x])/u.
        """
        model, x = self.model, x.double()
        low, high = model.schedule.t_min, model.schedule.t_max
        grid = torch.linspace(high ** (1 / 7), low ** (1 / 7), (steps or self.fine_steps) + 1, dtype=torch.float64)

        def slope(x: Tensor, u: float) -> Tensor:
            return 7 / u * (x - model(x.to(self.dtype), min(max(u**7, low), high)).x0.double())

        with torch.no_grad():
            for u, below in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
                h = below - u
                k1 = slope(x, u)
                k2 = slope(x + h / 2 * k1, u + h / 2)
                k3 = slope(x + h / 2 * k2, u + h / 2)
                x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(x + h * k3, below))
            return model(x.to(self.dtype), low).x0.double()

    def error(self, end: Tensor, truth: Tensor) -> float:
        """Root mean square over rows and elements, relative to the data's deviation."""
        return self._finite((end.double() - truth).square().mean().sqrt())

    def middle_error(self, end: Tensor, truth: Tensor) -> float:
        """Median over rows of the root mean square over elements, relative to the data's deviation."""
        return self._finite((end.double() - truth).square().flatten(1).mean(1).sqrt().median())

    def _finite(self, distance: Tensor) -> float:
        relative = float(distance) / self.model.sigma_data
        return relative if math.isfinite(relative) else math.inf


def mixture_2d() -> GaussianMixture:
    """Six Gaussians of unequal weights, widths and directions, brought to deviation 1; none is a picture of another."""
    weights = torch.tensor([0.28, 0.22, 0.17, 0.14, 0.11, 0.08])
    means = torch.tensor([[-1.3, 0.4], [0.9, 1.2], [0.3, -1.4], [1.7, -0.5], [-0.6, -0.7], [-0.3, 1.6]])
    deviations = torch.tensor([[0.40, 0.12], [0.25, 0.15], [0.50, 0.10], [0.18, 0.30], [0.12, 0.12], [0.35, 0.20]])
    angles = torch.tensor([0.4, 1.9, 2.7, 0.0, 0.0, 1.1])
    axes = torch.stack(
        (torch.stack((angles.cos(), -angles.sin()), -1), torch.stack((angles.sin(), angles.cos()), -1)), -2
    ).double()
    return _to_deviation_one(weights, means, torch.einsum("kij,kj,klj->kil", axes, deviations.double() ** 2, axes))


def mixture_64d() -> GaussianMixture:
    """Ten Gaussians in 64 dimensions, each with a decaying spectrum in axes of its own.

    Their means are some six deviations from each other. Farther apart, the mean square error of a solver is that of the
    one row in a thousand which it takes to another component than the flow does, and no seed agrees with the next.
    """
    stream, k, d = Stream(0, "frontier mixture"), 10, 64
    means = 0.5 * stream.normal(k, (d,), dtype=torch.float64)
    axes, _ = torch.linalg.qr(stream.normal(k, (d, d), draw=1, dtype=torch.float64))
    first = 1.0 + stream.uniform(k, draw=2)
    deviations = first[:, None] * torch.arange(1, d + 1, dtype=torch.float64) ** -0.3
    weights = 0.3 + stream.uniform(k, draw=3)
    return _to_deviation_one(weights, means, torch.einsum("kij,kj,klj->kil", axes, deviations**2, axes))


def _to_deviation_one(weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
    raw = GaussianMixture(weights, means, covariances)
    scale = raw.covariance().diagonal().mean().sqrt()
    return raw.standardised(raw.mean(), scale.expand(raw.means.shape[1]), EDM(LOW, HIGH))


def image_model(run: str | None) -> tuple[Denoiser, tuple[int, ...]]:
    """The denoiser of a folder that `scorefield fit` made, or of a short fit to scikit-learn's digits."""
    if run is not None:
        bundle = sf.load(run, device="cpu")
    else:
        recipe = sf.recipes.auto()
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"budget": DIGITS_SECONDS})})
        bundle = sf.fit("sklearn:digits", recipe, seed=0, device="cpu")
    measured = bundle.noise_range
    model = reschedule(bundle.denoiser, EDM(measured.sigma_min, measured.sigma_max))
    return model.eval().requires_grad_(False), tuple(bundle.features.codec.shape)


def problems(names: list[str], run: str | None, rows: int | None) -> list[Problem]:
    """Problems by name: "2d", "64d" and "image"."""
    found = []
    for name in names:
        if name == "2d":
            made = Problem(name, mixture_2d(), (2,), 1024, 64, 512, 8192, torch.float64, 300, 1e-5)
        elif name == "64d":
            made = Problem(name, mixture_64d(), (64,), 1024, 32, 256, 2048, torch.float64, 240, 1e-5)
        else:
            model, shape = image_model(run)
            made = Problem(name, model, shape, 64, 4, 16, 128, torch.float32, 80, 1e-4)
        found.append(made if rows is None else replace(made, rows=rows))
    return found
