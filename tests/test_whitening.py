"""Whitened networks: a Gaussian in closed form where F = 0, the usual preconditioning where data are isotropic."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from scorefield import api, recipes
from scorefield.calculus import divergence
from scorefield.errors import OptionError
from scorefield.exact import Gaussian
from scorefield.model import Denoiser, NetworkDenoiser
from scorefield.moments import Moments
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, VP, Flow, Schedule, SubVP
from scorefield.objectives.implicit import has_closed_trace
from scorefield.overrides import override
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, Parametrization, V, edm_f
from scorefield.randomness import Stream
from scorefield.samplers.grids import karras
from scorefield.samplers.loop import sample
from scorefield.samplers.multistep import DPMSolver2M

SCHEDULES: dict[str, Schedule] = {"edm": EDM(0.01, 80.0), "vp": VP(), "flow": Flow(t_min=1e-3), "subvp": SubVP()}
NOTATIONS = (X0, EPSILON, SCORE, V, VELOCITY, edm_f(0.7))
# Correlated, far from the origin, and with an axis of a ten-thousandth of the widest one's variance.
ROOT = torch.tensor([[1.5, 0.0, 0.0], [0.9, 0.4, 0.0], [-0.5, 0.3, 0.02]], dtype=torch.float64)
MEAN = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)


class Silent(nn.Module):
    """F = 0, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.gain * x


class Bent(Silent):
    """Something smooth that is no Gaussian, in its input and its level, and remembers its input."""

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        self.seen = x
        places = torch.arange(1.0, 1.0 + x.shape[1:].numel()).to(x).reshape(x.shape[1:])
        return torch.sin(places * x + c_noise.reshape(-1, *[1] * (x.ndim - 1))) + x.flip(-1).square() / 4


def whitened(
    network: nn.Module, schedule: Schedule, notation: Parametrization, moments: Moments | None
) -> NetworkDenoiser:
    model = NetworkDenoiser(network, schedule, notation, 0.7, whitened=True)
    model.moments = moments
    return model


def truth(schedule: Schedule) -> Gaussian:
    return Gaussian(MEAN, ROOT @ ROOT.T, schedule)


def noisy(law: Gaussian, t: Tensor) -> Tensor:
    return torch.cat([law.sample(range(row, row + 1), 0, time) for row, time in enumerate(t)])


@pytest.fixture(params=list(SCHEDULES.values()), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return request.param


@pytest.mark.parametrize("notation", NOTATIONS, ids=lambda notation: notation.name)
def test_oracle_a_silent_network_is_the_exact_denoiser_of_a_gaussian(
    schedule: Schedule, notation: Parametrization
) -> None:
    law = truth(schedule)
    # The highest level of a flow has no data in it, and what is read through ε there says nothing of x0.
    highest = schedule.t_max - 1e-3 * isinstance(schedule, Flow)
    t = torch.linspace(schedule.t_min, highest, 20, dtype=torch.float64)
    x, model = noisy(law, t), whitened(Silent(), schedule, notation, Moments.of(MEAN, ROOT @ ROOT.T))
    ours, exact = model(x, t), law(x, t)
    torch.testing.assert_close(ours.x0, exact.x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours.epsilon, exact.epsilon, rtol=1e-8, atol=1e-8)
    # A rounding of x_t, of a few units, is worth 1/σ² as much in the score.
    squared = schedule.at(t, like=x).sigma ** 2
    torch.testing.assert_close(squared * ours.score, squared * exact.score, rtol=1e-8, atol=1e-13)
    # Caught: a mean or axes that are forgotten.
    for moments in (Moments.of(0 * MEAN, ROOT @ ROOT.T), Moments.of(MEAN, (ROOT @ ROOT.T).diagonal().diag())):
        model.moments = moments
        assert float((model(x, t).x0 - exact.x0).abs().max().detach()) > 0.1


def test_oracle_a_flow_in_velocity_knows_the_level_without_data() -> None:
    flow, t = Flow(), torch.ones(5, dtype=torch.float64)
    model = whitened(Silent(), flow, VELOCITY, Moments.of(MEAN, ROOT @ ROOT.T))
    x = Stream(0, "x").normal(5, (3,), dtype=torch.float64)
    torch.testing.assert_close(model(x, t).x0, MEAN.expand(5, 3))


def test_equivalence_isotropic_data_get_the_usual_preconditioning(schedule: Schedule) -> None:
    sigma, notation = 0.7, edm_f(0.7)
    plain = NetworkDenoiser(Bent(), schedule, notation, sigma)
    # Any axes are principal ones; those of the numbers leave F's input as it is.
    ours = whitened(
        Bent(), schedule, notation, Moments.of(torch.zeros(3), sigma**2 * torch.eye(3, dtype=torch.float64))
    )
    t = torch.linspace(schedule.t_min, schedule.t_max - 1e-3, 12, dtype=torch.float64)
    x = noisy(truth(schedule), t)
    torch.testing.assert_close(ours.output(x, schedule.at(t, like=x)), plain.output(x, schedule.at(t, like=x)))
    torch.testing.assert_close(ours(x, t).x0, plain(x, t).x0)
    ours.moments = Moments.of(torch.zeros(3), 4 * sigma**2 * torch.eye(3, dtype=torch.float64))
    assert float((ours(x, t).x0 - plain(x, t).x0).abs().max()) > 0.01


def test_equivalence_every_notation_gives_one_estimate(schedule: Schedule) -> None:
    # (2) is the notation of x0 and ε, whatever F says.
    moments, t = Moments.of(MEAN, ROOT @ ROOT.T), torch.linspace(0.05, 0.9, 8, dtype=torch.float64)
    x = noisy(truth(schedule), t)
    first, *others = (whitened(Bent(), schedule, notation, moments)(x, t) for notation in NOTATIONS)
    for other in others:
        torch.testing.assert_close(other.x0, first.x0, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(other.epsilon, first.epsilon, rtol=1e-7, atol=1e-7)


def test_law_what_goes_in_has_unit_variance_along_every_axis_at_every_level(schedule: Schedule) -> None:
    # H₀: u of Gaussian data is N(0, I): nine second moments of 4000 rows within 5 standard errors (√2, 1 off the
    # diagonal), 6e-7 each at three levels. Caught: σ_data in place of the axes' own variances.
    law = truth(schedule)
    for share in (0.0, 0.5, 0.99):
        t, network = schedule.t_min + share * (schedule.t_max - schedule.t_min), Bent()
        x = law.sample(4000, 1, torch.tensor(t, dtype=torch.float64))
        whitened(network, schedule, X0, Moments.of(MEAN, ROOT @ ROOT.T))(x, t)
        second = network.seen.T @ network.seen / 4000
        assert float(((second - torch.eye(3)).abs() / (torch.eye(3) * (2**0.5 - 1) + 1)).max()) < 5 / 4000**0.5
    plain = Bent()
    NetworkDenoiser(plain, schedule, X0, 0.7)(law.sample(4000, 1, schedule.t_min), schedule.t_min)
    assert float((plain.seen.var(0) - 1).abs().max()) > 0.9


def test_law_one_level_and_a_level_for_each_row_agree(schedule: Schedule) -> None:
    model = whitened(Bent(), schedule, VELOCITY, Moments.of(MEAN, ROOT @ ROOT.T))
    x = truth(schedule).sample(6, 2)
    for t in (0.02, 0.3, 0.9):
        each = model(x, torch.full((6,), t, dtype=torch.float64))
        for one in (t, torch.tensor(t, dtype=torch.float64), schedule.at(t, like=x)):
            torch.testing.assert_close(model(x, one).x0, each.x0)
            torch.testing.assert_close(model(x, one).epsilon, each.epsilon)
    # And levels of a grid, whose coefficients are made once for all of them.
    for kind in (torch.float64, torch.float32):
        grid = torch.tensor([0.9, 0.3, 0.02], dtype=torch.float64)
        for one, t in zip(schedule.at(grid).each(), grid, strict=True):
            found, alone = model(x.to(kind), one), model(x.to(kind), t)
            assert torch.equal(found.x0, alone.x0)
            assert torch.equal(found.epsilon, alone.epsilon)
    assert model(x[:0], 0.3).x0.shape == (0, 3)


def test_law_rows_of_any_shape_are_rows_of_their_numbers(schedule: Schedule) -> None:
    covariance = torch.block_diag(ROOT @ ROOT.T, 0.3 * ROOT @ ROOT.T)
    mean = torch.cat([MEAN, -MEAN])
    t = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    x = noisy(Gaussian(mean, covariance, schedule), t)
    flat = whitened(Silent(), schedule, V, Moments.of(mean, covariance))
    deep = whitened(Silent(), schedule, V, Moments.of(mean.reshape(2, 3), covariance))
    with torch.no_grad():
        for model in (flat, deep):
            model.network.gain.fill_(0.4)  # type: ignore[union-attr,operator]
    for when in (t, 0.4):
        torch.testing.assert_close(deep(x.reshape(3, 2, 3), when).x0, flat(x, when).x0.reshape(3, 2, 3))


def test_arrays_of_more_than_one_axis_are_learned() -> None:
    rows = torch.randn(60, 2, 3, generator=torch.Generator().manual_seed(0)).numpy()
    settings = ["network.width=16", "training.steps=3", "training.batch=16", "network.whitened=true"]
    bundle = api.fit(rows, override(recipes.edm(), settings), device="cpu")
    assert bundle.denoiser.whitened
    assert bundle.sample(4).values.shape == (4, 2, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_output_is_of_the_rows_type(schedule: Schedule, kind: torch.dtype) -> None:
    model = whitened(Silent(), schedule, V, Moments.of(MEAN, ROOT @ ROOT.T)).to(kind)
    x = truth(schedule).sample(4, 0).to(kind)
    exact = truth(schedule)(x.double(), 0.3).x0
    found = model(x, 0.3).x0
    assert found.dtype == kind
    # Sixty roundings of float32 of the largest number, along a flat axis too.
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=60 * torch.finfo(kind).eps * 8)


def test_oracle_gradient_and_divergence_of_the_score(schedule: Schedule) -> None:
    t = torch.tensor(0.4, dtype=torch.float64)
    law, model = truth(schedule), whitened(Silent(), schedule, EPSILON, Moments.of(MEAN, ROOT @ ROOT.T))
    x, level = law.sample(5, 3, t), schedule.at(t)
    _, trace = divergence(lambda place: model.score(place, t), x)
    # Of a Gaussian: −tr(α²Σ + σ²I)⁻¹.
    inverse = torch.linalg.inv(level.alpha**2 * ROOT @ ROOT.T + level.sigma**2 * torch.eye(3))
    torch.testing.assert_close(trace, -inverse.trace().expand(5))
    # And of what F adds, against differences.
    bent = whitened(Bent(), schedule, EPSILON, model.moments)
    _, trace = divergence(lambda place: bent.score(place, t), x)
    h = 1e-5 * torch.eye(3, dtype=torch.float64)
    slopes = sum((bent.score(x + step, t) - bent.score(x - step, t))[:, place] / 2e-5 for place, step in enumerate(h))
    torch.testing.assert_close(trace, torch.as_tensor(slopes), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(bent(x.requires_grad_(), t).x0.square().sum(), x)
    assert gradient.isfinite().all()
    loss = model(x, t).x0.square().sum()
    (of_network,) = torch.autograd.grad(loss, model.network.parameters())
    assert float(of_network.abs()) > 0


def test_the_closed_trace_of_a_network_is_not_that_of_a_whitened_one() -> None:
    network = MLP((3,), width=8, depth=2)
    assert has_closed_trace(NetworkDenoiser(network, EDM(0.01, 10.0), edm_f(1.0), 1.0))
    assert not has_closed_trace(whitened(network, EDM(0.01, 10.0), edm_f(1.0), Moments.of(MEAN, ROOT @ ROOT.T)))


def test_without_moments_the_data_are_taken_for_as_wide_in_every_direction() -> None:
    schedule, x = EDM(0.01, 10.0), truth(EDM(0.01, 10.0)).sample(6, 2)
    plain = NetworkDenoiser(Bent(), schedule, edm_f(1.5), 1.5)
    free = NetworkDenoiser(Bent(), schedule, edm_f(1.5), 1.5, whitened=True)
    torch.testing.assert_close(free(x, 0.3).x0, plain(x, 0.3).x0)


def test_a_level_without_noise_is_refused() -> None:
    model = whitened(Silent(), EDM(0.01, 10.0), X0, Moments.of(MEAN, ROOT @ ROOT.T))
    with pytest.raises(OptionError, match="levels with noise only"):
        model(torch.zeros(2, 3, dtype=torch.float64), 0.0)


# -- compiled, in inference mode, and with a network that writes to what it is given -----------------------------------


@pytest.mark.parametrize("each", [False, True], ids=["one time", "a time for each row"])
@pytest.mark.parametrize("asked", [False, True], ids=["never asked", "asked before"])
def test_compiled_it_says_the_same_in_one_graph(asked: bool, each: bool) -> None:
    # Tables that are kept for the next time must not keep the graph from being traced.
    law = truth(EDM(0.01, 80.0))
    plain = whitened(Bent(), law.schedule, X0, Moments.of(law.mean(), law.covariance()))
    t = torch.linspace(0.2, 0.8, 6, dtype=torch.float64) if each else torch.tensor(0.5, dtype=torch.float64)
    x_t = noisy(law, t.expand(6))
    expected = plain(x_t, t).x0 if asked else None
    with torch.no_grad():
        found = torch.compile(plain, backend="eager", fullgraph=True)(x_t, t)
        torch.testing.assert_close(found.epsilon, plain(x_t, t).epsilon)
    torch.testing.assert_close(found.x0, plain(x_t, t).x0.detach() if expected is None else expected.detach())


def test_samplers_walk_a_compiled_one_as_the_plain_one() -> None:
    law = truth(EDM(0.01, 80.0))
    plain = whitened(Bent(), law.schedule, X0, Moments.of(law.mean(), law.covariance()))
    grid = karras(law.schedule, 6)
    expected = sample(plain, 8, (3,), grid, DPMSolver2M(), seed=0)
    compiled = cast(Denoiser, torch.compile(plain, backend="eager"))
    torch.testing.assert_close(sample(compiled, 8, (3,), grid, DPMSolver2M(), seed=0), expected)


def test_what_inference_mode_left_behind_bears_gradients() -> None:
    law = truth(EDM(0.01, 80.0))
    for moments in (None, Moments.of(law.mean(), law.covariance())):
        model = whitened(Silent(), law.schedule, X0, moments)
        x_t = noisy(law, torch.full((4,), 0.5, dtype=torch.float64))
        with torch.inference_mode():
            sample(model, 4, (3,), karras(law.schedule, 3), DPMSolver2M(), seed=0, dtype=torch.float64)
        (slope,) = torch.autograd.grad(model(x_t.requires_grad_(), 0.5).x0.sum(), x_t)
        assert slope.isfinite().all()


class Careless(Silent):
    """Scales its noise in place."""

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.sin(x + c_noise.mul_(2))


def test_a_network_may_write_to_its_noise() -> None:
    model = whitened(Careless(), EDM(0.01, 80.0), X0, None)
    grid = karras(model.schedule, 4)
    first, second = (sample(model, 4, (3,), grid, DPMSolver2M(), seed=0, dtype=torch.float64) for _ in range(2))
    assert torch.equal(first, second)
