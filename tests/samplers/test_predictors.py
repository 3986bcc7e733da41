"""Steps down against exact paths, Bayes' rule and each other; and the order in which their errors fall."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.errors import OptionError, SamplingError
from scorefield.exact import Empirical, Gaussian, GaussianMixture
from scorefield.model import Denoiser, NetworkDenoiser
from scorefield.noise import EDM, VE, VP, Flow, Schedule, SubVP, Time
from scorefield.parametrization import X0, Estimate
from scorefield.randomness import Noise, Stream
from scorefield.samplers.grids import karras
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.predictors import Ancestral, Euler, Heun
from scorefield.variational.step import StepVariance, fixed_large, fixed_small, learned_or_small

Mixture = Callable[[Schedule], GaussianMixture]
NONE = Noise(Stream(0, "none"), range(0), 0)


class Constant(Noise):
    """Noise that is one number everywhere, so that a step's coefficient of noise can be read off."""

    def __init__(self, value: float) -> None:
        super().__init__(Stream(0, "constant"), range(0), 0)
        object.__setattr__(self, "value", value)

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return torch.full_like(x, self.value)  # type: ignore[attr-defined]


def between(schedule: Schedule, high: float, low: float, steps: int) -> Tensor:
    """Karras' grid from one σ/α to another."""
    edges = schedule.time_of_sigma(torch.tensor([low, high], dtype=torch.float64)).tolist()
    inner = EDM(low, high)
    times = schedule.time_of_sigma(karras(inner, steps))
    times[0], times[-1] = edges[1], edges[0]
    return times


# -- order of convergence ---------------------------------------------------------------------------------------------


def flow_by_runge_kutta(model: GaussianMixture, x: Tensor, grid: Tensor) -> Tensor:
    """The probability flow dx/dt = f x − ½ g² s by the classical method of fourth order, with the score of log p."""

    def slope(x: Tensor, t: Tensor) -> Tensor:
        level = model.schedule.at(t)
        return level.drift * x - level.diffusion_squared / 2 * model.score(x, t)

    for t, s in itertools.pairwise(grid):
        h = s - t
        a = slope(x, t)
        b = slope(x + h / 2 * a, t + h / 2)
        c = slope(x + h / 2 * b, t + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, s))
    return x


def walk(model: Denoiser, predictor: Predictor, x: Tensor, grid: Tensor) -> Tensor:
    return sample(model, len(x), x.shape[1:], grid, predictor, seed=0, denoise=False, start=x)


def order(model: Denoiser, predictor: Predictor, x: Tensor, truth: Tensor, high: float, low: float) -> float:
    """Minus the slope of log error against log steps, by least squares over four grids that double."""
    counts = torch.tensor([40.0, 80.0, 160.0, 320.0])
    errors = torch.stack(
        [
            (walk(model, predictor, x, between(model.schedule, high, low, int(n) + 1)) - truth).square().mean().sqrt()
            for n in counts
        ]
    )
    a, b = counts.log(), errors.log()
    return float(-((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum())


class LazyHeun:
    """Planted: the second slope is taken where x was, not where Euler's step leads."""

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: None, noise: Noise) -> tuple[Tensor, None]:
        return x + (float(s) - float(t)) / 2 * (model(x, t).velocity + model(x, s).velocity), None


@pytest.mark.parametrize(
    "one", [VP(), VE(0.03, 80.0), EDM(0.03, 80.0), Flow(), SubVP()], ids=["vp", "ve", "edm", "flow", "subvp"]
)
def test_errors_fall_as_theory_says(one: Schedule, mixture: Mixture) -> None:
    model = mixture(one)
    grid = between(one, 10.0, 0.1, 241)
    x = model.sample(64, seed=0, t=grid[0])
    truth = flow_by_runge_kutta(model, x, grid)
    assert order(model, Ancestral(0.0), x, truth, 10.0, 0.1) == pytest.approx(1, abs=0.15)
    assert order(model, Euler(), x, truth, 10.0, 0.1) == pytest.approx(1, abs=0.15)
    assert order(model, Heun(), x, truth, 10.0, 0.1) == pytest.approx(2, abs=0.2)
    assert order(model, LazyHeun(), x, truth, 10.0, 0.1) < 1.5


def test_paths_of_a_gaussian_are_the_known_ones(schedule: Schedule) -> None:
    # Along the flow each principal component keeps its standardised value: (x_t − α μ)/√(α²λ + σ²) stays as it is.
    deviations, mean = torch.tensor([2.0, 0.3], dtype=torch.float64), torch.tensor([1.0, -0.5], dtype=torch.float64)
    model = Gaussian(mean, deviations.square().diag(), schedule)
    grid = between(schedule, 10.0, 0.1, 401)
    x = model.sample(20, seed=0, t=grid[0])
    start, end = schedule.at(grid[0]), schedule.at(grid[-1])
    widths = [torch.hypot(level.alpha * deviations, level.sigma) for level in (start, end)]
    truth = end.alpha * mean + (x - start.alpha * mean) / widths[0] * widths[1]
    assert torch.allclose(flow_by_runge_kutta(model, x, grid), truth, rtol=1e-7, atol=1e-7)
    assert torch.allclose(walk(model, Heun(), x, grid), truth, atol=2e-3)
    assert torch.allclose(walk(model, Ancestral(0.0), x, grid), truth, atol=0.1)


# -- ancestral steps --------------------------------------------------------------------------------------------------


def one_point(schedule: Schedule) -> tuple[Empirical, Tensor]:
    """A model that knows x0: data of one row."""
    x0 = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    return Empirical(x0, schedule), x0


def posterior(schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_s given x_t and x0, by Bayes' rule on a fine grid of x_s, element by element.

    Prior x_s ~ N(α_s x0, σ_s²), likelihood x_t ~ N(r x_s, v), with r and v read off `renoise` at the unit vectors.
    """
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    ratio, deviation = schedule.renoise(one, s, t, zero), schedule.renoise(zero, s, t, one)
    below = schedule.at(s)
    z = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    means, variances = [], []
    for x, clean in zip(x_t.flatten(), x0.flatten(), strict=True):
        x_s = below.alpha * clean + below.sigma * z
        weight = torch.softmax(-(z**2) / 2 - ((x - ratio * x_s) ** 2 / (2 * deviation**2)).flatten(), dim=0)
        mean = weight @ x_s
        means.append(mean)
        variances.append(weight @ (x_s - mean) ** 2)
    return torch.stack(means)[None], torch.stack(variances)[None]


def posterior_gap(predictor: Predictor, schedule: Schedule, sigmas: tuple[float, float]) -> float:
    """How far a step is from the posterior: the difference of mean and deviation, in posterior deviations."""
    model, x0 = one_point(schedule)
    t, s = (schedule.time_of_sigma(sigma) for sigma in sigmas)
    x_t = schedule.add_noise(x0, t, torch.tensor([[1.3, -0.4]], dtype=torch.float64))
    mean, variance = posterior(schedule, x_t, x0, t, s)
    without, _ = predictor(model, x_t, t, s, None, Constant(0.0))
    coefficient = predictor(model, x_t, t, s, None, Constant(1.0))[0] - without
    gaps = torch.stack((without - mean, coefficient - variance.sqrt()))
    return float((gaps / variance.sqrt()).abs().max())


class WithVariance:
    """DDPM's step from a variance of its own; the mean keeps the total noise at σ_s, as in `Ancestral`."""

    def __init__(self, variance: Callable[[Schedule, Tensor, Tensor], Tensor]) -> None:
        self.variance = variance

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: None, noise: Noise) -> tuple[Tensor, None]:
        estimate, below = model(x, t), model.schedule.at(s)
        added = self.variance(model.schedule, t, s)
        rest = (below.sigma**2 - added).clamp(min=0).sqrt()
        return below.alpha * estimate.x0 + rest * estimate.epsilon + added.sqrt() * noise.like(x), None


def beta(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """The variance of x_t given x_s; for DDPM's table and s = t − 1 it is β_t."""
    unit = torch.ones(1, 1, dtype=torch.float64)
    return schedule.renoise(0 * unit, s, t, unit).flatten()[0] ** 2


WRONG_VARIANCES: dict[str, Callable[[Schedule, Tensor, Tensor], Tensor]] = {
    # β̃ = β (1 − ᾱ_{t−1})/(1 − ᾱ_t); printed with ᾱ_t in both places it is β itself.
    "alpha bar of t": beta,
    "upside down": lambda schedule, t, s: beta(schedule, t, s) * (schedule.at(t).sigma / schedule.at(s).sigma) ** 2,
    "not squared": lambda schedule, t, s: beta(schedule, t, s) * schedule.at(s).sigma / schedule.at(t).sigma,
}
STEPS = [(3.0, 2.0), (1.0, 0.5), (0.3, 0.05)]


@pytest.mark.parametrize("sigmas", STEPS)
def test_a_step_with_all_its_noise_is_the_posterior_of_ddpm(schedule: Schedule, sigmas: tuple[float, float]) -> None:
    assert posterior_gap(Ancestral(1.0), schedule, sigmas) < 1e-6
    for name, variance in WRONG_VARIANCES.items():
        assert posterior_gap(WithVariance(variance), schedule, sigmas) > 0.01, name


def test_on_the_table_of_ddpm_a_step_is_the_posterior_too() -> None:
    # Ho et al. 2020, Eq. 6–7, between whole times.
    schedule = Discrete(betas=linear_betas(100, last=0.1))
    model, x0 = one_point(schedule)
    for t in (2.0, 30.0, 100.0):
        now, below = (torch.tensor(v, dtype=torch.float64) for v in (t, t - 1))
        x_t = schedule.add_noise(x0, now, torch.tensor([[1.3, -0.4]], dtype=torch.float64))
        mean, variance = posterior(schedule, x_t, x0, now, below)
        without, _ = Ancestral()(model, x_t, now, below, None, Constant(0.0))
        coefficient = Ancestral()(model, x_t, now, below, None, Constant(1.0))[0] - without
        assert torch.allclose(without, mean, rtol=1e-6)
        assert torch.allclose(coefficient**2, variance, rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sigmas", STEPS)
def test_any_share_of_noise_keeps_the_level(schedule: Schedule, eta: float, sigmas: tuple[float, float]) -> None:
    # If x0 is known, x_t ~ N(α_t x0, σ_t²) must become N(α_s x0, σ_s²): the squared coefficients of the old and the new
    # noise add up to σ_s² (Song et al. 2020, Lemma 1).
    model, x0 = one_point(schedule)
    t, s = (schedule.time_of_sigma(sigma) for sigma in sigmas)
    below = schedule.at(s)

    def step(old: float, new: float) -> Tensor:
        return Ancestral(eta)(model, schedule.add_noise(x0, t, torch.full_like(x0, old)), t, s, None, Constant(new))[0]

    signal, old, new = step(0, 0), step(1, 0) - step(0, 0), step(0, 1) - step(0, 0)
    assert torch.allclose(signal, below.alpha * x0, rtol=1e-9)
    assert torch.allclose(old**2 + new**2, below.sigma.square().expand(1, 2), rtol=1e-8)
    assert (new > 0).all() if eta else torch.equal(new, torch.zeros_like(new))
    # The share of new noise grows with η: its deviation is η times DDPM's.
    full = (
        Ancestral(1.0)(model, x0, t, s, None, Constant(1.0))[0] - Ancestral(1.0)(model, x0, t, s, None, Constant(0))[0]
    )
    assert torch.allclose(new, eta * full, rtol=1e-8, atol=1e-12)


# -- the variance of a step -------------------------------------------------------------------------------------------


class WithShare(Denoiser):
    """A denoiser that learned a variance: the share is a function of t."""

    def __init__(self, truth: Denoiser, share: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.truth, self.schedule, self.sigma_data, self.share = truth, truth.schedule, truth.sigma_data, share

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        estimate = self.truth(x_t, t)
        share = self.share(estimate.level.t).expand_as(x_t)
        return Estimate(estimate.x0, estimate.epsilon, estimate.level, share)


def affine(predictor: Predictor, model: Denoiser, t: Tensor, s: Tensor) -> tuple[float, float]:
    """What one step of a model of N(0, ·) multiplies x with, and how much noise it adds."""
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    kept = predictor(model, one, t, s, None, Constant(0.0))[0]
    return float(kept), float(predictor(model, zero, t, s, None, Constant(1.0))[0])


VARIANCES = {"beta tilde": (fixed_small, 0.0), "beta": (fixed_large, 1.0), "own": (learned_or_small, 0.3)}


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize("sigmas", STEPS)
def test_a_step_adds_the_variance_that_was_chosen_or_learned(
    schedule: Schedule, sigmas: tuple[float, float], name: str
) -> None:
    # Nichol & Dhariwal 2021, Eq. 15: exp(share log β + (1 − share) log β̃), around the mean of DDPM's posterior.
    choice, share = VARIANCES[name]
    model, x0 = one_point(schedule)
    t, s = (schedule.time_of_sigma(sigma) for sigma in sigmas)
    x_t = schedule.add_noise(x0, t, torch.tensor([[1.3, -0.4]], dtype=torch.float64))
    mean, variance = posterior(schedule, x_t, x0, t, s)
    learner = WithShare(model, lambda t: torch.full_like(t, 0.3))
    without = Ancestral(1.0, choice)(learner, x_t, t, s, None, Constant(0.0))[0]
    coefficient = Ancestral(1.0, choice)(learner, x_t, t, s, None, Constant(1.0))[0] - without
    assert torch.allclose(without, mean, rtol=1e-5, atol=1e-7)
    assert torch.allclose(coefficient**2, beta(schedule, t, s) ** share * variance ** (1 - share), rtol=1e-5)
    # η takes its share of that deviation; a model that learned nothing is given β̃.
    half = Ancestral(0.5, choice)
    less = half(learner, x_t, t, s, None, Constant(1.0))[0] - half(learner, x_t, t, s, None, Constant(0.0))[0]
    assert torch.allclose(less, coefficient / 2, rtol=1e-8)
    assert torch.equal(
        *(p(model, x_t, t, s, None, Constant(1.0))[0] for p in (Ancestral(), Ancestral(1.0, fixed_small)))
    )


def end_variance(predictor: Predictor, model: Denoiser, start: float, grid: Tensor) -> float:
    """The variance at the end of the walk of a model of N(0, ·), without a random number: each step is affine."""
    variance = start
    for t, s in itertools.pairwise(grid):
        kept, added = affine(predictor, model, t, s)
        variance = kept**2 * variance + added**2
    return variance


@pytest.mark.parametrize("variance", [fixed_small, fixed_large], ids=["small", "large"])
def test_either_variance_reaches_the_data_as_steps_grow(schedule: Schedule, variance: StepVariance) -> None:
    model = Gaussian(torch.zeros(1), torch.full((1, 1), 0.36, dtype=torch.float64), schedule)
    high, low = (schedule.at(schedule.time_of_sigma(sigma)) for sigma in (10.0, 0.1))
    errors = []
    for steps in (100, 200, 400):
        grid = between(schedule, 10.0, 0.1, steps + 1)
        end = end_variance(Ancestral(1.0, variance), model, float(0.36 * high.alpha**2 + high.sigma**2), grid)
        errors.append(abs(end / float(0.36 * low.alpha**2 + low.sigma**2) - 1))
    assert [math.log2(a / b) for a, b in itertools.pairwise(errors)] == pytest.approx([1, 1], abs=0.2)


def test_with_the_true_variance_three_steps_reach_a_gaussian(schedule: Schedule) -> None:
    # x_s and x_t are jointly normal, so the step backwards is Gaussian however long it is.
    truth = Gaussian(torch.zeros(1), torch.full((1, 1), 0.36, dtype=torch.float64), schedule)
    grid = schedule.time_of_sigma(torch.tensor([10.0, 3.0, 0.8, 0.1], dtype=torch.float64))
    widths = [float(0.36 * level.alpha**2 + level.sigma**2) for level in map(schedule.at, grid)]

    def share(t: Tensor) -> Tensor:
        place = int((grid - t).abs().argmin())
        now, below = grid[place], grid[place + 1]
        cut = Ancestral(1.0, fixed_small), Ancestral(1.0, fixed_large)
        small, large = (affine(predictor, truth, now, below)[1] ** 2 for predictor in cut)
        ratio = schedule.at(now).alpha / schedule.at(below).alpha
        true = widths[place + 1] - (ratio * widths[place + 1]) ** 2 / widths[place]
        return (true.log() - math.log(small)) / (math.log(large) - math.log(small)) * torch.ones_like(t)

    assert end_variance(Ancestral(), WithShare(truth, share), widths[0], grid) == pytest.approx(widths[-1], rel=1e-9)
    assert end_variance(Ancestral(), truth, widths[0], grid) != pytest.approx(widths[-1], rel=1e-2)


def test_a_step_to_clean_data_adds_no_noise() -> None:
    # Ho et al. 2020, Algorithm 2: z = 0 at t = 1, whatever the variance.
    model, x0 = one_point(Discrete(betas=linear_betas(100, last=0.1)))
    t, s = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for predictor in (Ancestral(), Ancestral(1.0, fixed_large)):
        assert torch.allclose(predictor(model, x0 + 1, t, s, None, Constant(9.0))[0], x0)


# -- equivalences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exploding", [EDM(0.01, 40.0), VE(0.01, 40.0)], ids=["edm", "ve"])
def test_ddim_without_signal_decay_is_euler_in_sigma(exploding: Schedule, mixture: Mixture) -> None:
    # With α = 1: dx/dσ = ε̂. Only where time is σ itself is that Euler's step in t.
    model, grid = mixture(exploding), between(exploding, 10.0, 0.05, 20)
    x = model.sample(30, seed=0, t=grid[0])
    in_sigma = x.clone()
    for t, s in itertools.pairwise(grid):
        in_sigma = in_sigma + (exploding.at(s).sigma - exploding.at(t).sigma) * model(in_sigma, t).epsilon
    ddim = walk(model, Ancestral(0.0), x, grid)
    assert torch.allclose(ddim, in_sigma, rtol=1e-11, atol=1e-12)
    euler = walk(model, Euler(), x, grid)
    assert torch.allclose(ddim, euler, rtol=1e-11, atol=1e-12) == isinstance(exploding, EDM)


def test_ddim_on_a_straight_flow_is_euler() -> None:
    # x_s = (1 − s) x̂0 + s ε̂ and x + (s − t)(ε̂ − x̂0) are the same line.
    flow = Flow()
    model, x = Gaussian(torch.ones(2), torch.eye(2), flow), Stream(0, "x").normal(9, (2,), dtype=torch.float64)
    t, s = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    assert torch.allclose(Ancestral(0.0)(model, x, t, s, None, NONE)[0], Euler()(model, x, t, s, None, NONE)[0])


@pytest.mark.parametrize("one", [VP(), SubVP(), Flow()], ids=["vp", "subvp", "flow"])
def test_ddim_makes_the_same_samples_under_any_schedule(one: Schedule, mixture: Mixture) -> None:
    # It depends on levels of σ/α alone, up to the scale of x.
    other = EDM(0.01, 80.0)
    grids = [between(schedule, 10.0, 0.05, 20) for schedule in (one, other)]
    x = mixture(other).sample(30, seed=0, t=grids[1][0])
    ends = [
        walk(mixture(schedule), Ancestral(0.0), schedule.at(grid[0]).alpha * x, grid) / schedule.at(grid[-1]).alpha
        for schedule, grid in zip((one, other), grids, strict=True)
    ]
    assert torch.allclose(*ends, rtol=1e-8, atol=1e-9)


def test_deterministic_steps_ask_for_no_noise(schedule: Schedule, mixture: Mixture) -> None:
    class Refuses(Constant):
        def like(self, x: Tensor, draw: int = 0) -> Tensor:
            raise AssertionError("noise was asked for")

    t, s = (schedule.time_of_sigma(sigma) for sigma in (1.0, 0.5))
    x = Stream(0, "x").normal(5, (2,), dtype=torch.float64)
    for predictor in (Ancestral(0.0), Euler(), Heun()):
        predictor(mixture(schedule), x, t, s, None, Refuses(0.0))
    with pytest.raises(AssertionError, match="noise was asked for"):
        Ancestral(0.1)(mixture(schedule), x, t, s, None, Refuses(0.0))


def test_a_flow_may_start_without_any_signal(mixture: Mixture) -> None:
    # At α = 0 the posterior of x_s is N(α_s x̂0, σ_s²), with x̂0 the mean of the data.
    flow, x = Flow(), torch.ones(3, 2, dtype=torch.float64)
    model, t, s = mixture(flow), torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    mean = model.mean().expand(3, 2)
    assert torch.allclose(Ancestral(1.0)(model, x, t, s, None, Constant(0.0))[0], 0.1 * mean, atol=1e-12)
    noisy = Ancestral(1.0)(model, x, t, s, None, Constant(1.0))[0]
    assert torch.allclose(noisy, 0.1 * mean + 0.9, atol=1e-12)
    for predictor in (Ancestral(0.0), Euler()):
        assert torch.allclose(predictor(model, x, t, s, None, NONE)[0], 0.1 * mean + 0.9 * x, atol=1e-12)
    assert Heun()(model, x, t, s, None, NONE)[0].isfinite().all()


def test_steps_keep_the_type_of_x(schedule: Schedule, mixture: Mixture) -> None:
    t, s = (schedule.time_of_sigma(sigma) for sigma in (1.0, 0.5))
    for predictor in (Ancestral(1.0), Ancestral(0.0), Euler(), Heun()):
        noise = Noise(Stream(0, "noise"), range(4), 0)
        assert predictor(mixture(schedule), torch.ones(4, 2), t, s, None, noise)[0].dtype == torch.float32


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_of_noise_outside_zero_to_one_is_refused(eta: float) -> None:
    with pytest.raises(SamplingError, match=r"eta must lie in \[0, 1\], got"):
        Ancestral(eta)


def test_a_step_to_no_noise_at_all_is_made_where_the_model_knows_that_level() -> None:
    law = Gaussian(torch.tensor([1.0]), torch.tensor([[0.25]]), Flow())
    grid = torch.linspace(1, 0, 41, dtype=torch.float64)
    x = Stream(0, "x").normal(200, (1,), dtype=torch.float64)
    for predictor, error in ((Heun(), 2e-3), (Euler(), 0.05), (Ancestral(eta=0.0), 0.05)):
        drawn = sample(law, 200, (1,), grid, predictor, seed=0, denoise=False, start=x)
        assert float((drawn - (1 + 0.5 * x)).abs().max()) < error  # the flow of a Gaussian keeps each row's place
    network = NetworkDenoiser(torch.nn.Identity(), Flow(), X0, 1.0)
    network.network.forward = lambda x, c_noise, condition: x
    with pytest.raises(OptionError, match="levels with noise only"):
        sample(network, 3, (1,), grid, Heun(), seed=0, denoise=False)


def test_long_steps_to_little_noise_keep_the_digits_of_single_precision() -> None:
    # Caught: ε read off (x − αx0)/σ at the level below, whose rounding is then stretched by the whole step: 3e-3.
    law = Gaussian(torch.zeros(1), torch.ones(1, 1), EDM(0.002, 80.0))
    grid, x = torch.tensor([80.0, 0.002], dtype=torch.float64), 80 * Stream(0, "x").normal(500, (1,))
    single, double = (
        sample(law, 500, (1,), grid, Heun(), seed=0, denoise=False, start=x.to(kind))
        for kind in (torch.float32, torch.float64)
    )
    assert float((single - double).abs().max()) < 1e-4
