"""Implicit score matching is explicit without its target: equal gradients, an order of differences, closed traces."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scorefield.calculus import divergence, hutchinson_divergence
from scorefield.errors import OptionError
from scorefield.exact import GaussianMixture
from scorefield.model import DataScore, EnergyDenoiser, NetworkDenoiser, ScoreModel, ScoreNetwork
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, VP, Clean, Flow, Schedule, SubVP
from scorefield.objectives.criteria import Criterion, Explicit, noisy
from scorefield.objectives.implicit import FiniteDifference, Implicit, Sliced, has_closed_trace, probes, score_and_trace
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, V, edm_f
from scorefield.randomness import Noise, Stream

NOTATIONS = {"x0": X0, "epsilon": EPSILON, "score": SCORE, "v": V, "velocity": VELOCITY, "F": edm_f(0.8)}
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "edm": EDM(0.05, 20.0), "flow": Flow(0.01, 0.99), "subvp": SubVP()}
CRITERIA: dict[str, Criterion] = {
    "implicit": Implicit(),
    "sliced": Sliced(reduced_variance=False),
    "sliced by normals": Sliced(reduced_variance=False, signs=False),
    "reduced variance": Sliced(),
    "reduced variance by three normals": Sliced(probes=3, signs=False),
    "finite difference": FiniteDifference(step=1e-3),  # whose bias, 1e-6 of the loss, is far below a standard error
}
LEVELS = [(name, sigma) for name in SCHEDULES for sigma in (0.1, 0.7, 3.0)] + [("edm", 0.0)]
Gap = Callable[..., float]
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def noise(rows: int) -> Noise:
    return Noise(Stream(0, "noise"), range(rows), 0)


# -- the gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "sigma"), LEVELS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_gradient_is_that_of_explicit_score_matching(
    criterion: str, schedule: str, sigma: float, gradient_gap: Gap
) -> None:
    for at in (0.0, 0.4):
        assert gradient_gap(CRITERIA[criterion], SCHEDULES[schedule], sigma, at) < 5


Terms = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_hand(terms: Terms) -> Callable[..., Tensor]:
    """Sliced score matching written by hand, as a function of vᵀ∇s v (B,), s (B, D) and v (B, D), over D."""

    def loss(model: ScoreModel, x0: Tensor, t: Tensor, drawn: Noise) -> Tensor:
        x_t, _, _ = noisy(model, x0, t, drawn)
        v = drawn.like(x_t, draw=1).sign()
        score, slope = hutchinson_divergence(lambda x: model.score(x, t), x_t, v[None], create_graph=True)
        return terms(slope[0], score, v) / x0.shape[1]

    return loss


PRINTED_WRONG: dict[str, Terms] = {
    "a square around the trace": lambda slope, s, v: 2 * slope.square() + s.square().sum(1),
    "a square around it, and its two lost": lambda slope, s, v: slope.square() + s.square().sum(1),
    "a trace without its two": lambda slope, s, v: slope + s.square().sum(1),
    "a score of the opposite sign": lambda slope, s, v: -2 * slope + s.square().sum(1),
    "no square around vᵀs": lambda slope, s, v: 2 * slope + (v * s).sum(1),
}


@pytest.mark.parametrize(("schedule", "sigma"), [("vp", 0.1), ("flow", 0.7), ("subvp", 3.0), ("edm", 0.0)])
@pytest.mark.parametrize("at", [0.0, 0.4])
def test_losses_that_are_printed_wrong_are_caught(schedule: str, sigma: float, at: float, gradient_gap: Gap) -> None:
    for right in (lambda k, s, v: 2 * k + s.square().sum(1), lambda k, s, v: 2 * k + (v * s).sum(1).square()):
        assert gradient_gap(by_hand(right), SCHEDULES[schedule], sigma, at) < 5
    for name, terms in PRINTED_WRONG.items():
        assert gradient_gap(by_hand(terms), SCHEDULES[schedule], sigma, at) > 8, name


def test_probes_have_mean_zero_identity_covariance_and_nothing_of_the_noise() -> None:
    # H₀ of each moment at 5 standard errors. Caught: probes that are the noise of x_t itself, under which 2 vᵀ∇s v is
    # no trace, for then v depends on the place where the slope is taken.
    rows = 20_000
    x = torch.zeros(rows, 2, dtype=torch.float64)
    for signs in (True, False):
        v = probes(x, noise(rows), 2, signs)
        columns = torch.cat([*v, noise(rows).like(x)], dim=1)
        z = columns.mean(0) * math.sqrt(rows)
        assert z.abs().max() < 5
        products = torch.einsum("bi,bj->ijb", columns, columns)
        off = products.mean(2) / products.std(2) * math.sqrt(rows)
        assert off[~torch.eye(6, dtype=torch.bool)].abs().max() < 5
        itself = columns[:, 4:].sign() if signs else columns[:, 4:]
        planted = itself * columns[:, 4:]
        assert (planted.mean(0) / planted.std(0) * math.sqrt(rows)).min() > 8
        squares = columns[:, :4].square()
        assert (
            torch.equal(squares, torch.ones_like(squares))
            if signs
            else ((squares.mean(0) - 1) / squares.std(0) * math.sqrt(rows)).abs().max() < 5
        )


# -- the truth --------------------------------------------------------------------------------------------------------


class Waves(nn.Module):
    """A smooth map of rows with fixed weights, of (x), (x, t) or (x, c_noise, condition)."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normals(1, elements, elements, name="weight")[0] / math.sqrt(elements))

    def forward(self, x: Tensor, c_noise: Tensor | float = 0.3, condition: Tensor | None = None) -> Tensor:
        c = torch.as_tensor(c_noise, dtype=x.dtype).reshape(-1, 1)
        return torch.sin(x.flatten(1) @ self.weight + c).reshape(x.shape)


@each_schedule
def test_explicit_matching_is_the_distance_to_the_truth(
    schedule: Schedule, mixture: Callable[[Schedule], GaussianMixture]
) -> None:
    # Moving the score by c costs |c|² whatever the truth is, in ε σ² as much, and the truth itself nothing.
    truth = mixture(schedule)

    class Moved:
        def __init__(self) -> None:
            self.schedule = schedule

        def score(self, x: Tensor, t: Tensor) -> Tensor:
            return truth.score(x, t) + torch.tensor([1.0, -3.0], dtype=torch.float64)

    t = schedule.time_of_sigma(torch.tensor([0.1, 0.7, 3.0], dtype=torch.float64))
    x0 = normals(3, 2)
    five = torch.full((3,), 5.0, dtype=torch.float64)
    assert torch.allclose(Explicit(truth)(Moved(), x0, t, noise(3)), five)
    assert torch.allclose(Explicit(truth, EPSILON)(Moved(), x0, t, noise(3)), 5 * schedule.at(t).sigma ** 2)
    assert torch.equal(Explicit(truth)(truth, x0, t, noise(3)), torch.zeros(3, dtype=torch.float64))
    data = mixture(Clean())
    assert torch.equal(Explicit(data)(data, x0, torch.zeros(3), noise(3)), torch.zeros(3, dtype=torch.float64))


def test_the_score_without_noise_is_the_gradient_of_the_density(
    mixture: Callable[[Schedule], GaussianMixture],
) -> None:
    truth, x = mixture(Clean()), normals(7, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(truth.log_prob(x).sum(), x)
    assert torch.allclose(truth.score(x, 0.0), gradient, rtol=1e-10)


# -- finite differences -----------------------------------------------------------------------------------------------


def slope_of_errors(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize("kind", ["data", "network", "denoiser", "energy"])
def test_finite_differences_converge_with_the_square_of_their_step(kind: str) -> None:
    # Against the derivatives along the same v: for a score with |s|² in full, for an energy with (vᵀs)².
    schedule = VP()
    models: dict[str, ScoreModel] = {
        "data": DataScore(Waves(2)),
        "network": ScoreNetwork(Waves(2), schedule),
        "denoiser": NetworkDenoiser(Waves(2), schedule, EPSILON, 0.8),
        "energy": EnergyDenoiser(Waves(2), schedule, EPSILON, 0.8),
    }
    x0 = normals(6, 2)
    t = torch.zeros(6) if kind == "data" else schedule.time_of_sigma(torch.logspace(-0.5, 0.5, 6, dtype=torch.float64))
    exact = Sliced(probes=2, reduced_variance=kind != "energy")(models[kind], x0, t, noise(6))
    steps = [0.08, 0.04, 0.02, 0.01]
    found = [FiniteDifference(probes=2, step=step)(models[kind], x0, t, noise(6)) for step in steps]
    errors = [(loss - exact).detach().norm().item() for loss in found]
    assert errors[-1] < 1e-3 * exact.detach().norm()
    assert all(1.9 < order < 2.1 for order in slope_of_errors(errors)), errors


@each_schedule
def test_finite_differences_of_a_score_are_denoising_of_random_signs(schedule: Schedule) -> None:
    # ‖s(x + hv) + v/h‖², in the mean over v and −v and less the |v|²/h² that no model changes: the two points are noise
    # of size h in a random corner, and their loss that of denoising it. So the bias of h is that of h more noise.
    model, x0 = ScoreNetwork(Waves(3), schedule), normals(6, 3)
    t = schedule.time_of_sigma(torch.logspace(-0.5, 0.5, 6, dtype=torch.float64))
    x_t, _, level = noisy(model, x0, t, noise(6))
    v, h = noise(6).like(x0, draw=1).sign(), 0.1 * level.sigma
    denoised = sum((model.score(x_t + h * w, t) + w / h).square().sum(1) for w in (v, -v)) / 2
    loss = FiniteDifference(step=0.1)(model, x0, t, noise(6))
    assert torch.allclose(3 * loss, denoised - 3 / h.flatten() ** 2, rtol=1e-8)


def test_finite_differences_of_an_energy_take_no_gradient_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = EnergyDenoiser(Waves(2), VP(), EPSILON, 0.8)
    monkeypatch.setattr(model, "_outputs", None)
    monkeypatch.setattr(model, "score", None)
    loss = FiniteDifference()(model, normals(4, 2), torch.full((4,), 0.4, dtype=torch.float64), noise(4))
    loss.sum().backward()
    assert model.network.weight.grad.abs().max() > 0


def test_finite_differences_keep_their_digits_under_bfloat16() -> None:
    # Differences over a tenth of the noise, of numbers with eight bits, would be off by more than themselves.
    x0, t = normals(16, 2), torch.full((16,), 0.1, dtype=torch.float64)
    for kind in (NetworkDenoiser, EnergyDenoiser):
        model = kind(filled(MLP((2,), 16, 2)), VP(), EPSILON, 0.8)
        with torch.autocast("cpu", torch.bfloat16):
            found = FiniteDifference()(model, x0.float(), t, noise(16))
        exact = FiniteDifference()(model.double(), x0, t, noise(16))
        assert (found - exact).norm() < 1e-3 * exact.norm()


# -- traces -----------------------------------------------------------------------------------------------------------


def filled(network: MLP) -> MLP:
    """A network whose parameters are all fixed normals, none of them the zeros of birth."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            values = Stream(number, "weights").normal(1, parameter.shape, dtype=parameter.dtype)[0]
            parameter.copy_(values / math.sqrt(parameter.shape[-1]))
    return network


@pytest.mark.parametrize("depth", [1, 2])
@each_schedule
@pytest.mark.parametrize("name", NOTATIONS)
def test_the_closed_trace_is_the_divergence(name: str, schedule: Schedule, depth: int) -> None:
    t = schedule.time_of_sigma(torch.logspace(-1, 1, 5, dtype=torch.float64))
    for shape, condition, told in (((2,), 0, True), ((3, 2), 4, True), ((3,), 0, False)):
        network = filled(MLP(shape, 12, depth, condition).double())
        model: NetworkDenoiser = NetworkDenoiser(
            network, schedule, NOTATIONS[name], 0.8, condition, noise_conditional=told
        )
        if condition:
            model = model.given(normals(5, condition, name="condition"))
        assert has_closed_trace(model)
        for time in (t, t[2]):
            x = schedule.add_noise(normals(5, *shape), time, normals(5, *shape, name="noise"))
            score, trace = score_and_trace(model, x, time)
            true_score, true_trace = divergence(lambda y, m=model, s=time: m.score(y, s), x)
            assert torch.allclose(score, true_score, rtol=1e-9, atol=1e-10)
            assert torch.allclose(trace, true_trace, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NOTATIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("condition", [0, 4])
def test_what_is_known_of_a_network_changes_neither_loss_nor_gradient(name: str, depth: int, condition: int) -> None:
    # A plain score is differentiated as a whole; of a network's, only what is not known already.
    model = NetworkDenoiser(filled(MLP((3,), 12, depth, condition).double()), VP(), NOTATIONS[name], 0.8, condition)
    model = model.given(normals(6, 4, name="condition")) if condition else model
    plain = ScoreNetwork(Through(model), VP())
    assert not has_closed_trace(plain)
    x0, t = normals(6, 3), VP().time_of_sigma(torch.logspace(-1, 1, 6, dtype=torch.float64))
    for criterion in CRITERIA.values():
        losses = [criterion(each, x0, t, noise(6)) for each in (model, plain)]
        assert torch.allclose(*losses, rtol=1e-8)
        gradients = [torch.autograd.grad(loss.sum(), [*model.parameters()]) for loss in losses]
        for one, two in zip(*gradients, strict=True):
            assert torch.allclose(one, two, rtol=1e-6, atol=1e-8 * float(two.abs().max()))


class Through(nn.Module):
    """A denoiser's score as a plain network of (x, t), which hides that its trace is known."""

    def __init__(self, model: NetworkDenoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.model.score(x, t)


def test_only_networks_that_know_their_trace_are_asked_for_it() -> None:
    model: dict[str, Any] = {
        "deep": NetworkDenoiser(filled(MLP((2,), 8, 3).double()), VP(), EPSILON, 0.8),
        "energy": EnergyDenoiser(filled(MLP((2,), 8, 2).double()), VP(), EPSILON, 0.8),
        "variance": NetworkDenoiser(
            filled(MLP((2,), 8, 2, outputs=2).double()), VP(), EPSILON, 0.8, learned_variance=True
        ),
        "plain": DataScore(Waves(2)),
    }
    x, t = normals(5, 2), torch.full((5,), 0.5, dtype=torch.float64)
    for name, each in model.items():
        assert not has_closed_trace(each), name
        score, trace = score_and_trace(each, x, t)
        true_score, true_trace = divergence(lambda y, m=each: m.score(y, t), x)
        assert torch.allclose(score, true_score), name
        assert torch.allclose(trace, true_trace), name


# -- slices -----------------------------------------------------------------------------------------------------------


def test_many_slices_are_the_trace_and_signs_spare_the_diagonal() -> None:
    # H₀ for each of six rows: the mean over 4000 slices is the implicit loss, at 5 standard errors. Caught: (vᵀs)² with
    # normals v in place of v/√D.
    model, slices = ScoreNetwork(Waves(4), VP()), 4000
    x0, t = normals(6, 4), torch.full((6,), 0.4, dtype=torch.float64)
    with torch.no_grad():
        implicit = Implicit()(model, x0, t, noise(6))
        x0s, ts = x0.repeat_interleave(slices, 0), t.repeat_interleave(slices)
        # Rows of one noise and of many probes: the noise is given, and only the probes are drawn.
        given = Drawn(noise(6).like(x0).repeat_interleave(slices, 0), noise(6 * slices).like(x0s, draw=1))
        for signs in (True, False):
            for reduced in (True, False):
                losses = Sliced(reduced_variance=reduced, signs=signs)(model, x0s, ts, given).view(6, slices)
                error = losses.std(1) / math.sqrt(slices)
                assert ((losses.mean(1) - implicit).abs() / error).max() < 5
                assert ((losses.mean(1) / 2 - implicit).abs() / error).max() > 8
        diagonal = ScoreNetwork(Diagonal(), VP())
        exact = Implicit()(diagonal, x0, t, noise(6))
        assert torch.allclose(Sliced()(diagonal, x0, t, noise(6)), exact, rtol=1e-12)
        assert (Sliced(signs=False)(diagonal, x0, t, noise(6)) - exact).abs().min() > 1e-3


class Drawn:
    """Noise whose draws are given, one after the other."""

    def __init__(self, *draws: Tensor) -> None:
        self.draws = draws

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return self.draws[draw]


class Diagonal(nn.Module):
    """Each number of a row by itself."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x) - x


def test_more_probes_are_their_mean() -> None:
    model, x0, t = ScoreNetwork(Waves(4), VP()), normals(6, 4), torch.full((6,), 0.4, dtype=torch.float64)
    epsilon, *drawn = (noise(6).like(x0, draw=number) for number in range(4))
    for make in (Sliced, FiniteDifference):
        singles = [make(probes=1)(model, x0, t, Drawn(epsilon, v)) for v in drawn]
        assert len({single.sum().item() for single in singles}) == 3
        assert torch.allclose(make(probes=3)(model, x0, t, noise(6)), torch.stack(singles).mean(0), rtol=1e-10)


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Sliced, FiniteDifference])
@pytest.mark.parametrize("count", [0, -1])
def test_no_probes_are_refused(make: Callable[..., Criterion], count: int) -> None:
    with pytest.raises(OptionError, match=f"at least one probe is needed, got {count}"):
        make(probes=count)


@pytest.mark.parametrize("step", [0.0, -0.1, 1.0, math.nan, math.inf])
def test_a_step_out_of_range_is_refused(step: float) -> None:
    with pytest.raises(OptionError, match=rf"step of finite differences must lie in \(0, 1\), got {step}"):
        FiniteDifference(step=step)


def test_a_truth_without_a_score_is_refused() -> None:
    with pytest.raises(OptionError, match=r"object has no score\(x, t\), which explicit score matching learns"):
        Explicit(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in NOTATIONS if name != "score"])
def test_data_without_noise_have_a_loss_in_the_score_alone(name: str) -> None:
    model, x0, t = DataScore(Waves(2)), normals(4, 2), torch.zeros(4)
    wanted = NOTATIONS[name]
    for criterion in (Implicit(wanted), Sliced(wanted), FiniteDifference(wanted), Explicit(model, wanted)):
        with pytest.raises(OptionError, match=f"without noise has a loss in the score alone, not in {wanted.name}"):
            criterion(model, x0, t, noise(4))


def test_a_conditional_model_without_its_condition_is_refused() -> None:
    x0, t = normals(4, 2).float(), torch.full((4,), 0.4)
    for kind in (NetworkDenoiser, EnergyDenoiser):
        model = kind(filled(MLP((2,), 8, 2, 3)), VP(), EPSILON, 0.8, 3)
        for criterion in CRITERIA.values():
            with pytest.raises(OptionError, match="bind a condition with `given` first"):
                criterion(model, x0, t, noise(4))
            bound = model.given(torch.ones(1, 3))
            assert criterion(bound, x0, t, noise(4)).shape == (4,)
