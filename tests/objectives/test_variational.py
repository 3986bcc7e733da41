"""Training with the bound: it is the bound, its gradient is score matching's, and it finds scores and variances.

Statistical tests are seeded and held to 5 standard errors, a false alarm of 6e-7 for each of half a dozen numbers.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.model import Denoiser, NetworkDenoiser, ScoreNetwork
from scorefield.noise import VP, NoiseLevel
from scorefield.objectives import presets
from scorefield.objectives.criteria import Criterion, Denoising
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.times import ImportantLevels, UniformIntegers
from scorefield.objectives.variational import Hybrid, VariationalBound
from scorefield.parametrization import EPSILON, X0, Estimate, V, edm_f
from scorefield.randomness import Noise, Stream
from scorefield.variational.bins import Bins
from scorefield.variational.bound import bound
from scorefield.variational.step import StepVariance, fixed_large, fixed_small, learned, step_down
from scorefield.variational.terms import step_term

BETAS = Discrete(betas=linear_betas(50, last=0.2))
SIGMAS = Discrete(sigmas=tuple(0.02 * 1.4**k for k in range(20)))
tables = pytest.mark.parametrize("schedule", [BETAS, SIGMAS], ids=["betas", "sigmas"])


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def noise(rows: int) -> Noise:
    """What `normals(rows, …, name="noise")` are drawn from."""
    return Noise(Stream(0, "noise"), range(rows), 0)


def times(schedule: Discrete) -> Tensor:
    """Every level once."""
    return torch.arange(1, schedule.t_max + 1, dtype=torch.float64)


def mixture(schedule: Discrete) -> GaussianMixture:
    covariances = torch.stack((torch.eye(2) * 0.09, torch.tensor([[0.25, 0.1], [0.1, 0.2]])))
    return GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[0.9, 0.9], [-0.9, 0.4]]), covariances, schedule)


class Tanh(nn.Module):
    """A small network with fixed weights; with twice the outputs for a learned variance."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(normals(2, 2, name="weight") / 2)
        self.variance = nn.Parameter(normals(2, 2, name="variance") / 4)
        self.outputs = outputs

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        y = torch.tanh(x @ self.mean + c_noise.reshape(-1, 1))
        return y if self.outputs == 1 else torch.cat((y, torch.tanh(x @ self.variance) / 2), dim=1)


def network(schedule: Discrete, learns: bool = False) -> NetworkDenoiser:
    return NetworkDenoiser(Tanh(1 + learns), schedule, EPSILON, 0.8, learned_variance=learns)


# -- the loss is the bound --------------------------------------------------------------------------------------------


@tables
@pytest.mark.parametrize("bins", [None, Bins(0.1, -3.0, 3.0)], ids=["density", "bins"])
@pytest.mark.parametrize("variance", [fixed_small, fixed_large, learned], ids=["small", "large", "learned"])
def test_over_all_levels_its_mean_is_the_bound_per_dimension(
    variance: StepVariance, bins: Bins | None, schedule: Discrete
) -> None:
    model, x0, levels = network(schedule, learns=True), normals(6, 2), times(schedule)
    whole = bound(model, x0, levels.flip(0), seed=7, variance=variance, bins=bins)
    criterion, stream = VariationalBound(variance, bins), Stream(7, "variational bound")
    with torch.no_grad():
        # The bound draws the noise of its k-th level from step k.
        losses = [
            criterion(model, x0, t.expand(6), Noise(stream, range(6), place)) for place, t in enumerate(levels.flip(0))
        ]
    assert torch.allclose(torch.stack(losses).mean(0), (whole.total - whole.prior) / 2, rtol=1e-9)


@tables
def test_a_batch_of_levels_is_each_row_at_its_own(schedule: Discrete) -> None:
    model, t = network(schedule), times(schedule)
    x0 = normals(len(t), 2)
    together = VariationalBound()(model, x0, t, noise(len(t)))
    alone = [
        VariationalBound()(model, x0[i : i + 1], t[i : i + 1], Noise(Stream(0, "noise"), range(i, i + 1), 0))
        for i in range(len(t))
    ]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-9)
    single = VariationalBound()(network(schedule).float(), x0.float(), t, noise(len(t)))
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), together, rtol=1e-3)


@tables
def test_a_model_that_is_only_a_score_is_trained_too(schedule: Discrete) -> None:
    truth, t = mixture(schedule), times(schedule)
    x0 = truth.sample(len(t), seed=0)

    class Score(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return truth.score(x, t)

    found = VariationalBound()(ScoreNetwork(Score(), schedule), x0, t, noise(len(t)))
    assert torch.allclose(found, VariationalBound()(truth, x0, t, noise(len(t))), rtol=1e-6)


# -- its gradient -----------------------------------------------------------------------------------------------------


@tables
def test_with_beta_tilde_its_gradient_is_that_of_denoising_by_the_step_of_snr(schedule: Discrete) -> None:
    def weight(level: NoiseLevel) -> Tensor:
        return schedule.t_max * (schedule.at(level.t - 1).snr - level.snr) / 2

    t = times(schedule)[1:]
    x0 = normals(len(t), 2)

    def gradient(loss: Callable[[NetworkDenoiser], Tensor]) -> Tensor:
        model = network(schedule)
        return torch.autograd.grad(loss(model).sum(), model.network.mean)[0]

    denoising = ScoreMatching(UniformIntegers(), Denoising(X0), weight)
    expected = gradient(lambda model: denoising.at(model, x0, t, noise(len(t))))
    assert torch.allclose(gradient(lambda model: VariationalBound()(model, x0, t, noise(len(t)))), expected, rtol=1e-9)
    # Another variance is another weight.
    other = gradient(lambda model: VariationalBound(fixed_large)(model, x0, t, noise(len(t))))
    assert not torch.allclose(other, expected, rtol=1e-2)


def test_the_hybrid_trains_the_mean_as_l_simple_and_the_variance_as_the_bound() -> None:
    t = times(BETAS)
    x0 = normals(len(t), 2)

    def gradients(criterion: Criterion) -> tuple[Tensor, ...]:
        model = network(BETAS, learns=True)
        loss = criterion(model, x0, t, noise(len(t))).sum()
        return torch.autograd.grad(loss, (model.network.mean, model.network.variance), materialize_grads=True)

    hybrid, simple, vlb = (gradients(c) for c in (Hybrid(0.02), Denoising(EPSILON), VariationalBound(learned)))
    assert torch.allclose(hybrid[0], simple[0], rtol=1e-9)
    assert torch.allclose(hybrid[1], 0.02 * vlb[1], rtol=1e-9)
    assert simple[1].abs().max() == 0
    assert vlb[1].abs().min() > 0
    # Without the stop the bound would pull at the mean as well.
    assert not torch.allclose(hybrid[0], simple[0] + 0.02 * vlb[0], rtol=1e-2)


# -- what it learns ---------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """W x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, dtype=torch.float64)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        return self.linear(x)


def minimise(parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> None:
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=40, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=1e-14
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def learnt_error(criterion: Criterion, t: float, flip: float = 1.0) -> float:
    """Train a linear network on Gaussian data at one level; how far its score is from the truth, relatively."""
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    schedule = Discrete(betas=(0.3, 0.4, 0.5))
    truth = Gaussian(torch.tensor([0.5, -1.0]), covariance, schedule)
    model, rows = NetworkDenoiser(Linear(), schedule, edm_f(truth.sigma_data), truth.sigma_data), 100_000
    x0 = flip * truth.sample(rows, seed=2)
    at = torch.full((rows,), t, dtype=torch.float64)
    minimise(list(model.parameters()), lambda: criterion(model, x0, at, noise(rows)).mean())
    x = truth.sample(1000, seed=3, t=t)
    with torch.no_grad():
        return float((model.score(x, t) - truth.score(x, t)).norm() / truth.score(x, t).norm())


@pytest.mark.parametrize("t", [1.0, 2.0])
@pytest.mark.parametrize("variance", [fixed_small, fixed_large], ids=["small", "large"])
def test_its_minimiser_is_the_score(variance: StepVariance, t: float) -> None:
    # Six coefficients, each a regression on 100 000 rows, are off by about 1/√100 000 = 0.3 % of the score: at these
    # levels the noise is about as large as the data.
    assert learnt_error(VariationalBound(variance), t) < 0.01


def test_a_score_learnt_from_mirrored_data_is_caught() -> None:
    assert learnt_error(VariationalBound(), 2.0, flip=-1.0) > 0.01


class Given(Noise):
    """Noise that is written down."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(Stream(0, "given"), range(len(values)), 0)
        object.__setattr__(self, "values", values)

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        return self.values  # type: ignore[attr-defined]


def nodes(sigma_data: float) -> tuple[Tensor, Noise, Tensor]:
    """x0, ε and weights of the Gauss–Hermite rule for x0 ~ N(0, σ_data²), ε ~ N(0, 1): exact for what is quadratic."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(6))
    pairs, weights = torch.cartesian_prod(z, z), torch.cartesian_prod(w, w).prod(1) / (2 * math.pi)
    return sigma_data * pairs[:, :1], Given(pairs[:, 1:]), weights


class OwnVariance(Denoiser):
    """The exact model of a Gaussian, with one number for the share of its variance."""

    def __init__(self, sigma_data: float) -> None:
        super().__init__()
        self.truth = Gaussian(torch.zeros(1), torch.full((1, 1), sigma_data**2, dtype=torch.float64), BETAS)
        self.schedule, self.sigma_data = BETAS, sigma_data
        self.share = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        estimate = self.truth(x_t, t)
        return Estimate(estimate.x0, estimate.epsilon, estimate.level, self.share.expand_as(x_t))


@pytest.mark.parametrize("criterion", [VariationalBound(learned), Hybrid(1.0)], ids=["bound", "hybrid"])
@pytest.mark.parametrize("t", [2.0, 10.0, 40.0])
@pytest.mark.parametrize("sigma_data", [0.3, 0.9])
def test_a_learned_variance_becomes_that_of_the_process_backwards(
    sigma_data: float, t: float, criterion: Criterion
) -> None:
    model = OwnVariance(sigma_data)
    x0, drawn, weights = nodes(sigma_data)
    minimise([model.share], lambda: weights @ criterion(model, x0, torch.full((len(x0),), t).double(), drawn))
    # x_s and x_t are jointly normal: Var(x_s given x_t) = Var x_s − Cov²/Var x_t.
    step = step_down(BETAS, t, t - 1)
    x_s, x_t = ((level.alpha * sigma_data) ** 2 + level.sigma**2 for level in (step.below, step.now))
    true = x_s - (step.now.alpha / step.below.alpha * x_s) ** 2 / x_t
    with torch.no_grad():
        assert torch.allclose(step.variance(model.share), true, rtol=1e-6)
    assert 0 < model.share < 1


# -- which levels matter ----------------------------------------------------------------------------------------------


@tables
def test_levels_are_drawn_by_their_probabilities(schedule: Discrete) -> None:
    law, count = ImportantLevels(0.7), int(schedule.t_max)
    p = law.probabilities(schedule)
    assert float(p.sum()) == pytest.approx(1, rel=1e-12)
    assert (p >= 0.1 / count).all()
    t = law.quantile((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000, schedule)
    assert (t.diff() >= 0).all()
    # Even uniforms hit a level once too often or too seldom at most, at either end.
    assert torch.allclose(t.long().bincount(minlength=count + 1)[1:].double() / 1e5, p, atol=2e-5)
    tiny = 2.0**-53
    assert law.quantile(torch.tensor([tiny, 1 - tiny], dtype=torch.float64), schedule).tolist() == [1, count]


@tables
def test_levels_are_drawn_by_what_they_cost_where_data_are_gaussian(schedule: Discrete) -> None:
    truth = Gaussian(torch.zeros(1), torch.full((1, 1), 0.49, dtype=torch.float64), schedule)
    x0, drawn, weights = nodes(0.7)
    costs = torch.stack(
        [weights @ step_term(truth, x0, t, s, drawn, fixed_small)[:, 0] for s, t in pairwise(times(schedule))]
    )
    above_floor = ImportantLevels(0.7).probabilities(schedule)[1:] - 0.1 / schedule.t_max
    assert torch.allclose(above_floor / above_floor.sum(), costs / costs.sum(), rtol=1e-6)


class Bent(Denoiser):
    """The exact model with an error of a tenth in v, one parameter for each row: gradients come row by row."""

    def __init__(self, truth: GaussianMixture, theta: Tensor) -> None:
        super().__init__()
        self.truth, self.schedule, self.sigma_data, self.theta = truth, truth.schedule, truth.sigma_data, theta

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        exact = self.truth(x_t, t)
        y = x_t / torch.hypot(exact.level.alpha, exact.level.sigma)
        return V.split(exact.v + self.theta * y.flip(1).sin(), x_t, exact.level)


def test_important_levels_have_the_same_mean_and_far_less_variance() -> None:
    # H₀: equal means of loss and gradient, 20 000 rows each. Caught: the law without its weight. On DDPM's own table
    # the variance of the loss falls 65-fold and of the gradient 36-fold.
    schedule, rows = Discrete(betas=linear_betas()), 20_000
    truth = mixture(schedule)
    x0, law = truth.sample(rows, seed=1), ImportantLevels(truth.sigma_data)

    def drawn(objective: ScoreMatching, seed: int) -> tuple[Tensor, Tensor]:
        model = Bent(truth, torch.full((rows, 1), 0.1, dtype=torch.float64, requires_grad=True))
        u = Stream(seed, "u").uniform(rows)
        losses = objective(model, x0, Noise(Stream(seed, "noise"), range(rows), 0), u)
        return losses.detach(), torch.autograd.grad(losses.sum(), model.theta)[0][:, 0]

    uniform = drawn(presets.ddpm_vlb(), 1)
    important = drawn(presets.ddpm_vlb_importance(truth.sigma_data), 2)
    for a, b, least in zip(uniform, important, (30, 15), strict=True):
        assert abs(float(a.mean() - b.mean())) < 5 * math.sqrt(float(a.var() + b.var()) / rows)
        assert float(a.var()) > least * float(b.var())
    wrong = drawn(replace(presets.ddpm_vlb(), times=law), 2)
    a, b = important[1], wrong[1]
    assert abs(float(a.mean() - b.mean())) > 5 * math.sqrt(float(a.var() + b.var()) / rows)


# -- presets and faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [presets.ddpm_vlb(), presets.ddpm_vlb_importance(0.8), presets.ddpm_hybrid()],
    ids=["vlb", "i", "hybrid"],
)
def test_presets_train(objective: ScoreMatching) -> None:
    model, u = network(BETAS, learns=True), Stream(0, "u").uniform(50)
    losses = objective(model, normals(50, 2), noise(50), u)
    assert losses.shape == (50,)
    losses.sum().backward()
    assert model.network.mean.grad.abs().max() > 0


FAULTS: dict[str, tuple[str, Callable[[], object]]] = {
    "no variance learned": (
        "learns no variance: make it with learned_variance=True",
        lambda: VariationalBound(learned)(network(BETAS), normals(3, 2), torch.ones(3).double(), noise(3)),
    ),
    "hybrid without": (
        "learns no variance",
        lambda: presets.ddpm_hybrid()(network(BETAS), normals(3, 2), noise(3), torch.full((3,), 0.5).double()),
    ),
    "no levels": (
        "levels of a Discrete schedule: use presets.continuous_bound for VP",
        lambda: VariationalBound()(mixture(VP()), normals(3, 2), torch.ones(3).double(), noise(3)),
    ),
    "between levels": (
        "of whole levels: draw t from UniformIntegers",
        lambda: VariationalBound()(mixture(BETAS), normals(3, 2), torch.full((3,), 2.5).double(), noise(3)),
    ),
    "level of clean data": (
        "of whole levels",
        lambda: VariationalBound()(mixture(BETAS), normals(3, 2), torch.zeros(3).double(), noise(3)),
    ),
    "levels of no table": (
        "those of a Discrete schedule, got VP",
        lambda: ImportantLevels(1.0).quantile(torch.full((3,), 0.5).double(), VP()),
    ),
    "scale": ("must be positive, got 0", lambda: Hybrid(0.0)),
    "endless scale": ("must be positive, got nan", lambda: Hybrid(math.nan)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_use_is_refused(name: str) -> None:
    words, call = FAULTS[name]
    with pytest.raises(OptionError, match=words):
        call()
