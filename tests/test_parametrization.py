"""Laws of the table of notations: 36 conversions, errors that scale by determinants, and the weights of the papers."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from scorefield.discrete import Discrete
from scorefield.noise import EDM, VE, VP, Cosine, Flow, NoiseLevel, Schedule, SubVP
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, Estimate, Parametrization, V, edm_f, when_asked
from scorefield.randomness import Stream

SIGMA_DATA = 0.7
NOTATIONS = {"x0": X0, "epsilon": EPSILON, "score": SCORE, "v": V, "velocity": VELOCITY, "F": edm_f(SIGMA_DATA)}
SCHEDULES: dict[str, Schedule] = {
    "ve": VE(0.05, 20.0),
    "vp": VP(),
    "subvp": SubVP(),
    "cosine": Cosine(),
    "edm": EDM(0.02, 20.0),
    "flow": Flow(),
    "betas": Discrete(betas=tuple(0.01 * k for k in range(1, 20))),
    "sigmas": Discrete(sigmas=tuple(0.05 * 1.5**k for k in range(15))),
}
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)
each_pair = pytest.mark.parametrize(("p", "q"), list(itertools.product(NOTATIONS, NOTATIONS)))


def some(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor, NoiseLevel]:
    """x0, ε and x_t, (9, 2, 3) float64, at nine inner levels with 0.05 ≤ σ/α ≤ 10."""
    x0 = 3 * Stream(0, "clean").normal(9, (2, 3), dtype=torch.float64)
    epsilon = Stream(0, "noise").normal(9, (2, 3), dtype=torch.float64)
    t = schedule.time_of_sigma(torch.logspace(math.log10(0.06), 1, 9, dtype=torch.float64))
    return x0, epsilon, schedule.add_noise(x0, t, epsilon), schedule.at(t, like=x0)


def convert(y: Tensor, x_t: Tensor, level: NoiseLevel, p: Parametrization, q: Parametrization) -> Tensor:
    estimate = p.split(y, x_t, level)
    return q.of(estimate.x0, estimate.epsilon, level)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    """Equal to `tolerance` of the largest element of each row: conversions cancel, so not of each element."""
    scale = b.abs().flatten(1).amax(1).reshape(-1, *[1] * (b.ndim - 1))
    return bool(((a - b).abs() <= tolerance * scale).all())


# -- conversions ------------------------------------------------------------------------------------------------------


@each_schedule
@each_pair
def test_a_conversion_and_its_way_back_change_nothing(p: str, q: str, schedule: Schedule) -> None:
    x0, epsilon, x_t, level = some(schedule)
    first, second = NOTATIONS[p], NOTATIONS[q]
    y = first.of(x0, epsilon, level)
    there = convert(y, x_t, level, first, second)
    assert close(there, second.of(x0, epsilon, level))
    assert close(convert(there, x_t, level, second, first), y)


@each_schedule
@pytest.mark.parametrize("name", NOTATIONS)
def test_what_was_put_in_is_read_out(name: str, schedule: Schedule) -> None:
    x0, epsilon, x_t, level = some(schedule)
    estimate = NOTATIONS[name].split(NOTATIONS[name].of(x0, epsilon, level), x_t, level)
    assert close(estimate.x0, x0)
    assert close(estimate.epsilon, epsilon)


@each_schedule
@pytest.mark.parametrize("name", NOTATIONS)
def test_any_output_at_all_agrees_with_x_t(name: str, schedule: Schedule) -> None:
    # A network may say what it likes: the clean data and the noise that are read from it still add up to x_t.
    _, _, x_t, level = some(schedule)
    output = 5 * Stream(1, "output").normal(9, (2, 3), dtype=torch.float64)
    estimate = NOTATIONS[name].split(output, x_t, level)
    assert close(schedule.add_noise(estimate.x0, level.t.flatten(), estimate.epsilon), x_t)


@each_schedule
@pytest.mark.parametrize("name", NOTATIONS)
def test_the_score_is_a_sum_of_x_t_and_the_output(name: str, schedule: Schedule) -> None:
    # Against the way by x0 and ε; p and q themselves are what the score says of (x_t, y) = (1, 0) and (0, 1).
    _, _, x_t, level = some(schedule)
    output = 5 * Stream(1, "output").normal(9, (2, 3), dtype=torch.float64)
    p, q = NOTATIONS[name].score_coefficients(level)
    assert p.shape == q.shape == level.sigma.shape
    assert close(p * x_t + q * output, NOTATIONS[name].split(output, x_t, level).score, 1e-9)


def test_an_estimate_says_the_same_in_every_notation() -> None:
    x0, epsilon, x_t, level = some(SCHEDULES["cosine"])
    estimate = Estimate(x0, epsilon, level)
    # v is the velocity along the circle α = cos φ, σ = sin φ (Salimans & Ho 2022): dx/dφ.
    angle = torch.atan2(level.sigma, level.alpha)
    h = 1e-6
    on_the_circle = (torch.cos(angle + h) - torch.cos(angle - h)) * x0 + (
        torch.sin(angle + h) - torch.sin(angle - h)
    ) * epsilon
    assert close(estimate.v, on_the_circle / (2 * h), 1e-8)
    # The velocity moves x_t along its own path of fixed x0 and ε.
    t = level.t.flatten()
    moved = [SCHEDULES["cosine"].add_noise(x0, t + d, epsilon) for d in (-h, h)]
    assert close(estimate.velocity, (moved[1] - moved[0]) / (2 * h), 1e-6)
    # The score of the Gaussian kernel is the gradient of its log-density, so with a minus and over σ².
    kernel = torch.distributions.Normal(level.alpha * x0, level.sigma.expand_as(x0))
    point = x_t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kernel.log_prob(point).sum(), point)
    assert close(estimate.score, gradient)


@each_schedule
def test_velocity_is_the_probability_flow(schedule: Schedule) -> None:
    # design.md §1: α′ x̂0 + σ′ ε̂ = f x − ½ g² s, whatever x̂0 and ε̂ are.
    x0, epsilon, x_t, level = some(schedule)
    estimate = Estimate(x0, epsilon, level)
    flow = level.drift * x_t - level.diffusion_squared / 2 * estimate.score
    assert close(estimate.velocity, flow, 1e-9)


def test_types_follow_x_t() -> None:
    x0, epsilon, x_t, level = some(VP())
    for name, notation in NOTATIONS.items():
        y = notation.of(x0.float(), epsilon.float(), level)
        estimate = notation.split(y.bfloat16(), x_t.float(), level)
        assert (y.dtype, estimate.x0.dtype, estimate.epsilon.dtype) == (torch.float32,) * 3, name


# -- what is read later -----------------------------------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("name", NOTATIONS)
def test_noise_that_is_read_later_is_the_noise_that_is_read_at_once(name: str, schedule: Schedule) -> None:
    # At levels of the rows, and at one of a grid, whose coefficients are plain numbers.
    _, _, x_t, level = some(schedule)
    output = 5 * Stream(1, "output").normal(9, (2, 3), dtype=torch.float64)
    for one in (level, schedule.at(level.t.flatten()).each()[4]):
        at_once = NOTATIONS[name].split(output, x_t, one)
        with torch.no_grad():
            later = NOTATIONS[name].split(output, x_t, one)
        assert torch.equal(later.x0, at_once.x0)
        assert torch.equal(later.epsilon, at_once.epsilon)


def test_noise_is_made_once_and_only_when_it_is_read() -> None:
    x0, epsilon, x_t, level = some(VP())
    made: list[int] = []

    def make() -> Tensor:
        made.append(1)
        return epsilon

    with torch.no_grad():
        estimate = Estimate(x0, when_asked(make, x_t), level)
        assert estimate.x0 is x0
        assert not made
        assert estimate.epsilon is estimate.epsilon is epsilon
        assert torch.equal(estimate.v, Estimate(x0, epsilon, level).v)
    assert made == [1]


def test_noise_is_not_read_off_an_x_that_was_written_to() -> None:
    x0, _, x_t, level = some(VP())
    with torch.no_grad():
        read, late = (X0.split(x0, x_t, level) for _ in range(2))
        expected = read.epsilon.clone()
        x_t.zero_()
        assert torch.equal(read.epsilon, expected)
        with pytest.raises(RuntimeError, match="x_t was written to before"):
            _ = late.score
    with torch.inference_mode():  # where nobody counts what is written to
        assert X0.split(x0.clone(), x_t.clone(), level).epsilon.shape == x_t.shape


def test_gradients_are_those_of_the_moment_of_the_estimate_not_of_the_reading() -> None:
    _, _, x_t, level = some(VP())
    output = torch.ones_like(x_t).requires_grad_()
    estimate = X0.split(output, x_t, level)
    with torch.no_grad():
        read = estimate.epsilon
    # ε = (x_t − α x0)/σ, of which the gradient in x0 is −α/σ.
    (gradient,) = torch.autograd.grad(read.sum(), output)
    assert torch.allclose(gradient, (-level.alpha / level.sigma).expand_as(x_t), rtol=1e-12)
    with torch.no_grad():
        silent = X0.split(output.detach(), x_t.clone().requires_grad_(), level)
    assert not silent.epsilon.requires_grad


# -- errors and weights -----------------------------------------------------------------------------------------------


@each_schedule
@each_pair
def test_squared_errors_convert_by_determinants(p: str, q: str, schedule: Schedule) -> None:
    x0, epsilon, x_t, level = some(schedule)
    first, second = NOTATIONS[p], NOTATIONS[q]
    y = first.of(x0, epsilon, level)
    wrong = y + Stream(2, "error").normal(9, (2, 3), dtype=torch.float64) * y.abs().mean()
    in_p = (wrong - y).square().flatten(1).sum(1)
    in_q = (
        (convert(wrong, x_t, level, first, second) - convert(y, x_t, level, first, second)).square().flatten(1).sum(1)
    )
    ratio = (first.determinant(level) / second.determinant(level)).square().flatten()
    assert torch.allclose(in_p, ratio * in_q, rtol=1e-8)


def weight(loss: Parametrization, of: Parametrization, level: NoiseLevel) -> Tensor:
    """How many times larger the squared error is in one notation than in another."""
    return (loss.determinant(level) / of.determinant(level)).square().flatten()


@each_schedule
def test_the_weights_of_the_papers_follow(schedule: Schedule) -> None:
    *_, level = some(schedule)
    t = level.t.flatten()
    # Ho et al. 2020: the loss in ε is the σ²-weighted loss in the score.
    assert torch.allclose(weight(EPSILON, SCORE, level), level.sigma.flatten() ** 2, rtol=1e-12)
    # Salimans & Ho 2022: the loss in ε is the loss in x0 times the signal-to-noise ratio.
    assert torch.allclose(weight(EPSILON, X0, level), level.snr.flatten(), rtol=1e-12)
    # Song et al. 2021, Kingma et al. 2021: g² times the loss in the score is −d log snr/dt times the loss in ε.
    h = 1e-6 * t
    slope = (schedule.at(t + h).log_snr - schedule.at(t - h).log_snr) / (2 * h)
    g_squared = level.diffusion_squared.flatten()
    smooth = (t - t.round()).abs() > 1e-3 if isinstance(schedule, Discrete) else torch.ones(9, dtype=torch.bool)
    assert torch.allclose((g_squared * weight(SCORE, EPSILON, level))[smooth], -slope[smooth], rtol=1e-6)


@pytest.mark.parametrize("name", ["vp", "cosine", "betas"])
def test_the_weight_of_v_is_one_more_than_the_signal_to_noise_ratio(name: str) -> None:
    # Salimans & Ho 2022, §4, where α² + σ² = 1.
    *_, level = some(SCHEDULES[name])
    assert torch.allclose(weight(V, X0, level), level.snr.flatten() + 1, rtol=1e-12)


def test_the_weight_of_edm_is_the_published_one() -> None:
    # Karras et al. 2022, Table 1: λ(σ) = (σ² + σ_data²)/(σ σ_data)² on the loss in x0 makes the loss in F plain.
    *_, level = some(SCHEDULES["edm"])
    sigma = level.sigma.flatten()
    published = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    assert torch.allclose(weight(NOTATIONS["F"], X0, level), published, rtol=1e-12)


def test_the_weight_of_a_straight_flow_is_one_over_t_squared() -> None:
    # With α = 1 − t, σ = t: velocity = ε − x0 = (x_t − x0)/t.
    *_, level = some(SCHEDULES["flow"])
    assert torch.allclose(weight(VELOCITY, X0, level), 1 / level.t.flatten() ** 2, rtol=1e-12)
    # And ε = x_t + (1 − t) velocity.
    assert torch.allclose(weight(VELOCITY, EPSILON, level), 1 / (1 - level.t.flatten()) ** 2, rtol=1e-12)


# -- F ----------------------------------------------------------------------------------------------------------------


def test_f_has_the_published_scalings_without_signal_decay() -> None:
    # Karras et al. 2022, Table 1: D(x; σ) = c_skip x + c_out F, read off at (x, F) = (1, 0) and (0, 1).
    sigma = torch.logspace(-2, 2, 30, dtype=torch.float64)
    level = EDM(1e-3, 1e3).at(sigma, like=torch.zeros(30, 1))
    one, zero = torch.ones(30, 1, dtype=torch.float64), torch.zeros(30, 1, dtype=torch.float64)
    c_skip, c_out = (NOTATIONS["F"].split(f, x, level).x0.flatten() for x, f in ((one, zero), (zero, one)))
    assert torch.allclose(c_skip, SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2), rtol=1e-12)
    assert torch.allclose(c_out, sigma * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt(), rtol=1e-12)


@each_schedule
@pytest.mark.parametrize("sigma_data", [0.1, 1.0, 30.0])
def test_f_has_unit_variance_and_leaves_out_what_x_t_says(schedule: Schedule, sigma_data: float) -> None:
    # For x0 ~ N(0, σ_data²): Var F = a²σ_data² + b² = 1 (Karras et al. 2022, appendix B.6); c_skip, which makes c_out
    # smallest, is the regression of x0 on x_t, so that Cov(F, x_t) = aα σ_data² + bσ = 0.
    level = schedule.at(torch.linspace(schedule.t_min, schedule.t_max, 50, dtype=torch.float64)[:-1])
    a, b = edm_f(sigma_data).row(level)
    assert torch.allclose(a**2 * sigma_data**2 + b**2, torch.ones_like(a), rtol=1e-12)
    signal = a * level.alpha * sigma_data**2
    assert ((signal + b * level.sigma).abs() <= 1e-12 * (signal.abs() + (b * level.sigma).abs())).all()


def test_f_of_one_deviation_is_one_notation() -> None:
    assert edm_f(0.5) is edm_f(0.5)
    assert edm_f(0.5) is not edm_f(0.25)


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["epsilon", "score"])
def test_a_flow_without_signal_cannot_be_read_through_noise(name: str) -> None:
    flow, x = Flow(), torch.ones(3, 2)
    for t in (torch.tensor(1.0), torch.tensor([0.5, 1.0, 0.25])):
        with pytest.raises(ValueError, match=f"{name} does not determine x0 at t = 1,"):
            NOTATIONS[name].split(x, x, flow.at(t, like=x))


@pytest.mark.parametrize("name", ["x0", "v", "velocity", "F"])
def test_a_flow_without_signal_can_be_read_through_the_others(name: str) -> None:
    x0 = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    epsilon = torch.tensor([[0.5, 3.0]], dtype=torch.float64)
    level = Flow().at(1.0)
    estimate = NOTATIONS[name].split(NOTATIONS[name].of(x0, epsilon, level), epsilon, level)
    assert close(estimate.x0, x0)
    assert close(estimate.epsilon, epsilon)


def test_noiseless_data_says_nothing_of_the_noise() -> None:
    level = NoiseLevel(VP(), *(torch.tensor(v, dtype=torch.float64) for v in (0.0, 1.0, 0.0)))
    with pytest.raises(ValueError, match="x0 does not determine x0 at t = 0,"):
        X0.split(torch.ones(1, 2), torch.ones(1, 2), level)
