"""Grids of noise levels for sampling: `steps` levels from t_max down to t_min, and grids that rise on the way."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.discrete import Discrete
from scorefield.errors import SamplingError
from scorefield.noise import Schedule

Grid = Callable[[Schedule, int], Tensor]
Edges = tuple[float, float]  # two times, the first with more noise

_LARGEST_SIGMA = 1e4  # for a flow, which starts at σ/α = ∞, from where no even spacing of it exists


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in t, (steps,) float64 falling."""
    _check_steps(steps)
    return torch.linspace(schedule.t_max, schedule.t_min, steps, dtype=torch.float64)


def geometric(schedule: Schedule, steps: int, between: Edges | None = None) -> Tensor:
    """Evenly spaced in log σ/α, which is half the negative log-SNR, (steps,) float64 falling.

    Args:
        schedule: whose levels.
        steps: how many.
        between: the first and the last time; t_max and t_min by default.
    """
    edges = between or (schedule.t_max, schedule.t_min)
    high, low = _sigmas(schedule, steps, edges)
    sigmas = torch.exp(torch.linspace(high.log().item(), low.log().item(), steps, dtype=torch.float64))
    return _times(schedule, sigmas, edges)


def karras(schedule: Schedule, steps: int, rho: float = 7.0, between: Edges | None = None) -> Tensor:
    """Evenly spaced in (σ/α)^{1/ρ} (Karras et al. 2022, Eq. 5, arXiv:2206.00364), (steps,) float64 falling.

    Args:
        schedule: whose levels.
        steps: how many.
        rho: ρ.
        between: the first and the last time; t_max and t_min by default.
    """
    edges = between or (schedule.t_max, schedule.t_min)
    high, low = (edge ** (1 / rho) for edge in _sigmas(schedule, steps, edges))
    return _times(schedule, torch.linspace(high.item(), low.item(), steps, dtype=torch.float64) ** rho, edges)


def straight(schedule: Schedule, steps: int, rho: float = 1.4, scale: float = 1.0) -> Tensor:
    """Evenly spaced in u^{1/ρ}, with u = σ/(cα + σ) the time of a straight path (`straight`), (steps,) float64 falling.

    Most levels are where σ/α is about c and below: neither in the noise above, where paths are nearly straight, nor as
    near to clean data as with `karras`.

    Args:
        schedule: whose levels.
        steps: how many.
        rho: ρ, 1 for even steps of u; more for more levels near the data.
        scale: c, about the deviation of the data.

    Raises:
        SamplingError: for fewer than two steps, and ρ or c that are not positive and finite.
    """
    _check_steps(steps)
    if not (0 < rho < math.inf and 0 < scale < math.inf):
        raise SamplingError(f"an even grid of u^(1/ρ) needs a positive ρ and scale, got {rho} and {scale}")
    level = schedule.at(torch.tensor((schedule.t_max, schedule.t_min), dtype=torch.float64))
    high, low = ((level.sigma / (scale * level.alpha + level.sigma)) ** (1 / rho)).tolist()
    u = torch.linspace(high, low, steps, dtype=torch.float64)[1:-1] ** rho
    inner = schedule.time_of_sigma(scale * u / (1 - u))
    return torch.cat((level.t[:1], inner, level.t[1:]))


def levels(schedule: Schedule, steps: int) -> Tensor:
    """Whole times of a `Discrete` schedule, about evenly spaced and at most all of them; of others as `uniform`."""
    grid = uniform(schedule, steps)
    return grid.round().unique().flip(0) if isinstance(schedule, Discrete) else grid


def churn(schedule: Schedule, grid: Tensor, s_churn: float, s_min: float = 0.0, s_max: float = math.inf) -> Tensor:
    """A grid that rises before each step down: σ̂ = (1 + γ) σ, γ = min(S_churn/N, √2 − 1) where S_min ≤ σ ≤ S_max.

    Karras et al. 2022, Algorithm 2, arXiv:2206.00364, with σ standing for σ/α, so for any schedule; N counts the levels
    of the grid. The last level does not rise, as the walk ends there, and none rises above t_max: theirs may, into
    levels that no model was trained on. The noise of the rise is that of `sample`, whose `s_noise` is S_noise.

    Args:
        schedule: whose times the grid holds.
        grid: levels, (N,) float64, falling.
        s_churn: S_churn; at 0 the grid stays as it is.
        s_min, s_max: S_min and S_max, in σ/α.

    Returns:
        (N + rises,) float64.

    Raises:
        SamplingError: for S_churn < 0 or not finite, and an empty or upside-down range.
    """
    if not 0 <= s_churn < math.inf or not 0 <= s_min < s_max:
        raise SamplingError(f"churn needs S_churn ≥ 0 and 0 ≤ S_min < S_max, got {s_churn}, {s_min} and {s_max}")
    level = schedule.at(grid)
    sigma, gamma = level.sigma / level.alpha, min(s_churn / len(grid), math.sqrt(2) - 1)
    raised = schedule.time_of_sigma((1 + gamma) * sigma).clamp(max=schedule.t_max)
    rises = (raised > grid) & (sigma >= s_min) & (sigma <= s_max) & sigma.isfinite()
    rises[-1] = False
    if gamma == 0:  # then a level may differ from itself by the rounding of the inverse
        return grid
    return torch.stack((grid, raised), dim=1)[torch.stack((torch.ones_like(rises), rises), dim=1)]


def restart(schedule: Schedule, grid: Tensor, low: float, high: float, *, times: int, steps: int) -> Tensor:
    """A grid that, once it has come to σ/α = low, rises to high and comes down again, `times` times, and then goes on.

    Xu et al. 2023, arXiv:2306.14878: new noise forgets the errors made above, where churn adds a little at
    every step. The level nearest to `low` takes its place; the way down again is Karras' grid.

    Args:
        schedule: whose times the grid holds.
        grid: levels, (N,) float64, falling.
        low, high: where it rises from and to, in σ/α.
        times: K, how often.
        steps: levels of each way down, `high` and `low` among them.

    Returns:
        (N + times·steps,) float64.

    Raises:
        SamplingError: for a rise that is none or leaves the schedule's range, fewer than one of them or two steps.
    """
    level = schedule.at(grid)
    place = int((level.sigma / level.alpha / low).log().abs().argmin()) if low > 0 else -1
    top = float(schedule.time_of_sigma(high)) if high > 0 else 0.0
    if times < 1 or low <= 0 or not float(grid[place]) < top <= schedule.t_max:
        raise SamplingError(
            f"a restart rises at least once from low to high in the schedule's range, got low {low:g}, high {high:g} "
            f"(t = {float(grid[place]):g} and {top:g}, t_max = {schedule.t_max:g}) and {times} times"
        )
    again = karras(schedule, steps, between=(top, float(grid[place])))
    return torch.cat((grid[: place + 1], *[again] * times, grid[place + 1 :]))


def resample(grid: Tensor, jump: int, times: int) -> Tensor:
    """A grid that goes every `jump` steps down `times` times: back up, and down again, as RePaint does.

    Lugmayr et al. 2022, Algorithm 1, arXiv:2201.09865, who rise step by step; one rise has the same law. Where a
    constraint is put on rows at each level, going down again brings the rest of a row in line with it.

    Args:
        grid: levels, (N,) float64, falling.
        jump: j, steps of a way down that is repeated.
        times: r, how often each is walked; 1 leaves the grid as it is.

    Raises:
        SamplingError: for fewer than one step or time.
    """
    if jump < 1 or times < 1:
        raise SamplingError(f"resampling needs at least 1 step and 1 time, got {jump} and {times}")
    parts = [grid[:1]]
    for first in range(0, len(grid) - 1, jump):
        down = grid[first + 1 : first + jump + 1]
        parts += [down, *[grid[first : first + 1], down] * (times - 1)]
    return torch.cat(parts)


def _sigmas(schedule: Schedule, steps: int, edges: Edges) -> tuple[Tensor, Tensor]:
    _check_steps(steps)
    high, low = (level.sigma / level.alpha for level in map(schedule.at, edges))
    if not low < high:
        raise SamplingError(f"a grid falls from its first time to its last, got {edges[0]:g} and {edges[1]:g}")
    return high.clamp(max=_LARGEST_SIGMA) if high.isinf() else high, low


def _times(schedule: Schedule, sigmas: Tensor, edges: Edges) -> Tensor:
    times = schedule.time_of_sigma(sigmas)
    # The ends are meant exactly, not to the rounding of the inverse.
    if schedule.at(edges[0]).alpha > 0:
        times[0] = edges[0]
    times[-1] = edges[1]
    return times


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise SamplingError(f"a sampler needs at least 2 steps, got {steps}")
