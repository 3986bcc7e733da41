"""The measured grid: a Gaussian's is known in closed form, and on a mixture its steps all miss about as much."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.noise import EDM, VE, VP, Flow, Schedule
from scorefield.randomness import Noise, Stream
from scorefield.samplers.grids import Grid, karras, straight
from scorefield.samplers.measured import MeasuredGrid, measure_grid
from scorefield.samplers.paths import Paths, follow
from scorefield.samplers.straight import StraightAdams

Mixture = Callable[[Schedule], GaussianMixture]
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "ve": VE(0.01, 100.0), "edm": EDM(0.01, 100.0), "flow": Flow()}


@pytest.fixture(params=list(SCHEDULES.values()), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """VP, VE, EDM and flow in turn."""
    return request.param


def straight_time(schedule: Schedule, times: Tensor, c: float) -> Tensor:
    level = schedule.at(times)
    return level.sigma / (c * level.alpha + level.sigma)


# -- oracles ----------------------------------------------------------------------------------------------------------


def bend(q: Tensor, order: int) -> Tensor:
    """‖dᵏv/duᵏ‖ over √((1 − u)² + u²) of N(0, 1) with c = 1, at u = ½ + q, up to a factor.

    There w = z √((1 − u)² + u²) = z √2 √(¼ + q²) with one z a path, and v = dw/du. What follows are the derivatives
    2, 3 and 4 of √(a² + q²), a = ½.
    """
    a2 = 0.25
    total = a2 + q**2
    return {
        1: a2 / total**2,
        2: (3 * a2 * q / total**3).abs(),
        3: (3 * a2 * (4 * q**2 - a2) / total**4).abs(),
    }[order]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("sigma_data", [1.0, 7.0])
def test_the_grid_of_a_gaussian_is_known(schedule: Schedule, order: int, sigma_data: float) -> None:
    # In u the grid is the same whatever the schedule is and the data's unit.
    if sigma_data != 1:
        schedule = EDM(0.01 * sigma_data, 100 * sigma_data)
    model = Gaussian(torch.zeros(2), sigma_data**2 * torch.eye(2), schedule)
    grid = measure_grid(follow(model, range(4), (2,), seed=0, dtype=torch.float64), order)
    levels = straight_time(schedule, grid(schedule, 17), sigma_data)
    fine = torch.linspace(float(levels[0]), float(levels[-1]), 20001, dtype=torch.float64)
    m = bend(fine - 0.5, order) ** (1 / (order + 1))
    m = m.clamp(min=0.05 * float(m.mean()))
    shares = torch.cat((torch.zeros(1), ((m[1:] + m[:-1]) / 2).cumsum(0)))
    shares = shares / shares[-1]
    found = shares[((levels[0] - levels) / (levels[0] - levels[-1]) * 20000).round().long()]
    assert torch.allclose(found, torch.linspace(0, 1, 17, dtype=torch.float64), rtol=0, atol=0.012)


def misses(paths: Paths, grid: Grid, steps: int) -> Tensor:
    """What each step of third order from exact levels on misses, root mean square in w; the first ones are left out."""
    model, solver = paths.model, StraightAdams(3)
    schedule, c = model.schedule, model.sigma_data
    times, memory, found = grid(schedule, steps), None, []
    silent = Noise(Stream(0, "none"), range(0), 0)
    for t, s in zip(times.tolist(), times[1:].tolist(), strict=False):
        x, memory = solver(model, paths.at(t), torch.tensor(t), torch.tensor(s), memory, silent)
        level = schedule.at(s)
        found.append(c * (x - paths.at(s)) / (c * level.alpha + level.sigma))
    return torch.stack(found[3:]).square().flatten(1).mean(1).sqrt()


def test_steps_on_the_grid_all_miss_about_as_much(mixture: Mixture) -> None:
    schedule = EDM(0.03, 80.0)
    paths = follow(mixture(schedule), range(64), (2,), seed=0, intervals=256, dtype=torch.float64)
    grid = measure_grid(paths, 3)
    uneven, worst = {}, {}
    for name, other in (("measured", grid), ("karras", karras), ("straight", straight)):
        found = misses(paths, other, 41)
        uneven[name], worst[name] = float(found.log().std()), float(found.max())
    assert uneven["measured"] < 0.8
    assert uneven["measured"] < min(uneven["karras"], uneven["straight"]) / 1.5
    assert worst["measured"] < min(worst["karras"], worst["straight"]) / 2


# -- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 3])
def test_rounding_is_not_taken_for_a_bend(schedule: Schedule, order: int, mixture: Mixture) -> None:
    # Near the data levels are so near that in single precision divided differences are of rounding alone.
    single, double = (
        measure_grid(follow(mixture(schedule), range(64), (2,), seed=0, dtype=kind), order)
        for kind in (torch.float32, torch.float64)
    )
    u, v = (straight_time(schedule, grid(schedule, 17), 1.0) for grid in (single, double))
    assert torch.allclose(u, v, rtol=0.03, atol=0.006)


def test_every_schedule_has_the_same_grid_in_the_time_of_straight_paths(mixture: Mixture) -> None:
    found = []
    for schedule in (VP(t_min=float(VP().time_of_sigma(0.03))), EDM(0.03, float(karras(VP(), 2)[0]) * 152.0)):
        model = mixture(schedule)
        paths = follow(model, range(64), (2,), seed=0, dtype=torch.float64)
        found.append(straight_time(schedule, measure_grid(paths)(schedule, 12), model.sigma_data))
    assert torch.allclose(found[0], found[1], rtol=0.01, atol=1e-3)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 300), st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40))
def test_any_number_of_levels_falls_from_the_first_time_to_the_last(steps: int, gaps: list[float]) -> None:
    parts = torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0)
    shares = (parts / parts[-1]).tolist()
    times = torch.linspace(80.0, 0.002, len(shares), dtype=torch.float64).tolist()
    levels = MeasuredGrid(tuple(times), tuple(shares))(EDM(0.002, 80.0), steps)
    assert (levels.shape, levels.dtype) == ((steps,), torch.float64)
    assert (levels[0], levels[-1]) == (times[0], times[-1])
    assert (levels.diff() < 0).all()


def test_levels_are_even_in_their_shares() -> None:
    # Half of the whole between 4 and 3, the rest between 3 and 1: of five levels the second is halfway to 3.
    assert MeasuredGrid((4.0, 3.0, 1.0), (0.0, 0.5, 1.0))(EDM(1.0, 4.0), 5).tolist() == [4.0, 3.5, 3.0, 2.0, 1.0]


def test_a_grid_goes_over_the_whole_schedule(schedule: Schedule, mixture: Mixture) -> None:
    grid = measure_grid(follow(mixture(schedule), range(4), (2,), seed=0))
    for steps in (2, 3, 50):
        times = grid(schedule, steps)
        assert (times[0], times[-1]) == (schedule.t_max, schedule.t_min)
        assert (times.diff() < 0).all()


def test_where_no_step_misses_anything_levels_are_even_in_u() -> None:
    schedule = EDM(0.01, 100.0)
    point = Gaussian(torch.tensor([2.0, 0.0]), torch.zeros(2, 2), schedule)
    times = straight(schedule, 40, rho=1.0, scale=point.sigma_data)
    # Slopes that are the same to the last bit: x0 and noise are 0.
    paths = Paths(point, times, torch.zeros(40, 4, 2, dtype=torch.float64), torch.zeros(40, 4, 2, dtype=torch.float64))
    u = straight_time(schedule, measure_grid(paths)(schedule, 9), point.sigma_data)
    assert torch.allclose(u.diff(), u.diff().mean().expand(8), rtol=0.05)


def test_where_slopes_are_polynomials_steps_are_long_but_not_without_limit() -> None:
    # v = (½ − u)³ below ½ and 0 above, as x = x0 = −v has it under EDM: nothing bends above, but few paths may say so.
    # The floor is 5 % of the mean of m there, which is half of it below: 2.4 % of all levels lie above.
    schedule = EDM(0.01, 100.0)
    model, times = Gaussian(torch.zeros(1), torch.eye(1), schedule), straight(schedule, 200, rho=1.0)
    v = (0.5 - straight_time(schedule, times, 1.0)).clamp(min=0).reshape(-1, 1, 1) ** 3
    grid = measure_grid(Paths(model, times, -v, -v), 3)
    assert grid.shares[100] == pytest.approx(0.024, abs=0.012)


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "shares"),
    [
        ((), ()),
        ((1.0,), (0.0,)),
        ((2.0, 1.0), (0.0, 0.5, 1.0)),
        ((1.0, 2.0), (0.0, 1.0)),
        ((3.0, 2.0, 1.0), (0.0, 0.0, 1.0)),
        ((3.0, 2.0, 1.0), (0.1, 0.5, 1.0)),
        ((3.0, 2.0, 1.0), (0.0, 0.5, 0.9)),
        ((3.0, math.nan, 1.0), (0.0, 0.5, 1.0)),
        ((math.inf, 2.0, 1.0), (0.0, 0.5, 1.0)),
    ],
)
def test_a_table_that_is_no_grid_is_refused(times: tuple[float, ...], shares: tuple[float, ...]) -> None:
    with pytest.raises(SamplingError, match="finite falling times and as many shares growing from 0 to 1"):
        MeasuredGrid(times, shares)


def test_too_few_levels_and_wrong_orders_are_refused(mixture: Mixture) -> None:
    paths = follow(mixture(VP()), range(4), (2,), seed=0, intervals=3)
    with pytest.raises(SamplingError, match="a grid of order 5 is measured on at least 6 levels, got"):
        measure_grid(paths, 5)
    for order, scale in ((0, 1.0), (3, 0.0), (3, math.nan), (3, math.inf)):
        with pytest.raises(SamplingError, match="an order from 1 on and a positive scale"):
            measure_grid(paths, order, scale)
    for steps in (1, 0, -2):
        with pytest.raises(SamplingError, match=f"at least 2 levels, got {steps}"):
            measure_grid(paths, 1)(VP(), steps)
