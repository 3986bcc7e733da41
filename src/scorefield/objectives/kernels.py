"""Noise of any kind: kernels q(x̃ given x) whose score is known, and denoising score matching with them.

    J = E‖s(x̃) − ∇_x̃ log q(x̃ given x)‖²/D                                                       (1)

has the gradient of explicit score matching for the density of x̃ (Vincent 2011, Eq. 11, doi:10.1162/NECO_a_00142). Where
the score of q exists almost everywhere and q is continuous, this holds for any q, smooth or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scorefield.errors import OptionError
from scorefield.model import ScoreModel
from scorefield.randomness import Noise


class NoiseKernel(Protocol):
    """A way to add noise whose density has a known score."""

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """x̃ ~ q(· given x), (B, *shape)."""
        ...

    def score(self, x_noisy: Tensor, x: Tensor) -> Tensor:
        """∇_x̃ log q(x̃ given x), (B, *shape)."""
        ...


@dataclass(frozen=True)
class KernelDenoising:
    """Denoising score matching (1) with any kernel: the model learns the score of data with this noise, at any t.

    Args:
        kernel: makes the noise and knows its score.

    Raises:
        OptionError: for a kernel without a score, such as one that drops or rounds values: it has no density.
    """

    kernel: NoiseKernel

    def __post_init__(self) -> None:
        if not callable(getattr(self.kernel, "score", None)):
            raise OptionError(
                f"{type(self.kernel).__name__} has no score ∇ log q(x̃ given x), so no density to match: "
                "use GaussianKernel, LaplaceKernel or StudentKernel, or write one with corrupt and score"
            )

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        x_noisy = self.kernel.corrupt(x0, noise)
        target = self.kernel.score(x_noisy, x0)
        return (model.score(x_noisy, t) - target).square().flatten(1).mean(1)


class GaussianKernel:
    """x̃ ~ N(x, Σ), ∇ log q = −Σ⁻¹(x̃ − x).

    Args:
        covariance: Σ for rows of D numbers: one variance (), a variance for each (D,), or in full (D, D).

    Raises:
        OptionError: for a Σ that is not positive definite: without width in some direction there is no density.
    """

    def __init__(self, covariance: Tensor | float) -> None:
        sigma = torch.as_tensor(covariance, dtype=torch.float64)
        if sigma.ndim > 2 or sigma.shape[:-1] not in ((), sigma.shape[-1:]) or not sigma.numel():
            raise OptionError(f"a covariance has shape (), (D,) or (D, D), got {tuple(sigma.shape)}")
        if not _definite(sigma):
            raise OptionError(
                "this covariance is not symmetric and positive definite: the kernel has no density in some direction"
            )
        if sigma.ndim < 2:
            self.root, self.precision = sigma.sqrt(), 1 / sigma
        else:
            self.root = torch.linalg.cholesky(sigma)
            self.precision = torch.cholesky_inverse(self.root)

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """As `NoiseKernel`."""
        return x + _times(self.root, noise.like(x))

    def score(self, x_noisy: Tensor, x: Tensor) -> Tensor:
        """As `NoiseKernel`."""
        return -_times(self.precision, x_noisy - x)


def _definite(sigma: Tensor) -> bool:
    """Whether a finite covariance, full or diagonal, has width in every direction."""
    if not sigma.isfinite().all():
        return False
    if sigma.ndim < 2:
        return bool((sigma > 0).all())
    widths = torch.linalg.eigvalsh(sigma)
    # Where there is no width at all, the smallest is some rounding of zero.
    return torch.allclose(sigma, sigma.mT) and bool(widths[0] > len(widths) * 2.0**-52 * widths[-1])


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix, a diagonal or a number times the flattened rows of x."""
    matrix, flat = matrix.to(device=x.device, dtype=x.dtype), x.flatten(1)
    return (flat @ matrix.mT if matrix.ndim == 2 else matrix * flat).reshape(x.shape)


@dataclass(frozen=True)
class LaplaceKernel:
    """Each number of x̃ − x has density e^{−|z|/b}/2b, ∇ log q = −sign(x̃ − x)/b.

    Args:
        scale: b.
    """

    scale: float

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """As `NoiseKernel`."""
        # Two normals squared and summed are twice an exponential; the sign is a third one's.
        a, b, c = (noise.like(x, draw=draw) for draw in range(3))
        return x + self.scale * (a.square() + b.square()) / 2 * c.sign()

    def score(self, x_noisy: Tensor, x: Tensor) -> Tensor:
        """As `NoiseKernel`."""
        return -(x_noisy - x).sign() / self.scale


@dataclass(frozen=True)
class StudentKernel:
    """Each number of x̃ − x is b times Student's t with ν degrees of freedom, ∇ log q = −(ν + 1) z/(νb² + z²).

    Args:
        scale: b.
        degrees: ν, ½ or more; 1 is Cauchy's.
    """

    scale: float
    degrees: float = 3.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if not 0.5 <= self.degrees < math.inf:  # below, single draws are larger than float32 can hold
            raise OptionError(f"Student's kernel needs degrees of freedom of 0.5 or more, got {self.degrees}")

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """As `NoiseKernel`."""
        # The polar method (Bailey 1994, doi:10.1090/S0025-5718-1994-1203740-1): for two normals, e^{−r²/2} is uniform
        # and independent of their direction.
        a, b = noise.like(x), noise.like(x, draw=1)
        squared = a.square() + b.square()
        # √(ν(e^{r²/ν} − 1)), written so that its square, which overflows first, is not needed.
        radius = torch.exp(squared / (2 * self.degrees)) * (-self.degrees * torch.expm1(-squared / self.degrees)).sqrt()
        return x + self.scale * radius * a / squared.sqrt()

    def score(self, x_noisy: Tensor, x: Tensor) -> Tensor:
        """As `NoiseKernel`."""
        z = x_noisy - x
        return -(self.degrees + 1) * z / (self.degrees * self.scale**2 + z.square())


def _check_scale(scale: float) -> None:
    if not 0 < scale < math.inf:
        raise OptionError(f"a kernel without width has no density: scale must be positive and finite, got {scale}")
