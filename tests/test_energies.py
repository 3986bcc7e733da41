"""Energies put together are energies: their score is a gradient, their density is known, and both derivatives exist.

Statistical tests are seeded and held to 5 standard errors, a false alarm of 6e-7 for each number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from scorefield.energies import Composition, EnergyModel, Mixture, Product
from scorefield.errors import OptionError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.model import EnergyDenoiser
from scorefield.networks import unet
from scorefield.networks.mlp import MLP
from scorefield.networks.unet import UNet
from scorefield.noise import EDM, VP, Flow, Schedule
from scorefield.objectives.criteria import Criterion, Denoising
from scorefield.objectives.implicit import FiniteDifference, Implicit, Sliced
from scorefield.parametrization import edm_f
from scorefield.randomness import Noise, Stream
from scorefield.samplers import grids, presets
from scorefield.samplers.langevin import MetropolisLangevin
from scorefield.samplers.loop import sample
from scorefield.samplers.predictors import Heun

SCHEDULES: dict[str, Schedule] = {"edm": EDM(0.1, 10.0), "vp": VP(t_min=0.1), "flow": Flow(0.1, 0.9)}
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)


class Known(GaussianMixture):
    """A mixture as an energy with a constant that nobody was told."""

    constant = 0.0

    def energy(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self.constant - self.log_prob(x, t)


def normal(mean: list[float], covariance: list[list[float]], schedule: Schedule, constant: float = 0.0) -> Known:
    model = Known(torch.ones(1), torch.tensor([mean]), torch.tensor([covariance]), schedule)
    model.constant = constant
    return model


def pair(schedule: Schedule, constants: tuple[float, float] = (0.7, -1.2)) -> tuple[Known, Known]:
    one = normal([1.0, 0.5], [[1.0, 0.4], [0.4, 0.5]], schedule, constants[0])
    return one, normal([-0.5, 1.0], [[0.3, -0.1], [-0.1, 0.8]], schedule, constants[1])


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def awake(network: nn.Module) -> nn.Module:
    """The network with something in the layers that begin at zero."""
    for number, parameter in enumerate(network.parameters()):
        if not parameter.any():
            width = math.sqrt(max(1, parameter[0].numel()))
            parameter.data = Stream(number, "awake").normal(1, parameter.shape)[0].to(parameter.dtype) * 0.2 / width
    return network


def learned(schedule: Schedule, depth: int = 2, dtype: torch.dtype = torch.float64) -> EnergyDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = awake(MLP((2,), width=32, depth=depth)).to(dtype)
    return EnergyDenoiser(network, schedule, edm_f(0.8), 0.8)


COMPOSITIONS: dict[str, Callable[[Schedule], Composition]] = {
    "product": lambda schedule: Product(pair(schedule)),
    "quotient": lambda schedule: Product(pair(schedule), (1.5, -0.4)),
    "sum": lambda schedule: Mixture(pair(schedule), (0.3, 2.0)),
    "of networks": lambda schedule: Mixture([learned(schedule), *pair(schedule)]),
    "nested": lambda schedule: Product([Mixture([learned(schedule), pair(schedule)[0]]), pair(schedule)[1]], (0.5, 1)),
}


# -- laws -------------------------------------------------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_the_score_is_minus_the_gradient_of_the_energy(name: str, schedule: Schedule) -> None:
    model = COMPOSITIONS[name](schedule)
    t = schedule.time_of_sigma(torch.tensor([0.3, 0.7, 1.0, 2.0, 5.0], dtype=torch.float64))
    x = normals(5, 2).requires_grad_()
    (slope,) = torch.autograd.grad(model.energy(x, t).sum(), x)
    assert torch.allclose(model.score(x, t), -slope, rtol=1e-8, atol=1e-9)
    estimate = model(x, t)
    assert torch.allclose(estimate.score, -slope, rtol=1e-8, atol=1e-9)
    assert torch.allclose(schedule.add_noise(estimate.x0, t, estimate.epsilon), x, rtol=1e-9, atol=1e-9)
    # One time for all rows is that time for each, and rows know nothing of their neighbours.
    assert torch.allclose(model.energy(x, t[2]), model.energy(x, t[2].expand(5)), rtol=1e-12)
    assert torch.allclose(model.score(x[1:3], t[1:3]), -slope[1:3], rtol=1e-8, atol=1e-9)


def test_parameters_are_found_and_learn_through_a_composition() -> None:
    network = learned(EDM(0.1, 10.0))
    model = Product([network, *pair(EDM(0.1, 10.0))])
    assert {id(p) for p in network.parameters()} <= {id(p) for p in model.parameters()}
    Denoising(edm_f(0.8))(model, normals(4, 2), torch.full((4,), 0.5), drawn(4)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def drawn(rows: int) -> Noise:
    return Noise(Stream(0, "noise"), range(rows), 0)


# -- oracles ----------------------------------------------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.5), (1.5, -0.2)])
def test_a_product_of_gaussians_is_the_gaussian_of_added_precisions(
    schedule: Schedule, weights: tuple[float, float]
) -> None:
    # N(a, A)^w N(b, B)^v ∝ N(m, P⁻¹) with P = wA⁻¹ + vB⁻¹ and Pm = wA⁻¹a + vB⁻¹b, at any level.
    one, two = pair(schedule)
    t = schedule.time_of_sigma(0.5)
    level = schedule.at(t)
    eye = torch.eye(2, dtype=torch.float64)
    a, b = (
        w * (level.alpha**2 * m.covariance() + level.sigma**2 * eye).inverse()
        for m, w in zip((one, two), weights, strict=True)
    )
    covariance = (a + b).inverse()
    mean = covariance @ (a @ one.mean() + b @ two.mean()) * level.alpha
    product, x = Product((one, two), weights), normals(6, 2)
    truth = torch.distributions.MultivariateNormal(mean, covariance)
    apart = product.energy(x, t) + truth.log_prob(x)
    assert torch.allclose(apart, apart[:1].expand(6), rtol=1e-9)  # a constant of the level
    assert torch.allclose(product.score(x, t), -(x - mean) @ (a + b), rtol=1e-9, atol=1e-12)


@each_schedule
def test_a_sum_of_the_parts_of_a_mixture_is_the_mixture_at_every_level(schedule: Schedule) -> None:
    constants = (0.7, -1.2)
    one, two = pair(schedule, constants)
    # The weights undo the constants: e^{−E} is e^{−c} p.
    total = Mixture((one, two), [w * math.exp(c) for w, c in zip((0.3, 0.7), constants, strict=True)])
    means, covariances = torch.stack((one.mean(), two.mean())), torch.stack((one.covariance(), two.covariance()))
    truth = GaussianMixture(torch.tensor([0.3, 0.7], dtype=torch.float64), means, covariances, schedule)
    x = 2 * normals(6, 2)
    for sigma in (0.2, 1.0, 5.0):
        t = schedule.time_of_sigma(sigma)
        assert torch.allclose(total.energy(x, t), -truth.log_prob(x, t), rtol=1e-9)
        assert torch.allclose(total.score(x, t), truth.score(x, t), rtol=1e-8, atol=1e-10)
        assert torch.allclose(total(x, t).x0, truth(x, t).x0, rtol=1e-8, atol=1e-8)


def test_a_product_is_reached_by_moves_at_levels_and_not_by_steps_down() -> None:
    # N(1, 1)·N(−1, 1) ∝ N(0, ½); at the level σ = 0.3 the product of the noised is N(0, (1 + σ²)/2). H₀ of mean and
    # variance at 5 standard errors of 4000 rows. The probability flow of Σ s_i = −2x/(1 + σ²) shrinks x by 1 + σ²: from
    # σ = 10 it ends with a variance near 0.01 (Du et al. 2023, arXiv:2302.11552).
    schedule, rows = EDM(0.3, 10.0), 4000
    model = Product([Known(torch.ones(1), torch.tensor([[m]]), torch.ones(1, 1, 1), schedule) for m in (1.0, -1.0)])
    grid = grids.geometric(schedule, 30)
    walk = partial(sample, model, rows, (1,), seed=0, denoise=False, dtype=torch.float64)

    def z(x: Tensor) -> float:
        variance = (1 + 0.3**2) / 2
        apart = (float(x.mean()) / math.sqrt(variance), (float(x.square().mean()) / variance - 1) / math.sqrt(2))
        return max(map(abs, apart)) * math.sqrt(rows)

    assert z(walk(grid, None, MetropolisLangevin(4, 2.0))) < 5
    assert z(walk(grid, Heun())) > 5
    # The named sampler takes it as it takes any denoiser, down to E[x0 given x].
    x = presets.annealed_langevin(20, 3)(model, 500, (1,), seed=0)
    assert x.isfinite().all()
    assert abs(float(x.mean())) < 5 * float(x.std()) / math.sqrt(500)


# -- second derivatives -----------------------------------------------------------------------------------------------

CRITERIA: dict[str, Criterion] = {
    "denoising": Denoising(edm_f(0.8)),
    "sliced": Sliced(edm_f(0.8)),
    "finite differences": FiniteDifference(edm_f(0.8)),
    "implicit": Implicit(edm_f(0.8)),
}


@dataclass(eq=False)
class Kept(Noise):
    """Noise drawn beforehand, for a compiler cannot see into the generator."""

    draws: tuple[Tensor, ...] = ()

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return self.draws[draw]


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    # materialised, for a constant of the energy has none
    slopes = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes])


def batch(model: EnergyDenoiser, shape: tuple[int, ...], rows: int = 16) -> tuple[Tensor, Tensor]:
    t = model.schedule.time_of_sigma(torch.logspace(-1, 1, rows, dtype=torch.float64))
    return 0.8 * normals(rows, *shape).float(), t


def image_model() -> EnergyDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = awake(UNet(1, channels=(32,), blocks=(1,), attention=(True,), patch=1, embedding_features=32))
    return EnergyDenoiser(network, EDM(0.02, 20.0), edm_f(0.8), 0.8)


@pytest.mark.parametrize("kind", ["table", "image"])
@pytest.mark.parametrize("name", ["denoising", "sliced", "finite differences"])
def test_bfloat16_gives_almost_the_loss_and_gradient_of_float32(name: str, kind: str) -> None:
    # bfloat16 keeps eight bits, a relative 0.004; found are 0.0006 for the losses of rows and 0.012 for the gradient at
    # most. Differences of energies are always taken in the type of the weights, so there nothing changes.
    model, shape = (learned(EDM(0.02, 20.0), 3, torch.float32), (2,)) if kind == "table" else (image_model(), (1, 6, 6))
    x0, t = batch(model, shape)

    def found(lower: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            losses = CRITERIA[name](model, x0, t, drawn(16))
        return losses.detach(), gradient(model, losses.mean())

    (full, full_slope), (half, half_slope) = found(False), found(True)
    assert half.dtype == half_slope.dtype == torch.float32
    assert float((half - full).abs().mean() / full.abs().mean()) < 0.003
    assert float((half_slope - full_slope).norm() / full_slope.norm()) < 0.04
    if name != "finite differences":
        assert not torch.equal(half, full)  # it was in bfloat16


@pytest.mark.parametrize("name", ["denoising", "sliced"])
def test_fused_attention_makes_way_for_one_with_a_second_derivative(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = image_model()
    x0, t = batch(model, (1, 6, 6), 4)
    expected = gradient(model, CRITERIA[name](model, x0, t, drawn(4)).mean())
    monkeypatch.setattr(unet, "PRODUCTS", 0)  # torch's own operator, as for images with more positions than that
    found = gradient(model, CRITERIA[name](model, x0, t, drawn(4)).mean())
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    # What it is for: the day this passes, `calculus.plain_attention` can go.
    q = normals(1, 1, 4, 8).float().requires_grad_()
    (slope,) = torch.autograd.grad(
        nn.functional.scaled_dot_product_attention(q, q, q).sin().sum(), q, create_graph=True
    )
    with pytest.raises(RuntimeError, match=r"derivative for .*attention.* is not implemented"):
        slope.square().sum().backward()


@pytest.mark.parametrize("name", ["denoising", "sliced", "implicit"])
def test_a_compiled_loss_has_the_loss_and_gradient_of_the_plain_one(name: str) -> None:
    # In one graph (`fullgraph`), for AOTAutograd, under every backend that compiles; Inductor behind it needs a C++
    # compiler, which is not asked for here. Noise is drawn outside.
    model = learned(EDM(0.02, 20.0), 2, torch.float32)
    x0, t = batch(model, (2,))
    noise = Kept(Stream(0, ""), range(16), 0, tuple(drawn(16).like(x0, draw) for draw in range(2)))

    def loss(x0: Tensor, t: Tensor) -> Tensor:
        return CRITERIA[name](model, x0, t, noise).mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    plain, fast = loss(x0, t), compiled(x0, t)
    assert torch.allclose(fast, plain, rtol=1e-5)
    expected = gradient(model, plain)
    assert torch.allclose(gradient(model, fast), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_a_compiled_model_is_the_model_with_and_without_gradients() -> None:
    model = learned(EDM(0.02, 20.0), 2, torch.float32)
    x, t = batch(model, (2,))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = gradient(model, model(x, t).score.square().mean())
    found = gradient(model, compiled(x, t).score.square().mean())
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    with torch.no_grad():
        assert torch.allclose(compiled(x, t).score, model.score(x, t), rtol=1e-4, atol=1e-5)
        assert not compiled(x, t).x0.requires_grad


def test_a_compiled_network_alone_cannot_be_differentiated_twice() -> None:
    # Compile the energy or the loss, not the network inside it: the day this passes, say so in the docs.
    model = learned(EDM(0.02, 20.0), 2, torch.float32)
    x, t = batch(model, (2,))
    torch._dynamo.reset()
    inside = torch.compile(model.network, backend="aot_eager")
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        EnergyDenoiser(inside, model.schedule, edm_f(0.8), 0.8).score(x, t).square().sum().backward()


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Product, Mixture])
def test_what_cannot_be_put_together_is_refused(kind: type[Composition]) -> None:
    one, two = pair(EDM(0.1, 10.0))
    models: list[EnergyModel] = [one, two]
    with pytest.raises(OptionError, match="one weight for each model, got 0 for 0"):
        kind([])
    with pytest.raises(OptionError, match="one weight for each model, got 1 for 2"):
        kind(models, [1.0])
    with pytest.raises(OptionError, match="finite"):
        kind(models, [1.0, math.nan])
    with pytest.raises(OptionError, match=r"model 1 has the schedule EDM.*20.*the first EDM.*10"):
        kind([one, Known(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], EDM(0.1, 20.0))])
    with pytest.raises(OptionError, match="positive"):
        kind(models, [1.0, -1.0])
    with pytest.raises(OptionError, match="positive"):
        kind(models, [0.0, 0.0])


def test_equal_schedules_may_be_two_objects_and_a_quotient_may_be_one() -> None:
    one, two = pair(EDM(0.1, 10.0))[0], pair(EDM(0.1, 10.0))[1]
    assert Product([one, two], [1.0, -0.9]).sigma_data == max(one.sigma_data, two.sigma_data)
    assert Mixture([one, two]).schedule == EDM(0.1, 10.0)


def test_moves_with_refusal_need_an_energy() -> None:
    model = Gaussian(torch.zeros(2), torch.eye(2), EDM(0.1, 10.0))
    with pytest.raises(OptionError, match="needs a model with an energy, Gaussian has none"):
        MetropolisLangevin()(model, torch.zeros(3, 2), torch.tensor(1.0), drawn(3))
