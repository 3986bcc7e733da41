"""Denoising is score matching: equal gradients, and equal losses in every notation.

Statistical tests are seeded and held to 5 standard errors, a false alarm of 6e-7 for each of about two hundred numbers.
"""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.exact import GaussianMixture
from scorefield.model import NetworkDenoiser, ScoreModel
from scorefield.noise import EDM, VE, VP, Flow, NoiseLevel, Schedule, SubVP
from scorefield.objectives import presets
from scorefield.objectives.criteria import Denoising
from scorefield.objectives.matching import ScoreMatching, stratified
from scorefield.objectives.times import Uniform
from scorefield.objectives.weights import one, sigma_squared
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, V, edm_f
from scorefield.randomness import Noise, Stream

NOTATIONS = {"x0": X0, "epsilon": EPSILON, "score": SCORE, "v": V, "velocity": VELOCITY, "F": edm_f(0.8)}
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "edm": EDM(0.05, 20.0), "flow": Flow(0.01, 0.99), "subvp": SubVP()}
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def noise(rows: int) -> Noise:
    """What `normals(rows, …, name="noise")` are drawn from."""
    return Noise(Stream(0, "noise"), range(rows), 0)


# -- the gradient -----------------------------------------------------------------------------------------------------


Loss = Callable[[ScoreModel, Tensor, Tensor, Noise], Tensor]
Gap = Callable[..., float]


def denoising_towards(target: Callable[[NoiseLevel, Tensor], Tensor]) -> Loss:
    """Denoising score matching written by hand, towards a target for the score made of the level and ε."""

    def loss(model: ScoreModel, x0: Tensor, t: Tensor, drawn: Noise) -> Tensor:
        epsilon = drawn.like(x0)
        x_t = model.schedule.add_noise(x0, t, epsilon)
        return (model.score(x_t, t) - target(model.schedule.at(t, like=x0), epsilon)).square().mean(1)

    return loss


@each_schedule
@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("at", [0.0, 0.4])
def test_denoising_has_the_gradient_of_explicit_score_matching(
    schedule: Schedule, sigma: float, at: float, gradient_gap: Gap
) -> None:
    assert gradient_gap(Denoising(SCORE), schedule, sigma, at) < 5


PRINTED_WRONG: dict[str, Callable[[NoiseLevel, Tensor], Tensor]] = {
    "plus": lambda level, epsilon: epsilon / level.sigma,  # +(x̃ − x)/σ²
    "over sigma": lambda level, epsilon: -epsilon,  # −(x̃ − x)/σ, for σ²
    "sigma squared of epsilon": lambda level, epsilon: -epsilon / level.sigma**2,
}


@each_schedule
@pytest.mark.parametrize("at", [0.0, 0.4])
def test_targets_that_are_printed_wrong_are_caught(schedule: Schedule, at: float, gradient_gap: Gap) -> None:
    # /σ and /σ² agree at σ = 1, so levels away from it are looked at.
    right = denoising_towards(lambda level, epsilon: -epsilon / level.sigma)
    assert max(gradient_gap(right, schedule, sigma, at) for sigma in (0.1, 3.0)) < 5
    for name, target in PRINTED_WRONG.items():
        assert max(gradient_gap(denoising_towards(target), schedule, sigma, at) for sigma in (0.1, 3.0)) > 8, name


# -- notations --------------------------------------------------------------------------------------------------------


class Tanh(nn.Module):
    """A small network with fixed weights, for any shape."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normals(1, elements, elements, name="weight")[0] / math.sqrt(elements))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.weight + c_noise.reshape(-1, 1)).reshape(x.shape)


def batch(schedule: Schedule, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    t = schedule.time_of_sigma(torch.logspace(-1, 1, 8, dtype=torch.float64))
    return normals(8, *shape), normals(8, *shape, name="noise"), t


@each_schedule
@pytest.mark.parametrize(("own", "loss"), list(product(NOTATIONS, NOTATIONS)))
def test_a_loss_does_not_depend_on_how_the_network_speaks(own: str, loss: str, schedule: Schedule) -> None:
    model = NetworkDenoiser(Tanh(4), schedule, NOTATIONS[own], 0.8)
    x0, epsilon, t = batch(schedule, 2, 2)
    level = schedule.at(t, like=x0)
    estimate = model(schedule.add_noise(x0, t, epsilon), t)
    notation = NOTATIONS[loss]
    said, true = (notation.of(a, b, level) for a, b in ((estimate.x0, estimate.epsilon), (x0, epsilon)))
    found = Denoising(notation)(model, x0, t, noise(len(x0)))
    assert torch.allclose(found, (said - true).square().flatten(1).mean(1), rtol=1e-8)


@each_schedule
@pytest.mark.parametrize("loss", NOTATIONS)
def test_a_model_that_is_no_network_is_compared_too(
    loss: str, schedule: Schedule, mixture: Callable[[Schedule], GaussianMixture]
) -> None:
    x0, epsilon, t = batch(schedule, 2)
    model, level = mixture(schedule), schedule.at(t, like=x0)
    estimate = model(schedule.add_noise(x0, t, epsilon), t)
    notation = NOTATIONS[loss]
    said, true = (notation.of(a, b, level) for a, b in ((estimate.x0, estimate.epsilon), (x0, epsilon)))
    assert torch.allclose(
        Denoising(notation)(model, x0, t, noise(len(x0))), (said - true).square().flatten(1).mean(1), rtol=1e-8
    )


@pytest.mark.parametrize("schedule", [Discrete(betas=linear_betas()), Discrete(sigmas=tuple(2.0**k for k in range(9)))])
@pytest.mark.parametrize("name", NOTATIONS)
def test_the_loss_of_ddpm_is_that_of_ncsn(name: str, schedule: Schedule) -> None:
    model = NetworkDenoiser(Tanh(3), schedule, NOTATIONS[name], 0.8)
    x0 = normals(50, 3)
    u = Stream(0, "u").uniform(50)
    ddpm, ncsn = (preset(model, x0, noise(50), u) for preset in (presets.ddpm_simple(), presets.ncsn()))
    assert torch.allclose(ddpm, ncsn, rtol=1e-10)
    unweighted = ScoreMatching(presets.ncsn().times, Denoising(SCORE), one)(model, x0, noise(50), u)
    assert not torch.allclose(ddpm, unweighted, rtol=1e-2)


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_its_squared_error_per_element() -> None:
    class Knows(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
            return answer

    x0, epsilon, t = batch(VP(), 3, 2)
    model = NetworkDenoiser(Knows(), VP(), EPSILON, 1.0)
    answer = epsilon
    assert torch.equal(Denoising(EPSILON)(model, x0, t, noise(len(x0))), torch.zeros(8, dtype=torch.float64))
    answer = epsilon + 3
    assert torch.allclose(Denoising(EPSILON)(model, x0, t, noise(len(x0))), torch.full((8,), 9.0, dtype=torch.float64))


# -- objectives -------------------------------------------------------------------------------------------------------

PRESETS: dict[str, tuple[ScoreMatching, Schedule]] = {
    "ncsn": (presets.ncsn(), Discrete(sigmas=(0.1, 0.3, 1.0, 3.0))),
    "ddpm": (presets.ddpm_simple(), Discrete(betas=linear_betas(100))),
    "vp": (presets.vp_simple(), VP()),
    "edm": (presets.edm(0.8), EDM(0.01, 50.0)),
    "log-uniform": (presets.log_uniform(0.8), VE(0.01, 50.0)),
    "flow": (ScoreMatching(Uniform(), Denoising(VELOCITY), one), Flow()),
}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [(2,), (3, 4), (3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_is_one_number_for_each_row(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    objective, schedule = PRESETS[name]
    model = NetworkDenoiser(Tanh(math.prod(shape)).to(dtype), schedule, EPSILON, 0.8)
    x0 = normals(5, *shape).to(dtype)
    u = stratified(Stream(0, "u").uniform(5))
    losses = objective(model, x0, noise(5), u)
    assert (losses.shape, losses.dtype) == ((5,), dtype)
    assert (losses > 0).all()
    # A row's loss is its own, and the weight multiplies the criterion at the times of the law.
    alone = objective(model, x0[3:4], Noise(Stream(0, "noise"), range(3, 4), 0), u[3:4])
    assert torch.allclose(alone, losses[3:4], rtol=1e-5)
    t = objective.times.quantile(u, schedule)
    assert torch.allclose(objective.at(model, x0, t, noise(len(x0))), losses, rtol=1e-6)
    losses.sum().backward()
    assert model.network.weight.grad.abs().max() > 0


def test_a_weight_multiplies_the_loss(mixture: Callable[[Schedule], GaussianMixture]) -> None:
    x0, _, t = batch(VP(), 2)
    plain, weighted = (ScoreMatching(Uniform(), Denoising(X0), weight) for weight in (one, sigma_squared))
    model = mixture(VP())
    ratio = weighted.at(model, x0, t, noise(len(x0))) / plain.at(model, x0, t, noise(len(x0)))
    assert torch.allclose(ratio, VP().at(t).sigma ** 2, rtol=1e-12)


@pytest.mark.parametrize("name", ["edm", "log-uniform"])
def test_a_network_born_at_zero_has_a_loss_of_one(name: str) -> None:
    # At every level F has variance 1, so predicting nothing costs 1: H₀ at 5 standard errors; another σ_data is caught.
    class Zero(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
            return torch.zeros_like(x)

    objective, schedule = PRESETS[name]
    u = stratified(Stream(0, "u").uniform(20_000))

    def z(scale: float) -> float:
        model = NetworkDenoiser(Zero(), schedule, edm_f(0.8), 0.8)
        losses = objective(model, scale * normals(20_000, 2), noise(20_000), u)
        return float((losses.mean() - 1) / (losses.std() / math.sqrt(20_000)))

    assert abs(z(0.8)) < 5
    assert abs(z(1.0)) > 5


# -- stratified uniforms ----------------------------------------------------------------------------------------------


def test_every_stratum_holds_one_uniform() -> None:
    for rows in (1, 2, 7, 512):
        u = stratified(Stream(0, "u").uniform(rows))
        assert torch.equal((u * rows).floor(), torch.arange(rows, dtype=torch.float64))
        assert ((u > 0) & (u < 1)).all()


def test_strata_are_unbiased_and_have_less_variance() -> None:
    # H₀: batch means of a function over strata have its mean; 1000 batches, 5 standard errors. Caught: strata without a
    # draw in them (the left edges). For a smooth function their variance falls as 1/B³, that of plain draws as 1/B.
    rows, batches = 16, 1000
    draws = Stream(0, "u").uniform(batches, (rows,))
    spread = torch.stack([stratified(row) for row in draws])
    smooth: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
        "u": (lambda u: u, 1 / 2),
        "u²": (lambda u: u**2, 1 / 3),
        "exp": (torch.exp, math.e - 1),
    }
    for name, (f, mean) in smooth.items():
        means = f(spread).mean(1)
        error = float(means.std()) / math.sqrt(batches)
        assert abs(float(means.mean()) - mean) < 5 * error, name
        edges = f(torch.arange(rows, dtype=torch.float64) / rows).mean()
        assert abs(float(edges) - mean) > 5 * error
        assert float(means.var()) < 2 / rows**2 * float(f(draws).mean(1).var())


def test_each_row_is_uniform_within_its_stratum() -> None:
    # H₀: uniform; √n·sup|F_n − F| < 2.7 has a false alarm of 9.3e-7 (Massart 1990). Caught: the square of a uniform.
    def apart(draws: Tensor) -> float:
        inside = (torch.stack([stratified(row) for row in draws])[:, 2] * 4 - 2).sort().values
        return float((inside - (torch.arange(2000) + 0.5) / 2000).abs().max()) * math.sqrt(2000)

    draws = Stream(0, "u").uniform(2000, (4,))
    assert apart(draws) < 2.7
    assert apart(draws**2) > 2.7
