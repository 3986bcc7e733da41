"""Laws of the laws of t: each quantile against the distribution that it is the inverse of."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm
from torch import Tensor

from scorefield.betas import linear_betas
from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.noise import EDM, VE, VP, Clean, Cosine, Flow, Schedule, SubVP
from scorefield.objectives.times import Fixed, Importance, LogNormal, LogUniform, TimeLaw, Uniform, UniformIntegers

SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "subvp": SubVP(),
    "cosine": Cosine(),
    "edm": EDM(0.002, 80.0),
    "ve": VE(0.01, 50.0),
    "flow": Flow(),
    "betas": Discrete(betas=linear_betas(100)),
    "sigmas": Discrete(sigmas=tuple(0.01 * 1.5**k for k in range(20))),
}
LAWS: dict[str, TimeLaw] = {
    "uniform": Uniform(),
    "log-uniform": LogUniform(),
    "log-normal": LogNormal(),
    "narrow log-normal": LogNormal(0.5, 0.1),
    "importance": Importance(0.5),
    "importance of large data": Importance(200.0),
    "importance of small data": Importance(0.001),
}
SMALLEST = 2.0**-53  # of the uniforms that `Stream` gives; 1 − SMALLEST is the largest
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)
EVEN = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000


def log_sigma(schedule: Schedule, t: Tensor | float) -> Tensor:
    level = schedule.at(t)
    return (level.sigma / level.alpha).log()


@each_schedule
@pytest.mark.parametrize("law", LAWS)
def test_times_grow_with_u_and_stay_within_the_range(law: str, schedule: Schedule) -> None:
    ends = torch.tensor([SMALLEST, 1e-12, 1e-6, 0.5, 1 - 1e-6, 1 - 1e-12, 1 - SMALLEST], dtype=torch.float64)
    t = LAWS[law].quantile(torch.cat((EVEN, ends)).sort().values, schedule)
    assert t.dtype == torch.float64
    assert (t.diff() >= 0).all()
    assert (t >= schedule.t_min).all()
    assert (t <= schedule.t_max).all()
    assert (LAWS[law].quantile(EVEN, schedule).diff() > 0).all()


@each_schedule
def test_uniform_times_reach_both_ends_and_are_even(schedule: Schedule) -> None:
    t = Uniform().quantile(EVEN, schedule)
    assert torch.allclose(t.diff(), t.diff()[:1], rtol=1e-8)
    ends = Uniform().quantile(torch.tensor([0.0, 1.0], dtype=torch.float64), schedule)
    assert ends.tolist() == pytest.approx([schedule.t_min, schedule.t_max], rel=1e-12)


@each_schedule
def test_log_uniform_noise_is_even_in_log_sigma(schedule: Schedule) -> None:
    values = log_sigma(schedule, LogUniform().quantile(EVEN, schedule))
    assert torch.allclose(values.diff(), values.diff()[:1], rtol=1e-5)
    low, high = log_sigma(schedule, schedule.t_min), log_sigma(schedule, schedule.t_max).clamp(max=10.0)
    assert float(values[0] - low) == pytest.approx(float(high - low) / 4000, rel=1e-5)
    assert float(high - values[-1]) == pytest.approx(float(high - low) / 4000, rel=1e-5)


@each_schedule
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.0, 3.0), (3.0, 1.0)])
def test_log_normal_noise_is_the_truncated_normal(mean: float, std: float, schedule: Schedule) -> None:
    low, high = (float(log_sigma(schedule, t)) for t in (schedule.t_min, schedule.t_max))
    truth = truncnorm((low - mean) / std, (min(high, 10.0) - mean) / std, mean, std)
    values = log_sigma(schedule, LogNormal(mean, std).quantile(EVEN, schedule))
    # A flow ends at log σ = ∞, cut at 10, beyond which these laws hold less than 1e-3.
    assert truth.cdf(values.numpy()) == pytest.approx(EVEN.numpy(), abs=1e-6)
    # The midpoint rule in u errs by the tails, which hold a share 1/4000 each.
    assert float(values.mean()) == pytest.approx(truth.mean(), abs=2e-3 * std)
    assert float(values.std()) == pytest.approx(truth.std(), rel=1e-2)


@settings(deadline=None, max_examples=40)
@given(st.floats(-60, 60), st.floats(0.5, 3.0))
def test_a_law_far_from_the_range_fills_it_all_the_same(mean: float, std: float) -> None:
    # Far out, a normal's distribution function is 0 or 1 in float64 on one side but not on the other.
    schedule = EDM(math.exp(-1.0), math.exp(1.0))
    t = LogNormal(mean, std).quantile(EVEN, schedule)
    truth = truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)
    if min(abs(-1 - mean), abs(1 - mean)) < 36 * std:  # 37.5 deviations out, the smallest double is passed
        assert truth.cdf(t.log().numpy()) == pytest.approx(EVEN.numpy(), abs=1e-4)
    assert ((t >= schedule.t_min) & (t <= schedule.t_max)).all()


@pytest.mark.parametrize("steps", [2, 7, 1000])
def test_whole_times_are_equally_likely(steps: int) -> None:
    schedule = Discrete(betas=linear_betas(steps))
    u = (torch.arange(5 * steps, dtype=torch.float64) + 0.5) / (5 * steps)
    t = UniformIntegers().quantile(u, schedule)
    assert torch.equal(t, torch.arange(1.0, steps + 1, dtype=torch.float64).repeat_interleave(5))
    ends = UniformIntegers().quantile(torch.tensor([SMALLEST, 1 - SMALLEST], dtype=torch.float64), schedule)
    assert ends.tolist() == [1, steps]


def test_whole_times_of_a_schedule_that_is_not_discrete() -> None:
    assert UniformIntegers().quantile(EVEN, EDM(0.5, 3.9)).unique().tolist() == [1, 2, 3]
    assert UniformIntegers().quantile(EVEN, VP()).unique().tolist() == [1]
    with pytest.raises(OptionError, match=r"no whole time in \[0.0001, 0.9999\]: use a Discrete schedule"):
        UniformIntegers().quantile(EVEN, Cosine())


# -- importance -------------------------------------------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("sigma_data", [0.05, 0.5, 20.0])
def test_importance_has_the_density_that_it_says(sigma_data: float, schedule: Schedule) -> None:
    # The share of λ = log snr above that of a time, by the trapezoid rule over α²σ_d²/(α²σ_d² + σ²), on 20 001 points.
    law = Importance(sigma_data)
    ends = [float(-2 * log_sigma(schedule, t).clamp(max=10.0)) for t in (schedule.t_max, schedule.t_min)]
    log_snr = torch.linspace(*ends, 20_001, dtype=torch.float64)
    level = schedule.at(schedule.time_of(log_snr))
    signal = (level.alpha * sigma_data) ** 2
    below = torch.cumulative_trapezoid(signal / (signal + level.sigma**2), log_snr)
    assert law.norm(schedule) == pytest.approx(float(below[-1]), rel=1e-4)
    times = schedule.time_of(log_snr[1:])
    shares = 1 - below / below[-1]
    # The time of a share, and the share of its time.
    inner = (shares > 1e-3) & (shares < 1 - 1e-3)
    found = -2 * log_sigma(schedule, law.quantile(shares[inner], schedule))
    step = float(log_snr[1] - log_snr[0])
    assert ((found - log_snr[1:][inner]).abs() < 5 * step).all()
    assert (law.quantile(shares, schedule) - times).abs().max() < 1e-2 * (schedule.t_max - schedule.t_min)


def test_importance_of_large_data_is_even_in_log_sigma() -> None:
    # Where α σ_d is far above σ everywhere, each factor of noise costs alike.
    schedule = EDM(0.01, 10.0)
    assert torch.allclose(
        Importance(1e4).quantile(EVEN, schedule).log(), LogUniform().quantile(EVEN, schedule).log(), atol=1e-5
    )


# -- one level --------------------------------------------------------------------------------------------------------


@each_schedule
def test_one_level_is_that_level_whatever_u_is(schedule: Schedule) -> None:
    middle = (schedule.t_min + schedule.t_max) / 2
    for t in (schedule.t_min, middle, schedule.t_max, 0.0):
        assert torch.equal(Fixed(t).quantile(EVEN, schedule), torch.full_like(EVEN, t))
    for t in (schedule.t_max * 1.01, -0.5, math.nan):
        with pytest.raises(OptionError, match=rf"t = {t:g} is not in the schedule's range \[{schedule.t_min:g}, "):
            Fixed(t).quantile(EVEN, schedule)


def test_data_without_noise_have_one_time() -> None:
    for law in (Fixed(), Uniform(), UniformIntegers()):
        assert torch.equal(law.quantile(EVEN, Clean()), torch.zeros_like(EVEN))
