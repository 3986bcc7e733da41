"""Rows varied: noised up to a level and walked down again, so that what is coarser than the level stays as it was.

SDEdit (Meng et al. 2021, arXiv:2108.01073): x_t = α x0 + σ ε at a level t of choice, then any sampler from there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.model import Denoiser
from scorefield.randomness import Stream
from scorefield.samplers.loop import Corrector, OnStep, Predictor, sample


def vary(
    model: Denoiser,
    x0: Tensor,
    t: float,
    grid: Tensor,
    predictor: Predictor | None,
    corrector: Corrector | None = None,
    *,
    seed: int,
    rows: range | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Noise data up to t and walk down a grid from there.

    Args:
        model: the denoiser; conditions are bound to it beforehand by `given`.
        x0: data, (B, *shape); of another kind than the model's, too, as sketches are for photographs.
        t: the level. At t_max hardly anything of x0 is left, at t_min hardly anything is changed.
        grid: of any sampler, levels (K,) float64; what lies above t is left out.
        predictor, corrector, on_step: as in `loop.sample`.
        seed: of the noise of the start and of the way.
        rows: the numbers of the rows; 0 … B − 1 by default. Row i has its own noise in any batch.

    Returns:
        (B, *shape).

    Raises:
        SamplingError: as `loop.sample`, and for a level that the grid does not reach down from.
    """
    names = range(len(x0)) if rows is None else rows
    epsilon = Stream(seed, "vary").normal(names, x0.shape[1:], dtype=x0.dtype, device=x0.device)
    below = starting_at(grid, t)
    start = model.schedule.add_noise(x0, t, epsilon)
    return sample(
        model,
        names,
        x0.shape[1:],
        below,
        predictor,
        corrector,
        seed=seed,
        start=start,
        dtype=x0.dtype,
        device=x0.device,
        on_step=on_step,
    )


def starting_at(grid: Tensor, t: float) -> Tensor:
    """A grid that starts at t and goes on with the levels below, (K′,) float64; none of its rises leads above t.

    Args:
        grid: levels, (K,) float64, falling or with rises.
        t: not below all levels.

    Raises:
        SamplingError: for a t that is.
    """
    reached = (grid <= t).nonzero().flatten()
    if not len(reached):
        lowest = f"{float(grid.min()):g}" if len(grid) else "none"
        raise SamplingError(f"a level to start at is not below all levels of the grid, {lowest}, got t = {t:g}")
    rest = grid[int(reached[0]) :]
    rest = rest.clamp(max=t)
    rest = rest[torch.cat((rest.new_ones(1, dtype=torch.bool), rest.diff() != 0))]
    return rest if rest[0] == t else torch.cat((torch.tensor([t], dtype=grid.dtype, device=grid.device), rest))
