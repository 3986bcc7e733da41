"""The oracles against first principles: gradients, integrals, Bayes' rule by quadrature, the Fokker–Planck equation.

Statistical tests are seeded and held to 5 standard errors: a false alarm of 6e-7 for each of about fifty numbers.
"""

import math

import pytest
import torch
from torch import Tensor

from scorefield.calculus import divergence
from scorefield.errors import OptionError
from scorefield.exact import Empirical, Gaussian, GaussianMixture
from scorefield.noise import EDM, VE, VP, Cosine, Flow, Schedule, SubVP
from scorefield.randomness import Stream

SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "subvp": SubVP(),
    "cosine": Cosine(),
    "edm": EDM(0.01, 50.0),
    "ve": VE(0.01, 50.0),
    "flow": Flow(t_min=0.01, t_max=0.99),
}
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def mixture(schedule: Schedule | None = None) -> GaussianMixture:
    """Three correlated Gaussians in the plane, off centre."""
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.5, -2.0]])
    roots = torch.tensor([[[0.5, 0.0], [0.3, 0.4]], [[0.9, 0.0], [-0.5, 0.2]], [[0.3, 0.0], [0.0, 0.6]]])
    return GaussianMixture(WEIGHTS, means, roots @ roots.mT, schedule)


def line(schedule: Schedule | None = None) -> GaussianMixture:
    """Two Gaussians on the line, of very different width."""
    return GaussianMixture(
        torch.tensor([1.0, 3.0]), torch.tensor([[-1.0], [2.0]]), torch.tensor([[[0.04]], [[1.0]]]), schedule
    )


def some_times(schedule: Schedule, count: int = 7) -> Tensor:
    u = torch.linspace(0.02, 0.9, count, dtype=torch.float64)
    return schedule.t_min + u**2 * (schedule.t_max - schedule.t_min)


def points(count: int, shape: tuple[int, ...] = (2,), scale: float = 2.0) -> Tensor:
    return scale * Stream(0, "points").normal(count, shape, dtype=torch.float64)


def gradient_of_log_prob(model: GaussianMixture, x: Tensor, t: Tensor | float | None) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(x, t).sum(), x)
    return gradient


# -- the score and the posterior --------------------------------------------------------------------------------------


@each_schedule
def test_the_score_is_the_gradient_of_log_prob(schedule: Schedule) -> None:
    model, x = mixture(schedule), points(50)
    for t in some_times(schedule):
        assert torch.allclose(model.score(x, t), gradient_of_log_prob(model, x, t), rtol=1e-9, atol=1e-10)


@each_schedule
def test_rows_may_have_times_of_their_own(schedule: Schedule) -> None:
    model, x, t = mixture(schedule), points(7), some_times(schedule)
    together, log_prob = model(x, t), model.log_prob(x, t)
    for i in range(7):
        alone = model(x[i : i + 1], t[i])
        assert torch.allclose(together.x0[i], alone.x0[0], rtol=1e-12)
        assert torch.allclose(together.epsilon[i], alone.epsilon[0], rtol=1e-12)
        assert torch.allclose(log_prob[i], model.log_prob(x[i : i + 1], float(t[i]))[0], rtol=1e-12)


@each_schedule
def test_tweedie(schedule: Schedule) -> None:
    model, x = mixture(schedule), points(50)
    for t in some_times(schedule):
        level, estimate = schedule.at(t), model(x, t)
        tweedie = (x + level.sigma**2 * gradient_of_log_prob(model, x, t)) / level.alpha
        # x/α and σ²s/α cancel, so the tolerance is of their size.
        assert torch.allclose(estimate.x0, tweedie, rtol=1e-9, atol=1e-12 * float(x.abs().max() / level.alpha))
        assert torch.allclose(schedule.add_noise(estimate.x0, t, estimate.epsilon), x, rtol=1e-9, atol=1e-10)


@each_schedule
def test_the_posterior_mean_is_bayes_rule_by_quadrature(schedule: Schedule) -> None:
    model = line(schedule)
    grid = torch.linspace(-9, 12, 60_001, dtype=torch.float64)
    prior = model.log_prob(grid[:, None])
    for t in schedule.time_of_sigma(torch.logspace(-2, 1.5, 7, dtype=torch.float64)):  # wide beside the grid's 3.5e-4
        level = schedule.at(t)
        x = level.alpha * torch.tensor([[-1.3], [0.0], [0.7], [3.0]], dtype=torch.float64) + level.sigma
        posterior = torch.softmax(prior - (x - level.alpha * grid) ** 2 / (2 * level.sigma**2), dim=1)
        assert torch.allclose(model(x, t).x0[:, 0], posterior @ grid, rtol=1e-7, atol=1e-7)


def test_a_gaussian_has_a_linear_score() -> None:
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    mean = torch.tensor([1.0, -3.0], dtype=torch.float64)
    x = points(20)
    for schedule in SCHEDULES.values():
        t = some_times(schedule)[3]
        level = schedule.at(t)
        spread = level.alpha**2 * covariance + level.sigma**2 * torch.eye(2, dtype=torch.float64)
        expected = -torch.linalg.solve(spread, (x - level.alpha * mean).mT).mT
        assert torch.allclose(Gaussian(mean, covariance, schedule).score(x, t), expected, rtol=1e-10, atol=1e-12)


def test_a_singular_covariance_has_a_score_where_there_is_noise() -> None:
    # Data on the line x = y: across it the density at noise σ is that of N(0, σ²), so the score is −(distance)/σ².
    flat = Gaussian(torch.zeros(2), torch.ones(2, 2), EDM(0.01, 10.0))
    across = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    assert torch.allclose(flat.score(across, 0.1), -across / 0.01, rtol=1e-9)
    flatter = torch.ones(2, 2, dtype=torch.float64) * 1e6
    assert torch.isfinite(Gaussian(torch.zeros(2), flatter, EDM(0.01, 10.0)).log_prob(across, 0.01)).all()


# -- the density ------------------------------------------------------------------------------------------------------


@each_schedule
def test_the_density_on_the_line_integrates_to_one_and_has_the_stated_moments(schedule: Schedule) -> None:
    model = line(schedule)
    for t in [None, *some_times(schedule).tolist()]:
        alpha, sigma = (1.0, 0.0) if t is None else (float(a) for a in (schedule.at(t).alpha, schedule.at(t).sigma))
        width = math.hypot(alpha, sigma)
        grid = torch.linspace(-14 * width, 14 * width, 20_001, dtype=torch.float64)
        density = model.log_prob(grid[:, None], t).exp()
        total, mean, second = (float(torch.trapezoid(grid**k * density, grid)) for k in range(3))
        assert total == pytest.approx(1, abs=1e-9)
        assert mean == pytest.approx(alpha * float(model.mean()), abs=1e-8 * width)
        assert second == pytest.approx(alpha**2 * float(model.second_moment()) + sigma**2, rel=1e-8)
        assert second - mean**2 == pytest.approx(alpha**2 * float(model.covariance()) + sigma**2, rel=1e-7)


def test_the_density_in_the_plane_integrates_to_one() -> None:
    axis = torch.linspace(-9, 9, 451, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    model = mixture(VP())
    for t in (None, 0.2):
        density = model.log_prob(plane, t).exp()
        alpha = 1.0 if t is None else float(VP().at(t).alpha)
        cell = float(axis[1] - axis[0]) ** 2
        assert float(density.sum()) * cell == pytest.approx(1, abs=1e-8)
        assert torch.allclose((density @ plane) * cell, alpha * model.mean(), atol=1e-7)


@each_schedule
def test_the_density_obeys_the_fokker_planck_equation(schedule: Schedule) -> None:
    # ∂ₜp = −∇·(f x p) + ½ g² Δp, divided by p:  ∂ₜ log p = −f D − f x·s + ½ g² (∇·s + ‖s‖²).
    model, x = mixture(schedule), points(40)

    def residual(t: Tensor, share: float = 1.0) -> float:
        level = schedule.at(t)
        h = 1e-5 * (t - schedule.t_min)
        moved = (model.log_prob(x, t + h) - model.log_prob(x, t - h)) / (2 * h)
        score, laplacian = divergence(lambda y: model.score(y, t), x)
        parts = (
            -2 * level.drift - level.drift * (x * score).sum(1),
            share * level.diffusion_squared / 2 * (laplacian + score.square().sum(1)),
        )
        return float((moved - sum(parts)).abs().max() / sum(part.abs().max() for part in parts))

    for t in some_times(schedule):
        assert residual(t) < 1e-6
    assert residual(some_times(schedule)[3], share=2.0) > 1e-2  # g² for ½ g² is seen


def test_a_change_of_units_changes_the_density_by_its_jacobian() -> None:
    model, x = mixture(), points(30)
    shift, scale = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([3.0, 0.25], dtype=torch.float64)
    other = model.standardised(shift, scale, VP())
    jacobian = scale.log().sum()
    assert torch.allclose(other.log_prob((x - shift) / scale), model.log_prob(x) + jacobian, rtol=1e-10)
    assert torch.allclose(other.mean(), (model.mean() - shift) / scale)
    assert isinstance(other.schedule, VP)


def test_sigma_data_is_the_root_mean_square_per_element() -> None:
    model = mixture()
    x = model.sample(200_000, seed=0)
    squares = x.square().mean(1)
    assert abs(float(squares.mean()) - model.sigma_data**2) < 5 * float(squares.std()) / math.sqrt(len(x))


# -- samples ----------------------------------------------------------------------------------------------------------


def worst_moment(model: GaussianMixture, x: Tensor, alpha: float, sigma: float) -> float:
    """H₀: E x and E x xᵀ are those of α x0 + σ ε. The largest difference, in standard errors of the rows x."""
    features = torch.cat((x, x[:, :1] * x, x[:, 1:] ** 2), dim=1)
    second = alpha**2 * model.second_moment() + sigma**2 * torch.eye(2, dtype=torch.float64)
    expected = torch.cat((alpha * model.mean(), second[0], second[1, 1:]))
    return float(((features.mean(0) - expected) / (features.std(0) / math.sqrt(len(x)))).abs().max())


@each_schedule
def test_samples_at_a_level_have_its_moments(schedule: Schedule) -> None:
    model = mixture(schedule)
    assert worst_moment(model, model.sample(40_000, seed=1), 1, 0) < 5
    for t in some_times(schedule, 3):
        level = schedule.at(t)
        x = model.sample(40_000, seed=1, t=t)
        assert worst_moment(model, x, float(level.alpha), float(level.sigma)) < 5
        # Caught: σ² in the place of σ.
        wrong = model.sample(40_000, seed=1) * level.alpha + level.sigma**2 * points(40_000, scale=1.0)
        if abs(float(level.sigma) - 1) > 0.1 and float(level.sigma) > 0.3:
            assert worst_moment(model, wrong, float(level.alpha), float(level.sigma)) > 5


def test_components_are_drawn_by_their_weights() -> None:
    # H₀: shares are the weights, binomial standard errors. Caught: equal shares.
    far = GaussianMixture(WEIGHTS * 7, torch.tensor([[-50.0], [0.0], [50.0]]), torch.ones(3, 1, 1))
    x = far.sample(20_000, seed=2)[:, 0]
    shares = torch.tensor([float((x < -25).double().mean()), float((x.abs() < 25).double().mean())])

    def worst(shares: Tensor) -> float:
        errors = (WEIGHTS[:2] * (1 - WEIGHTS[:2]) / 20_000).sqrt()
        return float(((shares - WEIGHTS[:2]) / errors).abs().max())

    assert worst(shares) < 5
    assert worst(torch.full((2,), 1 / 3)) > 5


def test_samples_have_the_density() -> None:
    # H₀: E log p(x) under samples is −entropy, here by quadrature. Catches a covariance in place of its root.
    model = line()
    grid = torch.linspace(-9, 12, 20_001, dtype=torch.float64)
    log_density = model.log_prob(grid[:, None])
    expected = float(torch.trapezoid(log_density.exp() * log_density, grid))

    def worst(x: Tensor) -> float:
        values = model.log_prob(x)
        return abs(float(values.mean()) - expected) / (float(values.std()) / math.sqrt(len(x)))

    assert worst(model.sample(40_000, seed=3)) < 5
    wrong = GaussianMixture(model.weights, model.means, torch.tensor([[[0.04**2]], [[1.0]]]))
    assert worst(wrong.sample(40_000, seed=3)) > 5


def test_row_i_of_a_sample_is_its_own() -> None:
    model = mixture()
    whole = model.sample(30, seed=4, t=1.0)
    assert torch.equal(model.sample(range(11, 17), seed=4, t=1.0), whole[11:17])
    assert not torch.equal(model.sample(30, seed=5, t=1.0), whole)


# -- the data set itself ----------------------------------------------------------------------------------------------


@each_schedule
def test_the_data_set_is_a_mixture_of_points(schedule: Schedule) -> None:
    data = points(12)
    peaks = GaussianMixture(torch.ones(12), data, torch.zeros(12, 2, 2), schedule)
    empirical = Empirical(data, schedule)
    t = some_times(schedule)
    x = schedule.add_noise(data[:7], t, points(7, scale=1.0))
    for time, rows in ((t, x), (t[3], x)):
        expected, found = peaks(rows, time), empirical(rows, time)
        assert torch.allclose(found.x0, expected.x0, rtol=1e-8, atol=1e-9)
        # ε is what is left over, (x_t − α x0)/σ, so it keeps fewer digits at small σ.
        assert torch.allclose(found.epsilon, expected.epsilon, rtol=1e-6, atol=1e-6)
    assert empirical.sigma_data == pytest.approx(peaks.sigma_data)


def test_far_from_everything_the_data_set_gives_its_nearest_row() -> None:
    data = torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=torch.float64)
    empirical = Empirical(data, EDM(1e-3, 10.0))
    assert torch.equal(empirical(torch.tensor([[6.0, 99.0]], dtype=torch.float64), 0.01).x0, data[1:])


def test_images_keep_their_shape() -> None:
    data = points(6, (3, 2, 2))
    empirical = Empirical(data, VP())
    x = points(4, (3, 2, 2))
    estimate = empirical(x, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    flat = Empirical(data.flatten(1), VP())(x.flatten(1), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert torch.equal(estimate.x0.flatten(1), flat.x0)
    assert torch.allclose(estimate.score.flatten(1), flat.score, rtol=1e-12)
    assert estimate.x0.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_estimates_have_the_type_of_x_t(dtype: torch.dtype) -> None:
    x = points(3).to(dtype)
    for model in (mixture(VP()), Empirical(points(5), VP())):
        assert {part.dtype for part in (model(x, 0.3).x0, model(x, 0.3).epsilon, model.score(x, 0.3))} == {dtype}


# -- faults -----------------------------------------------------------------------------------------------------------


def test_an_oracle_takes_no_condition() -> None:
    for model in (mixture(), Gaussian(torch.zeros(2), torch.eye(2)), Empirical(points(3), VP())):
        with pytest.raises(OptionError, match=rf"{type(model).__name__} takes no condition.*\(1, 2\)"):
            model.given(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("weights", "covariance"),
    [([0.5, -0.5], torch.eye(2)), ([0.0, 1.0], torch.eye(2)), ([0.5, 0.5], torch.tensor([[1.0, 2.0], [2.0, 1.0]]))],
    ids=["negative weight", "weight of zero", "indefinite covariance"],
)
def test_what_is_no_mixture_is_refused(weights: list[float], covariance: Tensor) -> None:
    with pytest.raises(ValueError, match="positive"):
        GaussianMixture(torch.tensor(weights), torch.zeros(2, 2), torch.stack((covariance, covariance)))


def test_a_conditional_is_the_joint_law_over_the_marginal_one() -> None:
    # Where what is seen is the same, densities given it have the ratio of the joint ones; each part is normalised.
    roots = Stream(0, "roots").normal(3, (4, 4), dtype=torch.float64)
    means = Stream(0, "means").normal(3, (4,), dtype=torch.float64)
    model, seen = GaussianMixture(WEIGHTS, means, roots @ roots.mT), torch.tensor([False, True, True, False])
    one, two = points(5, (4,)), points(10, (4,))[5:]
    two[:, seen] = one[:, seen]
    weights, centres, covariances = model.conditional(one, seen)
    torch.testing.assert_close(weights.sum(1), torch.ones(5).double())
    law = torch.distributions.MultivariateNormal(centres, covariances)
    ours = [torch.logsumexp(weights.log() + law.log_prob(x[:, ~seen].unsqueeze(1)), dim=1) for x in (one, two)]
    torch.testing.assert_close(ours[0] - ours[1], model.log_prob(one) - model.log_prob(two))
