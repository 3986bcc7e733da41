"""Adaptive samplers reach p_t as their tolerance falls, on every schedule alike, and each row has its own steps."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scorefield.errors import SamplingError
from scorefield.exact import Empirical, GaussianMixture
from scorefield.model import Denoiser, NetworkDenoiser, reschedule
from scorefield.noise import EDM, VP, Flow, Schedule
from scorefield.parametrization import X0, Estimate
from scorefield.randomness import Noise, Stream
from scorefield.samplers import adaptive
from scorefield.samplers.adaptive import AdaptiveFlow, AdaptiveSDE
from scorefield.samplers.brownian import BrownianPaths
from scorefield.samplers.flow import decode
from scorefield.samplers.predictors import Ancestral
from scorefield.variational.step import step_down

Mixture = Callable[[Schedule], GaussianMixture]
Misfit = Callable[..., float]
SAMPLERS = {"flow": AdaptiveFlow(), "sde": AdaptiveSDE(0.05)}
each_sampler = pytest.mark.parametrize("sampler", list(SAMPLERS.values()), ids=SAMPLERS)
ROWS = 3000


class Counted(Denoiser):
    """A denoiser that counts the rows it is asked for."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.sigma_data, self.asked = denoiser, denoiser.schedule, denoiser.sigma_data, 0

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        self.asked += len(x_t)
        return self.denoiser(x_t, t)


class Told(nn.Module):
    """A network that returns what it is told, bent by x."""

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        assert len(condition) in {1, len(x)}
        return condition * (1 + (3 * x).sin() / 4)


class Forgetful(BrownianPaths):
    """Draws anew after a refusal."""

    def took(self, accepted: Tensor) -> None:
        pass


def start_of(model: GaussianMixture, rows: int) -> Tensor:
    """Exact draws at t_max."""
    return model.sample(rows, seed=1, t=model.schedule.t_max)


# -- p_t --------------------------------------------------------------------------------------------------------------


def test_the_sde_reaches_p_t(schedule: Schedule, mixture: Mixture, misfit: Misfit) -> None:
    # H₀: rows are draws of p_t at t_min (false alarm below 1e-5, see `misfit`). Caught: too loose a tolerance.
    model = mixture(schedule)
    for tolerance, fits in ((0.03, True), (1.0, False)):
        found = AdaptiveSDE(tolerance).walk(model, start_of(model, ROWS), schedule.t_max, schedule.t_min, seed=0)
        assert (misfit(found.x, schedule, schedule.t_min) < 1) == fits


def test_redrawing_what_was_refused_is_caught(
    mixture: Mixture, misfit: Misfit, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, schedule = mixture(EDM(0.03, 80.0)), EDM(0.03, 80.0)
    sampler = AdaptiveSDE(0.02, exponent=0.9)
    for paths, fits in ((BrownianPaths, True), (Forgetful, False)):
        monkeypatch.setattr(adaptive, "BrownianPaths", paths)
        found = sampler.walk(model, start_of(model, ROWS), schedule.t_max, schedule.t_min, seed=0)
        assert float(found.rejected.double().mean()) > 5
        assert (misfit(found.x, schedule, schedule.t_min) < 1) == fits


@each_sampler
def test_a_first_draw_becomes_data(
    sampler: AdaptiveFlow | AdaptiveSDE, schedule: Schedule, mixture: Mixture, misfit: Misfit
) -> None:
    # H₀: as above. E[x0 given x] at t_min is narrower than data by the share (0.03/0.25)² in the narrowest direction.
    x = sampler(mixture(schedule), ROWS, (2,), seed=0)
    assert x.dtype == torch.float32
    assert misfit(x) < 1


def test_a_step_is_ddpms_with_the_mean_of_two_estimates(mixture: Mixture, schedule: Schedule) -> None:
    # A tolerance that all passes makes one step of it: x″ = μ̃(x, (x̂0 + x̂0′)/2) + √β̃ z, x′ from the ancestral step.
    model = mixture(schedule)
    t, s = schedule.time_of_sigma(torch.tensor([1.5, 0.7], dtype=torch.float64))
    x, noise = model.sample(10, seed=0, t=t), Noise(Stream(5, "adaptive SDE"), range(10), 0)
    found = AdaptiveSDE(1e6).walk(model, x, float(t), float(s), seed=5)
    assert found.accepted.tolist() == [1] * 10
    first, _ = Ancestral()(model, x, t, s, None, noise)
    step, before = step_down(schedule, t, s), model(x, t).x0
    shift = step.posterior_mean(x, (before + model(first, s).x0) / 2) - step.posterior_mean(x, before)
    assert torch.allclose(found.x, first + shift, rtol=1e-8, atol=1e-8)


def test_data_of_one_point_has_just_the_noise_of_the_level(schedule: Schedule) -> None:
    # With x̂0 always the same, (2) is exact for steps of any length. H₀: the noise is N(0, 1): mean, mean square and
    # 4.5 standard errors, false alarm 7e-6 each.
    model = Empirical(torch.tensor([[0.7]]), schedule)
    x = schedule.add_noise(
        torch.full((ROWS, 1), 0.7).double(), schedule.t_max, Stream(3, "e").normal(ROWS, (1,)).double()
    )
    found = AdaptiveSDE(0.02).walk(model, x, schedule.t_max, schedule.t_min, seed=0)
    low = schedule.at(schedule.t_min)
    epsilon = (found.x - low.alpha * 0.7) / low.sigma
    assert abs(float(epsilon.mean())) < 4.5 / math.sqrt(ROWS)
    assert abs(float(epsilon.square().mean()) - 1) < 4.5 * math.sqrt(2 / ROWS)
    assert int(found.rejected.max()) == 0


def test_all_schedules_are_walked_alike(mixture: Mixture, schedule: Schedule) -> None:
    # The clock is α²/σ²: from the same x/α at the same clock, with the same noise, the ways are the same.
    other = EDM(0.01, 100.0)
    model, sigmas = mixture(other), torch.tensor([40.0, 0.05], dtype=torch.float64)
    same = reschedule(model, schedule)
    (a, b), (c, d) = other.time_of_sigma(sigmas).tolist(), schedule.time_of_sigma(sigmas).tolist()
    x = 40 * Stream(0, "x").normal(20, (2,), dtype=torch.float64)
    here = AdaptiveSDE().walk(model, x, a, b, seed=0)
    there = AdaptiveSDE().walk(same, schedule.at(c).alpha * x, c, d, seed=0)
    assert torch.allclose(there.x / schedule.at(d).alpha, here.x, rtol=1e-5, atol=1e-7)
    assert torch.equal(here.evaluations, there.evaluations)


def test_a_flow_begins_where_there_is_no_data(mixture: Mixture) -> None:
    schedule = Flow(t_min=0.03)
    assert schedule.at(schedule.t_max).alpha == 0
    found = AdaptiveSDE().walk(
        mixture(schedule), Stream(0, "x").normal(50, (2,), dtype=torch.float64), 1.0, 0.03, seed=0
    )
    assert found.x.isfinite().all()
    assert int(found.evaluations.max()) < 150


def test_a_smaller_tolerance_takes_more_evaluations_and_a_larger_exponent_refuses_more(mixture: Mixture) -> None:
    model = mixture(VP(t_min=0.01))
    x = start_of(model, 200)
    ways = {
        (tolerance, r): AdaptiveSDE(tolerance, exponent=r).walk(model, x, 1.0, 0.01, seed=0)
        for tolerance in (0.2, 0.05, 0.01)
        for r in (1 / 3, 0.9)
    }
    means = {key: float(way.evaluations.double().mean()) for key, way in ways.items()}
    assert means[0.2, 1 / 3] < means[0.05, 1 / 3] < means[0.01, 1 / 3]
    assert ways[0.01, 1 / 3].rejected.sum() < ways[0.01, 0.9].rejected.sum()


def test_the_norm_of_the_worst_element_is_the_stricter(mixture: Mixture) -> None:
    model = mixture(EDM(0.03, 80.0))
    x = start_of(model, 100)
    mean, worst = (AdaptiveSDE(q=q).walk(model, x, 80.0, 0.03, seed=0) for q in (2.0, math.inf))
    assert worst.evaluations.sum() > mean.evaluations.sum()


def test_the_adaptive_flow_is_the_decoder_with_a_last_estimate(mixture: Mixture, schedule: Schedule) -> None:
    model = mixture(schedule)
    x = AdaptiveFlow(1e-5)(model, 20, (2,), seed=7)
    z = Stream(7, "first draw").normal(20, (2,))
    low = schedule.at(schedule.t_min).alpha.float()
    expected = model(low * decode(model, z, rtol=1e-5, atol=1e-5).x, schedule.t_min).x0
    assert torch.allclose(x, expected, atol=1e-4)


# -- rows -------------------------------------------------------------------------------------------------------------


@each_sampler
def test_row_i_is_the_same_whatever_is_drawn_with_it(
    sampler: AdaptiveFlow | AdaptiveSDE, schedule: Schedule, mixture: Mixture
) -> None:
    model = mixture(schedule)
    parts = [sampler(model, range(a, b), (2,), seed=3) for a, b in itertools.pairwise((0, 1, 17, 50))]
    whole = sampler(model, 50, (2,), seed=3)
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)
    assert len(whole.unique(dim=0)) == 50
    assert not torch.allclose(sampler(model, 50, (2,), seed=4), whole, atol=0.1)


def test_each_row_has_its_own_steps_and_they_are_counted(mixture: Mixture, schedule: Schedule) -> None:
    model = Counted(mixture(schedule))
    x = start_of(model.denoiser, 60)
    whole = AdaptiveSDE().walk(model, x, schedule.t_max, schedule.t_min, seed=3)
    assert model.asked == int(whole.evaluations.sum())
    # One for each attempt and one for each place where an attempt was made.
    assert torch.equal(whole.evaluations, 2 * whole.accepted + whole.rejected)
    assert len(whole.evaluations.unique()) > 10
    for a, b in ((0, 1), (1, 30), (30, 60)):
        part = AdaptiveSDE().walk(model, x[a:b], schedule.t_max, schedule.t_min, seed=3, rows=range(a, b))
        assert torch.equal(part.evaluations, whole.evaluations[a:b])
        assert torch.allclose(part.x, whole.x[a:b], rtol=1e-9, atol=1e-9)


@each_sampler
def test_each_row_keeps_its_own_condition_when_others_have_left(sampler: AdaptiveFlow | AdaptiveSDE) -> None:
    model = NetworkDenoiser(Told(), VP(t_min=0.01), X0, 1.0, condition_features=2)
    condition = 2 * Stream(0, "condition").normal(5, (2,))
    whole = sampler(model.given(condition), 5, (2,), seed=0)
    for row in range(5):
        alone = sampler(model.given(condition[row : row + 1]), range(row, row + 1), (2,), seed=0)
        assert torch.allclose(whole[row], alone[0], atol=1e-5)


# -- watching and faults ----------------------------------------------------------------------------------------------


@each_sampler
def test_attempts_are_watched_with_each_rows_own_time(
    sampler: AdaptiveFlow | AdaptiveSDE, schedule: Schedule, mixture: Mixture
) -> None:
    model, seen = mixture(schedule), []
    x = sampler(model, 6, (2,), seed=0, on_step=lambda attempt, t, x, x0: seen.append((attempt, t, x, x0)))
    assert torch.equal(x, sampler(model, 6, (2,), seed=0))
    assert [entry[0] for entry in seen] == list(range(len(seen)))
    times = torch.stack([entry[1] for entry in seen])
    assert times[0].tolist() == pytest.approx([schedule.t_max] * 6)
    assert (times.diff(dim=0) <= 0).all()
    assert len(times[len(times) // 2].unique()) > 1
    for _, t, x_t, x0 in seen[:3]:
        assert torch.allclose(x0, model(x_t, t).x0, atol=1e-4)


def test_a_row_that_is_not_finite_is_named(mixture: Mixture) -> None:
    x = start_of(mixture(VP()), 4)
    x[2, 1] = math.nan
    with pytest.raises(SamplingError, match=r"1 of 4 rows are not finite, row 12 the first, in step 0, level t = 1"):
        AdaptiveSDE().walk(mixture(VP()), x, 1.0, 0.01, seed=0, rows=range(10, 14))


class Cliff(Denoiser):
    """A denoiser that is not finite below t = 0.5."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.sigma_data = denoiser, denoiser.schedule, denoiser.sigma_data

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        estimate = self.denoiser(x_t, t)
        below = (torch.as_tensor(t) < 0.5).reshape(-1, 1)
        return Estimate(torch.where(below, math.nan, estimate.x0), estimate.epsilon, estimate.level)


def test_a_model_that_is_not_finite_on_the_way_is_refused_there(mixture: Mixture) -> None:
    model = mixture(VP())
    with pytest.raises(SamplingError, match=r"\d of 4 rows find every step refused, row \d the first, at t = 0\.5$"):
        AdaptiveSDE().walk(Cliff(model), start_of(model, 4), 1.0, 0.01, seed=0)
    where = r"the field is not finite just beyond its place in step \d+, at t = 0\.5$"
    with pytest.raises(SamplingError, match=rf"\d of 4 rows cannot go on, row \d: {where}"):
        AdaptiveFlow()(Cliff(model), 4, (2,), seed=0)


def test_attempts_are_bounded(mixture: Mixture) -> None:
    with pytest.raises(SamplingError, match=r"4 of 4 rows need more than 5 attempts, row 0 the first, at t = 0\."):
        AdaptiveSDE(1e-3).walk(mixture(VP()), start_of(mixture(VP()), 4), 1.0, 0.01, seed=0, max_attempts=5)


@pytest.mark.parametrize(
    "sampler",
    [AdaptiveSDE(-0.1), AdaptiveSDE(0.0), AdaptiveSDE(math.nan), AdaptiveSDE(q=0.5), AdaptiveSDE(exponent=0.0)],
)
def test_settings_that_are_none_are_refused(sampler: AdaptiveSDE, mixture: Mixture) -> None:
    with pytest.raises(SamplingError, match="needs tolerance ≥ 0, absolute > 0, q ≥ 1"):
        sampler(mixture(VP()), 2, (2,), seed=0)


def test_times_that_do_not_go_down_are_refused(mixture: Mixture) -> None:
    for t, s in ((0.1, 0.5), (0.5, 0.5), (2.0, 0.5), (0.5, 0.0)):
        with pytest.raises(SamplingError, match=f"goes down between 1 and 1e-05, got from {t:g} to {s:g}"):
            AdaptiveSDE().walk(mixture(VP()), torch.zeros(2, 2), t, s, seed=0)


@each_sampler
def test_no_rows_are_no_work(sampler: AdaptiveFlow | AdaptiveSDE, mixture: Mixture) -> None:
    assert sampler(mixture(VP()), 0, (2,), seed=0).shape == (0, 2)
