"""Constraints: their potentials against laws of probability, draws against truncated laws in closed form."""

import math

import pytest
import torch
from _conditional_problems import PROBLEMS, late, six, uneven
from torch import Tensor

from scorefield.errors import ConstraintError, OptionError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.guidance import particles
from scorefield.guidance.constraints import Constraint, Interval, Vertices
from scorefield.guidance.particles import ParticleFilter
from scorefield.moments import Moments
from scorefield.noise import EDM, Schedule

ROWS = 1200
# Three categories at the corners of a triangle; their probabilities depend on number 2.
CORNERS = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
BLOCK = torch.tensor([0, 1])


def interval(place: int, low: float, high: float) -> Interval:
    return Interval(torch.tensor([place]), torch.tensor(low), torch.tensor(high))


def categories(schedule: Schedule, deviation: float = 0.02) -> GaussianMixture:
    means = torch.cat((CORNERS, torch.tensor([[0.0], [0.4], [-0.6]])), dim=1)
    covariance = torch.diag(torch.tensor([deviation**2, deviation**2, 0.25]))
    model = GaussianMixture(SHARES, means, covariance.expand(3, 3, 3), schedule)
    model.moments = Moments.of(model.mean(), model.covariance())
    return model


def unseen(model: GaussianMixture, constraint: Constraint, rows: int = ROWS, particles: int = 16) -> Tensor:
    """Draws of rows with nothing seen."""
    x0 = torch.full((rows, model.means.shape[1]), math.nan, dtype=torch.float64)
    return ParticleFilter(particles)(model, x0, torch.zeros_like(x0, dtype=torch.bool), [constraint], seed=0)


# -- potentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 1.0, 5.0])
def test_the_potential_of_an_interval_is_its_probability_for_a_gaussian(schedule: Schedule, sigma: float) -> None:
    # H₀: the mean of P(I given x_t) over x_t is P(I); 5 standard errors, 6e-7. Caught: a variance that keeps no level.
    model, rows = Gaussian(torch.zeros(1), torch.ones(1, 1), schedule), 20_000
    t = schedule.time_of_sigma(sigma)
    x0 = model(model.sample(rows, seed=0, t=t), t).x0.unsqueeze(1)
    ours = interval(0, -0.3, 1.2)
    expected = float(torch.special.ndtr(torch.tensor(1.2)) - torch.special.ndtr(torch.tensor(-0.3)))

    def z(variance: float) -> float:
        g = ours.log_potential(x0, torch.tensor([variance], dtype=torch.float64)).exp()
        return abs(float((g.mean() - expected) / g.std())) * math.sqrt(rows)

    right = sigma**2 / (1 + sigma**2)
    assert z(right) < 5
    assert z(3 * right) > 5


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_the_potential_of_vertices_is_their_probability(schedule: Schedule, sigma: float) -> None:
    # H₀: as above, of a category, for any law: 5 standard errors, 6e-7.
    model, rows = categories(schedule, 0.0), 20_000
    t = schedule.time_of_sigma(sigma)
    x0 = model(model.sample(rows, seed=0, t=t), t).x0.unsqueeze(1)
    g = Vertices(BLOCK, CORNERS, torch.tensor([True, False, True])).log_potential(x0, torch.ones(3)).exp()
    assert abs(float((g.mean() - 0.7) / g.std())) * math.sqrt(rows) < 5


def test_potentials_tend_to_the_constraint() -> None:
    x0 = torch.tensor([[[-0.1], [0.1], [0.9], [1.1]]], dtype=torch.float64)
    ours, tiny = interval(0, 0.0, 1.0), torch.tensor([1e-6], dtype=torch.float64)
    inside = ours.holds(x0)
    assert inside.tolist() == [[False, True, True, False]]
    g = ours.log_potential(x0, tiny).exp()
    torch.testing.assert_close(g, inside.double())
    # Far outside, where a difference of distribution functions would be zero, nearer still is better.
    far = ours.log_potential(torch.tensor([[[40.0], [41.0], [-40.0]]], dtype=torch.float64), torch.ones(1).double())
    assert far.isfinite().all()
    assert far[0, 0] > far[0, 1]
    assert float(far[0, 0] - far[0, 2]) == pytest.approx(40**2 / 2 - 39**2 / 2, rel=1e-2)


def test_vertices_that_are_not_independent_have_shares_by_distance() -> None:
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    ours = Vertices(BLOCK, square, torch.tensor([True, False, False, True]))
    x0 = torch.tensor([[[0.0, 0.0], [0.5, 0.5], [1.0, 0.0]]], dtype=torch.float64)
    assert ours.log_potential(x0, torch.full((2,), 0.01)).exp() == pytest.approx(torch.tensor([[1, 0.5, 0.001]]))
    assert ours.holds(x0)[0, [0, 2]].tolist() == [True, False]


# -- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(-0.8, 0.9), (1.3, math.inf)])
def test_a_range_truncates_the_law(schedule: Schedule, low: float, high: float) -> None:
    # H₀: number 0 has its truncated law, and number 1, which depends on it through the component, the law that follows;
    # `uneven`. The ranges hold 48 % and 11 %.
    model = late(schedule)
    x = unseen(model, interval(0, low, high))
    deviation = torch.tensor([0.2, 0.3])
    below, above, at = (
        torch.special.ndtr((torch.as_tensor(v).double() - model.means[:, 0]) / deviation) for v in (low, high, x[:, :1])
    )
    mass = model.weights * (above - below)
    assert uneven(((at - below) @ model.weights / mass.sum()).unsqueeze(1)) < 1
    other = torch.special.ndtr((x[:, 1:] - model.means[:, 1]) / 0.06)
    assert uneven((other @ mass / mass.sum()).unsqueeze(1)) < 1
    assert ((x[:, 0] >= low) & (x[:, 0] <= high)).all()


def test_a_range_and_seen_numbers_together() -> None:
    # H₀: `uneven` for number 1 in its truncated conditional, rows whose range has 5 % at least; each row its own range.
    model, seen = six(EDM(0.01, 40.0)), PROBLEMS["six"][1]
    x0 = model.sample(ROWS, seed=5)
    weights, means, covariances = model.conditional(x0, seen)
    low = means[:, :1, 0] - 0.3

    def share(v: Tensor) -> Tensor:
        return (weights * torch.special.ndtr((v - means[..., 0]) / covariances[:, 0, 0].sqrt())).sum(1, keepdim=True)

    likely = (1 - share(low) > 0.05).flatten()
    ours = Interval(torch.tensor([1]), low[likely], torch.tensor(math.inf))
    mask = seen.expand(x0.shape)[likely]
    drawn = torch.zeros_like(x0)
    drawn[likely] = ParticleFilter()(model, x0[likely], mask, [ours], seed=0)
    u = ((share(drawn[:, 1:2]) - share(low)) / (1 - share(low)))[likely]
    assert len(u) > ROWS / 2
    assert uneven(u) < 1
    assert torch.equal(drawn[:, seen][likely], x0[:, seen][likely])


def surprise(model: GaussianMixture, drawn: Tensor, allowed: Tensor) -> float:
    """Standard errors between how often category 0 is drawn and its law, where number 2 makes it likely or does not."""
    shares = model.conditional(drawn, torch.tensor([False, False, True]))[0] * allowed
    p = shares[:, 0] / shares.sum(1)
    found = (torch.cdist(drawn[:, :2], CORNERS).argmin(1) == 0).double()
    z = [float((found - p)[part].sum() / (p * (1 - p))[part].sum().sqrt()) for part in (p < 0.7, p >= 0.7)]
    return max(map(abs, z))


def test_categories_that_are_allowed_share_what_is_left(schedule: Schedule) -> None:
    # H₀: given number 2, category 0 is drawn as often as its share among those allowed; 4 standard errors, 6e-5 each.
    model, allowed = categories(schedule), torch.tensor([True, False, True])
    x0 = model.sample(ROWS, seed=5)
    mask = torch.tensor([False, False, True]).expand(x0.shape)
    only = Vertices(BLOCK, CORNERS, allowed)
    drawn = ParticleFilter()(model, x0, mask, [only], seed=0)
    assert only.holds(drawn.unsqueeze(1)).all()
    assert surprise(model, drawn, allowed) < 4
    # Caught: the law before anything was ruled out.
    assert surprise(model, drawn, torch.ones(3)) > 4


def test_a_potential_of_the_wrong_sign_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the end corrects for any potential, a wrong one leaves few particles, or none, that keep the constraint.
    right, model = Interval.log_potential, late(EDM(0.01, 40.0))
    ours = interval(0, -0.8, 0.9)
    unseen(model, ours, rows=200, particles=8)
    monkeypatch.setattr(Interval, "log_potential", lambda *arguments: -right(*arguments))
    with pytest.raises(ConstraintError):
        unseen(model, ours, rows=200, particles=8)


def test_few_rows_that_keep_nothing_are_tried_with_more_and_more_particles(monkeypatch: pytest.MonkeyPatch) -> None:
    # Particles that are not led keep a tenth of the law with a chance of 0.1 each: of 4 none with 0.66, of 16
    # with 0.19, of 64 with 10⁻³, of 256 with 10⁻¹².
    model = late(EDM(0.01, 40.0))
    low = float(model.sample(4000, seed=3)[:, 0].quantile(0.9))
    monkeypatch.setattr(Interval, "log_potential", lambda self, x0, variance: torch.zeros(x0.shape[:2]).to(x0))
    ours = Interval(torch.tensor([0]), torch.tensor([[low]]), torch.tensor(math.inf))
    x0 = torch.full((60, 2), math.nan, dtype=torch.float64)
    nothing = torch.zeros_like(x0, dtype=torch.bool)
    drawn = ParticleFilter(4, 16)(model, x0, nothing, [ours], seed=0)
    assert bool((drawn[:, 0] >= low).all())
    monkeypatch.setattr(particles, "_TRIES", 2)
    with pytest.raises(ConstraintError, match="none of 16 particles"):
        ParticleFilter(4, 16)(model, x0, nothing, [ours], seed=0)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_what_is_impossible_is_refused_with_the_rows() -> None:
    model = late(EDM(0.01, 40.0))
    x0 = torch.full((3, 2), math.nan, dtype=torch.float64)
    low = torch.tensor([[-1.0], [50.0], [60.0]])
    nothing = torch.zeros_like(x0, dtype=torch.bool)
    ours = Interval(torch.tensor([0]), low, torch.tensor(math.inf))
    with pytest.raises(ConstraintError, match="row 8 and 1 more: none of 16 particles") as caught:
        ParticleFilter(4, 8)(model, x0, nothing, [ours], seed=0, rows=range(7, 10))
    assert caught.value.rows == [8, 9]


def test_rows_keep_their_own_constraint_when_others_are_seen_as_a_whole() -> None:
    model = late(EDM(0.01, 40.0))
    x0 = model.sample(6, seed=1)
    mask = torch.zeros_like(x0, dtype=torch.bool)
    mask[::2] = True
    low = torch.tensor([9.0, -2.0, 9.0, 0.5, 9.0, -0.9])
    ours = Interval(torch.tensor([0]), low.reshape(-1, 1), low.reshape(-1, 1) + 1)
    drawn = ParticleFilter(16, 16)(model, x0, mask, [ours], seed=0)
    assert torch.equal(drawn[::2], x0[::2])
    assert ((drawn[:, 0] >= low) & (drawn[:, 0] <= low + 1))[1::2].all()


def test_a_constraint_on_a_seen_number_says_nothing_or_cannot_be_kept() -> None:
    model = late(EDM(0.01, 40.0))
    x0, mask = torch.tensor([[0.0, 0.02], [0.0, 0.02]]).double(), torch.tensor([[False, True], [False, True]])
    how = ParticleFilter(4, 8)
    free = how(model, x0, mask, seed=0)
    assert torch.equal(free, how(model, x0, mask, [interval(1, 0.0199, 0.0201)], seed=0))
    with pytest.raises(ConstraintError, match="row 0 and 1 more"):
        how(model, x0, mask, [interval(1, 0.021, 0.03)], seed=0)


def test_constraints_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OptionError, match="low ≤ high"):
        interval(0, 1.0, 0.0)
    with pytest.raises(OptionError, match="low ≤ high"):
        interval(0, math.nan, 0.0)
    with pytest.raises(OptionError, match="at least one"):
        Vertices(BLOCK, CORNERS, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(OptionError, match=r"\(3, 2\), \(2,\)"):
        Vertices(BLOCK, CORNERS, torch.ones(2, dtype=torch.bool))
