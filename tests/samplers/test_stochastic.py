"""The reverse SDE and annealed steps: weak order one, exact where their papers say, and p_t as steps grow."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.errors import SamplingError
from scorefield.exact import Empirical, Gaussian, GaussianMixture
from scorefield.model import Denoiser
from scorefield.noise import EDM, VE, Flow, Schedule, Time
from scorefield.randomness import Noise, Stream
from scorefield.samplers.grids import geometric, karras
from scorefield.samplers.langevin import Langevin
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.predictors import Ancestral
from scorefield.samplers.stochastic import ConsistentAnnealed, EulerMaruyama, ReverseDiffusion

Mixture = Callable[[Schedule], GaussianMixture]
Misfit = Callable[..., float]
PREDICTORS: dict[str, Predictor] = {
    "euler maruyama": EulerMaruyama(),
    "reverse diffusion": ReverseDiffusion(),
    "consistent": ConsistentAnnealed(),
    "consistent, more noise": ConsistentAnnealed(4.0),
}
each_predictor = pytest.mark.parametrize("predictor", list(PREDICTORS.values()), ids=PREDICTORS)


class Constant(Noise):
    """Given noise, so that a step's coefficient of noise can be read off."""

    def __init__(self, value: float | Tensor) -> None:
        super().__init__(Stream(0, "constant"), range(0), 0)
        object.__setattr__(self, "value", value)

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return torch.zeros_like(x) + self.value  # type: ignore[attr-defined]


class Planted:
    """The reverse SDE with a factor on the score and one on the noise; 1 and 1 are right."""

    def __init__(self, score: float, noise: float) -> None:
        self.score, self.noise = score, noise

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: None, noise: Noise) -> tuple[Tensor, None]:
        level, h = model.schedule.at(t), float(t) - float(s)
        drift = level.drift * x - self.score * level.diffusion_squared * model.score(x, t)
        return x - drift * h + self.noise * (level.diffusion_squared * h).sqrt() * noise.like(x), None


WRONG = {"the flow's score": Planted(0.5, 1), "noise of the flow": Planted(1, 0.5), "a minus lost": Planted(-1, 1)}


def between(schedule: Schedule, high: float, low: float, levels: int) -> Tensor:
    """Karras' levels from one σ/α to another."""
    return schedule.time_of_sigma(karras(EDM(low, high), levels))


# -- weak order -------------------------------------------------------------------------------------------------------


def end_law(predictor: Predictor, model: Denoiser, mean: float, variance: float, grid: Tensor) -> tuple[float, float]:
    """Mean and variance at the end of the walk of a model of a Gaussian, without a random number: steps are affine."""
    x, z = torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [0.0], [1.0]]], dtype=torch.float64)
    for t, s in itertools.pairwise(grid):
        shift, kept, added = predictor(model, x, t, s, None, Constant(z))[0].flatten().tolist()
        mean, variance = (kept - shift) * mean + shift, (kept - shift) ** 2 * variance + (added - shift) ** 2
    return mean, variance


def biases(predictor: Predictor, schedule: Schedule, counts: tuple[int, ...]) -> list[tuple[float, float]]:
    """How far mean and variance of N(0.8, 0.36) under noise are off, over so many steps from σ/α = 10."""
    model = Gaussian(torch.full((1,), 0.8, dtype=torch.float64), torch.full((1, 1), 0.36), schedule)
    found = []
    for steps in counts:
        grid = between(schedule, 10.0, 0.1, steps + 1)
        high, low = schedule.at(grid[0]), schedule.at(grid[-1])
        start = 0.8 * float(high.alpha), float(0.36 * high.alpha**2 + high.sigma**2)
        mean, variance = end_law(predictor, model, *start, grid)
        found.append((mean - 0.8 * float(low.alpha), variance / float(0.36 * low.alpha**2 + low.sigma**2) - 1))
    return found


@each_predictor
def test_the_bias_falls_as_one_over_steps(schedule: Schedule, predictor: Predictor) -> None:
    for errors in zip(*biases(predictor, schedule, (60, 120, 240)), strict=True):
        if max(map(abs, errors)) > 1e-9:  # a mean may be exact
            orders = [math.log2(abs(a / b)) for a, b in itertools.pairwise(errors)]
            assert orders == pytest.approx([1, 1], abs=0.25), errors


@pytest.mark.parametrize("name", WRONG)
def test_a_bias_that_stays_is_caught(schedule: Schedule, name: str) -> None:
    (_, a), (_, b) = biases(WRONG[name], schedule, (60, 120))
    assert not 0.75 < math.log2(abs(a / b)) < 1.25
    assert abs(b) > 0.1
    assert abs(biases(Planted(1, 1), schedule, (120,))[0][1]) < 0.1


# -- p_t --------------------------------------------------------------------------------------------------------------


@each_predictor
def test_exact_noise_becomes_exact_data(
    schedule: Schedule, predictor: Predictor, mixture: Mixture, misfit: Misfit
) -> None:
    # From exact draws at σ/α = 20 the rows are draws of p_t at 0.03. Caught: four levels, too long for the method.
    model = mixture(schedule)
    for levels, fits in ((200, True), (4, False)):
        grid = between(schedule, 20.0, 0.03, levels)
        start = model.sample(3000, seed=1, t=grid[0])
        x = sample(model, 3000, (2,), grid, predictor, seed=0, start=start, denoise=False, dtype=torch.float64)
        assert (misfit(x, schedule, grid[-1]) < 1) == fits, levels


@pytest.mark.parametrize("name", WRONG)
def test_planted_bugs_are_caught(name: str, mixture: Mixture, misfit: Misfit) -> None:
    schedule = EDM(0.03, 80.0)
    model, grid = mixture(schedule), between(schedule, 20.0, 0.03, 200)
    start = model.sample(3000, seed=1, t=grid[0])
    for predictor, fits in ((Planted(1, 1), True), (WRONG[name], False)):
        x = sample(model, 3000, (2,), grid, predictor, seed=0, start=start, denoise=False)
        assert (misfit(x, schedule, grid[-1]) < 1) == fits


@each_predictor
def test_row_i_is_the_same_to_the_bit_whatever_is_drawn_with_it(
    schedule: Schedule, predictor: Predictor, mixture: Mixture
) -> None:
    model, grid = mixture(schedule), karras(schedule, 9)

    def rows(which: range) -> Tensor:
        return sample(model, which, (2,), grid, predictor, seed=3, dtype=torch.float64)

    parts = [rows(range(a, b)) for a, b in itertools.pairwise((0, 1, 17, 50))]
    assert torch.equal(torch.cat(parts), rows(range(50)))
    assert len(rows(range(50)).unique(dim=0)) == 50


# -- as their papers write them ---------------------------------------------------------------------------------------


def step_of(predictor: Predictor, model: Denoiser, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
    """A step's mean and its coefficient of noise."""
    now, below = (torch.tensor(v, dtype=torch.float64) for v in (t, s))
    mean, _ = predictor(model, x, now, below, None, Constant(0.0))
    return mean, predictor(model, x, now, below, None, Constant(1.0))[0] - mean


def test_reverse_diffusion_on_the_table_of_ddpm_is_the_published_one(mixture: Mixture) -> None:
    # Song et al. 2021, appendix E for VP: x ← (2 − √(1 − β)) x + β s + √β z.
    betas = linear_betas(100, last=0.1)
    model = mixture(Discrete(betas=betas))
    x = model.sample(5, seed=0, t=torch.tensor(40.0))
    beta, score = betas[39], model.score(x, 40.0)
    mean, noise = step_of(ReverseDiffusion(), model, x, 40.0, 39.0)
    assert torch.allclose(mean, (2 - math.sqrt(1 - beta)) * x + beta * score, rtol=1e-9)
    assert torch.allclose(noise, torch.full_like(x, math.sqrt(beta)), rtol=1e-9)


def test_reverse_diffusion_of_exploding_noise_is_the_published_one(mixture: Mixture) -> None:
    # Song et al. 2021, appendix E for VE: x ← x + (σ_i² − σ_{i−1}²) s + √(σ_i² − σ_{i−1}²) z.
    model = mixture(EDM(0.03, 80.0))
    x = model.sample(5, seed=0, t=torch.tensor(3.0))
    mean, noise = step_of(ReverseDiffusion(), model, x, 3.0, 2.5)
    assert torch.allclose(mean, x + (9 - 6.25) * model.score(x, 3.0), rtol=1e-12)
    assert torch.allclose(noise, torch.full_like(x, math.sqrt(9 - 6.25)), rtol=1e-12)


def test_euler_maruyama_of_exploding_noise_is_the_published_one(mixture: Mixture) -> None:
    # dσ²/dt = 2t under σ = t (Song et al. 2021, Eq. 9): x ← x + 2th s + √(2th) z.
    model = mixture(EDM(0.03, 80.0))
    x = model.sample(5, seed=0, t=torch.tensor(3.0))
    mean, noise = step_of(EulerMaruyama(), model, x, 3.0, 2.5)
    assert torch.allclose(mean, x + 3.0 * model.score(x, 3.0), rtol=1e-12)
    assert torch.allclose(noise, torch.full_like(x, math.sqrt(3.0)), rtol=1e-12)


@pytest.mark.parametrize("eta", [0.2, 0.4, 0.9])
def test_consistent_annealed_sampling_is_the_published_one(eta: float, mixture: Mixture) -> None:
    # Jolicoeur-Martineau et al. 2021, arXiv:2009.05475, on a geometric grid of ratio γ = 0.8 with α = 1:
    # x ← x + η σ² s + β γσ z, β = √(1 − (1 − η)²/γ²), for η ≥ 1 − γ.
    gamma, sigma = 0.8, 3.0
    model = mixture(EDM(0.03, 80.0))
    x = model.sample(5, seed=0, t=torch.tensor(sigma))
    predictor = ConsistentAnnealed(math.log(1 - eta) / math.log(gamma) + 1e-12)
    mean, noise = step_of(predictor, model, x, sigma, gamma * sigma)
    beta = math.sqrt(max(0.0, 1 - ((1 - eta) / gamma) ** 2))
    assert torch.allclose(mean, x + eta * sigma**2 * model.score(x, sigma), rtol=1e-9)
    assert torch.allclose(noise, torch.full_like(x, beta * gamma * sigma), atol=1e-4)


@pytest.mark.parametrize(("pace", "eta"), [(1.0, 0.0), (2.0, 1.0)])
def test_consistent_steps_of_pace_one_and_two_are_those_of_ddim_and_ddpm(
    schedule: Schedule, mixture: Mixture, pace: float, eta: float
) -> None:
    model = mixture(schedule)
    t, s = schedule.time_of_sigma(torch.tensor([1.0, 0.6], dtype=torch.float64)).tolist()
    x = model.sample(5, seed=0, t=torch.tensor(t))
    for found, expected in zip(
        step_of(ConsistentAnnealed(pace), model, x, t, s), step_of(Ancestral(eta), model, x, t, s), strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pace", [1.0, 1.5, 2.0, 8.0])
@pytest.mark.parametrize("make", [karras, geometric])
def test_consistent_steps_keep_the_noise_of_each_level_to_the_digit(
    schedule: Schedule, pace: float, make: Callable[[Schedule, int], Tensor]
) -> None:
    # Data of one point: x_t ~ N(α x0, σ²) must be so after every step, whatever the grid.
    x0 = 0.7
    model = Empirical(torch.tensor([[x0]]), schedule)
    grid = schedule.time_of_sigma(make(EDM(0.03, 50.0), 12))
    for last in (2, 5, 12):
        first, low = schedule.at(grid[0]), schedule.at(grid[last - 1])
        mean, variance = end_law(
            ConsistentAnnealed(pace), model, x0 * float(first.alpha), float(first.sigma) ** 2, grid[:last]
        )
        assert variance == pytest.approx(float(low.sigma) ** 2, rel=1e-9)
        assert mean == pytest.approx(x0 * float(low.alpha), rel=1e-6)


@pytest.mark.parametrize("size", [0.1, 0.4, 1.0])
def test_annealed_langevin_does_not_keep_the_noise_of_its_levels(size: float) -> None:
    # The same law under one plain move a level: more noise than the level's own at every size.
    schedule = VE(0.03, 50.0)
    model, grid = Empirical(torch.zeros(1, 1), schedule), geometric(schedule, 12)

    def plain(model: Denoiser, x: Tensor, t: Time, s: Time, memory: None, noise: Noise) -> tuple[Tensor, None]:
        return Langevin(1, size)(model, x, s, noise), None

    _, variance = end_law(plain, model, 0.0, 50.0**2, grid)
    assert variance > 1.1 * 0.03**2
    _, consistent = end_law(ConsistentAnnealed(), model, 0.0, 50.0**2, grid)
    assert consistent == pytest.approx(0.03**2, rel=1e-9)


# -- edges and faults -------------------------------------------------------------------------------------------------


def test_where_a_flow_begins_the_reverse_sde_is_refused_and_the_others_step(mixture: Mixture) -> None:
    model, x = mixture(Flow()), torch.ones(3, 2, dtype=torch.float64)
    top, below = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    with pytest.raises(SamplingError, match="infinite drift at t = 1, where α = 0"):
        EulerMaruyama()(model, x, top, below, None, Constant(0.0))
    for predictor in (ReverseDiffusion(), ConsistentAnnealed(1.0), ConsistentAnnealed()):
        assert predictor(model, x, top, below, None, Constant(1.0))[0].isfinite().all()


@pytest.mark.parametrize("pace", [0.9, 0.0, -1.0, math.nan, math.inf])
def test_a_pace_that_leaves_too_much_noise_is_refused(pace: float) -> None:
    with pytest.raises(SamplingError, match="pace must be at least 1"):
        ConsistentAnnealed(pace)
