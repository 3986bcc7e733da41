"""Every named objective on every model that it makes sense for; equal objectives; importance against uniform times."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.exact import GaussianMixture
from scorefield.model import DataScore, EnergyDenoiser, NetworkDenoiser, ScoreModel, ScoreNetwork
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, VE, VP, Clean, Cosine, Flow, NoiseLevel, Schedule, SubVP
from scorefield.objectives import presets
from scorefield.objectives.criteria import Denoising
from scorefield.objectives.kernels import GaussianKernel, LaplaceKernel, StudentKernel
from scorefield.objectives.matching import ScoreMatching, stratified
from scorefield.objectives.times import Fixed, Importance, LogNormal, TimeLaw, Uniform
from scorefield.objectives.weights import WEIGHTS, diffusion_squared, half_snr_slope, one
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, Parametrization, V, edm_f
from scorefield.randomness import Noise, Stream

SHAPES = [(2,), (3, 4), (1, 8, 8)]


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def noise(rows: int) -> Noise:
    return Noise(Stream(0, "noise"), range(rows), 0)


def even(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def filled(network: nn.Module) -> Any:
    """A network whose parameters are all fixed normals, none of them the zeros of birth."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            values = Stream(number, "weights").normal(1, parameter.shape, dtype=parameter.dtype)[0]
            parameter.copy_(values / math.sqrt(parameter.shape[-1]))
    return network


class Plain(nn.Module):
    """A plain network of x alone, or of (x, t)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        size = math.prod(shape)
        self.first, self.last = filled(nn.Linear(size + 1, 16)), filled(nn.Linear(16, size))

    def forward(self, x: Tensor, t: Tensor | float = 0.0) -> Tensor:
        t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1).expand(len(x), 1)
        hidden = nn.functional.silu(self.first(torch.cat([x.flatten(1), t], dim=1)))
        return self.last(hidden).reshape(x.shape)


# -- every preset on every model --------------------------------------------------------------------------------------


class Standard:
    """The score of standard normals without noise, for rows of any shape."""

    schedule = Clean()

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return -x


def anywhere(times: TimeLaw | None = None) -> dict[str, ScoreMatching]:
    """Those that need no noise, or take what is there."""
    law = () if times is None else (times,)
    return {
        "explicit": presets.explicit(Standard(), *law),
        "implicit": presets.implicit(*law),
        "finite_difference": presets.finite_difference(*law),
        "sliced": presets.sliced(*law),
        "sliced_reduced_variance": presets.sliced_reduced_variance(*law),
    }


KERNELS = {
    "denoising": presets.denoising(0.3),
    "denoising_with": presets.denoising_with(LaplaceKernel(0.3)),
    "denoising_with Student's": presets.denoising_with(StudentKernel(0.3, 3.0)),
}
LEVELS: dict[str, tuple[ScoreMatching, Schedule]] = {
    "ncsn": (presets.ncsn(), Discrete(sigmas=(0.1, 0.3, 1.0, 3.0))),
    "ddpm_simple": (presets.ddpm_simple(), Discrete(betas=linear_betas(100))),
    "vp_simple": (presets.vp_simple(), VP()),
    "continuous_bound": (presets.continuous_bound(), Cosine()),
    "maximum_likelihood": (presets.maximum_likelihood(), SubVP()),
    "maximum_likelihood_importance": (presets.maximum_likelihood_importance(1.0), VP()),
    "edm": (presets.edm(1.0), EDM(0.01, 50.0)),
    "log_uniform": (presets.log_uniform(1.0), VE(0.01, 50.0)),
    "flow_matching": (presets.flow_matching(), Flow()),
    "flow_matching_logit_normal": (presets.flow_matching_logit_normal(), Flow()),
    "v_prediction": (presets.v_prediction(), Cosine()),
}
ELSEWHERE = {"ddpm_vlb", "ddpm_vlb_importance", "ddpm_hybrid"}  # need a schedule of steps: tested with the bound
Case = tuple[ScoreMatching, Schedule, str]


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for name, objective in {**anywhere(), **KERNELS}.items():
        found[f"{name} on data"] = (objective, Clean(), "data")
        found[f"{name} on a network without noise"] = (objective, EDM(0.01, 50.0), "network")
    for kind in ("network", "denoiser", "energy"):
        for name, objective in anywhere(Fixed(0.5)).items():
            found[f"{name} on a {kind}"] = (objective, VP(), kind)
        for name, (objective, schedule) in LEVELS.items():
            found[f"{name} on a {kind}"] = (objective, schedule, kind)
    return found


CASES = cases()


def model_of(kind: str, shape: tuple[int, ...], schedule: Schedule) -> Any:
    if kind == "data":
        return DataScore(Plain(shape))
    if kind == "network":
        return ScoreNetwork(Plain(shape), schedule)
    network = filled(MLP(shape, 16, 2))
    return (NetworkDenoiser if kind == "denoiser" else EnergyDenoiser)(network, schedule, edm_f(1.0), 1.0)


def test_no_preset_is_left_out() -> None:
    made = {
        name
        for name, maker in vars(presets).items()
        if inspect.isfunction(maker) and maker.__module__ == presets.__name__
    }
    assert made - ELSEWHERE <= {name.split(" on ")[0] for name in CASES} <= made | {"denoising_with Student's"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_every_objective_teaches_every_model(name: str, shape: tuple[int, ...]) -> None:
    objective, schedule, kind = CASES[name]
    x0, u = normals(6, *shape).float(), stratified(Stream(0, "u").uniform(6))
    means = []
    for half in (False, True):
        model = model_of(kind, shape, schedule)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = objective(model, x0, noise(6), u)
            score = model.score(x0, objective.times.quantile(u, schedule).clamp(min=schedule.t_max / 100))
        assert (losses.shape, losses.dtype, score.dtype) == ((6,), torch.float32, torch.float32)
        assert losses.isfinite().all()
        losses.sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert max(gradient.abs().max() for gradient in gradients) > 0
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            unwatched = objective(model, x0, noise(6), u)
        close = 0.02 * float(losses.detach().abs().max()) if half else 0.0
        assert torch.allclose(unwatched, losses, rtol=1e-4, atol=close)
        means.append(losses.detach().abs().mean())
    # bfloat16 has eight bits: sums of a few hundred terms agree to some per cent.
    assert means[1] == pytest.approx(means[0].item(), rel=0.1)


# -- equal objectives -------------------------------------------------------------------------------------------------


def small(schedule: Schedule, own: Parametrization = EPSILON) -> NetworkDenoiser:
    return NetworkDenoiser(filled(MLP((3,), 8, 2).double()), schedule, own, 0.8)


def edm_weight(level: NoiseLevel) -> Tensor:
    """λ(σ) of Karras et al. 2022, Table 1, for σ_data = 0.8."""
    return (level.sigma**2 + 0.8**2) / (level.sigma * 0.8) ** 2


SAME: dict[str, tuple[ScoreMatching, ScoreMatching, Schedule]] = {
    # Karras et al. 2022, Eq. 8: their λ on x0 is one on F.
    "edm": (presets.edm(0.8), ScoreMatching(LogNormal(), Denoising(X0), edm_weight), EDM(0.01, 50.0)),
    # velocity = ε − x0 and x_t = (1 − t) x0 + t ε, so ε = x_t + (1 − t) velocity.
    "flow": (
        presets.flow_matching(),
        ScoreMatching(Uniform(), Denoising(EPSILON), lambda level: 1 / (1 - level.t) ** 2),
        Flow(0.01, 0.99),
    ),
    # Salimans & Ho 2022, §4: the loss in v is that in x0 times snr + 1, where α² + σ² = 1.
    "v": (
        presets.v_prediction(),
        ScoreMatching(Uniform(), Denoising(X0), lambda level: level.snr + 1),
        VP(t_min=1e-3),
    ),
    # Ho et al. 2020, Eq. 12 and 14: of the noise, and so of x0 times snr.
    "ddpm": (
        presets.vp_simple(),
        ScoreMatching(Uniform(), Denoising(X0), lambda level: level.snr),
        Cosine(),
    ),
}


@pytest.mark.parametrize("own", [X0, EPSILON, SCORE, V, VELOCITY, edm_f(0.8)], ids=lambda own: own.name)
@pytest.mark.parametrize("name", SAME)
def test_the_weights_of_the_field_follow(name: str, own: Parametrization) -> None:
    mine, theirs, schedule = SAME[name]
    model, x0, u = small(schedule, own), normals(20, 3), even(20)
    assert torch.allclose(mine(model, x0, noise(20), u), theirs(model, x0, noise(20), u), rtol=1e-9)


@pytest.mark.parametrize(
    "schedule", [VP(), SubVP(), Cosine(), Flow(), VE(0.01, 50.0), Discrete(betas=linear_betas(50))]
)
def test_the_bound_is_half_of_maximum_likelihood(schedule: Schedule) -> None:
    model, x0, u = small(schedule), normals(20, 3), even(20)
    bound, likelihood = (
        preset(model, x0, noise(20), u) for preset in (presets.continuous_bound(), presets.maximum_likelihood())
    )
    assert torch.allclose(bound, likelihood / 2, rtol=1e-8)


def test_the_weights_are_slopes_of_the_noise() -> None:
    # Kingma et al. 2021: ½ dγ/dt of γ = −log snr, by central differences; Song et al. 2021: g² = β for VP.
    t, h = torch.linspace(0.1, 0.9, 9, dtype=torch.float64), 1e-5
    for schedule in (VP(), SubVP(), Cosine(), Flow(), VE(0.01, 50.0)):
        slope = (schedule.at(t - h).log_snr - schedule.at(t + h).log_snr) / (2 * h)
        assert torch.allclose(half_snr_slope(schedule.at(t)), slope / 2, rtol=1e-6)
    assert torch.allclose(diffusion_squared(VP().at(t)), 0.1 + 19.9 * t, rtol=1e-9)
    assert {weight.__name__ for weight in WEIGHTS.values()} == {*WEIGHTS}
    assert all(weight(VP().at(t)).shape == t.shape for weight in WEIGHTS.values())


def test_denoising_at_one_level_is_denoising_with_its_kernel() -> None:
    network, x0, u = Plain((3,)).double(), normals(20, 3), even(20)
    one_level = ScoreMatching(Fixed(0.3), Denoising(SCORE), one)(
        ScoreNetwork(_Still(network), EDM(0.1, 1.0)), x0, noise(20), u
    )
    assert torch.allclose(presets.denoising(0.3)(DataScore(network), x0, noise(20), u), one_level, rtol=1e-12)
    kernel = presets.denoising_with(GaussianKernel(torch.full((3,), 0.09)))
    assert torch.allclose(kernel(DataScore(network), x0, noise(20), u), one_level, rtol=1e-6)


class _Still(nn.Module):
    """A network that does not look at t."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x)


def test_the_logit_of_a_flows_time_is_normal() -> None:
    # Esser et al. 2024, §3.1: logit t ~ N(m, s²); the range cuts off less than 1e-9 of it.
    t = presets.flow_matching_logit_normal(0.3, 0.8).times.quantile(even(100), Flow(1e-4, 1 - 1e-4))
    assert torch.allclose(t.logit(), 0.3 + 0.8 * torch.special.ndtri(even(100)), atol=1e-6)


# -- importance -------------------------------------------------------------------------------------------------------

RANGES: dict[str, Schedule] = {
    "vp": VP(),
    "subvp": SubVP(t_min=1e-3),
    "cosine": Cosine(),
    "edm": EDM(0.01, 50.0),
    "ve": VE(0.01, 50.0),
    "flow": Flow(0.001, 0.999),
}


@pytest.mark.parametrize("schedule", RANGES)
def test_importance_gives_maximum_likelihood_with_the_loss_in_f(
    schedule: str, mixture: Callable[[Schedule], GaussianMixture]
) -> None:
    # ½∫‖ε − ε̂‖² dλ from t_min to t_max, once as its F loss at even shares of `Importance` and once as its ε loss over
    # time, here by the trapezoid rule in logit u, which is dense at both ends. Row by row, so without any chance.
    clock, sigma_data = RANGES[schedule], 0.8
    model = NetworkDenoiser(filled(MLP((2,), 8, 2).double()), clock, V, sigma_data)
    logit = torch.linspace(-25, 25, 2001, dtype=torch.float64)
    u = torch.sigmoid(logit)
    share = u * torch.sigmoid(-logit) * (logit[1] - logit[0])
    span = clock.t_max - clock.t_min
    with torch.no_grad():
        for row, x0 in enumerate(mixture(clock).sample(4, seed=1)):
            drawn = _Same(normals(4, 2, name="epsilon")[row])
            important = presets.maximum_likelihood_importance(sigma_data)(model, x0.expand(2000, 2), drawn, even(2000))
            bound = presets.continuous_bound()(model, x0.expand(len(u), 2), drawn, u)
            likelihood = presets.maximum_likelihood()(model, x0.expand(len(u), 2), drawn, u)
            norm = Importance(sigma_data).norm(clock)
            assert float((bound * share).sum() * span) == pytest.approx(norm / 2 * float(important.mean()), rel=1e-3)
            assert float((likelihood * share).sum() * span) == pytest.approx(norm * float(important.mean()), rel=1e-3)


class _Same:
    """One ε for all rows."""

    def __init__(self, epsilon: Tensor) -> None:
        self.epsilon = epsilon

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return self.epsilon.expand(x.shape)


@pytest.mark.parametrize("schedule", RANGES)
def test_before_it_has_learnt_anything_importance_weighs_every_time_alike(
    schedule: str, corners: Callable[[Tensor, Tensor], tuple[Tensor, Noise]]
) -> None:
    # Data of deviation σ_data and a network of zeros: the expected loss is one at every t; that in ε is not.
    clock = RANGES[schedule]
    model = NetworkDenoiser(MLP((2,), 8, 2).double(), clock, EPSILON, 0.8)
    model.parametrization = edm_f(0.8)
    x0, drawn = corners(torch.zeros(2, dtype=torch.float64), 0.64 * torch.eye(2, dtype=torch.float64))
    law = presets.maximum_likelihood_importance(0.8)
    for u in (0.01, 0.2, 0.5, 0.8, 0.99):
        same = torch.full((len(x0),), u, dtype=torch.float64)
        with torch.no_grad():
            assert float(law(model, x0, drawn, same).mean()) == pytest.approx(1, rel=1e-9)
            assert float(presets.vp_simple()(model, x0, drawn, same).mean()) < 1 - 1e-6


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_fixed_time_outside_the_range_is_refused() -> None:
    model: ScoreModel = ScoreNetwork(Plain((2,)).double(), EDM(0.5, 2.0))
    for t in (0.1, 3.0, -1.0, math.nan):
        with pytest.raises(OptionError, match=rf"t = {t:g} is not in the schedule's range \[0.5, 2\]"):
            presets.implicit(Fixed(t))(model, normals(4, 2), noise(4), even(4))
    presets.implicit(Fixed(2.0))(model, normals(4, 2), noise(4), even(4))


def test_levels_without_a_schedule_of_levels_are_refused() -> None:
    for objective in (presets.ncsn(), presets.ddpm_simple()):
        with pytest.raises(OptionError, match=r"no whole time in .*: use a Discrete schedule"):
            objective(small(Cosine()), normals(4, 3), noise(4), even(4))


def test_denoising_without_noise_is_refused() -> None:
    for objective in (presets.vp_simple(), presets.v_prediction(), presets.flow_matching(), presets.ncsn()):
        with pytest.raises(
            OptionError, match="this model's schedule has none: use KernelDenoising, Implicit or Sliced"
        ):
            objective(DataScore(Plain((3,))), normals(4, 3), noise(4), even(4))


@pytest.mark.parametrize("sigma", [0.0, math.nan, math.inf])
def test_denoising_at_no_level_is_refused(sigma: float) -> None:
    with pytest.raises(OptionError, match="the kernel has no density in some direction"):
        presets.denoising(sigma)


@pytest.mark.parametrize("name", LEVELS)
def test_a_conditional_model_without_its_condition_is_refused(name: str) -> None:
    objective, schedule = LEVELS[name]
    for kind in (NetworkDenoiser, EnergyDenoiser):
        model = kind(filled(MLP((2,), 8, 2, 3)), schedule, edm_f(1.0), 1.0, 3)
        x0 = normals(4, 2).float()
        with pytest.raises(OptionError, match="bind a condition with `given` first"):
            objective(model, x0, noise(4), even(4))
        one_way = objective(model.given(torch.ones(1, 3)), x0, noise(4), even(4))
        other = objective(model.given(-torch.ones(1, 3)), x0, noise(4), even(4))
        assert not torch.allclose(one_way, other, rtol=1e-3)
