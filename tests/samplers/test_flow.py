"""The probability flow against closed forms and a fine solution in other coordinates, up and down, row by row."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scorefield.bounded import Bounded
from scorefield.errors import SamplingError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.model import Denoiser, NetworkDenoiser, reschedule
from scorefield.noise import EDM, VE, VP, Cosine, Flow, Schedule
from scorefield.ode import fixed_steps
from scorefield.parametrization import X0, Estimate
from scorefield.randomness import Stream
from scorefield.samplers.flow import decode, encode, interpolate, probability_flow, slerp
from scorefield.samplers.grids import geometric

Mixture = Callable[[Schedule], GaussianMixture]
Misfit = Callable[..., float]
MORE: dict[str, Schedule] = {
    "ve": VE(0.03, 80.0),
    "cosine": Cosine(t_min=float(Cosine().time_of_sigma(0.03))),
}


def normals(*shape: int, name: str = "z", dtype: torch.dtype = torch.float64) -> Tensor:
    return Stream(0, name).normal(shape[0], shape[1:], dtype=dtype)


class Counted(Denoiser):
    """A denoiser that counts the rows it is asked for."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.sigma_data, self.asked = denoiser, denoiser.schedule, denoiser.sigma_data, 0

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        self.asked += len(x_t)
        return self.denoiser(x_t, t)


class Shrunk(Denoiser):
    """A denoiser whose E[x0 given x_t] is a little too small; 1 is right."""

    def __init__(self, denoiser: Denoiser, share: float) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.sigma_data, self.share = (
            denoiser,
            denoiser.schedule,
            denoiser.sigma_data,
            share,
        )

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        estimate = self.denoiser(x_t, t)
        return X0.split(self.share * estimate.x0, x_t, estimate.level)


# -- the flow ---------------------------------------------------------------------------------------------------------


def test_a_gaussian_flows_as_its_deviation_does(schedule: Schedule) -> None:
    # x/√(α²v + σ²) is kept by the flow of N(0, v), between any two levels, each row with its own.
    v = 0.36
    model = Gaussian(torch.zeros(1), torch.full((1, 1), v), schedule)
    x = normals(12, 1)
    t = torch.linspace(schedule.t_min, schedule.t_max, 12, dtype=torch.float64)
    s = t[torch.tensor([5, 11, 0, 3, 8, 2, 1, 10, 4, 6, 9, 7])]
    found = probability_flow(model, x, t, s, rtol=1e-8, atol=1e-8).x
    before, after = schedule.at(t, like=x), schedule.at(s, like=x)
    ratio = ((after.alpha**2 * v + after.sigma**2) / (before.alpha**2 * v + before.sigma**2)).sqrt()
    assert torch.allclose(found, ratio * x, rtol=1e-6, atol=1e-8)


def check_against_a_fine_solution(model: GaussianMixture) -> None:
    """The same end as by RK4 in the coordinates of every schedule's EDM: y = x/α, dy/d(σ/α) = E[ε given x_t]."""
    schedule, sigmas = model.schedule, geometric(EDM(0.03, 30.0), 80)
    grid = schedule.time_of_sigma(sigmas)

    def slope(y: Tensor, sigma: Tensor, places: Tensor) -> Tensor:
        t = schedule.time_of_sigma(sigma)
        return model(schedule.at(t, like=y).alpha * y, t).epsilon

    x = model.sample(16, seed=0, t=grid[0])
    y = x / schedule.at(grid[0]).alpha
    for t, s in itertools.pairwise(sigmas.tolist()):
        y = fixed_steps(slope, y, t, s, 1)
    fine = schedule.at(grid[-1]).alpha * y
    low = schedule.at(grid[-1]).alpha * model.sigma_data
    # By a hundred times the tolerance: this data's flow moves apart by ten on its way, two modes from between them.
    for tolerance in (1e-3, 1e-5):
        found = probability_flow(model, x, grid[0], grid[-1], rtol=tolerance, atol=tolerance)
        assert float((found.x - fine).abs().max() / low) < 100 * tolerance
        assert float((found.x - fine).square().mean().sqrt() / low) < 20 * tolerance
    back = probability_flow(model, found.x, grid[-1], grid[0], rtol=1e-7, atol=1e-7)
    assert float((back.x / x - 1).abs().max()) < 1e-2


def test_the_end_is_that_of_a_fine_solution_in_other_coordinates(schedule: Schedule, mixture: Mixture) -> None:
    check_against_a_fine_solution(mixture(schedule))


@pytest.mark.parametrize("name", MORE)
def test_so_it_is_under_other_schedules(name: str, mixture: Mixture) -> None:
    check_against_a_fine_solution(mixture(MORE[name]))


def test_the_error_falls_with_the_tolerance_and_evaluations_grow_slowly(mixture: Mixture, schedule: Schedule) -> None:
    model, z = mixture(schedule), normals(50, 2)
    exact = decode(model, z, rtol=1e-8, atol=1e-8).x
    ways = {tolerance: decode(model, z, rtol=tolerance, atol=tolerance) for tolerance in (1e-2, 1e-3, 1e-4, 1e-5)}
    for tolerance, way in ways.items():
        assert float((way.x - exact).square().mean().sqrt()) < 10 * tolerance
        # Of the fifth order: a tenth of the error for 10^{1/5} = 1.6 times the steps.
        assert float(way.evaluations.double().mean()) < 26 * 1.5 ** math.log10(1e-2 / tolerance) + 3


def test_two_schedules_have_one_flow(mixture: Mixture, schedule: Schedule) -> None:
    other = EDM(0.01, 100.0)
    model, sigmas = mixture(other), torch.tensor([40.0, 0.05], dtype=torch.float64)
    same = reschedule(model, schedule)
    (a, b), (c, d) = other.time_of_sigma(sigmas), schedule.time_of_sigma(sigmas)
    x = 40 * normals(8, 2)
    here = probability_flow(model, x, a, b)
    there = probability_flow(same, schedule.at(c).alpha * x, c, d)
    assert torch.allclose(there.x / schedule.at(d).alpha, here.x, rtol=1e-7)
    assert torch.equal(here.evaluations, there.evaluations)


def test_the_estimate_at_the_end_has_cost_nothing(mixture: Mixture, schedule: Schedule) -> None:
    model = Counted(mixture(schedule))
    found = probability_flow(model, normals(9, 2), 0.9 * schedule.t_max, 0.3 * schedule.t_max)
    assert model.asked == int(found.evaluations.sum())
    expected = model(found.x, 0.3 * schedule.t_max).x0
    assert torch.allclose(found.x0, expected, rtol=1e-9, atol=1e-9)


def test_a_flow_may_begin_and_end_where_there_is_no_data(mixture: Mixture) -> None:
    schedule = Flow(t_min=0.05)
    model, z = mixture(schedule), normals(6, 2)
    assert schedule.at(schedule.t_max).alpha == 0
    down = decode(model, z, rtol=1e-6, atol=1e-6)
    up = encode(model, down.x, rtol=1e-6, atol=1e-6)
    assert torch.allclose(up.x, z, atol=1e-4)
    assert int(down.evaluations.max()) < 120


# -- rows -------------------------------------------------------------------------------------------------------------


def test_row_i_is_the_same_whatever_flows_with_it(mixture: Mixture, schedule: Schedule) -> None:
    model, z = mixture(schedule), normals(30, 2)
    whole = decode(model, z)
    assert len(whole.evaluations.unique()) > 1
    for a, b in ((0, 1), (1, 12), (12, 30)):
        part = decode(model, z[a:b])
        assert torch.allclose(part.x, whole.x[a:b], rtol=1e-10, atol=1e-12)
        assert torch.equal(part.evaluations, whole.evaluations[a:b])


class Told(nn.Module):
    """A network that returns what it is told, bent by x."""

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        assert len(condition) in {1, len(x)}
        return condition * (1 + (3 * x).sin() / 4)


def test_each_row_keeps_its_own_condition_when_others_have_left() -> None:
    schedule = VP(t_min=0.01)
    network = NetworkDenoiser(Told(), schedule, X0, 1.0, condition_features=2)
    model = reschedule(Bounded(network, torch.full((2,), -4.0), torch.full((2,), 4.0)), EDM(0.03, 80.0))
    z, condition = normals(4, 2), 2 * normals(4, 2, name="condition")
    whole = decode(model.given(condition), z, rtol=1e-6, atol=1e-6)
    assert len(whole.evaluations.unique()) > 1
    for row in range(4):
        alone = decode(model.given(condition[row : row + 1]), z[row : row + 1], rtol=1e-6, atol=1e-6)
        assert torch.allclose(whole.x[row], alone.x[0], rtol=1e-9, atol=1e-9)
    shared = decode(model.given(condition[:1]), z, rtol=1e-6, atol=1e-6)
    assert torch.allclose(shared.x[0], whole.x[0], rtol=1e-9, atol=1e-9)


# -- both directions --------------------------------------------------------------------------------------------------


def test_data_are_encoded_as_noise(mixture: Mixture, misfit: Misfit, schedule: Schedule) -> None:
    # H₀: r·encode(x0) are draws of p_t at t_max (false alarm below 1e-5, see `misfit`). Caught: a flow whose E[x0] is
    # a twentieth too small, and one that is not walked.
    model = mixture(schedule)
    x0, top = model.sample(4000, seed=2), schedule.at(schedule.t_max)
    radius = torch.hypot(top.alpha * model.sigma_data, top.sigma)
    for planted, fits in ((model, True), (Shrunk(model, 0.95), False)):
        z = encode(planted, x0, rtol=1e-3, atol=1e-3).x
        assert (misfit(radius * z, schedule, schedule.t_max) < 1) == fits
    assert misfit(radius * x0 / model.sigma_data, schedule, schedule.t_max) > 1


def test_decoding_is_the_inverse_of_encoding(mixture: Mixture, schedule: Schedule) -> None:
    model = mixture(schedule)
    x0 = torch.cat((model.sample(40, seed=3), torch.tensor([[3.0, 3.0], [0.0, 0.0]])))  # and two that are no data
    for tolerance in (1e-3, 1e-5):
        z = encode(model, x0, rtol=tolerance, atol=tolerance).x
        back = decode(model, z, rtol=tolerance, atol=tolerance).x
        assert float((back - x0).square().mean().sqrt()) < 20 * tolerance


def test_noise_becomes_data_of_the_type_and_shape_it_has(schedule: Schedule) -> None:
    class Smooth(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule, self.sigma_data = schedule, 1.0

        def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
            level = schedule.at(t, like=x_t)
            return X0.split((x_t / level.sigma.to(x_t.dtype)).tanh(), x_t, level)

    found = decode(Smooth(), normals(3, 2, 4, 4, dtype=torch.float32))
    assert found.x.shape == (3, 2, 4, 4)
    assert found.x.dtype == torch.float32
    assert decode(Smooth(), normals(0, 5, dtype=torch.float32)).x.shape == (0, 5)


# -- between ----------------------------------------------------------------------------------------------------------


def test_the_way_between_ends_at_both_and_stays_among_the_data(mixture: Mixture, schedule: Schedule) -> None:
    model = mixture(schedule)
    a, b = model.sample(12, seed=4), model.sample(12, seed=5)
    shares = torch.linspace(0, 1, 5)
    between = interpolate(model, a, b, shares, rtol=1e-4, atol=1e-4)
    assert between.shape == (5, 12, 2)
    assert torch.allclose(between[0], a, atol=5e-3)
    assert torch.allclose(between[-1], b, atol=5e-3)
    straight = torch.stack([torch.lerp(a, b, float(share)) for share in shares])
    inner, beside = (model.log_prob(x[1:-1].reshape(-1, 2)).min() for x in (between, straight))
    assert inner > beside
    assert interpolate(model, a, b, torch.zeros(0)).shape == (0, 12, 2)


def test_a_great_circle_keeps_the_length_and_runs_evenly() -> None:
    a = normals(10, 3, 4, name="a")
    b = normals(10, 3, 4, name="b")
    a, b = (x / x.flatten(1).norm(dim=1).reshape(-1, 1, 1) for x in (a, b))
    path = torch.stack([slerp(a, b, share) for share in torch.linspace(0, 1, 9).tolist()]).flatten(2)
    assert torch.allclose(path.norm(dim=2), torch.ones(9, 10, dtype=torch.float64))
    chords = path.diff(dim=0).norm(dim=2)
    assert torch.allclose(chords, chords[0].expand_as(chords))
    assert torch.allclose(path[0], a.flatten(1))
    assert torch.allclose(path[-1], b.flatten(1))


@pytest.mark.parametrize("other", [1.0, 2.0, -1.0, 0.0])
def test_rows_on_one_line_take_the_straight_way(other: float) -> None:
    a = normals(4, 3)
    for share in (0.0, 0.3, 1.0):
        assert torch.allclose(slerp(a, other * a, share), (1 - share + share * other) * a, atol=1e-6)


# -- faults -----------------------------------------------------------------------------------------------------------


def test_steps_are_watched_with_each_rows_own_time(mixture: Mixture, schedule: Schedule) -> None:
    model, x = mixture(schedule), normals(5, 2)
    seen = []
    found = probability_flow(
        model, x, schedule.t_max, schedule.t_min, on_step=lambda step, t, x, x0: seen.append((step, t, x, x0))
    )
    assert [entry[0] for entry in seen] == list(range(int((found.accepted + found.rejected).max())))
    assert torch.allclose(seen[0][2], x)
    assert torch.stack([entry[1] for entry in seen]).diff(dim=0).max() <= 0
    for _, t, x, x0 in seen[:4]:
        assert torch.allclose(x0, model(x, t).x0, rtol=1e-6, atol=1e-6)


def test_no_way_is_no_evaluation(mixture: Mixture, schedule: Schedule) -> None:
    x = normals(5, 2)
    found = probability_flow(mixture(schedule), x, schedule.t_max, schedule.t_max)
    assert torch.equal(found.x, x)
    assert found.evaluations.sum() == 0


def test_times_outside_of_the_schedule_are_refused(mixture: Mixture, schedule: Schedule) -> None:
    for t in (-0.1, 2 * schedule.t_max, math.nan):
        with pytest.raises(SamplingError, match=f"from {schedule.t_min:g} to {schedule.t_max:g}, got t = "):
            probability_flow(mixture(schedule), normals(2, 2), t, schedule.t_min)


def test_a_row_that_is_not_finite_is_named(mixture: Mixture) -> None:
    x = normals(4, 2)
    x[2, 1] = math.nan
    with pytest.raises(
        SamplingError, match=r"1 of 4 rows cannot go on, row 12: the field is not finite in step 0, at t = 1$"
    ):
        probability_flow(mixture(VP()), x, 1.0, 0.01, rows=range(10, 14))


def test_rows_of_two_shapes_have_no_way_between(mixture: Mixture) -> None:
    with pytest.raises(SamplingError, match=r"rows of one shape .* got \(2, 2\), \(3, 2\)"):
        interpolate(mixture(VP()), normals(2, 2), normals(3, 2), torch.zeros(1))
