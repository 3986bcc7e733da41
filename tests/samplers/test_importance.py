"""Normalising constants by annealed importance sampling are the known ones; Metropolis' rule leaves e^{−E} as it is.

Statistical tests are seeded and held to 5 standard errors, a false alarm of 6e-7 for each number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from scorefield.energies import EnergyModel
from scorefield.errors import SamplingError
from scorefield.exact import GaussianMixture
from scorefield.model import EnergyDenoiser
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, VP, Schedule
from scorefield.parametrization import edm_f
from scorefield.randomness import Noise, Stream
from scorefield.samplers import grids
from scorefield.samplers.importance import Normaliser, annealed_importance
from scorefield.samplers.langevin import Langevin, MetropolisLangevin

Misfit = Callable[..., float]
Mixture = Callable[[Schedule], GaussianMixture]


class Known(GaussianMixture):
    """A mixture as an energy: log Z is −constant(t)."""

    constant = 0.0
    slope = 0.0

    def energy(self, x: Tensor, t: Tensor) -> Tensor:
        return self.constant + self.slope * t - self.log_prob(x, t)


@pytest.fixture
def energy(mixture: Mixture) -> Callable[[Schedule], Known]:
    """The mixture of the room, as an energy."""

    def known(schedule: Schedule) -> Known:
        model = mixture(schedule)
        model.__class__ = Known
        assert isinstance(model, Known)
        return model

    return known


WIDE = EDM(0.1, 20.0)


@dataclass(frozen=True)
class Width:
    """½ xᵀPx for a diagonal P that grows as 1/(v + σ²): Z = Π √(2π(v + σ²))."""

    schedule: Schedule = WIDE
    sigma_data: float = 1.0
    variances: tuple[float, ...] = (0.5, 1.0, 2.0, 0.1, 1.5)

    def _precisions(self, x: Tensor, t: Tensor) -> Tensor:
        return 1 / (x.new_tensor(self.variances) + self.schedule.at(t, like=x).sigma.to(x.dtype) ** 2)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return -self._precisions(x, t) * x

    def energy(self, x: Tensor, t: Tensor) -> Tensor:
        return (self._precisions(x, t) * x.square()).sum(1) / 2


def walk(model: EnergyModel, seed: int, moves: MetropolisLangevin | None = None, size: int = 2) -> Normaliser:
    grid = grids.geometric(model.schedule, 15)
    return annealed_importance(model, 400, (size,), grid, moves, seed=seed, dtype=torch.float64)


# -- the constant -----------------------------------------------------------------------------------------------------


def test_the_constant_of_a_mixture_is_found_to_its_standard_error(
    schedule: Schedule, energy: Callable[[Schedule], Known]
) -> None:
    # H₀ at every seed; over 16 seeds z² adds up to χ² with 16 degrees, of which [3, 50] holds all but 4e-5: a standard
    # error that is wrong by a factor of two either way (χ² of 64 or 4 expected) mostly falls out of it.
    model = energy(schedule)
    model.constant = 3.0
    found = [walk(model, seed) for seed in range(16)]
    z = torch.tensor([(one.log_normaliser + 3.0) / one.std_error for one in found])
    assert z.abs().max() < 5
    assert 3 < float(z.square().sum()) < 50
    assert all(20 < one.effective_size < 400 for one in found)
    assert all(((one.acceptance > 0.5) & (one.acceptance <= 1)).all() for one in found)


def test_every_level_of_the_walk_has_its_own_constant(energy: Callable[[Schedule], Known]) -> None:
    # An energy learned by score matching is free to have another constant at each level: here 0.3 t.
    model = energy(EDM(0.1, 20.0))
    model.slope = 0.3
    found = walk(model, 0)
    z = (found.log_normalisers + 0.3 * found.grid) / found.std_errors
    assert z.shape == (15,)
    assert z.abs().max() < 5
    assert float((found.log_normalisers / found.std_errors).abs().max()) > 5  # the constants were not zero


def test_the_constant_of_an_unnormalised_gaussian_is_found() -> None:
    model = Width()
    found = walk(model, 1, size=5)
    truth = sum(math.log(2 * math.pi * (v + 0.1**2)) / 2 for v in model.variances)
    assert abs(found.log_normaliser - truth) < 5 * found.std_error < 1
    x = Stream(0, "x").normal(3, (5,), dtype=torch.float64)
    spread = (torch.tensor(model.variances, dtype=torch.float64) + 0.1**2).sqrt()
    log_prob = torch.distributions.Normal(torch.zeros(5, dtype=torch.float64), spread).log_prob(x).sum(1)
    assert torch.allclose(found.log_prob(model, x), log_prob, atol=5 * found.std_error, rtol=0)


def test_a_constant_in_the_energy_comes_back_exactly(schedule: Schedule, energy: Callable[[Schedule], Known]) -> None:
    model = energy(schedule)
    before = walk(model, 3)
    model.constant = 7.5
    after = walk(model, 3)
    assert before.log_normaliser - after.log_normaliser == pytest.approx(7.5, rel=1e-10)
    assert after.std_error == pytest.approx(before.std_error, rel=1e-8)


@pytest.mark.parametrize("schedule", [EDM(0.01, 80.0), VP()])
def test_weights_are_all_equal_for_the_gaussian_that_the_walk_is_made_for(schedule: Schedule) -> None:
    # A fresh energy in the notation F is that of N(0, (α²σ_data² + σ²) I).
    model = EnergyDenoiser(MLP((3,), 8, 1).double(), schedule, edm_f(0.7), 0.7)
    found = walk(model, 0, size=3)
    level = schedule.at(found.grid)
    truth = 3 / 2 * torch.log(2 * math.pi * (level.alpha**2 * 0.7**2 + level.sigma**2))
    assert torch.allclose(found.log_normalisers, truth, rtol=1e-9)
    assert float(found.std_errors.max()) < 1e-6
    assert found.effective_size == pytest.approx(400)


@dataclass(frozen=True)
class Unrefused(MetropolisLangevin):
    """Langevin moves that are all taken."""

    def walk(self, model: EnergyModel, x: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        x = Langevin(self.steps, self.size)(model, x, t, noise)
        return x, model.energy(x, t), torch.ones(len(x), dtype=torch.float64)


def test_planted_bugs_are_caught(energy: Callable[[Schedule], Known]) -> None:
    # Each is seen by more than 5 standard errors at one seed at least of three, and the right one at none.
    schedule = EDM(0.1, 20.0)
    model, large = energy(schedule), MetropolisLangevin(3, 2.5)
    model.constant = 3.0

    def z(change: Callable[[Normaliser], Tensor], moves: MetropolisLangevin = large) -> float:
        worst = 0.0
        for seed in range(3):
            found = walk(model, seed, moves)
            found = replace(found, log_weights=change(found))
            worst = max(worst, abs(found.log_normaliser + 3.0) / found.std_error)
        return worst

    width = torch.hypot(torch.tensor(model.sigma_data), grids.geometric(schedule, 15))
    jacobian = 2 * torch.log(width / width[0])
    assert z(lambda found: found.log_weights) < 5
    assert z(lambda found: found.log_weights, Unrefused(3, 2.5)) > 5  # no Metropolis rule
    assert z(lambda found: found.log_weights - jacobian) > 5  # no log-Jacobian
    assert z(lambda found: found.log_weights - found.log_weights[:, :1]) > 5  # no first term
    assert z(lambda found: -found.log_weights) > 5  # upside down


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_walks_alike_in_any_company(schedule: Schedule, energy: Callable[[Schedule], Known]) -> None:
    model, grid = energy(schedule), grids.geometric(schedule, 6)

    def run(rows: int | range, chunk: int) -> Normaliser:
        return annealed_importance(model, rows, (2,), grid, seed=0, chunk=chunk, dtype=torch.float64)

    whole = run(20, 4096)
    assert torch.allclose(run(20, 7).log_weights, whole.log_weights, rtol=1e-9, atol=1e-12)
    assert torch.allclose(run(20, 7).acceptance, whole.acceptance)
    assert torch.allclose(run(range(5, 12), 3).log_weights, whole.log_weights[5:12], rtol=1e-9, atol=1e-12)
    assert whole.log_weights.shape == (20, 6)
    assert whole.acceptance.shape == (5,)
    assert len(whole.log_weights[:, -1].unique()) == 20
    assert not torch.equal(
        annealed_importance(model, 20, (2,), grid, seed=1, dtype=torch.float64).log_weights, whole.log_weights
    )


def test_images_and_float32_walk_too() -> None:
    model = EnergyDenoiser(MLP((1, 2, 2), 8, 1), EDM(0.1, 10.0), edm_f(0.5), 0.5)
    found = annealed_importance(model, 16, (1, 2, 2), grids.geometric(model.schedule, 4), seed=0)
    assert found.log_normaliser == pytest.approx(2 * math.log(2 * math.pi * (0.5**2 + 0.1**2)), abs=1e-4)
    assert found.log_prob(model, torch.zeros(3, 1, 2, 2)).shape == (3,)


# -- moves with refusal -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.4, 1.0, 5.0])
def test_moves_of_any_size_leave_the_level_as_it_is(
    schedule: Schedule, sigma: float, energy: Callable[[Schedule], Known], misfit: Misfit
) -> None:
    # False alarm and statistics: see `misfit`. Caught: the same moves without refusal.
    model, t = energy(schedule), schedule.time_of_sigma(sigma)
    x, noise = model.sample(3000, seed=1, t=t), Noise(Stream(0, "corrector"), range(3000), 0)
    moves = MetropolisLangevin(20, 2.5)
    moved, found, accepted = moves.walk(model, x, t, noise)
    assert misfit(moved, schedule, t) < 1
    assert misfit(Unrefused(20, 2.5)(model, x, t, noise), schedule, t) > 1
    assert torch.allclose(found, model.energy(moved, t), rtol=1e-9)
    assert 0.1 < float(accepted.mean()) < 0.95  # some are refused
    assert (moved - x).norm(dim=1).mean() > 0.3 * schedule.at(t).sigma
    assert torch.equal(moves(model, x, t, noise), moved)


def test_the_rule_weighs_both_the_energy_and_the_way_back(energy: Callable[[Schedule], Known], misfit: Misfit) -> None:
    # Caught: a ratio of the energies alone, as for symmetric proposals, and one of the ways alone.
    schedule = EDM(0.03, 80.0)
    model, t = energy(schedule), torch.tensor(1.0, dtype=torch.float64)
    x, noise = model.sample(3000, seed=1, t=t), Noise(Stream(0, "corrector"), range(3000), 0)

    def planted(with_energy: float, with_way: float) -> Tensor:
        y, step = x, 2.5 * t**2
        for move in range(20):
            drift, z = step / 2 * model.score(y, t), noise.like(y, draw=2 * move)
            there = y + drift + step.sqrt() * z
            back = (y - there - step / 2 * model.score(there, t)).square().sum(1) / step
            log_ratio = with_energy * (model.energy(y, t) - model.energy(there, t))
            log_ratio = log_ratio + with_way * (z.square().sum(1) - back) / 2
            u = noise.stream.uniform(noise.rows, step=noise.step, draw=2 * move + 1)
            y = torch.where((u.log() < log_ratio).unsqueeze(1), there, y)
        return y

    assert torch.allclose(planted(1, 1), MetropolisLangevin(20, 2.5)(model, x, t, noise), rtol=1e-9, atol=1e-9)
    assert misfit(planted(1, 0), schedule, t) > 1
    assert misfit(planted(0, 1), schedule, t) > 1


def test_rows_at_levels_of_their_own_move_as_they_would_alone(energy: Callable[[Schedule], Known]) -> None:
    model = energy(VP())
    t = VP().time_of_sigma(torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64))
    x, stream, moves = model.sample(3, seed=0), Stream(0, "corrector"), MetropolisLangevin(4, 1.0)
    together = moves(model, x, t, Noise(stream, range(3), 2))
    for i in range(3):
        alone = moves(model, x[i : i + 1], t[i], Noise(stream, range(i, i + 1), 2))
        assert torch.allclose(together[i], alone[0], rtol=1e-10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_place_without_an_energy_is_never_entered(value: float) -> None:
    @dataclass(frozen=True)
    class Half(Width):
        def energy(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.where(x[:, 0] > 0, super().energy(x, t), value)

    x = Stream(0, "x").normal(500, (5,), dtype=torch.float64).abs()
    noise = Noise(Stream(0, "corrector"), range(500), 0)
    moved = MetropolisLangevin(10, 1.0).walk(Half(), x, torch.tensor(1.0, dtype=torch.float64), noise)[0]
    assert (moved[:, 0] > 0).all()
    assert not torch.equal(moved, x)


# -- faults -----------------------------------------------------------------------------------------------------------


def test_walks_that_cannot_be_are_refused() -> None:
    model, grid = Width(), torch.tensor([10.0, 1.0], dtype=torch.float64)
    for rows in (0, 1, range(3, 4)):
        with pytest.raises(SamplingError, match="an error bar needs 2 rows or more"):
            annealed_importance(model, rows, (5,), grid, seed=0)
    for wrong in (grid.flip(0), grid[:0], grid.expand(2, 2), torch.tensor([math.inf, 1.0])):
        with pytest.raises(SamplingError, match="falls from its first to its last"):
            annealed_importance(model, 4, (5,), wrong, seed=0)
    for steps, size in ((0, 0.5), (1, 0.0), (1, math.nan), (1, math.inf)):
        with pytest.raises(SamplingError, match="steps ≥ 1 and size > 0"):
            MetropolisLangevin(steps, size)


def test_an_energy_that_is_not_finite_names_its_row_and_level() -> None:
    @dataclass(frozen=True)
    class Broken(Width):
        def energy(self, x: Tensor, t: Tensor) -> Tensor:
            return super().energy(x, t) * (math.nan if float(t) < 5 else 1.0)

    grid = torch.tensor([10.0, 6.0, 2.0], dtype=torch.float64)
    with pytest.raises(SamplingError, match=r"row 7 .* not finite at level 2, t = 2"):
        annealed_importance(Broken(), range(7, 9), (5,), grid, seed=0)
