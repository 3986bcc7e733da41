"""Adams–Bashforth's method on straight paths: orders, exactness, one flow for all schedules; and its grid."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.errors import SamplingError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.model import Denoiser
from scorefield.noise import EDM, VE, VP, Flow, Schedule, Time
from scorefield.parametrization import Estimate
from scorefield.randomness import Noise, Stream
from scorefield.samplers.grids import karras, straight, uniform
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.predictors import Ancestral
from scorefield.samplers.straight import Memory, StraightAdams

Mixture = Callable[[Schedule], GaussianMixture]
HIGH, LOW = 10.0, 0.1  # σ/α of the ends
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "ve": VE(0.01, 100.0), "edm": EDM(0.01, 100.0), "flow": Flow()}
ORDERS = (1, 2, 3, 4, 5)


@pytest.fixture(params=list(SCHEDULES.values()), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """VP, VE, EDM and flow in turn."""
    return request.param


class Silent(Noise):
    """Noise that nobody may ask for."""

    def __init__(self) -> None:
        super().__init__(Stream(0, "none"), range(0), 0)

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        raise AssertionError("a step without noise drew some")


def walk(model: Denoiser, predictor: Predictor, x: Tensor, grid: Tensor) -> Tensor:
    return sample(model, len(x), x.shape[1:], grid, predictor, seed=0, denoise=False, start=x)


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


# -- order of convergence ---------------------------------------------------------------------------------------------


def ramp(steps: int) -> Tensor:
    """From 0 to 1, close at first: the first steps, of lower order, are of length 1/n², and no two are alike."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return 2 * u**2 - u**3


def graded(schedule: Schedule, steps: int) -> Tensor:
    return schedule.time_of_sigma(torch.exp(math.log(HIGH) + math.log(LOW / HIGH) * ramp(steps)))


def by_runge_kutta(slope: Callable[[Tensor, float], Tensor], y: Tensor, start: float, end: float, steps: int) -> Tensor:
    h = (end - start) / steps
    for i in range(steps):
        at = start + i * h
        a = slope(y, at)
        b = slope(y + h / 2 * a, at + h / 2)
        c = slope(y + h / 2 * b, at + h / 2)
        y = y + h / 6 * (a + 2 * b + 2 * c + slope(y + h * c, at + h))
    return y


@pytest.fixture(scope="module")
def path() -> Callable[[Mixture], tuple[Tensor, Tensor]]:
    """Both ends of exact paths of y = x/α, the same for all schedules: dy/d log ς = −ς² ∇ log p, ς = σ/α."""
    kept: list[tuple[Tensor, Tensor]] = []

    def ends(mixture: Mixture) -> tuple[Tensor, Tensor]:
        if not kept:
            model = mixture(EDM(LOW, HIGH))

            def slope(y: Tensor, log_sigma: float) -> Tensor:
                return -math.exp(2 * log_sigma) * model.score(y, math.exp(log_sigma))

            start = model.sample(32, seed=0, t=HIGH)
            kept.append((start, by_runge_kutta(slope, start, math.log(HIGH), math.log(LOW), 600)))
        return kept[0]

    return ends


COUNTS = (160, 320)


def order(model: Denoiser, predictor: Predictor, ends: tuple[Tensor, Tensor]) -> float:
    """Minus the slope of log error against log steps."""
    found = []
    for count in COUNTS:
        grid = graded(model.schedule, count)
        x = walk(model, predictor, ends[0] * model.schedule.at(grid[0]).alpha, grid)
        found.append(rms(x / model.schedule.at(grid[-1]).alpha - ends[1]))
    return math.log(found[0] / found[1]) / math.log(COUNTS[1] / COUNTS[0])


@dataclass(frozen=True)
class Unaware:
    """Planted: takes every step before for as long as this one."""

    solver: StraightAdams

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        here, there = (model.schedule.at(at) for at in (t, s))
        u, below = (float(at.sigma / (model.sigma_data * at.alpha + at.sigma)) for at in (here, there))
        even = memory and memory._replace(u=tuple(u + (i + 1) * (u - below) for i in range(len(memory.u))))
        return self.solver(model, x, t, s, even, noise)


def test_errors_fall_as_theory_says(schedule: Schedule, mixture: Mixture, path: Callable) -> None:
    model, ends = mixture(schedule), path(mixture)
    for expected in ORDERS:
        # The fifth order is seen only near where float64 ends; it may be reached from above.
        assert order(model, StraightAdams(expected), ends) == pytest.approx(expected, abs=0.25 if expected < 5 else 0.5)


def test_a_step_of_another_length_is_seen_in_the_order(mixture: Mixture, path: Callable) -> None:
    assert order(mixture(VP()), Unaware(StraightAdams(3)), path(mixture)) < 2.2


def test_the_order_is_the_same_at_any_scale(mixture: Mixture, path: Callable) -> None:
    for scale in (0.3, 3.0):
        assert order(mixture(VP()), StraightAdams(3, scale), path(mixture)) == pytest.approx(3, abs=0.3)


def test_a_flow_may_begin_where_no_data_are_left(mixture: Mixture) -> None:
    # At t = 1 α = 0; dx/dt = E[ε] − E[x0] is finite there, and Runge and Kutta's method on it the truth.
    model, low = mixture(Flow()), 0.1
    start = Stream(0, "ends").normal(32, (2,), dtype=torch.float64)
    truth = by_runge_kutta(lambda x, t: model(x, t).velocity, start, 1.0, low, 400)
    for expected in (1, 2, 3, 4):
        gaps = [
            rms(walk(model, StraightAdams(expected), start, 1 - (1 - low) * ramp(steps)) - truth)
            for steps in (160, 320)
        ]
        assert math.log2(gaps[0] / gaps[1]) == pytest.approx(expected, abs=0.3)


# -- exactness and equivalences ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 0.2, 5.0])
def test_order_one_is_ddim_at_any_scale(schedule: Schedule, scale: float | None, mixture: Mixture) -> None:
    model = mixture(schedule)
    for grid in (karras(schedule, 9), uniform(schedule, 9)):
        x = Stream(0, "start").normal(16, (2,), dtype=torch.float64) * schedule.at(grid[0]).sigma
        ddim = walk(model, Ancestral(0.0), x, grid)
        assert torch.allclose(walk(model, StraightAdams(1, scale), x, grid), ddim, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(walk(model, StraightAdams(2, scale), x, grid), ddim, rtol=1e-3, atol=1e-3)


def test_order_one_to_clean_data_ends_at_the_estimate(mixture: Mixture) -> None:
    model, x = mixture(EDM(0.01, 100.0)), torch.ones(2, 2, dtype=torch.float64)
    end = walk(model, StraightAdams(1), x, torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert torch.allclose(end, model(x, 2.0).x0, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("number", ORDERS)
def test_paths_to_one_point_are_walked_exactly_in_any_steps(schedule: Schedule, number: int) -> None:
    # x_t = α μ + σ ε with one ε all the way down.
    point = torch.tensor([0.7, -1.3], dtype=torch.float64)
    model = Gaussian(point, torch.zeros(2, 2), schedule)
    epsilon = Stream(1, "noise").normal(8, (2,), dtype=torch.float64)
    for grid in (uniform(schedule, 7), karras(schedule, 3), karras(schedule, 12)):
        first, last = schedule.at(grid[0]), schedule.at(grid[-1])
        x = first.alpha * point + first.sigma * epsilon
        truth = last.alpha * point + last.sigma * epsilon
        assert torch.allclose(walk(model, StraightAdams(number), x, grid), truth, rtol=1e-9, atol=1e-7)


def test_every_schedule_walks_the_same_path(mixture: Mixture) -> None:
    # The same levels of σ/α, x/α at the start and c: then the same x/α at the end.
    start = mixture(EDM(LOW, HIGH)).sample(16, seed=2, t=HIGH)
    for predictor in (StraightAdams(3), StraightAdams(4, 0.5)):
        ends = []
        for schedule in SCHEDULES.values():
            grid = graded(schedule, 12)
            x = walk(mixture(schedule), predictor, start * schedule.at(grid[0]).alpha, grid)
            ends.append(x / schedule.at(grid[-1]).alpha)
        for other in ends[1:]:
            assert torch.allclose(other, ends[0], rtol=1e-7, atol=1e-8)


def test_the_scale_is_that_of_the_data_unless_another_is_said(mixture: Mixture) -> None:
    model, grid = mixture(VP()), graded(VP(), 8)
    start = model.sample(8, seed=0, t=grid[0])
    same, other = (walk(model, StraightAdams(3, c), start, grid) for c in (model.sigma_data, 2 * model.sigma_data))
    assert torch.equal(walk(model, StraightAdams(3), start, grid), same)
    assert not torch.allclose(same, other, rtol=1e-4, atol=1e-4)


# -- memory, rows and cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ORDERS)
def test_memory_holds_as_many_slopes_as_the_order_says(number: int, mixture: Mixture) -> None:
    schedule = VP()
    model, grid = mixture(schedule), graded(schedule, 9)
    x, memory = model.sample(4, seed=0, t=grid[0]), None
    for step, (t, s) in enumerate(itertools.pairwise(grid)):
        before = x.clone()
        new, memory = StraightAdams(number)(model, x, t, s, memory, Silent())
        assert torch.equal(x, before)  # left as it was
        assert len(memory.u) == len(memory.falls) == min(step + 1, number)
        x = new


@pytest.mark.parametrize("number", [2, 3, 5])
def test_a_walk_that_went_up_forgets(number: int, mixture: Mixture) -> None:
    model, start = mixture(EDM(0.01, 100.0)), torch.ones(2, 2, dtype=torch.float64)
    t, s, low = (torch.tensor(v, dtype=torch.float64) for v in (2.0, 1.0, 0.5))
    solver = StraightAdams(number)
    fresh, _ = solver(model, start, t, s, None, Silent())
    for above in (s, t):  # from below, and at the very level
        _, memory = solver(model, start, above, low, None, Silent())
        assert torch.equal(solver(model, start, t, s, memory, Silent())[0], fresh)
    _, memory = solver(model, start, torch.tensor(3.0), t, None, Silent())
    assert not torch.allclose(solver(model, start, t, s, memory, Silent())[0], fresh, rtol=1e-3, atol=1e-3)


def test_row_i_is_the_same_to_the_bit_whatever_is_drawn_with_it(mixture: Mixture) -> None:
    model, grid = mixture(VP()), straight(VP(), 8)

    def rows(which: range) -> Tensor:
        return sample(model, which, (2,), grid, StraightAdams(), seed=3, dtype=torch.float64)

    whole = rows(range(50))
    assert torch.equal(torch.cat([rows(range(a, b)) for a, b in itertools.pairwise((0, 1, 17, 50))]), whole)


def test_a_walk_in_single_precision_keeps_its_type(schedule: Schedule, mixture: Mixture) -> None:
    single, double = (
        sample(mixture(schedule), 8, (2,), straight(schedule, 10), StraightAdams(), seed=0, dtype=kind)
        for kind in (torch.float32, torch.float64)
    )
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), double, rtol=1e-3, atol=1e-3)


class Counting(Gaussian):
    """Standard normal data, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2), torch.eye(2), EDM(0.1, 10.0))
        self.calls = 0

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        self.calls += 1
        return super().forward(x_t, t)


def test_the_model_is_asked_once_a_step() -> None:
    model = Counting()
    walk(model, StraightAdams(4), torch.ones(3, 2), straight(model.schedule, 9))
    assert model.calls == 8


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 6, -1, 2.0, True])
def test_a_wrong_order_is_refused(bad: object) -> None:
    with pytest.raises(SamplingError, match="order must be a whole number from 1 to 5"):
        StraightAdams(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_wrong_scale_is_refused(bad: float) -> None:
    with pytest.raises(SamplingError, match="scale must be positive and finite"):
        StraightAdams(3, bad)
    for ask in ({"scale": bad}, {"rho": bad}):
        with pytest.raises(SamplingError, match="needs a positive ρ and scale"):
            straight(VP(), 5, **ask)


def test_a_step_that_is_not_down_is_refused_before_the_model_is_asked() -> None:
    model, x = Counting(), torch.ones(2, 2, dtype=torch.float64)
    for t, s in ((1.0, 2.0), (1.0, 1.0)):
        with pytest.raises(SamplingError, match="must end at less noise, got one from t = 1"):
            StraightAdams()(model, x, torch.tensor(t), torch.tensor(s), None, Silent())
    assert model.calls == 0


# -- the grid in the time of straight paths ---------------------------------------------------------------------------

GRID_SCHEDULES: dict[str, Schedule] = {
    **SCHEDULES,
    "edm in large units": EDM(2e3, 8e7),
    "flow that stops before its end": Flow(t_max=0.99),
    "betas": Discrete(betas=linear_betas()),
    "sigmas": Discrete(sigmas=tuple(0.01 * 1.5**k for k in range(20))),
}
each = pytest.mark.parametrize("schedule", list(GRID_SCHEDULES.values()), ids=GRID_SCHEDULES)


@each
@pytest.mark.parametrize("steps", [2, 3, 18, 1000])
def test_a_grid_falls_from_the_last_time_to_the_first_exactly(schedule: Schedule, steps: int) -> None:
    for scale in (1.0, 0.05, 30.0):
        times = straight(schedule, steps, scale=scale)
        assert (times.shape, times.dtype) == ((steps,), torch.float64)
        assert (times.diff() < 0).all()
        assert (times[0], times[-1]) == (schedule.t_max, schedule.t_min)


@each
@pytest.mark.parametrize(("rho", "scale"), [(1.0, 1.0), (1.4, 0.3), (2.0, 4.0)])
def test_levels_are_even_in_the_time_of_straight_paths(schedule: Schedule, rho: float, scale: float) -> None:
    # The share of noise in x0 + (σ/α)/c ε: a flow's own t where c = 1.
    level = schedule.at(straight(schedule, 33, rho=rho, scale=scale))
    snr = scale * level.alpha / level.sigma
    gaps = ((1 + snr) ** (-1 / rho)).diff()
    assert torch.allclose(gaps, gaps.mean().expand(32), rtol=1e-4)


def test_the_grid_of_a_flow_is_even_in_its_own_time() -> None:
    assert torch.allclose(straight(Flow(), 20, rho=1.0), uniform(Flow(), 20), rtol=1e-12, atol=1e-12)


def test_more_levels_lie_near_the_data_the_larger_rho(schedule: Schedule) -> None:
    low = schedule.time_of_sigma(0.1)
    shares = [int((straight(schedule, 100, rho=rho) < low).sum()) for rho in (1.0, 1.4, 2.0, 4.0)]
    assert shares == sorted(set(shares))


@pytest.mark.parametrize("steps", [1, 0, -3])
def test_fewer_than_two_steps_are_refused(steps: int) -> None:
    with pytest.raises(SamplingError, match=f"at least 2 steps, got {steps}"):
        straight(VP(), steps)
