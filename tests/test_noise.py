"""Laws of the schedules: inverses, the SDEs that the papers print, noise in one go or in several, broadcasting."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scorefield.betas import linear_betas, linear_betas_between
from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.mixing import mix
from scorefield.noise import EDM, VE, VP, Clean, Cosine, Flow, NoiseLevel, Schedule, SubVP

BETAS = tuple(float(b) for b in torch.linspace(1e-3, 0.2, 30, dtype=torch.float64))
SIGMAS = tuple(0.01 * 1.4**k for k in range(20))
SCHEDULES: dict[str, Schedule] = {
    "ve": VE(0.01, 50.0),
    "vp": VP(),
    "subvp": SubVP(),
    "cosine": Cosine(),
    "edm": EDM(0.002, 80.0),
    "flow": Flow(),
    "betas": Discrete(betas=BETAS),
    "sigmas": Discrete(sigmas=SIGMAS),
    "ddpm": Discrete(betas=linear_betas()),
    "vp from no noise": VP(beta_min=0.0, beta_max=5.0),
}
each = pytest.mark.parametrize("name", SCHEDULES)


def times(schedule: Schedule, count: int = 40, last: float = 1.0) -> Tensor:
    """Inner times of a schedule, dense towards t_min, none of them whole."""
    u = torch.linspace(0.01, last - 0.007, count, dtype=torch.float64) ** 2
    return schedule.t_min + u * (schedule.t_max - schedule.t_min)


# -- the clock --------------------------------------------------------------------------------------------------------


@each
def test_time_is_read_back_from_the_signal_to_noise_ratio(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.cat((torch.tensor([schedule.t_min], dtype=torch.float64), times(schedule, 200)))
    read = schedule.time_of(schedule.at(t).log_snr)
    assert torch.allclose(read, t, rtol=1e-9, atol=1e-12 * schedule.t_max)
    assert schedule.time_of(schedule.at(t[3]).log_snr).shape == ()


@each
def test_time_is_read_back_at_the_end(name: str) -> None:
    schedule = SCHEDULES[name]
    # Where α is e^{−5} or less, only the digits of α itself are left, so σ/α is compared and not t.
    last = torch.tensor(schedule.t_max, dtype=torch.float64)
    assert float(schedule.time_of(schedule.at(last).log_snr)) == pytest.approx(schedule.t_max, rel=1e-9)


@each
@settings(deadline=None, max_examples=30)
@given(log_sigma=st.floats(-3.5, 3.5))
def test_a_time_of_sigma_has_that_much_noise(name: str, log_sigma: float) -> None:
    schedule = SCHEDULES[name]
    level = schedule.at(schedule.time_of_sigma(math.exp(log_sigma)))
    assert float((level.sigma / level.alpha).log()) == pytest.approx(log_sigma, abs=1e-9)


@each
def test_noise_grows_and_signal_never_does(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(schedule.t_min, schedule.t_max, 2001, dtype=torch.float64)
    level = schedule.at(t)
    assert (level.log_snr.diff() < 0).all()
    assert (level.alpha.diff() <= 0).all()
    assert (level.sigma > 0).all()
    assert (level.snr.log() - level.log_snr)[:-1].abs().max() < 1e-9


# -- the stochastic differential equation -----------------------------------------------------------------------------


def linear_beta(t: Tensor, low: float = 0.1, high: float = 20.0) -> tuple[Tensor, Tensor]:
    """β(t) of Song et al. 2021, Eq. 32, and ∫β by the trapezoid rule, which is exact for a straight line."""
    beta = low + t * (high - low)
    return beta, t * (low + beta) / 2


def sde_of_vp(t: Tensor) -> tuple[Tensor, Tensor]:
    beta, _ = linear_beta(t)
    return -beta / 2, beta


def sde_of_subvp(t: Tensor) -> tuple[Tensor, Tensor]:
    beta, integral = linear_beta(t)
    return -beta / 2, beta * (1 - torch.exp(-2 * integral))


def sde_of_cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    # α = cos u / cos u(0) gives f = −u′ tan u; a schedule that keeps the variance has g² = −2f.
    f = -(math.pi / 2) / 1.008 * torch.tan((t + 0.008) / 1.008 * (math.pi / 2))
    return f, -2 * f


def sde_of_betas(t: Tensor) -> tuple[Tensor, Tensor]:
    rate = -torch.log1p(-torch.tensor(BETAS, dtype=torch.float64))[t.ceil().long() - 1]
    return -rate / 2, rate


def sde_of_sigmas(t: Tensor) -> tuple[Tensor, Tensor]:
    # σ is multiplied by 1.4 in each unit of time, from 0.01 at t = 1.
    return 0 * t, 2 * math.log(1.4) * (0.01 * 1.4 ** (t - 1)) ** 2


SDES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "ve": lambda t: (0 * t, 2 * math.log(50 / 0.01) * (0.01 * (50 / 0.01) ** t) ** 2),  # Song et al. 2021, Eq. 30
    "vp": sde_of_vp,
    "subvp": sde_of_subvp,
    "cosine": sde_of_cosine,
    "edm": lambda t: (0 * t, 2 * t),
    "flow": lambda t: (-1 / (1 - t), 2 * t / (1 - t)),
    "betas": sde_of_betas,
    "sigmas": sde_of_sigmas,
}


@pytest.mark.parametrize("name", SDES)
def test_drift_and_diffusion_are_the_published_ones(name: str) -> None:
    schedule = SCHEDULES[name]
    t = times(schedule)
    level, (f, g_squared) = schedule.at(t), SDES[name](t)
    assert torch.allclose(level.drift, f, rtol=1e-9, atol=1e-12)
    assert torch.allclose(level.diffusion_squared, g_squared, rtol=1e-8, atol=1e-12)


@each
def test_drift_and_diffusion_carry_the_moments_of_the_noise(name: str) -> None:
    # dx = f x dt + g dw moves the mean by m′ = f m and the variance by v′ = 2f v + g². Central differences are off by
    # h²/6 times the third derivative, and by 1e-16/h from rounding; h is a small share of the time to t_min.
    schedule = SCHEDULES[name]
    t = times(schedule)
    h = 1e-4 * torch.minimum(t - schedule.t_min, schedule.t_max - t)
    if isinstance(schedule, Discrete):
        h = h.minimum((t - t.round()).abs() / 2)  # no step across a kink
    level, before, after = schedule.at(t), schedule.at(t - h), schedule.at(t + h)
    mean_slope = (after.alpha - before.alpha) / (2 * h)
    variance_slope = (after.sigma - before.sigma) * (after.sigma + before.sigma) / (2 * h)
    scale = variance_slope.abs() + 2 * level.drift.abs() * level.sigma**2
    assert torch.allclose(level.drift * level.alpha, mean_slope, rtol=1e-5, atol=1e-9)
    moved = 2 * level.drift * level.sigma**2 + level.diffusion_squared
    assert ((moved - variance_slope).abs() < 1e-5 * scale).all()
    assert (level.diffusion_squared >= 0).all()
    assert torch.allclose(level.d_alpha, mean_slope, rtol=1e-5, atol=1e-9)
    assert torch.allclose(2 * level.sigma * level.d_sigma, variance_slope, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("name", "kept"), [("vp", True), ("cosine", True), ("betas", True), ("subvp", False)])
def test_variance_is_preserved_by_those_that_say_so(name: str, kept: bool) -> None:
    level = SCHEDULES[name].at(times(SCHEDULES[name]))
    total = level.alpha**2 + level.sigma**2
    assert ((total - 1).abs() < 1e-12).all() if kept else (total < 1 - 1e-9).all()


# -- adding noise -----------------------------------------------------------------------------------------------------


def shares(path: Callable[[Tensor, list[Tensor]], Tensor], noises: int) -> Tensor:
    """The coefficients of x0 and of each noise in a linear map, (1 + noises,): the map at the unit vectors."""
    unit = torch.eye(1 + noises, dtype=torch.float64)
    return path(unit[:, :1], list(unit[:, 1:].split(1, dim=1))).flatten()


@each
@settings(deadline=None, max_examples=25)
@given(u=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3))
def test_noise_in_steps_is_noise_in_one_go(name: str, u: list[float]) -> None:
    schedule = SCHEDULES[name]
    r, s, t = (schedule.t_min + v * (schedule.t_max * (1 - 1e-3) - schedule.t_min) for v in sorted(u))
    one = shares(lambda x0, e: schedule.add_noise(x0, t, e[0]), 1)
    two = shares(lambda x0, e: schedule.renoise(schedule.add_noise(x0, s, e[0]), s, t, e[1]), 2)
    three = shares(
        lambda x0, e: schedule.renoise(schedule.renoise(schedule.add_noise(x0, r, e[0]), r, s, e[1]), s, t, e[2]),
        3,
    )
    for several in (two, three):
        assert float(several[0]) == pytest.approx(float(one[0]), rel=1e-10, abs=1e-14)
        assert float(several[1:].square().sum()) == pytest.approx(float(one[1] ** 2), rel=1e-9)


@each
def test_no_time_adds_no_noise(name: str) -> None:
    schedule, x = SCHEDULES[name], torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    t = float(times(schedule)[20])
    assert torch.allclose(schedule.renoise(x, t, t, torch.ones_like(x)), x, atol=1e-7 * float(schedule.at(t).sigma))


def test_a_flow_without_signal_is_pure_noise() -> None:
    x0, epsilon = torch.full((2, 3), 7.0), torch.tensor([[1.0, 2.0, 3.0]] * 2)
    assert torch.equal(Flow().add_noise(x0, 1.0, epsilon), epsilon)
    assert torch.equal(Flow().renoise(x0, 0.25, 1.0, epsilon), epsilon)


@each
def test_coefficients_keep_their_digits_for_float32(name: str) -> None:
    # A float32 schedule would lose σ at the smallest t, where 1 − α² is about 1e-6.
    schedule = SCHEDULES[name]
    x0, epsilon = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    noisy = schedule.add_noise(x0, schedule.t_min, epsilon)
    level = schedule.at(schedule.t_min)
    assert noisy.dtype == torch.float32
    assert level.sigma.dtype == torch.float64
    assert float(noisy[0, 0]) == pytest.approx(float(level.sigma), rel=1e-7)
    assert float(noisy[0, 1]) == pytest.approx(float(level.alpha), rel=1e-7)


# -- broadcasting -----------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 4, 5)])
def test_times_of_rows_mean_each_row_by_itself(name: str, shape: tuple[int, ...]) -> None:
    schedule = SCHEDULES[name]
    x0, epsilon = torch.linspace(-1, 1, 2 * 4 * math.prod(shape), dtype=torch.float64).view(2, 4, *shape)
    t = times(schedule, 4)
    level = schedule.at(t, like=x0)
    for part in (level.t, level.alpha, level.sigma, level.d_alpha, level.d_sigma, level.drift, level.log_snr):
        assert part.shape == (4, *[1] * len(shape))
        assert part.dtype == torch.float64
    together = schedule.add_noise(x0, t, epsilon)
    upper = schedule.t_min + (t - schedule.t_min) * 1.01
    later = schedule.renoise(together, t, upper, epsilon)
    for i in range(4):
        alone = schedule.add_noise(x0[i : i + 1], float(t[i]), epsilon[i : i + 1])
        assert torch.equal(alone[0], together[i])
        assert torch.equal(schedule.renoise(alone, t[i], upper[i], epsilon[i : i + 1])[0], later[i])


@each
def test_one_time_stays_one_number(name: str) -> None:
    schedule = SCHEDULES[name]
    t = float(times(schedule)[5])
    for time in (t, torch.tensor(t, dtype=torch.float64)):
        for level in (schedule.at(time), schedule.at(time, like=torch.zeros(5, 2, 2))):
            assert level.alpha.shape == level.sigma.shape == level.d_sigma.shape == ()


@each
def test_the_levels_of_a_grid_one_by_one_are_levels(name: str) -> None:
    schedule = SCHEDULES[name]
    grid = times(schedule, 7)

    def coefficients(level: NoiseLevel) -> tuple[Tensor, ...]:
        asked.append(level)
        return level.alpha, level.drift

    asked: list[NoiseLevel] = []
    levels = schedule.at(grid).each()
    assert [float(level) for level in levels] == grid.tolist()
    for t, level in zip(grid, levels, strict=True):
        assert schedule.at(level, like=torch.zeros(5, 2)) is level
        alone = schedule.at(t)
        for part in ("t", "alpha", "sigma", "d_alpha", "d_sigma", "drift", "diffusion_squared", "snr", "log_snr"):
            found, expected = getattr(level, part), getattr(alone, part)
            assert found.shape == ()
            assert torch.allclose(found, expected, rtol=1e-10, atol=0), part
        # In numbers the same, which are made for all levels at once.
        assert level.once(coefficients) == (float(level.alpha), float(level.drift))
    assert len(asked) == 1
    assert asked[0].t.shape == (7,)


@each
def test_one_time_may_be_expanded_over_rows(name: str) -> None:
    schedule = SCHEDULES[name]
    t = times(schedule)[5]
    expanded, written = schedule.at(t.expand(4)), schedule.at(torch.full((4,), float(t), dtype=torch.float64))
    assert torch.equal(expanded.d_sigma, written.d_sigma)
    assert torch.equal(expanded.d_alpha, written.d_alpha)


def test_a_time_is_read_in_double_precision() -> None:
    assert EDM(0.1, 1.0).at(0.3).t.dtype == torch.float64
    assert float(EDM(0.1, 1.0).at(0.3).t) == 0.3
    assert EDM(0.1, 1.0).at(torch.tensor([0.5], dtype=torch.float32)).sigma.dtype == torch.float64


def test_a_mixture_has_the_type_of_x() -> None:
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    two = torch.tensor(2.0, dtype=torch.float64)
    assert mix(two, x, two, x).dtype == torch.bfloat16
    assert (mix(two, x, two, x) == 4).all()


# -- no noise ---------------------------------------------------------------------------------------------------------


def test_clean_data_stay_as_they_are() -> None:
    x0, epsilon = torch.tensor([[1.5, -2.0]] * 3), torch.full((3, 2), 1e30)
    for t in (0.0, torch.zeros(3), Clean().time_of_sigma(torch.tensor([0.0, 1.0, 5.0]))):
        assert torch.equal(Clean().add_noise(x0, t, epsilon), x0)
        level = Clean().at(t, like=x0)
        assert (level.sigma == 0).all()
        assert (level.diffusion_squared == 0).all()
        assert (level.log_snr == math.inf).all()
    assert Clean().t_min == Clean().t_max == 0
    assert Clean() == Clean()


# -- tables of levels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("betas", [BETAS, linear_betas(), (0.5, 0.25)])
def test_signal_at_whole_times_is_the_product(betas: tuple[float, ...]) -> None:
    schedule = Discrete(betas=betas)
    product = 1.0
    for t, beta in enumerate(betas, start=1):
        product *= 1 - beta
        level = schedule.at(float(t))
        assert float(level.alpha**2) == pytest.approx(product, rel=1e-11)
        assert float(level.sigma**2) == pytest.approx(1 - product, rel=1e-9)
    assert (schedule.t_min, schedule.t_max) == (1, len(betas))
    # One step of the table is one step of DDPM: x_t = √(1 − β_t) x_{t−1} + √β_t z.
    step = shares(lambda x, e: schedule.renoise(x, 1.0, 2.0, e[0]), 1)
    assert float(step[0] ** 2) == pytest.approx(1 - betas[1], rel=1e-11)
    assert float(step[1] ** 2) == pytest.approx(betas[1], rel=1e-9)


def test_levels_at_whole_times_are_those_of_the_table() -> None:
    sigma = Discrete(sigmas=SIGMAS).at(torch.arange(1.0, 21.0)).sigma
    assert torch.allclose(sigma, torch.tensor(SIGMAS, dtype=torch.float64), rtol=1e-12)


def test_the_table_of_ddpm_is_evenly_spaced() -> None:
    # Ho et al. 2020, §4: 1000 values from 1e-4 to 0.02.
    betas = torch.tensor(linear_betas(), dtype=torch.float64)
    assert len(betas) == 1000
    assert (betas[0], betas[-1]) == (1e-4, 0.02)
    assert betas.diff().diff().abs().max() < 1e-15


# -- faults -----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Callable[[], Schedule], str]] = {
    "edm from zero": (lambda: EDM(0.0, 1.0), "EDM needs a range 0 < low < high, got 0.0"),
    "edm upside down": (lambda: EDM(2.0, 1.0), "got 2.0 and 1.0"),
    "edm of one level": (lambda: EDM(1.0, 1.0), "range"),
    "edm without end": (lambda: EDM(1.0, math.inf), "range"),
    "edm not a number": (lambda: EDM(math.nan, 1.0), "range"),
    "ve from zero": (lambda: VE(0.0, 1.0), "VE needs a range"),
    "ve upside down": (lambda: VE(1.0, 0.5), "VE needs a range"),
    "vp from zero": (lambda: VP(t_min=0.0), "VP needs a range"),
    "vp negative": (lambda: VP(beta_min=-0.1), "beta_min < beta_max < ∞, got -0.1"),
    "vp upside down": (lambda: VP(beta_min=3.0, beta_max=2.0), "beta_max"),
    "subvp from zero": (lambda: SubVP(t_min=0.0), "SubVP needs a range"),
    "cosine upside down": (lambda: Cosine(t_min=0.5, t_max=0.1), "Cosine needs a range"),
    "flow from zero": (lambda: Flow(t_min=0.0), "Flow needs a range"),
    "neither": (Discrete, "either betas or sigmas"),
    "both": (lambda: Discrete(betas=(0.1, 0.2), sigmas=(0.1, 0.2)), "either betas or sigmas"),
    "one level": (lambda: Discrete(betas=(0.1,)), "at least two levels, got 1"),
    "no level": (lambda: Discrete(sigmas=()), "at least two levels, got 0"),
    "beta of zero": (lambda: Discrete(betas=(0.1, 0.0)), "every beta"),
    "beta of one": (lambda: Discrete(betas=(0.1, 1.0)), "every beta"),
    "beta not a number": (lambda: Discrete(betas=(0.1, math.nan)), "every beta"),
    "sigmas that fall": (lambda: Discrete(sigmas=(0.2, 0.1)), "grow"),
    "sigmas that stay": (lambda: Discrete(sigmas=(0.1, 0.1)), "grow"),
    "sigma of zero": (lambda: Discrete(sigmas=(0.0, 0.1)), "positive"),
    "sigma not a number": (lambda: Discrete(sigmas=(0.1, math.nan)), "grow"),
    "sigma without end": (lambda: Discrete(sigmas=(0.1, math.inf)), "sigma"),
    "cosine beyond its end": (lambda: Cosine(t_max=1.5), "t_max"),
    "flow beyond its end": (lambda: Flow(t_max=1.5), "t_max"),
    "offset below zero": (lambda: Cosine(offset=-0.5), "offset"),
    "vp without end": (lambda: VP(beta_max=math.inf), "beta_max"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_schedule_that_cannot_be_is_refused(fault: str) -> None:
    make, words = FAULTS[fault]
    with pytest.raises(OptionError, match=words):
        make()


@pytest.mark.parametrize(("low", "high", "steps"), [(0.01, 157.0, 1000), (0.002, 33.0, 1000), (0.1, 5.0, 20)])
def test_a_table_between_two_levels_starts_and_ends_there_evenly(low: float, high: float, steps: int) -> None:
    betas = linear_betas_between(low, high, steps)
    schedule = Discrete(betas=betas)
    ends = schedule.at(torch.tensor([1.0, float(steps)]))
    assert (ends.sigma / ends.alpha).tolist() == pytest.approx([low, high], rel=1e-6)
    gaps = torch.tensor(betas, dtype=torch.float64).diff()
    assert float(gaps.max() - gaps.min()) < 1e-9
    assert 0 < betas[0] < betas[-1] < 1


def test_ddpms_own_table_is_the_one_between_its_own_ends() -> None:
    own = Discrete(betas=linear_betas()).at(torch.tensor([1.0, 1000.0]))
    low, high = (own.sigma / own.alpha).tolist()
    assert linear_betas_between(low, high, 1000) == pytest.approx(linear_betas(), rel=1e-6)


@pytest.mark.parametrize(("low", "high", "steps"), [(1.0, 1.5, 100), (0.01, 1e9, 2)])
def test_ends_that_no_linear_table_joins_are_refused(low: float, high: float, steps: int) -> None:
    with pytest.raises(OptionError, match="no linear table"):
        linear_betas_between(low, high, steps)
