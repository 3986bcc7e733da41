"""The one loop of every sampler: at each level of a grid the corrector stays, then the predictor goes down.

x ~ N(α μ, α²Σ + σ²I) at the first level;   at each t:  x ← corrector(x, t),  x ← predictor(x, t → s);
where the grid rises, t < s:  x ← x noised from t to s;   last, without noise:  x ← E[x0 given x]   (Tweedie)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.model import Denoiser
from scorefield.noise import Schedule, Time
from scorefield.randomness import Noise, Stream

# Called with step, t, x, and E[x0 given x] where the walk has asked for it.
OnStep = Callable[[int, Tensor, Tensor, Tensor | None], None]


class Predictor(Protocol):
    """A step down, from p_t to p_s with s < t."""

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Any, noise: Noise) -> tuple[Tensor, Any]:
        """Move x from t to s.

        Args:
            model: the denoiser.
            x: (B, *shape), at t.
            t, s: the present and the next level, which the loop has computed; a time () is as good.
            memory: what this predictor returned with the step before, None at first; multistep methods live on it.
            noise: the normals of this step.

        Returns:
            x at s, and the memory for the next step.
        """
        ...


class Corrector(Protocol):
    """A step that leaves p_t as it is and brings x closer to it."""

    def __call__(self, model: Denoiser, x: Tensor, t: Time, noise: Noise) -> Tensor:
        """Move x (B, *shape) within the level t, which the loop has computed; a time () is as good."""
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
    s_noise: float = 1.0,
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
        grid: levels of the schedule, (K,) float64, no two neighbours equal. From a level to a higher one x is noised
            again, with noise of its own and no evaluation, as churn, restarts and RePaint need it, and the predictor
            forgets its memory.
        predictor: the step down; None leaves x/α as it is between levels (annealed Langevin).
        corrector: steps at every level, or None.
        seed: of all randomness here.
        denoise: whether to end with E[x0 given x] at the last level, which then is the lowest; without it x is of that
            level.
        s_noise: the deviation of the noise where the grid rises, S_noise of Karras et al. 2022, arXiv:2206.00364; 1 is
            what takes p_t to p_s.
        start: x at the first level, (B, *shape), instead of a draw; the result is then of its type.
        dtype, device: of the first draw and the result, as the model takes them.
        on_step: called as on_step(step, t, x, x0) at each level when it is left, with E[x0 given x] where the walk has
            evaluated the model at x, as all predictors do, and None elsewhere: it costs no evaluation. x and x0 are the
            walk's own, to read and not to write to.

    Returns:
        (B, *shape).

    Raises:
        SamplingError: for a grid that is empty, leaves the schedule, stays where it is or does not end at its lowest
            level; for a start that is not of these rows, or not finite; and for values that are not finite, naming row,
            step and level. To find these, the walk is walked once more up to there: rows and noise are the same again,
            and a walk that goes well is not slowed down by any check on its way.
    """
    _check_grid(grid, denoise, model.schedule)
    if not 0 <= s_noise < math.inf:
        raise SamplingError(f"s_noise must be finite and not negative, got {s_noise}")
    rows = _check_rows(rows, shape, start)
    walk = _Walk(model, rows, grid, predictor, corrector, seed, denoise, s_noise)
    with torch.no_grad():
        x = first_draw(model, rows, shape, grid[0], seed=seed, dtype=dtype, device=device) if start is None else start
        end = walk(x, on_step)
        if not end.isfinite().all():
            broken = _broken(end)
            # Raises at the first level that is not finite; if there is none, it was the last estimate of x0.
            walk(x, _refuse(rows, len(broken)))
            raise _not_finite(rows, broken, len(broken), len(grid) - 1, grid[-1], "in the last estimate, of x0, after")
    return end


@dataclass(frozen=True, eq=False)
class _Walk:
    """A walk down a grid, which can be walked again from the same x and is then the same."""

    model: Denoiser
    rows: range
    grid: Tensor
    predictor: Predictor | None
    corrector: Corrector | None
    seed: int
    denoise: bool
    s_noise: float

    def __call__(self, x: Tensor, on_step: OnStep | None) -> Tensor:
        model, down, stay, up = self.model, *(Stream(self.seed, n) for n in ("predictor", "corrector", "renoise"))
        memory, last = None, len(self.grid) - 1
        levels = model.schedule.at(self.grid).each()
        rises = [s > t for t, s in pairwise(self.grid.tolist())]
        seen: list[Tensor] = []

        def listen(module: Any, inputs: tuple[Any, ...], estimate: Any) -> None:
            if inputs and inputs[0] is x and not seen:
                seen.append(estimate.x0)

        ear = None if on_step is None else model.register_forward_hook(listen)
        try:
            for step, t in enumerate(levels):
                if self.corrector is not None:
                    x = self.corrector(model, x, t, Noise(stay, self.rows, step))
                    seen.clear()
                if step == last:
                    after = model(x, t).x0 if self.denoise else x
                elif rises[step]:
                    z = Noise(up, self.rows, step).like(x)
                    z = z if self.s_noise == 1 else self.s_noise * z
                    after = model.schedule.renoise(x, t, levels[step + 1], z)
                    memory = None
                elif self.predictor is None:
                    after = x * float(levels[step + 1].alpha / t.alpha)  # the next level reads the same signal
                else:
                    noise = Noise(down, self.rows, step)
                    after, memory = self.predictor(model, x, t, levels[step + 1], memory, noise)
                if on_step is not None:
                    on_step(step, t.t, x, seen[0] if seen else None)
                    seen.clear()
                x = after
        finally:
            if ear is not None:
                ear.remove()
        return x


def _refuse(rows: range, count: int) -> OnStep:
    """What raises at the first level at which a row is not finite; so many are at the end."""

    def check(step: int, t: Tensor, x: Tensor, x0: Tensor | None) -> None:
        broken = _broken(x)
        if len(broken):
            raise _not_finite(rows, broken, count, step, t, "from")

    return check


def _broken(x: Tensor) -> Tensor:
    """Which rows are not finite."""
    return (~x.isfinite().reshape(len(x), math.prod(x.shape[1:])).all(1)).nonzero().flatten()


def _not_finite(rows: range, broken: Tensor, count: int, step: int, t: Tensor, where: str) -> SamplingError:
    return SamplingError(
        f"{count} of {len(rows)} rows are not finite, row {rows[int(broken[0])]} the first, "
        f"{where} step {step}, level t = {float(t):g}"
    )


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
    """x ~ N(α μ, α²Σ + σ²I) at the level t, with the mean and covariance of the data, (len(rows), *shape)."""
    z = Stream(seed, "first draw").normal(rows, shape, dtype=dtype, device=device)
    return from_normal(model, z, t)


def from_normal(model: Denoiser, z: Tensor, t: Time) -> Tensor:
    """α μ + (α²Σ + σ²I)^{½} z at one level: the Gaussian that data are taken for where noise drowns them."""
    level, exact = model.schedule.at(t), z.double()  # in float64, as rounded products differ between batches
    moments = model.terminal.to(exact)
    spread = moments.apply(lambda variance: (level.alpha**2 * variance + level.sigma**2).sqrt(), exact)
    return (spread + level.alpha.to(exact) * moments.mean).to(z)


def to_normal(model: Denoiser, x: Tensor, t: Time) -> Tensor:
    """The inverse of `from_normal`."""
    level, exact = model.schedule.at(t), x.double()
    moments = model.terminal.to(exact)
    centred = exact - level.alpha.to(exact) * moments.mean
    return moments.apply(lambda variance: (level.alpha**2 * variance + level.sigma**2).rsqrt(), centred).to(x)


def _check_rows(rows: int | range, shape: Sequence[int], start: Tensor | None) -> range:
    """The rows as a range."""
    if not isinstance(rows, range):
        if rows < 0:
            raise SamplingError(f"there is no drawing {rows} rows")
        rows = range(rows)
    if start is None:
        return rows
    if start.shape != (len(rows), *shape) or not start.is_floating_point():
        raise SamplingError(
            f"a start is x of these rows, {(len(rows), *shape)} of a floating type, got {tuple(start.shape)} of "
            f"{start.dtype}"
        )
    broken = _broken(start)
    if len(broken):
        raise SamplingError(
            f"{len(broken)} of {len(rows)} rows of the start are not finite, row {rows[int(broken[0])]} first"
        )
    return rows


def _check_grid(grid: Tensor, denoise: bool, schedule: Schedule) -> None:
    if grid.ndim != 1 or len(grid) < 1:
        raise SamplingError(f"a grid is a list of at least one level, got shape {tuple(grid.shape)}")
    levels, slack = grid.tolist(), 1e-9 * (schedule.t_max - schedule.t_min)  # levels come from inverses, to rounding
    lowest, highest = min(0.0, schedule.t_min) - slack, schedule.t_max + slack
    for place, (t, s) in enumerate(pairwise((*levels, math.inf))):
        if not math.isfinite(t):
            raise SamplingError(f"a grid is finite, got {t:g}")
        if not lowest <= t <= highest:
            raise SamplingError(f"a grid stays between clean data and t = {schedule.t_max:g}, got {t:g}")
        if s == t:
            raise SamplingError(f"a grid goes down or up, never stays: levels {place} and {place + 1} are {t:g}")
    if denoise and levels[-1] > min(levels):
        raise SamplingError(
            f"a walk to clean data ends at its lowest level, got {levels[-1]:g} at the end and {min(levels):g} before"
        )
