"""Walk-back chains at one noise level: noise clean data, draw clean data from their reconstruction, and again.

    x_t ~ N(α x, σ² I),   x ~ p(x0 given x_t),   x_t ~ …                                                       (1)

the chain of a generative stochastic network (Bengio et al. 2014, arXiv:1306.1091). Both lines are conditionals of one
joint law of (x0, x_t), so with the true p(x0 given x_t) the chain leaves p_0 and p_t as they are, at any level. A model
gives the mean of that conditional; what is drawn around it decides what the chain settles on. For data N(μ, λ) and a
draw N(E[x0 given x_t], v) the clean rows settle on N(μ, V), with c = α λ/(α² λ + σ²) and

    V = c² (α² V + σ²) + v   ⇒   V = (c² σ² + v)/(1 − c² α²)                                                   (2)

which is λ for the true v = λ σ²/(α² λ + σ²), and too small for v = 0: means alone shrink a chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.model import Denoiser
from scorefield.noise import Time
from scorefield.randomness import Noise
from scorefield.samplers.grids import geometric
from scorefield.samplers.predictors import Ancestral

# The variance of one element of x0 given x_t, float64, from the model and the time.
Spread = Callable[[Denoiser, Time], Tensor]


class Reconstruction(Protocol):
    """A draw of x0 given x_t."""

    @property
    def draws(self) -> int:
        """How many draws of noise it takes."""
        ...

    def __call__(self, model: Denoiser, x: Tensor, t: Time, noise: Noise, first: int) -> Tensor:
        """Draw clean data.

        Args:
            model: the denoiser.
            x: (B, *shape), at t.
            t: the level, () float64.
            noise: its draws first, …, first + draws − 1 are free to be used.
            first: the first of them.

        Returns:
            (B, *shape).
        """
        ...


@dataclass(frozen=True)
class WalkBack:
    """A corrector: `moves` times x0 from its reconstruction and noised again to the level, (1).

    Args:
        reconstruction: how x0 is drawn.
        moves: number of times.
    """

    reconstruction: Reconstruction
    moves: int = 1

    def __post_init__(self) -> None:
        if self.moves < 1:
            raise SamplingError(f"a walk-back chain needs at least 1 move, got {self.moves}")

    def __call__(self, model: Denoiser, x: Tensor, t: Time, noise: Noise) -> Tensor:
        each = self.reconstruction.draws + 1
        for move in range(self.moves):
            x0 = self.reconstruction(model, x, t, noise, move * each + 1)
            x = model.schedule.add_noise(x0, t, noise.like(x, draw=move * each))
        return x


@dataclass(frozen=True)
class GaussianReconstruction:
    """x0 ~ N(E[x0 given x_t], v I): one evaluation, and right as far as p(x0 given x_t) is such a Gaussian.

    Args:
        variance: v, of one element; `gaussian_spread` by default.
    """

    variance: Spread | None = None
    draws: int = 1

    def __call__(self, model: Denoiser, x: Tensor, t: Time, noise: Noise, first: int) -> Tensor:
        variance = (self.variance or gaussian_spread)(model, t)
        return model(x, t).x0 + variance.sqrt().to(x.dtype).to(x.device) * noise.like(x, draw=first)


@dataclass(frozen=True)
class AncestralReconstruction:
    """x0 by DDPM's steps down to the lowest level, and the mean there: closer to p(x0 given x_t) with every step.

    Args:
        steps: number of steps, spaced evenly in log σ, and so many evaluations and one.
    """

    steps: int = 10

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SamplingError(f"a reconstruction needs at least 1 step, got {self.steps}")

    @property
    def draws(self) -> int:
        """One for each step."""
        return self.steps

    def __call__(self, model: Denoiser, x: Tensor, t: Time, noise: Noise, first: int) -> Tensor:
        top = float(t)
        if top <= model.schedule.t_min:  # no level is left to step to
            return model(x, t).x0
        grid = geometric(model.schedule, self.steps + 1, between=(top, model.schedule.t_min))
        down = Ancestral()
        for step in range(self.steps):
            x, _ = down(
                model, x, grid[step], grid[step + 1], None, _Later(noise.stream, noise.rows, noise.step, first + step)
            )
        return model(x, grid[-1]).x0


def gaussian_spread(model: Denoiser, t: Time) -> Tensor:
    """v = σ_d² σ²/(α² σ_d² + σ²), (): that of data N(0, σ_d² I), with σ_d the model's `sigma_data`.

    It is the error of the best linear estimate, so on average no data with that mean square have more. Data with
    structure have less, and for them a chain with this v is wider than p_0: see `reconstruction_error`.
    """
    level = model.schedule.at(t)
    data, noise = model.sigma_data**2, level.sigma**2
    return data * noise / (level.alpha**2 * data + noise)


def no_spread(model: Denoiser, t: Time) -> Tensor:
    """v = 0, (): the reconstruction is its mean, a denoising autoencoder's, and the chain is too narrow by (2)."""
    return torch.zeros((), dtype=torch.float64)


def reconstruction_error(model: Denoiser, x0: Tensor, t: Time, noise: Noise) -> Tensor:
    """v = E‖x0 − E[x0 given x_t]‖²/D over rows of data, (): with it the clean rows keep their mean square.

    For a true mean E‖x0‖² = E‖E[x0 given x_t]‖² + D v, so that one move from data leaves it as it was.

    Args:
        model: the denoiser.
        x0: data, (B, *shape), that the model was not fitted to.
        t: the level, () float64.
        noise: of its draw 0.
    """
    with torch.no_grad():
        estimate = model(model.schedule.add_noise(x0, t, noise.like(x0)), t)
    return (x0.double() - estimate.x0.double()).square().mean().cpu()


@dataclass(eq=False)
class _Later(Noise):
    """The draws of a noise from some number on."""

    first: int = 0

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return super().like(x, draw=self.first + draw)
