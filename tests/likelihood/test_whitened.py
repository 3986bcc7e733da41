"""Whitened coordinates: a Gaussian stands still in them, and everything else moves as the plain flow does."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from scorefield.calculus import divergence
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.likelihood.whitened import Whitened
from scorefield.moments import Moments
from scorefield.noise import EDM, VE, VP, Cosine, Flow, Schedule, SubVP
from scorefield.randomness import Stream

SCHEDULES: dict[str, Schedule] = {
    "ve": VE(0.01, 80.0),
    "vp": VP(),
    "subvp": SubVP(t_min=0.01),
    "cosine": Cosine(),
    "edm": EDM(0.002, 80.0),
    "flow": Flow(),  # up to α = 0
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def normals(*shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(shape[0], shape[1:], dtype=torch.float64)


def levels(schedule: Schedule) -> list[float]:
    """Both ends, and times between them that are dense towards the data."""
    shares = torch.linspace(0, 1, 7, dtype=torch.float64) ** 3
    return (schedule.t_min + (schedule.t_max - schedule.t_min) * shares).tolist()


def gaussian(schedule: Schedule) -> Gaussian:
    a = normals(3, 3, name="a")
    model = Gaussian(torch.tensor([1.0, -2.0, 0.5]), a @ a.T + 0.01 * torch.eye(3, dtype=torch.float64), schedule)
    model.moments = Moments.of(model.mean(), model.covariance())
    return model


def mixture(schedule: Schedule) -> GaussianMixture:
    a = normals(2, 3, 3, name="a")
    model = GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 1.0, 0.0], [-1.0, 0.5, 1.0]]), 0.2 * a @ a.mT, schedule
    )
    model.moments = Moments.of(model.mean(), model.covariance())
    return model


def way(model: GaussianMixture) -> Whitened:
    return Whitened.of(model, torch.device("cpu"))


# -- where data are a Gaussian ----------------------------------------------------------------------------------------


@each_schedule
def test_a_gaussian_stands_still_without_divergence_at_every_level(schedule: Schedule) -> None:
    model = gaussian(schedule)
    for t in levels(schedule):
        x = model.sample(5, 1, t=t)
        here = way(model).at(t, x)
        y = here.enter(x)
        v, trace = divergence(lambda x, here=here, t=t: here.v(model, x, t), x)
        assert float(here.slope(y, v).abs().max()) < 1e-10
        turn = trace / here.stretch - here.gaussian_divergence()
        assert float(turn.abs().max()) < 1e-10 * (1 + float(here.gaussian_divergence().abs()))


def test_a_gaussian_with_other_moments_does_not() -> None:
    # The planted bug: were nothing compared, this would pass, too.
    model = gaussian(SCHEDULES["edm"])
    model.moments = Moments.of(model.mean() + 0.1, 1.1 * model.covariance())
    x = model.sample(5, 1, t=0.5)
    here = way(model).at(0.5, x)
    assert float(here.slope(here.enter(x), here.v(model, x, 0.5)).abs().min(0).values.max()) > 1e-3


@each_schedule
def test_draws_have_mean_zero_and_covariance_one_at_every_level(schedule: Schedule) -> None:
    # H₀: mean 0 and covariance I. Means of 20 000 draws have a standard error of 1/√n, variances of √(2/n): all nine
    # within five of them, at three levels, false alarm below 2e-5; a mean of 0.05 or a variance 7 % off is caught.
    model = mixture(schedule)
    for t in (schedule.t_min, (schedule.t_min + schedule.t_max) / 3, schedule.t_max):
        x = model.sample(20_000, 2, t=t)
        y = way(model).at(t, x).enter(x)
        products = torch.einsum("bi,bj->bij", y, y)
        assert float((y.mean(0) * math.sqrt(len(y))).abs().max()) < 5
        z = (products.mean(0) - torch.eye(3, dtype=torch.float64)) / (products.std(0) / math.sqrt(len(y)))
        assert float(z.abs().max()) < 5


# -- coordinates ------------------------------------------------------------------------------------------------------


@each_schedule
def test_leaving_undoes_entering_and_time_undoes_theta(schedule: Schedule) -> None:
    model = mixture(schedule)
    for t in levels(schedule):
        x = model.sample(4, 1, t=t)
        here = way(model).at(t, x)
        assert here.enter(x).isfinite().all()
        assert torch.allclose(here.leave(here.enter(x)), x, rtol=1e-11, atol=1e-11)
        theta = way(model).theta(t)
        assert 0 < float(theta) <= math.pi / 2
        # At the ends of their ranges angles resolve times no better than this.
        assert float(way(model).time(theta)) == pytest.approx(t, rel=1e-6)
    angles = [float(way(model).theta(t)) for t in levels(schedule)]
    assert all(a < b for a, b in itertools.pairwise(angles))


@each_schedule
def test_log_slope_is_the_log_determinant(schedule: Schedule) -> None:
    model = mixture(schedule)
    for t in levels(schedule):
        x = model.sample(1, 1, t=t)
        here = way(model).at(t, x)
        jacobian = torch.autograd.functional.jacobian(lambda x, here=here: here.enter(x), x)[0, :, 0]
        assert float(here.log_slope()) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), rel=1e-10, abs=1e-10)


@each_schedule
def test_rows_at_levels_of_their_own_are_as_alone(schedule: Schedule) -> None:
    model, t = mixture(schedule), torch.tensor(levels(schedule), dtype=torch.float64)
    x = torch.cat([model.sample(1, 1, t=time) for time in t])
    together = way(model).at(t, x)
    y, v = together.enter(x), together.v(model, x, t)
    for row, time in enumerate(t):
        alone, one = way(model).at(time, x[row : row + 1]), slice(row, row + 1)
        assert torch.allclose(alone.enter(x[one]), y[one], rtol=1e-12, atol=1e-12)
        assert torch.allclose(alone.slope(y[one], v[one]), together.slope(y, v)[one], rtol=1e-10, atol=1e-10)
        assert torch.allclose(alone.score(y[one], v[one]), together.score(y, v)[one], rtol=1e-10, atol=1e-10)
        assert torch.allclose(alone.log_slope(), together.log_slope()[one], rtol=1e-12)
        assert torch.allclose(alone.gaussian_divergence(), together.gaussian_divergence()[one], rtol=1e-10, atol=1e-12)


# -- where they are not -----------------------------------------------------------------------------------------------


@each_schedule
def test_the_slope_is_that_of_the_plain_flow(schedule: Schedule) -> None:
    # y of x ± h dx/dt at t ± h, by the velocity α′ E[x0] + σ′ E[ε] of plain coordinates; off by O(h²).
    model = mixture(schedule)
    for share in (0.02, 0.2, 0.5, 0.9):
        t = schedule.t_min + share * (schedule.t_max - schedule.t_min)
        h = 1e-4 * min(t, schedule.t_max - t)
        x = model.sample(6, 1, t=t)
        velocity = model(x, t).velocity
        ends = [way(model).at(t + s, x).enter(x + s * velocity) for s in (h, -h)]
        expected = (ends[0] - ends[1]) / (way(model).theta(t + h) - way(model).theta(t - h))
        here = way(model).at(t, x)
        assert torch.allclose(here.slope(here.enter(x), here.v(model, x, t)), expected, rtol=1e-5, atol=1e-6)


@each_schedule
def test_the_score_is_that_of_the_density_in_these_coordinates(schedule: Schedule) -> None:
    model = mixture(schedule)
    for t in levels(schedule):
        x = model.sample(6, 1, t=t)
        here = way(model).at(t, x)
        y = here.enter(x)
        found = here.score(y, here.slope(y, here.v(model, x, t)))
        turn = torch.autograd.functional.jacobian(lambda y, here=here: here.leave(y), y[:1])[0, :, 0]
        assert torch.allclose(found, model.score(x, t) @ turn, rtol=1e-7, atol=1e-7)


@each_schedule
def test_the_divergence_is_how_the_slope_changes_with_y(schedule: Schedule) -> None:
    model = mixture(schedule)
    for t in levels(schedule):
        x = model.sample(3, 1, t=t)
        here = way(model).at(t, x)
        trace = divergence(lambda x, here=here, t=t: here.v(model, x, t), x)[1]
        direct = divergence(lambda y, here=here, t=t: here.slope(y, here.v(model, here.leave(y), t)), here.enter(x))[1]
        assert torch.allclose(trace / here.stretch.flatten() - here.gaussian_divergence(), direct, rtol=1e-8, atol=1e-8)


def test_signs_have_the_gaussian_divergence_as_their_mean() -> None:
    model = mixture(SCHEDULES["vp"])
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    for t in (0.01, 0.3, 0.9):
        here = way(model).at(t, signs)
        found = here.gaussian_quadratic(signs)
        assert float(found.mean()) == pytest.approx(float(here.gaussian_divergence()), rel=1e-12)
        assert float(found.std()) > 1e-3 * abs(float(found.mean()))


# -- moments of low rank ----------------------------------------------------------------------------------------------


@each_schedule
def test_few_axes_with_the_rest_beside_them_are_the_full_covariance(schedule: Schedule) -> None:
    axes = torch.linalg.qr(normals(6, 2))[0]
    low = Moments(normals(6), axes, torch.tensor([3.0, 0.7]).double(), torch.tensor(0.2).double())
    dense = low.apply(lambda c: c, torch.eye(6, dtype=torch.float64))
    model = Gaussian(low.mean, dense + 0.3 * torch.eye(6, dtype=torch.float64), schedule)
    for t in levels(schedule):
        x = model.sample(4, 1, t=t)
        a, b = (Whitened(model, moments).at(t, x) for moments in (low, Moments.of(low.mean, dense)))
        y, v = a.enter(x), a.v(model, x, t)
        assert torch.allclose(y, b.enter(x), rtol=1e-9, atol=1e-9)
        assert torch.allclose(a.leave(y), b.leave(y), rtol=1e-9, atol=1e-9)
        assert torch.allclose(a.slope(y, v), b.slope(y, v), rtol=1e-8, atol=1e-9)
        assert torch.allclose(a.score(y, v), b.score(y, v), rtol=1e-8, atol=1e-9)
        assert torch.allclose(a.log_slope(), b.log_slope(), rtol=1e-11)
        assert torch.allclose(a.gaussian_divergence(), b.gaussian_divergence(), rtol=1e-9, atol=1e-11)
        assert torch.allclose(a.gaussian_quadratic(x), b.gaussian_quadratic(x), rtol=1e-8, atol=1e-9)


def test_without_moments_data_are_taken_for_a_ball_about_the_origin() -> None:
    model = mixture(SCHEDULES["edm"])
    model.moments = None
    x = model.sample(3, 1, t=0.7).reshape(3, 1, 3, 1)
    here = way(model).at(0.7, x)
    # Nothing but a scale: x over the root mean square of x_t.
    assert torch.allclose(here.enter(x), x / math.hypot(model.sigma_data, 0.7), rtol=1e-12)
