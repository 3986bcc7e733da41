"""The variational bound against Bayes' rule, entropies known in closed form, and integers that can be counted.

Where data are Gaussian every term is a polynomial in x0 and ε, so its expectation is a finite sum, free of chance.
Statistical tests are seeded and held to 5 standard errors, a false alarm of 6e-7 for each of about a dozen numbers.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from scorefield.betas import linear_betas, linear_betas_between
from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.exact import Empirical, Gaussian, GaussianMixture
from scorefield.model import Denoiser
from scorefield.noise import EDM, VP, Cosine, Flow, Schedule, SubVP
from scorefield.parametrization import Estimate
from scorefield.randomness import Noise, Stream
from scorefield.samplers import grids
from scorefield.samplers.loop import first_draw
from scorefield.variational.bins import Bins
from scorefield.variational.bound import bound, continuous_bound
from scorefield.variational.step import StepVariance, fixed_large, fixed_small, learned, learned_or_small, step_down
from scorefield.variational.terms import decoder_term, prior_term, step_term

SCHEDULES: dict[str, Schedule] = {
    "vp": VP(t_min=1e-3),
    "subvp": SubVP(t_min=1e-2),
    "cosine": Cosine(),
    "edm": EDM(0.01, 40.0),
    "flow": Flow(),
    "betas": Discrete(betas=linear_betas(100, last=0.1)),
    "sigmas": Discrete(sigmas=tuple(0.01 * 1.5**k for k in range(20))),
}
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def noise(rows: int) -> Noise:
    """What `normals(rows, …, name="noise")` are drawn from."""
    return Noise(Stream(0, "noise"), range(rows), 0)


class Given(Noise):
    """Noise that is written down."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(Stream(0, "given"), range(len(values)), 0)
        object.__setattr__(self, "values", values)

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return self.values.reshape(x.shape).to(x.dtype)  # type: ignore[attr-defined]


class WithShare(Denoiser):
    """A denoiser with a variance of its own: the share is a function of t."""

    def __init__(self, truth: Denoiser, share: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.truth, self.schedule, self.sigma_data, self.share = truth, truth.schedule, truth.sigma_data, share

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        estimate = self.truth(x_t, t)
        share = self.share(estimate.level.t).expand_as(x_t)
        return Estimate(estimate.x0, estimate.epsilon, estimate.level, share)


def line(sigma_data: float, schedule: Schedule) -> Gaussian:
    """N(0, σ_data²) in one dimension."""
    return Gaussian(torch.zeros(1), torch.full((1, 1), sigma_data**2, dtype=torch.float64), schedule)


def nodes(sigma_data: float) -> tuple[Tensor, Noise, Tensor]:
    """x0, ε and weights of the Gauss–Hermite rule for x0 ~ N(0, σ_data²), ε ~ N(0, 1): exact for what is quadratic."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(6))
    pairs, weights = torch.cartesian_prod(z, z), torch.cartesian_prod(w, w).prod(1) / (2 * math.pi)
    return sigma_data * pairs[:, :1], Given(pairs[:, 1:]), weights


def bayes(schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of x_s given x_t and x0, and the variance of x_t given x_s, by multiplying densities."""
    unit = torch.ones_like(x0)
    ratio, beta = schedule.renoise(unit, s, t, 0 * unit), schedule.renoise(0 * unit, s, t, unit) ** 2
    below = schedule.at(s, like=x0)
    variance = 1 / (1 / below.sigma**2 + ratio**2 / beta)
    return variance * (below.alpha * x0 / below.sigma**2 + ratio * x_t / beta), variance, beta


def times(schedule: Schedule, rows: int) -> tuple[Tensor, Tensor]:
    """t and s < t over the range, near and far apart, of which most are no whole numbers."""
    ends = Stream(0, "times").uniform(rows, (2,)).sort(1).values
    low, high = (schedule.at(t).log_snr.clamp(-9, 9) for t in (schedule.t_max, schedule.t_min))
    t, s = schedule.time_of((low + (high - low) * (1 - ends).T).contiguous()).flip(0)
    return t, s


# -- a step -----------------------------------------------------------------------------------------------------------


@each_schedule
def test_the_posterior_is_that_of_bayes(schedule: Schedule) -> None:
    x0, x_t = normals(40, 2, 3), normals(40, 2, 3, name="other")
    t, s = times(schedule, 40)
    mean, variance, beta = bayes(schedule, x_t, x0, t, s)
    step = step_down(schedule, t, s, like=x0)
    assert torch.allclose(step.posterior_mean(x_t, x0), mean, rtol=1e-7, atol=1e-9)
    assert torch.allclose(step.posterior_variance.expand_as(x0), variance, rtol=1e-7)
    assert torch.allclose(step.beta.expand_as(x0), beta, rtol=1e-7)
    # The other pair of β: printed with σ_s and σ_t exchanged it is another number.
    assert not torch.allclose(step.beta.expand_as(x0), variance, rtol=1e-2)


CHOICES: dict[str, tuple[StepVariance, float]] = {
    "beta tilde": (fixed_small, 0.0),
    "beta": (fixed_large, 1.0),
    "learned": (learned, 0.3),
    "own": (learned_or_small, 0.3),
}


@each_schedule
@pytest.mark.parametrize("name", CHOICES)
def test_the_cost_of_a_step_is_the_divergence_of_two_gaussians(name: str, schedule: Schedule) -> None:
    choice, share = CHOICES[name]
    truth = Gaussian(torch.tensor([0.3, -0.2]), torch.tensor([[1.0, 0.6], [0.6, 0.8]]), schedule)
    model = WithShare(truth, lambda t: torch.full_like(t, 0.3))
    x0 = truth.sample(40, seed=0)
    t, s = times(schedule, 40)
    x_t = schedule.add_noise(x0, t, normals(40, 2, name="noise"))
    mean, variance, beta = bayes(schedule, x_t, x0, t, s)
    guess = bayes(schedule, x_t, model(x_t, t).x0, t, s)[0]
    walk = Normal(guess, (variance ** (1 - share) * beta**share).sqrt())
    found = step_term(model, x0, t, s, noise(40), choice)
    assert found.dtype == torch.float64
    assert torch.allclose(found, kl_divergence(Normal(mean, variance.sqrt()), walk), rtol=1e-5, atol=1e-7)
    assert (found >= 0).all()


@each_schedule
def test_single_precision_costs_few_digits_at_any_level(schedule: Schedule) -> None:
    truth = Gaussian(torch.tensor([0.3, -0.2]), torch.tensor([[1.0, 0.6], [0.6, 0.8]]), schedule)
    x0 = truth.sample(40, seed=0).float()
    t, s = times(schedule, 40)
    single, double = (step_term(truth, x, t, s, Given(normals(40, 2, name="noise"))) for x in (x0, x0.double()))
    assert torch.allclose(single, double, rtol=1e-3, atol=1e-4)


def test_the_true_reverse_variance_lies_between_beta_tilde_and_beta() -> None:
    # Of data N(0, σ_data²) with σ_data ≤ 1 and α² + σ² = 1; x_s and x_t are jointly normal. β̃ and β are reached by
    # data without any width and with σ_data = 1 (Ho et al. 2020, §3.2).
    schedule = VP()
    t, s = times(schedule, 40)
    step = step_down(schedule, t, s)
    for sigma_data in (0.0, 0.4, 1.0):
        x_s = (step.below.alpha * sigma_data) ** 2 + step.below.sigma**2
        x_t = (step.now.alpha * sigma_data) ** 2 + step.now.sigma**2
        true = x_s - (step.now.alpha / step.below.alpha * x_s) ** 2 / x_t
        share = (true / step.posterior_variance).log() / (step.beta / step.posterior_variance).log()
        assert torch.allclose(step.variance(share), true, rtol=1e-8)
        if sigma_data == 0.4:
            assert ((share > 0) & (share < 1)).all()
        else:
            assert torch.allclose(share, torch.full_like(share, sigma_data), atol=1e-5)


# -- the first draw and the decoder -----------------------------------------------------------------------------------


@each_schedule
def test_the_prior_is_what_the_walk_starts_from(schedule: Schedule) -> None:
    model, x0 = Gaussian(torch.ones(2), 0.5 * torch.eye(2), schedule), normals(30, 2)
    for t in (schedule.t_min, (schedule.t_min + schedule.t_max) / 2, schedule.t_max):
        level = schedule.at(t)
        start = first_draw(model, range(20_000), (2,), level.t, seed=0, dtype=torch.float64, device="cpu")
        # first_draw is the oracle: its scale is that of the same normals, so it is known to rounding.
        scale = (start / Stream(0, "first draw").normal(20_000, (2,), dtype=torch.float64)).median()
        truth = kl_divergence(Normal(level.alpha * x0, level.sigma), Normal(torch.zeros_like(x0), scale))
        assert torch.allclose(prior_term(model, x0, t), truth, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["vp", "betas"])
def test_a_decoder_of_continuous_data_is_a_density(name: str) -> None:
    schedule = SCHEDULES[name]
    model, x0 = Gaussian(torch.ones(2), 0.5 * torch.eye(2), schedule), normals(30, 2)
    sigma = float(schedule.at(schedule.t_min).sigma)
    x_t = schedule.add_noise(x0, schedule.t_min, normals(30, 2, name="noise"))
    guess = model(x_t, schedule.t_min).x0
    # In a table of β, β̃ at level 1 is that of level 2; elsewhere every choice is σ_t².
    clipped = float(step_down(schedule, 2.0, 1.0).posterior_variance.sqrt()) if name == "betas" else sigma
    for choice, deviation in ((fixed_small, clipped), (fixed_large, sigma)):
        found = decoder_term(model, x0, schedule.t_min, noise(30), choice)
        assert torch.allclose(found, -Normal(guess, deviation).log_prob(x0), rtol=1e-9)


@pytest.mark.parametrize("variance", [1e-4, 1.0, 25.0])
@pytest.mark.parametrize("width", [1e-3, 1.0])
def test_the_logarithm_of_a_bin_is_exact_however_far_in_the_tail(variance: float, width: float) -> None:
    for mean in (0.0, 0.3, -0.3, 7.0, -7.0, 50.0, -50.0):
        with mpmath.workdps(60):
            middle, root = abs(mpmath.mpf(0.1) - mean), mpmath.sqrt(2 * mpmath.mpf(variance))
            left, right = (mpmath.erfc((middle + sign * mpmath.mpf(width) / 2) / root) for sign in (-1, 1))
            exact = float(mpmath.log((left - right) / 2))
        x0, at = (torch.tensor([[v]], dtype=torch.float64) for v in (0.1, mean))
        found = Bins(width).log_mass(x0, at, torch.tensor(variance, dtype=torch.float64).log())
        assert float(found) == pytest.approx(exact, rel=1e-9)


def test_bins_with_ends_hold_all_probability() -> None:
    x0 = torch.arange(-3.0, 4.0, dtype=torch.float64)[:, None] / 2
    for mean in (0.1, -40.0, 1e4):
        for variance in (1e-6, 0.3, 100.0):
            log_variance = torch.tensor(variance, dtype=torch.float64).log()
            at = torch.full_like(x0, mean)
            total = Bins(0.5, -1.5, 1.5).log_mass(x0, at, log_variance).logsumexp(0)
            assert total.abs() < 1e-12
            if abs(mean) > 1 or variance > 1:
                # Without ends some of it lies outside, and with only one.
                assert Bins(0.5).log_mass(x0, at, log_variance).logsumexp(0) < -1e-3


def test_the_slope_of_a_bin_is_exact_in_the_tail_and_at_the_ends() -> None:
    x0 = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    for mean in (0.05, 30.0, -30.0):
        at = torch.full_like(x0, mean, requires_grad=True)
        log_variance = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)

        def mass(m: Tensor, v: Tensor) -> Tensor:
            return Bins(1.0, -1.0, 1.0).log_mass(x0, m, v)

        assert torch.autograd.gradcheck(mass, (at, log_variance), rtol=1e-5)


# -- the bound of a Gaussian, without a random number -----------------------------------------------------------------


def expected_gap(model: Denoiser, sigma_data: float, grid: Tensor, variance: StepVariance) -> float:
    """E bound − E(−log p), in nats, for data N(0, σ_data²)."""
    x0, drawn, weights = nodes(sigma_data)
    terms = [prior_term(model, x0, grid[0])]
    terms += [step_term(model, x0, t, s, drawn, variance) for t, s in pairwise(grid)]
    terms.append(decoder_term(model, x0, grid[-1], drawn, variance))
    return float(weights @ sum(terms)[:, 0]) - math.log(2 * math.pi * math.e * sigma_data**2) / 2


@pytest.mark.parametrize("name", ["vp", "edm", "flow", "cosine"])
@pytest.mark.parametrize("variance", [fixed_small, fixed_large], ids=["small", "large"])
def test_the_gap_closes_as_one_over_the_number_of_steps(name: str, variance: StepVariance) -> None:
    schedule = SCHEDULES[name]
    low = float(schedule.time_of_sigma(1e-3))
    fine = EDM(1e-3, 40.0) if name == "edm" else replace(schedule, t_min=low)  # type: ignore[type-var]
    model = line(0.7, fine)
    gaps = [expected_gap(model, 0.7, grids.geometric(fine, n + 1), variance) for n in (80, 160, 320)]
    assert all(gap > 0 for gap in gaps)
    assert [math.log2(a / b) for a, b in pairwise(gaps)] == pytest.approx([1, 1], abs=0.1)


@pytest.mark.parametrize("name", ["vp", "edm", "cosine"])
def test_with_the_true_reverse_variance_few_steps_are_enough(name: str) -> None:
    # The walk of a Gaussian with its own variance is the process backwards, so that even three steps lose nothing.
    schedule, sigma_data = SCHEDULES[name], 0.7
    truth = line(sigma_data, schedule)
    edges = schedule.time_of_sigma(torch.tensor([30.0, 3.0, 0.2, 0.01], dtype=torch.float64))
    for factor, closed in ((1.0, True), (0.9, False)):

        def share(t: Tensor, factor: float = factor) -> Tensor:
            place = int((edges - t).abs().argmin())
            step = step_down(schedule, edges[place], edges[min(place + 1, 3)])
            x_s = (step.below.alpha * sigma_data) ** 2 + step.below.sigma**2
            x_t = (step.now.alpha * sigma_data) ** 2 + step.now.sigma**2
            true = x_s - (step.now.alpha / step.below.alpha * x_s) ** 2 / x_t
            value = (true / step.posterior_variance).log() / (step.beta / step.posterior_variance).log()
            return (value * factor if place < 3 else torch.ones_like(value)).reshape([1] * t.ndim)

        gap = expected_gap(WithShare(truth, share), sigma_data, edges, learned)
        assert (abs(gap) < 1e-6) == closed, gap
        assert gap > -1e-9
    assert expected_gap(truth, sigma_data, edges, fixed_small) > 1


# -- the bound of a mixture -------------------------------------------------------------------------------------------


def mixture(schedule: Schedule) -> GaussianMixture:
    covariances = torch.stack((torch.eye(2) * 0.09, torch.tensor([[0.25, 0.1], [0.1, 0.2]])))
    return GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[0.9, 0.9], [-0.9, 0.4]]), covariances, schedule)


class Mirrored(Denoiser):
    """Planted: the score of the mixture in a mirror."""

    def __init__(self, truth: GaussianMixture) -> None:
        super().__init__()
        self.truth, self.schedule, self.sigma_data = truth, truth.schedule, truth.sigma_data

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        estimate = self.truth(-x_t, t)
        return Estimate(-estimate.x0, -estimate.epsilon, estimate.level)


def test_the_bound_lies_above_and_comes_near() -> None:
    # H₀: E(bound + log p) ≥ 0 over 2000 rows of the mixture; and with four times the steps the gap is a quarter.
    model = mixture(EDM(1e-3, 40.0))
    x0 = model.sample(2000, seed=1)
    gaps = []
    for steps in (25, 100):
        found = bound(model, x0, grids.geometric(model.schedule, steps + 1), seed=0)
        apart = found.total + model.log_prob(x0)
        gaps.append((float(apart.mean()), float(apart.std()) / math.sqrt(len(x0))))
    assert all(gap > 5 * error for gap, error in gaps)
    ratio = gaps[0][0] / gaps[1][0]
    assert ratio == pytest.approx(4, abs=5 * ratio * math.hypot(*(error / gap for gap, error in gaps)) + 0.4)


@pytest.mark.parametrize("schedule", [VP(t_min=1e-6), EDM(1e-3, 60.0), Flow(t_min=1e-3)], ids=["vp", "edm", "flow"])
def test_the_bound_of_infinitely_many_steps_is_the_density_of_each_row(schedule: Schedule) -> None:
    # H₀: E bound = −log p(x0) where the score is exact, for each of four rows on its own, by 500 draws of the noise.
    # What is left at the ends of the range is below 2e-3. Caught: the score of another distribution.
    model, rows = mixture(schedule), 500
    points = torch.tensor([[0.9, 0.9], [-0.9, 0.4], [0.0, 0.0], [1.5, -0.5]], dtype=torch.float64)
    x0 = points.repeat_interleave(rows, dim=0)

    def worst(denoiser: Denoiser) -> float:
        apart = continuous_bound(denoiser, x0, seed=0, times=50).total + model.log_prob(x0)
        means, errors = apart.reshape(4, rows).mean(1), apart.reshape(4, rows).std(1) / math.sqrt(rows)
        return float(((means.abs() - 2e-3).clamp(min=0) / errors).max())

    assert worst(model) < 5
    assert worst(Mirrored(model)) > 5


def test_the_continuous_bound_is_the_limit_of_the_steps() -> None:
    # H₀: equal means, over the same 1000 rows; 400 steps leave a gap of about 0.02 nats a dimension.
    model = mixture(EDM(0.01, 40.0))
    x0 = model.sample(1000, seed=1)
    many = bound(model, x0, grids.geometric(model.schedule, 401), seed=0)
    limit = continuous_bound(model, x0, seed=0)
    apart = many.total - limit.total
    error = float(apart.std()) / math.sqrt(len(x0))
    assert -5 * error < float(apart.mean()) < 0.1 + 5 * error


# -- integers ---------------------------------------------------------------------------------------------------------


def binomial() -> tuple[Empirical, Tensor, float]:
    """A model of heads in four tosses, less two; every outcome of the tosses once; and the entropy."""
    chances = torch.tensor([1, 4, 6, 4, 1], dtype=torch.float64) / 16
    data = torch.arange(-2.0, 3.0).double().repeat_interleave((16 * chances).long())[:, None]
    schedule = Discrete(betas=linear_betas_between(0.1, 15.0, 200))
    return Empirical(data, schedule), data, float(-(chances * chances.log()).sum())


def test_the_bound_of_integers_lies_above_their_entropy() -> None:
    # H₀: H ≤ E bound < H + 0.15, where H is 2.03 bits for four tosses; 3200 rows. Caught: every sixth step forgotten,
    # and a model of other integers, all of them equally likely.
    model, data, entropy = binomial()
    x0, grid = data.repeat(200, 1), grids.levels(model.schedule, 200)
    found = bound(model, x0, grid, seed=0, bins=Bins(1.0, -2.0, 2.0))

    def apart(total: Tensor) -> tuple[float, float]:
        return float(total.mean()) - entropy, 5 * float(total.std()) / math.sqrt(len(x0))

    gap, error = apart(found.total)
    assert -error < gap < 0.15 + error
    assert torch.allclose(found.bits_per_dim, found.total / math.log(2))
    gap, error = apart(found.total - found.steps[::6].sum(0))
    assert gap < -error
    other = Empirical(torch.arange(-2.0, 3.0)[:, None], model.schedule)
    gap, error = apart(bound(other, x0, grid, seed=0, bins=Bins(1.0, -2.0, 2.0)).total)
    assert gap > 0.15 + error


def test_the_decoder_gives_all_integers_together_probability_one() -> None:
    model, _, _ = binomial()
    level = model.schedule.at(1.0)
    x0 = torch.arange(-2.0, 3.0, dtype=torch.float64)[:, None]
    for x_t in (-2.3, 0.4, 0.5, 9.0):
        # The same x_t for each value that it might have come from.
        epsilon = (x_t - level.alpha * x0) / level.sigma
        for choice in (fixed_small, fixed_large):
            terms = decoder_term(model, x0, 1.0, Given(epsilon), choice, Bins(1.0, -2.0, 2.0))
            assert float((-terms).exp().sum()) == pytest.approx(1, abs=1e-9)


# -- the result -------------------------------------------------------------------------------------------------------


def test_the_parts_are_the_terms_and_a_row_is_its_own() -> None:
    model = mixture(VP(t_min=1e-3))
    x0, grid = model.sample(7, seed=1), grids.uniform(model.schedule, 5)
    found = bound(model, x0, grid, seed=3)
    drawn = [Noise(Stream(3, "variational bound"), range(7), place) for place in range(5)]
    steps = [step_term(model, x0, t, s, z).sum(1) for (t, s), z in zip(pairwise(grid), drawn, strict=False)]
    parts = (prior_term(model, x0, grid[0]).sum(1), torch.stack(steps), decoder_term(model, x0, grid[-1], drawn[4]))
    assert torch.allclose(found.prior, parts[0])
    assert torch.allclose(found.steps, parts[1])
    assert torch.allclose(found.decoder, parts[2].sum(1))
    assert torch.allclose(found.total, parts[0] + parts[1].sum(0) + parts[2].sum(1))
    for part in (bound(model, x0[2:4], grid, seed=3, rows=range(2, 4)), bound(model, x0, grid, seed=3)):
        assert torch.allclose(part.total, found.total[2:4] if len(part.total) == 2 else found.total, rtol=1e-12)
    limit, alone = (
        continuous_bound(model, x, seed=3, rows=rows, times=9) for x, rows in ((x0, range(7)), (x0[5:6], range(5, 6)))
    )
    assert limit.steps.shape == (9, 7)
    assert torch.allclose(limit.total[5:6], alone.total, rtol=1e-12)


def test_more_draws_are_averaged_and_tell_the_error() -> None:
    model = mixture(VP(t_min=1e-3))
    x0, grid = model.sample(200, seed=1), grids.uniform(model.schedule, 5)
    for call in (
        lambda draws: bound(model, x0, grid, seed=3, draws=draws),
        lambda draws: continuous_bound(model, x0, seed=3, times=5, draws=draws),
    ):
        one, two, many = (call(draws) for draws in (1, 2, 40))
        assert one.std_error.isnan().all()
        second = 2 * two.total - one.total
        assert torch.allclose(two.std_error, (second - one.total).abs() / 2)
        # H₀: one.total is a draw whose mean and error are known from many: z has variance 1 over 200 rows, its mean
        # square a standard error of √(2/200) = 0.1, or 0.12 with the tails of totals. Caught: an error without its √40.
        z = (one.total - many.total) / (many.std_error * math.sqrt(40))
        assert float(z.square().mean()) == pytest.approx(1, abs=0.6)


def test_a_row_of_any_shape_and_type() -> None:
    model = Empirical(normals(9, 2, 3, 4), VP(t_min=1e-2))
    for dtype in (torch.float32, torch.float64):
        found = bound(model, normals(5, 2, 3, 4, name="y").to(dtype), grids.uniform(model.schedule, 4), seed=0)
        assert (found.total.shape, found.total.dtype, found.elements) == ((5,), torch.float64, 24)


# -- faults -----------------------------------------------------------------------------------------------------------

MODEL = mixture(VP(t_min=1e-3))
GRID = grids.uniform(MODEL.schedule, 4)
X0 = MODEL.sample(3, seed=0)
FAULTS: dict[str, tuple[str, Callable[[], object]]] = {
    "grid that rises": ("falls from its first", lambda: bound(MODEL, X0, GRID.flip(0), seed=0)),
    "grid of nothing": ("falls from its first", lambda: bound(MODEL, X0, GRID[:0], seed=0)),
    "end without noise": (
        "needs noise, t = 0 has none",
        lambda: bound(mixture(SCHEDULES["betas"]), X0, torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64), seed=0),
    ),
    "no rows": ("got 0 for 0", lambda: bound(MODEL, X0[:0], GRID, seed=0)),
    "other rows": ("got 2 for 3", lambda: bound(MODEL, X0, GRID, seed=0, rows=range(2))),
    "no draws": ("at least 1, got 0", lambda: bound(MODEL, X0, GRID, seed=0, draws=0)),
    "no times": ("at least 1, got 0", lambda: continuous_bound(MODEL, X0, seed=0, times=0)),
    "upward": ("goes down to a level with noise", lambda: step_term(MODEL, X0, GRID[1], GRID[0], noise(3))),
    "learned": ("learns no variance", lambda: bound(MODEL, X0, GRID, seed=0, variance=learned)),
    "bits": ("bits per dimension are of integers", lambda: bound(MODEL, X0, GRID, seed=0).bits_per_dim),
    "no width": ("must be positive and finite, got 0", lambda: Bins(0.0)),
    "endless": ("must be positive and finite, got nan", lambda: Bins(math.nan)),
    "empty range": ("low < high, got 1.0 and -1.0", lambda: Bins(0.1, 1.0, -1.0)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_use_is_refused(name: str) -> None:
    words, call = FAULTS[name]
    with pytest.raises(OptionError, match=words):
        call()
