"""Grids of noise levels for sampling: `steps` levels from t_max down to t_min."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.noise import Discrete, Schedule

Grid = Callable[[Schedule, int], Tensor]

_LARGEST_SIGMA = 1e4  # for a flow, which starts at σ/α = ∞, from where no even spacing of it exists


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in t, (steps,) float64 falling."""
    _check_steps(steps)
    return torch.linspace(schedule.t_max, schedule.t_min, steps, dtype=torch.float64)


def geometric(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in log σ/α, which is half the negative log-SNR, (steps,) float64 falling."""
    high, low = _sigmas(schedule, steps)
    return _times(schedule, torch.exp(torch.linspace(high.log().item(), low.log().item(), steps, dtype=torch.float64)))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """Evenly spaced in (σ/α)^{1/ρ} (Karras et al. 2022, Eq. 5, arXiv:2206.00364), (steps,) float64 falling."""
    high, low = (edge ** (1 / rho) for edge in _sigmas(schedule, steps))
    return _times(schedule, torch.linspace(high.item(), low.item(), steps, dtype=torch.float64) ** rho)


def levels(schedule: Schedule, steps: int) -> Tensor:
    """Whole times of a `Discrete` schedule, about evenly spaced and at most all of them; of others as `uniform`."""
    grid = uniform(schedule, steps)
    return grid.round().unique().flip(0) if isinstance(schedule, Discrete) else grid


def _sigmas(schedule: Schedule, steps: int) -> tuple[Tensor, Tensor]:
    _check_steps(steps)
    edges = [schedule.at(t) for t in (schedule.t_max, schedule.t_min)]
    high, low = (level.sigma / level.alpha for level in edges)
    return high.clamp(max=_LARGEST_SIGMA) if high.isinf() else high, low


def _times(schedule: Schedule, sigmas: Tensor) -> Tensor:
    times = schedule.time_of_sigma(sigmas)
    # The ends are meant exactly, not to the rounding of the inverse.
    if schedule.at(schedule.t_max).alpha > 0:
        times[0] = schedule.t_max
    times[-1] = schedule.t_min
    return times


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise SamplingError(f"a sampler needs at least 2 steps, got {steps}")
