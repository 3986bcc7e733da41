"""Exact paths: on Gaussians the closed form, between levels a fine solution of the flow, and rows stay apart."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.noise import EDM, VE, VP, Flow, Schedule
from scorefield.polar import angle, radius
from scorefield.samplers.paths import Paths, follow

Mixture = Callable[[Schedule], GaussianMixture]
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "ve": VE(0.01, 100.0), "edm": EDM(0.01, 100.0), "flow": Flow()}


@pytest.fixture(params=list(SCHEDULES.values()), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """VP, VE, EDM and flow in turn."""
    return request.param


def paths(model: GaussianMixture, rows: range = range(16), intervals: int = 128) -> Paths:
    return follow(model, rows, (2,), seed=5, intervals=intervals, dtype=torch.float64)


def by_runge_kutta(model: GaussianMixture, x: Tensor, t: float, s: float, steps: int) -> Tensor:
    """dx/dt = α′ E[x0] + σ′ E[ε] from t to s, by steps even in log t, as t itself is σ in places."""
    ratio = (s / t) ** (1 / steps)
    for i in range(steps):
        at, to = t * ratio**i, t * ratio ** (i + 1)
        h, middle = to - at, (at + to) / 2
        a = model(x, at).velocity
        b = model(x + h / 2 * a, middle).velocity
        c = model(x + h / 2 * b, middle).velocity
        x = x + h / 6 * (a + 2 * b + 2 * c + model(x + h * c, to).velocity)
    return x


# -- oracles ----------------------------------------------------------------------------------------------------------


def test_the_paths_of_a_gaussian_are_known(schedule: Schedule) -> None:
    # (x − αμ)/√(α²V + σ²) stays as it is along each axis of the covariance V.
    mean, variances = torch.tensor([0.5, -0.2], dtype=torch.float64), torch.tensor([0.3, 1.1], dtype=torch.float64)
    model = Gaussian(mean, variances.diag(), schedule)
    found = paths(model)
    first = schedule.at(found.times[0])

    def truth(t: Tensor | float) -> Tensor:
        level = schedule.at(t)
        ratio = ((level.alpha**2 * variances + level.sigma**2) / (first.alpha**2 * variances + first.sigma**2)).sqrt()
        return level.alpha * mean + ratio * (found.start - first.alpha * mean)

    # A flow is walked from α = 0, where the first step is of first order: one of 1/64 missed 2e-4 here.
    for t in schedule.time_of_sigma(torch.tensor([0.03, 0.1, 0.4, 1.0, 3.0, 20.0])).tolist():
        assert torch.allclose(found.at(t), truth(t), rtol=0, atol=6e-5 * float(radius(schedule.at(t), 1.0)))
    assert torch.allclose(found.end, model(truth(schedule.t_min), schedule.t_min).x0, rtol=0, atol=1e-5)


def test_between_levels_a_path_is_the_flow_to_fourth_order(schedule: Schedule, mixture: Mixture) -> None:
    model, errors = mixture(schedule), []
    low, high = (float(schedule.time_of_sigma(ratio)) for ratio in (0.1, 5.0))
    for intervals in (64, 128):
        found, worst = paths(model, range(4), intervals), 0.0
        for place in range(0, intervals, intervals // 16):
            t, s = found.times[place : place + 2].tolist()
            if low < s and t < high:
                middle = 0.6 * t + 0.4 * s
                gap = found.at(middle) - by_runge_kutta(model, found.x[place], t, middle, 3)
                worst = max(worst, float(gap.abs().max() / schedule.at(middle).sigma))
        errors.append(worst)
    assert errors[1] < 1e-5
    assert math.log2(errors[0] / errors[1]) > 3.5


def test_the_ends_are_those_of_a_fine_solution(schedule: Schedule, mixture: Mixture) -> None:
    # By a method that shares nothing with `follow`, from σ/α = 20 down to 0.05.
    model, gaps = mixture(schedule), []
    top, bottom = (float(schedule.time_of_sigma(ratio)) for ratio in (20.0, 0.05))
    for intervals in (128, 256):
        found = paths(model, intervals=intervals)  # its first draws are the same
        truth = by_runge_kutta(model, found.at(top), top, bottom, 100)
        gaps.append(float((found.at(bottom) - truth).square().mean().sqrt()) / model.sigma_data)
    assert gaps[0] < 5e-5
    assert gaps[1] < 2e-6


# -- laws -------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_what_the_model_says(schedule: Schedule, mixture: Mixture) -> None:
    model = mixture(schedule)
    found = paths(model, intervals=20)
    assert found.x.shape == found.x0.shape == (27, 16, 2)
    assert (found.times[0], found.times[-1]) == (schedule.t_max, schedule.t_min)
    assert (found.times.diff() < 0).all()
    for t, x, x0 in zip(found.times, found.x, found.x0, strict=True):
        assert torch.allclose(model(x, t).x0, x0, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.start, found.x[0])
    assert torch.equal(found.end, found.x0[-1])


def test_at_a_level_a_path_is_what_is_kept(schedule: Schedule, mixture: Mixture) -> None:
    found = paths(mixture(schedule), intervals=20)
    for place, t in enumerate(found.times.tolist()):
        assert torch.allclose(found.at(t), found.x[place], rtol=1e-9, atol=1e-12)


def test_rows_are_the_paths_of_some_rows(mixture: Mixture) -> None:
    whole = paths(mixture(VP()), intervals=20)
    part = whole.rows(slice(3, 7))
    assert torch.equal(part.start, whole.start[3:7])
    assert torch.equal(part.end, whole.end[3:7])
    assert torch.equal(part.at(0.3), whole.at(0.3)[3:7])


def test_row_i_is_the_same_to_the_bit_whatever_is_followed_with_it(mixture: Mixture) -> None:
    model = mixture(VP())
    whole = paths(model, range(40), intervals=12)
    parts = [paths(model, range(a, b), intervals=12) for a, b in itertools.pairwise((0, 1, 17, 40))]
    assert torch.equal(torch.cat([part.x for part in parts], 1), whole.x)
    assert torch.equal(torch.cat([part.x0 for part in parts], 1), whole.x0)


def test_starts_are_first_draws(schedule: Schedule, mixture: Mixture) -> None:
    # H₀: the mean square is that of N(0, α²σ_d² + σ²). Threshold 5 standard errors of 4000 numbers, √(2/4000): false
    # alarm 6e-7. A draw of deviation σ alone is caught where α is not small: at σ/α = 1 it would be half.
    schedule = EDM(0.01, 1.0) if isinstance(schedule, EDM) else schedule
    model = mixture(schedule)
    start = follow(model, range(2000), (2,), seed=1, intervals=1, dtype=torch.float64).start
    level = schedule.at(schedule.t_max)
    expected = float(level.alpha**2 * model.sigma_data**2 + level.sigma**2)
    assert float(start.square().mean()) / expected == pytest.approx(1, abs=5 * (2 / 4000) ** 0.5)


def test_seeds_and_types(mixture: Mixture) -> None:
    model = mixture(EDM(0.03, 80.0))
    single, double = (follow(model, range(8), (2,), seed=5, dtype=kind) for kind in (torch.float32, torch.float64))
    assert single.x.dtype == single.x0.dtype == single.at(1.0).dtype == torch.float32
    assert torch.allclose(single.end.double(), double.end, rtol=1e-4, atol=1e-4)
    other = follow(model, range(8), (2,), seed=6, intervals=1)
    assert not torch.allclose(other.start, single.start, rtol=0.1)


@pytest.mark.parametrize("sigma_data", [0.5, 3.0])
def test_angle_and_radius_are_polar_coordinates_of_data_and_noise(schedule: Schedule, sigma_data: float) -> None:
    level = schedule.at(torch.linspace(schedule.t_min, schedule.t_max, 9, dtype=torch.float64))
    theta, r = angle(level, sigma_data), radius(level, sigma_data)
    assert torch.allclose(r * theta.cos(), level.alpha * sigma_data, rtol=1e-9, atol=1e-12)
    assert torch.allclose(r * theta.sin(), level.sigma, rtol=1e-12, atol=1e-14)
    assert (theta.diff() > 0).all()


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_time_off_the_way_is_refused(mixture: Mixture) -> None:
    found = paths(mixture(EDM(0.1, 10.0)), intervals=4)
    for t in (10.1, 0.09, math.nan):
        with pytest.raises(SamplingError, match=r"paths go from t = 10 to 0\.1, got"):
            found.at(t)


@pytest.mark.parametrize("intervals", [0, -2])
def test_no_steps_are_refused(intervals: int, mixture: Mixture) -> None:
    with pytest.raises(SamplingError, match=f"at least 1 step, got {intervals}"):
        paths(mixture(VP()), intervals=intervals)
