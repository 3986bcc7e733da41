"""Rows varied from a level: what is left of them depends on the level, and each row has its own noise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.exact import GaussianMixture
from scorefield.noise import EDM, VP, Schedule
from scorefield.samplers.edit import starting_at, vary
from scorefield.samplers.grids import churn, geometric
from scorefield.samplers.loop import Predictor
from scorefield.samplers.multistep import ExponentialAdams
from scorefield.samplers.predictors import Ancestral

Mixture = Callable[[Schedule], GaussianMixture]
Misfit = Callable[..., float]
SOLVER = ExponentialAdams(3)


def test_at_the_top_the_data_are_forgotten_and_at_the_bottom_kept(
    mixture: Mixture, misfit: Misfit, schedule: Schedule
) -> None:
    # At t_max with σ/α ≥ 80 the rows are new draws (H₀: of p_0, false alarm below 1e-5, see `misfit`) although all
    # start from one point; caught where the level is too low for that.
    model, grid = mixture(schedule), geometric(schedule, 40)
    x0 = torch.tensor([[1.0, 0.2]], dtype=torch.float64).expand(3000, 2)
    for t, forgotten in ((schedule.t_max, True), (float(schedule.time_of_sigma(0.5)), False)):
        assert (misfit(vary(model, x0, t, grid, SOLVER, seed=0)) < 1) == forgotten
    kept = vary(model, x0, schedule.t_min, grid, SOLVER, seed=0)
    assert float((kept - x0).square().mean().sqrt()) < 1.5 * 0.03


def test_data_stay_data_at_any_level(mixture: Mixture, misfit: Misfit, schedule: Schedule) -> None:
    # Noised and walked down again, draws of p_0 are draws of p_0, and as far from where they were as the level is high.
    model, grid = mixture(schedule), geometric(schedule, 40)
    x0 = model.sample(3000, seed=1)
    moved = []
    for sigma in (0.1, 0.5, 2.0):
        x = vary(model, x0, float(schedule.time_of_sigma(sigma)), grid, SOLVER, seed=0)
        assert misfit(x) < 1
        moved.append(float((x - x0).square().mean().sqrt()))
    assert moved[0] < 0.15
    assert moved == sorted(moved)


@pytest.mark.parametrize("predictor", [Ancestral(), Ancestral(0.0)])
def test_row_i_is_the_same_whatever_is_varied_with_it(mixture: Mixture, predictor: Predictor) -> None:
    model = mixture(VP(t_min=0.01))
    x0, grid = model.sample(40, seed=2), geometric(VP(t_min=0.01), 12)

    def rows(which: range) -> Tensor:
        return vary(model, x0[which.start : which.stop], 0.3, grid, predictor, seed=3, rows=which)

    parts = torch.cat([rows(range(0, 1)), rows(range(1, 17)), rows(range(17, 40))])
    assert torch.equal(parts, rows(range(40)))
    same = vary(model, x0[:1].expand(40, 2), 0.3, grid, predictor, seed=3)
    assert len(same.unique(dim=0)) == 40


def test_a_grid_is_cut_where_it_passes_the_level() -> None:
    grid = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    assert starting_at(grid, 8.0).tolist() == [8, 4, 2, 1]
    assert starting_at(grid, 3.0).tolist() == [3, 2, 1]
    assert starting_at(grid, 2.0).tolist() == [2, 1]
    assert starting_at(grid, 1.0).tolist() == [1]
    assert starting_at(grid, 9.0).tolist() == [9, 8, 4, 2, 1]  # as for a flow at α = 0, where no grid begins
    rising = torch.tensor([8.0, 2.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    assert starting_at(rising, 3.0).tolist() == [3, 2, 3, 2, 1]  # not above, which would forget more than asked
    assert starting_at(rising, 2.0).tolist() == [2, 1]
    churned = churn(EDM(1, 8), grid, 0.4 * len(grid))
    assert starting_at(churned, 3.0).tolist()[0] == 3


def test_a_level_below_the_grid_is_refused() -> None:
    grid = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    for t in (0.5, float("nan")):
        with pytest.raises(SamplingError, match=f"not below all levels of the grid, 1, got t = {t:g}"):
            starting_at(grid, t)
    with pytest.raises(SamplingError, match="none, got t = 1"):
        starting_at(grid[:0], 1.0)
