"""The particle filter against conditionals of mixtures in closed form, and rows by themselves."""

import math

import pytest
import torch
from _conditional_problems import PROBLEMS, SCHEDULES, forgotten, late, ranks, six, uneven
from torch import Tensor

from scorefield.errors import DataError, OptionError, SamplingError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.guidance.kernel import Spread
from scorefield.guidance.particles import ParticleFilter, chosen, resampled
from scorefield.guidance.replacement import Replacement
from scorefield.guidance.rows import GivenRows, falling
from scorefield.model import Denoiser
from scorefield.moments import Moments
from scorefield.noise import EDM, NoiseLevel, Schedule, Time
from scorefield.parametrization import Estimate
from scorefield.randomness import Stream

ROWS = 1200


def draw(how: ParticleFilter | Replacement, model: GaussianMixture, seen: Tensor, rows: int = ROWS) -> Tensor:
    """Rows of the mixture with what is not seen drawn anew."""
    x0 = model.sample(rows, seed=5)
    mask = seen.expand(x0.shape)
    return how(model, torch.where(mask, x0, math.nan), mask, seed=0)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_draws_are_those_of_the_conditional(problem: str) -> None:
    # H₀: each unseen number's rank in its conditional is uniform (`uneven`), and 90 % of draws lie within its central
    # 90 %: 0.02 is 2.7 standard errors of one number, 0.8 % each. Caught: weights dropped, and a step that is too sure.
    make, seen = PROBLEMS[problem]
    model = make(SCHEDULES["edm"])
    u = ranks(model, draw(ParticleFilter(), model, seen, 1600), seen)
    assert uneven(u) < 1
    assert abs(float(((u > 0.05) & (u < 0.95)).double().mean()) - 0.9) < 0.02
    u = ranks(model, draw(ParticleFilter(8, 16, spread=0), model, seen, 1600), seen)
    assert float(((u > 0.05) & (u < 0.95)).double().mean()) > 0.92


@pytest.mark.parametrize("how", [ParticleFilter(8, 12), Replacement(12, 2)])
def test_draws_are_the_same_under_any_schedule(how: ParticleFilter | Replacement, schedule: Schedule) -> None:
    # As levels are even in σ/α; what rounds differently may tip the choice of a particle, hardly ever.
    seen = PROBLEMS["six"][1]
    ours, theirs = (draw(how, six(one), seen, 100) for one in (schedule, SCHEDULES["edm"]))
    assert ((ours - theirs).abs().amax(1) > 1e-6).sum() <= 1


def test_weights_that_are_dropped_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Spread.given

    def dropped(*arguments: object) -> tuple[Tensor, Tensor]:
        x, density = given(*arguments)  # type: ignore[arg-type]
        return x, torch.zeros_like(density)

    monkeypatch.setattr(Spread, "given", dropped)
    for make, seen in PROBLEMS.values():
        model = make(EDM(0.01, 40.0))
        assert uneven(ranks(model, draw(ParticleFilter(8), model, seen), seen)) > 1


def test_the_first_draw_knows_of_the_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # H₀ as above, for a Gaussian, of which steps are exact with spread 1, from a level of little noise. Caught: a
    # first draw of the unseen numbers that knows nothing of the seen.
    model = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.95], [0.95, 1.0]]), EDM(0.01, 0.3))
    model.moments = Moments.of(model.mean(), model.covariance())
    seen, how = torch.tensor([True, False]), ParticleFilter(32, 6, spread=1)
    assert uneven(ranks(model, draw(how, model, seen), seen)) < 1
    first = GivenRows.first

    def unaware(work: GivenRows, path: Tensor, level: NoiseLevel) -> Tensor:
        return first(work, path + 3 * Stream(1, "elsewhere").normal(len(path), path.shape[1:]).to(path), level)

    monkeypatch.setattr(GivenRows, "first", unaware)
    assert uneven(ranks(model, draw(how, model, seen), seen)) > 1


def test_the_error_falls_with_particles() -> None:
    # One particle forgets the seen number altogether, as it is decided late; the slope has a standard error of 0.02.
    model, seen = late(EDM(0.01, 40.0)), PROBLEMS["late"][1]
    lost = [forgotten(model, draw(ParticleFilter(k, 32), model, seen), seen) for k in (1, 4, 32)]
    assert lost[0] > 0.9
    assert 0.1 < lost[1] < 0.4
    assert abs(lost[2]) < 0.1


def test_the_error_falls_with_levels() -> None:
    # Without the spread of x0 the steps are too sure of themselves, by less the shorter they are.
    model, seen = six(EDM(0.01, 40.0)), PROBLEMS["six"][1]
    few, many = (
        uneven(ranks(model, draw(ParticleFilter(16, levels, spread=0), model, seen), seen)) for levels in (8, 40)
    )
    assert few > 1
    assert many < 0.5 * few


def test_replacement_forgets_what_the_filter_does_not() -> None:
    # As many evaluations of each.
    model, seen = late(EDM(0.01, 40.0)), PROBLEMS["late"][1]
    filtered = draw(ParticleFilter(16, 48), model, seen)
    replaced = draw(Replacement(96, 8), model, seen)
    assert abs(forgotten(model, filtered, seen)) < 0.1
    assert forgotten(model, replaced, seen) > 0.3
    assert uneven(ranks(model, replaced, seen)) > 1


def test_nothing_seen_is_a_draw_of_the_model() -> None:
    # H₀: number 0 of late has the law of the mixture; `uneven`.
    model = late(EDM(0.01, 40.0))
    x = draw(ParticleFilter(2), model, torch.tensor([False, False]))
    shares = torch.special.ndtr((x.unsqueeze(1) - model.means) / torch.tensor([[0.2, 0.06], [0.3, 0.06]]))
    assert uneven(torch.einsum("k,bkd->bd", model.weights, shares)) < 1


# -- rows by themselves -----------------------------------------------------------------------------------------------


def mixed(rows: int) -> tuple[GaussianMixture, Tensor, Tensor]:
    """Rows with patterns of their own, some of them seen or unseen as a whole."""
    model = six(EDM(0.01, 40.0))
    mask = Stream(0, "mask").uniform(rows, (6,)) < 0.5
    mask[1], mask[2] = True, False
    return model, model.sample(rows, seed=5), mask


@pytest.mark.parametrize("how", [ParticleFilter(8, 12), Replacement(12, 2)])
def test_a_row_is_drawn_alike_in_any_company(
    how: ParticleFilter | Replacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x0, mask = mixed(12)
    whole = how(model, x0, mask, seed=0)

    def apart() -> float:
        part = how(model, x0[5:9], mask[5:9], seed=0, rows=range(5, 9))
        return float((part - whole[5:9]).abs().max())

    assert apart() < 1e-9
    assert torch.equal(whole[mask], x0[mask])
    assert torch.equal(whole[1], x0[1])
    assert (whole[~mask] != x0[~mask]).all()
    # Caught: one uniform for the resampling of all rows.
    own = GivenRows.uniform
    monkeypatch.setattr(GivenRows, "uniform", lambda *a: own(*a)[:1].repeat(len(a[0].places), 1))
    whole = how(model, x0, mask, seed=0)
    assert apart() > 1e-3 or isinstance(how, Replacement)


def test_draws_of_a_row_differ_and_a_seed_repeats_them() -> None:
    model, x0, mask = mixed(4)
    again = x0[:1].repeat(4, 1), mask[:1].repeat(4, 1)
    drawn = ParticleFilter(4, 8)(model, *again, seed=3)
    assert torch.equal(drawn, ParticleFilter(4, 8)(model, *again, seed=3))
    assert len(drawn[:, ~mask[0]].unique(dim=0)) == 4


class Shifted(Denoiser):
    """A Gaussian around the condition of each row."""

    def __init__(self, around: Tensor) -> None:
        super().__init__()
        self.law = Gaussian(torch.zeros(4), 0.01 * torch.eye(4), EDM(0.01, 20.0))
        self.schedule, self.sigma_data, self.around = self.law.schedule, 1.0, around

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        around = self.around.reshape(-1, 1)
        estimate = self.law(x_t.flatten(1) - around, t)
        x0 = (estimate.x0 + around).reshape(x_t.shape)
        return Estimate(x0, estimate.epsilon.reshape(x_t.shape), estimate.level)

    def of_rows(self, places: Tensor) -> "Shifted":
        some = Shifted(self.around[places])
        some.moments = self.moments
        return some


@pytest.mark.parametrize("how", [ParticleFilter(8, 24), Replacement(24, 1)])
def test_particles_take_the_condition_of_their_row(how: ParticleFilter | Replacement) -> None:
    # Rows of shape (2, 2) and of type float32; deviations are 0.1.
    around = torch.tensor([-3.0, 0.0, 1.0, 3.0])
    x0 = around.reshape(4, 1, 1).expand(4, 2, 2).contiguous()
    mask = torch.tensor([[True, False], [False, False]]).repeat(4, 1, 1)
    mask[1] = True
    drawn = how(Shifted(around), x0, mask, seed=0)
    assert drawn.dtype == torch.float32
    assert (drawn - x0).abs().max() < 0.6
    assert torch.equal(drawn[mask], x0[mask])


# -- resampling -------------------------------------------------------------------------------------------------------


def test_resampling_keeps_shares_to_within_one() -> None:
    weight = Stream(0, "weights").normal(50, (16,), dtype=torch.float64)
    u = Stream(0, "u").uniform(50, (1,))
    where = torch.arange(50).reshape(-1, 1) % 2 == 0
    places = resampled(weight, u, where)
    counts = torch.nn.functional.one_hot(places, 16).sum(1)
    shares = 16 * torch.softmax(weight, dim=1)
    assert ((counts - shares).abs() < 1)[::2].all()
    assert (counts == 1)[1::2].all()


def test_one_is_chosen_in_proportion_to_its_weight() -> None:
    # H₀: counts are multinomial; 5 standard errors, 6e-7 each. One of no weight is never chosen.
    shares = torch.tensor([0.0, 0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    u = Stream(0, "u").uniform(10_000, (1,))
    u[0], u[1] = 0.0, 1.0
    counts = torch.bincount(chosen(shares.log().expand(10_000, 5), u).flatten(), minlength=5) / 10_000
    assert ((counts - shares).abs() <= 5 * (shares * (1 - shares) / 10_000).sqrt()).all()
    assert chosen(torch.full((1, 3), -math.inf), torch.tensor([[0.5]])).item() == 0


# -- levels and faults ------------------------------------------------------------------------------------------------


def test_levels_fall_from_ten_deviations_to_the_lowest(schedule: Schedule) -> None:
    model = late(schedule)
    grid = falling(model, 20)
    levels = schedule.at(grid)
    sigma = levels.sigma / levels.alpha
    assert (grid.diff() < 0).all()
    assert float(grid[-1]) == schedule.t_min
    widest = float(torch.linalg.eigvalsh(model.covariance()).max().sqrt())
    assert float(sigma[0]) == pytest.approx(10 * widest)
    model.moments = None
    assert float(falling(model, 20)[0]) > float(grid[0])


def test_a_wrong_mask_and_seen_numbers_that_are_none_are_refused() -> None:
    model, x0, mask = mixed(4)
    how = ParticleFilter(2, 4)
    with pytest.raises(OptionError, match=r"\(4, 6\), got bool \(4, 5\)"):
        how(model, x0, mask[:, :5], seed=0)
    with pytest.raises(OptionError, match="got float64"):
        how(model, x0, mask.double(), seed=0)
    with pytest.raises(OptionError, match="4 rows of x0, got 3"):
        how(model, x0, mask, seed=0, rows=range(3))
    mask[3, 4], x0[3, 4] = True, math.nan
    with pytest.raises(DataError, match="row 13: number 4 is seen but is nan"):
        how(model, x0, mask, seed=0, rows=range(10, 14))
    everything = torch.ones(4, 6, dtype=torch.bool)
    x0 = torch.zeros(4, 6)
    assert torch.equal(how(model, x0, everything, seed=0), x0)
    assert how(model, x0[:0], everything[:0], seed=0).shape == (0, 6)


def test_a_model_that_is_not_finite_is_named_by_row_and_level() -> None:
    model = Shifted(torch.tensor([0.0, math.nan]))
    model.moments = Moments.isotropic(1.0)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(SamplingError, match="row 1 is not finite at step 0, level t = 10"):
        ParticleFilter(2, 4)(model, torch.zeros(2, 4), mask, seed=0)


@pytest.mark.parametrize("wrong", [{"particles": 0}, {"levels": 1}, {"spread": 1.5}, {"rho": 0}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="needs"):
        ParticleFilter(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"levels": 1}, {"times": 0}])
def test_walks_without_a_step_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="2 levels"):
        Replacement(**wrong)
