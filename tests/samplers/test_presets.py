"""Presets by name: the newer ones reach the mixture with their usual settings, row by row, and are what they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from scorefield.exact import GaussianMixture
from scorefield.noise import EDM, VP, Schedule
from scorefield.samplers.presets import SAMPLERS, AnySampler, Sampler, restart, straight_adams, walk_back

Mixture = Callable[[Schedule], GaussianMixture]
Misfit = Callable[..., float]
NEWER = ("straight_adams", "adaptive", "adaptive_sde", "restart", "walk_back")
ROWS = 2000


@pytest.mark.parametrize("name", NEWER)
def test_usual_settings_reach_the_mixture(mixture: Mixture, misfit: Misfit, schedule: Schedule, name: str) -> None:
    # H₀: rows are draws of p_0 (false alarm below 1e-5 each, see `misfit`). E[x0 given x] at σ/α = 0.03 is narrower
    # than data by the share (0.03/0.22)² in the narrowest direction, which 2000 rows do not show.
    assert misfit(SAMPLERS[name]()(mixture(schedule), ROWS, (2,), seed=0)) < 1


@pytest.mark.parametrize("sampler", [straight_adams(4), restart(3, times=1), walk_back(3, moves=1, inner=1)])
def test_too_few_steps_are_caught(mixture: Mixture, misfit: Misfit, sampler: Sampler) -> None:
    assert misfit(sampler(mixture(EDM(0.03, 80.0)), ROWS, (2,), seed=0)) > 1


@pytest.mark.parametrize("name", NEWER)
def test_row_i_is_the_same_whatever_is_drawn_with_it(mixture: Mixture, name: str) -> None:
    model, sampler = mixture(VP(t_min=0.01)), SAMPLERS[name]()
    whole = sampler(model, 20, (2,), seed=3)
    parts = [sampler(model, part, (2,), seed=3) for part in (range(0, 1), range(1, 13), range(13, 20))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)
    assert len(whole.unique(dim=0)) == 20
    assert not torch.allclose(whole, sampler(model, 20, (2,), seed=4), atol=1e-2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_preset_has_the_name_it_is_called_by(name: str) -> None:
    sampler: AnySampler = SAMPLERS[name]()
    assert sampler.name == name


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("steps", [2, 3, 18])
def test_restarts_rise_so_often_and_end_at_the_lowest_level(schedule: Schedule, times: int, steps: int) -> None:
    grid, predictor, corrector = restart(steps, times).parts(schedule)
    assert predictor is not None
    assert corrector is None
    assert int((grid.diff() > 0).sum()) == times
    level = schedule.at(grid)
    sigma = level.sigma / level.alpha
    risen = sigma[1:][grid.diff() > 0]
    torch.testing.assert_close(risen, torch.ones(times, dtype=torch.float64), rtol=1e-6, atol=0)
    assert float(grid[-1]) == float(grid.min()) == pytest.approx(schedule.t_min, rel=1e-6)


def test_walk_back_asks_so_often(mixture: Mixture) -> None:
    model, asked = mixture(EDM(0.03, 80.0)), list[int]()
    handle = model.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
    walk_back(5, moves=3, inner=4)(model, 2, (2,), seed=0)
    handle.remove()
    # A reconstruction of 4 steps asks 4 times; the last level is the end of the walk and asked once more.
    assert len(asked) == pytest.approx(5 * 3 * 4 + 1, abs=5 * 3)
