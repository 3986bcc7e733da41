"""Laws of the grids: both ends exact, falling, evenly spaced in what their papers say; and rises where they say."""

import itertools
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.errors import SamplingError
from scorefield.exact import GaussianMixture
from scorefield.noise import EDM, VE, VP, Cosine, Flow, Schedule, SubVP
from scorefield.samplers import grids
from scorefield.samplers.loop import sample
from scorefield.samplers.predictors import Heun

Mixture = Callable[[Schedule], GaussianMixture]

SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "subvp": SubVP(),
    "cosine": Cosine(),
    "edm": EDM(0.002, 80.0),
    "edm in large units": EDM(2e3, 8e7),
    "ve": VE(0.01, 50.0),
    "flow": Flow(),
    "flow that stops before its end": Flow(t_max=0.99),
    "betas": Discrete(betas=linear_betas()),
    "sigmas": Discrete(sigmas=tuple(0.01 * 1.5**k for k in range(20))),
}
GRIDS: dict[str, grids.Grid] = {"uniform": grids.uniform, "geometric": grids.geometric, "karras": grids.karras}
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)
each_grid = pytest.mark.parametrize("grid", list(GRIDS.values()), ids=GRIDS)


def sigmas(schedule: Schedule, times: Tensor) -> Tensor:
    level = schedule.at(times)
    return level.sigma / level.alpha


@each_schedule
@each_grid
@pytest.mark.parametrize("steps", [2, 3, 18, 1000])
def test_a_grid_falls_from_the_last_time_to_the_first_exactly(grid: grids.Grid, schedule: Schedule, steps: int) -> None:
    times = grid(schedule, steps)
    assert (times.shape, times.dtype) == ((steps,), torch.float64)
    assert (times.diff() < 0).all()
    assert times[-1] == schedule.t_min
    if schedule.at(schedule.t_max).alpha > 0 or grid is grids.uniform:
        assert times[0] == schedule.t_max
    else:  # σ/α is infinite at the end of a flow: even spacing begins a little below
        assert schedule.t_max - 2e-4 < times[0] <= schedule.t_max


@each_schedule
@pytest.mark.parametrize("steps", [3, 40])
def test_levels_are_evenly_spaced_in_what_the_grid_says(schedule: Schedule, steps: int) -> None:
    # Karras et al. 2022, Eq. 5: σ^{1/ρ} with ρ = 7.
    for grid, scale in (
        (grids.uniform, lambda times: times),
        (grids.geometric, lambda times: sigmas(schedule, times).log()),
        (grids.karras, lambda times: sigmas(schedule, times) ** (1 / 7)),
        (lambda a, b: grids.karras(a, b, rho=3.0), lambda times: sigmas(schedule, times) ** (1 / 3)),
    ):
        gaps = scale(grid(schedule, steps)).diff()
        assert torch.allclose(gaps, gaps.mean().expand(steps - 1), rtol=1e-4)


def test_the_grid_of_edm_has_the_published_middle() -> None:
    # Of three levels the middle one is ((80^{1/7} + 0.002^{1/7})/2)^7 = 2.515.
    middle = float(grids.karras(EDM(0.002, 80.0), 3)[1])
    assert middle ** (1 / 7) == pytest.approx((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2, rel=1e-12)
    assert middle == pytest.approx(2.515, abs=5e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 60), st.integers(2, 120))
def test_levels_are_whole_and_different(count: int, steps: int) -> None:
    schedule = Discrete(betas=linear_betas(count))
    times = grids.levels(schedule, steps)
    assert torch.equal(times, times.round())
    assert (times.diff() < 0).all()
    assert (times[0], times[-1]) == (count, 1)
    assert len(times) == min(steps, count) or count / 2 < steps < 2 * count
    if steps >= 2 * count:
        assert times.tolist() == list(range(count, 0, -1))
    assert times.diff().abs().max() <= -(-(count - 1) // (steps - 1)) + 1


def test_all_levels_of_a_table() -> None:
    assert grids.levels(Discrete(betas=linear_betas()), 1000).tolist() == list(range(1000, 0, -1))


@each_grid
@pytest.mark.parametrize("steps", [1, 0, -3])
def test_fewer_than_two_steps_are_refused(grid: grids.Grid, steps: int) -> None:
    for ask in (grid, grids.levels):
        with pytest.raises(SamplingError, match=f"at least 2 steps, got {steps}"):
            ask(Discrete(betas=linear_betas(10)), steps)


# -- grids between two levels, and grids that rise --------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("grid", [grids.geometric, grids.karras])
def test_levels_between_two_others_have_these_as_ends(schedule: Schedule, grid: grids.Grid) -> None:
    high, low = grids.geometric(schedule, 9)[[2, 6]].tolist()
    times = grid(schedule, 7, between=(high, low))  # type: ignore[call-arg]
    assert (times[0], times[-1], len(times)) == (high, low, 7)
    assert (times.diff() < 0).all()
    with pytest.raises(SamplingError, match="falls from its first time to its last"):
        grid(schedule, 7, between=(low, high))  # type: ignore[call-arg]


@each_schedule
def test_churn_raises_each_level_of_its_range_by_one_factor(schedule: Schedule) -> None:
    grid = grids.karras(schedule, 10)
    middle = sigmas(schedule, grid)[[6, 3]].tolist()
    times = grids.churn(schedule, grid, 2.0, *middle)
    rises = times.diff() > 0
    assert int(rises.sum()) == 4  # levels 3, 4, 5 and 6
    sigma = sigmas(schedule, times)
    assert torch.allclose(sigma[1:][rises] / sigma[:-1][rises], torch.tensor(1.2, dtype=torch.float64), rtol=1e-6)
    assert torch.equal(times[torch.cat((torch.tensor([True]), ~rises))], grid)  # otherwise it is the grid
    assert times.diff().abs().min() > 0


@each_schedule
def test_churn_has_its_limits(schedule: Schedule) -> None:
    grid = grids.karras(schedule, 10)
    assert torch.equal(grids.churn(schedule, grid, 0.0), grid)
    most = grids.churn(schedule, grid, 1e3)
    assert most.max() <= schedule.t_max
    assert most[-1] == grid[-1] == most.min()
    sigma = sigmas(schedule, most)
    ratios = (sigma[1:] / sigma[:-1])[most.diff() > 0]
    assert ratios.max() == pytest.approx(2**0.5, rel=1e-6)  # √2 − 1 is the largest γ: the noise doubles at most


@each_schedule
def test_a_restart_goes_up_and_comes_down_again(schedule: Schedule) -> None:
    grid = grids.karras(schedule, 12)
    sigma = sigmas(schedule, grid)
    low, high = float(sigma[8]), float(sigma[4] * 1.01)
    times = grids.restart(schedule, grid, low * 1.02, high, times=3, steps=5)
    assert len(times) == 12 + 3 * 5
    assert torch.equal(times[:9], grid[:9])
    assert torch.equal(times[-3:], grid[-3:])
    again = times[9:24].reshape(3, 5)
    assert torch.equal(again, again[:1].expand(3, 5))
    assert (again.diff(dim=1) < 0).all()
    assert (again[:, -1] == grid[8]).all()
    assert float(sigmas(schedule, again[0, :1])) == pytest.approx(high, rel=1e-6)


@pytest.mark.parametrize(
    ("s_churn", "s_min", "s_max"), [(-1, 0, 1), (math.nan, 0, 1), (math.inf, 0, 1), (1, 2, 1), (1, -1, 1)]
)
def test_churn_that_cannot_be_is_refused(s_churn: float, s_min: float, s_max: float) -> None:
    schedule = EDM(0.1, 10.0)
    with pytest.raises(SamplingError, match="S_churn ≥ 0 and 0 ≤ S_min < S_max"):
        grids.churn(schedule, grids.karras(schedule, 5), s_churn, s_min, s_max)


@pytest.mark.parametrize(
    ("low", "high", "times"),
    [(1.0, 0.5, 1), (1.0, 11.0, 1), (1.0, 2.0, 0), (0.0, 2.0, 1), (1.0, 0.0, 1), (1.0, math.nan, 1)],
)
def test_a_restart_that_goes_nowhere_is_refused(low: float, high: float, times: int) -> None:
    schedule = EDM(0.1, 10.0)
    with pytest.raises(SamplingError, match="a restart rises at least once from low to high"):
        grids.restart(schedule, grids.karras(schedule, 9), low, high, times=times, steps=4)


@pytest.mark.parametrize(("jump", "times"), [(1, 1), (1, 3), (2, 2), (3, 4), (10, 2), (50, 3)])
def test_resampling_walks_every_part_so_often_and_misses_no_level(jump: int, times: int) -> None:
    plain = grids.karras(EDM(0.01, 10.0), 12)
    grid = grids.resample(plain, jump, times)
    steps = list(itertools.pairwise(grid.tolist()))
    down = [step for step in steps if step[1] < step[0]]
    # Each step of the plain grid `times` times and no other; what rises does so to where a part began.
    assert Counter(down) == {step: times for step in itertools.pairwise(plain.tolist())}
    starts = plain.tolist()[:-1:jump]
    assert [b for a, b in steps if b > a] == [start for start in starts for _ in range(times - 1)]
    assert (grid[0], grid[-1]) == (plain[0], plain[-1])


def test_resampling_keeps_p_t(mixture: Mixture, misfit: Callable[[Tensor], float]) -> None:
    # H0 of `misfit`; a rise without noise, or to a level above it, is caught by the tests of the loop.
    schedule = EDM(0.03, 80.0)
    grid = grids.resample(grids.karras(schedule, 20), 5, 3)
    assert misfit(sample(mixture(schedule), 4000, (2,), grid, Heun(), seed=0)) < 1


@pytest.mark.parametrize(("jump", "times"), [(0, 2), (2, 0)])
def test_resampling_that_cannot_be_is_refused(jump: int, times: int) -> None:
    with pytest.raises(SamplingError, match="at least 1 step and 1 time"):
        grids.resample(grids.karras(EDM(0.01, 10.0), 5), jump, times)
