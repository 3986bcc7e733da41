"""Log-likelihood against mixtures known in closed form: its value, its error, its rows, and what it refuses."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scorefield.errors import OptionError, SamplingError
from scorefield.exact import GaussianMixture
from scorefield.likelihood import log_prob as module
from scorefield.likelihood.log_prob import LogProb, log_prob
from scorefield.likelihood.whitened import Frame
from scorefield.model import Denoiser, NetworkDenoiser, reschedule
from scorefield.moments import Moments
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, VE, VP, Cosine, Flow, Schedule, SubVP
from scorefield.parametrization import Estimate, V
from scorefield.randomness import Stream

LOW, HIGH = 0.002, 2000.0  # of σ/α; data's own deviation is about one and a half
# At the top log q is off the Gaussian's by data's third cumulants, some √D (σ_d/σ_max)³: below 1e-8 here.


def between(make: Callable[..., Schedule], **options: float) -> Schedule:
    """A schedule from σ/α = LOW to HIGH."""
    whole = make(**options)
    return make(**options, t_min=float(whole.time_of_sigma(LOW)), t_max=float(whole.time_of_sigma(HIGH)))


SCHEDULES: dict[str, Schedule] = {
    "edm": EDM(LOW, HIGH),
    "ve": VE(LOW, HIGH),
    "vp": between(VP, beta_max=40.0),
    "subvp": between(SubVP, beta_max=40.0),
    "cosine": between(Cosine),
    "flow": between(Flow),
}


def mixture(dimension: int, schedule: Schedule = SCHEDULES["edm"], seed: int = 0) -> GaussianMixture:
    """Three Gaussians of different shapes, some two of their deviations apart, with the moments of data."""
    stream = Stream(seed, "mixture")
    means = 1.5 * stream.normal(3, (dimension,), dtype=torch.float64)
    a = stream.normal(3, (dimension, dimension), draw=1, dtype=torch.float64) / math.sqrt(dimension)
    spread = 0.3 * a @ a.mT + 0.1 * torch.eye(dimension, dtype=torch.float64)
    model = GaussianMixture(torch.tensor([0.2, 0.3, 0.5]), means, spread, schedule)
    model.moments = Moments.of(model.mean(), model.covariance())
    return model


def truth(model: GaussianMixture, x: Tensor) -> Tensor:
    """log p of x as data: of α x at the lowest level, in the units of x."""
    low = model.schedule.at(model.schedule.t_min)
    return model.log_prob(low.alpha * x, model.schedule.t_min) + x.shape[1] * low.alpha.log()


def errors(model: GaussianMixture, x: Tensor, **options: float) -> tuple[Tensor, LogProb]:
    found = log_prob(model, x, **options)  # type: ignore[arg-type]
    return (found.value - truth(model, x)).abs(), found


class Shaped(Denoiser):
    """A denoiser of vectors as one of rows of any shape."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model, self.schedule, self.sigma_data = model, model.schedule, model.sigma_data
        self.moments, self.asked = None, 0

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        assert len(x_t), "a network need not know what an empty batch is"
        self.asked += len(x_t)
        estimate = self.model(x_t.flatten(1), t)
        level = self.schedule.at(t, like=x_t)
        return Estimate(estimate.x0.reshape(x_t.shape), estimate.epsilon.reshape(x_t.shape), level)


class Shifted(Denoiser):
    """Data of a denoiser, moved by a condition (B, D): another one for each row."""

    def __init__(self, model: Denoiser, condition: Tensor) -> None:
        super().__init__()
        self.model, self.schedule, self.sigma_data, self.moments = (
            model,
            model.schedule,
            model.sigma_data,
            model.moments,
        )
        self.condition = condition

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        assert len(x_t) == len(self.condition)
        level = self.schedule.at(t, like=x_t)
        estimate = self.model(x_t - level.alpha * self.condition, t)
        return Estimate(estimate.x0 + self.condition, estimate.epsilon, level)

    def of_rows(self, places: Tensor) -> "Shifted":
        return Shifted(self.model, self.condition[places])


# -- the value --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "rows"), [(2, 60), (16, 40), (64, 3)])
def test_at_the_default_tolerance_log_p_is_known_to_1e_4(dimension: int, rows: int) -> None:
    model = mixture(dimension)
    error, _ = errors(model, model.sample(rows, 1))
    assert float(error.max()) < 1e-4


@pytest.mark.parametrize(("dimension", "rows"), [(2, 12), (16, 12), pytest.param(64, 8, marks=pytest.mark.slow)])
def test_at_a_tight_tolerance_it_is_known_to_1e_7(dimension: int, rows: int) -> None:
    model = mixture(dimension)
    error, _ = errors(model, model.sample(rows, 1), tolerance=1e-8)
    assert float(error.max()) < 1e-7


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_gives_the_same_numbers(name: str) -> None:
    model, x = mixture(4), mixture(4).sample(6, 1)
    expected = log_prob(model, x, tolerance=1e-7)
    for other in (mixture(4, SCHEDULES[name]), reschedule(model, SCHEDULES[name])):
        found = log_prob(other, x, tolerance=1e-7)
        assert float((found.value - expected.value).abs().max()) < 1e-8
        assert float((found.value - truth(model, x)).abs().max()) < 1e-7
        probed, again = (log_prob(each, x, probes=2) for each in (model, other))
        assert torch.allclose(probed.value, again.value, rtol=0, atol=1e-4)
        assert torch.allclose(probed.trace_error, again.trace_error, rtol=1e-3)


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_log_p_at_a_noise_level_is_that_of_noisy_data(name: str) -> None:
    schedule = SCHEDULES[name]
    model = mixture(3, schedule)
    for sigma in (0.05, 1.0, 30.0):
        t = schedule.time_of_sigma(sigma)
        x = model.sample(8, 1, t=t)
        found = log_prob(model, x, t, tolerance=1e-6)
        assert float((found.value - model.log_prob(x, t)).abs().max()) < 1e-6
    for t in (schedule.t_max, schedule.t_min):
        x = model.sample(8, 1, t=t)
        for probes in (None, 2):
            found = log_prob(model, x, t, tolerance=1e-6, probes=probes)
            error = (found.value - model.log_prob(x, t)).abs()
            assert (error < 1e-6 + 5 * found.trace_error).all()
            assert found.std_error.isfinite().all()


def test_what_the_gaussian_at_the_top_leaves_out_falls_with_the_third_power_of_noise() -> None:
    # Third cumulants: twice the noise leaves an eighth. A Gaussian without the data's mean, the planted bug, is off in
    # first order.
    model = mixture(16)
    isotropic = Moments.isotropic(model.sigma_data**2)
    for moments, least, most in ((model.moments, 6.5, 9.5), (isotropic, 1.5, 5.0)):
        medians = []
        for high in (25.0, 50.0):
            other = mixture(16, EDM(LOW, high))
            other.moments = moments
            medians.append(float(errors(other, other.sample(100, 1), tolerance=1e-6)[0].median()))
        assert least < medians[0] / medians[1] < most


def test_images_are_rows_like_others() -> None:
    flat = mixture(16)
    x, shaped = flat.sample(4, 1), Shaped(flat)
    shaped.moments = replace(flat.moments, mean=flat.mean().reshape(1, 4, 4))
    image = x.reshape(4, 1, 4, 4)
    for probes in (None, 2):
        a, b = log_prob(flat, x, probes=probes), log_prob(shaped, image, probes=probes)
        assert torch.allclose(a.value, b.value, rtol=0, atol=1e-9)
        assert torch.allclose(a.std_error, b.std_error, rtol=1e-5, atol=1e-12)


def test_evaluations_and_traces_are_those_that_were_asked_for() -> None:
    model = Shaped(mixture(3))
    x = mixture(3).sample(7, 1)
    for probes in (None, 3):
        model.asked = 0
        found = log_prob(model, x, probes=probes)
        assert model.asked == int(found.evaluations.sum() + found.traces.sum())


def small_network() -> NetworkDenoiser:
    torch.manual_seed(3)
    network = MLP((2,), width=16, depth=2)
    with torch.no_grad():
        network.out.weight.normal_(std=0.35)
    model = NetworkDenoiser(network.double(), EDM(0.2, 200.0), V, 1.0)
    spread = torch.tensor([[1.2, 0.3], [0.3, 0.8]], dtype=torch.float64)
    model.moments = Moments.of(torch.tensor([0.2, -0.1], dtype=torch.float64), spread)
    return model


def mass(model: Denoiser, **options: float) -> float:
    """∫ p over [−8, 8]² by the trapezoid rule, which is precise for smooth functions that fade before the ends."""
    at = torch.linspace(-8, 8, 81, dtype=torch.float64)
    found = log_prob(model, torch.cartesian_prod(at, at), **options)  # type: ignore[arg-type]
    return float(found.value.exp().sum() * (at[1] - at[0]) ** 2)


def test_the_density_of_any_network_has_mass_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_network()
    # The waves of noise in a network are rough functions of θ: rows are off by a few of the tolerance.
    assert mass(model, tolerance=1e-6) == pytest.approx(1, abs=1e-4)
    # The planted bug: a trace that is a fifth too small.
    whole = module.divergence

    def less(field: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        value, trace = whole(field, x)
        return value, 0.8 * trace

    monkeypatch.setattr(module, "divergence", less)
    assert abs(mass(model, tolerance=1e-4) - 1) > 1e-2


# -- the error --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tolerance", "least"), [(1e-3, 0.94), (1e-4, 0.94), (1e-6, 0.94)])
def test_without_probes_the_error_told_covers_the_true_one(tolerance: float, least: float) -> None:
    # Of 240 rows; by zero error told none would be covered, and by a tenth of it about a half.
    shares, told, true = [], [], []
    for dimension, seed in ((2, 0), (2, 1), (2, 2), (16, 1)):
        model = mixture(dimension, EDM(LOW, 400.0), seed)
        error, found = errors(model, model.sample(60, 5), tolerance=tolerance)
        shares.append(error <= 3 * found.std_error)
        told.append(found.std_error)
        true.append(error)
        assert torch.equal(found.trace_error, torch.zeros(60, dtype=torch.float64))
    assert float(torch.cat(shares).double().mean()) > least
    assert float(torch.cat(true).max()) < tolerance
    # It is no excuse either: what is told is of the size of what was asked for.
    assert float(torch.cat(told).median()) < 5 * tolerance


def scores(dimension: int, probes: int) -> Tensor:
    """(estimate − truth)/standard error of 500 rows, each with its own probes."""
    model = mixture(dimension, EDM(LOW, 100.0))
    x = model.sample(500, 3)
    found = log_prob(model, x, tolerance=1e-3, probes=probes, seed=1)
    return (found.value - truth(model, x)) / found.std_error


def misfit(z: Tensor) -> float:
    """How far numbers are from standard normals; 1 and above is too far.

    H₀: independent standard normals. |mean|√n over 4.5 (false alarm 7e-6), (variance − 1)√(n/2) over 4.5, with 0.1 on
    top as the error is itself estimated, from P − 1 degrees of freedom a node, and z has the tails of a t distribution
    (below 1e-5), and √n sup|F_n − F| over 2.4 (at most 2 exp(−2·2.4²) = 2e-5, Massart 1990): together below 1e-4.
    """
    n = len(z)
    shares = torch.special.ndtr(z.sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    apart = torch.maximum((steps[1:] - shares).max(), (shares - steps[:-1]).max())
    variance = (float(z.var()) - 1) / (4.5 * math.sqrt(2 / n) + 0.1)
    return max(float(z.mean().abs()) * math.sqrt(n) / 4.5, abs(variance), float(apart) * math.sqrt(n) / 2.4)


@pytest.mark.parametrize("probes", [4, 8])
def test_with_probes_the_error_over_its_standard_error_is_normal(probes: int) -> None:
    z = scores(8, probes)
    assert misfit(z) < 1
    # The planted bug: a standard error of one probe, not of the mean of all.
    assert misfit(z / math.sqrt(probes)) > 1


def test_probes_used_again_at_every_node_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = module._signs
    monkeypatch.setattr(module, "_signs", lambda stream, rows, like, node, draw: fresh(stream, rows, like, 0, draw))
    assert misfit(scores(8, 4)) > 1


def test_a_known_slope_of_the_wrong_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Frame.gaussian_quadratic
    monkeypatch.setattr(Frame, "gaussian_quadratic", lambda self, z: -right(self, z))
    assert misfit(scores(8, 4)) > 1


def test_the_known_slope_of_the_gaussian_takes_its_noise_away(monkeypatch: pytest.MonkeyPatch) -> None:
    # All of it where data are one Gaussian, and about half where modes are close together and alike.
    a = Stream(0, "a").normal(8, (8,), dtype=torch.float64)
    one = torch.stack([a @ a.T / 2] * 3)
    models = [GaussianMixture(torch.ones(3), shift * mixture(8).means, one, EDM(LOW, 100.0)) for shift in (0.0, 0.5)]
    told = []
    for model in models:
        model.moments = Moments.of(model.mean(), model.covariance())
        told.append(log_prob(model, model.sample(20, 3), probes=4).trace_error)
    assert float(told[0].max()) < 1e-9
    monkeypatch.setattr(Frame, "gaussian_quadratic", lambda self, z: self.gaussian_divergence().expand(len(z)))
    for before, model in zip(told, models, strict=True):
        after = log_prob(model, model.sample(20, 3), probes=4).trace_error
        assert float(before.median()) < 0.7 * float(after.median())


def test_more_probes_leave_less_error_and_other_seeds_draw_others() -> None:
    model = mixture(8)
    x = model.sample(60, 3)
    few, many, other = (log_prob(model, x, probes=p, seed=s) for p, s in ((2, 0), (32, 0), (2, 1)))
    # By √16, each from some tens of degrees of freedom.
    assert float(few.trace_error.square().mean().sqrt() / many.trace_error.square().mean().sqrt()) == pytest.approx(
        4, rel=0.2
    )
    assert not torch.equal(few.value, other.value)
    assert torch.equal(few.value, log_prob(model, x, probes=2, seed=0).value)


def test_where_signs_leave_no_noise_the_rule_tells_its_own_error() -> None:
    # Of one number a sign's estimate is exact. Two narrow modes in one dimension are too sharp for so few nodes.
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    model = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), 0.15**2 * one, EDM(LOW, 400.0))
    model.moments = Moments.of(model.mean(), model.covariance())
    x = torch.linspace(-1.3, 1.3, 27, dtype=torch.float64).reshape(-1, 1)
    error, found = errors(model, x, probes=4)
    assert float(found.trace_error.max()) == 0
    assert float(error.max()) > 1e-3
    assert float((error <= 3 * found.std_error).double().mean()) > 0.9


def test_what_a_walk_is_off_by_leaves_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # By (2) log p is that of any curve: a hundred times as rough a walk gives the same numbers to 1e-6, of which the
    # divergence along it alone, the planted bug, is off by a thousand times as much.
    model = mixture(2)
    x = model.sample(30, 1)
    monkeypatch.setattr(module, "_SHARE", 100 * module._SHARE)
    error, _ = errors(model, x, tolerance=1e-6)
    assert float(error.max()) < 1e-6
    monkeypatch.setattr(module._Nodes, "missed", lambda self, v: torch.zeros(len(v), dtype=torch.float64))
    error, _ = errors(model, x, tolerance=1e-6)
    assert float(error.max()) > 1e-4


# -- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [None, 4])
@pytest.mark.parametrize("dimension", [2, 16])
def test_row_i_does_not_depend_on_the_others_nor_on_chunks(dimension: int, probes: int | None) -> None:
    model = mixture(dimension, EDM(LOW, 100.0))
    x = model.sample(23, 1)
    x[5] *= 3  # a hard row
    whole = log_prob(model, x, probes=probes)
    for a, b in ((0, 1), (1, 4), (4, 23), (5, 6)):
        part = log_prob(model, x[a:b], probes=probes, rows=range(a, b))
        assert torch.allclose(part.value, whole.value[a:b], rtol=0, atol=1e-9)
        assert torch.allclose(part.std_error, whole.std_error[a:b], rtol=1e-4, atol=1e-10)
        assert torch.equal(part.evaluations, whole.evaluations[a:b])
    if probes is None:
        order = torch.from_numpy(Stream(0, "order").permutation(23))
        assert torch.allclose(log_prob(model, x[order]).value, whole.value[order], rtol=0, atol=1e-9)


def test_rows_that_leave_take_their_conditions_with_them() -> None:
    # The Gaussian at the top is that of data without a condition: off by the mean's shift, to first order in σ_d/σ_max.
    plain = mixture(3, EDM(LOW, 1e6))
    shift = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1) * torch.tensor([1.0, 0.5, -1.0]).double()
    x0 = plain.sample(9, 1)
    x0[4] *= 4
    model = Shifted(plain, shift)
    for probes in (None, 4):
        found = log_prob(model, x0 + shift, probes=probes)
        assert len(found.evaluations.unique()) > 2  # else nobody left
        for row in range(9):
            alone = Shifted(plain, shift[row : row + 1])
            other = log_prob(alone, (x0 + shift)[row : row + 1], probes=probes, rows=range(row, row + 1))
            assert float(other.value) == pytest.approx(float(found.value[row]), abs=1e-9)
    assert float((log_prob(model, x0 + shift).value - truth(plain, x0)).abs().max()) < 1e-4


def test_single_precision_is_worth_what_it_can_resolve() -> None:
    model = mixture(16)
    x = model.sample(8, 1).float()
    _, found = errors(model, x.double(), tolerance=1e-3)
    single = log_prob(model, x, tolerance=1e-3)
    assert single.value.dtype == single.std_error.dtype == torch.float64
    assert float((single.value - truth(model, x.double())).abs().max()) < 2e-3
    assert torch.allclose(single.std_error, found.std_error, rtol=0.5, atol=1e-4)


def test_no_rows_are_no_numbers() -> None:
    for probes in (None, 4):
        found = log_prob(mixture(2), torch.zeros(0, 2, dtype=torch.float64), probes=probes)
        assert found.value.shape == found.std_error.shape == found.traces.shape == (0,)


# -- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, math.nan, math.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    with pytest.raises(OptionError, match="nats, finite and above 0, got"):
        log_prob(mixture(2), torch.zeros(1, 2), tolerance=tolerance)


@pytest.mark.parametrize("probes", [1, 0, -3])
def test_too_few_probes_are_refused(probes: int) -> None:
    with pytest.raises(OptionError, match=f"at least 2 probes are needed.*got {probes}"):
        log_prob(mixture(2), torch.zeros(1, 2), probes=probes)


@pytest.mark.parametrize("t", [0.0, LOW / 2, 2 * HIGH, math.nan])
def test_a_time_out_of_range_is_refused(t: float) -> None:
    with pytest.raises(SamplingError, match=r"times are from 0\.002 to 2000, got t = "):
        log_prob(mixture(2), torch.zeros(1, 2), t)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_no_number_is_named(value: float) -> None:
    x = mixture(2).sample(5, 1)
    x[3, 1] = value
    with pytest.raises(
        SamplingError, match=r"1 of 5 rows cannot go on, row 103: the field is not finite in step 0, at t = 0\.002"
    ):
        log_prob(mixture(2), x, rows=range(100, 105))


class Hurt(Denoiser):
    """A model that is not finite where numbers are high and noise is low: its values, or only its derivative there."""

    def __init__(self, model: Denoiser, above: float, values: bool) -> None:
        super().__init__()
        self.model, self.schedule, self.sigma_data, self.moments = model, model.schedule, model.sigma_data, None
        self.above, self.values = above, values

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        x0 = self.model(x_t, t).x0
        # A root has an infinite slope at 0, and nought times that is none.
        there = (x_t > self.above) & (level.sigma < 0.1)
        over = torch.where(there, math.nan if self.values else x_t - x_t.detach(), 1.0).sqrt()
        x0 = x0 + 0 * over
        return Estimate(x0, (x_t - level.alpha * x0) / level.sigma, level)


@pytest.mark.parametrize("probes", [None, 4])
@pytest.mark.parametrize("values", [True, False])
def test_rows_at_which_a_model_is_not_finite_stop_alone(values: bool, probes: int | None) -> None:
    whole = mixture(2)
    x = whole.sample(5, 1).clamp(max=4)
    x[3, 0] = 50.0
    hurt = Hurt(whole, 49.0, values)
    found = log_prob(hurt, x, probes=probes, rows=range(100, 105), strict=False)
    assert list(found.faults) == [103]
    assert ("field" if values else "divergence") in found.faults[103]
    for kept in (found.value, found.std_error):
        assert kept.isnan().tolist() == [row == 3 for row in range(5)]
    others = [0, 1, 2, 4]
    clean = log_prob(Hurt(whole, 1e9, values), x, probes=probes, rows=range(100, 105))
    torch.testing.assert_close(found.value[others], clean.value[others], rtol=0, atol=1e-9)
    assert not clean.faults
    with pytest.raises(SamplingError, match="1 of 5 rows cannot go on, row 103"):
        log_prob(hurt, x, probes=probes, rows=range(100, 105))
