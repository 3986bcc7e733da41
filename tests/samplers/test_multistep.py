"""Multistep solvers against exact paths, each other and the papers' own equations; and the orders of their errors."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.exact import Empirical, Gaussian, GaussianMixture
from scorefield.model import Denoiser
from scorefield.noise import EDM, VE, VP, Flow, Schedule, Time
from scorefield.parametrization import Estimate
from scorefield.randomness import Noise, Stream
from scorefield.samplers import presets
from scorefield.samplers.grids import geometric, karras, uniform
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.multistep import (
    DPMSolver2M,
    ExponentialAdams,
    Memory,
    UniPC,
    exact_weights,
    midpoint_weights,
)
from scorefield.samplers.predictors import Ancestral

Mixture = Callable[[Schedule], GaussianMixture]
HIGH, LOW = 10.0, 0.1  # σ/α of the ends
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "ve": VE(0.01, 100.0), "edm": EDM(0.01, 100.0), "flow": Flow()}
SOLVERS: dict[str, Predictor] = {
    **{f"adams {order}": ExponentialAdams(order) for order in (1, 2, 3, 4)},
    "2m": DPMSolver2M(),
    **{f"unipc {order}": UniPC(order) for order in (1, 2, 3)},
}
NOISY: dict[str, Predictor] = {
    "2m sde": DPMSolver2M(1.0),
    "half 2m sde": DPMSolver2M(0.5),
    "3m sde": ExponentialAdams(3, 1.0),
}
PRESETS = (
    presets.dpmpp_2m,
    presets.dpmpp_2m_sde,
    presets.dpmpp_3m,
    presets.dpmpp_3m_sde,
    presets.unipc,
    presets.exponential_adams,
)


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


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1e-12, 1e-6, 2e-3, 0.1, 0.999, 1.001, 3.0, 20.0])
@pytest.mark.parametrize("nodes", [[1.0], [1.0, 1.5], [1.0, 1.7, 2.1], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.5]])
def test_weights_integrate_polynomials_exactly(length: float, nodes: list[float]) -> None:
    # Against Gauss and Legendre's rule with 60 nodes, for powers of v/length below the number of nodes.
    at, rule = np.polynomial.legendre.leggauss(60)
    u = (at + 1) / 2
    weights = exact_weights([node * length for node in nodes], length)
    for power in range(len(nodes)):
        truth = length / 2 * float(rule @ (np.exp(-length * u) * u**power))
        assert sum(w * node**power for w, node in zip(weights, nodes, strict=True)) == pytest.approx(truth, rel=1e-11)


def test_weights_over_an_infinite_step_are_all_of_the_estimate() -> None:
    assert exact_weights([math.inf], math.inf) == [1.0]
    assert midpoint_weights([math.inf], math.inf) == [1.0]


def test_midpoint_weights_are_near_the_exact_ones_to_third_order() -> None:
    gaps = [abs(exact_weights([h, 2 * h], h)[1] - midpoint_weights([h, 2 * h], h)[1]) for h in (0.2, 0.1, 0.05, 0.025)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(gaps)]
    # The weights of one node differ by O(h²); what counts is that times a difference of x̂0, which is another h.
    assert slopes[-1] == pytest.approx(2, abs=0.1)
    assert sum(exact_weights([0.3, 0.7], 0.3)) == pytest.approx(sum(midpoint_weights([0.3, 0.7], 0.3)), rel=1e-14)


# -- order of convergence ---------------------------------------------------------------------------------------------


def graded(schedule: Schedule, steps: int) -> Tensor:
    """Levels from HIGH to LOW that are close at first: λ = λ₀ + (λ₁ − λ₀)(2u² − u³), u even.

    The first steps of a solver of order k, which are of lower order, are then of length 1/n², and their errors of order
    four, too. No two steps are alike, so that the ratios of steps are tried.
    """
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    first, last = -math.log(HIGH), -math.log(LOW)
    return schedule.time_of(2 * (first + (last - first) * (2 * u**2 - u**3)))


@pytest.fixture(scope="module")
def path() -> Callable[[Mixture], tuple[Tensor, Tensor]]:
    """Both ends of exact paths of y = x/α, the same for all schedules: dy/d log ς = −ς² ∇ log p, ς = σ/α.

    By the classical method of Runge and Kutta with 400 steps, with the score of log p; 800 move it by less than 1e-9.
    """
    kept: list[tuple[Tensor, Tensor]] = []

    def ends(mixture: Mixture) -> tuple[Tensor, Tensor]:
        if not kept:
            model = mixture(EDM(LOW, HIGH))
            start = model.sample(48, seed=0, t=HIGH)
            kept.append((start, by_runge_kutta(model, start, 400)))
        return kept[0]

    return ends


def by_runge_kutta(model: GaussianMixture, y: Tensor, steps: int) -> Tensor:
    def slope(y: Tensor, log_sigma: float) -> Tensor:
        return -math.exp(2 * log_sigma) * model.score(y, math.exp(log_sigma))

    h = (math.log(LOW) - math.log(HIGH)) / steps
    for i in range(steps):
        at = math.log(HIGH) + i * h
        a = slope(y, at)
        b = slope(y + h / 2 * a, at + h / 2)
        c = slope(y + h / 2 * b, at + h / 2)
        y = y + h / 6 * (a + 2 * b + 2 * c + slope(y + h * c, at + h))
    return y


def errors(model: Denoiser, predictor: Predictor, ends: tuple[Tensor, Tensor], counts: Sequence[int]) -> list[float]:
    """Root mean square distance of x/α from the exact end."""
    found = []
    for count in counts:
        grid = graded(model.schedule, count)
        x = walk(model, predictor, ends[0] * model.schedule.at(grid[0]).alpha, grid)
        found.append(float((x / model.schedule.at(grid[-1]).alpha - ends[1]).square().mean().sqrt()))
    return found


COUNTS = (160, 320)  # below these the solvers of fourth order are not yet at theirs


def order(found: Sequence[float]) -> float:
    """Minus the slope of log error against log steps."""
    return math.log(found[0] / found[1]) / math.log(COUNTS[1] / COUNTS[0])


@dataclass(frozen=True)
class Published:
    """Planted: 3M as it is printed in code, with half the weight of the quadratic term."""

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        now, below = model.schedule.at(t), model.schedule.at(s)
        here, there = float(now.log_snr) / 2, float(below.log_snr) / 2
        h, m0 = there - here, model(x, t).x0
        x = below.sigma / now.sigma * x - below.alpha * math.expm1(-h) * m0
        at, past = memory or Memory((), ())
        phi2 = math.expm1(-h) / h + 1
        phi3 = phi2 / h - 0.5
        if len(past) == 1:
            x = x + below.alpha * phi2 * (m0 - past[0]) * h / (here - at[0])
        if len(past) == 2:
            r0, r1 = (here - at[0]) / h, (at[0] - at[1]) / h
            first, second = (m0 - past[0]) / r0, (past[0] - past[1]) / r1
            d1 = first + (first - second) * r0 / (r0 + r1)
            x = x + below.alpha * (phi2 * d1 - phi3 * (first - second) / (r0 + r1))
        return x, Memory((here, *at)[:2], (m0, *past)[:2])


@dataclass(frozen=True)
class Unaware:
    """Planted: a solver that takes every step for as long as the one before."""

    solver: ExponentialAdams

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        here, there = (float(model.schedule.at(at).log_snr) / 2 for at in (t, s))
        even = memory and Memory(tuple(here - (i + 1) * (there - here) for i in range(len(memory.x0))), memory.x0)
        return self.solver(model, x, t, s, even, noise)


ORDERS = {
    "adams 1": 1, "adams 2": 2, "adams 3": 3, "adams 4": 4, "2m": 2, "unipc 1": 2, "unipc 2": 3, "unipc 3": 4,
}  # fmt: skip


def test_errors_fall_as_theory_says(schedule: Schedule, mixture: Mixture, path: Callable) -> None:
    model, ends = mixture(schedule), path(mixture)
    for name, expected in ORDERS.items():
        found = errors(model, SOLVERS[name], ends, COUNTS)
        assert order(found) == pytest.approx(expected, abs=0.25), name


def test_planted_faults_lose_their_order(mixture: Mixture, path: Callable) -> None:
    model, ends = mixture(EDM(0.01, 100.0)), path(mixture)
    assert order(errors(model, Published(), ends, COUNTS)) < 2.2
    # Neighbouring steps of a smooth grid differ by O(h²), which a second order forgives and higher ones do not.
    assert order(errors(model, Unaware(ExponentialAdams(3)), ends, COUNTS)) < 2.6
    assert order(errors(model, Unaware(ExponentialAdams(4)), ends, COUNTS)) < 2.2


def test_the_exact_end_is_exact(mixture: Mixture, path: Callable) -> None:
    start, end = path(mixture)
    assert float((by_runge_kutta(mixture(EDM(LOW, HIGH)), start, 800) - end).abs().max()) < 1e-9


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_sees_a_schedule_only_as_a_scale(name: str, mixture: Mixture) -> None:
    # In x/α and λ there is one flow: the same levels give the same numbers under any schedule.
    ends = {}
    for key, schedule in SCHEDULES.items():
        model, grid = mixture(schedule), graded(schedule, 12)
        start = mixture(EDM(LOW, HIGH)).sample(8, seed=1, t=HIGH)
        ends[key] = walk(model, SOLVERS[name], start * schedule.at(grid[0]).alpha, grid) / schedule.at(grid[-1]).alpha
    for end in ends.values():
        assert torch.allclose(end, ends["edm"], rtol=1e-8, atol=1e-8)


# -- known paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_with_data_of_one_point_any_steps_are_exact(schedule: Schedule, name: str) -> None:
    # x̂0 is constant, so that ε stays as it was: from a flow's very beginning, too, and to clean data.
    x0 = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    model, epsilon = Empirical(x0, schedule), torch.tensor([[1.3, -0.4]], dtype=torch.float64)
    grid = uniform(schedule, 5)
    x = walk(model, SOLVERS[name], schedule.add_noise(x0, grid[0], epsilon), grid)
    assert torch.allclose(x, schedule.add_noise(x0, grid[-1], epsilon), rtol=1e-8, atol=1e-9)


def test_paths_of_a_gaussian_are_the_known_ones(schedule: Schedule) -> None:
    # (x_t − α μ)/√(α²λ + σ²) of each principal component stays as it is.
    deviations, mean = torch.tensor([2.0, 0.3], dtype=torch.float64), torch.tensor([1.0, -0.5], dtype=torch.float64)
    model, grid = Gaussian(mean, deviations.square().diag(), schedule), graded(schedule, 100)
    x = model.sample(20, seed=0, t=grid[0])
    start, end = schedule.at(grid[0]), schedule.at(grid[-1])
    widths = [torch.hypot(level.alpha * deviations, level.sigma) for level in (start, end)]
    truth = end.alpha * mean + (x - start.alpha * mean) / widths[0] * widths[1]
    for name, bound in {"adams 1": 0.1, "2m": 5e-3, "adams 3": 5e-4, "adams 4": 5e-5, "unipc 3": 5e-5}.items():
        assert torch.allclose(walk(model, SOLVERS[name], x, grid), truth, rtol=0, atol=bound), name


@pytest.mark.parametrize("name", SOLVERS)
def test_a_flow_is_followed_from_where_there_is_no_signal(name: str, mixture: Mixture) -> None:
    # At t = 1 λ is −∞; dx/dt = E[ε] − E[x0] is finite there, and Heun on it with small steps is the truth.
    model, low = mixture(Flow()), 0.2
    start = Stream(0, "ends").normal(32, (2,), dtype=torch.float64)
    truth = start
    for t, s in itertools.pairwise(torch.linspace(1, low, 401, dtype=torch.float64)):
        d = model(truth, t).velocity
        truth = truth + (s - t) / 2 * (d + model(truth + (s - t) * d, s).velocity)
    gaps = []
    for steps in (21, 41):
        x = walk(model, SOLVERS[name], start, torch.linspace(1, low, steps, dtype=torch.float64))
        gaps.append(float((x - truth).square().mean().sqrt()))
    assert gaps[1] < (0.06 if name == "adams 1" else 0.01)
    assert gaps[1] < gaps[0] / 1.7


class Watched(Denoiser):
    """A model that remembers what it said."""

    def __init__(self, truth: Denoiser) -> None:
        super().__init__()
        self.truth, self.schedule, self.sigma_data = truth, truth.schedule, truth.sigma_data
        self.said: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        estimate = self.truth(x_t, t)
        self.said.append(estimate.x0)
        return estimate


@pytest.mark.parametrize("name", [*SOLVERS, *NOISY])
def test_a_step_to_clean_data_is_the_estimate(name: str, mixture: Mixture) -> None:
    model = Watched(mixture(EDM(0.01, 100.0)))
    grid = torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    start = torch.ones(2, 2, dtype=torch.float64)
    assert torch.equal(walk(model, {**SOLVERS, **NOISY}[name], start, grid), model.said[-1])
    assert len(model.said) == 3


# -- equivalences -----------------------------------------------------------------------------------------------------


def test_order_one_is_ddim_and_with_noise_ddpm(schedule: Schedule, mixture: Mixture) -> None:
    model, start = mixture(schedule), Stream(0, "start").normal(16, (2,), dtype=torch.float64)
    for grid in (geometric(schedule, 9), uniform(schedule, 9)):
        x = start * schedule.at(grid[0]).sigma
        ddim, ddpm = (walk(model, Ancestral(eta), x, grid) for eta in (0.0, 1.0))
        assert torch.allclose(walk(model, ExponentialAdams(1), x, grid), ddim, rtol=1e-9, atol=1e-11)
        assert torch.allclose(walk(model, ExponentialAdams(1, 1.0), x, grid), ddpm, rtol=1e-8, atol=1e-9)
        # The first step of every solver is of order one.
        one = walk(model, Ancestral(0.0), x, grid[:2])
        for predictor in SOLVERS.values():
            assert torch.allclose(walk(model, predictor, x, grid[:2]), one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", [DPMSolver2M, lambda eta=0.0: ExponentialAdams(3, eta)], ids=["2m", "3m"])
def test_without_noise_the_sde_is_the_ode(make: Callable[..., Predictor], mixture: Mixture) -> None:
    # With η = 0 no noise is drawn; with a little the law is near: noise of deviation √(2ηh) and drift of order η.
    model, grid = mixture(VP()), graded(VP(), 10)
    x, memory = model.sample(6, seed=0, t=grid[0]), None
    start = x
    for t, s in itertools.pairwise(grid):
        x, memory = make(0.0)(model, x, t, s, memory, Silent())
    assert torch.equal(x, walk(model, make(), start, grid))
    assert torch.allclose(walk(model, make(1e-14), start, grid), x, rtol=0, atol=1e-5)
    assert not torch.allclose(walk(model, make(1e-2), start, grid), x, rtol=0, atol=1e-3)


def test_2m_is_algorithm_2_of_its_paper(schedule: Schedule, mixture: Mixture) -> None:
    # Lu et al. 2022 (arXiv:2211.01095): D = (1 + 1/2r) x̂0 − (1/2r) x̂0′, x_s = (σ_s/σ_t) x − α_s (e^{−h} − 1) D.
    model, grid = mixture(schedule), graded(schedule, 12)
    x = start = model.sample(8, seed=0, t=grid[0])
    lambdas = (schedule.at(grid).log_snr / 2).tolist()
    before: Tensor | None = None
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        h, estimate, direction = lambdas[i + 1] - lambdas[i], model(x, t).x0, model(x, t).x0
        if before is not None:
            r = (lambdas[i] - lambdas[i - 1]) / h
            direction = (1 + 1 / (2 * r)) * estimate - 1 / (2 * r) * before
        now, below, before = schedule.at(t), schedule.at(s), estimate
        x = below.sigma / now.sigma * x - below.alpha * math.expm1(-h) * direction
    assert torch.allclose(walk(model, DPMSolver2M(), start, grid), x, rtol=1e-9, atol=1e-10)


def unipc_by_its_linear_system(model: Denoiser, x: Tensor, grid: Tensor, p: int) -> Tensor:
    """UniPC as Zhao et al. 2023 write it for x̂0 and B(h) = e^h − 1: R_p(h) a_p B(h) = φ_p(h), and ½ for one unknown."""
    schedule = model.schedule
    lambdas = (schedule.at(grid).log_snr / 2).tolist()
    estimates, corrected = [model(x, grid[0]).x0], x
    for i in range(1, len(grid)):
        q = min(p, i)
        now, below = schedule.at(grid[i - 1]), schedule.at(grid[i])
        h = lambdas[i] - lambdas[i - 1]
        base = below.sigma / now.sigma * corrected - below.alpha * math.expm1(-h) * estimates[-1]
        b_of_h = math.expm1(-h)

        def solve(r: list[float], h: float = h, b_of_h: float = b_of_h) -> list[float]:
            if len(r) == 1:
                return [0.5]
            # R's row k and its side k! h φ_{k+1}/B, with φ_1(z) = (e^z − 1)/z, φ_{k+1} = (φ_k − 1/k!)/z at z = −h.
            phi, sides = math.expm1(-h) / -h, []
            for k in range(1, len(r) + 1):
                phi = (phi - 1 / math.factorial(k)) / -h
                sides.append(math.factorial(k) * -h * phi / b_of_h)
            matrix = torch.tensor([[ratio**k for ratio in r] for k in range(len(r))], dtype=torch.float64)
            return torch.linalg.solve(matrix, torch.tensor(sides, dtype=torch.float64)).tolist()

        ratios = [(lambdas[i - 1 - k] - lambdas[i - 1]) / h for k in range(1, q)]
        slopes = [(estimates[-1 - k] - estimates[-1]) / ratio for k, ratio in enumerate(ratios, start=1)]
        x = base
        if q > 1:
            for a, slope in zip(solve(ratios), slopes, strict=True):
                x = x - below.alpha * b_of_h * a * slope
        if i + 1 == len(grid):
            return x
        new = model(x, grid[i]).x0
        corrected = base
        for a, slope in zip(solve([*ratios, 1.0]), [*slopes, new - estimates[-1]], strict=True):
            corrected = corrected - below.alpha * b_of_h * a * slope
        estimates.append(new)
    raise AssertionError("a grid needs two levels")


@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc_solves_the_linear_system_of_its_paper(schedule: Schedule, p: int, mixture: Mixture) -> None:
    model, grid = mixture(schedule), graded(schedule, 12)
    start = model.sample(8, seed=0, t=grid[0])
    expected = unipc_by_its_linear_system(model, start, grid, p)
    assert torch.allclose(walk(model, UniPC(p), start, grid), expected, rtol=1e-7, atol=1e-8)


def test_what_a_corrector_moved_is_kept_by_unipc(mixture: Mixture) -> None:
    # Another x at t, with the model saying the same of it, ends apart by (σ_s/σ_t) times as much.
    class Deaf(Denoiser):
        schedule, sigma_data = EDM(0.01, 100.0), 1.0

        def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
            level = self.schedule.at(t, like=x_t)
            return Estimate(torch.full_like(x_t, math.sin(float(t))), torch.zeros_like(x_t), level)

    t, s = (torch.tensor(v, dtype=torch.float64) for v in (2.0, 1.0))
    memory = Memory((-math.log(3.0),), (torch.ones(1, 1, dtype=torch.float64),))
    x = torch.ones(1, 1, dtype=torch.float64)
    ends = [UniPC()(Deaf(), at, t, s, memory, Silent())[0] for at in (x, x + 0.4)]
    assert float(ends[1] - ends[0]) == pytest.approx(0.2, rel=1e-12)


# -- walks with noise -------------------------------------------------------------------------------------------------


class Impulse(Noise):
    """Noise 1 in one row at one step and 0 elsewhere: row i + 1 shows what the noise of step i becomes."""

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        assert draw == 0
        z = torch.zeros_like(x)
        z[self.step + 1] = 1
        return z


def variance_error(predictor: Predictor, schedule: Schedule, steps: int) -> float:
    """The relative error of the variance at the end for data N(0, 0.5²), without sampling error.

    On a Gaussian a step is linear in x and the noise, so that the end is the sum of answers to start and noises.
    """
    model, grid = Gaussian(torch.zeros(1), 0.25 * torch.eye(1), schedule), graded(schedule, steps)
    x, memory = torch.zeros(steps + 1, 1, dtype=torch.float64), None
    first, last = schedule.at(grid[0]), schedule.at(grid[-1])
    x[0] = torch.hypot(first.alpha * 0.5, first.sigma)
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        x, memory = predictor(model, x, t, s, memory, Impulse(Stream(0, "impulse"), range(steps + 1), i))
    truth = (0.5 * last.alpha) ** 2 + last.sigma**2
    return float(x.square().sum() / truth - 1)


@pytest.mark.parametrize("name", NOISY)
def test_with_memory_the_variance_of_a_walk_with_noise_is_reached_to_second_order(
    schedule: Schedule, name: str
) -> None:
    found = [abs(variance_error(NOISY[name], schedule, count)) for count in (80, 160)]
    assert math.log2(found[0] / found[1]) == pytest.approx(2, abs=0.3)
    assert found[-1] < 3e-4
    # Without memory, as DDPM, to first.
    found = [abs(variance_error(ExponentialAdams(1, 1.0), schedule, count)) for count in (80, 160)]
    assert math.log2(found[0] / found[1]) == pytest.approx(1, abs=0.1)
    assert found[-1] > 0.03


@dataclass(frozen=True)
class Loud:
    """Planted: noise σ_s √(1 − e^{−ηh}), with the 2 in the exponent forgotten."""

    eta: float = 1.0

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        solver = DPMSolver2M(self.eta)
        end, memory_after = solver(model, x, t, s, memory, noise)
        h = float(model.schedule.at(s).log_snr - model.schedule.at(t).log_snr) / 2
        right, wrong = (math.sqrt(-math.expm1(-k * self.eta * h)) for k in (2, 1))
        return end + float(model.schedule.at(s).sigma) * (wrong - right) * noise.like(x), memory_after


@pytest.mark.parametrize("name", NOISY)
def test_walks_with_noise_reach_the_mixture(name: str, mixture: Mixture, misfit: Callable[..., float]) -> None:
    # H₀, threshold and false-alarm rate are those of `misfit`; the next test plants what it catches.
    schedule = VP()
    model, grid = mixture(schedule), graded(schedule, 60)
    start = model.sample(8000, seed=3, t=grid[0])
    assert misfit(walk(model, NOISY[name], start, grid), schedule, grid[-1]) < 1


def test_forgotten_noise_is_seen(mixture: Mixture, misfit: Callable[..., float]) -> None:
    schedule = VP()
    model, grid = mixture(schedule), graded(schedule, 60)
    start = model.sample(8000, seed=3, t=grid[0])
    assert misfit(walk(model, Loud(), start, grid), schedule, grid[-1]) > 1
    assert abs(variance_error(Loud(), schedule, 160)) > 0.1


# -- memory, rows and cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SOLVERS, *NOISY])
def test_row_i_is_the_same_to_the_bit_whatever_is_drawn_with_it(name: str, mixture: Mixture) -> None:
    schedule, predictor = VP(), {**SOLVERS, **NOISY}[name]
    model, grid = mixture(schedule), karras(schedule, 8)

    def rows(which: range) -> Tensor:
        return sample(model, which, (2,), grid, predictor, seed=3, dtype=torch.float64)

    whole = rows(range(50))
    assert torch.equal(torch.cat([rows(range(a, b)) for a, b in itertools.pairwise((0, 1, 17, 50))]), whole)


class Counting(Gaussian):
    """Standard normal data, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2), torch.eye(2), EDM(0.1, 10.0))
        self.calls = 0

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        self.calls += 1
        return super().forward(x_t, t)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_model_is_asked_once_a_step(preset: Callable[..., presets.Sampler]) -> None:
    model = Counting()
    preset(9)(model, 3, (2,), seed=0)
    assert model.calls == 8 + 1  # and Tweedie
    assert presets.SAMPLERS[preset().name]() == preset()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_walk_that_went_up_forgets(name: str, mixture: Mixture) -> None:
    model, start = mixture(EDM(0.01, 100.0)), torch.ones(2, 2, dtype=torch.float64)
    t, s, low = (torch.tensor(v, dtype=torch.float64) for v in (2.0, 1.0, 0.5))
    _, memory = SOLVERS[name](model, start, s, low, None, Silent())
    fresh, _ = SOLVERS[name](model, start, t, s, None, Silent())
    assert torch.equal(SOLVERS[name](model, start, t, s, memory, Silent())[0], fresh)


@pytest.mark.parametrize("name", SOLVERS)
def test_x_is_left_as_it_was(name: str, mixture: Mixture) -> None:
    model, grid = mixture(EDM(0.01, 100.0)), torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    x, memory = torch.ones(2, 2, dtype=torch.float64), None
    for t, s in itertools.pairwise(grid):
        before = x.clone()
        new, memory = SOLVERS[name](model, x, t, s, memory, Silent())
        assert torch.equal(x, before)
        x = new


def test_a_walk_in_single_precision_keeps_its_type(mixture: Mixture) -> None:
    model, grid = mixture(VP()), karras(VP(), 8)
    for predictor in (*SOLVERS.values(), *NOISY.values()):
        single, double = (
            sample(model, 4, (2,), grid, predictor, seed=0, dtype=kind) for kind in (torch.float32, torch.float64)
        )
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), double, rtol=1e-3, atol=1e-3)


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 5, -1, 2.0, True])
def test_a_wrong_order_is_refused(bad: object) -> None:
    with pytest.raises(SamplingError, match="order must be a whole number from 1 to 4"):
        ExponentialAdams(bad)  # type: ignore[arg-type]
    with pytest.raises(SamplingError, match="order must be a whole number from 1 to 3"):
        UniPC(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_a_wrong_eta_is_refused(bad: float) -> None:
    for make in (DPMSolver2M, lambda eta: ExponentialAdams(2, eta)):
        with pytest.raises(SamplingError, match="eta must be finite and at least 0"):
            make(bad)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_that_is_not_down_is_refused_before_the_model_is_asked(name: str) -> None:
    model, x = Counting(), torch.ones(2, 2, dtype=torch.float64)
    for t, s in ((1.0, 2.0), (1.0, 1.0)):
        with pytest.raises(SamplingError, match="must end at less noise, got one from t = 1"):
            SOLVERS[name](model, x, torch.tensor(t), torch.tensor(s), None, Silent())
    assert model.calls == 0
