"""What every way of drawing given seen numbers begins with: rows, levels, and particles at the highest level.

The seen numbers of a row go down one path of the forward process, which is known in closed form:

    x_T = α x0 + σ z,   x_s given x_t and x0 ~ N(μ̃(x_t, x0), β̃)               (`variational.step`, Eq. 1 and 2)   (1)

Given x0 of the seen numbers, the unseen numbers of x0 do not depend on the path; given the path at t, those of x_t do
not depend on it above t. So a draw of p_t(unseen | seen x_t) at every level ends as one of p(unseen | seen x0). At the
highest level data are taken for a Gaussian with their mean and covariance, as in all samplers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import DataError, OptionError, SamplingError
from scorefield.guidance.kernel import Seen, Spread
from scorefield.model import Denoiser
from scorefield.moments import Moments
from scorefield.noise import NoiseLevel
from scorefield.randomness import Stream
from scorefield.variational.step import Step

_APART = 4  # numbers of rows, up to which those between two are made and dropped
_WIDEST = 10.0  # σ/α in deviations of the data, from where their Gaussian is as good as they are


@dataclass(frozen=True, eq=False)
class GivenRows:
    """The b of B rows that have unseen numbers, each with K particles, flattened and in float64.

    Args:
        model: for b·K rows, the particles of a row one after another.
        moments: of the data.
        like: x0 as it was given, (B, *shape).
        known: its rows here, zero where unseen, (b, 1, D).
        seen: which numbers of them are seen.
        places: which of the B rows they are, (b,).
        names: the numbers of the B rows, which all randomness is keyed by.
        particles: K.
        seed: of all randomness.
    """

    model: Denoiser
    moments: Moments
    like: Tensor
    known: Tensor
    seen: Seen
    places: Tensor
    names: Sequence[int]
    particles: int
    seed: int

    def normal(self, name: str, count: int, step: int, draw: int = 0) -> Tensor:
        """Standard normals, (b, count, D)."""
        shape = (count, self.known.shape[-1])
        stream = Stream(self.seed, name)
        z = by_row(self.names, lambda run: stream.normal(run, shape, step=step, draw=draw, dtype=torch.float64))
        return z.to(self.known.device)[self.places]

    def uniform(self, name: str, step: int) -> Tensor:
        """One uniform a row, (b, 1)."""
        stream = Stream(self.seed, name)
        u = by_row(self.names, lambda run: stream.uniform(run, (1,), step=step))
        return u.to(self.known.device)[self.places]

    def clean(self, x: Tensor, level: NoiseLevel, step: int) -> Tensor:
        """E[x0 given x_t] of particles, (b, K, D) as x.

        Raises:
            SamplingError: where it is not finite.
        """
        found = self.model(x.reshape(-1, *self.like.shape[1:]).to(self.like.dtype), level).x0.reshape(x.shape).double()
        if not found.isfinite().all():
            broken = int((~found.isfinite().flatten(1).all(1)).nonzero()[0])
            raise SamplingError(
                f"row {self.names[int(self.places[broken])]} is not finite at step {step}, level t = {float(level):g}"
            )
        return found

    def path(self, level: NoiseLevel) -> Tensor:
        """(1) at the highest level, (b, 1, D)."""
        return level.alpha.to(self.known) * self.known + level.sigma.to(self.known) * self.normal("seen", 1, 0)

    def path_down(self, path: Tensor, step: Step, number: int) -> Tensor:
        """(1) a level below, (b, 1, D)."""
        deviation = step.posterior_variance.sqrt().to(path)
        return step.posterior_mean(path, self.known) + deviation * self.normal("seen", 1, number)

    def first(self, path: Tensor, level: NoiseLevel) -> Tensor:
        """Particles at the highest level, (b, K, D): of N(α μ, α²Σ + σ²I) given the seen numbers."""
        z = self.normal("particles", self.particles, 0)
        mean = (level.alpha.to(z) * self.moments.mean.reshape(-1)).expand(z.shape)
        return self.covariance(level.alpha**2, level.sigma**2).given(self.seen, mean, path, z)[0]

    def covariance(self, factor: Tensor, added: Tensor) -> Spread:
        """factor·Σ + added·I."""
        along, beside = (factor.to(v) * v + added.to(v) for v in (self.moments.variances, self.moments.rest))
        return Spread(self.moments.axes, along, beside)

    def posterior(self, level: NoiseLevel) -> Spread:
        """Of x0 given x_t, were the data Gaussian: σ²Σ(α²Σ + σ²I)⁻¹."""
        alpha, sigma = level.alpha, level.sigma
        along, beside = (
            sigma.to(v) ** 2 * v / ((alpha.to(v)) ** 2 * v + sigma.to(v) ** 2)
            for v in (self.moments.variances, self.moments.rest)
        )
        return Spread(self.moments.axes, along, beside)

    def finish(self, out: Tensor, drawn: Tensor, which: Tensor) -> None:
        """Put drawn numbers (b, D) where they were unseen into out (B, *shape), of some rows here, (b,) bool."""
        flat, places = out.flatten(1), self.places[which]
        flat[places] = torch.where(self.seen.mask[which], flat[places], drawn[which].to(flat))
        out.copy_(flat.reshape(out.shape))


def by_row(names: Sequence[int], make: Callable[[range], Tensor]) -> Tensor:
    """What is keyed by the numbers of rows, (B, …), made run by run of those that lie together.

    Args:
        names: the numbers of the rows, growing.
        make: gives (n, …) for n consecutive numbers.
    """
    if isinstance(names, range) or not len(names):
        return make(names if isinstance(names, range) else range(0))
    numbers = torch.as_tensor(names)
    runs = numbers.tensor_split((numbers.diff() > _APART).nonzero().flatten() + 1)
    return torch.cat([make(range(int(run[0]), int(run[-1]) + 1))[run - run[0]] for run in runs])


def unseen_rows(x0: Tensor, seen: Tensor, rows: Sequence[int] | None) -> tuple[Sequence[int], Tensor]:
    """The numbers of the rows, and the places of those that have unseen numbers, (b,) int64.

    Args:
        x0, seen, rows: as of `ParticleFilter`.

    Raises:
        OptionError: for a mask that is not bool or not shaped like x0, and rows that are not as many.
        DataError: for a seen number that is not finite.
    """
    names = range(len(x0)) if rows is None else rows
    if seen.shape != x0.shape or seen.dtype != torch.bool:
        found = f"{str(seen.dtype).removeprefix('torch.')} {tuple(seen.shape)}"
        raise OptionError(f"seen is a bool mask shaped like x0, {tuple(x0.shape)}, got {found}")
    if len(names) != len(x0):
        raise OptionError(f"rows names each of the {len(x0)} rows of x0, got {len(names)}")
    mask, flat = seen.flatten(1), x0.flatten(1)
    broken = (mask & ~flat.isfinite()).nonzero()
    if len(broken):
        row, number = broken[0].tolist()
        raise DataError(f"row {names[row]}: number {number} is seen but is {float(flat[row, number])}")
    return names, (~mask).any(1).nonzero().flatten()


def given_rows(
    model: Denoiser, x0: Tensor, seen: Tensor, names: Sequence[int], places: Tensor, *, seed: int, particles: int
) -> GivenRows:
    """Some rows of a batch with their particles.

    Args:
        model, x0, seen, seed: as of `ParticleFilter`.
        names, places: as of `unseen_rows`, or fewer places.
        particles: K.
    """
    numbers = math.prod(x0.shape[1:])
    mask, flat = (part.reshape(len(x0), numbers)[places] for part in (seen, x0))
    moments = model.terminal.to(flat.double())
    axes = moments.axes.reshape(numbers, len(moments.variances))
    moments = Moments(moments.mean.expand(x0.shape[1:]), axes, moments.variances, moments.rest)
    known = torch.where(mask, flat, 0).double().unsqueeze(1)
    repeated = model.of_rows(places.repeat_interleave(particles))
    return GivenRows(repeated, moments, x0, known, Seen.of(mask), places, names, particles, seed)


def falling(model: Denoiser, levels: int, rho: float = 7.0) -> Tensor:
    """Levels evenly spaced in (σ/α)^{1/ρ} (Karras et al. 2022, Eq. 5, arXiv:2206.00364), (levels,) float64 falling.

    Where the model knows the moments of its data the first is at most at ten deviations along their widest axis, or
    else at t_max; there is nothing to decide in the noise above.

    Args:
        model: whose schedule.
        levels: how many, at least two.
        rho: ρ.
    """
    schedule = model.schedule
    high, low = (float(level.sigma / level.alpha) for level in map(schedule.at, (schedule.t_max, schedule.t_min)))
    widest = 1e4
    if model.moments is not None:
        spread = torch.cat((model.moments.variances, model.moments.rest.reshape(1).to(model.moments.variances)))
        widest = _WIDEST * float(spread.max().sqrt())
    high = max(min(high, widest), 2 * low)
    even = torch.linspace(high ** (1 / rho), low ** (1 / rho), levels, dtype=torch.float64)
    grid: Tensor = schedule.time_of_sigma(even**rho)
    grid[-1] = schedule.t_min  # exactly, not to the rounding of the inverse
    return grid
