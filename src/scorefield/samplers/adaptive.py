"""Adaptive samplers: the reverse SDE, and the probability flow, with the error of every row under control.

With the clock τ = α²/σ² and y = x α/σ², the reverse SDE of every schedule is one with a bounded drift and plain noise,

    dy = E[x0 given y] dτ + dw,   τ growing from noise to data,   y = 0 at τ = 0                               (1)

(stochastic localisation; Montanari 2023, arXiv:2305.10690, shows the two to be one). A step of h from τ and its check
are the embedded pair of Jolicoeur-Martineau et al. 2021, Algorithm 1, arXiv:2105.14080,

    y′ = y + h x̂0(y, τ) + Δw                               Euler–Maruyama, here DDPM's step
    y″ = y + ½h (x̂0(y, τ) + x̂0(y′, τ + h)) + Δw            stochastic improved Euler, which goes on             (2)
    E = ‖(z′ − z″)/max(ε_abs, ε_rel max(|z′|, |z′ before|))‖_q/n^{1/q};   accepted where E ≤ 1                  (3)
    h ← h · clip(0.9 E^{−r}, 0.2, 10)

with z = x/√(α²σ_d² + σ²), x in units of its level. They take the pair in x and t; in (1) the linear part is exact, so
that it costs no steps, and a flow may begin at α = 0. Other than theirs, too, a refused step's Δw is kept, and what
follows is drawn given it (`brownian`): large Δw are refused more often, and drawing anew makes them rarer than they
are, by a bias that grows as the tolerance falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.mixing import mix
from scorefield.model import Denoiser, of_places
from scorefield.noise import Schedule
from scorefield.ode import column
from scorefield.polar import radius
from scorefield.randomness import Noise, Stream
from scorefield.samplers.brownian import BrownianPaths
from scorefield.samplers.flow import probability_flow
from scorefield.samplers.loop import OnStep, first_draw


@dataclass(frozen=True)
class AdaptiveFlow:
    """The probability flow from the first draw down to t_min by Dormand & Prince's pair, then E[x0 given x].

    Args:
        tolerance: of a step, relative and absolute, in units of the data's deviation; the rows end about as far from
            the exact solution.
        name: as the command line calls it.
    """

    tolerance: float = 1e-3
    name: str = "adaptive"

    def __call__(
        self,
        model: Denoiser,
        rows: int | range,
        shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw rows of a shape, (B, *shape).

        Args:
            model: the denoiser, with conditions bound.
            rows: how many rows, or which.
            shape: of one row.
            seed: of the first draw.
            device: of the result.
            on_step: called before each attempt at a step as on_step(attempt, t, x, x0), t (B,) as rows have their own.
        """
        rows, schedule = range(rows) if isinstance(rows, int) else rows, model.schedule
        x = _first(model, rows, shape, seed, device)
        tolerance = self.tolerance
        return probability_flow(
            model, x, schedule.t_max, schedule.t_min, rtol=tolerance, atol=tolerance, rows=rows, on_step=on_step
        ).x0


@dataclass(frozen=True)
class AdaptiveSDE:
    """The reverse SDE from the first draw down to t_min by (2) and (3), then E[x0 given x].

    Args:
        tolerance: ε_rel.
        absolute: ε_abs; as the tolerance by default.
        q: of the norm in (3); the paper finds 2 better than ∞.
        exponent: r. Theirs is 0.9; E is as noisy as Δw, and the less steps follow it the fewer are refused, and the
            nearer the law is to p_t for as many evaluations.
        name: as the command line calls it.
    """

    tolerance: float = 0.02
    absolute: float | None = None
    q: float = 2.0
    exponent: float = 1 / 3
    name: str = "adaptive_sde"

    def __call__(
        self,
        model: Denoiser,
        rows: int | range,
        shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw rows of a shape, (B, *shape); arguments as for `AdaptiveFlow`."""
        rows, schedule = range(rows) if isinstance(rows, int) else rows, model.schedule
        x = _first(model, rows, shape, seed, device)
        found = self.walk(model, x, schedule.t_max, schedule.t_min, seed=seed, rows=rows, on_step=on_step)
        with torch.no_grad():
            x0: Tensor = model(found.x, schedule.t_min).x0
        if not x0.isfinite().all():
            place = int((~x0.reshape(len(x0), -1).isfinite().all(1)).nonzero()[0])
            raise SamplingError(f"row {rows[place]}: the last estimate, of x0, is not finite at t = {schedule.t_min:g}")
        return x0

    def walk(
        self,
        model: Denoiser,
        x: Tensor,
        t: float,
        s: float,
        *,
        seed: int,
        rows: range | None = None,
        max_attempts: int = 10_000,
        on_step: OnStep | None = None,
    ) -> Walked:
        """The reverse SDE from level t down to s.

        Args:
            model: the denoiser; conditions are bound to it beforehand by `given`.
            x: (B, *shape) at t.
            t, s: from where and to where, s < t.
            seed: of the noise. Attempt k of row i takes the same normals in any batch.
            rows: the numbers of the rows; 0 … B − 1 by default.
            max_attempts: of one row.
            on_step: called before each attempt as on_step(attempt, t, x, x0), with the time (B,) of each row.

        Returns:
            the rows at s.

        Raises:
            SamplingError: for settings and times that are none, and for rows that cannot go on.
        """
        self._check(model.schedule, t, s)
        names = range(len(x)) if rows is None else rows
        schedule, select, stream = model.schedule, of_places(model, len(x)), Stream(seed, "adaptive SDE")
        stop = float(schedule.at(s).snr)
        result, walk, paths = _begin(model, x, t, max(self.tolerance, self._least))
        attempt = 0
        with torch.no_grad():
            while len(walk.places):
                walk = _look(select, walk, result, names)
                if on_step is not None:
                    _write(result, walk)
                    on_step(attempt, result.t.clone(), result.x.clone(), result.x0.clone())
                last = walk.h >= 0.99 * (stop - walk.tau)
                h = torch.where(last, stop - walk.tau, walk.h)
                below = torch.where(last, s, schedule.time_of((walk.tau + h).log()))
                noise = Noise(stream, names, attempt).like(x)[walk.places]
                trial = _attempt(model, select(walk.places), walk, below, h, paths.over(h, noise))
                error = self._error(trial, walk.before)
                accepted = error <= 1
                paths.took(accepted)
                result.evaluations[walk.places] += 1
                result.accepted[walk.places] += accepted
                result.rejected[walk.places] += ~accepted
                factor = (0.9 * torch.exp(-self.exponent * error.clamp(min=1e-10).log())).clamp(0.2, 10.0)
                walk = walk.after(accepted, trial, h, factor)
                attempt += 1
                there = accepted & last
                stuck = ~accepted & (walk.h < 2.0**-40 * walk.tau)
                if stuck.any() or (attempt >= max_attempts and not there.all()):
                    why = "find every step refused" if stuck.any() else f"need more than {max_attempts} attempts"
                    lost = walk.of(stuck if stuck.any() else ~there)
                    raise SamplingError(
                        f"{len(lost.places)} of {len(names)} rows {why}, row {names[int(lost.places[0])]} the first, "
                        f"at t = {float(lost.t[0]):g}"
                    )
                if there.any():
                    _write(result, walk.of(there))
                    walk = walk.of(~there)
                    paths.keep(~there)
        return result

    @property
    def _least(self) -> float:
        return self.tolerance if self.absolute is None else self.absolute

    def _error(self, trial: _Trial, before: Tensor) -> Tensor:
        """E of (3), (b,) float64, infinite where it is none."""
        allowed = (self.tolerance * torch.maximum(trial.first.abs(), before.abs())).clamp(min=self._least)
        each = ((trial.first - trial.second) / allowed).double().abs()
        each = each.reshape(len(each), math.prod(each.shape[1:]))
        worst = each.amax(1) if math.isinf(self.q) else each.pow(self.q).mean(1).pow(1 / self.q)
        # Kept to single precision, so that the order in which a sum was taken does not reach the steps.
        return worst.float().double().nan_to_num(nan=math.inf, posinf=math.inf)

    def _check(self, schedule: Schedule, t: float, s: float) -> None:
        numbers = self.tolerance, self._least, self.q, self.exponent
        finite = 0 <= self.tolerance < math.inf and 0 < self._least < math.inf
        if not (finite and self.q >= 1 and 0 < self.exponent <= 1):
            raise SamplingError(
                "an adaptive SDE needs tolerance ≥ 0, absolute > 0, q ≥ 1 and an exponent in (0, 1], got "
                + ", ".join(f"{number:g}" for number in numbers)
            )
        if not schedule.t_min <= s < t <= schedule.t_max:
            raise SamplingError(
                f"the reverse SDE goes down between {schedule.t_max:g} and {schedule.t_min:g}, got from {t:g} to {s:g}"
            )


@dataclass(frozen=True, eq=False)
class Walked:
    """Where the reverse SDE has taken each row, and what that took.

    Args:
        x: (B, *shape).
        t: (B,) float64, where it is.
        x0: the last E[x0 given x] before.
        evaluations: of the model for each row, (B,) int64.
        accepted, rejected: steps of each row, (B,) int64.
    """

    x: Tensor
    t: Tensor
    x0: Tensor
    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor


@dataclass(frozen=True, eq=False)
class _Trial:
    """What an attempt found: x″, the time it is at, and z′ and z″ there."""

    x: Tensor
    t: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True, eq=False)
class _Walk:
    """The rows still on their way: each entry has one row of each."""

    places: Tensor
    x: Tensor
    x0: Tensor  # E[x0 given x], unless fresh
    before: Tensor  # z′ of the last accepted step
    t: Tensor
    tau: Tensor
    h: Tensor
    fresh: Tensor  # whether x has not been looked at

    def of(self, which: Tensor) -> _Walk:
        return _Walk(*(getattr(self, entry.name)[which] for entry in fields(self)))

    def after(self, accepted: Tensor, trial: _Trial, h: Tensor, factor: Tensor) -> _Walk:
        choose = column(accepted, self.x)
        return replace(
            self,
            x=torch.where(choose, trial.x, self.x),
            before=torch.where(choose, trial.first, self.before),
            t=torch.where(accepted, trial.t, self.t),
            tau=torch.where(accepted, self.tau + h, self.tau),
            h=h * factor,
            fresh=accepted,
        )


def _begin(model: Denoiser, x: Tensor, t: float, tolerance: float) -> tuple[Walked, _Walk, BrownianPaths]:
    places = torch.arange(len(x), device=x.device)
    zeros, level = torch.zeros_like(places), model.schedule.at(t, like=x)
    times = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
    tau = level.snr.expand(len(x))
    # In units of its level x moves by about h σ_d² in the first steps, if that is little and τ less.
    h = tolerance * torch.maximum(tau, torch.full_like(times, model.sigma_data**-2))
    z = x / radius(level, model.sigma_data).to(x.dtype)
    result = Walked(x.clone(), times.clone(), torch.zeros_like(x), zeros, zeros.clone(), zeros.clone())
    return result, _Walk(places, x, torch.zeros_like(x), z, times, tau, h, zeros == 0), BrownianPaths(x)


def _look(select: Callable[[Tensor], Denoiser], walk: _Walk, result: Walked, names: range) -> _Walk:
    """The rows with E[x0 given x] where it is not known yet."""
    if not walk.fresh.any():
        return walk
    new = walk if walk.fresh.all() else walk.of(walk.fresh)
    x0 = select(new.places)(new.x, new.t).x0
    broken = ~x0.reshape(len(x0), math.prod(x0.shape[1:])).isfinite().all(1)
    if broken.any():
        first = new.of(broken)
        raise SamplingError(
            f"{len(first.places)} of {len(names)} rows are not finite, row {names[int(first.places[0])]} the first, "
            f"in step {int(result.accepted[first.places[0]])}, level t = {float(first.t[0]):g}"
        )
    result.evaluations[new.places] += 1
    known = walk.x0.clone()
    known[walk.fresh] = x0
    return replace(walk, x0=known)


def _attempt(model: Denoiser, here: Denoiser, walk: _Walk, below: Tensor, h: Tensor, w: Tensor) -> _Trial:
    """(2), written for x = y σ²/α."""
    now, then = model.schedule.at(walk.t, like=walk.x), model.schedule.at(below, like=walk.x)
    unit = then.sigma**2 / then.alpha
    h = h.reshape(unit.shape)
    first = mix(unit * now.alpha / now.sigma**2, walk.x, unit * h, walk.x0) + unit.to(w.dtype) * w
    second = first + (unit * h / 2).to(w.dtype) * (here(first, below).x0 - walk.x0)
    r = radius(then, model.sigma_data).to(w.dtype)
    return _Trial(second, below, first / r, second / r)


def _write(result: Walked, walk: _Walk) -> None:
    result.x[walk.places], result.t[walk.places], result.x0[walk.places] = walk.x, walk.t, walk.x0


def _first(model: Denoiser, rows: range, shape: Sequence[int], seed: int, device: torch.device | str) -> Tensor:
    t = torch.tensor(model.schedule.t_max, dtype=torch.float64)
    return first_draw(model, rows, shape, t, seed=seed, dtype=torch.float32, device=device)
