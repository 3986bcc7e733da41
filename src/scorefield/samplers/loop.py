"""The one loop of every sampler: at each level of a grid the corrector stays, then the predictor goes down.

x ~ N(0, α²σ_data² + σ²) at the first level;   at each t:  x ← corrector(x, t),  x ← predictor(x, t → s);
last, without noise:  x ← E[x0 given x]   (Tweedie)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.model import Denoiser
from scorefield.noise import Schedule
from scorefield.randomness import Noise, Stream

OnStep = Callable[[int, Tensor, Tensor], None]


class Predictor(Protocol):
    """A step down, from p_t to p_s with s < t."""

    def __call__(
        self, model: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Noise
    ) -> tuple[Tensor, Any]:
        """Move x from t to s.

        Args:
            model: the denoiser.
            x: (B, *shape), at t.
            t, s: the present and the next level, () float64.
            memory: what this predictor returned with the step before, None at first; multistep methods live on it.
            noise: the normals of this step.

        Returns:
            x at s, and the memory for the next step.
        """
        ...


class Corrector(Protocol):
    """A step that leaves p_t as it is and brings x closer to it."""

    def __call__(self, model: Denoiser, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Move x (B, *shape) within the level t, () float64."""
        ...


def sample(
    model: Denoiser,
    rows: int | range,
    shape: Sequence[int],
    grid: Tensor,
    predictor: Predictor | None,
    corrector: Corrector | None = None,
    *,
    seed: int,
    denoise: bool = True,
    start: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk from noise to data.

    Args:
        model: the denoiser; conditions are bound to it beforehand by `given`.
        rows: how many rows, or which: row i is the same whatever rows are drawn with it.
        shape: the shape of one row.
        grid: levels, (K,) float64, falling.
        predictor: the step down; None leaves x/α as it is between levels (annealed Langevin).
        corrector: steps at every level, or None.
        seed: of all randomness here.
        denoise: whether to end with E[x0 given x] at the last level; without it x is of that level.
        start: x at the first level, (B, *shape), instead of a draw.
        dtype, device: of the result.
        on_step: called as on_step(step, t, x) at each level that was reached.

    Returns:
        (B, *shape).

    Raises:
        SamplingError: for a grid that is empty or does not fall, and for values that are not finite.
    """
    _check_grid(grid)
    rows = range(rows) if isinstance(rows, int) else rows
    down, stay = Stream(seed, "predictor"), Stream(seed, "corrector")
    with torch.no_grad():
        x = first_draw(model, rows, shape, grid[0], seed=seed, dtype=dtype, device=device) if start is None else start
        memory = None
        for step, t in enumerate(grid):
            if corrector is not None:
                x = corrector(model, x, t, Noise(stay, rows, step))
            if on_step is not None:
                on_step(step, t, x)
            if step + 1 < len(grid):
                s = grid[step + 1]
                if predictor is None:
                    x = _keep(model.schedule, x, t, s)
                else:
                    x, memory = predictor(model, x, t, s, memory, Noise(down, rows, step))
        if denoise:
            x = model(x, grid[-1]).x0
    finite = x.isfinite().reshape(len(x), math.prod(shape)).all(1)
    if not finite.all():
        first = rows[int((~finite).nonzero()[0])]
        raise SamplingError(f"{int((~finite).sum())} of {len(rows)} rows are not finite, row {first} the first")
    return x


def first_draw(
    model: Denoiser,
    rows: range,
    shape: Sequence[int],
    t: Tensor,
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """x ~ N(0, α²σ_data² + σ²) at the level t, (len(rows), *shape)."""
    level = model.schedule.at(t)
    scale = torch.hypot(level.alpha * model.sigma_data, level.sigma)
    return Stream(seed, "first draw").normal(rows, shape, dtype=dtype, device=device) * scale.to(dtype).to(device)


def _keep(schedule: Schedule, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x with x/α as it was: the next level reads the same signal."""
    ratio = schedule.at(s).alpha / schedule.at(t).alpha
    return x * ratio.to(x.dtype).to(x.device)


def _check_grid(grid: Tensor) -> None:
    if grid.ndim != 1 or len(grid) < 1:
        raise SamplingError(f"a grid is a list of at least one level, got shape {tuple(grid.shape)}")
    if not grid.isfinite().all() or not (grid[1:] < grid[:-1]).all():
        raise SamplingError("a grid must fall from its first level to its last and be finite")
